#include "protocol/sync_fsm.hpp"

#include <catch2/catch.hpp>

#include "protocol/deadlines.hpp"

using namespace lockstep;
using std::chrono::milliseconds;
namespace act = sync_action;

namespace {

const digest d0{10, 10}, d1{20, 20}, proof{7, 7};
const time_point t0 = time_point{} + milliseconds(1000);
const participant a{1, {1, 1}}, b{2, {2, 2}}, c{3, {3, 3}};

template <class T>
const T* find(const act::list& l) {
  for (const auto& x : l)
    if (const auto* t = std::get_if<T>(&x)) return t;
  return nullptr;
}

template <class T>
std::size_t count(const act::list& l) {
  std::size_t n = 0;
  for (const auto& x : l) n += std::holds_alternative<T>(x);
  return n;
}

outcome said(const participant& p, terminal status, errc reason = errc::none) {
  return {p, status, reason, {}};
}
outcome yes(const participant& p) {
  return said(p, terminal::ok);
}

struct fixture {
  settings s;
  sync_fsm f{9, 1, d0, 0, 1000, s};
  std::uint64_t seq = 0;

  void reset() { f = sync_fsm(9, 1, d0, 0, 1000, s); }
  act::list round(round_kind kind, std::uint32_t number, std::vector<outcome> o) {
    return f.on_round(t0, {{1, seq}, number, kind, std::move(o)});
  }
  act::list attach(std::vector<outcome> o) {
    f.on_proof(t0, {1, ++seq}, 5, proof);
    return round(round_kind::attach, 0, std::move(o));
  }
  /// Members 1 to `n`.
  void members(std::size_t n) {
    const std::vector<participant> all{a, b, c};
    for (std::size_t i = 0; i < n; ++i) {
      f.on_admit(t0, all[i]);
      REQUIRE(find<act::admitted>(attach({yes(all[i])})));
    }
    REQUIRE(f.members().size() == n);
  }
  act::list proven() { return f.on_delta_proven(t0, {1, seq}, 6, proof); }
  act::list encoded(std::uint64_t bytes = 100) {
    auto out = f.on_encoded(t0, {1, ++seq}, bytes, d1);
    for (auto& x : proven()) out.push_back(std::move(x));
    return out;
  }
  act::list vote(std::vector<outcome> o) { return round(round_kind::vote, 0, std::move(o)); }
  act::list acks(std::vector<outcome> o, std::uint32_t number = 1) {
    return round(number == 1 ? round_kind::commit : round_kind::redo, number, std::move(o));
  }
  void voting(std::size_t n) {
    members(n);
    REQUIRE(find<act::encode>(f.on_sync(t0, 42)));
    REQUIRE(find<act::ship_delta>(encoded()));
  }
  act::list advanced() { return f.on_advanced(t0, {1, seq}); }
  const sync_report& report(const act::list& l) {
    const auto* x = find<act::finish>(l);
    REQUIRE(x);
    return x->report;
  }
};

}  // namespace

TEST_CASE_METHOD(fixture, "sync: boots from a frozen copy and assumes nothing about receivers") {
  CHECK(f.members().empty());
  CHECK(f.snapshot().version == version_ref{1, 0});
  CHECK(sync_fsm(9, 1, d0, 17, 1000, s).snapshot().label == 17);
  CHECK_FALSE(f.deadline());
  f.on_sync(t0, 1);
  const auto r = report(encoded());
  CHECK(r.result == sync_result::aborted);
  CHECK(r.reason == errc::too_few_members);
}

TEST_CASE_METHOD(fixture, "sync: all vote, all acknowledge, the snapshot advances, ok") {
  voting(2);
  const auto decided = vote({yes(a), yes(b)});
  CHECK(find<act::open_round>(decided)->spec.proof == proof);
  CHECK(find<act::send_commit>(decided)->round == 1);
  CHECK(find<act::send_commit>(decided)->challenge == 6);
  CHECK(f.snapshot().version == version_ref{1, 0});
  const auto done = acks({yes(a), yes(b)});
  CHECK(find<act::conclude>(done)->view.size() == 2);
  CHECK(f.snapshot().version == version_ref{1, 0});
  CHECK(f.on_advanced(t0, {1, 1}).empty());
  const auto last = advanced();
  CHECK(find<act::release>(last));
  const auto r = report(last);
  CHECK(r.result == sync_result::ok);
  CHECK(r.reason == errc::none);
  CHECK(r.label == 42);
  CHECK(r.base == version_ref{1, 0});
  CHECK(r.target == version_ref{1, seq});
  CHECK(f.snapshot().version == r.target);
  REQUIRE(r.participants.size() == 2);
  CHECK(r.participants[0].member);
  CHECK(r.participants[0].version == r.target);
  CHECK_FALSE(f.busy());
}

TEST_CASE_METHOD(fixture, "sync: events of another transaction, round or phase are ignored") {
  members(1);
  f.on_sync(t0, 1);
  CHECK(f.on_encoded(t0, {1, 99}, 1, d1).empty());
  CHECK(f.on_delta_proven(t0, {1, seq + 1}, 5, proof).empty());  // of what is not encoded yet
  CHECK(f.on_encode_failed(t0, {1, 99}, errc::bad_input, {}).empty());
  encoded();
  CHECK(f.on_encoded(t0, {1, seq}, 1, d1).empty());
  CHECK(f.on_delta_proven(t0, {1, 99}, 5, proof).empty());
  CHECK(f.on_encode_failed(t0, {1, seq}, errc::bad_input, {}).empty());
  CHECK(f.on_round(t0, {{1, seq - 1}, 0, round_kind::vote, {yes(a)}}).empty());
  CHECK(round(round_kind::vote, 1, {yes(a)}).empty());
  CHECK(round(round_kind::attach, 0, {yes(a)}).empty());
  CHECK(round(round_kind::commit, 0, {yes(a)}).empty());
  CHECK(f.on_proof(t0, {1, seq}, 5, proof).empty());
  CHECK(f.on_full_encoded(t0, {1, seq}, 1, 5, proof).empty());
  CHECK(advanced().empty());
  CHECK(f.on_advance_failed(t0, {1, seq}, {}).empty());
  vote({yes(a)});
  CHECK(vote({yes(a)}).empty());
  CHECK(round(round_kind::vote, 1, {yes(a)}).empty());
  CHECK(acks({yes(a)}, 2).empty());
  CHECK(f.phase() == sync_phase::committing);
}

