// Decides how an actor sees to it that its machine is called when a deadline passes.
#pragma once

#include <algorithm>
#include <optional>

#include "actors/interfaces.hpp"

namespace lockstep {

/// Keeps a tick under way to `self` for the soonest deadline. Delayed messages cannot be called
/// back in CAF 0.17; a tick that comes too early finds nothing due and does no harm.
class tick_timer {
 public:
  template <class Self>
  void arm(Self* self, std::optional<time_point> due) {
    if (!due || (armed_ && *armed_ <= *due)) return;
    armed_ = due;
    const auto wait = *due - self->clock().now();
    self->delayed_send(self, std::max(wait, decltype(wait)::zero()), tick{});
  }

  /// A tick has come.
  void fired() { armed_.reset(); }

 private:
  std::optional<time_point> armed_;
};

}  // namespace lockstep
