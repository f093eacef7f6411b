// Decides how long is waited: "for ever" must not become a time that is past, and who fails again
// and again is tried less and less often.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>

#include "config/settings.hpp"

namespace lockstep {

/// `timeout`, as long as a clock can add it to now; none below zero.
inline std::chrono::milliseconds patience_of(std::chrono::milliseconds timeout) {
  using std::chrono::milliseconds;
  constexpr milliseconds longest = std::chrono::hours(100 * 365 * 24);
  return std::clamp(timeout, milliseconds(0), longest);
}

/// How long a rank of a trainer that seeds waits for the others; none where there are none.
inline std::chrono::milliseconds rank_patience(const settings& s) {
  return std::chrono::milliseconds(s.transport.ranks > 1 ? s.sync.recovery_timeout_ms : 0);
}

/// The wait after the failure number `failures`, counted from 0: doubles with each, up to a bound.
inline std::chrono::milliseconds wait_after(std::uint32_t failures, std::uint32_t first_ms,
                                            std::uint32_t longest_ms) {
  const auto doublings = std::min(failures, 20u);
  return std::chrono::milliseconds(
      std::min<std::uint64_t>(std::uint64_t{first_ms} << doublings, longest_ms));
}

}  // namespace lockstep
