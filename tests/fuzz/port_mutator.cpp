// Mends what a random change breaks of each peer's greeting: its magic and its checksum.
#include <xxhash.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "transport/greeting.hpp"

extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t max);

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size,
                                               std::size_t max, unsigned seed) {
  using lockstep::greeting_header_bytes;
  constexpr std::size_t checksum_bytes = 8;
  constexpr std::size_t peer_bytes = 3;
  size = LLVMFuzzerMutate(data, size, max);
  if (seed % 8 == 0) return size;
  for (std::size_t at = 1; at + peer_bytes <= size;) {
    const auto says = data[at + 1] + 256u * data[at + 2];
    at += peer_bytes;
    const auto words = std::min<std::size_t>(says, size - at);
    std::uint32_t length = 0;
    if (words >= sizeof length * 2) std::memcpy(&length, data + at + 4, sizeof length);
    if (length >= greeting_header_bytes + checksum_bytes && length <= words) {
      std::memcpy(data + at, "LKG\x01", 4);
      const std::uint64_t hash = XXH3_64bits(data + at, length - checksum_bytes);
      std::memcpy(data + at + length - checksum_bytes, &hash, sizeof hash);
    }
    at += words;
  }
  return size;
}
