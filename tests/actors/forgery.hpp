// Decides how a relay that means harm makes another bucket for the same XXH3-128.
#pragma once

#define XXH_INLINE_ALL  // its secret is in there, and exported nowhere
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "messages/payload.hpp"
#include "transport/bulk_frame.hpp"
#include "transport/greeting.hpp"

namespace lockstep {

/// XXH3 takes a long input in by blocks of 16 stripes of eight words, each of which is added to its
/// neighbour's sum, and the product of its halves, under the secret, to its own. A word whose upper
/// or lower half is the secret's adds nothing but itself: so the last two stripes of a block make
/// up for whatever else was changed in it.
class forgery {
 public:
  static constexpr std::size_t block_bytes = 1024;

  /// Writes something else into a block, which begins at a multiple of its size.
  static void forge(std::span<std::byte, block_bytes> block) {
    const auto wanted = sums_of(block, stripes);
    for (std::size_t i = 0; i < 64; ++i) block[i] ^= std::byte{0x2a};
    const auto sums = sums_of(block, stripes - 2);
    for (std::size_t i = 0; i < words; ++i) {
      const auto missing = wanted[i ^ 1] - sums[i ^ 1];
      const auto low = secret(stripes - 1, i) & low_half;
      const auto first = (secret(stripes - 2, i) & ~low_half) | ((missing - low) & low_half);
      const auto second = missing - first;
      std::memcpy(&block[8 * (words * (stripes - 2) + i)], &first, 8);
      std::memcpy(&block[8 * (words * (stripes - 1) + i)], &second, 8);
    }
  }

  /// Takes what a parent sends to a child over a connection in clear, in pieces. Returns what is to
  /// go on: of buckets whole frames, the long ones forged if `lies`.
  std::vector<std::byte> pass(std::span<const std::byte> bytes, bool lies) {
    held_.insert(held_.end(), bytes.begin(), bytes.end());
    std::vector<std::byte> out;
    for (std::size_t size = frame_bytes(); size != 0 && size <= held_.size();
         size = frame_bytes()) {
      const auto end = held_.begin() + static_cast<std::ptrdiff_t>(size);
      constexpr auto at = bulk_header_bytes + 10 * block_bytes;
      if (lies && answered_ && size > 2 * at) {
        forge(std::span(held_).subspan<at, block_bytes>());
        ++forged;
      }
      answered_ = true;
      out.insert(out.end(), held_.begin(), end);
      held_.erase(held_.begin(), end);
    }
    return out;
  }

  std::size_t forged = 0;

 private:
  static constexpr std::size_t stripes = 16;
  static constexpr std::size_t words = 8;  // of a stripe
  static constexpr std::uint64_t low_half = 0xffffffff;

  static std::uint64_t secret(std::size_t stripe, std::size_t word) {
    std::uint64_t out;
    std::memcpy(&out, XXH3_kSecret + 8 * (stripe + word), 8);
    return out;
  }

  static std::array<std::uint64_t, words> sums_of(std::span<const std::byte> block,
                                                  std::size_t count) {
    std::array<std::uint64_t, words> out{};
    for (std::size_t s = 0; s < count; ++s)
      for (std::size_t i = 0; i < words; ++i) {
        std::uint64_t word;
        std::memcpy(&word, &block[8 * (words * s + i)], 8);
        const auto keyed = word ^ secret(s, i);
        out[i ^ 1] += word;
        out[i] += (keyed & low_half) * (keyed >> 32);
      }
    return out;
  }

  /// Of the frame that `held_` begins with; 0 if too little has come to tell.
  std::size_t frame_bytes() const {
    const auto header = answered_ ? bulk_header_bytes : greeting_header_bytes;
    if (held_.size() < header) return 0;
    if (answered_ && std::memcmp(held_.data(), "LKB", 3) != 0) return held_.size();
    if (answered_) {
      std::uint64_t length;
      std::memcpy(&length, &held_[8], 8);
      return bulk_header_bytes + length;
    }
    std::uint32_t length;
    std::memcpy(&length, &held_[4], 4);
    return length;
  }

  std::vector<std::byte> held_;
  bool answered_ = false;
};

}  // namespace lockstep