TEST_CASE_METHOD(fixture, "sync: answers to another question than an admission asks are ignored") {
  f.on_admit(t0, a);
  f.on_proof(t0, {1, ++seq}, 5, proof);
  CHECK(round(round_kind::full, 0, {yes(a)}).empty());
  CHECK(round(round_kind::vote, 0, {yes(a)}).empty());
  CHECK(f.phase() == sync_phase::attaching);
  round(round_kind::attach, 0, {said(a, terminal::no, errc::behind)});
  f.on_full_encoded(t0, {1, ++seq}, 100, 5, proof);
  CHECK(round(round_kind::attach, 0, {yes(a)}).empty());
  CHECK(f.phase() == sync_phase::seeding);
}

TEST_CASE_METHOD(fixture, "sync: every attempt has a fresh number") {
  voting(1);
  vote({said(a, terminal::no, errc::no_memory)});
  f.on_sync(t0, 2);
  CHECK(find<act::ship_delta>(encoded())->txn.seq == seq);
}

TEST_CASE_METHOD(fixture, "sync: one in flight; a second is refused with a report of its own") {
  voting(1);
  const auto r = report(f.on_sync(t0, 43));
  CHECK(r.reason == errc::busy);
  CHECK(r.detail == "a sync is already in flight");
  CHECK(r.label == 43);
  CHECK(r.base == version_ref{1, 0});
  CHECK(r.target == r.base);
  CHECK(f.busy());
}

TEST_CASE_METHOD(fixture, "sync: an encoding that fails aborts, and nothing is sent") {
  members(1);
  f.on_sync(t0, 1);
  const auto l = f.on_encode_failed(t0, {1, ++seq}, errc::encode_failed, "why");
  CHECK_FALSE(find<act::send_abort>(l));
  CHECK(report(l).reason == errc::encode_failed);
  CHECK(f.members().size() == 1);
}

TEST_CASE_METHOD(fixture,
                 "sync: receivers stage while the snapshot does, which has the last word") {
  members(2);
  f.on_sync(t0, 1);
  ++seq;
  CHECK(f.awaits_proof_of({1, seq}));
  const auto shipped = f.on_encoded(t0, {1, seq}, 100, d1);
  CHECK(find<act::ship_delta>(shipped));
  CHECK(f.awaits_proof_of({1, seq}));
  CHECK_FALSE(f.awaits_proof_of({1, seq - 1}));
  const auto votes = [&] { return vote({yes(a), said(b, terminal::timeout, errc::timeout)}); };
  SECTION("nothing is committed before it has staged") {
    CHECK(votes().empty());
    CHECK(f.members().size() == 2);
    REQUIRE(f.summarize().votes);
    CHECK(f.summarize().votes->outcomes.size() == 2);
    CHECK(f.on_delta_proven(t0, {1, 99}, 7, d0).empty());
    CHECK(f.on_encode_failed(t0, {1, 99}, errc::torn, "another's").empty());
    const auto l = proven();
    REQUIRE(find<act::send_commit>(l));
    CHECK(find<act::send_commit>(l)->challenge == 6);
    CHECK(find<act::open_round>(l)->spec.proof == proof);
    CHECK(find<act::evicted>(l)->who == b);
    CHECK_FALSE(f.summarize().votes);
    CHECK_FALSE(f.awaits_proof_of({1, seq}));
  }
  SECTION("or before they have") {
    CHECK(proven().empty());
    CHECK_FALSE(f.awaits_proof_of({1, seq}));
    // Its word stands.
    CHECK(f.on_delta_proven(t0, {1, seq}, 7, d0).empty());
    CHECK(f.on_encode_failed(t0, {1, seq}, errc::torn, "late").empty());
    const auto l = votes();
    REQUIRE(find<act::send_commit>(l));
    CHECK(find<act::send_commit>(l)->challenge == 6);
    CHECK(find<act::open_round>(l)->spec.proof == proof);
  }
  SECTION("who ends between its vote and that is out") {
    vote({yes(a), yes(b)});
    CHECK(find<act::mark_down>(f.on_down(t0, b, errc::dead)));
    const auto l = proven();
    CHECK(find<act::evicted>(l)->who == b);
    CHECK(find<act::send_commit>(l)->who == std::vector<participant>{a});
  }
  SECTION("its refusal aborts, once all have been heard") {
    const auto last = GENERATE(true, false);  // whether it is the last to be heard
    if (last) CHECK(votes().empty());
    const auto first = f.on_encode_failed(t0, {1, seq}, errc::torn, "why");
    if (!last) CHECK(first.empty());
    if (!last) CHECK(f.on_delta_proven(t0, {1, seq}, 7, d0).empty());
    const auto l = last ? first : votes();
    CHECK_FALSE(find<act::send_commit>(l));
    CHECK(find<act::send_abort>(l)->who == std::vector<participant>{a, b});
    CHECK(find<act::release>(l));
    // What they say of themselves counts all the same.
    CHECK(f.members() == std::vector<participant>{a});
    CHECK(report(f.on_next_wanted(t0)).reason == errc::torn);
  }
  SECTION("it must stage in time") {
    const bool voted = GENERATE(true, false);
    const auto due = t0 + proof_timeout(s, 100, 1000);
    CHECK(f.deadline() == due);
    if (voted) CHECK(votes().empty());
    CHECK(f.on_tick(due - std::chrono::milliseconds(1)).empty());
    CHECK(f.deadline() == due);
    const auto first = f.on_tick(due);
    CHECK(f.deadline() != due);
    CHECK(proven().empty());
    const auto l = voted ? first : votes();
    CHECK_FALSE(find<act::send_commit>(l));
    CHECK(find<act::send_abort>(l)->who == std::vector<participant>{a, b});
    CHECK(f.members() == std::vector<participant>{a});
    const auto r = report(f.on_next_wanted(t0));
    CHECK(r.result == sync_result::aborted);
    CHECK(r.reason == errc::timeout);
    CHECK(r.detail == "the snapshot has not staged the delta in time");
  }
  SECTION("once it has, its time is over") {
    CHECK(proven().empty());
    CHECK_FALSE(f.deadline());
    CHECK(f.on_tick(t0 + std::chrono::hours(1)).empty());
    CHECK(find<act::send_commit>(votes()));
  }
  SECTION("nor does it matter to a run that has ended") {
    f.on_newer_run(t0, 2);
    CHECK_FALSE(f.deadline());
    CHECK(f.on_tick(t0 + std::chrono::hours(1)).empty());
  }
  SECTION("its refusal is the reason, whatever others refuse") {
    f.on_encode_failed(t0, {1, seq}, errc::torn, "why");
    const auto l = vote(
        {said(a, terminal::no, errc::wrong_target), said(b, terminal::no, errc::wrong_target)});
    CHECK(report(l).result == sync_result::aborted);
    CHECK(report(l).reason == errc::torn);
    CHECK(report(l).detail == "why");
    CHECK(f.members().size() == 2);
  }
  SECTION("what was said of one delta is not of the next") {
    f.on_encode_failed(t0, {1, seq}, errc::torn, "why");
    vote({yes(a), yes(b)});
    CHECK_FALSE(f.awaits_proof_of({1, seq}));
    f.on_sync(t0, 2);
    f.on_encoded(t0, {1, ++seq}, 100, d1);
    CHECK(vote({yes(a), yes(b)}).empty());
    CHECK(find<act::send_commit>(proven()));
  }
}

