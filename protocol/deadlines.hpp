// Decides how long each step may take, from the settings and the bytes that have to move.
#pragma once

#include <chrono>
#include <cstdint>

#include "config/settings.hpp"

namespace lockstep {

/// Time for `bytes` over the slowest link that the deadlines allow for.
inline std::chrono::milliseconds transfer_time(const settings& s, std::uint64_t bytes) {
  const auto rate = static_cast<double>(s.sync.link_bytes_per_s);
  return std::chrono::milliseconds(
      static_cast<std::int64_t>(1000.0 * static_cast<double>(bytes) / rate));
}

/// From the first bucket of a delta to the last vote.
inline std::chrono::milliseconds stage_timeout(const settings& s, std::uint64_t bytes) {
  return std::chrono::milliseconds(s.sync.stage_timeout_ms) + transfer_time(s, bytes);
}

/// From the first bucket of a full transfer to its proof.
inline std::chrono::milliseconds full_timeout(const settings& s, std::uint64_t bytes) {
  return std::chrono::milliseconds(s.sync.full_timeout_ms) + transfer_time(s, bytes);
}

/// Most bytes that all frames of a full transfer of a model may have: the weights, a frame header
/// for each range of them, and one for each of up to 2^20 small tensors.
inline std::uint64_t full_bytes_limit(std::uint64_t model_bytes) {
  return model_bytes + model_bytes / 64 + (128ull << 20);
}

}  // namespace lockstep
