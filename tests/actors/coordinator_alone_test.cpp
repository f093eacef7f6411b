// What the rank that leads believes of the others, its sender and its supervisor: said to them by
// hand.
#include <catch2/catch.hpp>
#include <future>
#include <optional>

#include "actors/packed.hpp"
#include "actors/spawn.hpp"
#include "actors/stage.hpp"
#include "actors/states.hpp"

using namespace lockstep;

namespace {

/// A sender, and the test as its snapshot, join, supervisor and receiver; another plays rank 1.
struct sender_stage : stage {
  /// `others`: whether there is one. `patience_ms`: with whoever does not answer.
  explicit sender_stage(bool others = true, std::uint32_t patience_ms = 60'000) {
    auto made = std::make_shared<actor_env>(*env);
    made->options.sync.members_min = 0;
    made->options.sync.stage_timeout_ms = patience_ms;
    made->options.sync.recovery_timeout_ms = 10 * patience_ms;
    env = made;
    std::vector<rank_link_actor> ranks;
    if (others) ranks.push_back(caf::actor_cast<rank_link_actor>(rank));
    sender_setup setup{env,
                       store,
                       2,
                       target_info{{2, 0}, {}, 0},
                       w.shape(),
                       std::move(ranks),
                       caf::actor_cast<join_actor>(test),
                       caf::actor_cast<snapshot_actor>(test),
                       caf::actor_cast<supervisor_actor>(test)};
    sender = spawn(sender_behavior, std::move(setup));
  }

  /// What the other rank is asked to do next.
  shard_task_msg asked(shard_task what) {
    auto m = next_of<shard_task_msg>(rank);
    while (m && m->what != what) m = next_of<shard_task_msg>(rank);
    REQUIRE(m);
    return *m;
  }
  void answers(const shard_task_msg& t) { rank->send(sender, answer_to(t)); }
  shard_result_msg answer_to(const shard_task_msg& t) const {
    shard_result_msg m;
    m.cluster = env->cluster;
    m.rank = 1;
    m.what = t.what;
    m.txn = t.txn;
    m.challenge = t.challenge;
    m.part = t.part;
    return m;
  }
  /// What looks like an answer and is none.
  void answers_amiss(const shard_task_msg& t) {
    for (int i = 0; i < 6; ++i) {
      auto m = answer_to(t);
      if (i == 0) m.what = shard_task::digests;
      if (i == 1) ++m.txn.seq;
      if (i == 2) ++m.challenge;
      if (i == 3) m.rank = 0;
      if (i == 4) m.rank = 2;
      if (i == 5) ++m.part;
      rank->send(sender, m);
    }
  }

  weight_buffer w = random_weights(small_layout(), 1);
  weight_buffer next_w = random_weights(small_layout(), 2);
  std::shared_ptr<snapshot_store> store =
      std::make_shared<snapshot_store>(w.shape(), reader_of(w), 0);
  caf::scoped_actor rank{*rt.inside().system};
  sender_actor sender;
};

/// A trainer whose rank 0 holds all of `w` seeds.
std::future<version_ref> seeds(stage& s, const supervisor_actor& supervisor,
                               const weight_buffer& w) {
  boot_request m;
  m.store = std::make_shared<snapshot_store>(w.shape(), reader_of(w), 0);
  m.shape = w.shape();
  m.owned = whole_model(w.shape());
  m.deadline = std::chrono::steady_clock::now() + 60s;
  m.answer = std::make_shared<std::promise<version_ref>>();
  auto begun = m.answer->get_future();
  s.test->send(supervisor, m);
  return begun;
}

}  // namespace

