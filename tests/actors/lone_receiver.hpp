// Decides how a test is all that a receiver's actor hears of.
#pragma once

#include <caf/scoped_actor.hpp>
#include <catch2/catch.hpp>
#include <memory>

#include "actors/stage.hpp"
#include "actors/states.hpp"
#include "tests/support/bare_receiver.hpp"

namespace lockstep {

/// A receiver's actor, and the test as all others: trainer, link and relay.
struct lone_receiver : stage {
  explicit lone_receiver(std::uint64_t staged_bytes_max = settings().receiver.staged_bytes_max,
                         std::shared_ptr<fault_source> faults = {})
      : bytes(std::make_shared<engine>(receiver_id{7}, "7", shape, memory.tensors(),
                                       receiver_hooks{}, std::move(faults))) {
    auto made = std::make_shared<actor_env>(*env);
    // What is staged waits for its commit, however slow this machine is.
    made->options.receiver.lease_ms = made->options.sync.stage_timeout_ms = 3'600'000;
    made->options.receiver.staged_bytes_max = staged_bytes_max;
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
  /// What it says to its join next.
  reply_msg answers(reply_kind kind) {
    const auto reply = next<reply_msg>();
    REQUIRE(reply);
    CHECK(reply->kind == kind);
    return *reply;
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
  const std::shared_ptr<engine> bytes;
  caf::scoped_actor relay{*rt.inside().system};
  receiver_actor receiver;

 private:
  std::uint64_t settled = 0;
};

}  // namespace lockstep
