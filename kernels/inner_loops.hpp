// Decides which loops have an implementation per instruction set; everything else is shared.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/dispatch.hpp"

namespace lockstep::kernels {

#if !defined(__BYTE_ORDER__) || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "Frames and digests are defined on little-endian words; this machine is not little-endian."
#endif

/// Bytes of tensor that one comparison mask covers.
inline constexpr std::size_t block_bytes = 64;

/// Asks for the memory that follows `bytes` at `at`: more ahead than is on its way at a time, and
/// little of a second-level cache, which is where it goes. Then memory is busy also while what came
/// is worked on. What lies behind a tensor is asked for in vain.
inline void prefetch_ahead(const std::byte* at, std::size_t bytes) noexcept {
  constexpr std::size_t ahead = 16384;
  constexpr std::size_t line = 64;
  for (std::size_t i = 0; i < bytes; i += line) __builtin_prefetch(at + ahead + i, 0, 2);
}

/// One implementation of the inner loops. Pointers need no alignment.
struct inner_loops {
  implementation which;

  /// Sets bit `j` of `masks[i]` if byte `64 i + j` of `a` differs from that of `b`, else clears it,
  /// for `i < blocks`.
  void (*compare)(const std::byte* a, const std::byte* b, std::size_t blocks, std::uint64_t* masks);

  /// Adds NH of `count` words of `data` to both lanes: lane `l` keys word `i` with `key[i + l]`.
  void (*add_words)(const std::uint64_t* key, const std::byte* data, std::size_t count,
                    std::uint64_t* lanes);
};

/// Always there.
const inner_loops& portable_loops() noexcept;

/// The vector implementations this machine runs, slowest first: writes up to 5 to `found`.
/// @returns how many.
std::size_t vector_loops(const inner_loops** found) noexcept;

/// The implementation in use.
const inner_loops& active_loops() noexcept;

/// NH of one word: the product of its halves, each offset by half of the key (mod 2^32).
inline std::uint64_t nh(std::uint64_t word, std::uint64_t key) noexcept {
  const auto low = static_cast<std::uint32_t>(word) + static_cast<std::uint32_t>(key);
  const auto high = static_cast<std::uint32_t>(word >> 32) + static_cast<std::uint32_t>(key >> 32);
  return std::uint64_t{low} * high;
}

/// Reads a T from any address.
template <class T>
T load(const std::byte* from) noexcept {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

/// The little-endian word that `size` < 8 bytes begin, the rest zeros.
inline std::uint64_t load_partial(const std::byte* from, std::size_t size) noexcept {
  std::uint64_t word = 0;
  if (size > 0) std::memcpy(&word, from, size);
  return word;
}

}  // namespace lockstep::kernels