TEST_CASE("a sender goes on when every rank has answered what it was asked, and not before") {
  sender_stage s;
  auto ticket = std::make_shared<ticket_state>(10s);
  s.test->send(s.sender, sync_request{1, reader_of(s.next_w), ticket});
  const auto task = s.asked(shard_task::encode);
  s.answers_amiss(task);
  CHECK_FALSE(s.next<round_spec>(100ms));
  s.answers(task);
  // The delta leaves while the snapshots stage it.
  const auto over = [&](round_kind kind) {
    const auto round = s.next<round_spec>();  // of nobody
    REQUIRE(round);
    CHECK(round->kind == kind);
    CHECK(round->txn == task.txn);
    s.test->send(s.sender, round_result{round->txn, round->number, round->kind, {}});
  };
  over(round_kind::vote);
  const auto mine = s.next<stage_request>();
  REQUIRE(mine);
  CHECK(mine->txn == task.txn);
  const auto proof = s.asked(shard_task::stage);
  CHECK(proof.label == 1);
  const bool first = GENERATE(true, false);  // whether this rank is done first
  const stage_result done{mine->txn, errc::none, {}, {}, nullptr};
  auto early = done;
  ++early.txn.seq;
  s.test->send(s.sender, early);
  if (first) s.test->send(s.sender, done);
  s.answers_amiss(proof);
  if (!first) {
    s.answers(proof);
    auto again = s.answer_to(proof);
    again.reason = errc::bad_input;
    s.rank->send(s.sender, again);
  }
  CHECK_FALSE(s.next<round_spec>(100ms));
  if (!first) s.test->send(s.sender, done);
  if (first) s.answers(proof);
  over(round_kind::commit);
  REQUIRE(s.next<conclude_request>());
  s.test->send(s.sender, advance_result{mine->txn, errc::none, {}});
  const auto advance = s.asked(shard_task::advance);
  s.answers_amiss(advance);
  s.answers(task);
  CHECK_FALSE(ticket->wait_report(100ms));
  s.answers(advance);
  const auto report = ticket->wait_report(10s);
  REQUIRE(report);
  CHECK(report->result == sync_result::ok);
}

TEST_CASE("a sender asks for what is proven under its own challenge, by its own snapshot too") {
  sender_stage s;
  const participant who{4, {4, 4}};
  s.test->send(
      s.sender,
      admit_request{
          who, "four", caf::actor_cast<receiver_actor>(s.test), {}, s.w.shape().fingerprint()});
  const auto mine = s.next<prove_request>();
  REQUIRE(mine);
  const auto task = s.asked(shard_task::prove);
  prove_result done;
  done.txn = mine->txn;
  done.challenge = mine->challenge;
  done.part = mine->part.number;
  s.answers_amiss(task);
  s.answers(task);
  for (int i = 0; i < 3; ++i) {
    auto m = done;
    if (i == 0) ++m.txn.seq;
    if (i == 1) ++m.challenge;
    if (i == 2) ++m.part;
    s.test->send(s.sender, m);
  }
  CHECK_FALSE(s.next<attach_msg>(100ms));
  s.test->send(s.sender, done);
  const auto attach = s.next<attach_msg>();
  REQUIRE(attach);
  CHECK(attach->challenge == task.challenge);
}

TEST_CASE("a snapshot that hangs holds up nobody for ever") {
  sender_stage s(false, 100);
  SECTION("while it stages a delta that all have voted on") {
    auto ticket = std::make_shared<ticket_state>(10s);
    s.test->send(s.sender, sync_request{1, reader_of(s.next_w), ticket});
    const auto votes = s.next<round_spec>();
    REQUIRE(votes);
    s.test->send(s.sender, round_result{votes->txn, votes->number, votes->kind, {}});
    REQUIRE(s.next<stage_request>());
    const auto report = ticket->wait_report(10s);
    REQUIRE(report);
    CHECK(report->result == sync_result::aborted);
    CHECK(report->reason == errc::timeout);
    CHECK(report->detail == "the snapshot has not staged the delta in time");
    // And it is told so, for when it goes on.
    CHECK(s.next<drop_request>());
  }
  SECTION("while it digests what somebody says to hold") {
    s.test->monitor(s.sender);
    s.test->send(s.sender, admit_request{participant{4, {4, 4}},
                                         "four",
                                         caf::actor_cast<receiver_actor>(s.test),
                                         {},
                                         s.w.shape().fingerprint()});
    REQUIRE(s.next<prove_request>());
    // The supervisor begins another run.
    const auto ended = s.next<caf::down_msg>();
    REQUIRE(ended);
    CHECK(ended->reason == caf::sec::runtime_error);
  }
}

