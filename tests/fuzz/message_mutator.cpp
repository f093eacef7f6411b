// Mends what a random change breaks of messages: magic, kind, length and checksum.
#include <xxhash.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <variant>

#include "messages/wire.hpp"

extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t max);

namespace {

constexpr std::uint8_t magic[] = {0x4c, 0x4b, 0x4d, 0x02};

void put(std::uint8_t* at, std::uint64_t value, std::size_t bytes) {
  for (std::size_t i = 0; i < bytes; ++i, value >>= 8) at[i] = static_cast<std::uint8_t>(value);
}

std::uint64_t get(const std::uint8_t* at, std::size_t bytes) {
  std::uint64_t value = 0;
  for (std::size_t i = bytes; i-- > 0;) value = value << 8 | at[i];
  return value;
}

}  // namespace

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size,
                                               std::size_t max, unsigned seed) {
  using namespace lockstep;
  constexpr auto around = wire_header_bytes + wire_checksum_bytes;
  size = LLVMFuzzerMutate(data, size, max);
  if (seed % 8 == 0) return size;  // what is damaged on its way is worth trying too
  auto* at = data;
  for (auto left = size; left >= around;) {
    std::memcpy(at, magic, sizeof magic);
    put(at + 4, get(at + 4, 4) % std::variant_size_v<wire_message>, 4);
    const auto body = std::min<std::uint64_t>(get(at + 8, 8), left - around);
    put(at + 8, body, 8);
    const auto covered = wire_header_bytes + static_cast<std::size_t>(body);
    const auto hash = XXH3_128bits(at, covered);
    put(at + covered, hash.high64, 8);
    put(at + covered + 8, hash.low64, 8);
    at += covered + wire_checksum_bytes;
    left -= covered + wire_checksum_bytes;
  }
  return size;
}
