// Decides what the loops of the dense encoding compute. Included once for each instruction set by
// coded_vector.cpp, and by coded_portable.cpp, each of which gives first, in the same namespace:
//   count_ones(mask)         the number of bits set
//   count_zeros(mask)        below the lowest bit set; anything for 0
//   deposit(bits, mask)      bit n of `bits` at the place of the set bit of `mask` that has n below
//   it classify<T>(...)         coded_loops<T>::classify list_changes(...)        the elements of a
//   chunk that changed, in order; may write list_slack
//                            more than it counts
#include "kernels/coded_loops.hpp"
#include "kernels/inner_loops.hpp"

// No guard: each inclusion is into another namespace, named by the includer.
namespace {

template <class T>
T element_at(const std::byte* elements, std::size_t index) {
  return load<T>(elements + index * sizeof(T));
}

/// The top 8 bits of an element but for its sign.
template <class T>
std::uint8_t key_of(T element) {
  const auto shifted = static_cast<T>(element << 1);
  return static_cast<std::uint8_t>(shifted >> (8 * sizeof(T) - 8));
}

// ---- Steps ----

// Signs are coin tosses: what depends on them does so without a branch.

/// All ones if the top bit of `x` is set, else 0.
template <class T>
T spread_sign(T x) {
  return static_cast<T>(T{0} - static_cast<T>(x >> (8 * sizeof(T) - 1)));
}
template <class T>
constexpr T top_bit = static_cast<T>(T{1} << (8 * sizeof(T) - 1));

/// Floats in the order of numbers, as integers, and back.
template <class T>
T to_order(T bits) {
  return static_cast<T>(bits ^ (spread_sign(bits) | top_bit<T>));
}
template <class T>
T from_order(T order) {
  return static_cast<T>(order ^ (static_cast<T>(~spread_sign(order)) | top_bit<T>));
}

/// What a step adds, mod 2^width, and the step of what is added. Nothing is no step.
template <class T>
T added_by(step_code<T> step) {
  const auto down = static_cast<T>(T{0} - static_cast<T>(step & 1));
  return static_cast<T>((static_cast<T>(step >> 1) ^ down) + 1 + down);
}
template <class T>
step_code<T> step_adding(T added) {
  const T down = spread_sign(added);
  const auto size_less_one = static_cast<T>((added ^ down) - 1 - down);
  return static_cast<step_code<T>>(step_code<T>{size_less_one} << 1 | (down & 1));
}

/// The same within one of the two halves of a byte; where both change, from 32 on, their xor.
inline std::uint16_t step_of_nibbles(std::uint8_t from, std::uint8_t to) {
  const unsigned both = from ^ to;
  if (both > 15 && (both & 15) != 0) return static_cast<std::uint16_t>((16 + both) * 2);
  const unsigned high = both > 15;
  const unsigned added = (high != 0 ? (to >> 4) - (from >> 4) : to - from) & 15u;
  const unsigned down = added >> 3;
  const unsigned size_less_one = down != 0 ? ~added & 15u : added - 1;
  return static_cast<std::uint16_t>((size_less_one * 2 + high) * 2 + down);
}
inline std::uint8_t after_step_of_nibbles(std::uint8_t from, std::uint16_t step) {
  const unsigned size = step >> 1;
  if (size >= 16) return static_cast<std::uint8_t>(from ^ (size - 16));
  const unsigned added = (step & 1) != 0 ? ~(size >> 1) : (size >> 1) + 1;
  if ((size & 1) == 0) return static_cast<std::uint8_t>((from & 0xf0) | ((from + added) & 15));
  return static_cast<std::uint8_t>(from + (added << 4));
}

template <step_order Order, class T>
step_code<T> step_between(T from, T to) {
  if constexpr (Order == step_order::nibbles && sizeof(T) == 1)
    return step_of_nibbles(from, to);
  else if constexpr (Order == step_order::sign_magnitude)
    return step_adding<T>(static_cast<T>(to_order(to) - to_order(from)));
  else
    return step_adding<T>(static_cast<T>(to - from));
}

template <step_order Order, class T>
T after_step(T from, step_code<T> step) {
  if constexpr (Order == step_order::nibbles && sizeof(T) == 1)
    return after_step_of_nibbles(from, step);
  else if constexpr (Order == step_order::sign_magnitude)
    return from_order(static_cast<T>(to_order(from) + added_by<T>(step)));
  else
    return static_cast<T>(from + added_by<T>(step));
}

// ---- Encoding ----

template <step_order Order, class T>
void collect_in(const class_table& table, const std::byte* old, const std::byte* target,
                std::size_t blocks, const chunk_classes& chunk, found_changes<T>& found) {
  std::uint16_t list[chunk_elements<T> + list_slack];
  const std::size_t count = list_changes(chunk, blocks, list);
  const std::uint64_t* const of = chunk.of.data();
  const std::uint64_t* const before = chunk.before.data();
  auto* const classes = found.of.data();
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t index = list[i];
    const T from = element_at<T>(old, index);
    const std::size_t c = table.of_key[key_of(from)];
    const std::size_t at = index / block_elements * class_count_max + c;
    const std::uint64_t below = of[at] & ((std::uint64_t{1} << index % block_elements) - 1);
    const auto rank = static_cast<std::uint32_t>(before[at] + count_ones(below));
    auto& alike = classes[c];
    const std::uint32_t n = alike.count;
    alike.gaps[n] = rank - alike.next;
    alike.steps[n] = step_between<Order>(from, element_at<T>(target, index));
    alike.next = rank + 1;
    alike.count = n + 1;
  }
}

