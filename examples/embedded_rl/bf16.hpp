// Decides how weights are published: bfloat16, the upper half of a float, rounded to nearest even.
#pragma once

#include <bit>
#include <cstdint>

namespace embedded_rl {

struct bf16 {
  std::uint16_t bits = 0;

  bf16() = default;
  /// `value` is finite.
  explicit bf16(float value) {
    const auto all = std::bit_cast<std::uint32_t>(value);
    bits = static_cast<std::uint16_t>((all + 0x7fffu + ((all >> 16) & 1u)) >> 16);
  }
  operator float() const { return std::bit_cast<float>(std::uint32_t{bits} << 16); }
};

}  // namespace embedded_rl
