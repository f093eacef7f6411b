// Decides what can be done with an inference engine's own weights, wherever they live.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "messages/ids.hpp"
#include "messages/payload.hpp"
#include "weights/bucket_codec.hpp"

namespace lockstep {

/// The weights that one receiver works on: what it stages over them, writes to them and says of
/// them. Refusals are returned; where there is no memory `std::bad_alloc` is thrown, and what
/// cannot go on in another way is an exception, too. One thread at a time.
class weight_memory {
 public:
  using failure = std::optional<bucket_failure>;

  weight_memory() = default;
  weight_memory(const weight_memory&) = delete;
  weight_memory& operator=(const weight_memory&) = delete;
  virtual ~weight_memory() = default;

  /// The bytes of tensor `index`, if it can be read where it lies; else nothing.
  virtual std::span<const std::byte> tensor(std::size_t index) const noexcept = 0;
  /// Copies tensor `index` to `out`, which is as long as it.
  virtual void read(std::size_t index, std::span<std::byte> out) = 0;

  // --- a delta
  /// Keeps a bucket that leads from whatever is there. It has to pass `check`.
  virtual void keep(std::uint32_t index, payload bucket) = 0;
  /// Stages a bucket over the bytes held, see `bucket_stager::stage`. After a failure there is no
  /// going on but `forget`.
  virtual failure stage(std::uint32_t index, payload bucket, std::uint64_t bytes_max) = 0;
  /// All that was staged is sound, over weights that digest to `base`, and leads to `target`. Once.
  virtual failure verify(const digest& base, const digest& target) = 0;
  /// What `check_buckets` says of all that is kept.
  virtual failure check() = 0;
  /// Writes the buckets that passed `verify` or `check`, and adds to `touched` the tensors that
  /// were written (ascending, without repetition). Weights may be torn after a failure.
  virtual failure apply(std::vector<std::size_t>& touched) = 0;
  /// The same with this part of all frames only, on purpose.
  virtual failure apply_share(double share, std::vector<std::size_t>& touched) = 0;
  /// Frees what is kept and staged.
  virtual void forget() noexcept = 0;
  /// Of all buckets that are kept or staged.
  virtual std::uint64_t staged_bytes() const noexcept = 0;

  // --- all weights
  /// Writes one bucket of all weights, every frame of which is checked before it is written;
  /// `touched` as for `apply`. May refuse one with a range twice, which nobody makes.
  virtual failure write(const payload& bucket, std::vector<std::size_t>& touched) = 0;
  /// The same with this part of its frames only, on purpose.
  virtual failure write_share(const payload& bucket, double share,
                              std::vector<std::size_t>& touched) = 0;
  /// Bucket `index` of all weights as they are now, see `full_cut`; empty where these are not
  /// `count` buckets.
  virtual payload cut(std::uint64_t bucket_bytes_max, std::uint32_t count, std::uint32_t index) = 0;
  /// What all weights digest to now, under the public key.
  virtual digest state() = 0;
  /// The same, and under the key of `challenge`.
  virtual std::pair<digest, digest> states(std::uint64_t challenge) = 0;
  /// The digest of each tensor by itself.
  virtual std::vector<digest> states_of_each(std::uint64_t seed) = 0;
};

}  // namespace lockstep