template <class T>
void collect(const class_table& table, const std::byte* old, const std::byte* target,
             std::size_t blocks, const chunk_classes& chunk, found_changes<T>& found) {
  switch (table.order) {
    case step_order::integer:
      return collect_in<step_order::integer>(table, old, target, blocks, chunk, found);
    case step_order::sign_magnitude:
      return collect_in<step_order::sign_magnitude>(table, old, target, blocks, chunk, found);
    case step_order::nibbles:
      return collect_in<step_order::nibbles>(table, old, target, blocks, chunk, found);
  }
}

/// Bits that can be put at once: with the 7 that a sink may hold they do not fill a word.
constexpr unsigned put_bits_max = 56;

inline void put_bits(bit_sink& out, std::uint64_t bits, unsigned count) {
  out.held |= bits << out.count;
  out.count += count;
  std::memcpy(out.at, &out.held, 8);
  out.at += out.count / 8;
  out.held >>= out.count & ~7u;
  out.count &= 7;
}

inline void put_unary_number(bit_sink& out, std::uint32_t number) {
  for (; number > 48; number -= 48) put_bits(out, 0, 48);
  put_bits(out, std::uint64_t{1} << number, number + 1);
}

template <class T>
void put_fields(const class_code& code, const std::uint32_t* gaps, const step_code<T>* steps,
                bit_sink& out) {
  const unsigned gap_bits = code.gap_bits;
  const unsigned step_bits = code.value_bits + 1u;
  const std::uint64_t gap_mask = (std::uint64_t{1} << gap_bits) - 1;
  const std::uint64_t step_mask = (std::uint64_t{1} << step_bits) - 1;
  bit_sink local = out;
  const unsigned width = gap_bits + step_bits;
  const auto field = [&](std::size_t i) {
    return (gaps[i] & gap_mask) | (steps[i] & step_mask) << gap_bits;
  };
  const auto pair = [&](std::size_t i) { return field(i) | field(i + 1) << width; };
  // Several at once: what a sink does depends on what it did before, and a field does not.
  std::size_t i = 0;
  if (4 * width <= put_bits_max)
    for (; i + 4 <= code.count; i += 4)
      put_bits(local, pair(i) | pair(i + 2) << 2 * width, 4 * width);
  if (2 * width <= put_bits_max)
    for (; i + 2 <= code.count; i += 2) put_bits(local, pair(i), 2 * width);
  for (; i < code.count; ++i) put_bits(local, field(i), width);
  out = local;
}

