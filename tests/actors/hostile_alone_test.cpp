// What a receiver's actor hears beside what its machine does, altered before its checksum was made,
// or by a lying peer: docs/wire-messages.md, last table. hostile_control_test.cpp has the
// machine's.
#include <catch2/catch.hpp>

#include "actors/stage.hpp"
#include "actors/states.hpp"
#include "tests/support/bare_receiver.hpp"
#include "tests/support/wire_bytes.hpp"

using namespace lockstep;

namespace {

/// A receiver's actor, and the test as all others: trainer, link and relay.
struct lone_receiver : stage {
  lone_receiver() {
    auto made = std::make_shared<actor_env>(*env);
    // What is staged waits for its commit, however slow this machine is.
    made->options.receiver.lease_ms = made->options.sync.stage_timeout_ms = 3'600'000;
    env = std::move(made);
    receiver = spawn(receiver_behavior, env, bytes, inc, caf::actor_cast<supervisor_actor>(test),
                     relay_side{caf::actor_cast<relay_actor>(relay), {}});
    step(target, 2);
    says(welcome_msg{cluster, 1});
  }

  template <class M>
  void says(const M& m) {
    test->send(receiver, m);
  }
  void says(const welcome_msg& m) {  // as its link passes it on
    says(welcome{m.run, caf::actor_cast<join_actor>(test)});
  }
  void attach() {
    says(attach_msg{{cluster, {1, 1}, inc}, {{1, 0}, state(base), 0}, shape.fingerprint(), 7});
    answers(reply_kind::attached);
  }
  void stage_target() {
    const auto delta = encode_delta(shape, views_of(base), views_of(target), 1u << 20);
    says(prepare_msg{txn, {1, 0}, state(base), {{1, 2}, state(target), 1}, delta.content});
    for (std::uint32_t i = 0; i < delta.buckets.size(); ++i)
      says(bucket_msg{txn, i, delta.buckets[i]});
    answers(reply_kind::vote_yes);
  }
  void commit() {
    says(commit_msg{txn, state(target), 8, 1});
    answers(reply_kind::ack);
  }
  /// Returns when it has heard all that was said: how many audits before this one it has answered.
  std::size_t settle() {
    says(audit_msg{cluster, inc, ++settled});
    for (std::size_t others = 0;; ++others) {
      const auto reply = next<audit_reply_msg>();
      REQUIRE(reply);
      if (reply->challenge == settled) return others;
    }
  }
  bool strange(const auto& m) const { return m.cluster != cluster || m.inc != inc; }

  static digest state(const weight_buffer& w) { return digest_of(public_digest_seed, views_of(w)); }

  const incarnation inc{1, 1};
  const std::uint64_t cluster = env->cluster;
  const envelope txn{cluster, {1, 2}, inc};
  const layout shape = small_layout();
  const weight_buffer base = random_weights(shape, 1);
  weight_buffer target = random_weights(shape, 1);
  guarded_memory memory{base};
  const std::shared_ptr<engine> bytes =
      std::make_shared<engine>(receiver_id{7}, "7", shape, memory.tensors(), receiver_hooks{},
                               std::shared_ptr<fault_source>());
  caf::scoped_actor relay{*rt.inside().system};
  receiver_actor receiver;

 private:
  void answers(reply_kind kind) {
    const auto reply = next<reply_msg>();
    REQUIRE(reply);
    CHECK(reply->kind == kind);
  }

  std::uint64_t settled = 0;
};

/// Says `said` with each bit flipped in turn: the engine is as it was, and so is what it shows.
template <class M, class Check>
void say_altered(lone_receiver& r, const M& said, Check check) {
  const auto memory = r.memory;
  const auto state = r.bytes->state();
  const auto played = for_each_altered(said, [&](const wire_message& altered, std::size_t bit) {
    const auto& m = std::get<M>(altered);
    CAPTURE(name_of(altered), bit);
    r.says(m);
    check(m, r.settle());
    REQUIRE((r.memory == memory));
    REQUIRE((r.bytes->state() == state));
  });
  CHECK(played >= 100);
}

}  // namespace

TEST_CASE("what is not for a receiver's machine writes nothing, whatever of it is altered") {
  lone_receiver r;
  const bool serves = GENERATE(false, true);
  if (serves) {
    r.attach();
    r.stage_target();
  }
  r.settle();
  REQUIRE(r.bytes->state().ready == serves);

  say_altered(r, audit_msg{r.cluster, r.inc, 1ull << 40}, [&](const auto& m, std::size_t answers) {
    CHECK(answers == (r.strange(m) ? 0 : 1));
  });
  say_altered(r, welcome_msg{r.cluster, 1}, [](const auto&, std::size_t) {});
  say_altered(r, refused_msg{r.cluster, r.inc, errc::wrong_layout, "why"},
              [&](const auto& m, std::size_t) {
                const bool believed = !serves && !r.strange(m);
                CHECK(r.bytes->refusal().reason == (believed ? m.reason : errc::none));
                r.bytes->refuse({});
              });
  say_altered(r, relay_parent_msg{r.cluster, r.inc, {1, 1}, 2, 1, 8, "8", "there", 1},
              [&](const auto& m, std::size_t) {
                const auto order = next_of<relay_order>(r.relay);
                REQUIRE(order);
                CHECK(order->what == m);  // the relay has guards of its own
              });
  std::size_t cut = 0;
  const auto buckets = full_plan(r.shape, views_of(r.base), 1).content().buckets.size();
  say_altered(
      r,
      relay_lend_msg{
          r.cluster, r.inc, {1, 3}, {1, 0}, 8, {8, 8}, 1, static_cast<std::uint32_t>(buckets), 0},
      [&](const auto& m, std::size_t) {
        const bool heard = m.inc == r.inc;
        const auto lent = next_of<relay_lent>(r.relay, heard ? 10s : 0s);
        REQUIRE(lent.has_value() == heard);
        if (!lent) return;
        CHECK(lent->whole == (serves && m.version == version_ref{1, 0}));
        r.relay->send(r.receiver, relay_cut{m, m.first});
        const auto made = next_of<relay_made>(r.relay);
        REQUIRE(made);
        if (made->bytes.size() == 0) return;
        CHECK(lent->whole);
        ++cut;
      });
  CHECK((cut > 0) == serves);

  // And what was under way goes on.
  if (serves)
    r.commit();
  else
    r.attach();
  CHECK(r.bytes->state().ready);
  CHECK((r.memory == guarded_memory(serves ? r.target : r.base)));
}
