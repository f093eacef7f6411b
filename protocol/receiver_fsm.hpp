// Decides what a receiver does with every message: which it obeys, when bytes may be written, and
// when it may serve. Pure: it names actions and never performs one.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <span>
#include <variant>
#include <vector>

#include "config/settings.hpp"
#include "messages/from_receiver.hpp"
#include "messages/to_receiver.hpp"

namespace lockstep {

/// Time as the machines see it: a monotonic clock, read by the caller.
using time_point = std::chrono::steady_clock::time_point;

/// What the machine asks its executor to do, in this order and before the next event. Whatever can
/// fail is reported back by the event named beside it; until then the machine does not believe it.
namespace receiver_action {

/// Stop the engine at a step boundary. Failure: `on_write_failed(txn, hook_failed, …)`, and the
/// rest of the list must not be performed.
struct pause {
  txn_ref txn;
};
/// Keep this bucket's payload until `drop_slot`.
struct keep_bucket {
  std::uint32_t index;
};
/// Forget all staged payloads.
struct drop_slot {};
/// Prove, writing nothing, that the bytes held digest to `base` and that the staged frames are well
/// formed and lead to `target`. Answer: `on_verified`.
struct verify_slot {
  txn_ref txn;
  digest base;
  digest target;
};
/// Prove only that the staged frames are well formed: the bytes held may be torn. Answer:
/// `on_verified`.
struct check_slot {
  txn_ref txn;
};
/// Overwrite from the staged frames, tell the engine, digest all weights afresh. Answer:
/// `on_applied` or `on_write_failed`.
struct apply_slot {
  txn_ref txn;
  target_info target;
  std::uint64_t challenge;
};
/// Overwrite from this bucket of full frames. Answer: `on_bucket_written` or `on_write_failed`.
struct write_bucket {
  txn_ref txn;
  std::uint32_t index;
};
/// All buckets of a full are written: tell the engine, digest all weights afresh. Answer:
/// `on_applied` or `on_write_failed`.
struct finish_full {
  txn_ref txn;
  target_info target;
  std::uint64_t challenge;
};
/// Digest all weights afresh, without writing. Answer: `on_digest`.
struct compute_digest {
  txn_ref txn;
  std::uint64_t challenge;
};
/// Let the engine go on. A failure is an engine's own trouble: the bytes are right.
struct resume {
  target_info target;
};
/// Tell the engine and whoever asks whether it may serve.
struct publish {
  readiness state;
};
/// Answer the join.
struct reply {
  reply_msg message;
};
/// Answer the supervisor's ping.
struct pong {};
/// Say hello to whoever is the trainer's supervisor now.
struct announce {};
/// Let the flusher send another bucket.
struct grant_credit {
  std::uint32_t index;
};

using any =
    std::variant<pause, keep_bucket, drop_slot, verify_slot, check_slot, apply_slot, write_bucket,
                 finish_full, compute_digest, resume, publish, reply, pong, announce, grant_credit>;
using list = std::vector<any>;

}  // namespace receiver_action

/// The receiver's side of the protocol (docs/protocol.md, "Receiver"). Total: any event in any
/// state has a defined, bounded answer; what a fence does not let through is counted and otherwise
/// ignored. Invariants it keeps: I3 (what is served is what its tag names), I5 (an aborted sync
/// wrote nothing).
///
/// Not thread-safe; one owner calls it.
class receiver_fsm {
 public:
  struct identity {
    std::uint64_t cluster = 0;
    receiver_id id = 0;
    incarnation inc;
    hash128 layout;
    std::uint64_t model_bytes = 0;  ///< size of all weights: bounds what a full may carry
  };

  enum class slot_kind : std::uint8_t { delta, redo, full, catch_up };

  /// What observers may see of the machine: all that docs/protocol.md says its answers depend on,
  /// but time. Nobody else decides by it.
  struct summary {
    struct work {
      txn_ref txn;
      target_info target;

      friend bool operator==(const work&, const work&) = default;
    };
    struct slot_view : work {
      slot_kind kind = slot_kind::delta;
      std::uint32_t round = 0;  ///< what its answer will quote
      bool staged = false;      ///< all there and proven; never a full's

      friend bool operator==(const slot_view&, const slot_view&) = default;
    };
    std::uint64_t cluster = 0;
    receiver_id id = 0;
    incarnation inc;
    receiver_phase phase = receiver_phase::empty;
    txn_ref fence;
    target_info tag;  ///< version none unless `serving`
    std::optional<slot_view> slot;
    std::optional<work> attaching;
    std::optional<reply_kind> answered;  ///< to the transaction of the fence

    friend bool operator==(const summary&, const summary&) = default;
  };