TEST_CASE_METHOD(fixture, "sync: nobody has to prove what there is nobody to ship to") {
  f.on_sync(t0, 1);
  CHECK(report(f.on_encoded(t0, {1, ++seq}, 100, d1)).reason == errc::too_few_members);
  CHECK_FALSE(f.awaits_proof_of({1, seq}));
}

TEST_CASE_METHOD(fixture, "sync: who refuses is evicted and the others go on, or it is aborted") {
  SECTION("goes on") {
    voting(2);
    const auto l = vote({yes(a), said(b, terminal::no, errc::no_memory)});
    CHECK(find<act::evicted>(l)->who == b);
    CHECK(find<act::send_commit>(l)->who == std::vector<participant>{a});
    CHECK(find<act::open_round>(l)->spec.who == std::vector<participant>{a});
  }
  SECTION("too few, counted before anything is sent") {
    s.sync.members_min = 3;
    reset();
    members(2);
    f.on_sync(t0, 1);
    const auto l = encoded();
    CHECK_FALSE(find<act::ship_delta>(l));
    CHECK(report(l).participants[0].status == terminal::aborted);
  }
  SECTION("too few yes") {
    s.sync.members_min = 2;
    reset();
    voting(2);
    const auto l = vote({yes(a), {b, terminal::no, errc::no_memory, "why"}});
    CHECK(find<act::send_abort>(l)->who.size() == 2);
    CHECK(find<act::release>(l));
    CHECK_FALSE(find<act::evicted>(l));  // it refused the delta; it is as good as before
    const auto r = report(l);
    CHECK(r.reason == errc::too_few_members);
    CHECK(r.target == version_ref{1, 0});
    CHECK(r.participants[0].status == terminal::aborted);
    CHECK(r.participants[1].status == terminal::no);
    CHECK(r.participants[1].detail == "why");
    CHECK(r.participants[1].member);
  }
}

TEST_CASE_METHOD(fixture, "sync: refusals for one reason suspect the delta, not the fleet") {
  const auto no = said(b, terminal::no, errc::wrong_target);
  SECTION("just the share") {
    s.sync.correlated_percent = 100;
    reset();
    voting(2);
    const auto r = report(vote({said(a, terminal::no, errc::wrong_target), no}));
    CHECK(r.reason == errc::correlated_failure);
    CHECK(r.detail == "2 of 2 refused: wrong_target");
  }
  SECTION("half of them") {
    voting(3);
    auto l = vote({yes(a), no, said(c, terminal::no, errc::wrong_target)});
    CHECK(report(l).reason == errc::correlated_failure);
    CHECK(f.members().size() == 3);
  }
  SECTION("a single one proves nothing") {
    voting(2);
    CHECK(find<act::send_commit>(vote({yes(a), no})));
  }
  SECTION("different reasons") {
    voting(3);
    CHECK(find<act::send_commit>(vote({yes(a), no, said(c, terminal::no, errc::no_memory)})));
  }
  SECTION("timeouts are not refusals") {
    voting(3);
    CHECK(find<act::send_commit>(vote({yes(a), said(b, terminal::timeout, errc::timeout),
                                       said(c, terminal::timeout, errc::timeout)})));
  }
  SECTION("below the share") {
    s.sync.correlated_percent = 67;
    reset();
    voting(3);
    CHECK(find<act::send_commit>(vote({yes(a), no, said(c, terminal::no, errc::wrong_target)})));
  }
  SECTION("switched off") {
    s.sync.correlated_percent = 0;
    reset();
    voting(3);
    CHECK(find<act::send_commit>(vote({yes(a), no, said(c, terminal::no, errc::wrong_target)})));
  }
}

TEST_CASE_METHOD(fixture, "sync: an abort keeps members, but not those in doubt") {
  s.sync.members_min = 2;
  reset();
  voting(2);
  const auto o =
      GENERATE(said(b, terminal::timeout, errc::timeout), said(b, terminal::dead, errc::dead),
               said(b, terminal::no, errc::wrong_base), said(b, terminal::no, errc::not_serving),
               said(b, terminal::no, errc::torn));
  const auto l = vote({yes(a), o});
  CHECK(find<act::evicted>(l)->who == b);
  CHECK(f.members() == std::vector<participant>{a});
  CHECK_FALSE(find<act::finish>(l));  // waits until b is back, or for the deadline
  REQUIRE(f.deadline());
  CHECK(report(f.on_tick(*f.deadline())).result == sync_result::aborted);
}

