// Decides how a device codes what changed, byte for byte as kernels::delta_encoder does. Behind the
// masks of encode_kernels.hpp: changes in order, then apart by class; the parameters of each class,
// and so the frame's size; bits. When frames have their places, tables and bits are copied there.
#pragma once

#include "kernels/cuda/coded_lists.hpp"

namespace lockstep::kernels::cuda {

/// Working memory of a call beside encode_memory.
struct coded_memory {
  device_table* tables;  ///< a range each, like the next two
  std::uint32_t* list_bytes;
  std::uint64_t* list_at;
  std::byte* lists;
  std::uint64_t list_capacity;
};

/// Lists, parameters and bits of one range a block.
struct code_ranges {
  static constexpr unsigned threads = 256;
  static constexpr unsigned step_bytes = threads * piece_bytes;
  struct shared {
    std::uint64_t mask[class_count_max][threads];
    std::uint32_t count[class_count_max];
    std::uint32_t widths[65];
    device_table table;
    std::uint32_t value_bits;
    std::uint32_t exceptions;
    std::uint32_t coded;
  };

  const device_tensor* tensors;
  const device_range* ranges;
  const device_model* models;
  encode_memory memory;
  coded_memory coded;

  template <class Block>
  LOCKSTEP_DEVICE void run(Block& block, shared& s, std::uint64_t index) const {
    if (memory.plans[index].changes == 0 || coded.list_at[index] == no_frame) return;
    run_as_unit(tensors[ranges[index].tensor].unit, *this, block, s, index);
  }

  template <class T, class Block>
  LOCKSTEP_DEVICE void run_as(Block& block, shared& s, const std::uint64_t& index) const {
    const range_plan before = memory.plans[index];
    const change_lists<T> lists(coded.lists + coded.list_at[index], before.changes);
    list_in_order<T>(block, s, index, lists);
    list_by_class<T>(block, s, before.changes, lists);
    std::uint64_t bits = 0;  // of variable width
    std::uint64_t fixed_bits = 0;
    std::uint32_t first = 0;
    const std::uint32_t classes = models[ranges[index].tensor].classes;
    for (std::uint32_t c = 0; c < classes; ++c) {
      device_class of{};
      of.count = block.read(s.count[c]);
      of.first = first;
      of.field_at = static_cast<std::uint32_t>(fixed_bits);
      if (of.count != 0) {
        bits += choose_gap_bits<T>(block, lists, of) + of.count;
        choose_value_bits<T>(block, s, lists, of);
        bits = for_exceptions<T, false>(block, lists, of, bits, nullptr);
      }
      first += of.count;
      fixed_bits += std::uint64_t{of.count} * (of.gap_bits + 1 + of.value_bits);
      block.each([&](unsigned thread) {
        if (thread == 0) s.table.of[c] = of;
      });
    }
    finish_table(block, s, index, fixed_bits, bits, sizeof(T));
    if (block.read(s.coded) != 0) write_bits<T>(block, s, lists);
  }

 private:
  /// Appends all changes in order, with their class, their rank in it and their step.
  template <class T, class Block>
  LOCKSTEP_DEVICE void list_in_order(Block& block, shared& s, std::uint64_t index,
                                     const change_lists<T>& lists) const {
    using mask = typename mask_of<T>::type;
    const device_range range = ranges[index];
    const device_tensor& tensor = tensors[range.tensor];
    const device_model& model = models[range.tensor];
    const std::uint32_t range_bytes = bytes_of(tensor, range.number);
    const std::uint64_t offset = std::uint64_t{range.number} * frame_span_bytes_max;
    const mask* const masks =
        reinterpret_cast<const mask*>(memory.masks + index * range_mask_bytes);
    block.each([&](unsigned thread) {
      if (thread < class_count_max) s.count[thread] = 0;
    });
    std::uint32_t base_rank[class_count_max] = {};
    std::uint32_t done = 0;
    for (std::uint32_t at = 0; at < range_bytes; at += step_bytes) {
      const std::uint32_t size = range_bytes - at < step_bytes ? range_bytes - at : step_bytes;
      const std::byte* const old = tensor.base + offset + at;
      const std::byte* const target = tensor.target + offset + at;
      const auto changed = [&](unsigned thread) -> std::uint64_t {
        return thread * piece_bytes < size ? std::uint64_t{masks[at / piece_bytes + thread]} : 0;
      };
      typename Block::template local<std::uint64_t> low;
      typename Block::template local<std::uint64_t> high;
      typename Block::template local<std::uint32_t> place;
      block.each([&](unsigned thread) {
        const class_counts counts =
            classify_piece<T>(s.mask, model.classes, model.thresholds, old, size, thread);
        low[thread] = counts.low;
        high[thread] = counts.high;
        place[thread] = ones_in(changed(thread));
      });
      const std::uint64_t all_low = block.exclusive_scan(low, std::uint64_t{0}, plus{});
      const std::uint64_t all_high = block.exclusive_scan(high, std::uint64_t{0}, plus{});
      done = block.exclusive_scan(place, done, plus{});
      block.each([&](unsigned thread) {
        const class_counts counts{low[thread], high[thread]};
        std::uint32_t i = place[thread];
        for (std::uint64_t bits = changed(thread); bits != 0; bits &= bits - 1, ++i) {
          const unsigned bit = zeros_below(bits);
          const auto byte = static_cast<std::uint32_t>(thread * piece_bytes + bit * sizeof(T));
          const T from = load_any<T>(old + byte);
          const std::uint32_t c = class_of_key(key_of(from), model.classes, model.thresholds);
          const std::uint64_t below = s.mask[c][thread] & ((std::uint64_t{1} << bit) - 1);
          const std::uint32_t rank = base_rank[c] + counts.of(c) + ones_in(below);
          lists.tags[i] = rank | c << change_lists<T>::class_at;
          change_lists<T>::set_step(lists.steps, i,
                                    step_between<T>(model.order, from, load_any<T>(target + byte)));
          atomic_add(&s.count[c], 1u);
        }
      });
      const class_counts all{all_low, all_high};
      for (std::uint32_t c = 0; c < class_count_max; ++c) base_rank[c] += all.of(c);
    }
  }

