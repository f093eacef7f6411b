// Decides what kernels of coded frames share: classes, steps, the table before the bits, and bits.
// docs/wire-format.md describes them.
#pragma once

#include "kernels/coded_table.hpp"
#include "kernels/cuda/apply_kernels.hpp"

namespace lockstep::kernels::cuda {

/// How one class of a frame is coded, and where.
struct device_class {
  std::uint32_t count;
  std::uint32_t exceptions;
  std::uint32_t first;     ///< changes of the classes before it
  std::uint32_t gap_bits;  ///< low bits of a gap
  std::uint32_t value_bits;
  std::uint32_t field_at;  ///< of its first field, in bits from the first class's
};

/// The table of a coded frame. All plain, unlike kernels::coded_table.
struct device_table {
  std::uint32_t classes;
  step_order order;
  std::uint8_t thresholds[class_count_max];
  device_class of[class_count_max];
  std::uint32_t bits_at;    ///< where the bits begin, in the payload
  std::uint32_t bits_size;  ///< bytes that are left there
  std::uint64_t fixed_bits;
};

LOCKSTEP_DEVICE inline std::uint32_t exception_gap_bits_of(std::uint32_t count,
                                                           std::uint32_t exceptions) {
  const std::uint64_t mean = std::uint64_t{count} * 11 / (std::uint64_t{exceptions} * 16 + 1);
  return mean == 0 ? 0 : 63 - zeros_above(mean);
}

// ---- Classes ----

template <class T>
LOCKSTEP_DEVICE std::uint32_t key_of(T element) {
  const auto shifted = static_cast<T>(element << 1);
  return static_cast<std::uint32_t>(shifted >> (8 * sizeof(T) - 8));
}

LOCKSTEP_DEVICE inline std::uint32_t class_of_key(std::uint32_t key, std::uint32_t classes,
                                                  const std::uint8_t* thresholds) {
  std::uint32_t result = 0;
  for (std::uint32_t i = 0; i + 1 < classes; ++i) result += key >= thresholds[i] ? 1 : 0;
  return result;
}

// ---- Steps ----

/// A step as a number: its size less one, times two, plus one if it leads down.
template <class T>
struct step_of {
  using type = T;
};
template <>
struct step_of<std::uint8_t> {
  using type = std::uint16_t;
};
template <class T>
using device_step = typename step_of<T>::type;

template <class T>
LOCKSTEP_DEVICE T spread_sign(T x) {
  return static_cast<T>(T{0} - static_cast<T>(x >> (8 * sizeof(T) - 1)));
}
template <class T>
LOCKSTEP_DEVICE T top_bit() {
  return static_cast<T>(T{1} << (8 * sizeof(T) - 1));
}
/// Floats in the order of numbers, as integers, and back.
template <class T>
LOCKSTEP_DEVICE T to_order(T bits) {
  return static_cast<T>(bits ^ (spread_sign(bits) | top_bit<T>()));
}
template <class T>
LOCKSTEP_DEVICE T from_order(T order) {
  return static_cast<T>(order ^ (static_cast<T>(~spread_sign(order)) | top_bit<T>()));
}
template <class T>
LOCKSTEP_DEVICE T added_by(device_step<T> step) {
  const auto down = static_cast<T>(T{0} - static_cast<T>(step & 1));
  return static_cast<T>((static_cast<T>(step >> 1) ^ down) + 1 + down);
}
template <class T>
LOCKSTEP_DEVICE device_step<T> step_adding(T added) {
  const T down = spread_sign(added);
  const auto size_less_one = static_cast<T>((added ^ down) - 1 - down);
  return static_cast<device_step<T>>(device_step<T>{size_less_one} << 1 | (down & 1));
}
LOCKSTEP_DEVICE inline std::uint16_t step_of_nibbles(std::uint8_t from, std::uint8_t to) {
  const unsigned both = from ^ to;
  if (both > 15 && (both & 15) != 0) return static_cast<std::uint16_t>((16 + both) * 2);
  const unsigned high = both > 15 ? 1 : 0;
  const unsigned added = (high != 0 ? (to >> 4) - (from >> 4) : to - from) & 15u;
  const unsigned down = added >> 3;
  const unsigned size_less_one = down != 0 ? ~added & 15u : added - 1;
  return static_cast<std::uint16_t>((size_less_one * 2 + high) * 2 + down);
}
LOCKSTEP_DEVICE inline std::uint8_t after_step_of_nibbles(std::uint8_t from, std::uint16_t step) {
  const unsigned size = step >> 1;
  if (size >= 16) return static_cast<std::uint8_t>(from ^ (size - 16));
  const unsigned added = (step & 1) != 0 ? ~(size >> 1) : (size >> 1) + 1;
  if ((size & 1) == 0) return static_cast<std::uint8_t>((from & 0xf0) | ((from + added) & 15));
  return static_cast<std::uint8_t>(from + (added << 4));
}

template <class T>
LOCKSTEP_DEVICE device_step<T> step_between(step_order order, T from, T to) {
  if constexpr (sizeof(T) == 1)
    if (order == step_order::nibbles) return step_of_nibbles(from, to);
  if (order == step_order::sign_magnitude)
    return step_adding<T>(static_cast<T>(to_order(to) - to_order(from)));
  return step_adding<T>(static_cast<T>(to - from));
}
template <class T>
LOCKSTEP_DEVICE T after_step(step_order order, T from, device_step<T> step) {
  if constexpr (sizeof(T) == 1)
    if (order == step_order::nibbles) return after_step_of_nibbles(from, step);
  if (order == step_order::sign_magnitude)
    return from_order(static_cast<T>(to_order(from) + added_by<T>(step)));
  return static_cast<T>(from + added_by<T>(step));
}

// ---- Bits ----

/// Bits that are read; behind their end there are zeros.
struct bits_view {
  const std::byte* data;
  std::uint32_t bytes;

