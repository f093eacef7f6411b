// Mends what a random change breaks of frames: magic, length and checksum. Other fields stay wrong.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/frame_layout.hpp"

extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t max);

namespace {

using namespace lockstep::kernels;

std::uint32_t get(const std::byte* at) {
  std::uint32_t value = 0;
  std::memcpy(&value, at, sizeof value);
  return value;
}

void put(std::byte* at, std::uint32_t value) {
  std::memcpy(at, &value, sizeof value);
}

}  // namespace

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size,
                                               std::size_t max, unsigned seed) {
  size = LLVMFuzzerMutate(data, size, max);
  if (seed % 8 == 0) return size;  // what is damaged on its way is worth trying too
  auto* at = reinterpret_cast<std::byte*>(data);
  for (std::size_t left = size; left >= frame_header_bytes;) {
    const auto payload =
        std::min<std::size_t>(get(at + field::payload_bytes), left - frame_header_bytes);
    *at = std::byte{frame_magic};
    put(at + field::payload_bytes, static_cast<std::uint32_t>(payload));
    const auto whole = frame_header_bytes + payload;
    put(at + field::checksum, frame_checksum({at, whole}));
    at += whole;
    left -= whole;
  }
  return size;
}