  /// Puts the changes of each class together, in order.
  template <class T, class Block>
  LOCKSTEP_DEVICE static void list_by_class(Block& block, shared& s, std::uint32_t count,
                                            const change_lists<T>& lists) {
    std::uint32_t next[class_count_max];
    std::uint32_t sum = 0;
    for (std::uint32_t c = 0; c < class_count_max; ++c) {
      next[c] = sum;
      sum += block.read(s.count[c]);
    }
    for (std::uint32_t group = 0; group < count; group += threads) {
      typename Block::template local<std::uint64_t> low;
      typename Block::template local<std::uint64_t> high;
      block.each([&](unsigned thread) {
        low[thread] = high[thread] = 0;
        if (group + thread >= count) return;
        const std::uint32_t c = lists.tags[group + thread] >> change_lists<T>::class_at;
        (c < 4 ? low : high)[thread] = std::uint64_t{1} << (c % 4 * 16);
      });
      const std::uint64_t all_low = block.exclusive_scan(low, std::uint64_t{0}, plus{});
      const std::uint64_t all_high = block.exclusive_scan(high, std::uint64_t{0}, plus{});
      block.each([&](unsigned thread) {
        if (group + thread >= count) return;
        const std::uint32_t tag = lists.tags[group + thread];
        const std::uint32_t c = tag >> change_lists<T>::class_at;
        const std::uint32_t to = next[c] + class_counts{low[thread], high[thread]}.of(c);
        lists.ranks[to] = tag & ((1u << change_lists<T>::class_at) - 1);
        change_lists<T>::set_step(lists.class_steps, to,
                                  change_lists<T>::step_at(lists.steps, group + thread));
      });
      const class_counts all{all_low, all_high};
      for (std::uint32_t c = 0; c < class_count_max; ++c) next[c] += all.of(c);
    }
  }

  /// The gap before change `i` of a class.
  template <class T>
  LOCKSTEP_DEVICE static std::uint32_t gap_at(const change_lists<T>& lists, const device_class& of,
                                              std::uint32_t i) {
    const std::uint32_t* const ranks = lists.ranks + of.first;
    return i == 0 ? ranks[0] : ranks[i] - ranks[i - 1] - 1;
  }

  /// As coded_encode.cpp has it. @returns what all gaps' unary parts have of zeros.
  template <class T, class Block>
  LOCKSTEP_DEVICE static std::uint64_t choose_gap_bits(Block& block, const change_lists<T>& lists,
                                                       device_class& of) {
    const std::uint64_t sum = lists.ranks[of.first + of.count - 1] + std::uint64_t{1} - of.count;
    const std::uint64_t middle = sum * 11 / (std::uint64_t{of.count} * 16);
    const std::uint32_t width = middle == 0 ? 0 : 63 - zeros_above(middle);
    std::uint32_t least = width == 0 ? 0 : width - 1;
    if (least > gap_bits_max - 2u) least = gap_bits_max - 2u;
    std::uint64_t unary[3];
    for (std::uint32_t i = 0; i < 3; ++i) {
      typename Block::template local<std::uint64_t> high;
      block.each([&](unsigned thread) {
        high[thread] = 0;
        for (std::uint32_t at = thread; at < of.count; at += threads)
          high[thread] += gap_at(lists, of, at) >> (least + i);
      });
      unary[i] = block.reduce(high, plus{});
    }
    std::uint32_t best = 0;
    for (std::uint32_t i = 1; i < 3; ++i)
      if (unary[i] + std::uint64_t{of.count} * i < unary[best] + std::uint64_t{of.count} * best)
        best = i;
    of.gap_bits = least + best;
    return unary[best];
  }

