// Decides when the snapshot may move: only from a base it holds, to a target it has proven itself,
// after a join that was all ok.
#pragma once

#include <optional>

#include "messages/to_receiver.hpp"

namespace lockstep {

/// HOLD -> PENDING -> HOLD. Invariant I6: a version names one content, and the snapshot equals the
/// content of its version. Pure, total, not thread-safe.
class snapshot_fsm {
 public:
  /// `held` is what the trainer booted from.
  explicit snapshot_fsm(target_info held) : held_(held) {}

  struct pending {
    txn_ref txn;
    target_info target;
  };

  /// Participant number zero has decoded the wire bytes of `txn`: `predicted` is the digest that
  /// they lead to from the snapshot. False if that is not the target's, or the base is not ours.
  bool on_stage(txn_ref txn, const version_ref& base, const target_info& target,
                const digest& predicted) {
    pending_.reset();
    if (base != held_.version || predicted != target.state) return false;
    if (target.version != version_ref{txn.run, txn.seq}) return false;
    pending_ = pending{txn, target};
    return true;
  }

  /// The join's word on `txn`. Returns whether the snapshot must now apply the pending delta.
  bool may_advance(txn_ref txn, bool all_ok) const {
    return all_ok && pending_ && pending_->txn == txn;
  }

  /// The delta was applied and the bytes now digest to `state`. False: they are not the target's,
  /// the snapshot is unusable and the trainer has to boot again.
  bool on_applied(txn_ref txn, const digest& state) {
    if (!pending_ || pending_->txn != txn || pending_->target.state != state) return false;
    held_ = pending_->target;
    pending_.reset();
    return true;
  }

  void on_drop(txn_ref txn) {
    if (pending_ && pending_->txn == txn) pending_.reset();
  }

  const target_info& held() const noexcept { return held_; }
  const std::optional<pending>& staged() const noexcept { return pending_; }

 private:
  target_info held_;
  std::optional<pending> pending_;
};

}  // namespace lockstep
