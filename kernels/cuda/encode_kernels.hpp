// Decides how a device finds what changed, and writes the frames that kernels::encode_delta writes.
// Five launches: masks of what differs and sums of tiles; where in its frame each tile's records
// go; where each frame goes; records; headers.
#pragma once

#include "kernels/cuda/checksum.hpp"
#include "kernels/cuda/digest_kernels.hpp"
#include "kernels/frame_layout.hpp"

namespace lockstep::kernels::cuda {

/// A mask covers this many bytes, a bit for each element.
inline constexpr unsigned mask_bytes = 64;
inline constexpr unsigned tile_masks = digest_tile_bytes / mask_bytes;
/// Of all masks of a range, at the largest: a bit for each byte.
inline constexpr std::uint64_t range_mask_bytes = frame_span_bytes_max / 8;

/// What one tile has of changes; then, where they go.
struct tile_changes {
  std::uint32_t count;
  std::uint32_t first;  ///< the first element that changed, from the front of the range
  std::uint32_t last;
};
struct tile_place {
  std::uint32_t at;    ///< of its first record, in the payload
  std::uint32_t next;  ///< the element behind the last change before the tile
};

/// What becomes of one range.
struct range_plan {
  std::uint32_t count;  ///< elements in the payload
  std::uint32_t changes;
  std::uint32_t payload_bytes;
  std::uint32_t encoding;  ///< 0: no frame
};

/// Working memory of a call, all of it for each of its ranges.
struct encode_memory {
  std::byte* masks;       ///< range_mask_bytes
  tile_changes* changes;  ///< range_tiles
  tile_place* places;     ///< range_tiles
  range_plan* plans;      ///< 1
};

/// The mask of one piece of `mask_bytes`.
template <class T>
struct mask_of;
template <>
struct mask_of<std::uint8_t> {
  using type = std::uint64_t;
};
template <>
struct mask_of<std::uint16_t> {
  using type = std::uint32_t;
};
template <>
struct mask_of<std::uint32_t> {
  using type = std::uint16_t;
};
template <>
struct mask_of<std::uint64_t> {
  using type = std::uint8_t;
};

/// Calls `kernel.run_as<T>(…)` with the unsigned type of `unit` bytes.
template <class Kernel, class... Arguments>
LOCKSTEP_DEVICE void run_as_unit(std::uint32_t unit, const Kernel& kernel,
                                 Arguments&... arguments) {
  switch (unit) {
    case 1:
      return kernel.template run_as<std::uint8_t>(arguments...);
    case 2:
      return kernel.template run_as<std::uint16_t>(arguments...);
    case 4:
      return kernel.template run_as<std::uint32_t>(arguments...);
    default:
      return kernel.template run_as<std::uint64_t>(arguments...);
  }
}

/// One tile of one range of a call.
struct tile_of_range {
  std::uint64_t range;  ///< of the call
  std::uint32_t tile;   ///< of the range
  std::uint32_t tensor;
  std::uint32_t size;    ///< of the tile, 0 if the range ends before it
  std::uint64_t offset;  ///< of the tile in the tensor

  LOCKSTEP_DEVICE tile_of_range(const device_tensor* tensors, const device_range* ranges,
                                std::uint64_t index)
      : range(index / range_tiles), tile(static_cast<std::uint32_t>(index % range_tiles)) {
    const device_range where = ranges[range];
    tensor = where.tensor;
    offset = std::uint64_t{where.number} * frame_span_bytes_max + tile * digest_tile_bytes;
    const std::uint64_t end = tensors[tensor].bytes;
    const std::uint64_t left = offset < end ? end - offset : 0;
    size = static_cast<std::uint32_t>(left < digest_tile_bytes ? left : digest_tile_bytes);
  }
};

/// Masks and sums of one tile a block.
struct compare_tiles {
  static constexpr unsigned threads = digest_tile_bytes / 16;
  struct shared {
    std::uint16_t part[threads];
    std::uint32_t count;
    std::uint32_t first;
    std::uint32_t last;
  };

  const device_tensor* tensors;
  const device_range* ranges;
  encode_memory memory;

  template <class Block>
  LOCKSTEP_DEVICE void run(Block& block, shared& s, std::uint64_t index) const {
    const tile_of_range at(tensors, ranges, index);
    if (at.size == 0) return;
    run_as_unit(tensors[at.tensor].unit, *this, block, s, at);
  }