inline void put_unary(const class_code& code, const std::uint32_t* gaps, bit_sink& out) {
  bit_sink local = out;
  const auto number = [&](std::size_t i) { return std::uint64_t{gaps[i] >> code.gap_bits}; };
  std::size_t i = 0;
  for (; i + 4 <= code.count; i += 4) {
    const std::uint64_t first = number(i);
    const std::uint64_t second = first + 1 + number(i + 1);
    const std::uint64_t third = second + 1 + number(i + 2);
    const std::uint64_t fourth = third + 1 + number(i + 3);
    if (fourth < put_bits_max) {
      constexpr std::uint64_t one = 1;
      put_bits(local, one << first | one << second | one << third | one << fourth,
               static_cast<unsigned>(fourth) + 1);
      continue;
    }
    for (std::size_t j = i; j < i + 4; ++j)
      put_unary_number(local, static_cast<std::uint32_t>(number(j)));
  }
  for (; i < code.count; ++i) put_unary_number(local, static_cast<std::uint32_t>(number(i)));
  out = local;
}

template <class T>
void put_exceptions(const class_code& code, const step_code<T>* steps, bit_sink& out) {
  const auto high_of = [&](std::uint32_t i) {
    return std::uint64_t{steps[i]} >> 1 >> code.value_bits;
  };
  // Where they are first, without a branch: they are few, and not predictable.
  constexpr std::uint32_t some = 1024;
  std::uint16_t where[some];
  const unsigned gap_bits = code.exception_gap_bits;
  bit_sink local = out;
  std::uint32_t next = 0;
  for (std::uint32_t from = 0; from < code.count; from += some) {
    const std::uint32_t to = std::min(code.count, from + some);
    std::uint32_t found = 0;
    for (std::uint32_t i = from; i < to; ++i) {
      where[found] = static_cast<std::uint16_t>(i - from);
      found += high_of(i) != 0;
    }
    for (std::uint32_t n = 0; n < found; ++n) {
      const std::uint32_t i = from + where[n];
      const std::uint64_t high = high_of(i);
      const std::uint32_t gap = i - next;
      next = i + 1;
      constexpr std::uint64_t one = 1;
      const std::uint32_t far = gap >> gap_bits;
      const std::uint64_t near = gap & ((one << gap_bits) - 1);
      // Elias' gamma code: zeros for the length, a one, the bits below the highest.
      const auto length = static_cast<unsigned>(63 - __builtin_clzll(high));
      const std::uint64_t low = high & ((one << length) - 1);
      const std::uint64_t all = std::uint64_t{far} + 1 + gap_bits + 2 * length + 1;
      if (all <= put_bits_max) {
        const std::uint64_t size = one << length | low << 1 << length;
        put_bits(local, one << far | (near | size << gap_bits) << far << 1,
                 static_cast<unsigned>(all));
        continue;
      }
      put_unary_number(local, far);
      put_bits(local, near, gap_bits);
      put_unary_number(local, length);
      const unsigned half = length / 2;
      put_bits(local, low & ((one << half) - 1), half);
      put_bits(local, low >> half, length - half);
    }
  }
  out = local;
}

// ---- Decoding ----

/// Up to 57 bits at `at`.
inline std::uint64_t bits_at(const std::byte* data, std::uint64_t at, unsigned count) {
  return load<std::uint64_t>(data + at / 8) >> at % 8 & ((std::uint64_t{1} << count) - 1);
}

