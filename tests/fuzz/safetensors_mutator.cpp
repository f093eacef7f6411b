// Lets the announced length of a safetensors header follow changes of its text.
#include <algorithm>
#include <cstddef>
#include <cstdint>

extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t max);

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size,
                                               std::size_t max, unsigned seed) {
  size = LLVMFuzzerMutate(data, size, max);
  if (size < 8 || seed % 8 == 0) return size;  // wrong lengths are worth trying too
  const auto* last =
      std::find(std::make_reverse_iterator(data + size), std::make_reverse_iterator(data + 8), '}')
          .base();
  auto length = static_cast<std::uint64_t>(last - (data + 8));
  for (int i = 0; i < 8; ++i, length >>= 8) data[i] = static_cast<std::uint8_t>(length);
  return size;
}