  template <class T, class Block>
  LOCKSTEP_DEVICE void run_as(Block& block, shared& s, const tile_of_range& at) const {
    using mask = typename mask_of<T>::type;
    constexpr unsigned part_bits = 16 / sizeof(T);
    const device_tensor& tensor = tensors[at.tensor];
    const std::byte* const base = tensor.base + at.offset;
    const std::byte* const target = tensor.target + at.offset;
    block.each([&](unsigned thread) {
      if (thread == 0) {
        s.count = 0;
        s.first = ~0u;
        s.last = 0;
      }
      s.part[thread] = differences<T>(base, target, 16 * thread, at.size);
    });
    mask* const masks =
        reinterpret_cast<mask*>(memory.masks + at.range * range_mask_bytes) + at.tile * tile_masks;
    const auto first_element = static_cast<std::uint32_t>(at.tile * digest_tile_bytes / sizeof(T));
    block.each([&](unsigned thread) {
      if (thread >= tile_masks) return;
      std::uint64_t bits = 0;
      for (unsigned i = 0; i < 4; ++i)
        bits |= std::uint64_t{s.part[4 * thread + i]} << (part_bits * i);
      masks[thread] = static_cast<mask>(bits);
      if (bits == 0) return;
      const auto from = static_cast<std::uint32_t>(first_element + thread * mask_bytes / sizeof(T));
      atomic_add(&s.count, ones_in(bits));
      atomic_min(&s.first, from + zeros_below(bits));
      atomic_max(&s.last, from + 63 - zeros_above(bits));
    });
    block.each([&](unsigned thread) {
      if (thread == 0)
        memory.changes[at.range * range_tiles + at.tile] = {s.count, s.first, s.last};
    });
  }

  /// A bit for each element that differs, of the 16 bytes at `at`.
  template <class T>
  LOCKSTEP_DEVICE static std::uint16_t differences(const std::byte* base, const std::byte* target,
                                                   std::uint32_t at, std::uint32_t size) {
    if (at >= size) return 0;
    unsigned result = 0;
    if (size - at >= 16) {
      const word_pair from = load_pair(base + at);
      const word_pair to = load_pair(target + at);
      for (unsigned word = 0; word < 2; ++word) {
        const std::uint64_t both = from.word[word] ^ to.word[word];
        for (unsigned i = 0; i < 8 / sizeof(T); ++i)
          if (static_cast<T>(both >> (8 * sizeof(T) * i)) != 0)
            result |= 1u << (word * 8 / sizeof(T) + i);
      }
      return static_cast<std::uint16_t>(result);
    }
    for (unsigned i = 0; at + i * sizeof(T) < size; ++i)
      if (load_any<T>(base + at + i * sizeof(T)) != load_any<T>(target + at + i * sizeof(T)))
        result |= 1u << i;
    return static_cast<std::uint16_t>(result);
  }
};

/// Where the records of a range's tiles go, a range a block.
struct lay_out_ranges {
  static constexpr unsigned threads = range_tiles;
  struct shared {};

  const device_tensor* tensors;
  const device_range* ranges;
  encode_memory memory;

  template <class Block>
  LOCKSTEP_DEVICE void run(Block& block, shared&, std::uint64_t index) const {
    const device_range range = ranges[index];
    const device_tensor& tensor = tensors[range.tensor];
    const std::uint32_t size = bytes_of(tensor, range.number);
    const tile_changes* const tiles = memory.changes + index * range_tiles;
    typename Block::template local<std::uint32_t> next;
    typename Block::template local<std::uint32_t> bytes;
    typename Block::template local<std::uint32_t> count;
    const auto tile_at = [&](unsigned thread) {
      return thread * digest_tile_bytes < size ? tiles[thread] : tile_changes{0, 0, 0};
    };
    block.each([&](unsigned thread) {
      const tile_changes tile = tile_at(thread);
      next[thread] = tile.count == 0 ? 0 : tile.last + 1;
      count[thread] = tile.count;
    });
    block.exclusive_scan(next, std::uint32_t{0}, larger{});
    block.each([&](unsigned thread) {
      const tile_changes tile = tile_at(thread);
      const std::uint32_t escapes = tile.count == 0 ? 0 : (tile.first - next[thread]) / gap_escape;
      bytes[thread] =
          tile.count * (static_cast<std::uint32_t>(gap_bytes) + tensor.unit) + 2 * escapes;
    });
    const std::uint32_t changes = block.reduce(count, plus{});
    const std::uint32_t total = block.exclusive_scan(bytes, std::uint32_t{0}, plus{});
    block.each([&](unsigned thread) {
      memory.places[index * range_tiles + thread] = {bytes[thread], next[thread]};
      if (thread == 0) memory.plans[index] = plan(size, tensor.unit, changes, total);
    });
  }

