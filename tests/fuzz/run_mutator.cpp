// Mends what a random change breaks of a file of run numbers: the hash at its end.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "kernels/hash.hpp"
#include "messages/ids.hpp"

extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t max);

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size,
                                               std::size_t max, unsigned seed) {
  using namespace lockstep;
  size = LLVMFuzzerMutate(data, size, max);
  if (seed % 8 == 0) return size;  // what is damaged on the disk is worth trying too
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto length = text.rfind(' ') + 1;  // 0 without one: all is the hash
  const auto hash = kernels::hash_bytes({reinterpret_cast<const std::byte*>(data), length});
  const auto end = to_string(hash128{hash.hi, hash.lo}) + '\n';
  if (length + end.size() > max) return size;
  std::copy(end.begin(), end.end(), data + length);
  return length + end.size();
}
