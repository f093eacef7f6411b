// Decides how a device checks raw and full frames, what it keeps to undo them, and how it writes
// them. Nothing is written before every frame of a stage has been checked.
#pragma once

#include "kernels/cuda/encode_kernels.hpp"

namespace lockstep::kernels::cuda {

LOCKSTEP_DEVICE inline std::uint32_t code_of(frame_status status) {
  return static_cast<std::uint32_t>(status);
}
LOCKSTEP_DEVICE inline std::uint32_t code_of(frame_encoding encoding) {
  return static_cast<std::uint32_t>(encoding);
}

/// The records of a raw payload, walked by all threads of a block.
struct raw_walk {
  const std::byte* payload;
  std::uint32_t payload_bytes;
  std::uint32_t elements;  ///< of the range
};

/// One record: where it stands, which element it is of, and the gap before it.
struct raw_record {
  std::uint32_t at;
  std::uint32_t position;
  std::uint32_t gap;
  bool first;  ///< nothing, or an escape, stands before it
};

/// What came of a walk, the same for all threads.
struct walk_end {
  std::uint32_t status;  ///< ok, bad_position or bad_size
  std::uint32_t found;
};

/// Calls `on_record(thread, record)` for each record whose position is inside the range, in any
/// order, and `on_escape(at)` by one thread for each escape; both also of payloads that are
/// refused. Records have one length, so between two escapes their places are known: gaps are summed
/// by a scan. A range has room for few escapes.
template <class T, class Block, class OnRecord, class OnEscape, unsigned Threads>
LOCKSTEP_DEVICE walk_end walk_raw(Block& block, const raw_walk& walk, OnRecord on_record,
                                  OnEscape on_escape, std::integral_constant<unsigned, Threads>) {
  constexpr std::uint32_t each = 4;  // records of a thread
  constexpr std::uint32_t stride = gap_bytes + sizeof(T);
  std::uint32_t start = 0;
  std::uint32_t position = 0;
  std::uint32_t found = 0;
  bool first = true;
  typename Block::template local<std::uint32_t> escape;
  typename Block::template local<std::uint32_t> next;
  typename Block::template local<std::uint32_t> outside;
  const auto gap_at = [&](std::uint32_t record) -> std::uint32_t {
    return load_any<std::uint16_t>(walk.payload + start + record * stride);
  };
  for (;;) {
    const std::uint32_t left = (walk.payload_bytes - start) / stride;
    const std::uint32_t there = left < Threads * each ? left : Threads * each;
    if (there == 0) break;
    block.each([&](unsigned thread) {
      escape[thread] = there;
      for (std::uint32_t i = thread * each; i < (thread + 1) * each && i < there; ++i) {
        if (gap_at(i) != gap_escape) continue;
        escape[thread] = i;
        break;
      }
    });
    const std::uint32_t records = block.reduce(escape, smaller{});
    block.each([&](unsigned thread) {
      next[thread] = 0;
      for (std::uint32_t i = thread * each; i < (thread + 1) * each && i < records; ++i)
        next[thread] += gap_at(i) + 1;
    });
    const std::uint32_t end = block.exclusive_scan(next, position, plus{});
    block.each([&](unsigned thread) {
      outside[thread] = 0;
      std::uint32_t behind = next[thread];
      for (std::uint32_t i = thread * each; i < (thread + 1) * each && i < records; ++i) {
        const std::uint32_t gap = gap_at(i);
        const std::uint32_t element = behind + gap;
        if (element >= walk.elements) {
          outside[thread] = 1;
          break;
        }
        on_record(thread, raw_record{start + i * stride, element, gap, first && i == 0});
        behind = element + 1;
      }
    });
    if (block.reduce(outside, larger{}) != 0) return {code_of(frame_status::bad_position), found};
    position = end;
    found += records;
    start += records * stride;
    first = records < there;
    if (records == there) continue;
    position += gap_escape;
    if (position >= walk.elements) return {code_of(frame_status::bad_position), found};
    const std::uint32_t escape_at = start;
    block.each([&](unsigned thread) {
      if (thread == 0) on_escape(escape_at);
    });
    start += gap_bytes;
  }
  return {code_of(start == walk.payload_bytes ? frame_status::ok : frame_status::bad_size), found};
}

/// What writing a frame needs to know of its tensor.
struct frame_place {
  std::byte* base;  ///< of the range
  std::uint32_t range_bytes;
  std::uint32_t elements;
};

LOCKSTEP_DEVICE inline frame_place place_of(const device_layout& layout, std::uint32_t tensor,
                                            std::uint32_t number) {
  const device_tensor& of = layout.tensors[tensor];
  const std::uint32_t size = bytes_of(of, number);
  return {of.base + std::uint64_t{number} * frame_span_bytes_max, size, size / of.unit};
}

/// Checks frames, a frame a block: all that kernels::parse_frame checks, and that no other frame is
/// of the same range. Adds up how they change the digest, and keeps what they overwrite.
struct check_frames {
  static constexpr unsigned threads = 256;
  struct shared {
    checksum_shared checksum;
    checked_frame frame;
    std::uint32_t count;
    std::uint32_t status;
    std::uint32_t sealed;  ///< the checksum that the frame says it has
  };

