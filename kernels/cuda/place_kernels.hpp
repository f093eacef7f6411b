// Decides how a device finds the elements that a coded frame changes, and what is made of them.
#pragma once

#include "kernels/cuda/decode_kernels.hpp"

namespace lockstep::kernels::cuda {

/// From ranks to elements, a frame a block: reads the live range once, digests it, and writes the
/// payload that the frame stands for.
struct place_coded {
  static constexpr unsigned threads = 256;
  static constexpr unsigned step_bytes = threads * piece_bytes;
  struct shared {
    std::uint64_t mask[class_count_max][threads];  ///< elements of a class in a thread's piece
    std::uint64_t changed[threads];
    std::byte value[step_bytes];  ///< new elements, where they changed
    std::uint16_t before[class_count_max][threads];
    std::uint32_t from[class_count_max];  ///< changes of a class that are done
    std::uint32_t to[class_count_max];    ///< and those that this step does
    std::uint32_t twice;
  };

  device_layout layout;
  const device_key* key;
  decode_memory memory;
  encode_output out;
  std::uint32_t* claims;
  device_digest* base;
  stage_result* result;

  template <class Block>
  LOCKSTEP_DEVICE void run(Block& block, shared& s, std::uint64_t index) const {
    if (memory.list_bytes[index] == 0) return;
    const device_range range = memory.ranges[index];
    const device_tensor& tensor = layout.tensors[range.tensor];
    block.each([&](unsigned thread) {
      if (thread != 0) return;
      s.twice = atomic_exchange(&claims[tensor.first_range + range.number], 1);
      if (s.twice != 0) refuse(index, refused_twice);
    });
    if (block.read(s.twice) != 0) return;
    run_as_unit(tensor.unit, *this, block, s, index);
  }

  template <class T, class Block>
  LOCKSTEP_DEVICE void run_as(Block& block, shared& s, const std::uint64_t& index) const {
    const coded_plan& coded = memory.coded[index];
    const device_table& table = coded.table;
    const device_range range = memory.ranges[index];
    const frame_place place = place_of(layout, range.tensor, range.number);
    const std::uint32_t* const ranks =
        reinterpret_cast<const std::uint32_t*>(memory.lists + memory.list_at[index]);
    std::byte* const payload = out.frames + out.frame_at[index] + frame_header_bytes;
    const bool raw = memory.plans[index].encoding == code_of(frame_encoding::raw);
    typename Block::template local<std::uint64_t> lane0;
    typename Block::template local<std::uint64_t> lane1;
    block.each([&](unsigned thread) {
      lane0[thread] = lane1[thread] = 0;
      if (thread < class_count_max) s.from[thread] = 0;
    });
    std::uint32_t base_rank[class_count_max] = {};
    writer_state written{0, 0};
    for (std::uint32_t at = 0; at < place.range_bytes; at += step_bytes) {
      const std::uint32_t left = place.range_bytes - at;
      const std::uint32_t size = left < step_bytes ? left : step_bytes;
      typename Block::template local<std::uint64_t> low;
      typename Block::template local<std::uint64_t> high;
      block.each([&](unsigned thread) {
        s.changed[thread] = 0;
        const class_counts counts = classify_piece<T>(s.mask, table.classes, table.thresholds,
                                                      place.base + at, size, thread);
        low[thread] = counts.low;
        high[thread] = counts.high;
        device_digest sum{};
        digest_piece(range, place.base, at, size, thread, sum);
        lane0[thread] += sum.lane[0];
        lane1[thread] += sum.lane[1];
      });
      const std::uint64_t all_low = block.exclusive_scan(low, std::uint64_t{0}, plus{});
      const std::uint64_t all_high = block.exclusive_scan(high, std::uint64_t{0}, plus{});
      const class_counts all{all_low, all_high};
      block.each([&](unsigned thread) {
        const class_counts counts{low[thread], high[thread]};
        for (std::uint32_t c = 0; c < table.classes; ++c)
          s.before[c][thread] = static_cast<std::uint16_t>(counts.of(c));
        if (thread < table.classes)
          s.to[thread] =
              first_not_below(ranks + table.of[thread].first, s.from[thread],
                              table.of[thread].count, base_rank[thread] + all.of(thread));
      });
      block.each([&](unsigned thread) {
        set_changes<T>(s, table, coded.count, ranks, base_rank, place.base + at, thread);
        if (!raw) copy_piece(payload + at, place.base + at, size, thread);
      });
      if (raw)
        write_records<T>(block, s, at, payload, written);
      else
        overlay<T>(block, s, payload + at);
      for (std::uint32_t c = 0; c < table.classes; ++c) base_rank[c] += all.of(c);
      block.each([&](unsigned thread) {
        if (thread < table.classes) s.from[thread] = s.to[thread];
      });
    }
    add_digest(block, lane0, lane1, base);
    block.each([&](unsigned thread) {
      if (thread != 0) return;
      for (std::uint32_t c = 0; c < table.classes; ++c)
        if (s.from[c] != table.of[c].count)
          return refuse(index, code_of(frame_status::bad_position));
      if (raw) memory.plans[index].payload_bytes = written.bytes;
    });
  }

