// Decides how a trainer waits for a sync it has started.
#pragma once

#include <chrono>
#include <memory>
#include <optional>

#include "messages/report.hpp"

namespace lockstep {

class ticket_state;

/// One sync under way. Copies refer to the same sync. Thread-safe.
class ticket {
 public:
  explicit ticket(std::shared_ptr<ticket_state> state) : state_(std::move(state)) {}

  /// The report is there; `wait` returns at once.
  bool done() const;

  /// Waits for the report. It always comes: every step of a sync has its deadline in the settings.
  /// Throws `error{timeout}` if it has not come within the sum of them all, which is a bug.
  sync_report wait() const;

  /// Waits at most `timeout`.
  std::optional<sync_report> wait_for(std::chrono::milliseconds timeout) const;

 private:
  std::shared_ptr<ticket_state> state_;
};

}  // namespace lockstep
