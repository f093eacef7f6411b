// Decides how a device makes raw and full frames of coded ones, the same as kernels::frame_stager:
// headers and tables; where each frame goes; bits to ranks and steps; ranks to elements; headers.
#pragma once

#include "kernels/cuda/coded_device.hpp"

namespace lockstep::kernels::cuda {

/// A coded frame whose header and table are good.
struct coded_plan {
  device_table table;
  std::uint64_t payload;  ///< in the frames that came
  std::uint32_t payload_bytes;
  std::uint32_t count;
};

/// Working memory of a call.
struct decode_memory {
  coded_plan* coded;  ///< a frame each, like the next four
  device_range* ranges;
  range_plan* plans;          ///< of the frame that is made
  std::uint32_t* list_bytes;  ///< of its changes' lists; 0: it is no coded frame
  std::uint64_t* list_at;     ///< where they are, or no_frame
  std::byte* lists;           ///< ranks and steps of all changes
  std::uint64_t list_capacity;
};

/// Room that records of `count` changes take at most, escapes included.
LOCKSTEP_DEVICE inline std::uint64_t records_max(std::uint32_t count, std::uint32_t unit,
                                                 std::uint32_t elements) {
  return std::uint64_t{count} * (gap_bytes + unit) +
         gap_bytes * (std::uint64_t{elements} / gap_escape + 1);
}

/// Finds coded frames, and checks what can be checked without the weights. All others are left to
/// check_frames.
struct read_coded {
  static constexpr unsigned threads = 128;
  struct shared {
    checksum_shared checksum;
    std::uint32_t coded;
    std::uint32_t payload_bytes;
  };

  device_layout layout;
  frame_list list;
  decode_memory memory;
  std::uint64_t* pass_at;
  stage_result* result;

  template <class Block>
  LOCKSTEP_DEVICE void run(Block& block, shared& s, std::uint64_t index) const {
    const std::uint64_t at = list.frame_at[index];
    const std::byte* const header = list.frames + at;
    block.each([&](unsigned thread) {
      if (thread != 0) return;
      memory.list_bytes[index] = 0;
      memory.plans[index] = {};
      pass_at[index] = at;
      s.coded = 0;
      if (at > list.bytes || list.bytes - at < frame_header_bytes) return;
      s.payload_bytes = load_any<std::uint32_t>(header + field::payload_bytes);
      s.coded = header[field::magic] == std::byte{frame_magic} &&
                        header[field::encoding] == std::byte{3} &&
                        s.payload_bytes <= list.bytes - at - frame_header_bytes
                    ? 1
                    : 0;
    });
    if (block.read(s.coded) == 0) return;
    const std::uint64_t size = frame_header_bytes + std::uint64_t{block.read(s.payload_bytes)};
    const std::uint64_t sum =
        checksum_of(block, s.checksum, header + field::encoding, size - field::encoding);
    block.each([&](unsigned thread) {
      if (thread != 0) return;
      if (static_cast<std::uint32_t>(sum) != load_any<std::uint32_t>(header + field::checksum))
        return;
      pass_at[index] = no_frame;
      const frame_status status = read_header(header, at, s.payload_bytes, index);
      if (status != frame_status::ok) {
        memory.list_bytes[index] = 0;
        atomic_min(&result->refused, index << 8 | code_of(status));
      }
    });
  }

 private:
  LOCKSTEP_DEVICE frame_status read_header(const std::byte* header, std::uint64_t at,
                                           std::uint32_t payload_bytes, std::uint64_t index) const {
    coded_plan& coded = memory.coded[index];
    const auto unit = static_cast<std::uint32_t>(header[field::unit]);
    const auto tensor = load_any<std::uint32_t>(header + field::tensor);
    const auto number = static_cast<std::uint32_t>(load_first(header + field::range, 3));
    coded.payload = at + frame_header_bytes;
    coded.payload_bytes = payload_bytes;
    coded.count = static_cast<std::uint32_t>(load_first(header + field::count, 3));
    if (tensor >= layout.tensor_count || layout.tensors[tensor].unit != unit)
      return frame_status::bad_tensor;
    const frame_place place = place_of(layout, tensor, number);
    if (place.range_bytes == 0) return frame_status::bad_range;
    if (coded.count == 0 || coded.count > place.elements) return frame_status::bad_count;
    if (payload_bytes >= place.range_bytes) return frame_status::bad_size;
    table_reader reader(header + frame_header_bytes, payload_bytes);
    const frame_status status = reader.read(unit, coded.count, coded.table);
    if (status != frame_status::ok) return status;
    // A rank of 4 bytes and a step of 2 or more.
    const std::uint32_t step_bytes = unit == 1 ? 2 : unit;
    memory.list_bytes[index] = (coded.count * (4 + step_bytes) + 7) / 8 * 8;
    memory.ranges[index] = {tensor, number};
    const std::uint64_t raw_bytes = records_max(coded.count, unit, place.elements);
    memory.plans[index] =
        raw_bytes < place.range_bytes
            ? range_plan{coded.count, coded.count, static_cast<std::uint32_t>(raw_bytes),
                         code_of(frame_encoding::raw)}
            : range_plan{place.elements, coded.count, place.range_bytes,
                         code_of(frame_encoding::full)};
    return frame_status::ok;
  }
};

/// Where lists of so many bytes go, one block for all.
struct place_lists {
  static constexpr unsigned threads = 512;
  struct shared {};

