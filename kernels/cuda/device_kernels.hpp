// Decides what kernels on a device there are. All pointers but where it says so lie in the device's
// memory, and must stay valid until the stream has come past the call.
#pragma once

#include <stdexcept>

#include "kernels/cuda/device.hpp"

namespace lockstep::kernels::cuda {

/// A call that the device did not take.
struct device_error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Kernels of one device, or of the emulated grid. Every call only enqueues work on its stream: it
/// waits for nothing and allocates nothing. A call is one for one thread at a time on a stream;
/// what calls on different streams write must not overlap. They act on the device that is current,
/// and throw device_error if it does not take them, and std::invalid_argument where said so.
///
/// `layout.ranges` and `layout.range_count` say what an encoder, a digest or a copy works on: all
/// ranges of a layout, or some of them at a time.
struct device_kernels {
  const char* name;

  /// Sets `key` to what `digest_key(seed)` is.
  void (*expand_key)(std::uint64_t seed, device_key* key, stream on);

  /// Adds the digest of one state of the ranges to `sum`; if `skip` is not null, without those for
  /// which it has another number than 0 (`decode_output::claims`).
  void (*digest)(const device_layout& layout, which_state which, const device_key* key,
                 const std::uint32_t* skip, device_digest* sum, stream on);

  /// Writes the frames that kernels::encode_delta writes, in the order of the ranges, behind what
  /// `out.result` has counted so far. `memory` holds `encode_memory_bytes(layout.range_count)`.
  /// @throws std::invalid_argument if it does not.
  void (*encode_raw)(const device_layout& layout, const encode_output& out, void* memory,
                     std::uint64_t memory_bytes, stream on);

  /// The same with the frames of kernels::encode_full.
  void (*encode_full)(const device_layout& layout, const encode_output& out, void* memory,
                      std::uint64_t memory_bytes, stream on);

  /// The same with the frames that kernels::delta_encoder writes if coded ones are preferred.
  /// `models` has one for each tensor of the layout. `memory` holds `coded_memory_bytes` or more;
  /// ranges that find no room there go raw or full.
  /// @throws std::invalid_argument if it could not take a range without a change.
  void (*encode_coded)(const device_layout& layout, const device_model* models,
                       const encode_output& out, void* memory, std::uint64_t memory_bytes,
                       stream on);

  /// Before the first `check` of a stage. `claims` has room for a number for each range of the
  /// whole layout; it belongs to the stage.
  void (*begin_stage)(const device_layout& layout, std::uint32_t* claims, stage_result* result,
                      stream on);

  /// Makes raw and full frames of coded ones, those that kernels::frame_stager makes, while the
  /// tensors still are their base; reads each byte of their ranges once. Each frame stands in
  /// `out.frames` with room behind it. Give `check` both what was made and what was passed on: both
  /// know a frame by its index in `list`. What is no coded frame is refused there, not here.
  /// `memory` holds `decode_memory_bytes` or more; frames that find no room there or in `out` are
  /// refused.
  /// @throws std::invalid_argument if not even an empty list would fit `memory`.
  void (*decode)(const device_layout& layout, const frame_list& list, const device_key* key,
                 const decode_output& out, void* memory, std::uint64_t memory_bytes,
                 stage_result* result, stream on);

  /// Checks raw and full frames against the layout and each other, sums up in `result` how they
  /// change the digest of the base, and sets `checked`, one for each. If `undo` is not null, it has
  /// `list.bytes`, and takes frames' payloads that lead back from the target to the base.
  /// Writes nothing else.
  void (*check)(const device_layout& layout, const frame_list& list, const device_key* key,
                checked_frame* checked, std::byte* undo, std::uint32_t* claims,
                stage_result* result, stream on);

  /// Refuses the stage unless `base`, the digest of all tensors, is what was announced, and what
  /// they change to, too. The two digests are given by value.
  void (*prove)(const device_digest* base, const digest_sum& expected_base,
                const digest_sum& expected_target, stage_result* result, stream on);

  /// Writes the frames that `check` has seen to the base, unless the stage refused anything. May be
  /// repeated. With the undo record in place of `frames` it rolls back, after a part, too.
  void (*apply)(const device_layout& layout, const std::byte* frames, const checked_frame* checked,
                std::uint64_t count, const stage_result* result, stream on);

  /// Copies the ranges' target to their base.
  void (*copy)(const device_layout& layout, stream on);
};

/// Working memory that encoding so many ranges takes: about an eighth of their bytes.
std::uint64_t encode_memory_bytes(std::uint64_t ranges) noexcept;

/// Working memory that coding so many ranges takes, with `changes` elements of `unit` bytes that
/// differ: what encode_raw takes, and 12 bytes a change for units of 1 and 2.
std::uint64_t coded_memory_bytes(std::uint64_t ranges, std::uint64_t changes,
                                 std::uint32_t unit) noexcept;

/// Working memory that decoding `frames` takes whose changes are `changes` together: about 12 bytes
/// a change.
std::uint64_t decode_memory_bytes(std::uint64_t frames, std::uint64_t changes) noexcept;

/// Those of the CUDA device that is current, all of them loaded there, which may wait for what runs
/// on it; null if there is none that this build has code for, or no room for that.
const device_kernels* cuda_kernels() noexcept;

}  // namespace lockstep::kernels::cuda
