// Decides whether a simulated fleet keeps its promises: separate observers that see bytes, tags and
// reports, and look after every step.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <tuple>

#include "sim/answers.hpp"
#include "sim/saboteur.hpp"

namespace lockstep::sim {

/// The invariants are those of docs/protocol.md, by the same names.
class checker {
 public:
  checker(fleet& of, saboteur& names) : fleet_(of), names_(names) {}

  void before(caf::scheduled_actor& actor, caf::mailbox_element* message);
  void after(caf::scheduled_actor& actor);
  void before_time_passes();
  void on_ended(const caf::scheduled_actor& actor) { answers_.on_ended(actor.id()); }
  /// A receiver says something.
  void on_sent(endpoint from, const wire_message& m);
  /// A trainer says something to a receiver.
  void on_said(const trainer_process& t, endpoint to, const wire_message& m);
  /// A trainer comes to its next sync.
  void on_sync(const trainer_process& t);
  /// `by_leader`: the sender that made it leads its process's run still, and can be asked.
  void on_report(trainer_process& t, const sync_report& report, bool by_leader);
  /// Of another rank, in whose sync it had a part.
  void on_report(rank_process& p, const sync_report& report);
  /// A sync's report was there some time ago.
  void check_released(const trainer_process& t);
  /// Likewise, and the rank was told before its last sync that what it shipped was over.
  void check_released(const rank_process& p);
  /// A newer run leads the fleet, and this one was told so some time ago.
  void check_fenced(const trainer_process& t);
  /// A trainer starts from these bytes.
  void on_boot(std::uint64_t run, const bytes& from);

  /// Empty while every promise was kept.
  const std::string& violation() const noexcept { return violation_; }
  void violated(const std::string& what) {
    if (violation_.empty()) violation_ = what;
  }

  /// Of how many joins it keeps the round that they were told of.
  std::size_t joins_kept() const noexcept { return answers_.joins(); }

  /// Members that hold the snapshot, serve it, and whose trainer is at rest.
  bool is_whole(const trainer_process& t) const;

 private:
  /// A trainer's side begins its next run from what the one before has left.
  void on_taken_over(const trainer_process& t, std::uint64_t run, const bytes& from);
  void check(receiver_process& r);
  void check(trainer_process& t);
  void check(rank_process& p);
  void check_rest(const trainer_process& t, const trainer_actors& actors,
                  const receiver_process& r);
  void check_snapshot(const trainer_process& t, const trainer_actors& actors);
  void check_proven(const trainer_process& t, const receiver_process& r,
                    const receiver_state& receiver, version_ref held);
  std::optional<version_ref> held_by(const rank_process& p, std::uint64_t run) const;
  void check_bounds(caf::scheduled_actor& actor);
  void check_participant(const trainer_process& t, const sync_report& report,
                         const participant_report& p);
  void check_answers(const trainer_process& t, const sync_report& report, bool by_leader);
  void check_membership(const trainer_process& t, const participant_report& p);
  void check_ended(const trainer_process& t, endpoint to, const wire_message& m);
  void check_caught_up(const receiver_process& r, const reply_msg& m);
  void check_flusher(caf::scheduled_actor& actor);
  void hear_failures(const trainer_process& t, const caf::mailbox_element& message);
  void check_supervisor(const trainer_process& t);
  void check_history(endpoint where, const snapshot_store& store);
  void check_memory(const trainer_actors& actors);
  void listen(const caf::scheduled_actor& join, caf::mailbox_element* message);
  void hear(const trainer_process& t, const reply_msg& m);
  bool proved(const trainer_process& t, receiver_id id, version_ref version) const;
  void check_write(receiver_process& r);
  void check_engine(receiver_process& r, const receiver_state& s);
  void hear_lease(receiver_process& r, const caf::mailbox_element& message);
  void check_lease(const receiver_process& r);
  void note_kept(receiver_process& r, const receiver_state& s);
  void check_kept(const receiver_process& r);
  void check_result(const trainer_process& t, const sync_report& report, bool by_leader);
  void check_reason(const trainer_process& t, const sync_report& report, bool by_leader);
  bool explains(const trainer_process& t, const sync_report& aborted) const;
  bool names(version_ref version, const receiver_process& held) const;

  fleet& fleet_;
  saboteur& names_;
  std::map<version_ref, bytes> content_;         ///< what a version names
  std::map<version_ref, std::uint64_t> labels_;  ///< of several ranks: what trainers call it
  std::set<version_ref> committed_;              ///< somebody was told to commit them
  std::set<version_ref> decided_;                ///< of several ranks: whoever may advances to them
  /// Which life really reached what.
  std::set<std::tuple<receiver_id, version_ref, incarnation>> proven_;
  /// What a join has heard: a life's word, to this trainer, that it holds a version.
  std::set<std::tuple<endpoint, incarnation, version_ref>> heard_;
  answers answers_;
  /// Who takes part in the sync under way.
  std::map<endpoint, std::map<receiver_id, incarnation>> asked_;
  std::map<endpoint, std::vector<participant>> members_;  ///< before the step
  /// Where a trainer's snapshot stood when it pinged a receiver last.
  std::map<std::pair<endpoint, endpoint>, version_ref> pinged_;
  /// Transactions that are all weights, and to which life each receiver was told to lend its own.
  std::set<txn_ref> fulls_;
  std::set<txn_ref> catch_ups_;  ///< likewise, what has changed since
  std::set<std::tuple<endpoint, txn_ref, incarnation>> lent_;
  /// Under which challenge each transaction asks for proofs.
  std::map<std::uint64_t, txn_ref> challenges_;
  /// Whom a process has asked to stage what, and has told no end of it yet.
  std::map<std::tuple<endpoint, endpoint, incarnation>, txn_ref> prepared_;
  /// When the delta of the sync under way was there, and when its sender heard that the snapshot
  /// has staged it, or refuses.
  struct staging {
    time_point encoded;
    std::optional<time_point> answered;
  };
  std::map<endpoint, staging> staging_;
  /// How often a receiver has failed since a trainer last heard that it acknowledged a sync.
  std::map<std::pair<endpoint, receiver_id>, std::uint32_t> failed_;
  std::set<std::pair<endpoint, receiver_id>> given_up_;
  std::string violation_;
};

}  // namespace lockstep::sim