  /// As coded_encode.cpp has it.
  template <class T, class Block>
  LOCKSTEP_DEVICE static void choose_value_bits(Block& block, shared& s,
                                                const change_lists<T>& lists, device_class& of) {
    typename Block::template local<std::uint32_t> large;
    block.each([&](unsigned thread) {
      if (thread < 65) s.widths[thread] = 0;
      large[thread] = 0;
      for (std::uint32_t i = thread; i < of.count; i += threads)
        large[thread] += change_lists<T>::step_at(lists.class_steps, of.first + i) > 1 ? 1 : 0;
    });
    of.exceptions = block.reduce(large, plus{});
    if (of.exceptions < of.count / 8) return;
    block.each([&](unsigned thread) {
      for (std::uint32_t i = thread; i < of.count; i += threads) {
        const std::uint64_t size =
            std::uint64_t{change_lists<T>::step_at(lists.class_steps, of.first + i)} >> 1;
        atomic_add(&s.widths[size == 0 ? 0 : 64 - zeros_above(size)], 1u);
      }
    });
    block.each([&](unsigned thread) {
      if (thread == 0) cheapest_value_bits(s, of.count, sizeof(T));
    });
    of.value_bits = block.read(s.value_bits);
    of.exceptions = block.read(s.exceptions);
  }

  LOCKSTEP_DEVICE static void cheapest_value_bits(shared& s, std::uint32_t count,
                                                  std::uint32_t unit) {
    const std::uint32_t bits_max = 8 * unit - 1 < value_bits_max ? 8 * unit - 1 : value_bits_max;
    std::uint64_t least = ~std::uint64_t{0};
    for (std::uint32_t bits = 0; bits <= bits_max; ++bits) {
      std::uint64_t cost = std::uint64_t{count} * bits;
      std::uint32_t exceptions = 0;
      for (std::uint32_t width = bits + 1; width < 65; ++width) {
        exceptions += s.widths[width];
        cost += std::uint64_t{s.widths[width]} * (2 * (width - bits) - 1);
      }
      if (exceptions != 0)
        cost += std::uint64_t{exceptions} * (exception_gap_bits_of(count, exceptions) + 2);
      if (cost >= least) continue;
      least = cost;
      s.value_bits = bits;
      s.exceptions = exceptions;
    }
  }

  /// Writes the exceptions of a class from bit `at`, or only counts. @returns where they end.
  template <class T, bool Write, class Block>
  LOCKSTEP_DEVICE static std::uint64_t for_exceptions(Block& block, const change_lists<T>& lists,
                                                      const device_class& of, std::uint64_t at,
                                                      std::uint64_t* words) {
    if (of.exceptions == 0) return at;
    const std::uint32_t low_bits = exception_gap_bits_of(of.count, of.exceptions);
    std::uint32_t behind = 0;  // the last exception
    typename Block::template local<std::uint32_t> next;
    typename Block::template local<std::uint64_t> place;
    for (std::uint32_t group = 0; group < of.count; group += threads) {
      const auto high_at = [&](unsigned thread) -> std::uint64_t {
        if (group + thread >= of.count) return 0;
        const auto step = change_lists<T>::step_at(lists.class_steps, of.first + group + thread);
        return std::uint64_t{step} >> 1 >> of.value_bits;
      };
      block.each(
          [&](unsigned thread) { next[thread] = high_at(thread) != 0 ? group + thread + 1 : 0; });
      behind = block.exclusive_scan(next, behind, larger{});
      block.each([&](unsigned thread) {
        const std::uint64_t high = high_at(thread);
        const std::uint32_t gap = group + thread - next[thread];
        place[thread] =
            high == 0 ? 0 : (gap >> low_bits) + 1 + low_bits + 2 * (63 - zeros_above(high)) + 1;
      });
      at = block.exclusive_scan(place, at, plus{});
      if (!Write) continue;
      block.each([&](unsigned thread) {
        const std::uint64_t high = high_at(thread);
        if (high == 0) return;
        const std::uint32_t gap = group + thread - next[thread];
        std::uint64_t to = place[thread] + (gap >> low_bits);
        put_bits(words, to, 1, 1);
        put_bits(words, to + 1, gap & ((1u << low_bits) - 1), low_bits);
        const std::uint32_t length = 63 - zeros_above(high);
        to += 1 + low_bits + length;
        put_bits(words, to, 1, 1);
        put_bits(words, to + 1, high & ((std::uint64_t{1} << length) - 1), length);
      });
    }
    return at;
  }