  device_layout layout;
  frame_list list;
  const device_key* key;
  checked_frame* checked;
  std::byte* undo;
  std::uint32_t* claims;
  stage_result* result;

  template <class Block>
  LOCKSTEP_DEVICE void run(Block& block, shared& s, std::uint64_t index) const {
    block.each([&](unsigned thread) {
      if (thread != 0) return;
      checked[index] = {};
      s.status = code_of(frame_status::ok);
      if (list.frame_at[index] != no_frame) s.status = read_envelope(s, list.frame_at[index]);
    });
    const std::uint64_t at = list.frame_at[index];
    if (at == no_frame) return;
    if (block.read(s.status) != 0) return refuse(block, index, s);
    const std::uint64_t size =
        frame_header_bytes + std::uint64_t{block.read(s.frame.payload_bytes)};
    const std::uint64_t sum =
        checksum_of(block, s.checksum, list.frames + at + field::encoding, size - field::encoding);
    block.each([&](unsigned thread) {
      if (thread != 0) return;
      s.status = static_cast<std::uint32_t>(sum) != s.sealed ? code_of(frame_status::bad_checksum)
                                                             : read_header(s, at);
    });
    if (block.read(s.status) != 0) return refuse(block, index, s);
    run_as_unit(layout.tensors[block.read(s.frame.tensor)].unit, *this, block, s, index);
  }

