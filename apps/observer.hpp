// Decides how the program asks a trainer's process about its fleet.
#pragma once

#include <chrono>
#include <functional>
#include <string>
#include <vector>

#include "config/settings.hpp"
#include "messages/observer.hpp"

namespace lockstep {

/// What the trainer's side answered.
struct answer_of_fleet {
  std::vector<receiver_status> states;
  std::vector<receiver_audit> audits;
  relay_report relays;
  std::vector<receiver_failure> failures;
  observed_msg end;
};

/// Asks the trainer at `address` (HOST:PORT). Throws `error{unreachable}` or `error{timeout}` if it
/// does not answer within `patience`, `error{bad_input}` for an address or answer that is none and
/// where it says that another is to be asked, and
/// `error{shut_down}` soon after `told_to_stop`, which is asked again and again, says so.
answer_of_fleet ask_fleet(
    const settings& options, const std::string& address, question what,
    std::chrono::milliseconds patience,
    const std::function<bool()>& told_to_stop = [] { return false; });

}  // namespace lockstep
