// Decides what a bucket is known by.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "messages/ids.hpp"
#include "messages/payload.hpp"

namespace lockstep {

/// What a bucket is known by in a manifest, 128 bits of either.
enum class bucket_hash : std::uint8_t {
  xxh3,   ///< XXH3-128: finds what went wrong on the way. Whoever wants to makes other bytes for it
  sha256  ///< the first half of SHA-256: nobody makes others; for buckets that others pass on
};
hash128 hash_of(std::span<const std::byte> bytes, bucket_hash how);
hash128 hash_of(const payload& bucket, bucket_hash how = bucket_hash::xxh3);
/// Likewise, in the way in which `announced` is its hash; by SHA-256 if it is in neither.
hash128 hash_like(const hash128& announced, const payload& bucket);

}  // namespace lockstep
