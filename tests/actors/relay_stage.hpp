// Decides how a test plays all whom a relay speaks to, but its parents.
#pragma once

#include <catch2/catch.hpp>

#include "actors/relay.hpp"
#include "actors/stage.hpp"
#include "actors/states.hpp"

namespace lockstep {

/// A relay, the test as its receiver, and somebody who wants the second of two stripes.
struct relay_stage : stage {
  explicit relay_stage(relay_dialer dial = {}, std::uint32_t credit = 1) : stage(credit) {
    relay = spawn(relay_behavior, env, receiver_id{1}, std::string("1"), inc, std::move(dial),
                  flusher_actor());
  }

  void asks() { child->send(relay, ask); }
  /// The trainer's word on a loan, by way of the receiver.
  void lend(const relay_lend_msg& what, bool whole) {
    test->send(relay, relay_lent{what, caf::actor_cast<receiver_actor>(test), whole});
  }
  /// The receiver is asked for a bucket that is lent.
  void cut(std::uint32_t index, txn_ref txn = {2, 5}) {
    const auto m = next<relay_cut>();
    REQUIRE(m);
    CHECK(m->what.child == 9);
    CHECK(m->what.txn == txn);
    CHECK(m->index == index);
  }
  void made(std::uint32_t index, payload bytes, txn_ref txn = {2, 5}) {
    test->send(relay, relay_made{9, txn, index, std::move(bytes)});
  }
  /// A shipment of seven is announced.
  void begin(txn_ref txn) { announces({cluster, txn, inc}); }
  void announces(const envelope& e, bucket_hash how = bucket_hash::sha256) {
    auto infos = std::make_shared<std::vector<bucket_info>>(7);
    for (auto& info : *infos) info = {some.size(), hash_of(some, how)};
    test->send(relay, relay_begin{e, std::move(infos), caf::actor_cast<flusher_actor>(test)});
  }
  /// The receiver has taken a bucket of it: staged, or written if there are no bytes.
  void kept(txn_ref txn, std::uint32_t index, payload bytes = {}) {
    test->send(relay, relay_kept{txn, index, std::move(bytes)});
  }

  /// The next that the child gets, which it does not take yet.
  void brought(std::uint32_t index, txn_ref txn = {2, 5}) {
    const auto out = next_of<bucket_msg>(child);
    REQUIRE(out);
    CHECK(out->env == envelope{cluster, txn, childs});
    CHECK(out->index == index);
  }
  void takes(std::uint32_t index, txn_ref txn = {2, 5}) {
    child->send(relay, credit_msg{{cluster, txn, childs}, 9, index});
  }
  void passed_on(std::uint32_t index, txn_ref txn = {2, 5}) {
    brought(index, txn);
    takes(index, txn);
  }
  void nothing() { CHECK_FALSE(next<relay_cut>(100ms)); }
  void nothing_passed_on() { CHECK_FALSE(next_of<bucket_msg>(child, 100ms)); }

  static constexpr incarnation inc{1, 1}, childs{9, 9};
  const std::uint64_t cluster = env->cluster;
  const payload some{std::vector<std::byte>(10)};
  relay_ask_msg ask{cluster, 9, childs, 1, 2, 1};
  const relay_lend_msg word{cluster, inc, {2, 5}, {2, 4}, 9, childs, 100, 7, 0};
  caf::scoped_actor child{*rt.inside().system};
  relay_actor relay;
};

}  // namespace lockstep
