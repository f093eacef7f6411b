// Decides how an actor sees to it that its machine is called when a deadline passes.
#pragma once

#include <algorithm>
#include <optional>
#include <vector>

#include "actors/interfaces.hpp"

namespace lockstep {

/// Keeps a tick under way to `self` for the soonest deadline. Delayed messages cannot be called
/// back in CAF 0.17; a tick that comes too early finds nothing due and does no harm.
class tick_timer {
 public:
  template <class Self>
  void arm(Self* self, std::optional<time_point> due) {
    if (!due || (!under_way_.empty() && under_way_.back() <= *due)) return;
    under_way_.push_back(*due);
    const auto wait = *due - self->clock().now();
    self->delayed_send(self, std::max(wait, decltype(wait)::zero()), tick{});
  }

  /// A tick has come.
  void fired() {
    if (!under_way_.empty()) under_way_.pop_back();
  }

 private:
  /// Soonest last, as they will come. A tick that was overtaken by a sooner one is still to come:
  /// forgotten, it would be followed by one of its own for as long as there is a deadline, and so
  /// would each that is overtaken after it.
  std::vector<time_point> under_way_;
};

}  // namespace lockstep
