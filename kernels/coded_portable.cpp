// Decides what the loops of the dense encoding compute, in plain C++: the reference for the others.
#include <algorithm>
#include <cstring>

#include "kernels/coded_loops.hpp"
#include "kernels/inner_loops.hpp"

namespace lockstep::kernels {
namespace {

unsigned count_ones(std::uint64_t mask) {
  mask -= mask >> 1 & 0x5555555555555555;
  mask = (mask & 0x3333333333333333) + (mask >> 2 & 0x3333333333333333);
  mask = (mask + (mask >> 4)) & 0x0f0f0f0f0f0f0f0f;
  return static_cast<unsigned>((mask * 0x0101010101010101) >> 56);
}

unsigned count_zeros(std::uint64_t mask) {
  return static_cast<unsigned>(__builtin_ctzll(mask));
}

std::uint64_t deposit(std::uint64_t bits, std::uint64_t mask) {
  std::uint64_t result = 0;
  for (; mask != 0; mask &= mask - 1, bits >>= 1)
    if ((bits & 1) != 0) result |= mask & -mask;
  return result;
}

std::size_t list_changes(const chunk_classes& chunk, std::size_t blocks, std::uint16_t* list) {
  std::uint16_t* to = list;
  for (std::size_t b = 0; b < blocks; ++b)
    for (std::uint64_t mask = chunk.changed[b]; mask != 0; mask &= mask - 1)
      *to++ = static_cast<std::uint16_t>(b * block_elements + count_zeros(mask));
  return static_cast<std::size_t>(to - list);
}

template <class T>
std::uint8_t key_of(T element);

template <class T>
void classify(const class_table& table, const std::byte* old, const std::byte* target,
              std::size_t elements, chunk_classes& chunk) {
  const std::size_t blocks = (elements + block_elements - 1) / block_elements;
  chunk.dense = false;
  for (std::size_t b = 0; b < blocks; ++b) {
    std::uint64_t* const of = &chunk.of[b * class_count_max];
    std::uint64_t* const before = &chunk.before[b * class_count_max];
    std::fill_n(of, class_count_max, std::uint64_t{0});
    std::uint64_t changed = 0;
    for (std::size_t i = 0; i < block_elements && b * block_elements + i < elements; ++i) {
      const std::size_t at = (b * block_elements + i) * sizeof(T);
      const T from = load<T>(old + at);
      of[table.of_key[key_of(from)]] |= std::uint64_t{1} << i;
      if (target != nullptr && load<T>(target + at) != from) changed |= std::uint64_t{1} << i;
    }
    chunk.changed[b] = changed;
    for (std::size_t c = 0; c < class_count_max; ++c) {
      const unsigned ones = count_ones(of[c]);
      before[c] = chunk.total[c];
      chunk.total[c] += ones;
      chunk.dense = chunk.dense || ones > sparse_max;
    }
  }
}

}  // namespace

#include "kernels/coded_loops-inl.hpp"

class_table::class_table(const class_model& model) noexcept
    : classes(model.classes), order(model.order) {
  std::copy(model.thresholds.begin(), model.thresholds.end(), thresholds.begin());
  for (std::size_t i = 0; i + 1 < classes; ++i)
    for (std::size_t key = thresholds[i]; key < of_key.size(); ++key) ++of_key[key];
  const unsigned from = classes > 1 ? thresholds[0] - 1u : 0;
  const unsigned to = classes > 1 ? thresholds[classes - 2u] : 0;
  near = to - from < of_near.size();
  first = static_cast<std::uint8_t>(from);
  for (unsigned i = 0; i < of_near.size(); ++i) of_near[i] = of_key[std::min(from + i, 255u)];
}

const all_coded_loops& portable_coded_loops() noexcept {
  static constexpr all_coded_loops loops = coded_loops_as(implementation::portable);
  return loops;
}

const all_coded_loops& active_coded_loops() noexcept {
  return vector_coded_loops(active_implementation());
}

}  // namespace lockstep::kernels