  receiver_fsm(identity self, const settings& s);

  using actions = receiver_action::list;

  /// This life begins: it announces itself, and again whenever no trainer is heard of.
  actions on_start(time_point now);

  // What the trainer's side says.
  actions on_attach(time_point now, const attach_msg& m);
  actions on_prepare(time_point now, const prepare_msg& m);
  actions on_redo(time_point now, const redo_msg& m);
  actions on_full_begin(time_point now, const full_begin_msg& m);
  /// `bytes` and `hash` are those of the payload as it arrived.
  actions on_bucket(time_point now, const envelope& env, std::uint32_t index, std::uint64_t bytes,
                    const hash128& hash);
  actions on_commit(time_point now, const commit_msg& m);
  actions on_abort(time_point now, const abort_msg& m);
  actions on_ping(time_point now, const ping_msg& m);
  actions on_tick(time_point now);

  // What the executor reports. An answer to a superseded transaction is ignored.
  actions on_verified(txn_ref txn, errc reason, std::string detail);
  actions on_applied(txn_ref txn, const digest& state, const digest& proof);
  actions on_bucket_written(txn_ref txn, std::uint32_t index);
  actions on_write_failed(txn_ref txn, errc reason, std::string detail);
  actions on_digest(txn_ref txn, const digest& state, const digest& proof);

  const readiness& state() const noexcept { return state_; }
  summary summarize() const;
  /// True: this bucket will be taken, or refused; else it is one that no longer matters.
  bool awaits(const envelope& env, std::uint32_t index) const;
  /// From when on `state` is not ready any more, if nothing is heard before: known before `on_tick`
  /// says it. The end of time where nothing of the kind is to come.
  time_point trusted_until() const;
  /// When `on_tick` has something to do, if no message comes before.
  std::optional<time_point> deadline() const;
  /// All buckets of the transfer under way; none if there is none.
  std::span<const bucket_info> announced() const noexcept {
    if (!slot_) return {};
    return slot_->buckets;
  }
  /// Messages that a fence did not let through: zombies, duplicates and strangers.
  std::uint64_t ignored() const noexcept { return ignored_; }
  const identity& self() const noexcept { return self_; }

 private:
  /// The one transaction whose bytes are arriving or have arrived.
  struct slot {
    slot_kind kind = slot_kind::delta;
    envelope env;
    target_info target;
    digest base_state;
    std::vector<bucket_info> buckets;
    std::vector<bool> have;
    std::uint32_t arrived = 0;
    std::uint32_t written = 0;
    std::uint64_t challenge = 0;
    std::uint32_t round = 0;
    bool verified = false;
    time_point expires;
  };

  bool addressed(const envelope& env) const;
  bool newer(const envelope& env) const;
  bool current(const envelope& env) const;
  actions ignore();
  void raise_fence(const envelope& env);
  void drop_slot(actions& out);
  void open_slot(slot_kind kind, const envelope& env, const target_info& target,
                 const manifest& content, time_point expires);
  errc check_manifest(const manifest& m, std::uint64_t limit) const;
  actions on_catch_up(time_point now, const full_begin_msg& m);
  void slot_complete(actions& out);
  void start_apply(actions& out);
  void stop_serving(receiver_phase phase, errc why);
  void answer(actions& out, const envelope& env, std::uint32_t round, reply_kind kind,
              errc reason = errc::none, std::string detail = {}, digest proof = {});
  actions repeat_answer(const envelope& env, std::uint32_t round = 0);
  void adopt(actions& out, const target_info& target);
  void fail_write(actions& out, errc reason, std::string detail);
  void refresh(actions& out);
  void heard_trainer(time_point now);

  identity self_;
  settings settings_;

  std::uint64_t fence_run_ = 0;
  std::uint64_t fence_seq_ = 0;
  receiver_phase phase_ = receiver_phase::empty;
  target_info held_;  ///< the tag: what the bytes are; version none unless `serving`
  errc why_ = errc::none;
  bool paused_ = false;
  std::optional<slot> slot_;
  std::optional<attach_msg> attaching_;
  std::optional<reply_msg> last_reply_;
  version_ref fleet_;  ///< the highest version that the fleet was said to hold
  /// A higher version of the tag's run was heard of. Stays so whatever else is heard, until it is
  /// proven what is held.
  bool left_behind_ = false;
  std::optional<time_point> lease_until_;
  bool lease_expired_ = false;
  std::optional<time_point> announce_at_;  ///< from `on_start` on
  time_point announced_at_;
  readiness state_;
  readiness published_;
  std::uint64_t ignored_ = 0;
};

}  // namespace lockstep
