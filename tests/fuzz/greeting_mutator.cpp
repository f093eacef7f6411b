// Mends what a random change breaks of greetings and bulk headers: magic, length and checksum.
#include <xxhash.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "transport/bulk_frame.hpp"
#include "transport/greeting.hpp"

extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t max);

namespace {

void put(std::uint8_t* at, std::uint64_t value, std::size_t bytes) {
  for (std::size_t i = 0; i < bytes; ++i, value >>= 8) at[i] = static_cast<std::uint8_t>(value);
}

}  // namespace

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size,
                                               std::size_t max, unsigned seed) {
  using namespace lockstep;
  constexpr std::size_t checksum_bytes = 8;
  const bool is_answer = size > 2 && data[2] == 'A';
  const bool is_bulk = size > 2 && data[2] == 'B';
  size = LLVMFuzzerMutate(data, size, max);
  if (seed % 8 == 0 || size < greeting_header_bytes + checksum_bytes) return size;
  const char* magic = is_bulk ? "LKB\x01" : is_answer ? "LKA\x01" : "LKG\x01";
  std::memcpy(data, magic, 4);
  if (is_bulk && size >= bulk_header_bytes) {
    put(data + bulk_header_bytes - checksum_bytes,
        XXH3_64bits(data, bulk_header_bytes - checksum_bytes), checksum_bytes);
    return size;
  }
  put(data + 4, size, 4);
  put(data + size - checksum_bytes, XXH3_64bits(data, size - checksum_bytes), checksum_bytes);
  return size;
}
