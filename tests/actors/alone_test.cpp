// What single actors obey, and from whom: said to them by hand.
#include <algorithm>
#include <catch2/catch.hpp>
#include <future>

#include "actors/encoding.hpp"
#include "actors/stage.hpp"
#include "actors/states.hpp"

using namespace lockstep;

namespace {

/// A snapshot with a delta staged as {1, 1}, that only waits for the join.
struct staged_snapshot : stage {
  staged_snapshot() {
    const target_info held{{1, 0}, state_of_store(), 0};
    snapshot = spawn(snapshot_behavior, env, store, held, store->take_over());
    step(w, 1);
    auto made = encode_against(*store, reader_of(w), kernels::encoding_choice::coded,
                               env->options.bucket.bytes_max);
    test->send(snapshot, stage_request{txn, held.version, {{1, 1}, made.state, 1}, made.delta, 7});
    const auto result = next<stage_result>();
    REQUIRE(result);
    REQUIRE(result->reason == errc::none);
  }

  digest state_of_store() const {
    return store->read(
        [](const tensor_views& tensors) { return digest_of(public_digest_seed, tensors); });
  }
  /// What it says to the join's all-ok.
  errc advance() {
    test->send(snapshot, join_verdict{txn, true});
    const auto result = next<advance_result>();
    REQUIRE(result);
    return result->reason;
  }

  static constexpr txn_ref txn{1, 1};
  weight_buffer w = random_weights(small_layout(), 1);
  std::shared_ptr<snapshot_store> store =
      std::make_shared<snapshot_store>(w.shape(), reader_of(w), 0, 100);
  snapshot_actor snapshot;
};

/// A fleet of one, and somebody who says to its supervisor what is not for it to say.
struct impostor_fleet : fleet {
  impostor_fleet() {
    add();
    REQUIRE(seed());
  }

  template <class M>
  void say(M m) {
    impostor->send(rt.inside().supervisor, std::move(m));
  }
  std::uint64_t cluster() const { return rt.inside().env->cluster; }

  caf::scoped_actor impostor{*rt.inside().system};
};

/// A receiver that serves nothing yet, and the test as whoever speaks to it.
struct receiver_stage : stage {
  receiver_stage() {
    receiver = spawn(receiver_behavior, env, bytes, inc,
                     caf::actor_cast<supervisor_actor>(supervisor), relay_side{});
  }

  /// The next transaction of `run` begins with whether it holds this.
  attach_msg attach(std::uint64_t run, const digest& state) const {
    return {{cluster, {run, 1}, inc}, {{run, 2}, state, 0}, w.shape().fingerprint(), 7};
  }

  const incarnation inc{1, 1};
  const std::uint64_t cluster = env->cluster;
  const weight_buffer w{small_layout()};  ///< what its own memory begins with
  const digest begins_with = digest_of(public_digest_seed, views_of(w));
  const std::shared_ptr<engine> bytes =
      std::make_shared<engine>(receiver_id{1}, "1", w.shape(), std::vector<std::span<std::byte>>(),
                               receiver_hooks{}, std::shared_ptr<fault_source>());
  caf::scoped_actor supervisor{*rt.inside().system};
  receiver_actor receiver;
};

}  // namespace

TEST_CASE("a snapshot drops what is staged for its own transaction, and for no other") {
  staged_snapshot s;
  SECTION("others' ends are nothing to it") {
    for (const auto other : {txn_ref{1, 0}, txn_ref{1, 2}, txn_ref{2, 1}})
      s.test->send(s.snapshot, drop_request{other});
    CHECK(s.advance() == errc::none);
    CHECK(s.store->label() == 1);
    CHECK(s.state_of_store() ==
          digest_of(public_digest_seed, views_of(s.w.shape(), reader_of(s.w))));
  }
  SECTION("its own end is") {
    s.test->send(s.snapshot, drop_request{s.txn});
    s.test->send(s.snapshot, join_verdict{s.txn, true});
    s.next<advance_result>(100ms);
    CHECK(s.store->label() == 0);
  }
}

