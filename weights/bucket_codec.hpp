// Decides how the weights of a layout become buckets of frames, and how buckets are proven against
// and written to weights.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kernels/bytes.hpp"
#include "kernels/coded.hpp"
#include "kernels/digest.hpp"
#include "messages/errors.hpp"
#include "messages/ids.hpp"
#include "messages/layout.hpp"
#include "messages/payload.hpp"
#include "messages/to_receiver.hpp"
#include "weights/bucket_hash.hpp"
#include "weights/weight_buffer.hpp"

namespace lockstep {

/// All tensors of one layout as the kernels see them, in canonical order; borrowed.
using tensor_views = std::vector<kernels::tensor_view>;
using tensor_spans = std::vector<kernels::tensor_span>;

tensor_views as_views(const tensor_spans& tensors);
/// Those of a reader. Throws `error{wrong_layout}` naming a tensor that is not as long as `shape`
/// says.
tensor_views views_of(const layout& shape, const tensor_reader& tensors);
template <tensor_source T>
tensor_views views_of(const T& source) {
  return views_of(source.shape(), reader_of(source));
}

/// Seed of the digest that names states on the wire. Known to everybody, the same in every run, so
/// that a restarted trainer recognises receivers that still hold its weights.
inline constexpr std::uint64_t public_digest_seed = 0x6c6f636b73746570;  // "lockstep"

/// Digest of all tensors under the key of `seed`. Reads every byte, on several threads
/// (weights/workers.hpp).
digest digest_of(std::uint64_t seed, const tensor_views& tensors);
/// Two digests in one pass.
std::pair<digest, digest> digest_pair(std::uint64_t seed, std::uint64_t other,
                                      const tensor_views& tensors);
/// The digest of each tensor by itself.
std::vector<digest> digests_of(std::uint64_t seed, const tensor_views& tensors);

/// What buckets are to be.
struct bucket_form {
  std::uint64_t bytes_max = 0;
  bucket_hash hash = bucket_hash::xxh3;

  // NOLINTNEXTLINE(google-explicit-constructor): where nobody passes them on a size says all
  bucket_form(std::uint64_t max, bucket_hash how = bucket_hash::xxh3) : bytes_max(max), hash(how) {}
};

/// A delta, ready to ship: whole frames packed into buckets of at most `bytes_max` bytes.
struct encoded_delta {
  manifest content;
  std::vector<payload> buckets;
};

/// Called with each bucket, in their order, as soon as it is closed; of one that is closed nothing
/// changes any more. On whatever thread closed it, one call after the other.
using bucket_sink = std::function<void(const payload&)>;

/// Encodes what leads from `base` to `target`, both of `shape`. A bucket must hold the
/// largest frame (kernels::frame_bytes_max). Coded frames have to be staged (`stage_buckets`)
/// before anything else takes them. On several threads; the bytes are the same on however many.
/// `target_state`: set to what all of `target` digests to under the public key, changed or not,
/// unless it is null. It is of the bytes themselves, not of what the frames say. `closed` sees
/// buckets while those after them are still to be encoded; the last one when all are.
encoded_delta encode_delta(const layout& shape, const tensor_views& base,
                           const tensor_views& target, const bucket_form& form,
                           kernels::encoding_choice choice = kernels::encoding_choice::raw,
                           digest* target_state = nullptr, bucket_sink closed = {});

/// How all weights of one layout are cut into buckets of full frames: the same wherever weights of
/// that layout are. Reads no weights, and holds 24 bytes a bucket.
class full_cut {
 public:
  /// `tensors`: how long they are, and of what. A bucket of one frame may be longer than
  /// `bucket_bytes_max`.
  full_cut(const tensor_views& tensors, std::uint64_t bucket_bytes_max);

  /// Where a bucket begins, and how long it is.
  struct place {
    std::uint32_t tensor = 0;
    std::uint64_t offset = 0;
    std::uint64_t bytes = 0;
  };

  std::uint64_t bucket_bytes_max() const noexcept { return bucket_bytes_max_; }
  std::size_t count() const noexcept { return places_.size(); }
  /// Of bucket `index`, below `count()`.
  const place& operator[](std::size_t index) const { return places_[index]; }
  /// Bucket `index`, below `count()`, of these bytes.
  payload make(std::size_t index, const tensor_views& tensors) const;
  /// The same, in place of what `out` held: whose room can be used again.
  void fill(std::size_t index, const tensor_views& tensors, std::vector<std::byte>& out) const;

