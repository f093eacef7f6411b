// Decides how the trainer's side takes the fleet from one version to the next: who takes part, when
// it is committed, who is evicted, who is admitted again, and what the report says. Pure.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "config/settings.hpp"
#include "messages/report.hpp"
#include "messages/to_receiver.hpp"
#include "protocol/deadlines.hpp"
#include "protocol/join_fsm.hpp"

namespace lockstep {

/// What the machine asks the sender to do, in this order.
namespace sync_action {

/// Diff the trainer's tensors against the snapshot, encode, and have the snapshot prove that the
/// wire bytes lead to the trainer's weights. Answers: `on_encoded` once there is something to ship,
/// then `on_delta_proven`; or, also after the former, `on_encode_failed`.
struct encode {
  txn_ref txn;
  target_info base;
  std::uint64_t label;
};
/// Digest the snapshot under a fresh challenge. Answer: `on_proof`.
struct prove {
  txn_ref txn;
};
/// Prepare a full transfer of the snapshot, or, where that is smaller, of what has changed since it
/// was any of `held`; and digest it under a fresh challenge. Answer: `on_full_encoded`.
struct encode_full {
  txn_ref txn;
  target_info target;
  std::vector<digest> held;  ///< by who is behind; empty: all weights are wanted
};
/// Tell the join what to wait for. Stands before the messages that are answered to it.
struct open_round {
  round_spec spec;
};
/// Tell the join to wait for the round under way no longer than that.
struct hurry_round {
  round_hurry what;
};
/// Ask `who` whether they hold `target`.
struct send_attach {
  txn_ref txn;
  std::vector<participant> who;
  target_info target;
  std::uint64_t challenge;
};
/// Stream the encoded delta to `who`.
struct ship_delta {
  txn_ref txn;
  std::vector<participant> who;
  target_info base;
  target_info target;
};
/// Stream the same delta again to `who`, whose apply failed.
struct ship_redo {
  txn_ref txn;
  std::vector<participant> who;
  target_info target;
  std::uint64_t challenge;
  std::uint32_t round;
};
/// Stream what was prepared to `who`, as one broadcast: the whole snapshot, or what has changed.
struct ship_full {
  txn_ref txn;
  std::vector<participant> who;
  target_info target;
  std::uint64_t challenge;
  bool catch_up;
};
struct send_commit {
  txn_ref txn;
  std::vector<participant> who;
  digest target_state;
  std::uint64_t challenge;
  std::uint32_t round;
};
struct send_abort {
  txn_ref txn;
  std::vector<participant> who;
};
/// Have the join say whether all of `view` acknowledged; on its word the snapshot advances. Answer:
/// `on_advanced` or `on_advance_failed`.
struct conclude {
  txn_ref txn;
  std::vector<participant> view;
};
/// Nothing of this transaction will be sent again: stop its streams, drop the pending delta.
struct release {
  txn_ref txn;
};
/// Tell the join that this life has ended.
struct mark_down {
  participant who;
  errc reason;
};
/// Tell the supervisor: out of the view.
struct evicted {
  participant who;
  errc reason;
  std::string detail;
};
/// Tell the supervisor: in the view, holding the snapshot's version.
struct admitted {
  participant who;
  admission how;
};
/// Tell the supervisor: could not be admitted this time.
struct not_admitted {
  participant who;
  errc reason;
  std::string detail;
};
/// The sync is over. Byte counts and durations are the sender's to fill in.
struct finish {
  sync_report report;
};

using any = std::variant<encode, prove, encode_full, open_round, hurry_round, send_attach,
                         ship_delta, ship_redo, ship_full, send_commit, send_abort, conclude,
                         release, mark_down, evicted, admitted, not_admitted, finish>;
using list = std::vector<any>;

}  // namespace sync_action

enum class sync_phase : std::uint8_t {
  idle,
  encoding,
  voting,
  committing,
  advancing,
  proving,  ///< an attach: digesting the snapshot
  attaching,
  full_encoding,
  seeding,
  failed,  ///< the snapshot cannot be trusted, or a newer run exists: boot again, as a new run
};

std::string_view to_string(sync_phase phase) noexcept;

/// The sender's machine: one transaction at a time, each under a fresh sequence number.
/// Invariants it keeps: I1 (idle: every member holds the snapshot), I2 (the snapshot never runs
/// ahead of a member), I4 (one terminal status each), I5 (aborted: nobody wrote).
///
/// Total: events that do not fit the phase, or name another transaction, are ignored. Not
/// thread-safe.
class sync_fsm {
 public:
  using actions = sync_action::list;

