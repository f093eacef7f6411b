#include "protocol/join_fsm.hpp"

#include <array>
#include <catch2/catch.hpp>

using namespace lockstep;
using std::chrono::milliseconds;

namespace {

const participant a{1, {1, 1}}, b{2, {2, 2}};
const txn_ref txn{1, 5};
const digest proof{7, 7};
const time_point start{};

round_spec round(round_kind kind, std::uint32_t number = 0, std::vector<participant> who = {a, b}) {
  return {9, txn, number, kind, std::move(who), proof, start + milliseconds(100)};
}

reply_msg reply(const participant& p, reply_kind kind, std::uint32_t number = 0) {
  return {{9, txn, p.inc}, p.id, number, kind, errc::none, {}, proof};
}

}  // namespace

TEST_CASE("join: emits once, when everybody has exactly one status") {
  join_fsm j;
  CHECK_FALSE(j.on_open(round(round_kind::vote)));
  CHECK_FALSE(j.on_reply(reply(a, reply_kind::vote_yes)));
  auto no = reply(b, reply_kind::vote_no);
  no.reason = errc::no_memory;
  const auto r = j.on_reply(no);
  REQUIRE(r);
  CHECK(r->outcomes[0].status == terminal::ok);
  CHECK(r->outcomes[1].status == terminal::no);
  CHECK(r->outcomes[1].reason == errc::no_memory);
  CHECK_FALSE(j.deadline());
  CHECK_FALSE(j.on_reply(no));
  CHECK_FALSE(j.on_down(a, errc::dead));
  CHECK_FALSE(j.on_tick(start + milliseconds(500)));
}

TEST_CASE("join: the first status stands") {
  join_fsm j;
  j.on_open(round(round_kind::vote));
  j.on_reply(reply(a, reply_kind::vote_no));
  CHECK_FALSE(j.on_reply(reply(a, reply_kind::vote_yes)));
  CHECK(j.ignored() == 1);
  const auto r = j.on_reply(reply(b, reply_kind::vote_yes));
  REQUIRE(r);
  CHECK(r->outcomes[0].status == terminal::no);
}

TEST_CASE("join: replies from elsewhere, of another time or to another question do not count") {
  join_fsm j;
  const auto good = reply(a, reply_kind::ack, 1);
  CHECK_FALSE(j.on_reply(good));  // nothing is open
  j.on_open(round(round_kind::commit, 1, {a}));
  auto m = good;
  m.env.cluster = 8;
  CHECK_FALSE(j.on_reply(m));
  m = good;
  m.env.txn.seq = 4;
  CHECK_FALSE(j.on_reply(m));
  m = good;
  m.env.txn.run = 2;
  CHECK_FALSE(j.on_reply(m));
  m = good;
  m.env.inc = b.inc;
  CHECK_FALSE(j.on_reply(m));
  m = good;
  m.id = b.id;
  CHECK_FALSE(j.on_reply(m));
  m = good;
  m.round = 0;
  CHECK_FALSE(j.on_reply(m));
  CHECK(j.ignored() == 7);
  CHECK(j.on_reply(good));
}

TEST_CASE("join: each question has its own answers") {
  const auto kind = GENERATE(round_kind::attach, round_kind::full, round_kind::vote,
                             round_kind::commit, round_kind::redo);
  const std::array<std::array<reply_kind, 2>, 5> fits{
      {{reply_kind::attached, reply_kind::need_full},
       {reply_kind::full_ok, reply_kind::full_fail},
       {reply_kind::vote_yes, reply_kind::vote_no},
       {reply_kind::ack, reply_kind::nack},
       {reply_kind::ack, reply_kind::nack}}};
  const auto& mine = fits.at(static_cast<std::size_t>(kind));
  for (int i = 0; i <= static_cast<int>(reply_kind::last_); ++i) {
    const auto answer = static_cast<reply_kind>(i);
    join_fsm j;
    j.on_open(round(kind, 0, {a}));
    const auto r = j.on_reply(reply(a, answer));
    CHECK(r.has_value() == (answer == mine[0] || answer == mine[1]));
    if (r) CHECK((r->outcomes[0].status == terminal::ok) == (answer == mine[0]));
    if (r && answer == mine[1])
      CHECK(
          r->outcomes[0].status ==
          (kind == round_kind::attach || kind == round_kind::vote ? terminal::no : terminal::nack));
  }
}

TEST_CASE("join: an ok whose proof does not hold is a false_ack") {
  const auto kind =
      GENERATE(round_kind::attach, round_kind::full, round_kind::commit, round_kind::redo);
  join_fsm j;
  j.on_open(round(kind, 0, {a}));
  auto m = reply(a, kind == round_kind::attach ? reply_kind::attached
                    : kind == round_kind::full ? reply_kind::full_ok
                                               : reply_kind::ack);
  m.proof = {8, 7};
  const auto r = j.on_reply(m);
  REQUIRE(r);
  CHECK(r->outcomes[0].status == terminal::nack);
  CHECK(r->outcomes[0].reason == errc::false_ack);
  CHECK_FALSE(j.all_ok(txn, {a}));
}

