// Decides what the loops of the dense encoding compute, in plain C++: the reference for the others.
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

unsigned nth_one(std::uint64_t mask, std::uint32_t n) {
  for (; n > 0; --n) mask &= mask - 1;
  return static_cast<unsigned>(__builtin_ctzll(mask));
}

template <class T>
std::uint8_t key_of(T element);

template <class T>
void mark(const class_model& model, const std::byte* old, const std::byte* target,
          std::size_t blocks, chunk_classes& chunk) {
  for (std::size_t b = 0; b < blocks; ++b) {
    std::uint8_t keys[block_elements];
    std::uint64_t changed = 0;
    for (std::size_t i = 0; i < block_elements; ++i) {
      const std::size_t at = (b * block_elements + i) * sizeof(T);
      const T from = load<T>(old + at);
      keys[i] = key_of(from);
      if (target != nullptr && load<T>(target + at) != from) changed |= std::uint64_t{1} << i;
    }
    chunk.changed[b] = changed;
    for (std::size_t c = 1; c < model.classes; ++c) {
      std::uint64_t mask = 0;
      for (std::size_t i = 0; i < block_elements; ++i)
        mask |= std::uint64_t{keys[i] >= model.thresholds[c - 1]} << i;
      chunk.of[b * class_count_max + c] = mask;
    }
  }
}

}  // namespace

#include "kernels/coded_loops-inl.hpp"

const all_coded_loops& portable_coded_loops() noexcept {
  static constexpr all_coded_loops loops = coded_loops_as(implementation::portable);
  return loops;
}

const all_coded_loops& active_coded_loops() noexcept {
  return vector_coded_loops(active_implementation());
}

}  // namespace lockstep::kernels
