// Decides how a frame's checksum, XXH3-64 of seed 0, is taken on a device: blocks of 1 KiB are
// summed side by side, and only what must follow one another does.
#pragma once

#include "kernels/cuda/grid.hpp"

namespace lockstep::kernels::cuda {

// The constants are those of the published algorithm (Collet, XXH3).
namespace xxh3 {

inline constexpr std::uint64_t p32_1 = 0x9e3779b1;
inline constexpr std::uint64_t p32_2 = 0x85ebca77;
inline constexpr std::uint64_t p32_3 = 0xc2b2ae3d;
inline constexpr std::uint64_t p64_1 = 0x9e3779b185ebca87;
inline constexpr std::uint64_t p64_2 = 0xc2b2ae3d27d4eb4f;
inline constexpr std::uint64_t p64_3 = 0x165667b19e3779f9;
inline constexpr std::uint64_t p64_4 = 0x85ebca77c2b2ae63;
inline constexpr std::uint64_t p64_5 = 0x27d4eb2f165667c5;
inline constexpr std::uint64_t p_mix = 0x165667919e3779f9;

inline constexpr unsigned lanes = 8;
inline constexpr unsigned stripe_bytes = 64;
inline constexpr unsigned block_stripes = 16;
inline constexpr unsigned block_bytes = stripe_bytes * block_stripes;

/// 8 bytes of the secret, from byte `at` of its 192.
LOCKSTEP_DEVICE inline std::uint64_t secret(unsigned at) {
  static constexpr std::uint64_t words[24] = {
      0xbe4ba423396cfeb8, 0x1cad21f72c81017c, 0xdb979083e96dd4de, 0x1f67b3b7a4a44072,
      0x78e5c0cc4ee679cb, 0x2172ffcc7dd05a82, 0x8e2443f7744608b8, 0x4c263a81e69035e0,
      0xcb00c391bb52283c, 0xa32e531b8b65d088, 0x4ef90da297486471, 0xd8acdea946ef1938,
      0x3f349ce33f76faa8, 0x1d4f0bc7c7bbdcf9, 0x3159b4cd4be0518a, 0x647378d9c97e9fc8,
      0xc3ebd33483acc5ea, 0xeb6313faffa081c5, 0x49daf0b751dd0d17, 0x9e68d429265516d3,
      0xfca1477d58be162b, 0xce31d07ad1b8f88f, 0x280416958f3acb45, 0x7e404bbbcafbd7af};
  const unsigned shift = at % 8 * 8;
  const std::uint64_t low = words[at / 8];
  return shift == 0 ? low : low >> shift | words[at / 8 + 1] << (64 - shift);
}

LOCKSTEP_DEVICE inline std::uint64_t fold_product(std::uint64_t a, std::uint64_t b) {
#if defined(__CUDA_ARCH__)
  return (a * b) ^ __umul64hi(a, b);
#else
  __extension__ using wide = unsigned __int128;
  const wide product = static_cast<wide>(a) * b;
  return static_cast<std::uint64_t>(product) ^ static_cast<std::uint64_t>(product >> 64);
#endif
}

LOCKSTEP_DEVICE inline std::uint64_t avalanche(std::uint64_t h) {
  h ^= h >> 37;
  h *= p_mix;
  return h ^ h >> 32;
}

LOCKSTEP_DEVICE inline std::uint64_t word_at(const std::byte* data, std::uint64_t at) {
  return load_any<std::uint64_t>(data + at);
}

LOCKSTEP_DEVICE inline std::uint64_t mix_16(const std::byte* data, std::uint64_t at,
                                            unsigned secret_at) {
  return fold_product(word_at(data, at) ^ secret(secret_at),
                      word_at(data, at + 8) ^ secret(secret_at + 8));
}

LOCKSTEP_DEVICE inline std::uint64_t swap_bytes(std::uint64_t x) {
  x = (x & 0x00ff00ff00ff00ff) << 8 | (x >> 8 & 0x00ff00ff00ff00ff);
  x = (x & 0x0000ffff0000ffff) << 16 | (x >> 16 & 0x0000ffff0000ffff);
  return x << 32 | x >> 32;
}

/// Of 9 to 240 bytes; no frame is shorter, not even one without a payload.
LOCKSTEP_DEVICE inline std::uint64_t hash_short(const std::byte* data, std::uint64_t size) {
  if (size <= 16) {
    const std::uint64_t low = word_at(data, 0) ^ secret(24) ^ secret(32);
    const std::uint64_t high = word_at(data, size - 8) ^ secret(40) ^ secret(48);
    return avalanche(size + swap_bytes(low) + high + fold_product(low, high));
  }
  std::uint64_t sum = size * p64_1;
  if (size <= 128) {
    for (unsigned i = 0; i < 4 && (i == 0 || size > 32 * i); ++i) {
      sum += mix_16(data, 16 * i, 32 * i);
      sum += mix_16(data, size - 16 * (i + 1), 32 * i + 16);
    }
    return avalanche(sum);
  }
  for (unsigned i = 0; i < 8; ++i) sum += mix_16(data, 16 * i, 16 * i);
  sum = avalanche(sum);
  for (unsigned i = 8; i < size / 16; ++i) sum += mix_16(data, 16 * i, 16 * (i - 8) + 3);
  return avalanche(sum + mix_16(data, size - 16, 119));
}

LOCKSTEP_DEVICE inline std::uint64_t start_of(unsigned lane) {
  static constexpr std::uint64_t starts[lanes] = {p32_3, p64_1, p64_2, p64_3,
                                                  p64_4, p32_2, p64_5, p32_1};
  return starts[lane];
}

/// What a lane adds to itself and to its neighbour for one stripe.
LOCKSTEP_DEVICE inline void add_stripe(const std::byte* data, std::uint64_t stripe, unsigned lane,
                                       unsigned secret_at, std::uint64_t& own,
                                       std::uint64_t& neighbour) {
  const std::uint64_t value = word_at(data, stripe + 8 * lane);
  const std::uint64_t keyed = value ^ secret(secret_at + 8 * lane);
  own += (keyed & 0xffffffff) * (keyed >> 32);
  neighbour += value;
}

LOCKSTEP_DEVICE inline std::uint64_t scramble(std::uint64_t sum, unsigned lane) {
  return (sum ^ sum >> 47 ^ secret(128 + 8 * lane)) * p32_1;
}

LOCKSTEP_DEVICE inline std::uint64_t finish(const std::uint64_t* sums, std::uint64_t size) {
  std::uint64_t result = size * p64_1;
  for (unsigned i = 0; i < 4; ++i)
    result +=
        fold_product(sums[2 * i] ^ secret(11 + 16 * i), sums[2 * i + 1] ^ secret(19 + 16 * i));
  return avalanche(result);
}

}  // namespace xxh3

/// Blocks that are summed side by side.
inline constexpr unsigned checksum_group = 16;

/// What a block of threads needs to take a checksum.
struct checksum_shared {
  std::uint64_t sums[xxh3::lanes];
  std::uint64_t own[checksum_group * xxh3::lanes];
  std::uint64_t neighbour[checksum_group * xxh3::lanes];
  std::uint64_t result;
};

/// XXH3-64 of `size` >= 9 bytes, by all threads of a block of at least 128.
template <class Block>
LOCKSTEP_DEVICE std::uint64_t checksum_of(Block& block, checksum_shared& s, const std::byte* data,
                                          std::uint64_t size) {
  using namespace xxh3;
  if (size <= 240) {
    block.each([&](unsigned thread) {
      if (thread == 0) s.result = hash_short(data, size);
    });
    return block.read(s.result);
  }
  const std::uint64_t blocks = (size - 1) / block_bytes;
  block.each([&](unsigned thread) {
    if (thread < lanes) s.sums[thread] = start_of(thread);
  });
  for (std::uint64_t group = 0; group < blocks; group += checksum_group) {
    block.each([&](unsigned thread) {
      const std::uint64_t which = group + thread / lanes;
      if (thread >= checksum_group * lanes || which >= blocks) return;
      std::uint64_t own = 0;
      std::uint64_t neighbour = 0;
      for (unsigned i = 0; i < block_stripes; ++i)
        add_stripe(data, which * block_bytes + i * stripe_bytes, thread % lanes, 8 * i, own,
                   neighbour);
      s.own[thread] = own;
      s.neighbour[thread] = neighbour;
    });
    block.each([&](unsigned thread) {
      if (thread >= lanes) return;
      std::uint64_t sum = s.sums[thread];
      for (unsigned i = 0; i < checksum_group && group + i < blocks; ++i)
        sum = scramble(sum + s.own[i * lanes + thread] + s.neighbour[i * lanes + (thread ^ 1)],
                       thread);
      s.sums[thread] = sum;
    });
  }
  block.each([&](unsigned thread) {
    if (thread >= lanes) return;
    std::uint64_t own = 0;
    std::uint64_t neighbour = 0;
    const std::uint64_t rest = (size - 1 - blocks * block_bytes) / stripe_bytes;
    for (unsigned i = 0; i < rest; ++i)
      add_stripe(data, blocks * block_bytes + i * stripe_bytes, thread, 8 * i, own, neighbour);
    add_stripe(data, size - stripe_bytes, thread, 121, own, neighbour);
    s.own[thread] = own;
    s.neighbour[thread] = neighbour;
  });
  block.each([&](unsigned thread) {
    if (thread < lanes) s.sums[thread] += s.own[thread] + s.neighbour[thread ^ 1];
  });
  block.each([&](unsigned thread) {
    if (thread == 0) s.result = finish(s.sums, size);
  });
  return block.read(s.result);
}

}  // namespace lockstep::kernels::cuda