  /// What observers may see of the machine. Nobody else decides by it.
  struct summary {
    sync_phase phase = sync_phase::idle;
    txn_ref txn;              ///< the one under way, or the last
    std::uint32_t round = 0;  ///< of it
    target_info snapshot;
    target_info target;  ///< what the transaction leads to
    std::vector<participant> members;
    std::vector<participant> view;      ///< participants not evicted; means nothing at rest
    std::vector<participant> down;      ///< ended while the transaction may still count on them
    std::optional<round_result> votes;  ///< complete, while the snapshot still stages

    friend bool operator==(const summary&, const summary&) = default;
  };

  /// Boots run `run` from a frozen copy of the trainer's weights, as version {run, 0} with digest
  /// `state`. Assumes nothing about any receiver. `model_bytes`: size of all weights.
  sync_fsm(std::uint64_t cluster, std::uint64_t run, digest state, std::uint64_t label,
           std::uint64_t model_bytes, const settings& s);

  // From the embedding trainer. One sync may be in flight and none may wait: the caller queues.
  actions on_sync(time_point now, std::uint64_t label);
  /// The caller has a next one: the report waits no longer for who failed to be members again.
  actions on_next_wanted(time_point now);

  // From the executor.
  actions on_encoded(time_point now, txn_ref txn, const delta_size& size, const digest& target);
  /// The snapshot has staged the delta. Nothing is committed before, and if this does not come in
  /// time the sync aborts.
  actions on_delta_proven(time_point now, txn_ref txn, std::uint64_t challenge,
                          const digest& proof);
  actions on_encode_failed(time_point now, txn_ref txn, errc reason, std::string detail);
  actions on_proof(time_point now, txn_ref txn, std::uint64_t challenge, const digest& proof);
  /// `known`: those of `encode_full::held` that what was prepared leads from; empty: it is all
  /// weights.
  actions on_full_encoded(time_point now, txn_ref txn, std::uint64_t bytes, std::uint64_t challenge,
                          const digest& proof, const std::vector<digest>& known = {});
  actions on_advanced(time_point now, txn_ref txn);
  actions on_advance_failed(time_point now, txn_ref txn, std::string detail);

  // From the join.
  actions on_round(time_point now, round_result result);

  // From the supervisor.
  /// This life is there and wants to be a member.
  actions on_admit(time_point now, participant who);
  /// This life has ended, or left.
  actions on_down(time_point now, participant who, errc reason);
  /// Will not be tried again: do not wait for it.
  actions on_gave_up(time_point now, receiver_id id, errc reason);
  /// A receiver was heard to serve run `run`. If that is newer than ours, this run is over: it
  /// sends nothing any more (`fenced`), and the process has to stop or boot again as a new run.
  actions on_newer_run(time_point now, std::uint64_t run);
  actions on_tick(time_point now);

  sync_phase phase() const noexcept { return phase_; }
  bool busy() const noexcept { return report_.has_value(); }
  const target_info& snapshot() const noexcept { return snapshot_; }
  std::vector<participant> members() const;
  bool is_member(const participant& who) const {
    const auto it = members_.find(who.id);
    return it != members_.end() && it->second == who.inc;
  }
  /// What `encode` asked for is still to be proven.
  bool awaits_proof_of(txn_ref txn) const {
    return txn == txn_ &&
           (phase_ == sync_phase::encoding || (phase_ == sync_phase::voting && !staged_));
  }
  /// All others have voted, and it has not staged yet.
  bool awaits_snapshot() const { return votes_.has_value(); }
  /// A member, or somebody who may become one.
  bool counts_on(const participant& who) const;
  summary summarize() const;
  std::optional<time_point> deadline() const;