  std::uint64_t count;
  const std::uint32_t* list_bytes;
  std::uint64_t capacity;
  std::uint64_t* list_at;  ///< `no_frame`: there is no room

  template <class Block>
  LOCKSTEP_DEVICE void run(Block& block, shared&, std::uint64_t) const {
    std::uint64_t end = 0;
    typename Block::template local<std::uint64_t> at;
    for (std::uint64_t group = 0; group < count; group += threads) {
      const auto bytes_at = [&](unsigned thread) -> std::uint64_t {
        return group + thread < count ? list_bytes[group + thread] : 0;
      };
      block.each([&](unsigned thread) { at[thread] = bytes_at(thread); });
      end = block.exclusive_scan(at, end, plus{});
      block.each([&](unsigned thread) {
        if (group + thread >= count) return;
        const bool fits = at[thread] <= capacity && bytes_at(thread) <= capacity - at[thread];
        list_at[group + thread] = fits ? at[thread] : no_frame;
      });
    }
  }
};

/// From bits to ranks and steps, a frame a block.
struct unpack_coded {
  static constexpr unsigned threads = 256;
  struct shared {
    std::uint32_t status;
  };

  const device_tensor* tensors;
  frame_list list;
  decode_memory memory;
  encode_output out;
  stage_result* result;

  template <class Block>
  LOCKSTEP_DEVICE void run(Block& block, shared& s, std::uint64_t index) const {
    if (memory.list_bytes[index] == 0) return;
    const bool room = memory.list_at[index] != no_frame && out.frame_at[index] != no_frame;
    block.each([&](unsigned thread) {
      if (thread == 0) s.status = room ? 0 : refused_room;
    });
    if (room) run_as_unit(tensors[memory.ranges[index].tensor].unit, *this, block, s, index);
    const std::uint32_t status = block.read(s.status);
    if (status == 0) return;
    block.each([&](unsigned thread) {
      if (thread != 0) return;
      memory.list_bytes[index] = 0;
      out.frame_at[index] = no_frame;
      atomic_min(&result->refused, index << 8 | status);
    });
  }

  template <class T, class Block>
  LOCKSTEP_DEVICE void run_as(Block& block, shared& s, const std::uint64_t& index) const {
    const coded_plan& coded = memory.coded[index];
    const device_table& table = coded.table;
    const bits_view bits{list.frames + coded.payload + table.bits_at, table.bits_size};
    auto* const ranks = reinterpret_cast<std::uint32_t*>(memory.lists + memory.list_at[index]);
    auto* const steps = reinterpret_cast<std::byte*>(ranks + coded.count);
    const device_range range = memory.ranges[index];
    const std::uint32_t elements =
        bytes_of(tensors[range.tensor], range.number) / static_cast<std::uint32_t>(sizeof(T));
    if (!find_ones(block, coded, bits, ranks)) return fail(block, s, frame_status::bad_position);
    const std::uint64_t last_one = ranks[coded.count - 1];
    block.each([](unsigned) {});  // before ranks are overwritten
    std::uint64_t start = 0;      // of the class's unary part
    for (std::uint32_t c = 0; c < table.classes; ++c) {
      const device_class& of = table.of[c];
      if (of.count == 0) continue;
      const std::uint64_t next_start = std::uint64_t{ranks[of.first + of.count - 1]} + 1;
      block.each([](unsigned) {});
      if (!fill_ranks<T>(block, of, bits, elements, start, ranks, steps))
        return fail(block, s, frame_status::bad_position);
      start = next_start;
    }
    block.each([&](unsigned thread) {
      if (thread != 0) return;
      if (!add_exceptions<T>(table, bits, last_one + 1, steps))
        s.status = code_of(frame_status::bad_size);
    });
  }

 private:
  template <class Block>
  LOCKSTEP_DEVICE static void fail(Block& block, shared& s, frame_status status) {
    block.each([&](unsigned thread) {
      if (thread == 0) s.status = code_of(status);
    });
  }

