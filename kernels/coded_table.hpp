// Decides what stands before the bits of a coded payload: the classes, and how each is coded.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/coded.hpp"
#include "kernels/frame.hpp"

namespace lockstep::kernels {

/// How the changes of one class are coded.
struct coded_class {
  std::uint32_t count = 0;       ///< changes
  std::uint32_t exceptions = 0;  ///< of these, steps that `value_bits` do not hold
  std::uint8_t gap_bits = 0;     ///< low bits of a gap; the rest is unary
  std::uint8_t value_bits = 0;   ///< low bits of a step's size
};

inline constexpr std::uint8_t gap_bits_max = 20;
inline constexpr std::uint8_t value_bits_max = 35;

/// The table of one coded payload.
struct coded_table {
  class_model model;
  std::array<coded_class, class_count_max> classes{};

  /// Bits of the fields of fixed width.
  std::uint64_t fixed_bits() const noexcept {
    std::uint64_t bits = 0;
    for (const auto& c : classes) bits += std::uint64_t{c.count} * (c.gap_bits + 1u + c.value_bits);
    return bits;
  }
};

/// Low bits of the distance between exceptions: what suits `count` changes with so many of them.
inline std::uint8_t exception_gap_bits(std::uint32_t count, std::uint32_t exceptions) noexcept {
  const std::uint64_t mean = std::uint64_t{count} * 11 / (std::uint64_t{exceptions} * 16 + 1);
  std::uint8_t bits = 0;
  while (mean >> (bits + 1) != 0) ++bits;
  return bits;
}

/// Appends `table`, whose counts add up to that of the frame.
void write_table(const coded_table& table, std::vector<std::byte>& out);

/// Reads the table of a coded frame, and sets `bits` to what follows it. Checks all that can be
/// checked without the live tensor, but for the variable part of `bits`.
frame_status read_table(const frame& f, coded_table& table, bytes_view& bits) noexcept;

}  // namespace lockstep::kernels