 private:
  struct wish {
    std::uint64_t label;
  };
  /// Who has to be brought up, and what it holds.
  struct laggard {
    participant who;
    digest held;
  };

  txn_ref fresh_txn();
  bool is_current(txn_ref txn, sync_phase phase) const { return txn == txn_ && phase == phase_; }
  void next(time_point now, actions& out);
  void start_sync(actions& out);
  void start_join(actions& out);
  void start_full(actions& out, bool may_catch_up);
  void settle_catch_up(actions& out, const outcome& o);
  bool lags(const participant& who) const;
  void end_join(time_point now, actions& out);
  void open_round(actions& out, round_kind kind, std::vector<participant> who, digest proof,
                  time_point deadline);
  /// The snapshot has spoken, or has not in time.
  void on_staged(time_point now, actions& out, std::pair<errc, std::string> result);
  /// Goes on once all have voted, the snapshot included.
  void count_votes(time_point now, actions& out);
  void on_votes(time_point now, actions& out, const round_result& result);
  void on_acks(time_point now, actions& out, const round_result& result);
  void on_attached(time_point now, actions& out, const round_result& result);
  void on_seeded(time_point now, actions& out, const round_result& result);
  /// Opens a round of an admission, in which `bytes` are sent to each and `time` is theirs.
  void open_admission(time_point now, actions& out, round_kind kind, std::uint64_t bytes,
                      const digest& proof, std::chrono::milliseconds time);
  void commit(time_point now, actions& out);
  void abort(time_point now, actions& out, errc reason, std::string detail,
             const std::vector<outcome>& outcomes);
  void after_sync(time_point now, actions& out);
  bool recovering() const;
  void finish_if_whole(time_point now, actions& out);
  void fail(actions& out, errc reason, const std::string& detail);
  void note(const outcome& o);
  void evict(actions& out, const outcome& o);
  void admit(actions& out, const participant& who, admission how);
  std::optional<std::string> suspect(const std::vector<outcome>& outcomes) const;
  participant_report* in_report(receiver_id id);

  std::uint64_t cluster_;
  settings settings_;
  std::uint64_t model_bytes_;
  std::uint64_t run_;
  std::uint64_t seq_ = 0;

  sync_phase phase_ = sync_phase::idle;
  errc failed_for_ = errc::none;
  target_info snapshot_;
  std::map<receiver_id, incarnation> members_;
  std::map<receiver_id, incarnation> candidates_;
  std::set<participant> down_;  ///< lives that ended while a transaction may still count on them

  // The transaction under way.
  txn_ref txn_;
  target_info target_;
  delta_size size_;
  std::uint64_t challenge_ = 0;
  digest proof_;
  /// What participant number zero says of the delta: `errc::none` is its yes. None: it stages.
  std::optional<std::pair<errc, std::string>> staged_;
  std::optional<round_result> votes_;      ///< of all others, while it does
  std::optional<time_point> proof_until_;  ///< voting: when it has to have spoken; none: it has
  std::uint32_t round_ = 0;
  std::uint32_t redo_left_ = 0;
  std::uint32_t resend_left_ = 0;
  std::optional<time_point> resend_at_;
  std::optional<time_point> advance_until_;
  std::vector<participant> view_;        ///< participants not evicted
  std::chrono::milliseconds hurried_{};  ///< attaching, seeding: for its round once a sync waits
  bool catch_up_ = false;                ///< seeding: what has changed only
  std::vector<laggard> behind_;  ///< who said so to the last attach, and is not being seeded yet
  std::set<receiver_id> full_next_;  ///< whom a catch-up has failed

  // The sync whose report is open.
  std::optional<wish> wish_;
  std::optional<sync_report> report_;
  bool next_wanted_ = false;  ///< its report waits for nobody's recovery
  std::set<receiver_id> recovering_;
  time_point recover_until_;  ///< means nothing unless `recovering()`
};

}  // namespace lockstep
