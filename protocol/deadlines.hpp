// Decides how long each step may take, from the settings and the bytes that have to move.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>

#include "config/settings.hpp"

namespace lockstep {

/// How long the other end of a connection may keep silent, or leave what is sent to it without an
/// acknowledgement, before the connection is given up: a quarter of a lease less than two, so that
/// it is over within two leases on a busy machine as well.
inline std::chrono::milliseconds silence_max(const settings& s) {
  const std::chrono::milliseconds lease(s.receiver.lease_ms);
  return 2 * lease - lease / 4;
}

/// Longest time that is reckoned with: a sum of several is still one that the clock can say.
inline constexpr std::chrono::milliseconds transfer_time_max = std::chrono::hours(365 * 24);

inline std::chrono::milliseconds reckoned(double ms) {
  if (ms >= static_cast<double>(transfer_time_max.count())) return transfer_time_max;
  return std::chrono::milliseconds(static_cast<std::int64_t>(ms));
}

/// Time for `bytes` over the slowest link that the deadlines allow for.
inline std::chrono::milliseconds transfer_time(const settings& s, std::uint64_t bytes) {
  return reckoned(1000.0 * static_cast<double>(bytes) /
                  static_cast<double>(s.sync.link_bytes_per_s));
}

/// Time for reading or writing all weights in place: memory is at least ten times as fast as links.
inline std::chrono::milliseconds scan_time(const settings& s, std::uint64_t model_bytes) {
  return transfer_time(s, model_bytes) / 10;
}

/// What a delta costs those who take it.
struct delta_size {
  delta_size() = default;
  // NOLINTNEXTLINE(google-explicit-constructor)
  delta_size(std::uint64_t wire_bytes, std::uint64_t changes = 0)
      : bytes(wire_bytes), changed(changes) {}
  std::uint64_t bytes = 0;    ///< of all its frames
  std::uint64_t changed = 0;  ///< elements
};

/// Time for decoding so many changes on one core with the plain loops, for half of it to spare: a
/// change takes a vector's loops 13 ns and half a byte of the wire (docs/codec.md), so that bytes
/// say little of the work where a link is fast. There are no more changes than bytes of weights.
inline std::chrono::milliseconds decode_time(std::uint64_t changed, std::uint64_t model_bytes) {
  constexpr double each_ms = 50e-6;
  return reckoned(each_ms * static_cast<double>(std::min(changed, model_bytes)));
}

/// From the first bucket of a delta to the last vote, which takes a proof of the base.
inline std::chrono::milliseconds stage_timeout(const settings& s, const delta_size& size,
                                               std::uint64_t model_bytes) {
  return std::chrono::milliseconds(s.sync.stage_timeout_ms) + transfer_time(s, size.bytes) +
         decode_time(size.changed, model_bytes) + scan_time(s, model_bytes);
}

/// How long a receiver keeps a delta whose fate it does not hear.
inline std::chrono::milliseconds undecided_timeout(const settings& s, const delta_size& size,
                                                   std::uint64_t model_bytes) {
  return 2 * stage_timeout(s, size, model_bytes);
}

/// From the first bucket of a delta to the snapshot's word on it: longer than the votes take, and
/// soon enough for receivers to hear what was decided while they still keep it.
inline std::chrono::milliseconds proof_timeout(const settings& s, const delta_size& size,
                                               std::uint64_t model_bytes) {
  return stage_timeout(s, size, model_bytes) * 3 / 2;
}

/// From the first bucket of a full transfer to its proof.
inline std::chrono::milliseconds full_timeout(const settings& s, std::uint64_t bytes) {
  return std::chrono::milliseconds(s.sync.full_timeout_ms) + transfer_time(s, bytes);
}

/// For the snapshot to take up a delta: work of this process that no peer can delay, so the bound
/// is against a hang only and no setting shortens it.
inline std::chrono::milliseconds advance_timeout(const settings& s, std::uint64_t model_bytes) {
  return std::chrono::minutes(1) + transfer_time(s, model_bytes);
}

/// Most bytes that all frames of a full transfer of a model may have: the weights, a frame header
/// for each range of them, and one for each of up to 2^20 small tensors.
inline std::uint64_t full_bytes_limit(std::uint64_t model_bytes) {
  return model_bytes + model_bytes / 64 + (128ull << 20);
}

}  // namespace lockstep
