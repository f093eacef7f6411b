// Decides how a device takes digests: as docs/codec.md has them, a block of threads for a part of a
// range.
#pragma once

#include "kernels/cuda/device.hpp"
#include "kernels/cuda/grid.hpp"

namespace lockstep::kernels::cuda {

inline constexpr unsigned range_tiles = frame_span_bytes_max / digest_tile_bytes;
inline constexpr std::uint64_t golden = 0x9e3779b97f4a7c15;

LOCKSTEP_DEVICE inline std::uint64_t mix(std::uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

LOCKSTEP_DEVICE inline std::uint64_t multiplier(const device_key& key, unsigned lane,
                                                std::uint32_t tensor, std::uint64_t tile) {
  const std::uint64_t of_tensor = mix(key.multiplier_seeds[lane] + golden * (tensor + 1ull));
  return mix(of_tensor + golden * (tile + 1)) | 1;
}

LOCKSTEP_DEVICE inline std::uint64_t nh_word(std::uint64_t word, std::uint64_t key) {
  const auto low = static_cast<std::uint32_t>(word) + static_cast<std::uint32_t>(key);
  const auto high = static_cast<std::uint32_t>(word >> 32) + static_cast<std::uint32_t>(key >> 32);
  return std::uint64_t{low} * high;
}

/// Length of a range of `tensor`; 0 if it has no such range.
LOCKSTEP_DEVICE inline std::uint32_t bytes_of(const device_tensor& tensor, std::uint32_t number) {
  const std::uint64_t offset = std::uint64_t{number} * frame_span_bytes_max;
  if (offset >= tensor.bytes) return 0;
  const std::uint64_t left = tensor.bytes - offset;
  return static_cast<std::uint32_t>(left < frame_span_bytes_max ? left : frame_span_bytes_max);
}

/// What a thread of `Threads` adds for its words of tile `tile` of a range, whose bytes `data` are.
/// `size` is what is left of the range from the tile's front, at most a tile.
template <unsigned Threads>
LOCKSTEP_DEVICE void add_tile(const device_key& key, std::uint32_t tensor, std::uint64_t tile,
                              const std::byte* data, std::uint32_t size, unsigned thread,
                              device_digest& sum) {
  std::uint64_t lane0 = 0;
  std::uint64_t lane1 = 0;
  for (std::uint32_t word = 2 * thread; word < digest_tile_words; word += 2 * Threads) {
    const std::uint32_t at = word * 8;
    if (at >= size) break;
    word_pair both{};
    if (size - at >= 16)
      both = load_pair(data + at);
    else if (size - at > 8)
      both = {{load_any<std::uint64_t>(data + at), load_first(data + at + 8, size - at - 8)}};
    else
      both.word[0] = load_first(data + at, size - at);
    const std::uint64_t middle = key.words[word + 1];
    lane0 += nh_word(both.word[0], key.words[word]);
    lane1 += nh_word(both.word[0], middle);
    if (size - at <= 8) break;  // there is no second word, not even one of zeros
    lane0 += nh_word(both.word[1], middle);
    lane1 += nh_word(both.word[1], key.words[word + 2]);
  }
  sum.lane[0] += lane0 * multiplier(key, 0, tensor, tile);
  sum.lane[1] += lane1 * multiplier(key, 1, tensor, tile);
}

/// Adds up what the threads of a block have, and adds it to `total`.
template <class Block>
LOCKSTEP_DEVICE void add_digest(Block& block, typename Block::template local<std::uint64_t>& lane0,
                                typename Block::template local<std::uint64_t>& lane1,
                                device_digest* total) {
  const std::uint64_t sum0 = block.reduce(lane0, plus{});
  const std::uint64_t sum1 = block.reduce(lane1, plus{});
  block.each([&](unsigned thread) {
    if (thread != 0) return;
    atomic_add(&total->lane[0], sum0);
    atomic_add(&total->lane[1], sum1);
  });
}

/// The words of a digest's key.
struct expand_key {
  static constexpr unsigned threads = 256;
  struct shared {};

  std::uint64_t seed;
  device_key* key;

  static constexpr std::uint64_t words = digest_tile_words + 3;
  static constexpr std::uint64_t blocks = (words + threads - 1) / threads;

  template <class Block>
  LOCKSTEP_DEVICE void run(Block& block, shared&, std::uint64_t index) const {
    block.each([&](unsigned thread) {
      const std::uint64_t i = index * threads + thread;
      const std::uint64_t word = mix(seed + golden * (i + 1));
      if (i <= digest_tile_words)
        key->words[i] = word;
      else if (i < words)
        key->multiplier_seeds[i - digest_tile_words - 1] = word;
    });
  }
};

/// The digest of one state of ranges.
struct digest_ranges {
  static constexpr unsigned threads = 256;
  static constexpr unsigned block_tiles = 16;
  static constexpr unsigned range_blocks = range_tiles / block_tiles;
  struct shared {};

  const device_tensor* tensors;
  const device_range* ranges;
  which_state which;
  const device_key* key;
  const std::uint32_t* skip;
  device_digest* sum;

  template <class Block>
  LOCKSTEP_DEVICE void run(Block& block, shared&, std::uint64_t index) const {
    const device_range range = ranges[index / range_blocks];
    const device_tensor& tensor = tensors[range.tensor];
    const std::uint32_t size = bytes_of(tensor, range.number);
    const auto first =
        static_cast<std::uint32_t>(index % range_blocks * block_tiles * digest_tile_bytes);
    if (first >= size) return;
    if (skip != nullptr && skip[tensor.first_range + range.number] != 0) return;
    const std::byte* const data = (which == which_state::base ? tensor.base : tensor.target) +
                                  std::uint64_t{range.number} * frame_span_bytes_max;
    typename Block::template local<std::uint64_t> lane0;
    typename Block::template local<std::uint64_t> lane1;
    block.each([&](unsigned thread) {
      device_digest own{};
      for (unsigned i = 0; i < block_tiles; ++i) {
        const auto at = static_cast<std::uint32_t>(first + i * digest_tile_bytes);
        if (at >= size) break;
        const std::uint32_t left = size - at;
        add_tile<threads>(
            *key, range.tensor, std::uint64_t{range.number} * range_tiles + at / digest_tile_bytes,
            data + at, left < digest_tile_bytes ? left : digest_tile_bytes, thread, own);
      }
      lane0[thread] = own.lane[0];
      lane1[thread] = own.lane[1];
    });
    add_digest(block, lane0, lane1, sum);
  }
};

}  // namespace lockstep::kernels::cuda