TEST_CASE("a snapshot notes of each step what it led from, for the run that comes after") {
  staged_snapshot s;
  const auto left = s.state_of_store();
  REQUIRE(s.advance() == errc::none);
  CHECK(s.store->history().states() == std::vector<digest>{left});
}

TEST_CASE("a snapshot whose bytes another run has taken over is refused its advance") {
  staged_snapshot s;
  s.store->take_over();
  CHECK(s.advance() != errc::none);
  CHECK(s.store->label() == 0);
  CHECK_FALSE(s.store->torn());
}

TEST_CASE("a join says all ok where all have acknowledged, and nowhere else") {
  stage s;
  const auto join = s.spawn(join_behavior, caf::actor_cast<snapshot_actor>(s.test));
  const participant who{4, {4, 4}};
  const txn_ref txn{2, 1};
  round_spec spec;
  spec.cluster = s.env->cluster;
  spec.txn = txn;
  spec.number = 1;
  spec.kind = round_kind::commit;
  spec.who = {who};
  spec.deadline = std::chrono::steady_clock::now() + 60s;
  s.test->send(join, spec);
  const auto verdict = [&] {
    s.test->send(join, conclude_request{txn, {who}});
    const auto m = s.next<join_verdict>();
    REQUIRE(m);
    CHECK(m->txn == txn);
    return m->all_ok;
  };
  CHECK_FALSE(verdict());
  s.test->send(join,
               reply_msg{{spec.cluster, txn, who.inc}, who.id, 1, reply_kind::ack, {}, {}, {}});
  REQUIRE(s.next<round_result>());
  CHECK(verdict());
}

TEST_CASE("who begins or ends a run takes over the snapshot's bytes from who wrote them") {
  runtime rt(quiet());
  const auto w = random_weights(small_layout(), 1);
  trainer t(rt, w.shape());
  boot_request boot;
  boot.run = 1;
  boot.store = std::make_shared<snapshot_store>(w.shape(), reader_of(w), 0);
  boot.answer = std::make_shared<std::promise<version_ref>>();
  const auto store = boot.store;
  auto begun = boot.answer->get_future();
  const auto writes = [&](std::uint64_t owner) {
    try {
      store->write(owner, 0, [](const tensor_spans&) {});
      return true;
    } catch (const error& e) {
      CHECK(e.code() == errc::fenced);
      return false;
    }
  };
  const auto before = store->take_over();
  REQUIRE(writes(before));
  caf::anon_send(rt.inside().supervisor, std::move(boot));
  REQUIRE(begun.wait_for(10s) == std::future_status::ready);
  CHECK_FALSE(writes(before));
  CHECK(writes(before + 1));
  t.stop();
  for (int i = 0; i < 1000 && t.is_running(); ++i) std::this_thread::sleep_for(2ms);
  REQUIRE_FALSE(t.is_running());
  CHECK_FALSE(writes(before + 1));
}

TEST_CASE("only the sender says who is in the view") {
  impostor_fleet f;
  const participant stranger{7, {7, 1}};
  f.say(hello_msg{f.cluster(), 7, "stranger", stranger.inc, {1, 2}, {}});
  for (int i = 0; i < 1000 && f.status(7).name != "stranger"; ++i) std::this_thread::sleep_for(2ms);
  REQUIRE(f.status(7).name == "stranger");
  f.say(sync_action::admitted{stranger, {}});
  std::this_thread::sleep_for(50ms);
  CHECK_FALSE(f.status(7).member);
  for (auto what : {"evicted", "not admitted"}) {
    if (what == std::string_view("evicted"))
      f.say(sync_action::evicted{stranger, errc::false_ack, what});
    else
      f.say(sync_action::not_admitted{stranger, errc::false_ack, what});
    std::this_thread::sleep_for(50ms);
    CHECK(f.status(7).detail != what);
    CHECK(f.status(7).reason != errc::false_ack);
  }
}