  /// Sets `places` to where the ones are that end the gaps, from the front of the variable part.
  /// False if there are too few.
  template <class Block>
  LOCKSTEP_DEVICE static bool find_ones(Block& block, const coded_plan& coded,
                                        const bits_view& bits, std::uint32_t* places) {
    const auto front = static_cast<std::uint32_t>((coded.table.fixed_bits + 7) / 8);
    std::uint32_t found = 0;
    typename Block::template local<std::uint32_t> before;
    for (std::uint32_t at = front; at < bits.bytes && found < coded.count; at += 8 * threads) {
      block.each([&](unsigned thread) { before[thread] = ones_in(bits.word(at + 8 * thread)); });
      const std::uint32_t until = block.exclusive_scan(before, found, plus{});
      block.each([&](unsigned thread) {
        std::uint32_t index = before[thread];
        for (std::uint64_t word = bits.word(at + 8 * thread); word != 0 && index < coded.count;
             word &= word - 1)
          places[index++] = 8 * (at + 8 * thread - front) + zeros_below(word);
      });
      found = until;
    }
    return found >= coded.count;
  }

  /// Ranks of a class in place of where its ones are, and steps but for their exceptions.
  template <class T, class Block>
  LOCKSTEP_DEVICE static bool fill_ranks(Block& block, const device_class& of,
                                         const bits_view& bits, std::uint32_t elements,
                                         std::uint64_t start, std::uint32_t* ranks,
                                         std::byte* steps) {
    const std::uint64_t gap_mask = (std::uint64_t{1} << of.gap_bits) - 1;
    const std::uint32_t width = of.gap_bits + 1 + of.value_bits;
    std::uint64_t low_sum = 0;
    typename Block::template local<std::uint64_t> before;
    typename Block::template local<std::uint32_t> outside;
    for (std::uint32_t group = 0; group < of.count; group += threads) {
      const auto field_at = [&](unsigned thread) -> std::uint64_t {
        return bits.get(of.field_at + std::uint64_t{group + thread} * width, width);
      };
      block.each([&](unsigned thread) {
        before[thread] = group + thread < of.count ? field_at(thread) & gap_mask : 0;
      });
      low_sum = block.exclusive_scan(before, low_sum, plus{});
      block.each([&](unsigned thread) {
        outside[thread] = 0;
        const std::uint32_t i = group + thread;
        if (i >= of.count) return;
        const std::uint64_t field = field_at(thread);
        const std::uint64_t zeros = ranks[of.first + i] - start - i;
        const std::uint64_t rank = before[thread] + (field & gap_mask) + (zeros << of.gap_bits) + i;
        if (rank >= elements) outside[thread] = 1;
        ranks[of.first + i] = static_cast<std::uint32_t>(rank);
        store_any(steps + std::uint64_t{of.first + i} * sizeof(device_step<T>),
                  static_cast<device_step<T>>(field >> of.gap_bits));
      });
      if (block.reduce(outside, larger{}) != 0) return false;
    }
    return true;
  }

  /// One thread's work: each exception is where the one before it ends.
  template <class T>
  LOCKSTEP_DEVICE static bool add_exceptions(const device_table& table, const bits_view& bits,
                                             std::uint64_t at, std::byte* steps) {
    const std::uint64_t front = (table.fixed_bits + 7) / 8 * 8;
    bit_cursor cursor{bits, front + at, std::uint64_t{8} * bits.bytes};
    for (std::uint32_t c = 0; c < table.classes; ++c) {
      const device_class& of = table.of[c];
      std::uint64_t next = 0;
      const std::uint32_t low_bits =
          of.exceptions == 0 ? 0 : exception_gap_bits_of(of.count, of.exceptions);
      for (std::uint32_t i = 0; i < of.exceptions; ++i, ++next) {
        std::uint64_t gap = 0;
        std::uint64_t low = 0;
        if (!cursor.unary(gap) || !cursor.take(low_bits, low)) return false;
        next += gap << low_bits | low;
        if (next >= of.count) return false;
        std::uint64_t length = 0;
        if (!cursor.unary(length)) return false;
        // What leaves the element's width is no step.
        if (length + of.value_bits + 1 >= 8 * sizeof(device_step<T>)) return false;
        if (!cursor.take(length, low)) return false;
        const std::uint64_t size = (std::uint64_t{1} << length | low) << of.value_bits;
        std::byte* const step = steps + (of.first + next) * sizeof(device_step<T>);
        store_any(step, static_cast<device_step<T>>(load_any<device_step<T>>(step) | size << 1));
      }
    }
    return ends_at(bits, table.fixed_bits, front / 8) && ends_at(bits, cursor.at, bits.bytes);
  }

  /// Bits are filled up with zeros to byte `bytes`.
  LOCKSTEP_DEVICE static bool ends_at(const bits_view& bits, std::uint64_t at,
                                      std::uint64_t bytes) {
    if ((at + 7) / 8 != bytes) return false;
    return at % 8 == 0 || static_cast<unsigned>(bits.data[bytes - 1]) >> at % 8 == 0;
  }
};

}  // namespace lockstep::kernels::cuda