 private:
  struct writer_state {
    std::uint32_t bytes;  ///< of records so far
    std::uint32_t next;   ///< the element behind the last change
  };

  LOCKSTEP_DEVICE void refuse(std::uint64_t index, std::uint32_t reason) const {
    out.frame_at[index] = no_frame;
    atomic_min(&result->refused, index << 8 | reason);
  }

  /// Adds the words of a thread's piece to the digest of the range.
  LOCKSTEP_DEVICE void digest_piece(const device_range& range, const std::byte* bytes,
                                    std::uint32_t step, std::uint32_t size, unsigned thread,
                                    device_digest& sum) const {
    const std::uint32_t first = thread * piece_bytes;
    std::uint64_t lane0 = 0;
    std::uint64_t lane1 = 0;
    for (std::uint32_t at = first; at < first + piece_bytes && at < size; at += 8) {
      const std::byte* const from = bytes + step + at;
      const std::uint64_t word =
          size - at >= 8 ? load_any<std::uint64_t>(from) : load_first(from, size - at);
      const auto i = (step + at) / 8 % static_cast<std::uint32_t>(digest_tile_words);
      lane0 += nh_word(word, key->words[i]);
      lane1 += nh_word(word, key->words[i + 1]);
    }
    if (first >= size) return;
    const std::uint64_t tile =
        std::uint64_t{range.number} * range_tiles + (step + first) / digest_tile_bytes;
    sum.lane[0] += lane0 * multiplier(*key, 0, range.tensor, tile);
    sum.lane[1] += lane1 * multiplier(*key, 1, range.tensor, tile);
  }

  /// The first of ranks `from` to `count` that is not below `limit`.
  LOCKSTEP_DEVICE static std::uint32_t first_not_below(const std::uint32_t* ranks,
                                                       std::uint32_t from, std::uint32_t count,
                                                       std::uint32_t limit) {
    std::uint32_t to = count;
    while (from < to) {
      const std::uint32_t middle = from + (to - from) / 2;
      if (ranks[middle] < limit)
        from = middle + 1;
      else
        to = middle;
    }
    return from;
  }

