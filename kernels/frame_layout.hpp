// Decides where the header's fields stand and what the payload's gaps mean, for encoder and
// decoder.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/frame.hpp"

namespace lockstep::kernels {

/// A frame, and the format's version, 2.
inline constexpr std::uint8_t frame_magic = 0xf2;

/// Byte offsets of the header's fields; all little-endian. The checksum covers all that follows it.
namespace field {
inline constexpr std::size_t magic = 0;           // 1 byte
inline constexpr std::size_t checksum = 1;        // 4
inline constexpr std::size_t encoding = 5;        // 1
inline constexpr std::size_t unit = 6;            // 1
inline constexpr std::size_t tensor = 7;          // 4
inline constexpr std::size_t range = 11;          // 3: the offset, in ranges
inline constexpr std::size_t count = 14;          // 3
inline constexpr std::size_t payload_bytes = 17;  // 4
}  // namespace field

/// No tensor is longer: what 3 bytes can number of ranges.
inline constexpr std::uint64_t framable_bytes_max = frame_span_bytes_max << 24;

/// A gap of this value means: skip that many elements, no element follows.
inline constexpr std::uint16_t gap_escape = 0xffff;
inline constexpr std::size_t gap_bytes = 2;

/// Checksum of a whole frame, without the fields it does not cover.
std::uint32_t frame_checksum(bytes_view whole) noexcept;

/// Completes the header of `f` before a payload that runs from `start + frame_header_bytes` to the
/// end of `out`.
void write_header(std::vector<std::byte>& out, std::size_t start, const frame& f) noexcept;

/// @throws std::invalid_argument if no frame of `tensor` begins at `offset`.
void require_range(const tensor_view& tensor, std::size_t offset);

/// @throws std::invalid_argument if `f` is not of a range of `live`.
void require_fit(const frame& f, const tensor_view& live);

/// Calls `visit` with a zero of the unsigned type of `unit` bytes.
template <class Visit>
auto with_unit(std::uint32_t unit, Visit visit) {
  switch (unit) {
    case 1:
      return visit(std::uint8_t{});
    case 2:
      return visit(std::uint16_t{});
    case 4:
      return visit(std::uint32_t{});
    default:
      return visit(std::uint64_t{});
  }
}

/// Whether `tensor` is one that frames can describe.
inline bool is_framable(const tensor_view& tensor) noexcept {
  const std::uint32_t unit = tensor.unit;
  return (unit == 1 || unit == 2 || unit == 4 || unit == 8) && tensor.bytes.size % unit == 0 &&
         tensor.bytes.size <= framable_bytes_max;
}

/// Length of the range that starts at `offset` < `size`.
inline std::uint32_t range_bytes_at(std::uint64_t size, std::uint64_t offset) noexcept {
  return static_cast<std::uint32_t>(std::min<std::uint64_t>(frame_span_bytes_max, size - offset));
}

}  // namespace lockstep::kernels
