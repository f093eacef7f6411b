// Decides how long a thread may be told to wait: "for ever" must not become a time that is past.
#pragma once

#include <algorithm>
#include <chrono>

namespace lockstep {

/// `timeout`, as long as a clock can add it to now; none below zero.
inline std::chrono::milliseconds patience_of(std::chrono::milliseconds timeout) {
  using std::chrono::milliseconds;
  constexpr milliseconds longest = std::chrono::hours(100 * 365 * 24);
  return std::clamp(timeout, milliseconds(0), longest);
}

}  // namespace lockstep