  LOCKSTEP_DEVICE static range_plan plan(std::uint32_t size, std::uint32_t unit,
                                         std::uint32_t changes, std::uint32_t raw_bytes) {
    if (changes == 0) return {0, 0, 0, 0};
    if (raw_bytes < size)
      return {changes, changes, raw_bytes, static_cast<std::uint32_t>(frame_encoding::raw)};
    return {size / unit, changes, size, static_cast<std::uint32_t>(frame_encoding::full)};
  }
};

/// Where the frames go, one block for all.
struct place_frames {
  static constexpr unsigned threads = 512;
  struct shared {};

  std::uint64_t range_count;
  const range_plan* plans;
  encode_output out;

  template <class Block>
  LOCKSTEP_DEVICE void run(Block& block, shared&, std::uint64_t) const {
    const encode_result before = *out.result;
    std::uint64_t end = before.bytes;
    typename Block::template local<std::uint64_t> at;
    typename Block::template local<std::uint64_t> changes;
    typename Block::template local<std::uint64_t> frames;
    typename Block::template local<std::uint64_t> missing;
    block.each([&](unsigned thread) { changes[thread] = frames[thread] = missing[thread] = 0; });
    for (std::uint64_t group = 0; group < range_count; group += threads) {
      const auto plan_at = [&](unsigned thread) {
        return group + thread < range_count ? plans[group + thread] : range_plan{0, 0, 0, 0};
      };
      block.each([&](unsigned thread) {
        const range_plan plan = plan_at(thread);
        at[thread] = plan.encoding == 0 ? 0 : frame_header_bytes + plan.payload_bytes;
      });
      end = block.exclusive_scan(at, end, plus{});
      block.each([&](unsigned thread) {
        if (group + thread >= range_count) return;
        const range_plan plan = plan_at(thread);
        const std::uint64_t size = frame_header_bytes + std::uint64_t{plan.payload_bytes};
        const bool there = plan.encoding != 0;
        const bool fits = there && at[thread] <= out.capacity && size <= out.capacity - at[thread];
        out.frame_at[group + thread] = fits ? at[thread] : no_frame;
        changes[thread] += plan.changes;
        frames[thread] += there ? 1 : 0;
        missing[thread] += there && !fits ? 1 : 0;
      });
    }
    const encode_result sum{end, before.frames + block.reduce(frames, plus{}),
                            before.changes + block.reduce(changes, plus{}),
                            before.missing + block.reduce(missing, plus{})};
    block.each([&](unsigned thread) {
      if (thread == 0) *out.result = sum;
    });
  }
};

/// The payload that one tile is part of, a tile a block.
struct write_tiles {
  static constexpr unsigned threads = tile_masks;
  struct shared {};

  const device_tensor* tensors;
  const device_range* ranges;
  encode_memory memory;
  encode_output out;

  template <class Block>
  LOCKSTEP_DEVICE void run(Block& block, shared& s, std::uint64_t index) const {
    const tile_of_range at(tensors, ranges, index);
    const std::uint64_t frame = out.frame_at[at.range];
    if (at.size == 0 || frame == no_frame) return;
    const device_tensor& tensor = tensors[at.tensor];
    std::byte* const payload = out.frames + frame + frame_header_bytes;
    if (memory.plans[at.range].encoding == static_cast<std::uint32_t>(frame_encoding::coded))
      return;
    if (memory.plans[at.range].encoding == static_cast<std::uint32_t>(frame_encoding::full)) {
      std::byte* const to = payload + at.tile * digest_tile_bytes;
      const std::byte* const from = tensor.target + at.offset;
      block.each([&](unsigned thread) {
        for (std::uint32_t i = thread; i < at.size; i += threads) to[i] = from[i];
      });
      return;
    }
    if (memory.changes[index].count == 0) return;
    run_as_unit(tensor.unit, *this, block, s, at, *payload);
  }