  /// The payload, in elements of T.
  template <class T, class Block>
  LOCKSTEP_DEVICE void run_as(Block& block, shared& s, const std::uint64_t& index) const {
    const std::uint32_t tensor = block.read(s.frame.tensor);
    const std::uint32_t number = block.read(s.frame.number);
    const std::uint64_t payload = block.read(s.frame.payload);
    const std::uint32_t payload_bytes = block.read(s.frame.payload_bytes);
    const std::uint32_t count = block.read(s.count);
    const frame_place place = place_of(layout, tensor, number);
    typename Block::template local<std::uint64_t> lane0;
    typename Block::template local<std::uint64_t> lane1;
    block.each([&](unsigned thread) { lane0[thread] = lane1[thread] = 0; });
    if (block.read(s.frame.encoding) == code_of(frame_encoding::full)) {
      block.each([&](unsigned thread) {
        device_digest change{};
        full_change(place, payload, tensor, number, thread, change);
        lane0[thread] = change.lane[0];
        lane1[thread] = change.lane[1];
      });
    } else {
      const raw_walk walk{list.frames + payload, payload_bytes, place.elements};
      const walk_end end = walk_raw<T>(
          block, walk,
          [&](unsigned thread, const raw_record& record) {
            device_digest change{};
            raw_change<T>(place, walk, record, tensor, number, change);
            lane0[thread] += change.lane[0];
            lane1[thread] += change.lane[1];
            if (undo == nullptr) return;
            std::byte* const to = undo + payload + record.at;
            store_any(to, static_cast<std::uint16_t>(record.gap));
            store_any(to + gap_bytes,
                      load_any<T>(place.base + std::uint64_t{record.position} * sizeof(T)));
          },
          [&](std::uint32_t at) {
            if (undo != nullptr) store_any(undo + payload + at, gap_escape);
          },
          std::integral_constant<unsigned, threads>{});
      std::uint32_t status = end.status;
      if (status == 0 && end.found != count) status = code_of(frame_status::bad_count);
      block.each([&](unsigned thread) {
        if (thread == 0) s.status = status;
      });
      if (status != 0) return refuse(block, index, s);
    }
    block.each([&](unsigned thread) {
      if (thread != 0) return;
      const std::uint64_t range = layout.tensors[tensor].first_range + number;
      if (atomic_exchange(&claims[range], 1) != 0) s.status = refused_twice;
    });
    if (block.read(s.status) != 0) return refuse(block, index, s);
    add_digest(block, lane0, lane1, &result->change);
    block.each([&](unsigned thread) {
      if (thread != 0) return;
      checked[index] = s.frame;
      atomic_add(&result->changes, std::uint64_t{s.count});
    });
  }

 private:
  template <class Block>
  LOCKSTEP_DEVICE void refuse(Block& block, std::uint64_t index, shared& s) const {
    block.each([&](unsigned thread) {
      if (thread == 0) atomic_min(&result->refused, index << 8 | s.status);
    });
  }

  /// What must hold before the checksum can be taken.
  LOCKSTEP_DEVICE std::uint32_t read_envelope(shared& s, std::uint64_t at) const {
    if (at > list.bytes || list.bytes - at < frame_header_bytes)
      return code_of(frame_status::truncated);
    const std::byte* const header = list.frames + at;
    if (header[field::magic] != std::byte{frame_magic}) return code_of(frame_status::bad_magic);
    s.frame.payload_bytes = load_any<std::uint32_t>(header + field::payload_bytes);
    if (s.frame.payload_bytes > list.bytes - at - frame_header_bytes)
      return code_of(frame_status::truncated);
    s.sealed = load_any<std::uint32_t>(header + field::checksum);
    return code_of(frame_status::ok);
  }

  LOCKSTEP_DEVICE static std::uint32_t load_3(const std::byte* from) {
    return static_cast<std::uint32_t>(load_first(from, 3));
  }

  /// The rest of the header.
  LOCKSTEP_DEVICE std::uint32_t read_header(shared& s, std::uint64_t at) const {
    const std::byte* const header = list.frames + at;
    const auto unit = static_cast<std::uint32_t>(header[field::unit]);
    s.frame.payload = at + frame_header_bytes;
    s.frame.encoding = static_cast<std::uint32_t>(header[field::encoding]);
    s.frame.tensor = load_any<std::uint32_t>(header + field::tensor);
    s.frame.number = load_3(header + field::range);
    s.count = load_3(header + field::count);
    if (s.frame.tensor >= layout.tensor_count || layout.tensors[s.frame.tensor].unit != unit)
      return code_of(frame_status::bad_tensor);
    const frame_place place = place_of(layout, s.frame.tensor, s.frame.number);
    if (place.range_bytes == 0) return code_of(frame_status::bad_range);
    if (s.frame.encoding == code_of(frame_encoding::full)) {
      if (s.count != place.elements) return code_of(frame_status::bad_count);
      return code_of(s.frame.payload_bytes == place.range_bytes ? frame_status::ok
                                                                : frame_status::bad_size);
    }
    // Coded frames are made raw first.
    if (s.frame.encoding != code_of(frame_encoding::raw))
      return code_of(frame_status::bad_encoding);
    if (s.count == 0) return code_of(frame_status::bad_count);
    return code_of(s.frame.payload_bytes < place.range_bytes ? frame_status::ok
                                                             : frame_status::bad_size);
  }