TEST_CASE_METHOD(fixture, "sync: a failed apply is redone, a lie and a silence are not") {
  voting(3);
  vote({yes(a), yes(b), yes(c)});
  SECTION("redone until it is ok") {
    const auto l = acks({yes(a), yes(b), said(c, terminal::nack, errc::apply_failed)});
    CHECK(find<act::ship_redo>(l)->who == std::vector<participant>{c});
    CHECK(find<act::ship_redo>(l)->round == 2);
    CHECK_FALSE(find<act::conclude>(l));
    CHECK(acks({yes(c)}).empty());  // the round before
    // The commit is over: repeated now, it would ask everybody in the redo's round.
    CHECK_FALSE(f.deadline());
    CHECK(f.on_tick(t0 + milliseconds(s.sync.commit_resend_ms)).empty());
    CHECK(find<act::conclude>(acks({yes(c)}, 2))->view.size() == 3);
    const auto r = report(advanced());
    CHECK(r.result == sync_result::ok);
    CHECK(r.reason == errc::none);
    CHECK(r.participants[2].redos == 1);
  }
  SECTION("so often and no more") {
    const auto nack = said(c, terminal::nack, errc::apply_failed);
    acks({yes(a), yes(b), nack});
    CHECK(find<act::ship_redo>(acks({nack}, 2)));
    const auto l = acks({nack}, 3);
    CHECK(find<act::evicted>(l)->who == c);
    CHECK(find<act::conclude>(l)->view == std::vector<participant>{a, b});
  }
  SECTION("lie and silence") {
    const auto l = acks({yes(a), said(b, terminal::nack, errc::false_ack),
                         said(c, terminal::timeout, errc::timeout)});
    CHECK_FALSE(find<act::ship_redo>(l));
    CHECK(count<act::evicted>(l) == 2);
    CHECK(find<act::conclude>(l)->view == std::vector<participant>{a});
    advanced();
    f.on_gave_up(t0, b.id, errc::gave_up);
    // The first reason; what each was, its own line says.
    const auto r = report(f.on_gave_up(t0, c.id, errc::gave_up));
    CHECK(r.reason == errc::false_ack);
    CHECK(r.participants[1].reason == errc::false_ack);
    CHECK(r.participants[2].reason == errc::timeout);
  }
}

TEST_CASE_METHOD(fixture, "sync: the commit is repeated, so often and no more") {
  voting(1);
  vote({yes(a)});
  CHECK(f.deadline() == t0 + milliseconds(s.sync.commit_resend_ms));
  CHECK(f.on_tick(t0).empty());
  auto now = t0;
  for (std::uint32_t i = 0; i < s.sync.commit_resend_max; ++i) {
    now = *f.deadline();
    CHECK(find<act::send_commit>(f.on_tick(now)));
  }
  CHECK_FALSE(find<act::send_commit>(f.on_tick(*f.deadline())));
  CHECK_FALSE(f.deadline());
}

TEST_CASE_METHOD(fixture, "sync: a next one that is wanted early changes the report's time alone") {
  voting(2);
  CHECK(f.on_next_wanted(t0).empty());
  vote({yes(a), yes(b)});
  CHECK(f.on_next_wanted(t0).empty());
  acks({yes(a), said(b, terminal::timeout, errc::timeout)});
  CHECK(f.on_next_wanted(t0).empty());
  const auto r = report(advanced());
  CHECK(r.result == sync_result::degraded);
  CHECK(r.participants[0].member);
  CHECK_FALSE(r.participants[1].member);
}

TEST_CASE_METHOD(fixture, "sync: recovered when all are back in time, degraded when not") {
  voting(2);
  vote({yes(a), yes(b)});
  acks({yes(a), said(b, terminal::timeout, errc::timeout)});
  CHECK_FALSE(find<act::finish>(advanced()));
  SECTION("back, after a full") {
    CHECK(find<act::prove>(f.on_admit(t0, b)));
    CHECK(find<act::encode_full>(attach({said(b, terminal::no, errc::behind)})));
    ++seq;
    CHECK(find<act::ship_full>(f.on_full_encoded(t0, {1, seq}, 100, 5, proof)));
    const auto r = report(round(round_kind::full, 0, {yes(b)}));
    CHECK(r.result == sync_result::recovered);
    CHECK(r.complete());
    CHECK(r.reason == errc::timeout);
    CHECK(r.participants[1].status == terminal::timeout);
    CHECK(r.participants[1].reseeds == 1);
    CHECK(r.participants[1].member);
  }
  SECTION("given up") {
    const auto r = report(f.on_gave_up(t0, b.id, errc::gave_up));
    CHECK(r.result == sync_result::degraded);
    CHECK_FALSE(r.participants[1].member);
    CHECK_FALSE(r.participants[1].version);
    CHECK(r.participants[1].reason == errc::timeout);  // why it failed, not what came of it
  }
  SECTION("not waited for, since the trainer has the next one") {
    const auto r = report(f.on_next_wanted(t0));
    CHECK(r.result == sync_result::degraded);
    CHECK_FALSE(r.participants[1].member);
    CHECK(f.on_next_wanted(t0).empty());
    // The one after that is waited for as ever.
    f.on_sync(t0, 2);
    encoded();
    vote({yes(a)});
    acks({said(a, terminal::timeout, errc::timeout)});
    CHECK_FALSE(find<act::finish>(advanced()));
  }
  SECTION("not in time") {
    const auto until = *f.deadline();
    CHECK(f.on_tick(until - milliseconds(1)).empty());
    CHECK(report(f.on_tick(until)).result == sync_result::degraded);
    CHECK_FALSE(f.deadline());
    // The next sync is without b, and waits for nobody.
    f.on_sync(until, 2);
    encoded();
    vote({yes(a)});
    acks({yes(a)});
    CHECK(report(advanced()).result == sync_result::ok);
  }
  SECTION("not in time, while others are admitted without end") {
    const auto until = *f.deadline();
    const auto phase = GENERATE(sync_phase::proving, sync_phase::attaching,
                                sync_phase::full_encoding, sync_phase::seeding);
    f.on_admit(t0, c);
    if (phase != sync_phase::proving) f.on_proof(t0, {1, ++seq}, 5, proof);
    if (phase > sync_phase::attaching)
      round(round_kind::attach, 0, {said(c, terminal::no, errc::behind)});
    if (phase == sync_phase::seeding) f.on_full_encoded(t0, {1, ++seq}, 100, 5, proof);
    REQUIRE(f.phase() == phase);
    CHECK(f.deadline() == until);
    CHECK(report(f.on_tick(until)).result == sync_result::degraded);
    CHECK(f.phase() == phase);
  }
}