TEST_CASE("join: who takes a part proves that part, and no other and not all") {
  const auto kind =
      GENERATE(round_kind::attach, round_kind::full, round_kind::commit, round_kind::redo);
  const auto said = kind == round_kind::attach ? reply_kind::attached
                    : kind == round_kind::full ? reply_kind::full_ok
                                               : reply_kind::ack;
  const participant c{3, {3, 3}};
  const digest of_a{1, 1}, of_b{2, 2};
  const auto status = [&](const participant& who, const digest& proven) {
    join_fsm j;
    auto spec = round(kind, 0, {who});
    spec.part_proofs = {{a, of_a}, {b, of_b}};
    j.on_open(std::move(spec));
    auto m = reply(who, said);
    m.proof = proven;
    const auto r = j.on_reply(m);
    REQUIRE(r);
    if (r->outcomes[0].status != terminal::ok) CHECK(r->outcomes[0].reason == errc::false_ack);
    return r->outcomes[0].status;
  };
  CHECK(status(a, of_a) == terminal::ok);
  CHECK(status(b, of_b) == terminal::ok);
  CHECK(status(c, proof) == terminal::ok);
  for (const auto& other : {of_b, proof, digest{}}) CHECK(status(a, other) == terminal::nack);
  for (const auto& other : {of_a, of_b}) CHECK(status(c, other) == terminal::nack);
  // It is that life's.
  CHECK(status({a.id, {9, 9}}, of_a) == terminal::nack);
  CHECK(status({a.id, {9, 9}}, proof) == terminal::ok);
}

TEST_CASE("join: a vote proves nothing and needs no proof") {
  join_fsm j;
  j.on_open(round(round_kind::vote, 0, {a}));
  auto m = reply(a, reply_kind::vote_yes);
  m.proof = {};
  CHECK(j.on_reply(m)->outcomes[0].status == terminal::ok);
  CHECK_FALSE(j.all_ok(txn, {a}));
}

TEST_CASE("join: silence is a failure at the deadline, and not before") {
  join_fsm j;
  j.on_open(round(round_kind::commit, 1));
  j.on_reply(reply(a, reply_kind::ack, 1));
  CHECK(j.deadline() == start + milliseconds(100));
  CHECK_FALSE(j.on_tick(start + milliseconds(99)));
  const auto r = j.on_tick(start + milliseconds(100));
  REQUIRE(r);
  CHECK(r->outcomes[0].status == terminal::ok);
  CHECK(r->outcomes[1].status == terminal::timeout);
  CHECK(r->outcomes[1].reason == errc::timeout);
}

TEST_CASE("join: a deadline may come nearer, of that round only, and not recede") {
  join_fsm j;
  const auto spec = round(round_kind::attach);
  j.on_open(spec);
  const auto sooner = spec.deadline - std::chrono::milliseconds(1);
  j.on_hurry({{spec.txn.run, spec.txn.seq + 1}, spec.number, sooner});
  j.on_hurry({spec.txn, spec.number + 1, sooner});
  j.on_hurry({spec.txn, spec.number, spec.deadline + std::chrono::seconds(1)});
  CHECK(j.deadline() == spec.deadline);
  j.on_hurry({spec.txn, spec.number, sooner});
  CHECK(j.deadline() == sooner);
  const auto late = j.on_tick(sooner);
  REQUIRE(late);
  CHECK(late->outcomes.front().status == terminal::timeout);
  j.on_hurry({spec.txn, spec.number, sooner});
  CHECK_FALSE(j.deadline());
}

TEST_CASE("join: the end of a life settles it, of that life only") {
  join_fsm j;
  CHECK_FALSE(j.on_down(a, errc::dead));
  j.on_open(round(round_kind::vote, 0, {a}));
  CHECK_FALSE(j.on_down({a.id, b.inc}, errc::dead));
  const auto r = j.on_down(a, errc::restarted);
  REQUIRE(r);
  CHECK(r->outcomes[0].status == terminal::dead);
  CHECK(r->outcomes[0].reason == errc::restarted);
}

TEST_CASE("join: all_ok counts proven acks of one transaction, over all its rounds") {
  join_fsm j;
  CHECK(j.all_ok(txn, {}));
  j.on_open(round(round_kind::commit, 1));
  j.on_reply(reply(a, reply_kind::ack, 1));
  CHECK(j.all_ok(txn, {a}));
  CHECK_FALSE(j.all_ok(txn, {a, b}));
  CHECK_FALSE(j.all_ok({1, 4}, {a}));
  CHECK(j.on_reply(reply(b, reply_kind::nack, 1)));
  CHECK_FALSE(j.all_ok(txn, {a, b}));
  j.on_open(round(round_kind::redo, 2, {b}));
  CHECK(j.on_reply(reply(b, reply_kind::ack, 2)));
  CHECK(j.all_ok(txn, {a, b}));
  auto next = round(round_kind::commit, 1, {b});
  next.txn = {1, 6};
  j.on_open(next);
  CHECK_FALSE(j.all_ok({1, 6}, {a}));
  CHECK_FALSE(j.all_ok(txn, {a}));
}

TEST_CASE("join: a round without participants is complete; details are bounded") {
  join_fsm j;
  CHECK(j.on_open(round(round_kind::vote, 0, {})));
  j.on_open(round(round_kind::vote, 0, {a}));
  auto m = reply(a, reply_kind::vote_no);
  m.detail.assign(reply_detail_max + 1, 'x');
  CHECK(j.on_reply(m)->outcomes[0].detail.size() == reply_detail_max);
}
