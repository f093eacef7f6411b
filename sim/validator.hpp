// Decides whether what the actors of a simulated fleet do is what the model of the protocol allows,
// step by step.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "sim/fleet.hpp"
#include "sim/mailbox.hpp"
#include "sim/relation.hpp"

namespace lockstep::sim {

/// Trace validation: every step of a receiver or a sender is looked up in the model's transitions.
class validator {
 public:
  explicit validator(fleet& of) : fleet_(of) {}

  // Around the handling of one message by one actor.
  void before(caf::scheduled_actor& actor, caf::mailbox_element* message);
  void after(caf::scheduled_actor& actor);
  /// What it says to another process meanwhile, whether or not anybody hears it.
  void on_said(endpoint from, const address& to, const caf::type_erased_tuple& m);
  /// The executor of the receiver whose step this is makes up its answer.
  void on_lie() { lied_ = true; }

  /// Empty while every step was the model's.
  const std::string& violation() const noexcept { return violation_; }
  std::uint64_t steps() const noexcept { return steps_; }
  const coverage& seen() const noexcept { return seen_; }

 private:
  void finish(receiver_process& r);
  void finish(trainer_process& t);
  void note_shipped(const sender_state& s);
  /// `what` begins the violation, which names the promise as the checker's do.
  void judge(std::string_view what, const std::optional<std::string>& why);

  fleet& fleet_;
  std::optional<receiver_step> receiver_;
  std::optional<sender_step> sender_;
  /// At the flusher for each of those to whom the sender has a way.
  std::vector<std::pair<participant, waiting_at<ship_request>>> shipped_;
  bool born_ = false;  ///< the step is its machine's first
  bool lied_ = false;
  endpoint where_ = 0;
  coverage seen_;
  std::uint64_t steps_ = 0;
  std::string violation_;
};

}  // namespace lockstep::sim