TEST_CASE_METHOD(fixture, "sync: a participant given up before the advance is no ok") {
  voting(2);
  SECTION("refused") {
    vote({yes(a), said(b, terminal::no, errc::no_memory)});
    f.on_gave_up(t0, b.id, errc::gave_up);
    acks({yes(a)});
  }
  SECTION("ended after its ack") {
    vote({yes(a), yes(b)});
    f.on_down(t0, b, errc::dead);
    CHECK(find<act::evicted>(acks({yes(a), yes(b)})));
    f.on_gave_up(t0, b.id, errc::gave_up);
  }
  SECTION("ended while the snapshot advanced") {
    vote({yes(a), yes(b)});
    acks({yes(a), yes(b)});
    CHECK(find<act::evicted>(f.on_down(t0, b, errc::dead)));
    f.on_gave_up(t0, b.id, errc::gave_up);
  }
  const auto r = report(advanced());
  CHECK(r.result == sync_result::degraded);
  CHECK(r.reason != errc::none);
}

TEST_CASE_METHOD(fixture, "sync: a participant that ended after its ack is named with a reason") {
  voting(2);
  vote({yes(a), yes(b)});
  acks({yes(a), yes(b)});
  f.on_down(t0, b, errc::dead);
  REQUIRE_FALSE(find<act::finish>(advanced()));
  SECTION("not back in time") {
    const auto r = report(f.on_tick(*f.deadline()));
    CHECK(r.result == sync_result::degraded);
    CHECK(r.reason == errc::dead);
  }
  SECTION("given up") {
    const auto r = report(f.on_gave_up(t0, b.id, errc::gave_up));
    CHECK(r.participants[1].reason == errc::gave_up);
  }
}

TEST_CASE_METHOD(fixture, "sync: who is given up is not waited for, and not asked") {
  CHECK(f.on_gave_up(t0, c.id, errc::gave_up).empty());  // nobody has heard of it
  voting(1);
  CHECK(f.on_gave_up(t0, c.id, errc::gave_up).empty());  // takes no part
  f.on_admit(t0, b);
  f.on_gave_up(t0, b.id, errc::gave_up);
  vote({yes(a)});
  acks({yes(a)});
  CHECK_FALSE(find<act::prove>(advanced()));
}

TEST_CASE_METHOD(fixture, "sync: an admission asks who waits for it, and about what is held") {
  voting(2);
  SECTION("after a sync") {
    vote({yes(a), yes(b)});
    acks({yes(a), yes(b)});
    advanced();
  }
  SECTION("after an attempt that came to nothing") {
    s.sync.members_min = 2;
    vote({said(a, terminal::no, errc::no_memory), said(b, terminal::no, errc::no_memory)});
  }
  REQUIRE(find<act::prove>(f.on_admit(t0, c)));
  const auto l = f.on_proof(t0, {1, ++seq}, 5, proof);
  REQUIRE(find<act::send_attach>(l));
  CHECK(find<act::send_attach>(l)->who == std::vector<participant>{c});
  CHECK(find<act::send_attach>(l)->target.version == f.snapshot().version);
  CHECK(find<act::send_attach>(l)->target.state == f.snapshot().state);
}

TEST_CASE_METHOD(fixture, "sync: who is asked again is no member until it has answered again") {
  // Its fences are about to be raised: a delta sent to it now would be refused.
  f.on_admit(t0, a);
  f.on_admit(t0, a);
  const auto l = attach({yes(a)});
  REQUIRE(find<act::admitted>(l));
  REQUIRE(find<act::prove>(l));
  CHECK(f.members().empty());
}

TEST_CASE_METHOD(fixture, "sync: the end of a life, at every phase") {
  SECTION("idle") {
    members(2);
    CHECK(f.on_down(t0, {b.id, {9, 9}}, errc::dead).empty());
    CHECK(find<act::evicted>(f.on_down(t0, b, errc::dead)));
    CHECK(f.members().size() == 1);
  }
  SECTION("encoding: takes no part") {
    members(2);
    f.on_sync(t0, 1);
    f.on_down(t0, b, errc::dead);
    CHECK(find<act::ship_delta>(encoded())->who == std::vector<participant>{a});
  }
  SECTION("voting, after its vote: no yes") {
    voting(2);
    CHECK(find<act::mark_down>(f.on_down(t0, b, errc::dead)));
    CHECK(f.on_down(t0, b, errc::dead).empty());
    const auto l = vote({yes(a), yes(b)});
    CHECK(find<act::evicted>(l)->who == b);
    CHECK(find<act::evicted>(l)->detail == "ended after it had voted");
    CHECK(find<act::send_commit>(l)->who == std::vector<participant>{a});
  }
  SECTION("committing: the next round does not wait for it") {
    voting(2);
    vote({yes(a), yes(b)});
    f.on_down(t0, b, errc::dead);
    const auto l = acks({yes(a), said(b, terminal::nack, errc::apply_failed)});
    CHECK(find<act::mark_down>(l)->who == b);
  }
  SECTION("waiting to be admitted, and the life before it has ended") {
    members(1);
    f.on_sync(t0, 1);
    f.on_admit(t0, b);
    f.on_down(t0, {b.id, {9, 9}}, errc::dead);
    f.on_encode_failed(t0, {1, ++seq}, errc::encode_failed, {});
    CHECK(f.phase() == sync_phase::proving);
  }
  SECTION("waiting to be admitted") {
    members(1);
    f.on_sync(t0, 1);
    f.on_admit(t0, b);
    f.on_down(t0, b, errc::dead);
    f.on_encode_failed(t0, {1, ++seq}, errc::encode_failed, {});
    CHECK(f.phase() == sync_phase::idle);
  }
  SECTION("attaching, after it answered") {
    f.on_admit(t0, a);
    f.on_proof(t0, {1, ++seq}, 5, proof);
    f.on_down(t0, a, errc::dead);
    CHECK(find<act::not_admitted>(round(round_kind::attach, 0, {yes(a)})));
    CHECK(f.members().empty());
  }
  SECTION("seeding, after it answered") {
    f.on_admit(t0, a);
    attach({said(a, terminal::no, errc::behind)});
    f.on_full_encoded(t0, {1, ++seq}, 100, 5, proof);
    f.on_down(t0, a, errc::dead);
    const auto l = round(round_kind::full, 0, {yes(a)});
    REQUIRE(find<act::not_admitted>(l));
    CHECK(find<act::not_admitted>(l)->reason == errc::dead);
    CHECK(f.members().empty());
  }
}

