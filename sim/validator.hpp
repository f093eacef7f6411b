// Decides whether what the actors of a simulated fleet do is what the model of the protocol allows,
// step by step.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "sim/fleet.hpp"
#include "sim/mailbox.hpp"
#include "sim/relation.hpp"
#include "sim/relation_trainer.hpp"

namespace lockstep::sim {

/// Trace validation: every step of a receiver or a sender is looked up in the model's transitions,
/// and what joins, snapshots and flushers do of it for the sender is held to be that.
class validator {
 public:
  explicit validator(fleet& of) : fleet_(of) {}

  // Around the handling of one message by one actor.
  void before(caf::scheduled_actor& actor, caf::mailbox_element* message);
  void after(caf::scheduled_actor& actor);
  void on_ended(const caf::scheduled_actor& actor) { joins_.erase(actor.id()); }
  /// What it says to another process meanwhile, whether or not anybody hears it.
  void on_said(endpoint from, const address& to, const caf::type_erased_tuple& m);
  /// The executor of the receiver whose step this is makes up its answer.
  void on_lie() { lied_ = true; }

  /// Empty while every step was the model's.
  const std::string& violation() const noexcept { return violation_; }
  /// Of how many joins it keeps what they were told.
  std::size_t joins_kept() const noexcept { return joins_.size(); }

 private:
  void finish(receiver_process& r);
  void finish(trainer_process& t);
  // validator_trainer.cpp
  void before_join(caf::scheduled_actor& actor, const caf::mailbox_element& message);
  void before_snapshot(caf::scheduled_actor& actor, const caf::mailbox_element& message);
  void note_announced(const caf::type_erased_tuple& m);
  void before_flusher(caf::scheduled_actor& actor, const caf::type_erased_tuple& content);
  void finish_join();
  void finish_snapshot(caf::scheduled_actor& actor);
  void finish_flusher();
  std::optional<std::string> check_advance(const caf::scheduled_actor& actor);

  void note_shipped(const sender_state& s);
  /// `what` begins the violation, which names the promise as the checker's do.
  void judge(std::string_view what, const std::optional<std::string>& why);

  fleet& fleet_;
  std::optional<receiver_step> receiver_;
  std::optional<sender_step> sender_;
  /// At the flusher for each of those to whom the sender has a way.
  std::vector<std::pair<participant, waiting_at<ship_request>>> shipped_;
  /// A join's step.
  struct join_half {
    join_relation* told = nullptr;
    std::optional<waiting_at<round_result>> results;  ///< at its sender
    std::optional<sync_action::conclude> asked;
    std::optional<waiting_at<join_verdict>> verdicts;  ///< at its snapshot, where that is known
  };
  /// A snapshot's, at whatever rank.
  struct snapshot_half {
    snapshot_step step;
    waiting_at<stage_result> staged;  ///< at who asks
    waiting_at<advance_result> advanced;
  };
  /// A flusher's, likewise.
  using announcement = std::pair<std::size_t, envelope>;  ///< which of those of `ship_request`
  struct flusher_half {
    std::vector<announcement> told;  ///< to announce,
    std::vector<announcement> said;  ///< and what it has announced
  };
  std::optional<join_half> join_;
  std::optional<snapshot_half> snapshot_;
  std::optional<flusher_half> flusher_;
  std::map<caf::actor_id, join_relation> joins_;
  bool born_ = false;  ///< the step is its machine's first
  bool lied_ = false;
  endpoint where_ = 0;
  std::string violation_;
};

}  // namespace lockstep::sim
