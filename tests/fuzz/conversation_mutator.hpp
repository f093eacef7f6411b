// Decides what is mended of a conversation that a random change broke: magic and checksum of the
// first words, and magic, length and checksum of each frame that follows them.
#pragma once

#include <xxhash.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "transport/bulk_frame.hpp"
#include "transport/greeting.hpp"

extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t max);

namespace lockstep::fuzz {

/// Changes the bytes, of which the first `head` say how; the words after them begin with `magic`,
/// of four bytes. One in eight stays as it was broken.
inline std::size_t mutate_conversation(std::uint8_t* data, std::size_t size, std::size_t max,
                                       unsigned seed, std::size_t head, const char* magic) {
  constexpr std::size_t checksum_bytes = 8;
  constexpr std::size_t length_at = 8;
  const auto seal = [](std::uint8_t* at, std::size_t bytes) {
    const std::uint64_t hash = XXH3_64bits(at, bytes - checksum_bytes);
    std::memcpy(at + bytes - checksum_bytes, &hash, checksum_bytes);
  };
  size = LLVMFuzzerMutate(data, size, max);
  auto at = head;
  if (seed % 8 == 0 || size < at + greeting_header_bytes + checksum_bytes) return size;
  std::uint32_t words = 0;
  std::memcpy(&words, data + at + 4, sizeof words);
  if (words < greeting_header_bytes + checksum_bytes || words > size - at) return size;
  std::memcpy(data + at, magic, 4);
  seal(data + at, words);
  at += words;
  while (size - at >= bulk_header_bytes) {
    const std::uint64_t left = size - at - bulk_header_bytes;
    std::uint64_t payload = 0;
    std::memcpy(&payload, data + at + length_at, sizeof payload);
    // One in eight promises more than there is.
    if (payload > left && seed % 8 != 1) payload = std::min(left, payload % 256);
    std::memcpy(data + at, "LKB\x01", 4);
    std::memcpy(data + at + length_at, &payload, sizeof payload);
    seal(data + at, bulk_header_bytes);
    if (payload > left) break;
    at += bulk_header_bytes + static_cast<std::size_t>(payload);
  }
  return size;
}

}  // namespace lockstep::fuzz