TEST_CASE_METHOD(fixture, "sync: a receiver is seeded, no sync under way") {
  f.on_admit(t0, a);
  attach({said(a, terminal::no, errc::behind)});
  f.on_full_encoded(t0, {1, ++seq}, 100, 5, proof);
  const auto l = round(round_kind::full, 0, {yes(a)});
  CHECK(find<act::release>(l));
  REQUIRE(find<act::admitted>(l));
  CHECK(find<act::admitted>(l)->how == admission::reseeded);
  CHECK(f.phase() == sync_phase::idle);
}

TEST_CASE_METHOD(fixture, "sync: a life that was declared dead and is back counts again") {
  voting(2);
  f.on_down(t0, b, errc::dead);
  vote({yes(a), said(b, terminal::dead, errc::dead)});
  acks({yes(a)});
  advanced();
  f.on_admit(t0, b);
  CHECK(find<act::admitted>(attach({yes(b)}))->who == b);
}

TEST_CASE_METHOD(fixture, "sync: only who takes part in a sync is waited for") {
  members(2);
  SECTION("nobody, where none is under way") {
    f.on_down(t0, b, errc::dead);
    f.on_sync(t0, 1);
    encoded();
    vote({yes(a)});
    acks({yes(a)});
    CHECK(report(advanced()).result == sync_result::ok);
  }
  SECTION("not one that came later and ended") {
    f.on_sync(t0, 1);
    encoded();
    vote({yes(a), said(b, terminal::timeout, errc::timeout)});
    acks({yes(a)});
    REQUIRE_FALSE(find<act::finish>(advanced()));
    f.on_admit(t0, c);
    attach({yes(c)});
    REQUIRE(find<act::evicted>(f.on_down(t0, c, errc::dead)));
    f.on_admit(t0, b);
    CHECK(report(attach({yes(b)})).result == sync_result::recovered);
  }
  SECTION("not a stranger that the join names") {
    f.on_sync(t0, 1);
    encoded();
    vote({yes(a), yes(b), said(c, terminal::no, errc::no_memory)});
    acks({yes(a), yes(b), said(c, terminal::nack, errc::apply_failed)});
    acks({said(c, terminal::nack, errc::apply_failed)}, 2);
    acks({said(c, terminal::nack, errc::apply_failed)}, 3);
    CHECK(report(advanced()).result == sync_result::ok);
  }
}

TEST_CASE_METHOD(fixture, "sync: a new life replaces the old one") {
  members(1);
  CHECK(find<act::admitted>(f.on_admit(t0, a)));  // already in
  const participant again{a.id, {8, 8}};
  const auto l = f.on_admit(t0, again);
  CHECK(find<act::evicted>(l)->who == a);
  CHECK(find<act::prove>(l));
  CHECK(f.members().empty());
}

TEST_CASE_METHOD(fixture, "sync: only who is behind gets a full; others wait for the next try") {
  f.on_admit(t0, a);
  f.on_admit(t0, b);
  f.on_admit(t0, c);
  attach({said(a, terminal::no, errc::wrong_layout)});
  const auto l =
      attach({said(b, terminal::no, errc::behind), said(c, terminal::timeout, errc::timeout)});
  CHECK(find<act::not_admitted>(l)->who == c);
  CHECK(find<act::encode_full>(l));
  f.on_full_encoded(t0, {1, ++seq}, 100, 5, proof);
  CHECK(find<act::not_admitted>(
      round(round_kind::full, 0, {said(b, terminal::nack, errc::false_ack)})));
  CHECK(f.members().empty());
}

TEST_CASE_METHOD(fixture, "sync: admissions and syncs take turns") {
  members(1);
  f.on_admit(t0, b);
  f.on_sync(t0, 1);
  f.on_admit(t0, c);
  const auto l = attach({yes(b)});
  CHECK(find<act::encode>(l));  // not c: the sync has waited long enough
  const auto m = encoded();
  CHECK(find<act::ship_delta>(m)->who == std::vector<participant>{a, b});
  vote({yes(a), yes(b)});
  acks({yes(a), yes(b)});
  const auto n = advanced();
  CHECK(find<act::finish>(n));
  CHECK(find<act::prove>(n));
}

TEST_CASE_METHOD(fixture, "sync: reseed = all seeds everybody, and waits for everybody") {
  s.sync.reseed = reseed_scope::all;
  reset();
  voting(2);
  vote({yes(a), yes(b)});
  acks({yes(a), said(b, terminal::timeout, errc::timeout)});
  advanced();
  f.on_admit(t0, b);
  attach({said(b, terminal::no, errc::behind)});
  CHECK(f.members().empty());
  const auto l = f.on_full_encoded(t0, {1, ++seq}, 100, 5, proof);
  CHECK(find<act::ship_full>(l)->who.size() == 2);
  const auto m = round(round_kind::full, 0, {yes(b), said(a, terminal::timeout, errc::timeout)});
  CHECK_FALSE(find<act::finish>(m));
  f.on_admit(t0, a);
  const auto r = report(attach({yes(a)}));
  CHECK(r.result == sync_result::recovered);
  CHECK(r.participants[0].reseeds == 0);  // its bytes were right: nothing was sent again
  CHECK(r.participants[1].reseeds == 1);
  CHECK(r.participants[1].catch_ups == 0);
}

TEST_CASE_METHOD(fixture, "sync: reseed = all, no sync under way, leaves nobody to wait for") {
  s.sync.reseed = reseed_scope::all;
  reset();
  members(2);
  f.on_admit(t0, c);
  attach({said(c, terminal::no, errc::behind)});
  f.on_full_encoded(t0, {1, ++seq}, 100, 5, proof);
  round(round_kind::full, 0, {yes(a), said(b, terminal::timeout, errc::timeout), yes(c)});
  f.on_sync(t0, 1);
  encoded();
  vote({yes(a), yes(c)});
  acks({yes(a), yes(c)});
  CHECK(report(advanced()).result == sync_result::ok);
}