  /// The 8 bytes from byte `at`.
  LOCKSTEP_DEVICE std::uint64_t word(std::uint64_t at) const {
    if (at + 8 <= bytes) return load_any<std::uint64_t>(data + at);
    return at < bytes ? load_first(data + at, bytes - at) : 0;
  }
  /// Up to 57 bits from bit `at`.
  LOCKSTEP_DEVICE std::uint64_t get(std::uint64_t at, std::uint32_t count) const {
    return word(at / 8) >> at % 8 & ((std::uint64_t{1} << count) - 1);
  }
};

/// A bit with its place, for one thread to walk.
struct bit_cursor {
  bits_view bits;
  std::uint64_t at;
  std::uint64_t end;

  /// Zeros up to the next one, which is passed; false if there is none.
  LOCKSTEP_DEVICE bool unary(std::uint64_t& zeros) {
    const std::uint64_t start = at;
    while (at < end) {
      const std::uint64_t window = bits.get(at, 56);
      if (window == 0) {
        at += 56;
        continue;
      }
      at += zeros_below(window);
      zeros = at - start;
      ++at;
      return at <= end;
    }
    return false;
  }
  /// False if there are not so many; up to 64.
  LOCKSTEP_DEVICE bool take(std::uint64_t count, std::uint64_t& value) {
    if (end - at < count) return false;
    const auto half = static_cast<std::uint32_t>(count / 2);
    const auto rest = static_cast<std::uint32_t>(count) - half;
    value = bits.get(at, half) | bits.get(at + half, rest) << half;
    at += count;
    return true;
  }
};

// ---- The table ----

/// Reads a payload's table as kernels::read_table does. One thread's work.
class table_reader {
 public:
  LOCKSTEP_DEVICE table_reader(const std::byte* payload, std::uint32_t size)
      : payload_(payload), size_(size) {}

  LOCKSTEP_DEVICE frame_status read(std::uint32_t unit, std::uint32_t count, device_table& table) {
    if (!model(unit, table)) return frame_status::bad_table;
    std::uint32_t left = count;
    table.fixed_bits = 0;
    for (std::uint32_t i = 0; i < table.classes; ++i) {
      device_class& c = table.of[i];
      c = {};
      c.count = i + 1 < table.classes ? number() : left;
      if (!good_) return frame_status::bad_table;
      if (c.count > left) return frame_status::bad_count;
      c.first = count - left;
      left -= c.count;
      if (c.count != 0 && !one_class(unit, c)) return frame_status::bad_table;
      c.field_at = static_cast<std::uint32_t>(table.fixed_bits);
      table.fixed_bits += std::uint64_t{c.count} * (c.gap_bits + 1 + c.value_bits);
    }
    table.bits_at = at_;
    table.bits_size = size_ - at_;
    const std::uint64_t least = (table.fixed_bits + 7) / 8 + (std::uint64_t{count} + 7) / 8;
    return least <= table.bits_size ? frame_status::ok : frame_status::bad_size;
  }

 private:
  LOCKSTEP_DEVICE std::uint32_t byte() {
    if (at_ >= size_) {
      good_ = false;
      return 0;
    }
    return static_cast<std::uint32_t>(payload_[at_++]);
  }

