// Decides how a device keeps the changes of a range while it codes them, and how it writes a table
// and bits.
#pragma once

#include "kernels/cuda/decode_kernels.hpp"

namespace lockstep::kernels::cuda {

/// Lists of the changes of one range, in memory of `bytes_for(count)`: in order of position, and
/// apart by class. The bits take the place of the former.
template <class T>
struct change_lists {
  std::uint32_t* tags;  ///< in order: the rank, and the class from bit `class_at`
  std::byte* steps;
  std::uint32_t* ranks;  ///< by class
  std::byte* class_steps;
  std::uint64_t* words;

  static constexpr unsigned class_at = 24;

  LOCKSTEP_DEVICE change_lists(std::byte* memory, std::uint32_t count)
      : tags(reinterpret_cast<std::uint32_t*>(memory)),
        steps(memory + whole(count, 4)),
        ranks(reinterpret_cast<std::uint32_t*>(memory + half(count))),
        class_steps(memory + half(count) + whole(count, 4)),
        words(reinterpret_cast<std::uint64_t*>(memory)) {}

  LOCKSTEP_DEVICE static std::uint32_t bytes_for(std::uint32_t count) { return 2 * half(count); }

  LOCKSTEP_DEVICE static device_step<T> step_at(const std::byte* steps, std::uint32_t i) {
    return load_any<device_step<T>>(steps + std::uint64_t{i} * sizeof(device_step<T>));
  }
  LOCKSTEP_DEVICE static void set_step(std::byte* steps, std::uint32_t i, device_step<T> step) {
    store_any(steps + std::uint64_t{i} * sizeof(device_step<T>), step);
  }

 private:
  LOCKSTEP_DEVICE static std::uint32_t whole(std::uint32_t count, std::uint32_t each) {
    return (count * each + 7) / 8 * 8;
  }
  LOCKSTEP_DEVICE static std::uint32_t half(std::uint32_t count) {
    return whole(count, 4) + whole(count, sizeof(device_step<T>));
  }
};

/// How much room the lists of each range take.
struct size_lists {
  static constexpr unsigned threads = 128;
  struct shared {};

  const device_tensor* tensors;
  const device_range* ranges;
  std::uint64_t range_count;
  const range_plan* plans;
  std::uint32_t* list_bytes;

  template <class Block>
  LOCKSTEP_DEVICE void run(Block& block, shared&, std::uint64_t index) const {
    block.each([&](unsigned thread) {
      const std::uint64_t i = index * threads + thread;
      if (i >= range_count) return;
      const std::uint32_t count = plans[i].changes;
      switch (tensors[ranges[i].tensor].unit) {
        case 4:
          list_bytes[i] = change_lists<std::uint32_t>::bytes_for(count);
          return;
        case 8:
          list_bytes[i] = change_lists<std::uint64_t>::bytes_for(count);
          return;
        default:
          list_bytes[i] = change_lists<std::uint16_t>::bytes_for(count);
      }
    });
  }
};

/// Writes a payload's table as kernels::write_table does, or only counts. One thread's work.
class table_writer {
 public:
  /// `to` may be null.
  LOCKSTEP_DEVICE explicit table_writer(std::byte* to) : to_(to) {}

  /// @returns the table's length.
  LOCKSTEP_DEVICE std::uint32_t write(const device_table& table) {
    bool far = false;
    for (std::uint32_t i = 1; i + 1 < table.classes; ++i)
      far = far || table.thresholds[i] - table.thresholds[i - 1] > 16;
    put((table.classes - 1) | static_cast<std::uint32_t>(table.order) << 3 | (far ? 0x20u : 0u));
    std::uint32_t pair = 0;
    for (std::uint32_t i = 0; i + 1 < table.classes; ++i) {
      if (i == 0 || far) {
        put(table.thresholds[i]);
        continue;
      }
      const std::uint32_t distance = table.thresholds[i] - table.thresholds[i - 1] - 1u;
      if (i % 2 != 0) {
        pair = distance;
        put(pair);
      } else {
        --size_;
        put(pair | distance << 4);
      }
    }
    for (std::uint32_t i = 0; i < table.classes; ++i) {
      const device_class& c = table.of[i];
      if (i + 1 < table.classes) number(c.count);
      if (c.count == 0) continue;
      put(c.gap_bits | (c.value_bits != 0 ? 0x20u : 0u) | (c.exceptions != 0 ? 0x40u : 0u));
      if (c.value_bits != 0) put(c.value_bits);
      if (c.exceptions != 0) number(c.exceptions);
    }
    return size_;
  }

 private:
  LOCKSTEP_DEVICE void put(std::uint32_t byte) {
    if (to_ != nullptr) to_[size_] = static_cast<std::byte>(byte);
    ++size_;
  }
  LOCKSTEP_DEVICE void number(std::uint32_t value) {
    for (; value >= 0x80; value >>= 7) put((value & 0x7f) | 0x80);
    put(value);
  }

  std::byte* to_;
  std::uint32_t size_ = 0;
};

/// `count` bits of `value` at bit `at`; any thread may write to the same words.
LOCKSTEP_DEVICE inline void put_bits(std::uint64_t* words, std::uint64_t at, std::uint64_t value,
                                     std::uint32_t count) {
  if (count == 0) return;
  const unsigned shift = at % 64;
  atomic_or(words + at / 64, value << shift);
  if (shift + count > 64) atomic_or(words + at / 64 + 1, value >> (64 - shift));
}

}  // namespace lockstep::kernels::cuda