TEST_CASE_METHOD(fixture, "sync: a snapshot that does not advance ends the run, with a report") {
  voting(1);
  vote({yes(a)});
  acks({yes(a)});
  act::list l;
  SECTION("told so") {
    l = f.on_advance_failed(t0, {1, seq}, "why");
  }
  SECTION("silence") {
    REQUIRE(f.deadline());
    CHECK(f.on_tick(*f.deadline() - milliseconds(1)).empty());
    l = f.on_tick(*f.deadline());
  }
  CHECK(report(l).result == sync_result::degraded);
  CHECK(find<act::release>(l));
  CHECK(find<act::evicted>(l));
  CHECK(f.phase() == sync_phase::failed);
  CHECK(report(f.on_sync(t0, 2)).reason == errc::encode_failed);
  CHECK(f.on_admit(t0, a).empty());
  CHECK(f.on_down(t0, a, errc::dead).empty());
  CHECK_FALSE(f.deadline());
}

TEST_CASE_METHOD(fixture, "sync: a run that hears of a newer one stops, with a report") {
  CHECK(f.on_newer_run(t0, 1).empty());
  CHECK(sync_fsm(f).on_newer_run(t0, 2).empty());  // nothing was begun: nothing to release
  voting(1);
  SECTION("before the decision: aborted") {
    const auto r = report(f.on_newer_run(t0, 2));
    CHECK(r.result == sync_result::aborted);
    CHECK(r.participants.at(0).status == terminal::aborted);
  }
  SECTION("after it: degraded, and a vote is not taken for an acknowledgement") {
    vote({yes(a)});
    const auto r = report(f.on_newer_run(t0, 2));
    CHECK(r.result == sync_result::degraded);
    CHECK(r.participants.at(0).status == terminal::timeout);
    CHECK(r.participants.at(0).reason == errc::fenced);
  }
  SECTION("while somebody recovers: what was reported of the sync stands") {
    vote({said(a, terminal::no, errc::torn)});
    const auto r = report(f.on_newer_run(t0, 2));
    CHECK(r.result == sync_result::aborted);
    CHECK(r.participants.at(0).status == terminal::no);
    CHECK(r.participants.at(0).reason == errc::torn);
  }
  SECTION("with an admission under way that the sync waits for") {
    vote({yes(a)});
    acks({yes(a)});
    advanced();
    f.on_admit(t0, b);
    f.on_sync(t0, 2);
    CHECK(report(f.on_newer_run(t0, 2)).result == sync_result::aborted);
    CHECK(attach({yes(b)}).empty());
  }
  CHECK_FALSE(f.deadline());
  CHECK(f.on_tick(t0 + std::chrono::hours(1)).empty());
  CHECK(f.phase() == sync_phase::failed);
  CHECK(f.on_newer_run(t0, 3).empty());
  const auto refused = report(f.on_sync(t0, 2));
  CHECK(refused.reason == errc::fenced);
  CHECK(refused.detail == "this run of the trainer has ended");
  CHECK(refused.base == f.snapshot().version);
  CHECK(refused.target == refused.base);
  CHECK(vote({yes(a)}).empty());
}

TEST_CASE_METHOD(fixture, "sync: a run that ends tells acknowledgements from votes and refusals") {
  voting(2);
  auto a_is = terminal::ok, b_is = terminal::ok;
  SECTION("a refusal stands") {
    vote({yes(a), said(b, terminal::no, errc::no_memory)});
    a_is = terminal::timeout, b_is = terminal::no;
  }
  SECTION("what was acknowledged before a redo, too") {
    vote({yes(a), yes(b)});
    acks({yes(a), said(b, terminal::nack, errc::apply_failed)});
    b_is = terminal::nack;
  }
  SECTION("and before the snapshot advanced") {
    vote({yes(a), yes(b)});
    acks({yes(a), yes(b)});
  }
  const auto r = report(f.on_newer_run(t0, 2));
  CHECK(r.participants[0].status == a_is);
  CHECK(r.participants[1].status == b_is);
}

TEST_CASE("sync: whoever has to prove a big base is given the time to read it") {
  // However small the delta is.
  settings s;
  const std::uint64_t model = 100'000'000'000;
  sync_fsm f(9, 1, d0, 0, model, s);
  f.on_admit(t0, a);
  f.on_proof(t0, {1, 1}, 5, proof);
  f.on_round(t0, {{1, 1}, 0, round_kind::attach, {yes(a)}});
  REQUIRE(f.members().size() == 1);
  f.on_sync(t0, 1);
  const auto shipped = f.on_encoded(t0, {1, 2}, 100, d1);
  const auto* votes = find<act::open_round>(shipped);
  REQUIRE(votes);
  CHECK(votes->spec.deadline - t0 > std::chrono::seconds(100));
}

TEST_CASE_METHOD(fixture, "sync: a big delta is given the time to arrive, and to arrive again") {
  const std::uint64_t bytes = 100'000'000'000;
  members(1);
  f.on_sync(t0, 1);
  const auto first = encoded(bytes);
  REQUIRE(find<act::open_round>(first));
  CHECK(find<act::open_round>(first)->spec.deadline - t0 > transfer_time(s, bytes));
  vote({yes(a)});
  const auto again = acks({said(a, terminal::nack, errc::apply_failed)});
  REQUIRE(find<act::open_round>(again));
  CHECK(find<act::open_round>(again)->spec.deadline - t0 > transfer_time(s, bytes));
}

