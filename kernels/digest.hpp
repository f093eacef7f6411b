// Decides how a state of weights is proven: a keyed digest that is a sum, so it follows each
// change.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "kernels/bytes.hpp"

namespace lockstep::kernels {

/// Digests are summed over tiles of this many tensor bytes.
inline constexpr std::size_t digest_tile_bytes = 8192;
inline constexpr std::size_t digest_tile_words = digest_tile_bytes / 8;

/// A digest, or a change of one: two lanes mod 2^64. The digest of several tensors is the sum of
/// theirs, in any order. Misses a corruption with a chance of about 2^-64; no defence against an
/// adversary who knows the key.
struct digest_sum {
  std::array<std::uint64_t, 2> lane{};

  digest_sum& operator+=(digest_sum x) noexcept {
    lane[0] += x.lane[0];
    lane[1] += x.lane[1];
    return *this;
  }
  digest_sum& operator-=(digest_sum x) noexcept {
    lane[0] -= x.lane[0];
    lane[1] -= x.lane[1];
    return *this;
  }
  friend digest_sum operator+(digest_sum a, digest_sum b) noexcept { return a += b; }
  friend digest_sum operator-(digest_sum a, digest_sum b) noexcept { return a -= b; }
  friend bool operator==(digest_sum a, digest_sum b) noexcept { return a.lane == b.lane; }
  friend bool operator!=(digest_sum a, digest_sum b) noexcept { return !(a == b); }
};

/// The key of a digest, expanded from a seed in a few microseconds; 8 KiB, immutable, may be shared
/// between threads. Digests compare only under the same seed.
class digest_key {
 public:
  explicit digest_key(std::uint64_t seed) noexcept;

  /// `digest_tile_words + 1` words; lane `l` keys word `i` of a tile with `words()[i + l]`.
  const std::uint64_t* words() const noexcept { return words_.data(); }

  /// The odd factor of a tile in a lane, for `tile` counted from the front of its tensor.
  std::uint64_t multiplier(std::size_t lane, std::uint32_t tensor,
                           std::uint64_t tile) const noexcept;

 private:
  std::array<std::uint64_t, digest_tile_words + 1> words_;
  std::array<std::uint64_t, 2> multiplier_seeds_;
};

/// Digest of a whole tensor; `tensor` is its index in the layout. A partial last word is padded
/// with zeros. 0 for an empty tensor.
digest_sum digest_tensor(const digest_key& key, std::uint32_t tensor, bytes_view bytes) noexcept;

/// Digest of a part of a tensor that starts at byte `offset`, a multiple of `digest_tile_bytes`.
/// The sum over consecutive parts is the digest of the tensor if each but the last is a multiple of
/// 8 bytes long.
/// @throws std::invalid_argument if `offset` is not such a multiple.
digest_sum digest_range(const digest_key& key, std::uint32_t tensor, std::uint64_t offset,
                        bytes_view bytes);

}  // namespace lockstep::kernels