TEST_CASE("a start waits for all ranks, and for what each says to it") {
  stage s;
  auto made = std::make_shared<actor_env>(*s.env);
  made->options.transport.ranks = 3;
  const auto supervisor = s.spawn(supervisor_behavior, std::shared_ptr<const actor_env>(made));
  const auto w = random_weights(small_layout(), 1);
  boot_request m;
  m.run = 7;
  m.store = std::make_shared<snapshot_store>(w.shape(), reader_of(w), 0);
  m.shape = w.shape();
  m.owned = whole_model(w.shape());
  m.deadline = std::chrono::steady_clock::now() + 60s;
  m.answer = std::make_shared<std::promise<version_ref>>();
  auto begun = m.answer->get_future();
  s.test->send(supervisor, m);
  caf::scoped_actor second(*s.rt.inside().system);
  const auto hello = [&](caf::scoped_actor& who, std::uint32_t rank) {
    who->send(supervisor,
              shard_hello_msg{s.env->cluster, rank, 3, {rank, rank}, w.shape().fingerprint(), {}});
  };
  hello(s.test, 1);
  CHECK_FALSE(s.next<shard_task_msg>(100ms));
  hello(second, 2);
  const auto task = s.next<shard_task_msg>();
  REQUIRE(task);
  CHECK(task->what == shard_task::seed);
  REQUIRE(next_of<shard_task_msg>(second));
  shard_result_msg right;
  right.cluster = s.env->cluster;
  right.rank = 1;
  right.inc = {1, 1};
  right.what = shard_task::seed;
  right.txn = task->txn;
  for (int i = 0; i < 5; ++i) {
    auto r = right;
    r.rank = 2;
    r.inc = {2, 2};
    if (i == 0) r.what = shard_task::prove;
    if (i == 1) ++r.txn.run;
    if (i == 2) ++r.inc.lo;
    if (i == 3) r.rank = 3;
    if (i == 4) r = right;
    s.test->send(supervisor, r);
    CHECK(begun.wait_for(20ms) == std::future_status::timeout);
  }
  right.rank = 2;
  right.inc = {2, 2};
  second->send(supervisor, right);
  REQUIRE(begun.wait_for(10s) == std::future_status::ready);
  CHECK(begun.get().run == task->txn.run);
}

TEST_CASE("a second process of a rank is told so, and has its place once the first is gone") {
  stage s;
  auto made = std::make_shared<actor_env>(*s.env);
  made->options.transport.ranks = 2;
  const auto supervisor = s.spawn(supervisor_behavior, std::shared_ptr<const actor_env>(made));
  const auto w = random_weights(small_layout(), 1);
  const auto boot = [&] { return seeds(s, supervisor, w); };
  const auto hello = [&](caf::scoped_actor& who, incarnation inc) {
    who->send(supervisor, shard_hello_msg{s.env->cluster, 1, 2, inc, w.shape().fingerprint(), {}});
  };
  const auto reach = [&](caf::scoped_actor& who, receiver_id id) {
    who->send(supervisor, shard_reach_msg{s.env->cluster, 1, id, {id, id}, true, 0});
  };
  const auto status = [&] {
    auto answered = std::make_shared<std::promise<observation>>();
    s.test->send(supervisor, observe_request{question::status, [answered](observation seen) {
                                               answered->set_value(std::move(seen));
                                             }});
    return answered->get_future().get().states;
  };
  std::optional<caf::scoped_actor> first(*s.rt.inside().system);
  caf::scoped_actor second(*s.rt.inside().system);
  hello(*first, {1, 1});
  reach(*first, 8);
  for (int i = 0; i < 3; ++i) {
    hello(second, {2, 2});
    const auto refused = next_of<refused_msg>(second);
    REQUIRE(refused);
    CHECK(refused->reason == errc::busy);
    CHECK(refused->inc == incarnation{2, 2});
  }
  // Of receivers only the first is believed; whom rank 0 never heard of the status names all the
  // same.
  reach(second, 9);
  reach(second, 7);
  const auto seen = status();
  REQUIRE(seen.size() == 1);
  CHECK(seen[0].id == 8);
  CHECK_FALSE(seen[0].member);
  CHECK(seen[0].standing == "dead");
  CHECK(seen[0].reason == errc::unreachable);
  CHECK(seen[0].detail.find("rank 1 and not to rank 0") != std::string::npos);

  auto begun = boot();
  REQUIRE(next_of<shard_task_msg>(*first));
  CHECK_FALSE(next_of<shard_task_msg>(second, 50ms));
  first.reset();
  CHECK_THROWS_AS(begun.get(), error);
  begun = boot();
  hello(second, {2, 2});
  const auto seed = next_of<shard_task_msg>(second);
  REQUIRE(seed);
  CHECK(seed->what == shard_task::seed);
  CHECK(status().empty());
}

