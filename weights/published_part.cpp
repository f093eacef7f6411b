#include "weights/published_part.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <vector>

#include "weights/compressed.hpp"
#include "weights/part_stream.hpp"

namespace lockstep {

namespace {

constexpr std::size_t count_bytes = 4;     // of an overwrite's number of changes
constexpr std::size_t position_bytes = 4;  // of each change, beside its one byte of value

std::uint32_t little_endian32(std::span<const std::byte> bytes) {
  std::uint32_t value = 0;
  for (std::size_t i = 4; i-- > 0;) value = value << 8 | std::to_integer<std::uint32_t>(bytes[i]);
  return value;
}

// Puts the changes that `payload` lists into `bytes`. Returns why it cannot, or an empty string.
std::string overwrite(std::span<const std::byte> payload, std::span<std::byte> bytes) {
  if (payload.size() < count_bytes) return "has no count of changes";
  const std::uint64_t count = little_endian32(payload);
  if (payload.size() != count_bytes + count * (position_bytes + 1))
    return fmt::format("has {} bytes for {} changes", payload.size(), count);
  const auto positions = payload.subspan(count_bytes, count * position_bytes);
  const auto values = payload.subspan(count_bytes + count * position_bytes);
  std::uint64_t next = 0;  // smallest position that may follow
  for (std::size_t i = 0; i < count; ++i) {
    const std::uint64_t position = little_endian32(positions.subspan(i * position_bytes));
    if (position < next) return "has changes that are not in ascending order";
    if (position >= bytes.size()) return fmt::format("changes byte {}, past the end", position);
    bytes[position] = values[i];
    next = position + 1;
  }
  return {};
}

std::string decode_frames(std::uint32_t unit, std::span<const std::byte> frames,
                          std::span<const std::byte> old, std::span<std::byte> out) {
  part_stream stream(published_encoding::coded, frames, old.size(), unit, 0);
  for (std::size_t at = 0; at < old.size(); at += part_stream::window_bytes) {
    const auto size = std::min(part_stream::window_bytes, old.size() - at);
    auto problem = stream.next(old.subspan(at, size), out.subspan(at, size));
    if (!problem.empty()) return problem;
  }
  return stream.finish();
}

}  // namespace

std::string decode_part(published_encoding encoding, std::uint32_t unit,
                        std::span<const std::byte> compressed, std::span<const std::byte> old,
                        std::span<std::byte> out) {
  if (encoding == published_encoding::coded) return decode_frames(unit, compressed, old, out);
  if (encoding == published_encoding::xored) {
    auto problem = decompress_exactly(compressed, out);
    if (problem.empty())
      std::transform(old.begin(), old.end(), out.begin(), out.begin(), std::bit_xor<>());
    return problem;
  }
  std::copy(old.begin(), old.end(), out.begin());
  // Ascending positions: no more changes than bytes.
  const std::uint64_t payload_max = count_bytes + old.size() * (position_bytes + 1);
  std::vector<std::byte> payload;
  if (auto problem = decompress_up_to(compressed, payload_max, payload); !problem.empty())
    return problem;
  return overwrite(payload, out);
}

}  // namespace lockstep
