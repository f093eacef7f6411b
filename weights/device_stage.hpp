// Decides how buckets are proven on a device before anything is written there. Private to weights/.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "messages/payload.hpp"
#include "weights/bucket_codec.hpp"
#include "weights/device_queue.hpp"

namespace lockstep {

/// The tensors of one layout in a device's memory, borrowed, and what kernels need to know of them.
/// In a scope of its queue, which outlives it.
struct device_model {
  /// `tensors`: as `device_weights::tensors`. Throws `std::bad_alloc`, `device_error`, and
  /// `std::invalid_argument` if a tensor is too large to be framed.
  device_model(device_queue& queue, const lockstep::layout& shape,
               const std::vector<std::byte*>& tensors);

  std::vector<kernels::cuda::device_tensor> tensors;  ///< the same as on the device
  tensor_views lengths;  ///< no addresses: how long tensors are, and their units
  device_block<kernels::cuda::device_tensor> tensors_there;
  device_block<kernels::cuda::device_range> ranges_there;
  device_block<kernels::cuda::device_key> key;  ///< of `public_digest_seed`
  kernels::cuda::device_layout layout;
};

/// Buckets on a device: their frames, and what writing these needs. In a scope of its queue, which
/// outlives it.
class device_stage {
 public:
  using failure = std::optional<bucket_failure>;

  /// What buckets lead from.
  enum class from {
    base,     ///< as `bucket_stager`; what is overwritten is kept for `roll_back`
    any_mix,  ///< as `check_buckets`
    nothing   ///< the same, for all weights: the order of ranges does not matter
  };

  device_stage(device_queue& queue, const device_model& model, device_block<std::byte>& work,
               from leads_from);

  /// Copies a bucket to the device, and checks all of its frames there. The device is held to take
  /// at most `bytes_max` for frames of all buckets; undoing them takes as much again. After a
  /// failure, and whatever is thrown, there is no going on.
  failure add(std::uint32_t index, const payload& bucket, std::uint64_t bytes_max);
  /// All buckets are there. From a base: the bytes held digest to `base`, and would to `target`.
  failure prove(const digest& base, const digest& target);
  /// All buckets are there, from anything else.
  void accept() noexcept { sound_ = true; }

  /// `prove` or `accept` had nothing against them.
  bool sound() const noexcept { return sound_; }
  /// Whether `roll_back` leads back.
  bool keeps_base() const noexcept { return leads_from_ == from::base; }
  /// Of the frames on the device.
  std::uint64_t bytes() const noexcept { return bytes_; }
  std::uint64_t frames() const noexcept;

  /// Writes the first `frames_max` frames on stream `on`, and waits for it. Must be sound. If this
  /// throws and `on` cannot be waited for at all, the device is lost; `roll_back` likewise.
  void write(device_queue::stream on, std::uint64_t frames_max, std::vector<std::size_t>& touched);
  /// Writes on stream `on` what was there before, after a part of `write` too, and waits for it,
  /// unless the device is lost: then it stands behind what is there, whenever that is done.
  void roll_back(device_queue::stream on);

 private:
  struct heads;
  /// Frames in one buffer, and what is known of each.
  struct part {
    device_block<std::byte> frames, undo;
    device_block<kernels::cuda::checked_frame> checked;
  };
  struct bucket_there {
    part came, made;  ///< as they came, and made of coded ones
    std::uint64_t count = 0;
    std::vector<std::size_t> touched;
  };
  /// Of one bucket, for as long as it is added.
  struct places {
    device_block<std::uint64_t> came, passed, made;
    device_block<kernels::cuda::encode_result> sum;  ///< of what was made
  };

  static heads list_frames(const payload& bucket, const device_model& model);
  /// `refused`: see `stage_result`; counted from frame `first`.
  static bucket_failure reason_of(const heads& listed, std::uint64_t refused, std::uint64_t first);
  /// Makes raw and full frames of the coded ones among these. What the device refused, if it did.
  std::uint64_t decode(std::uint64_t first, std::uint64_t count, std::uint64_t changes,
                       const bucket_there& there, const places& at);
  void check(part& frames, const device_block<std::uint64_t>& at, std::uint64_t count, bool undo);
  /// What the host would say of this bucket, which is not to be taken because of `why`.
  bucket_failure refusal(std::uint32_t index, const payload& bucket, bucket_failure why) const;

  device_queue& queue_;
  const device_model& model_;
  device_block<std::byte>& work_;  ///< grows, and is kept from stage to stage
  from leads_from_;
  device_block<std::uint32_t> claims_;  ///< of ranges with a frame
  device_block<std::uint32_t> read_;    ///< of ranges that decoding has digested
  device_block<kernels::cuda::device_digest> base_;
  device_block<kernels::cuda::stage_result> result_;
  std::vector<bucket_there> buckets_;
  std::uint64_t bytes_ = 0;
  bool sound_ = false;
};

}  // namespace lockstep