TEST_CASE_METHOD(fixture, "sync: each wait is as long as the document says") {
  // In seconds: all weights take 1000 over a link, 100 to be read, and the delta takes 10.
  s.sync.link_bytes_per_s = 1'000'000;
  const std::uint64_t model = 1'000'000'000, delta = 10'000'000;
  s.sync.stage_timeout_ms = 1'000;
  s.sync.commit_timeout_ms = 2'000;
  s.sync.recovery_timeout_ms = 3'000;
  s.sync.attach_timeout_ms = 4'000;
  s.sync.commit_resend_max = 0;
  f = sync_fsm(9, 1, d0, 0, model, s);
  using std::chrono::seconds;
  const auto wait = [&](const act::list& l) {
    return find<act::open_round>(l)->spec.deadline - t0;
  };
  f.on_admit(t0, a);
  CHECK(wait(f.on_proof(t0, {1, ++seq}, 5, proof)) == seconds(4 + 100));
  const auto hurried = sync_fsm(f).on_sync(t0, 1);
  REQUIRE(find<act::hurry_round>(hurried));
  CHECK(find<act::hurry_round>(hurried)->what.deadline == t0 + seconds(1 + 100));
  round(round_kind::attach, 0, {yes(a)});
  f.on_admit(t0, b);
  attach({yes(b)});
  f.on_sync(t0, 1);
  CHECK(wait(encoded(delta)) == seconds(1 + 10 + 100));
  CHECK(wait(vote({yes(a), yes(b)})) == seconds(2 + 100));
  SECTION("a redo has the time of both") {
    CHECK(wait(acks({yes(a), said(b, terminal::nack, errc::apply_failed)})) ==
          seconds(2 + 100 + 1 + 10 + 100));
  }
  SECTION("the advance, and then who failed") {
    acks({yes(a), said(b, terminal::timeout, errc::timeout)});
    CHECK(f.deadline() == t0 + seconds(60 + 1000));
    CHECK_FALSE(find<act::finish>(advanced()));
    CHECK(f.deadline() == t0 + seconds(3 + 1000));
  }
}

TEST_CASE_METHOD(fixture, "sync: waits for an admission no longer than for votes") {
  s.sync.stage_timeout_ms = 500;
  reset();
  const auto until = [&](const act::list& l) { return find<act::open_round>(l)->spec.deadline; };
  members(1);
  f.on_admit(t0, b);

  SECTION("that proves what it holds") {
    const auto asked = f.on_proof(t0, {1, ++seq}, 5, proof);
    CHECK(until(asked) - t0 >= milliseconds(s.sync.attach_timeout_ms));
    const auto now = t0 + milliseconds(200);
    const auto l = f.on_sync(now, 1);
    REQUIRE(count<act::hurry_round>(l) == 1);
    const auto& h = find<act::hurry_round>(l)->what;
    CHECK(h.txn == txn_ref{1, seq});
    CHECK(h.number == 0);
    CHECK(h.deadline == now + stage_timeout(s, 0, 1000));
    const auto over = round(round_kind::attach, 0, {said(b, terminal::timeout, errc::timeout)});
    CHECK(find<act::not_admitted>(over)->who == b);
    CHECK(find<act::encode>(over));
  }
  SECTION("that has not begun to ask") {
    CHECK(count<act::hurry_round>(f.on_sync(t0, 1)) == 0);
    CHECK(until(f.on_proof(t0, {1, ++seq}, 5, proof)) == t0 + stage_timeout(s, 0, 1000));
  }
  SECTION("that is given all weights") {
    const std::uint64_t bytes = 1'000'000'000;
    attach({said(b, terminal::no, errc::behind)});
    const auto given = f.on_full_encoded(t0, {1, ++seq}, bytes, 6, proof);
    CHECK(until(given) == t0 + full_timeout(s, bytes));
    const auto l = f.on_sync(t0, 1);
    REQUIRE(count<act::hurry_round>(l) == 1);
    CHECK(find<act::hurry_round>(l)->what.deadline == t0 + stage_timeout(s, bytes, 1000));
  }
  SECTION("but a sync that only waits for its report hurries nobody") {
    attach({yes(b)});
    f.on_sync(t0, 1);
    encoded();
    vote({yes(a), said(b, terminal::timeout, errc::timeout)});
    acks({yes(a)});
    f.on_advanced(t0, {1, seq});
    CHECK(count<act::hurry_round>(f.on_admit(t0, b)) == 0);
    CHECK(until(f.on_proof(t0, {1, ++seq}, 5, proof)) - t0 >=
          milliseconds(s.sync.attach_timeout_ms));
  }
}

TEST_CASE("sync: every phase has a name") {
  for (int i = 0; i <= static_cast<int>(sync_phase::failed); ++i)
    CHECK_FALSE(to_string(static_cast<sync_phase>(i)).empty());
}

TEST_CASE_METHOD(fixture, "sync: an admission that is quicker than votes is not given more time") {
  s.sync.attach_timeout_ms = 5;
  reset();
  f.on_admit(t0, a);
  f.on_proof(t0, {1, ++seq}, 5, proof);
  const auto l = f.on_sync(t0, 1);
  REQUIRE(find<act::hurry_round>(l));
  CHECK(find<act::hurry_round>(l)->what.deadline ==
        t0 + std::chrono::milliseconds(5) + scan_time(s, 1000));
}

TEST_CASE("deadlines count the changes that have to be decoded, no more of them than bytes") {
  const settings s;
  const std::uint64_t model = 8'000'000'000;
  const auto none = stage_timeout(s, 100, model);
  CHECK(stage_timeout(s, {100, 1'000'000'000}, model) == none + std::chrono::seconds(50));
  CHECK(stage_timeout(s, {100, ~std::uint64_t{0}}, model) == none + std::chrono::seconds(400));
  CHECK(undecided_timeout(s, {100, 1'000'000'000}, model) ==
        2 * stage_timeout(s, {100, 1'000'000'000}, model));
  sync_fsm f(9, 1, {}, 0, model, s);
  f.on_admit(t0, {1, {1, 1}});
  f.on_proof(t0, {1, 1}, 5, {});
  f.on_round(t0, {{1, 1}, 0, round_kind::attach, {{{1, {1, 1}}, terminal::ok, errc::none, {}}}});
  REQUIRE(f.members().size() == 1);
  f.on_sync(t0, 1);
  const auto shipped = f.on_encoded(t0, {1, 2}, {100, 1'000'000'000}, {});
  REQUIRE(find<act::open_round>(shipped));
  CHECK(find<act::open_round>(shipped)->spec.deadline == t0 + none + std::chrono::seconds(50));
}
