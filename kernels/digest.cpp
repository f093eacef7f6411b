#include "kernels/digest.hpp"

#include <algorithm>
#include <stdexcept>

#include "kernels/inner_loops.hpp"

namespace lockstep::kernels {
namespace {

// SplitMix64 (Steele, Lea, Flood, OOPSLA 2014): its increment and its mixing function.
constexpr std::uint64_t golden = 0x9e3779b97f4a7c15;

std::uint64_t mix(std::uint64_t x) noexcept {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

digest_sum sum_tiles(const digest_key& key, std::uint32_t tensor, std::uint64_t first_tile,
                     bytes_view bytes) noexcept {
  const inner_loops& loops = active_loops();
  digest_sum sum;
  std::uint64_t tile = first_tile;
  for (std::size_t at = 0; at < bytes.size; at += digest_tile_bytes, ++tile) {
    const std::size_t size = std::min(digest_tile_bytes, bytes.size - at);
    const std::size_t words = size / 8;
    std::uint64_t lanes[2] = {0, 0};
    loops.add_words(key.words(), bytes.data + at, words, lanes);
    if (size % 8 != 0) {
      const std::uint64_t word = load_partial(bytes.data + at + words * 8, size % 8);
      lanes[0] += nh(word, key.words()[words]);
      lanes[1] += nh(word, key.words()[words + 1]);
    }
    for (std::size_t lane = 0; lane < 2; ++lane)
      sum.lane[lane] += lanes[lane] * key.multiplier(lane, tensor, tile);
  }
  return sum;
}

}  // namespace

digest_key::digest_key(std::uint64_t seed) noexcept {
  const auto next = [&seed] { return mix(seed += golden); };
  for (auto& word : words_) word = next();
  for (auto& multiplier_seed : multiplier_seeds_) multiplier_seed = next();
}

std::uint64_t digest_key::multiplier(std::size_t lane, std::uint32_t tensor,
                                     std::uint64_t tile) const noexcept {
  const std::uint64_t of_tensor = mix(multiplier_seeds_[lane] + golden * (tensor + 1ull));
  return mix(of_tensor + golden * (tile + 1)) | 1;
}

digest_sum digest_tensor(const digest_key& key, std::uint32_t tensor, bytes_view bytes) noexcept {
  return sum_tiles(key, tensor, 0, bytes);
}

digest_sum digest_range(const digest_key& key, std::uint32_t tensor, std::uint64_t offset,
                        bytes_view bytes) {
  if (offset % digest_tile_bytes != 0)
    throw std::invalid_argument("digest_range: the offset is not the start of a tile");
  return sum_tiles(key, tensor, offset / digest_tile_bytes, bytes);
}

}  // namespace lockstep::kernels
