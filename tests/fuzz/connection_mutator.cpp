// Mends what a random change breaks of a conversation: magic and checksum of the greeting, and
// magic, length and checksum of each frame that follows it.
#include <xxhash.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "fuzz/connection.hpp"
#include "transport/bulk_frame.hpp"

extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t max);

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size,
                                               std::size_t max, unsigned seed) {
  using namespace lockstep;
  constexpr std::size_t checksum_bytes = 8;
  constexpr std::size_t length_at = 8;
  const auto seal = [](std::uint8_t* at, std::size_t bytes) {
    const std::uint64_t hash = XXH3_64bits(at, bytes - checksum_bytes);
    std::memcpy(at + bytes - checksum_bytes, &hash, checksum_bytes);
  };
  size = LLVMFuzzerMutate(data, size, max);
  auto at = fuzz::connection_head_bytes;
  if (seed % 8 == 0 || size < at + greeting_header_bytes + checksum_bytes) return size;
  std::uint32_t greeting = 0;
  std::memcpy(&greeting, data + at + 4, sizeof greeting);
  if (greeting < greeting_header_bytes + checksum_bytes || greeting > size - at) return size;
  std::memcpy(data + at, "LKG\x01", 4);
  seal(data + at, greeting);
  at += greeting;
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