  /// Sets the bits and new values of every `threads`th change of this step.
  template <class T>
  LOCKSTEP_DEVICE static void set_changes(shared& s, const device_table& table, std::uint32_t count,
                                          const std::uint32_t* ranks,
                                          const std::uint32_t* base_rank, const std::byte* bytes,
                                          unsigned thread) {
    const auto* const steps = reinterpret_cast<const std::byte*>(ranks + count);
    std::uint32_t skip = thread;
    for (std::uint32_t c = 0; c < table.classes; ++c) {
      const std::uint32_t here = s.to[c] - s.from[c];
      for (; skip < here; skip += threads) {
        const std::uint32_t change = table.of[c].first + s.from[c] + skip;
        const std::uint32_t rank = ranks[change] - base_rank[c];
        std::uint32_t piece = 0;  // the last with no more elements before it than `rank`
        for (std::uint32_t half = threads / 2; half > 0; half /= 2)
          if (s.before[c][piece + half] <= rank) piece += half;
        const unsigned bit = select_bit(s.mask[c][piece], rank - s.before[c][piece]);
        const auto at = static_cast<std::uint32_t>(piece * piece_bytes + bit * sizeof(T));
        const T value = after_step<T>(
            table.order, load_any<T>(bytes + at),
            load_any<device_step<T>>(steps + std::uint64_t{change} * sizeof(device_step<T>)));
        store_any(s.value + at, value);
        atomic_or(&s.changed[piece], std::uint64_t{1} << bit);
      }
      skip -= here;
    }
  }

  LOCKSTEP_DEVICE static void copy_piece(std::byte* to, const std::byte* from, std::uint32_t size,
                                         unsigned thread) {
    for (std::uint32_t i = thread; i < size; i += threads) to[i] = from[i];
  }

  template <class T, class Block>
  LOCKSTEP_DEVICE static void overlay(Block& block, shared& s, std::byte* payload) {
    block.each([&](unsigned thread) {
      for (std::uint64_t bits = s.changed[thread]; bits != 0; bits &= bits - 1) {
        const auto at =
            static_cast<std::uint32_t>(thread * piece_bytes + zeros_below(bits) * sizeof(T));
        store_any(payload + at, load_any<T>(s.value + at));
      }
    });
  }

  /// Appends the records of this step.
  template <class T, class Block>
  LOCKSTEP_DEVICE static void write_records(Block& block, shared& s, std::uint32_t step,
                                            std::byte* payload, writer_state& written) {
    constexpr std::uint32_t piece_elements = piece_bytes / sizeof(T);
    const auto first = static_cast<std::uint32_t>(step / sizeof(T));
    typename Block::template local<std::uint32_t> next;
    typename Block::template local<std::uint32_t> bytes;
    block.each([&](unsigned thread) {
      const std::uint64_t bits = s.changed[thread];
      next[thread] = bits == 0 ? 0 : first + thread * piece_elements + 64 - zeros_above(bits);
    });
    const std::uint32_t behind = block.exclusive_scan(next, written.next, larger{});
    block.each([&](unsigned thread) {
      const std::uint64_t bits = s.changed[thread];
      bytes[thread] = 0;
      if (bits == 0) return;
      const std::uint32_t gap = first + thread * piece_elements + zeros_below(bits) - next[thread];
      bytes[thread] = static_cast<std::uint32_t>(ones_in(bits) * (gap_bytes + sizeof(T)) +
                                                 gap / gap_escape * gap_bytes);
    });
    const std::uint32_t end = block.exclusive_scan(bytes, written.bytes, plus{});
    block.each([&](unsigned thread) {
      std::byte* to = payload + bytes[thread];
      std::uint32_t last = next[thread];
      for (std::uint64_t bits = s.changed[thread]; bits != 0; bits &= bits - 1) {
        const std::uint32_t in_piece = zeros_below(bits);
        const std::uint32_t element = first + thread * piece_elements + in_piece;
        std::uint32_t gap = element - last;
        for (; gap >= gap_escape; gap -= gap_escape, to += gap_bytes) store_any(to, gap_escape);
        store_any(to, static_cast<std::uint16_t>(gap));
        store_any(to + gap_bytes,
                  load_any<T>(s.value + thread * piece_bytes + in_piece * sizeof(T)));
        to += gap_bytes + sizeof(T);
        last = element + 1;
      }
    });
    written = {end, behind};
  }
};

}  // namespace lockstep::kernels::cuda
