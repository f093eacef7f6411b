// Decides the hash that names a byte string (a bucket, a layout): XXH3-128.
#pragma once

#include <cstdint>

#include "kernels/bytes.hpp"

namespace lockstep::kernels {

/// XXH3-128; `hi` and `lo` are the high and low halves of the canonical value.
struct hash_value {
  std::uint64_t hi = 0;
  std::uint64_t lo = 0;

  friend bool operator==(hash_value a, hash_value b) noexcept {
    return a.hi == b.hi && a.lo == b.lo;
  }
  friend bool operator!=(hash_value a, hash_value b) noexcept { return !(a == b); }
};

/// XXH3-128 (seed 0) of `bytes`. Detects accidents, not adversaries.
hash_value hash_bytes(bytes_view bytes) noexcept;

}  // namespace lockstep::kernels