/// Zeros up to the next one, which is passed; false if there is none.
inline bool get_unary(bit_source& in, std::uint64_t& zeros) {
  const std::uint64_t start = in.at;
  while (in.at < in.end) {
    const std::uint64_t window = bits_at(in.data, in.at, 56);
    if (window == 0) {
      in.at += 56;
      continue;
    }
    in.at += static_cast<unsigned>(__builtin_ctzll(window));
    zeros = in.at - start;
    ++in.at;
    return in.at <= in.end;
  }
  return false;
}

/// The next places of ones, at most `count`, from a word that holds those behind the last one.
struct one_finder {
  const std::byte* data;
  std::uint64_t end;      ///< in bits
  std::uint64_t word_at;  ///< in bits, from a boundary that `data` keeps readable
  std::uint64_t word;

  explicit one_finder(const bit_source& in)
      : data(in.data),
        end(in.end),
        word_at(in.at / 64 * 64),
        word(load<std::uint64_t>(data + word_at / 8) & ~std::uint64_t{0} << in.at % 64) {}

  /// @returns how many there were before the end of the last word.
  std::size_t find(std::size_t count, std::uint64_t* places) {
    std::uint64_t from = word_at;
    std::uint64_t ones = word;
    std::size_t found = 0;
    for (; found < count; ++found) {
      while (ones == 0) {
        if (from + 64 >= end) return found;
        from += 64;
        ones = load<std::uint64_t>(data + from / 8);
      }
      places[found] = from + static_cast<unsigned>(__builtin_ctzll(ones));
      ones &= ones - 1;
    }
    word_at = from;
    word = ones;
    return found;
  }
};

template <class T>
bool get_changes(const class_code& code, std::uint32_t elements, bit_source& fields,
                 bit_source& unary, std::uint64_t* ranks, step_code<T>* steps,
                 std::uint32_t& last) {
  constexpr std::size_t some = 256;
  const unsigned gap_bits = code.gap_bits;
  const unsigned width = gap_bits + code.value_bits + 1u;
  const std::uint64_t gap_mask = (std::uint64_t{1} << gap_bits) - 1;
  const std::uint64_t step_mask = (std::uint64_t{1} << (code.value_bits + 1u)) - 1;
  const std::byte* const data = fields.data;
  std::uint64_t places[some];
  one_finder ones(unary);
  std::uint64_t at = fields.at;
  std::uint64_t rank = 0;         // but for the unary parts
  std::uint64_t base = unary.at;  // where the next unary number would begin were all before 0
  std::uint64_t whole = 0;        // the last change's rank
  std::uint64_t marked = 0;       // the word of `ranks` that it is in
  std::uint64_t marks = 0;        // and what that holds
  std::size_t done = 0;
  bool good = true;
  while (done < code.count) {
    const std::size_t wanted = std::min<std::size_t>(some, code.count - done);
    const std::size_t found = ones.find(wanted, places);
    std::size_t i = 0;
    for (; i < found; ++i, at += width) {
      const std::uint64_t field = load<std::uint64_t>(data + at / 8) >> at % 8;
      rank += field & gap_mask;
      const std::uint64_t next = rank + ((places[i] - base - i) << gap_bits) + i + done;
      if (next >= elements) break;
      whole = next;
      // Ranks ascend: what a word holds need not be read back, which would take its time. Without
      // a branch: whether the next is in the same word is not predictable.
      marks &= std::uint64_t{0} - std::uint64_t{whole / 64 == marked};
      marks |= std::uint64_t{1} << whole % 64;
      marked = whole / 64;
      ranks[marked] = marks;
      steps[i] = static_cast<step_code<T>>(field >> gap_bits & step_mask);
    }
    done += i;
    good = i == wanted;
    if (!good) break;
    base += wanted;
    steps += wanted;
  }
  if (done != 0) {
    last = static_cast<std::uint32_t>(whole);
    const std::uint64_t place = places[(done - 1) % some];
    if (place >= unary.end) return false;
    unary.at = place + 1;
  }
  fields.at = at;
  return good;
}