  LOCKSTEP_DEVICE std::uint32_t number() {
    std::uint32_t value = 0;
    for (unsigned shift = 0; shift < 21; shift += 7) {
      const std::uint32_t next = byte();
      value |= (next & 0x7f) << shift;
      if (next >= 0x80) continue;
      if (next == 0 && shift != 0) good_ = false;
      return value;
    }
    good_ = false;
    return 0;
  }

  LOCKSTEP_DEVICE bool model(std::uint32_t unit, device_table& table) {
    const std::uint32_t first = byte();
    if (first > 0x3f) return false;
    table.classes = (first & 7) + 1;
    table.order = static_cast<step_order>(first >> 3 & 3);
    if (table.order > step_order::nibbles) return false;
    if (table.order == step_order::nibbles && unit != 1) return false;
    return thresholds((first & 0x20) != 0, table) && good_;
  }

  LOCKSTEP_DEVICE bool thresholds(bool far, device_table& table) {
    const std::uint32_t count = table.classes - 1;
    std::uint32_t pair = 0;
    std::uint32_t before = 0;
    bool is_far = false;
    for (std::uint32_t i = 0; i < count; ++i) {
      std::uint32_t next = 0;
      if (i == 0 || far) {
        next = byte();
        if (next <= before) return false;
      } else {
        pair = i % 2 != 0 ? byte() : pair >> 4;
        next = before + (pair & 15) + 1;
        if (next > 255) return false;
      }
      is_far = is_far || (i != 0 && next - before > 16);
      table.thresholds[i] = static_cast<std::uint8_t>(next);
      before = next;
    }
    const bool half_left = !far && count > 1 && count % 2 == 0;
    return (!half_left || pair < 16) && far == is_far;
  }

  LOCKSTEP_DEVICE bool one_class(std::uint32_t unit, device_class& c) {
    const std::uint32_t how = byte();
    if (how > 0x7f) return false;
    c.gap_bits = how & 0x1f;
    if ((how & 0x20) != 0 && (c.value_bits = byte()) == 0) return false;
    if ((how & 0x40) != 0 && (c.exceptions = number()) == 0) return false;
    return good_ && c.gap_bits <= gap_bits_max && c.value_bits <= value_bits_max &&
           c.value_bits < 8 * unit && c.exceptions <= c.count;
  }

  const std::byte* payload_;
  std::uint32_t size_;
  std::uint32_t at_ = 0;
  bool good_ = true;
};

/// A piece of a range that one thread classifies: 64 bytes.
inline constexpr unsigned piece_bytes = mask_bytes;

/// Counts of up to eight classes, 16 bits each.
struct class_counts {
  std::uint64_t low;
  std::uint64_t high;

  LOCKSTEP_DEVICE std::uint32_t of(std::uint32_t c) const {
    return static_cast<std::uint32_t>((c < 4 ? low : high) >> (c % 4 * 16)) & 0xffff;
  }
};

/// Sets a thread's masks of the classes in its piece: bit `i` for the element `i`. `bytes` and
/// `size` are what all threads together look at.
template <class T, unsigned Threads>
LOCKSTEP_DEVICE class_counts classify_piece(std::uint64_t (&masks)[class_count_max][Threads],
                                            std::uint32_t classes, const std::uint8_t* thresholds,
                                            const std::byte* bytes, std::uint32_t size,
                                            unsigned thread) {
  std::uint64_t mask[class_count_max] = {};
  for (std::uint32_t i = 0; i < piece_bytes / sizeof(T); ++i) {
    const auto at = static_cast<std::uint32_t>(thread * piece_bytes + i * sizeof(T));
    if (at >= size) break;
    const std::uint32_t c = class_of_key(key_of(load_any<T>(bytes + at)), classes, thresholds);
    for (std::uint32_t k = 0; k < class_count_max; ++k)
      mask[k] |= std::uint64_t{k == c ? 1u : 0u} << i;
  }
  class_counts counts{0, 0};
  for (std::uint32_t k = 0; k < class_count_max; ++k) {
    masks[k][thread] = mask[k];
    (k < 4 ? counts.low : counts.high) |= std::uint64_t{ones_in(mask[k])} << (k % 4 * 16);
  }
  return counts;
}

/// The bit of `mask` that has `below` set bits below it.
LOCKSTEP_DEVICE inline unsigned select_bit(std::uint64_t mask, std::uint32_t below) {
  for (; below > 0; --below) mask &= mask - 1;
  return zeros_below(mask);
}

}  // namespace lockstep::kernels::cuda
