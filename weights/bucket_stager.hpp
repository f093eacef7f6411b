// Decides how a delta is staged while its buckets still arrive.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>

#include "messages/payload.hpp"
#include "weights/bucket_codec.hpp"

namespace lockstep {

/// What `stage_buckets` does, for buckets that come one after the other, in any order. The weights
/// stay what they are until `finish`; each byte of them is read once in all. One thread at a time.
class bucket_stager {
 public:
  /// As for `stage_buckets`; the bytes of `tensors` are borrowed.
  bucket_stager(std::uint64_t seed, tensor_views tensors, std::uint64_t bytes_max,
                std::optional<std::uint64_t> other_seed = {});
  bucket_stager(bucket_stager&&) noexcept;
  bucket_stager& operator=(bucket_stager&&) noexcept;
  ~bucket_stager();

  /// Stages these buckets in place, on several threads. `first`: the number of the first one, to
  /// name one that is refused. After a failure some of them are staged, and there is no going on.
  std::optional<bucket_failure> stage(std::span<payload> buckets, std::size_t first);
  /// All buckets are there: reads what no frame was for, and sets `states`.
  std::optional<bucket_failure> finish(staged_states& states);

 private:
  struct staging;
  std::unique_ptr<staging> staging_;
};

}  // namespace lockstep
