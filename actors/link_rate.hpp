// Decides how fast a receiver's link is. Private to actors/.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>

#include "messages/ids.hpp"

namespace lockstep {

/// What one receiver's link has done with long shipments that came from here alone.
class link_rate {
 public:
  using time_point = std::chrono::steady_clock::time_point;

  /// Shorter shipments say more of latency than of rate.
  static constexpr std::uint64_t bytes_min = std::uint64_t{16} << 20;

  /// Bytes that are on their way from now on. What was not taken by then is forgotten. `written`:
  /// they are written where they arrive. Others are staged, bucket by bucket, before the next one
  /// is taken.
  void shipped(time_point now, txn_ref txn, std::uint64_t bytes, bool written) noexcept {
    if (bytes >= bytes_min) under_way_ = {txn, now, bytes, written};
  }
  /// All of that has been taken.
  void drained(time_point now, txn_ref txn) noexcept {
    if (under_way_.bytes == 0 || under_way_.txn != txn) return;
    const std::chrono::duration<double> took = now - under_way_.since;
    const auto rate = static_cast<double>(under_way_.bytes) / (took.count() + 1e-9);
    // With what is staged a link is at least as fast as it looks.
    bytes_per_s_ = under_way_.written ? rate : std::max(rate, bytes_per_s_);
    under_way_ = {};
  }
  /// 0 while nothing was measured.
  double bytes_per_s() const noexcept { return bytes_per_s_; }

 private:
  struct shipment {
    txn_ref txn;
    time_point since;
    std::uint64_t bytes = 0;
    bool written = false;
  };

  shipment under_way_;
  double bytes_per_s_ = 0;
};

}  // namespace lockstep
