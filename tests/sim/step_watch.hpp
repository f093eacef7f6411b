// Decides how the steps of real actors are seen from outside: their machines before and after one
// message, and what it made them send.
#pragma once

#include <caf/scheduled_actor.hpp>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "actors/states.hpp"
#include "sim/relation.hpp"

namespace lockstep {

/// Checks every step of receivers and senders against the model. Works where one thread runs one
/// actor at a time.
class step_watch {
 public:
  /// What was planned: answers that faults swallow or make up are not the machine's.
  explicit step_watch(std::vector<fault> planned = {}) : planned_(std::move(planned)) {}

  /// Around the handling of one message by `self`.
  void before(caf::scheduled_actor& self);
  void after();

  std::size_t steps() const { return steps_; }
  const sim::coverage& seen() const { return seen_; }
  /// What was not the model's, and how often.
  const std::map<std::string, int>& wrong() const { return wrong_; }

 private:
  struct receiver_half {
    receiver_actor::stateful_pointer<receiver_state> actor;
    std::optional<receiver_fsm::summary> before;  ///< none: not born yet
    caf::strong_actor_ptr join;
    std::size_t answers = 0;  ///< waiting there
    sim::receiver_step step;
  };
  struct sender_half {
    sender_actor::stateful_pointer<sender_state> actor;
    std::optional<sync_fsm::summary> before;
    std::map<participant, std::vector<sim::sender_step::word>> waiting;
    sim::sender_step step;
  };

  bool planned(fault_kind kind, const receiver_state& state) const;
  void finish(receiver_half& half);
  void finish(sender_half& half);
  void judge(const std::optional<std::string>& why);

  std::vector<fault> planned_;
  caf::strong_actor_ptr kept_;  ///< alive until its step has been looked at
  std::optional<receiver_half> receiver_;
  std::optional<sender_half> sender_;
  sim::coverage seen_;
  std::map<std::string, int> wrong_;
  std::size_t steps_ = 0;
};

}  // namespace lockstep