  /// Decides whether the range goes coded.
  template <class Block>
  LOCKSTEP_DEVICE void finish_table(Block& block, shared& s, std::uint64_t index,
                                    std::uint64_t fixed_bits, std::uint64_t variable_bits,
                                    std::uint32_t unit) const {
    block.each([&](unsigned thread) {
      if (thread != 0) return;
      const device_range range = ranges[index];
      const device_model& model = models[range.tensor];
      range_plan& plan = memory.plans[index];
      s.table.classes = model.classes;
      s.table.order = model.order;
      for (std::uint32_t i = 0; i < class_count_max; ++i)
        s.table.thresholds[i] = model.thresholds[i];
      s.table.fixed_bits = fixed_bits;
      s.table.bits_at = table_writer(nullptr).write(s.table);
      const std::uint64_t bytes = (fixed_bits + 7) / 8 + (variable_bits + 7) / 8;
      const std::uint64_t raw_bytes = std::uint64_t{plan.changes} * (gap_bytes + unit);
      const std::uint64_t range_bytes = bytes_of(tensors[range.tensor], range.number);
      const std::uint64_t limit = raw_bytes < range_bytes ? raw_bytes : range_bytes;
      s.coded = s.table.bits_at + bytes < limit ? 1 : 0;
      if (s.coded == 0) return;
      s.table.bits_size = static_cast<std::uint32_t>(bytes);
      plan = {plan.changes, plan.changes, s.table.bits_at + s.table.bits_size,
              code_of(frame_encoding::coded)};
      coded.tables[index] = s.table;
    });
  }

  /// The bits behind the table, from a boundary of a word.
  template <class T, class Block>
  LOCKSTEP_DEVICE static void write_bits(Block& block, shared& s, const change_lists<T>& lists) {
    const std::uint32_t size = block.read(s.table.bits_size);
    const std::uint32_t classes = block.read(s.table.classes);
    std::uint64_t at = (block.read(s.table.fixed_bits) + 7) / 8 * 8;
    block.each([&](unsigned thread) {
      for (std::uint32_t i = thread; i < (size + 7) / 8; i += threads) lists.words[i] = 0;
    });
    typename Block::template local<std::uint64_t> place;
    for (std::uint32_t c = 0; c < classes; ++c) {
      const device_class of = read_class(block, s, c);
      for (std::uint32_t group = 0; group < of.count; group += threads) {
        block.each([&](unsigned thread) {
          const std::uint32_t i = group + thread;
          place[thread] = i < of.count ? (gap_at(lists, of, i) >> of.gap_bits) + 1 : 0;
        });
        at = block.exclusive_scan(place, at, plus{});
        block.each([&](unsigned thread) {
          const std::uint32_t i = group + thread;
          if (i >= of.count) return;
          const std::uint64_t gap = gap_at(lists, of, i);
          const std::uint64_t step = change_lists<T>::step_at(lists.class_steps, of.first + i);
          const std::uint64_t gap_mask = (std::uint64_t{1} << of.gap_bits) - 1;
          const std::uint64_t step_mask = (std::uint64_t{1} << (of.value_bits + 1)) - 1;
          const std::uint32_t width = of.gap_bits + 1 + of.value_bits;
          put_bits(lists.words, of.field_at + std::uint64_t{i} * width,
                   (gap & gap_mask) | (step & step_mask) << of.gap_bits, width);
          put_bits(lists.words, place[thread] + (gap >> of.gap_bits), 1, 1);
        });
      }
    }
    for (std::uint32_t c = 0; c < classes; ++c)
      at = for_exceptions<T, true>(block, lists, read_class(block, s, c), at, lists.words);
  }

  template <class Block>
  LOCKSTEP_DEVICE static device_class read_class(Block& block, shared& s, std::uint32_t c) {
    const device_class& of = s.table.of[c];
    return {block.read(of.count),    block.read(of.exceptions), block.read(of.first),
            block.read(of.gap_bits), block.read(of.value_bits), block.read(of.field_at)};
  }
};

/// Copies table and bits to where the frame is.
struct write_coded {
  static constexpr unsigned threads = 128;
  struct shared {};

  const range_plan* plans;
  coded_memory coded;
  encode_output out;

  template <class Block>
  LOCKSTEP_DEVICE void run(Block& block, shared&, std::uint64_t index) const {
    if (plans[index].encoding != code_of(frame_encoding::coded)) return;
    if (out.frame_at[index] == no_frame) return;
    const device_table& table = coded.tables[index];
    std::byte* const payload = out.frames + out.frame_at[index] + frame_header_bytes;
    const std::byte* const bits = coded.lists + coded.list_at[index];
    block.each([&](unsigned thread) {
      if (thread == 0) table_writer(payload).write(table);
      for (std::uint32_t i = thread; i < table.bits_size; i += threads)
        payload[table.bits_at + i] = bits[i];
    });
  }
};

}  // namespace lockstep::kernels::cuda