TEST_CASE("only the sender says what the fleet holds") {
  impostor_fleet f;
  auto ahead = f.rx[0]->state().version;
  ahead.number += 1;
  f.say(fleet_notice{ahead, {}});
  std::this_thread::sleep_for(50ms);
  CHECK(f.rx[0]->state().ready);
  CHECK(f.sync(1).result == sync_result::ok);
}

TEST_CASE("a pong of a newer run ends the run that hears it, and one of no newer run does not") {
  impostor_fleet f;
  const auto mine = f.rx[0]->state().version;
  const auto pong = [&](std::uint64_t run, std::uint64_t cluster) {
    f.say(pong_msg{
        cluster, 7, {7, 1}, {true, receiver_phase::serving, {run, mine.number}, 0, errc::none}});
  };
  pong(mine.run - 1, f.cluster());
  pong(mine.run, f.cluster());
  pong(mine.run + 1, f.cluster() + 1);
  CHECK(f.sync(1).result == sync_result::ok);
  pong(mine.run + 1, f.cluster());
  const auto over = [&] {
    for (int i = 0; i < 1000; ++i) {
      if (!f.t.is_running()) return true;
      std::this_thread::sleep_for(2ms);
    }
    return false;
  };
  CHECK(over());
  CHECK(f.sync(2).reason == errc::fenced);
}

TEST_CASE("nobody of another fleet announces itself, or says that somebody leaves") {
  impostor_fleet f;
  const auto hello = [&](receiver_id id, std::uint64_t cluster) {
    f.say(hello_msg{cluster, id, "stranger", {id, 1}, {1, 2}, {}});
  };
  const auto known = [&](receiver_id id) { return f.status(id).name == "stranger"; };
  hello(7, f.cluster());
  f.say(goodbye_msg{f.cluster() + 1, 7, {7, 1}});
  hello(8, f.cluster() + 1);
  hello(9, f.cluster());
  for (int i = 0; i < 1000 && !known(9); ++i) std::this_thread::sleep_for(2ms);
  REQUIRE(known(9));  // so all that was said before has been heard
  CHECK(known(7));
  CHECK(f.status(7).standing != "detached");
  CHECK_FALSE(known(8));
  f.say(goodbye_msg{f.cluster(), 7, {7, 1}});
  CHECK(f.wait_standing(7, "detached"));
}

TEST_CASE("a refusal is believed by the life that it names, and not by who serves") {
  receiver_stage s;
  const auto hears = [&](const refused_msg& m) {
    s.test->send(s.receiver, m);
    // It has been heard when what follows it is answered.
    s.test->send(s.receiver, audit_msg{s.cluster, s.inc, 0});
    REQUIRE(s.next<audit_reply_msg>());
  };
  const refused_msg word{s.cluster, s.inc, errc::wrong_layout, "another model"};
  auto other = word;
  ++other.cluster;
  hears(other);
  other = word;
  other.inc = {1, 2};
  hears(other);
  CHECK_FALSE(s.bytes->refusal());
  // A trainer that has no use for the engine that another one serves its weights from is a
  // stranger.
  s.test->send(s.receiver, s.attach(1, s.begins_with));
  while (!s.bytes->state().ready) hears(other);
  hears(word);
  CHECK_FALSE(s.bytes->refusal());
  // It holds nothing that another run could begin with.
  s.test->send(s.receiver, s.attach(2, {1, 1}));
  while (s.bytes->state().ready) hears(other);
  // Another process has its place for now: that ends nobody.
  auto twin = word;
  twin.reason = errc::restarted;
  hears(twin);
  CHECK_FALSE(s.bytes->refusal());
  hears(word);
  REQUIRE(s.bytes->refusal());
  CHECK(s.bytes->refusal().reason == errc::wrong_layout);
  CHECK(s.bytes->refusal().detail == "another model");
}

