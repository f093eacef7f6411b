// Decides which kernels a call of device_kernels launches; the same on a device and emulated.
#pragma once

#include "kernels/cuda/apply_kernels.hpp"
#include "kernels/cuda/device_kernels.hpp"

namespace lockstep::kernels::cuda {

/// Divides memory that was passed in.
class memory_cutter {
 public:
  /// `memory` may be null, to learn how much is used.
  explicit memory_cutter(void* memory) : at_(reinterpret_cast<std::uintptr_t>(memory)) {}

  template <class T>
  T* take(std::uint64_t count) {
    auto* const taken = reinterpret_cast<T*>(at_ + used_);
    used_ += (count * sizeof(T) + 255) / 256 * 256;
    return taken;
  }
  std::uint64_t used() const { return used_; }

 private:
  std::uintptr_t at_;
  std::uint64_t used_ = 0;
};

/// Cuts `memory` into what `ranges` need; says in `used` how much that was.
inline encode_memory cut_encode_memory(void* memory, std::uint64_t ranges, std::uint64_t& used) {
  memory_cutter cutter(memory);
  encode_memory parts{};
  parts.masks = cutter.take<std::byte>(ranges * range_mask_bytes);
  parts.changes = cutter.take<tile_changes>(ranges * range_tiles);
  parts.places = cutter.take<tile_place>(ranges * range_tiles);
  parts.plans = cutter.take<range_plan>(ranges);
  used = cutter.used();
  return parts;
}

/// The plans of full frames.
struct plan_full {
  static constexpr unsigned threads = 128;
  struct shared {};

  const device_tensor* tensors;
  const device_range* ranges;
  std::uint64_t range_count;
  range_plan* plans;

  template <class Block>
  LOCKSTEP_DEVICE void run(Block& block, shared&, std::uint64_t index) const {
    block.each([&](unsigned thread) {
      const std::uint64_t i = index * threads + thread;
      if (i >= range_count) return;
      const device_tensor& tensor = tensors[ranges[i].tensor];
      const std::uint32_t size = bytes_of(tensor, ranges[i].number);
      plans[i] = {size / tensor.unit, size / tensor.unit, size, code_of(frame_encoding::full)};
    });
  }
};

/// `Grid` has `launch(kernel, blocks, stream)`, which runs nothing for no blocks, and
/// `fill(memory, byte, size, stream)`.
template <class Grid>
struct launches {
  static void expand(std::uint64_t seed, device_key* key, stream on) {
    Grid::launch(expand_key{seed, key}, expand_key::blocks, on);
  }

  static void digest(const device_layout& layout, which_state which, const device_key* key,
                     device_digest* sum, stream on) {
    Grid::launch(digest_ranges{layout.tensors, layout.ranges, which, key, sum},
                 layout.range_count * digest_ranges::range_blocks, on);
  }

  static void encode(const device_layout& layout, const encode_output& out, void* memory,
                     std::uint64_t memory_bytes, bool full, stream on) {
    const std::uint64_t ranges = layout.range_count;
    if (ranges == 0) return;
    std::uint64_t used = 0;
    const encode_memory parts = cut_encode_memory(memory, ranges, used);
    if (memory_bytes < used)
      throw std::invalid_argument("device_kernels: less working memory than encoding takes");
    if (full) {
      Grid::launch(plan_full{layout.tensors, layout.ranges, ranges, parts.plans},
                   (ranges + plan_full::threads - 1) / plan_full::threads, on);
    } else {
      Grid::launch(compare_tiles{layout.tensors, layout.ranges, parts}, ranges * range_tiles, on);
      Grid::launch(lay_out_ranges{layout.tensors, layout.ranges, parts}, ranges, on);
    }
    Grid::launch(place_frames{ranges, parts.plans, out}, 1, on);
    Grid::launch(write_tiles{layout.tensors, layout.ranges, parts, out}, ranges * range_tiles, on);
    Grid::launch(seal_frames{layout.tensors, layout.ranges, parts.plans, out}, ranges, on);
  }
  static void encode_raw(const device_layout& layout, const encode_output& out, void* memory,
                         std::uint64_t memory_bytes, stream on) {
    encode(layout, out, memory, memory_bytes, false, on);
  }
  static void encode_full(const device_layout& layout, const encode_output& out, void* memory,
                          std::uint64_t memory_bytes, stream on) {
    encode(layout, out, memory, memory_bytes, true, on);
  }

  static void begin_stage(const device_layout& layout, std::uint32_t* claims, stage_result* result,
                          stream on) {
    Grid::fill(claims, 0, layout.range_count * sizeof *claims, on);
    Grid::fill(result, 0, sizeof *result, on);
    Grid::fill(&result->refused, 0xff, sizeof result->refused, on);
  }

  static void check(const device_layout& layout, const frame_list& list, const device_key* key,
                    checked_frame* checked, std::byte* undo, std::uint32_t* claims,
                    stage_result* result, stream on) {
    Grid::launch(check_frames{layout, list, key, checked, undo, claims, result}, list.count, on);
  }

  static void prove(const device_digest* base, const digest_sum& expected_base,
                    const digest_sum& expected_target, stage_result* result, stream on) {
    Grid::launch(prove_states{base,
                              {{expected_base.lane[0], expected_base.lane[1]}},
                              {{expected_target.lane[0], expected_target.lane[1]}},
                              result},
                 1, on);
  }

  static void apply(const device_layout& layout, const std::byte* frames,
                    const checked_frame* checked, std::uint64_t count, const stage_result* result,
                    stream on) {
    Grid::launch(apply_frames{layout, frames, checked, result}, count, on);
  }

  static void copy(const device_layout& layout, stream on) {
    Grid::launch(copy_ranges{layout.tensors, layout.ranges},
                 layout.range_count * copy_ranges::range_blocks, on);
  }

  static device_kernels table(const char* name) {
    return {name, expand, digest, encode_raw, encode_full, begin_stage, check, prove, apply, copy};
  }
};

}  // namespace lockstep::kernels::cuda