template <class T>
bool get_exceptions(const class_code& code, bit_source& bits, step_code<T>* steps) {
  std::uint64_t next = 0;
  for (std::uint32_t i = 0; i < code.exceptions; ++i) {
    std::uint64_t gap = 0;
    if (!get_unary(bits, gap)) return false;
    if (bits.end - bits.at < code.exception_gap_bits) return false;
    next += gap << code.exception_gap_bits | bits_at(bits.data, bits.at, code.exception_gap_bits);
    bits.at += code.exception_gap_bits;
    if (next >= code.count) return false;
    std::uint64_t length = 0;
    if (!get_unary(bits, length)) return false;
    // What leaves the element's width is no step.
    if (length + code.value_bits + 1 >= 8 * sizeof(step_code<T>)) return false;
    if (bits.end - bits.at < length) return false;
    const auto half = static_cast<unsigned>(length / 2);
    const auto rest = static_cast<unsigned>(length) - half;
    const std::uint64_t low = bits_at(bits.data, bits.at, half);
    const std::uint64_t high = bits_at(bits.data, bits.at + half, rest);
    bits.at += length;
    const std::uint64_t size = (std::uint64_t{1} << length | high << half | low) << code.value_bits;
    steps[next] = static_cast<step_code<T>>(steps[next] | size << 1);
    ++next;
  }
  return true;
}

/// 64 bits, or the first `sparse_max` of them.
template <bool Dense>
std::uint64_t rank_bits(const std::uint64_t* ranks, std::uint64_t at) {
  if constexpr (Dense) {
    const std::uint64_t low = ranks[at / 64] >> at % 64;
    return low | ranks[at / 64 + 1] << 1 << (63 - at % 64);
  }
  return load<std::uint64_t>(reinterpret_cast<const std::byte*>(ranks) + at / 8) >> at % 8;
}

template <std::size_t Classes, bool Dense>
void place_in(std::size_t blocks, const std::array<std::uint64_t*, class_count_max>& ranks,
              chunk_classes& chunk) {
  for (std::size_t b = 0; b < blocks; ++b) {
    const std::uint64_t* const of = &chunk.of[b * class_count_max];
    const std::uint64_t* const before = &chunk.before[b * class_count_max];
    std::uint64_t changed = 0;
    for (std::size_t c = 0; c < Classes; ++c)
      changed |= deposit(rank_bits<Dense>(ranks[c], before[c]), of[c]);
    chunk.changed[b] = changed;
  }
}

inline void place(std::size_t classes, std::size_t blocks,
                  const std::array<std::uint64_t*, class_count_max>& ranks, chunk_classes& chunk) {
  using run =
      void (*)(std::size_t, const std::array<std::uint64_t*, class_count_max>&, chunk_classes&);
  static constexpr run runs[2][class_count_max] = {
      {place_in<1, false>, place_in<2, false>, place_in<3, false>, place_in<4, false>,
       place_in<5, false>, place_in<6, false>, place_in<7, false>, place_in<8, false>},
      {place_in<1, true>, place_in<2, true>, place_in<3, true>, place_in<4, true>,
       place_in<5, true>, place_in<6, true>, place_in<7, true>, place_in<8, true>}};
  runs[chunk.dense ? 1 : 0][classes - 1](blocks, ranks, chunk);
}

/// nh(after, key) - nh(before, key), where they differ in the element at bit `shift` alone.
template <class T>
std::uint64_t nh_change(std::uint64_t before, std::uint64_t after, std::size_t shift,
                        std::uint64_t key) {
  if constexpr (sizeof(T) == 8) return nh(after, key) - nh(before, key);
  // One factor stays; all by 32 bits: the half that changes below, the other above.
  const std::size_t turn = shift & 32;
  const auto low = [turn](std::uint64_t x) { return static_cast<std::uint32_t>(x >> turn); };
  const auto high = [turn](std::uint64_t x) {
    return static_cast<std::uint32_t>(x >> (turn ^ 32));
  };
  const std::uint32_t factor = high(before) + high(key);
  const std::uint32_t from = low(before) + low(key);
  const std::uint32_t to = low(after) + low(key);
  return (std::uint64_t{to} - from) * factor;
}