  template <class T, class Block>
  LOCKSTEP_DEVICE void run_as(Block& block, shared&, const tile_of_range& at,
                              std::byte& payload) const {
    using mask = typename mask_of<T>::type;
    constexpr unsigned mask_elements = mask_bytes / sizeof(T);
    const mask* const masks =
        reinterpret_cast<const mask*>(memory.masks + at.range * range_mask_bytes) +
        at.tile * tile_masks;
    const tile_place place = memory.places[at.range * range_tiles + at.tile];
    const std::byte* const range =
        tensors[at.tensor].target + at.offset - std::uint64_t{at.tile} * digest_tile_bytes;
    const auto first_element = static_cast<std::uint32_t>(at.tile * digest_tile_bytes / sizeof(T));
    typename Block::template local<std::uint32_t> next;
    typename Block::template local<std::uint32_t> before;
    const auto mask_at = [&](unsigned thread) {
      return thread * mask_bytes < at.size ? std::uint64_t{masks[thread]} : 0;
    };
    block.each([&](unsigned thread) {
      const std::uint64_t bits = mask_at(thread);
      before[thread] = ones_in(bits);
      next[thread] =
          bits == 0 ? 0 : first_element + thread * mask_elements + 64 - zeros_above(bits);
    });
    block.exclusive_scan(before, std::uint32_t{0}, plus{});
    block.exclusive_scan(next, place.next, larger{});
    block.each([&](unsigned thread) {
      std::uint32_t behind = next[thread];
      std::byte* to = &payload + place.at;
      std::uint32_t done = before[thread];
      // Escapes stand before the tile's first record: a tile is shorter than one.
      if (done != 0) {
        to += done * (gap_bytes + sizeof(T));
        to += gap_bytes *
              ((memory.changes[at.range * range_tiles + at.tile].first - place.next) / gap_escape);
      }
      for (std::uint64_t bits = mask_at(thread); bits != 0; bits &= bits - 1) {
        const std::uint32_t element = first_element + thread * mask_elements + zeros_below(bits);
        std::uint32_t gap = element - behind;
        for (; gap >= gap_escape; gap -= gap_escape, to += gap_bytes) store_any(to, gap_escape);
        store_any(to, static_cast<std::uint16_t>(gap));
        store_any(to + gap_bytes, load_any<T>(range + std::uint64_t{element} * sizeof(T)));
        to += gap_bytes + sizeof(T);
        behind = element + 1;
      }
    });
  }
};

/// The header of each frame, a frame a block.
struct seal_frames {
  static constexpr unsigned threads = 128;
  using shared = checksum_shared;

  const device_tensor* tensors;
  const device_range* ranges;
  const range_plan* plans;
  encode_output out;

  template <class Block>
  LOCKSTEP_DEVICE void run(Block& block, shared& s, std::uint64_t index) const {
    if (out.frame_at[index] == no_frame) return;
    const device_range range = ranges[index];
    const range_plan plan = plans[index];
    std::byte* const frame = out.frames + out.frame_at[index];
    block.each([&](unsigned thread) {
      if (thread != 0) return;
      frame[field::magic] = std::byte{frame_magic};
      frame[field::encoding] = static_cast<std::byte>(plan.encoding);
      frame[field::unit] = static_cast<std::byte>(tensors[range.tensor].unit);
      store_any(frame + field::tensor, range.tensor);
      for (unsigned i = 0; i < 3; ++i) {
        frame[field::range + i] = static_cast<std::byte>(range.number >> (8 * i));
        frame[field::count + i] = static_cast<std::byte>(plan.count >> (8 * i));
      }
      store_any(frame + field::payload_bytes, plan.payload_bytes);
    });
    const std::uint64_t checksum =
        checksum_of(block, s, frame + field::encoding,
                    frame_header_bytes + std::uint64_t{plan.payload_bytes} - field::encoding);
    block.each([&](unsigned thread) {
      if (thread == 0) store_any(frame + field::checksum, static_cast<std::uint32_t>(checksum));
    });
  }
};

}  // namespace lockstep::kernels::cuda