  /// A thread's part of a full frame's change of the digest; its part of the undo record, too.
  LOCKSTEP_DEVICE void full_change(const frame_place& place, std::uint64_t payload,
                                   std::uint32_t tensor, std::uint32_t number, unsigned thread,
                                   device_digest& change) const {
    const std::byte* const bytes = list.frames + payload;
    device_digest before{};
    for (std::uint32_t at = 0; at < place.range_bytes; at += digest_tile_bytes) {
      const std::uint32_t left = place.range_bytes - at;
      const std::uint32_t size = left < digest_tile_bytes ? left : digest_tile_bytes;
      const std::uint64_t tile = std::uint64_t{number} * range_tiles + at / digest_tile_bytes;
      add_tile<threads>(*key, tensor, tile, bytes + at, size, thread, change);
      add_tile<threads>(*key, tensor, tile, place.base + at, size, thread, before);
    }
    change.lane[0] -= before.lane[0];
    change.lane[1] -= before.lane[1];
    if (undo == nullptr) return;
    for (std::uint32_t i = thread; i < place.range_bytes; i += threads)
      undo[payload + i] = place.base[i];
  }

  /// By how much the word of a record changes the digest, if the record is the word's first: then
  /// those behind it are looked at, too.
  template <class T>
  LOCKSTEP_DEVICE void raw_change(const frame_place& place, const raw_walk& walk,
                                  const raw_record& record, std::uint32_t tensor,
                                  std::uint32_t number, device_digest& change) const {
    constexpr std::uint32_t in_word = 8 / sizeof(T);
    constexpr std::uint32_t stride = gap_bytes + sizeof(T);
    const std::uint32_t word = record.position / in_word;
    // Without a gap of a word or more the change before may be of the same word.
    if (!record.first && record.position % in_word > record.gap) return;
    const std::uint32_t at = word * 8;
    const std::uint32_t left = place.range_bytes - at;
    const std::uint64_t before =
        left >= 8 ? load_any<std::uint64_t>(place.base + at) : load_first(place.base + at, left);
    std::uint64_t after = before;
    std::uint32_t position = record.position;
    for (std::uint32_t from = record.at;;) {
      const unsigned shift = position % in_word * 8 * sizeof(T);
      const std::uint64_t mask = std::uint64_t{static_cast<T>(~T{0})} << shift;
      const std::uint64_t element = load_any<T>(walk.payload + from + gap_bytes);
      after = (after & ~mask) | element << shift;
      from += stride;
      if (walk.payload_bytes - from < stride) break;
      const std::uint32_t gap = load_any<std::uint16_t>(walk.payload + from);
      if (gap == gap_escape || (position + 1 + gap) / in_word != word) break;
      position += 1 + gap;
    }
    const std::uint32_t place_in_tile = word % digest_tile_words;
    const std::uint64_t tile =
        std::uint64_t{number} * range_tiles + word / static_cast<std::uint32_t>(digest_tile_words);
    for (unsigned lane = 0; lane < 2; ++lane) {
      const std::uint64_t k = key->words[place_in_tile + lane];
      change.lane[lane] +=
          (nh_word(after, k) - nh_word(before, k)) * multiplier(*key, lane, tensor, tile);
    }
  }
};

/// Refuses a stage whose states are not those that were announced. One thread's work.
struct prove_states {
  static constexpr unsigned threads = 32;
  struct shared {};

  const device_digest* base;
  device_digest expected_base;
  device_digest expected_target;
  stage_result* result;

