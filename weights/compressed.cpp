#include "weights/compressed.hpp"

#include <fmt/format.h>
#include <zstd.h>
#include <zstd_errors.h>

#include <algorithm>
#include <stdexcept>

namespace lockstep {

namespace {

constexpr int publish_level = 1;

// How much room decompress_up_to tries first, and by what it grows.
constexpr std::uint64_t likely_ratio = 64;
constexpr std::uint64_t room_min = 4096;
constexpr std::uint64_t growth = 4;

std::string frame_error(std::span<const std::byte> compressed) {
  const auto frame = ZSTD_findFrameCompressedSize(compressed.data(), compressed.size());
  if (ZSTD_isError(frame)) return "is not one whole zstd frame";
  if (frame != compressed.size())
    return fmt::format("has {} bytes after its zstd frame", compressed.size() - frame);
  return {};
}

}  // namespace

std::string decompress_exactly(std::span<const std::byte> compressed, std::span<std::byte> out) {
  if (auto problem = frame_error(compressed); !problem.empty()) return problem;
  const auto announced = ZSTD_getFrameContentSize(compressed.data(), compressed.size());
  const bool known = announced != ZSTD_CONTENTSIZE_UNKNOWN && announced != ZSTD_CONTENTSIZE_ERROR;
  if (known && announced != out.size())
    return fmt::format("decompresses to {} bytes, but must give {}", announced, out.size());
  // In one call, so that the output is the window and none has to be allocated.
  const auto got = ZSTD_decompress(out.data(), out.size(), compressed.data(), compressed.size());
  if (ZSTD_isError(got))
    return fmt::format("cannot be decompressed to {} bytes: {}", out.size(),
                       ZSTD_getErrorName(got));
  if (got != out.size())
    return fmt::format("decompresses to {} bytes, but must give {}", got, out.size());
  return {};
}

std::string decompress_up_to(std::span<const std::byte> compressed, std::uint64_t bytes_max,
                             std::vector<std::byte>& out) {
  if (auto problem = frame_error(compressed); !problem.empty()) return problem;
  // What the frame announces, or nothing, may be a lie: it is believed as far as its length makes
  // it likely. Always in one call: a stream would allocate the window, which the frame may size.
  const std::uint64_t announced = ZSTD_getFrameContentSize(compressed.data(), compressed.size());
  const std::uint64_t likely = std::min(announced, likely_ratio * compressed.size()) + room_min;
  for (auto room = std::min(bytes_max, likely);;) {
    std::vector<std::byte>().swap(out);  // given back before more is asked for
    out.resize(room);
    const auto got = ZSTD_decompress(out.data(), room, compressed.data(), compressed.size());
    if (!ZSTD_isError(got)) {
      out.resize(got);
      return {};
    }
    if (ZSTD_getErrorCode(got) != ZSTD_error_dstSize_tooSmall)
      return fmt::format("cannot be decompressed: {}", ZSTD_getErrorName(got));
    if (room == bytes_max) return fmt::format("decompresses to more than {} bytes", bytes_max);
    room = room < bytes_max / growth ? growth * room : bytes_max;
  }
}

std::vector<std::byte> compress(std::span<const std::byte> bytes) {
  std::vector<std::byte> out(ZSTD_compressBound(bytes.size()));
  const auto size =
      ZSTD_compress(out.data(), out.size(), bytes.data(), bytes.size(), publish_level);
  if (ZSTD_isError(size)) throw std::runtime_error(ZSTD_getErrorName(size));
  out.resize(size);
  out.shrink_to_fit();
  return out;
}

}  // namespace lockstep