 private:
  std::uint64_t bucket_bytes_max_;
  std::vector<place> places_;
};

/// A full transfer, planned. Buckets are made one at a time when they are sent, so that a transfer
/// needs no second copy of the weights.
class full_plan {
 public:
  /// Hashes every bucket of `tensors` once, on several threads, each of which holds one.
  full_plan(const layout& shape, const tensor_views& tensors, const bucket_form& form);

  const manifest& content() const noexcept { return content_; }
  /// Bucket `index` of the same bytes that the plan was made from.
  payload make(std::size_t index, const tensor_views& tensors) const {
    return cut_.make(index, tensors);
  }

 private:
  full_cut cut_;
  manifest content_;
};

/// Why a bucket is refused.
struct bucket_failure {
  errc reason = errc::bad_frame;
  std::string detail;
};

/// What weights digest to, and what they will digest to.
struct staged_states {
  digest base;
  digest target;
  digest other_base;  ///< under the other seed, if there is one
  digest other_target;
};

/// Makes absorbing buckets of a delta that may hold coded frames, while the weights still are its
/// base: sets each bucket to one of raw and full frames that makes the target of any mix of base
/// and target. Reads each byte of the weights once, on several threads, and sets `states` to what
/// they digest to and what they would digest to. Go on only if these are the base and the target
/// that were announced: from there on the buckets are what `apply_bucket` and a redo take, as if
/// `check_buckets` had been asked: frames are well-formed, their ranges ascend within a bucket, and
/// none is there twice.
/// `bytes_max`: what all buckets together may grow to. After a failure some buckets are staged and
/// others not. `other_seed`: digest under this one too, in the same pass.
std::optional<bucket_failure> stage_buckets(std::uint64_t seed, std::span<payload> buckets,
                                            const tensor_views& tensors, std::uint64_t bytes_max,
                                            staged_states& states,
                                            std::optional<std::uint64_t> other_seed = {});

/// The same frames in the same order, in buckets of that form again. The buckets must have passed
/// `check_buckets`.
encoded_delta repacked(const layout& shape, std::span<const payload> buckets,
                       const tensor_views& tensors, const bucket_form& form);

/// Those frames of a delta, coded ones too, that are of tensors of `part`, in the same order, in
/// buckets of that form. `part`: the layout of `tensors` with others emptied. The
/// buckets must be what `encode_delta` or `repacked` made for `tensors`.
encoded_delta carved(const layout& part, std::span<const payload> buckets,
                     const tensor_views& tensors, const bucket_form& form);

/// Checks that the buckets are rows of well-formed frames of `tensors`, none of them coded, whose
/// ranges ascend within a bucket, and of which none is there twice. Holds 16 bytes a frame
/// meanwhile. Writes nothing.
std::optional<bucket_failure> check_buckets(std::span<const payload> buckets,
                                            const tensor_views& tensors);

/// The digest that `tensors`, digesting to `base`, would have after `buckets`. Reads only the words
/// that would change. The buckets must have passed `check_buckets`.
digest predict(std::uint64_t seed, const digest& base, std::span<const payload> buckets,
               const tensor_views& tensors);

/// Overwrites `tensors` from one bucket; every frame is checked before it is written. Adds the
/// index of each tensor written to `touched` (ascending, without repetition, across calls).
/// `frames_max`: stop after so many frames (a way to interrupt the write on purpose).
std::optional<bucket_failure> apply_bucket(const payload& bucket, const tensor_spans& tensors,
                                           std::vector<std::size_t>& touched,
                                           std::size_t frames_max = SIZE_MAX);

/// All buckets, on several threads. They must have passed `check_buckets` together: no range is
/// there twice. After a failure any of the others may have been written.
std::optional<bucket_failure> apply_buckets(std::span<const payload> buckets,
                                            const tensor_spans& tensors,
                                            std::vector<std::size_t>& touched);

/// Number of frames in a bucket that passed `check_buckets`.
std::size_t count_frames(const payload& bucket, const tensor_views& tensors);

}  // namespace lockstep
