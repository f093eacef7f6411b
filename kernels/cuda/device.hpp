// Decides how weights in a device's memory are described to kernels, and what these answer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/bytes.hpp"
#include "kernels/coded.hpp"
#include "kernels/digest.hpp"
#include "kernels/frame.hpp"

/// CUDA's own name of a stream, so that no header of CUDA is needed.
struct CUstream_st;

namespace lockstep::kernels::cuda {

/// A stream of a device, a `cudaStream_t`; null for the default one. The emulated grid ignores it.
using stream = CUstream_st*;

/// One tensor as kernels see it. Both pointers lie in the device's memory and need no alignment;
/// at 16 bytes (and a target that is aligned alike) kernels are fastest.
struct device_tensor {
  std::byte* base = nullptr;          ///< what deltas are against, and applied to
  const std::byte* target = nullptr;  ///< the new weights; null at a receiver
  std::uint64_t bytes = 0;
  std::uint64_t first_range = 0;  ///< ranges of all tensors before it
  std::uint32_t unit = 1;         ///< as of kernels::tensor_view
};

/// A range of a tensor: `frame_span_bytes_max` bytes from that many times `number`, or to its end.
struct device_range {
  std::uint32_t tensor;
  std::uint32_t number;
};

/// All tensors of a layout and all their ranges; both arrays lie in the device's memory.
struct device_layout {
  const device_tensor* tensors = nullptr;
  std::uint32_t tensor_count = 0;
  const device_range* ranges = nullptr;
  std::uint64_t range_count = 0;
};

/// Sets `first_range` of all, and lists their ranges in order. For arrays of the host, to be copied
/// to the device once for each layout.
/// @throws std::invalid_argument if a tensor cannot be framed.
std::vector<device_range> list_ranges(std::vector<device_tensor>& tensors);

/// A digest, or a change of one, in the device's memory.
struct device_digest {
  std::uint64_t lane[2];

  digest_sum to_sum() const noexcept {
    digest_sum sum;
    sum.lane = {lane[0], lane[1]};
    return sum;
  }
};

/// The key of a digest in the device's memory; what `digest_key` of the same seed is.
struct device_key {
  std::uint64_t words[digest_tile_words + 1];
  std::uint64_t multiplier_seeds[2];
};

/// Which state of the tensors is meant.
enum class which_state : std::uint32_t { base, target };

/// What encoding has come to, over as many calls as one likes. Zeros at first.
struct encode_result {
  std::uint64_t bytes;    ///< of all frames, also of those there was no room for
  std::uint64_t frames;   ///< as many
  std::uint64_t changes;  ///< elements that differ
  std::uint64_t missing;  ///< frames there was no room for: nothing of them is written
};

/// `frame_at` of a range without a frame, or whose frame there was no room for.
inline constexpr std::uint64_t no_frame = ~std::uint64_t{0};

/// A kernels::class_model, plain: how a tensor's elements are told apart when they are coded.
struct device_model {
  std::uint32_t classes;
  step_order order;
  std::uint8_t thresholds[class_count_max];
};

/// `model` must be one that `plan_classes` may give.
device_model to_device(const class_model& model) noexcept;

/// Where an encoder writes. All pointers lie in the device's memory.
struct encode_output {
  std::byte* frames = nullptr;
  std::uint64_t capacity = 0;
  /// For each range of the call where its frame begins in `frames`, or `no_frame`.
  std::uint64_t* frame_at = nullptr;
  encode_result* result = nullptr;
};

/// Frames that came, in the device's memory.
struct frame_list {
  const std::byte* frames = nullptr;
  std::uint64_t bytes = 0;
  /// Where each begins; `no_frame` is passed over. Whoever sent it is not trusted.
  const std::uint64_t* frame_at = nullptr;
  std::uint64_t count = 0;
};

/// What checking frames has come to. `begin_stage` sets it.
struct stage_result {
  std::uint64_t refused;  ///< `nothing_refused`, or index and reason of the first bad frame
  device_digest change;   ///< by how much all frames change the digest of the base
  std::uint64_t changes;  ///< elements that will be written
};
inline constexpr std::uint64_t nothing_refused = ~std::uint64_t{0};

/// Reasons of a refusal beside those of frame_status: another frame is of the same range; the
/// weights are not the base; the frames do not lead to the target; what was decoded found no room.
inline constexpr std::uint32_t refused_twice = 100;
inline constexpr std::uint32_t refused_base = 101;
inline constexpr std::uint32_t refused_target = 102;
inline constexpr std::uint32_t refused_room = 103;
/// In place of a frame's index: it is all of them together that is refused.
inline constexpr std::uint64_t all_frames = (std::uint64_t{1} << 56) - 2;

/// The frame that was refused, and why: a `frame_status` or one of the reasons above.
inline std::uint64_t refused_frame(std::uint64_t refused) noexcept {
  return refused >> 8;
}
inline std::uint32_t refused_reason(std::uint64_t refused) noexcept {
  return static_cast<std::uint32_t>(refused & 0xff);
}

/// Where a decoder writes. All pointers lie in the device's memory; the arrays have a number for
/// each frame of the list, but `claims`.
struct decode_output {
  std::byte* frames = nullptr;
  std::uint64_t capacity = 0;
  std::uint64_t* frame_at =
      nullptr;  ///< of the raw or full frame made of a coded one; or `no_frame`
  std::uint64_t* pass_at =
      nullptr;                      ///< of every other one, in the list's own frames; or `no_frame`
  encode_result* result = nullptr;  ///< what was written; zeros at first
  /// A number for each range of the whole layout, zeros at first: 1 for ranges that were digested.
  std::uint32_t* claims = nullptr;
  device_digest* base = nullptr;  ///< takes the digests of those ranges, added to what it is
};

/// A frame that was checked: all that writing it needs. Made and read by kernels only.
struct checked_frame {
  std::uint64_t payload;  ///< where it begins in the frames
  std::uint32_t payload_bytes;
  std::uint32_t tensor;
  std::uint32_t number;
  std::uint32_t encoding;  ///< 0: none
};

}  // namespace lockstep::kernels::cuda