TEST_CASE("who still announces itself a lease after another took its place is told so") {
  stage s;
  constexpr auto lease = 400ms;
  auto made = std::make_shared<actor_env>(*s.env);
  made->options.receiver.ping_ms = 50;
  made->options.receiver.lease_ms = lease.count();
  const auto supervisor = s.spawn(supervisor_behavior, std::shared_ptr<const actor_env>(made));
  caf::scoped_actor older{*s.rt.inside().system}, newer{*s.rt.inside().system};
  const auto announce = [&](caf::scoped_actor& who, std::uint64_t life) {
    who->send(supervisor, hello_msg{made->cluster, 7, "seven", {7, life}, {1, 2}, {}});
  };
  announce(older, 1);
  announce(newer, 2);
  const auto begun = std::chrono::steady_clock::now();
  std::optional<refused_msg> word;
  while (!word && std::chrono::steady_clock::now() < begun + 10s) {
    announce(older, 1);
    announce(newer, 2);
    word = next_of<refused_msg>(older, 20ms);
  }
  REQUIRE(word);
  CHECK(std::chrono::steady_clock::now() >= begun + lease);
  CHECK(word->reason == errc::restarted);
  CHECK(word->inc == incarnation{7, 1});
  CHECK(word->detail.find("the id 7 and the name 'seven'") != std::string::npos);
  CHECK_FALSE(next_of<refused_msg>(newer, 100ms));
}

TEST_CASE("an audit is answered by the life that it names") {
  receiver_stage s;
  s.test->send(s.receiver, audit_msg{s.cluster + 1, s.inc, 1});
  s.test->send(s.receiver, audit_msg{s.cluster, {1, 2}, 2});
  s.test->send(s.receiver, audit_msg{s.cluster, s.inc, 3});
  const auto reply = s.next<audit_reply_msg>();
  REQUIRE(reply);
  CHECK(reply->challenge == 3);
}

// Its base is torn by then: coded frames lead anywhere from there.
TEST_CASE("a redo of coded frames is refused before a byte is written") {
  receiver_stage s;
  s.test->send(s.receiver, welcome{1, caf::actor_cast<join_actor>(s.test)});
  s.test->send(s.receiver, s.attach(1, s.begins_with));
  REQUIRE(s.next<reply_msg>());
  auto target = s.w.clone();
  step(target, 1);
  const auto delta = encode_delta(s.w.shape(), views_of(s.w), views_of(target), 1u << 20,
                                  kernels::encoding_choice::coded);
  REQUIRE(check_buckets(delta.buckets, views_of(s.w)));
  const envelope env{s.cluster, {1, 1}, s.inc};
  s.test->send(s.receiver, redo_msg{env, {{1, 1}, {1, 1}, 1}, delta.content, 7, 1});
  for (std::uint32_t i = 0; i < delta.buckets.size(); ++i)
    s.test->send(s.receiver, bucket_msg{env, i, delta.buckets[i]});
  const auto reply = s.next<reply_msg>();
  REQUIRE(reply);
  CHECK(reply->kind == reply_kind::nack);
  CHECK(reply->reason == errc::bad_frame);
  for (std::size_t i = 0; i < s.w.shape().count(); ++i)
    CHECK(std::ranges::equal(s.bytes->tensor(i), s.w.tensor(i)));
}

TEST_CASE("a receiver answers to the newest run that has greeted it") {
  receiver_stage s;
  caf::scoped_actor older(*s.rt.inside().system);
  const auto greets = [&](std::uint64_t run, const caf::scoped_actor& join) {
    s.test->send(s.receiver, welcome{run, caf::actor_cast<join_actor>(join)});
  };
  greets(1, older);
  s.test->send(s.receiver, s.attach(1, s.begins_with));
  REQUIRE(next_of<reply_msg>(older));
  greets(2, s.test);
  greets(1, older);  // its run is over
  s.test->send(s.receiver, s.attach(2, s.begins_with));
  CHECK(s.next<reply_msg>());
}