  template <class Block>
  LOCKSTEP_DEVICE void run(Block& block, shared&, std::uint64_t) const {
    block.each([&](unsigned thread) {
      if (thread != 0) return;
      bool base_holds = true;
      bool target_holds = true;
      for (unsigned lane = 0; lane < 2; ++lane) {
        base_holds = base_holds && base->lane[lane] == expected_base.lane[lane];
        target_holds = target_holds &&
                       base->lane[lane] + result->change.lane[lane] == expected_target.lane[lane];
      }
      // Behind every frame: what is wrong with a frame says more.
      if (!base_holds || !target_holds)
        atomic_min(&result->refused,
                   all_frames << 8 | (base_holds ? refused_target : refused_base));
    });
  }
};

/// Writes frames that were checked, a frame a block; nothing if the stage refused any.
struct apply_frames {
  static constexpr unsigned threads = 256;
  struct shared {};

  device_layout layout;
  const std::byte* frames;
  const checked_frame* checked;
  const stage_result* result;

  template <class Block>
  LOCKSTEP_DEVICE void run(Block& block, shared& s, std::uint64_t index) const {
    if (result->refused != nothing_refused) return;
    const checked_frame frame = checked[index];
    if (frame.encoding == 0) return;
    if (frame.encoding == code_of(frame_encoding::full)) {
      const frame_place place = place_of(layout, frame.tensor, frame.number);
      const std::byte* const from = frames + frame.payload;
      block.each([&](unsigned thread) {
        const std::uint32_t words = place.range_bytes / 8;
        for (std::uint32_t i = thread; i < words; i += threads)
          store_any(place.base + 8 * i, load_any<std::uint64_t>(from + 8 * i));
        for (std::uint32_t i = 8 * words + thread; i < place.range_bytes; i += threads)
          place.base[i] = from[i];
      });
      return;
    }
    run_as_unit(layout.tensors[frame.tensor].unit, *this, block, s, frame);
  }

  template <class T, class Block>
  LOCKSTEP_DEVICE void run_as(Block& block, shared&, const checked_frame& frame) const {
    const frame_place place = place_of(layout, frame.tensor, frame.number);
    const raw_walk walk{frames + frame.payload, frame.payload_bytes, place.elements};
    walk_raw<T>(
        block, walk,
        [&](unsigned, const raw_record& record) {
          store_any(place.base + std::uint64_t{record.position} * sizeof(T),
                    load_any<T>(walk.payload + record.at + gap_bytes));
        },
        [](std::uint32_t) {}, std::integral_constant<unsigned, threads>{});
  }
};

/// The base becomes the target, byte for byte.
struct copy_ranges {
  static constexpr unsigned threads = 256;
  static constexpr unsigned block_bytes = 64 * 1024;
  static constexpr unsigned range_blocks = frame_span_bytes_max / block_bytes;
  struct shared {};

  const device_tensor* tensors;
  const device_range* ranges;

  template <class Block>
  LOCKSTEP_DEVICE void run(Block& block, shared&, std::uint64_t index) const {
    const device_range range = ranges[index / range_blocks];
    const device_tensor& tensor = tensors[range.tensor];
    const std::uint32_t size = bytes_of(tensor, range.number);
    const auto first = static_cast<std::uint32_t>(index % range_blocks * block_bytes);
    if (first >= size) return;
    const std::uint32_t bytes = size - first < block_bytes ? size - first : block_bytes;
    const std::uint64_t offset = std::uint64_t{range.number} * frame_span_bytes_max + first;
    std::byte* const to = tensor.base + offset;
    const std::byte* const from = tensor.target + offset;
    block.each([&](unsigned thread) {
      const std::uint32_t pairs = bytes / 16;
      for (std::uint32_t i = thread; i < pairs; i += threads) {
        const word_pair both = load_pair(from + 16 * i);
        if (reinterpret_cast<std::uintptr_t>(to) % 16 == 0) {
          store_any(to + 16 * i, both);
        } else {
          store_any(to + 16 * i, both.word[0]);
          store_any(to + 16 * i + 8, both.word[1]);
        }
      }
      for (std::uint32_t i = 16 * pairs + thread; i < bytes; i += threads) to[i] = from[i];
    });
  }
};

}  // namespace lockstep::kernels::cuda