TEST_CASE("a rank that has dialed anew needs not wait for its other link to end here") {
  stage s;
  auto made = std::make_shared<actor_env>(*s.env);
  made->options.transport.ranks = 2;
  const auto supervisor = s.spawn(supervisor_behavior, std::shared_ptr<const actor_env>(made));
  const auto w = random_weights(small_layout(), 1);
  const auto hello = [&](caf::scoped_actor& who) {
    who->send(supervisor,
              shard_hello_msg{s.env->cluster, 1, 2, {1, 1}, w.shape().fingerprint(), {}});
  };
  const auto boot = [&] { return seeds(s, supervisor, w); };
  caf::scoped_actor earlier(*s.rt.inside().system), later(*s.rt.inside().system);
  hello(earlier);
  auto begun = boot();
  REQUIRE(next_of<shard_task_msg>(earlier));
  hello(later);
  // What it was asked over the earlier link it has forgotten.
  CHECK_THROWS_AS(begun.get(), error);
  begun = boot();
  const auto task = next_of<shard_task_msg>(later);
  REQUIRE(task);
  CHECK(task->what == shard_task::seed);
  CHECK_FALSE(next_of<refused_msg>(later, 0ms));
}

TEST_CASE("an audit compares with ranks that hold one version, and asks anew where they do not") {
  stage s;
  caf::scoped_actor rank{*s.rt.inside().system};
  caf::scoped_actor receiver{*s.rt.inside().system};
  const auto shape = small_layout();
  std::promise<observation> answered;
  auto answer = answered.get_future();
  audit_setup setup;
  setup.env = s.env;
  setup.snapshot = caf::actor_cast<snapshot_actor>(s.test);
  setup.ranks = {caf::actor_cast<rank_link_actor>(rank)};
  setup.shape = shape;
  setup.targets.push_back({{7, {1, 1}}, "r", caf::actor_cast<receiver_actor>(receiver), {}});
  setup.answer = [&](observation seen) { answered.set_value(std::move(seen)); };
  const auto auditor = s.spawn(auditor_behavior, std::move(setup));

  const std::vector<digest> none(shape.count()), some(shape.count(), digest{1, 2});
  // This rank's snapshot has advanced, the other's has not; then that has as well.
  for (const auto seq : {1u, 2u}) {
    const auto asked = s.next<digests_request>();
    const auto task = next_of<shard_task_msg>(rank);
    const auto audit = next_of<audit_msg>(receiver);
    REQUIRE((asked && task && audit));
    CHECK(task->what == shard_task::digests);
    CHECK(answer.wait_for(0s) == std::future_status::timeout);
    s.test->send(auditor, digests_result{asked->challenge, {2, 2}, none});
    shard_result_msg part;
    part.cluster = s.env->cluster;
    part.rank = 1;
    part.what = shard_task::digests;
    part.txn = {2, seq};
    part.challenge = task->challenge;
    part.digests = packed_digests(seq == 2 ? some : none);
    rank->send(auditor, part);
    receiver->send(
        auditor,
        audit_reply_msg{s.env->cluster, 7, {1, 1}, audit->challenge, {2, 2}, packed_digests(some)});
  }
  REQUIRE(answer.wait_for(10s) == std::future_status::ready);
  const auto seen = answer.get();
  REQUIRE(seen.audits.size() == 1);
  CHECK(seen.audits[0].pass);
  CHECK(seen.audits[0].why_not == "");
}

TEST_CASE("an audit whose run ends has compared with nothing, unless somebody failed it before") {
  const bool failed = GENERATE(false, true);
  stage s;
  std::optional<caf::scoped_actor> snapshot(*s.rt.inside().system);
  caf::scoped_actor receiver{*s.rt.inside().system};
  std::promise<observation> answered;
  auto answer = answered.get_future();
  audit_setup setup;
  setup.env = s.env;
  setup.snapshot = caf::actor_cast<snapshot_actor>(*snapshot);
  setup.shape = small_layout();
  setup.targets.push_back({{7, {1, 1}}, "r", caf::actor_cast<receiver_actor>(receiver), {}});
  if (failed) setup.targets.push_back({{8, {1, 1}}, "away", {}, "it is not to be reached"});
  setup.answer = [&](observation seen) { answered.set_value(std::move(seen)); };
  const auto auditor = s.spawn(auditor_behavior, std::move(setup));
  REQUIRE(next_of<digests_request>(*snapshot));
  snapshot.reset();
  REQUIRE(answer.wait_for(2s) == std::future_status::ready);  // no deadline's time
  const auto seen = answer.get();
  CHECK(seen.end.reason == (failed ? errc::none : errc::shut_down));
  REQUIRE(seen.audits.size() == (failed ? 2 : 1));
  CHECK(seen.audits[0].why_not == "the snapshot is gone");
}
