// Decides which kernels a call of device_kernels launches; the same on a device and emulated.
#pragma once

#include <type_traits>

#include "kernels/cuda/coded_encode_kernels.hpp"
#include "kernels/cuda/device_kernels.hpp"
#include "kernels/cuda/place_kernels.hpp"

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

/// The same for decoding, but for the lists, which take what is left.
inline decode_memory cut_decode_memory(void* memory, std::uint64_t frames, std::uint64_t& used) {
  memory_cutter cutter(memory);
  decode_memory parts{};
  parts.coded = cutter.take<coded_plan>(frames);
  parts.ranges = cutter.take<device_range>(frames);
  parts.plans = cutter.take<range_plan>(frames);
  parts.list_bytes = cutter.take<std::uint32_t>(frames);
  parts.list_at = cutter.take<std::uint64_t>(frames);
  parts.lists = cutter.take<std::byte>(0);
  used = cutter.used();
  return parts;
}

/// The same for coding; `raw` takes the parts that encoding raw frames takes, too.
inline coded_memory cut_coded_memory(void* memory, std::uint64_t ranges, encode_memory& raw,
                                     std::uint64_t& used) {
  memory_cutter cutter(memory);
  raw.masks = cutter.take<std::byte>(ranges * range_mask_bytes);
  raw.changes = cutter.take<tile_changes>(ranges * range_tiles);
  raw.places = cutter.take<tile_place>(ranges * range_tiles);
  raw.plans = cutter.take<range_plan>(ranges);
  coded_memory parts{};
  parts.tables = cutter.take<device_table>(ranges);
  parts.list_bytes = cutter.take<std::uint32_t>(ranges);
  parts.list_at = cutter.take<std::uint64_t>(ranges);
  parts.lists = cutter.take<std::byte>(0);
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

/// Kernels, by name.
template <class... Kernels>
struct kernel_list {
  template <class Kernel>
  static constexpr bool has = (std::is_same_v<Kernel, Kernels> || ...);

  /// Whether `Loader` could load each: `Loader::load<Kernel>()`.
  template <class Loader>
  static bool load() {
    return (Loader::template load<Kernels>() && ...);
  }
};

/// All that are launched. A device loads them before its first call: a kernel that is loaded when
/// it is launched first may wait for all that runs there, and may find no memory.
using all_kernels = kernel_list<apply_frames, check_frames, code_ranges, compare_tiles, copy_ranges,
                                digest_ranges, expand_key, lay_out_ranges, place_coded,
                                place_frames, place_lists, plan_full, prove_states, read_coded,
                                seal_frames, size_lists, unpack_coded, write_coded, write_tiles>;

/// `Target` has `launch(kernel, blocks, stream)`, which runs nothing for no blocks, and
/// `fill(memory, byte, size, stream)`.
template <class Target>
struct launches {
  struct Grid : Target {
    template <class Kernel>
    static void launch(const Kernel& kernel, std::uint64_t blocks, stream on) {
      static_assert(all_kernels::has<Kernel>, "a kernel that is not loaded in time");
      Target::launch(kernel, blocks, on);
    }
  };

  static void expand(std::uint64_t seed, device_key* key, stream on) {
    Grid::launch(expand_key{seed, key}, expand_key::blocks, on);
  }

  static void digest(const device_layout& layout, which_state which, const device_key* key,
                     const std::uint32_t* skip, device_digest* sum, stream on) {
    Grid::launch(digest_ranges{layout.tensors, layout.ranges, which, key, skip, sum},
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

  static void encode_coded(const device_layout& layout, const device_model* models,
                           const encode_output& out, void* memory, std::uint64_t memory_bytes,
                           stream on) {
    const std::uint64_t ranges = layout.range_count;
    std::uint64_t used = 0;
    encode_memory parts{};
    coded_memory coded = cut_coded_memory(memory, ranges, parts, used);
    if (memory_bytes < used)
      throw std::invalid_argument("device_kernels: less working memory than coding takes");
    if (ranges == 0) return;
    coded.list_capacity = memory_bytes - used;
    Grid::launch(compare_tiles{layout.tensors, layout.ranges, parts}, ranges * range_tiles, on);
    Grid::launch(lay_out_ranges{layout.tensors, layout.ranges, parts}, ranges, on);
    Grid::launch(size_lists{layout.tensors, layout.ranges, ranges, parts.plans, coded.list_bytes},
                 (ranges + size_lists::threads - 1) / size_lists::threads, on);
    Grid::launch(place_lists{ranges, coded.list_bytes, coded.list_capacity, coded.list_at}, 1, on);
    Grid::launch(code_ranges{layout.tensors, layout.ranges, models, parts, coded}, ranges, on);
    Grid::launch(place_frames{ranges, parts.plans, out}, 1, on);
    Grid::launch(write_tiles{layout.tensors, layout.ranges, parts, out}, ranges * range_tiles, on);
    Grid::launch(write_coded{parts.plans, coded, out}, ranges, on);
    Grid::launch(seal_frames{layout.tensors, layout.ranges, parts.plans, out}, ranges, on);
  }

  static void begin_stage(const device_layout& layout, std::uint32_t* claims, stage_result* result,
                          stream on) {
    Grid::fill(claims, 0, layout.range_count * sizeof *claims, on);
    Grid::fill(result, 0, sizeof *result, on);
    Grid::fill(&result->refused, 0xff, sizeof result->refused, on);
  }

  static void decode(const device_layout& layout, const frame_list& list, const device_key* key,
                     const decode_output& out, void* memory, std::uint64_t memory_bytes,
                     stage_result* result, stream on) {
    std::uint64_t used = 0;
    decode_memory parts = cut_decode_memory(memory, list.count, used);
    if (memory_bytes < used)
      throw std::invalid_argument("device_kernels: less working memory than decoding takes");
    if (list.count == 0) return;
    parts.list_capacity = memory_bytes - used;
    const encode_output made{out.frames, out.capacity, out.frame_at, out.result};
    Grid::launch(read_coded{layout, list, parts, out.pass_at, result}, list.count, on);
    Grid::launch(place_lists{list.count, parts.list_bytes, parts.list_capacity, parts.list_at}, 1,
                 on);
    Grid::launch(place_frames{list.count, parts.plans, made}, 1, on);
    Grid::launch(unpack_coded{layout.tensors, list, parts, made, result}, list.count, on);
    Grid::launch(place_coded{layout, key, parts, made, out.claims, out.base, result}, list.count,
                 on);
    Grid::launch(seal_frames{layout.tensors, parts.ranges, parts.plans, made}, list.count, on);
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
    return {name,        expand, digest, encode_raw, encode_full, encode_coded,
            begin_stage, decode, check,  prove,      apply,       copy};
  }
};

}  // namespace lockstep::kernels::cuda