template <step_order Order, class T>
void apply_steps_in(const class_table& table, const std::byte* old, std::size_t blocks,
                    std::uint64_t position, const chunk_classes& chunk,
                    unpacked_changes<T>& changes, change_sink<T>& out) {
  constexpr std::uint16_t escape = 0xffff;
  const std::size_t count = list_changes(chunk, blocks, out.where.data());
  const std::uint16_t* const where = out.where.data();
  T* const elements = out.elements.data();
  std::byte* to = out.records;
  std::uint64_t next = out.next - position;  // may wrap
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t index = where[i];
    const T from = element_at<T>(old, index);
    const T element = after_step<Order>(from, *changes.steps[table.of_key[key_of(from)]]++);
    elements[i] = element;
    std::uint64_t gap = index - next;
    next = index + 1;
    for (; gap >= escape; gap -= escape) {
      std::memcpy(to, &escape, 2);
      to += 2;
    }
    const auto short_gap = static_cast<std::uint16_t>(gap);
    std::memcpy(to, &short_gap, 2);
    std::memcpy(to + 2, &element, sizeof(T));
    to += 2 + sizeof(T);
  }
  out.records = to;
  out.next = next + position;
  out.count = count;
}

template <class T>
void apply_steps(const class_table& table, const std::byte* old, std::size_t blocks,
                 std::uint64_t position, const chunk_classes& chunk, unpacked_changes<T>& changes,
                 change_sink<T>& out) {
  switch (table.order) {
    case step_order::integer:
      return apply_steps_in<step_order::integer>(table, old, blocks, position, chunk, changes, out);
    case step_order::sign_magnitude:
      return apply_steps_in<step_order::sign_magnitude>(table, old, blocks, position, chunk,
                                                        changes, out);
    case step_order::nibbles:
      return apply_steps_in<step_order::nibbles>(table, old, blocks, position, chunk, changes, out);
  }
}

template <class T>
void add_change(const std::byte* old, const std::uint64_t* key, const change_sink<T>& changes,
                std::uint64_t* lanes) {
  constexpr std::size_t in_word = 8 / sizeof(T);
  std::uint64_t lane0 = 0;
  std::uint64_t lane1 = 0;
  std::size_t word_at = ~std::size_t{0};
  std::uint64_t word = 0;
  for (std::size_t i = 0; i < changes.count; ++i) {
    const std::size_t index = changes.where[i];
    const T element = changes.elements[i];
    // Several changes of one word follow one another.
    const std::size_t at = index / in_word;
    const auto stored = load<std::uint64_t>(old + at * 8);
    const std::uint64_t before = at == word_at ? word : stored;
    const std::size_t shift = index % in_word * 8 * sizeof(T);
    word = before ^ std::uint64_t{static_cast<T>(static_cast<T>(before >> shift) ^ element)}
                        << shift;
    word_at = at;
    lane0 += nh_change<T>(before, word, shift, key[at]);
    lane1 += nh_change<T>(before, word, shift, key[at + 1]);
  }
  lanes[0] += lane0;
  lanes[1] += lane1;
}

template <class T>
constexpr coded_loops<T> loops_for() {
  return {classify<T>,    collect<T>,        put_fields<T>, put_unary,      put_exceptions<T>,
          get_changes<T>, get_exceptions<T>, place,         apply_steps<T>, add_change<T>};
}

constexpr all_coded_loops coded_loops_as(implementation which) {
  return {which, loops_for<std::uint8_t>(), loops_for<std::uint16_t>(), loops_for<std::uint32_t>(),
          loops_for<std::uint64_t>()};
}

}  // namespace
