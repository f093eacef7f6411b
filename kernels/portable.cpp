// Decides what the inner loops compute, in plain C++: the reference for every other implementation.
#include "kernels/inner_loops.hpp"

namespace lockstep::kernels {
namespace {

void compare(const std::byte* a, const std::byte* b, std::size_t blocks, std::uint64_t* masks) {
  for (std::size_t i = 0; i < blocks; ++i) {
    std::uint64_t mask = 0;
    for (std::size_t word = 0; word < block_bytes / 8; ++word) {
      const std::size_t at = i * block_bytes + word * 8;
      std::uint64_t differ = load<std::uint64_t>(a + at) ^ load<std::uint64_t>(b + at);
      if (differ == 0) continue;
      // Fold each byte into its lowest bit, then gather the eight bits in the top byte.
      differ |= differ >> 4;
      differ |= differ >> 2;
      differ |= differ >> 1;
      differ &= 0x0101010101010101;
      mask |= (differ * 0x0102040810204080) >> 56 << (word * 8);
    }
    masks[i] = mask;
  }
}

void add_words(const std::uint64_t* key, const std::byte* data, std::size_t count,
               std::uint64_t* lanes) {
  std::uint64_t lane0 = 0;
  std::uint64_t lane1 = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const auto word = load<std::uint64_t>(data + i * 8);
    lane0 += nh(word, key[i]);
    lane1 += nh(word, key[i + 1]);
  }
  lanes[0] += lane0;
  lanes[1] += lane1;
}

}  // namespace

const inner_loops& portable_loops() noexcept {
  static constexpr inner_loops loops{implementation::portable, compare, add_words};
  return loops;
}

}  // namespace lockstep::kernels
