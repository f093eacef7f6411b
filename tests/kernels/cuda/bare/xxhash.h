// Decides what stands in for the xxHash library on a bare machine: XXH3-64 of what frames are
// long, from the device's own source. Elsewhere the tests hold that source to the library.
#pragma once

#include <cstddef>
#include <stdexcept>

#include "kernels/cuda/checksum.hpp"

using XXH64_hash_t = unsigned long long;

inline XXH64_hash_t XXH3_64bits(const void* data, std::size_t size) {
  namespace xxh3 = lockstep::kernels::cuda::xxh3;
  const auto* const bytes = static_cast<const std::byte*>(data);
  if (size <= 240) return xxh3::hash_short(bytes, size);
  std::uint64_t sums[xxh3::lanes];
  for (unsigned lane = 0; lane < xxh3::lanes; ++lane) sums[lane] = xxh3::start_of(lane);
  const auto add = [&](std::uint64_t stripe, unsigned secret_at) {
    for (unsigned lane = 0; lane < xxh3::lanes; ++lane)
      xxh3::add_stripe(bytes, stripe, lane, secret_at, sums[lane], sums[lane ^ 1]);
  };
  std::uint64_t at = 0;
  unsigned stripe = 0;
  for (; size - at > xxh3::stripe_bytes; at += xxh3::stripe_bytes) {
    add(at, 8 * stripe);
    if (++stripe < xxh3::block_stripes) continue;
    stripe = 0;
    for (unsigned lane = 0; lane < xxh3::lanes; ++lane)
      sums[lane] = xxh3::scramble(sums[lane], lane);
  }
  add(size - xxh3::stripe_bytes, 121);
  return xxh3::finish(sums, size);
}
