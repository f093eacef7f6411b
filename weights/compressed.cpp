#include "weights/compressed.hpp"

#include <fmt/format.h>
#include <zstd.h>

#include <algorithm>
#include <memory>
#include <new>
#include <stdexcept>

namespace lockstep {

namespace {

constexpr int publish_level = 1;

struct free_stream {
  void operator()(ZSTD_DStream* stream) const noexcept { ZSTD_freeDStream(stream); }
};

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
  // Refuses windows above 2^27 bytes by itself.
  const std::unique_ptr<ZSTD_DStream, free_stream> stream(ZSTD_createDStream());
  if (!stream) throw std::bad_alloc();
  ZSTD_inBuffer in{compressed.data(), compressed.size(), 0};
  std::vector<std::byte> step(ZSTD_DStreamOutSize());
  for (;;) {
    ZSTD_outBuffer piece{step.data(), step.size(), 0};
    const auto left = ZSTD_decompressStream(stream.get(), &piece, &in);
    if (ZSTD_isError(left))
      return fmt::format("cannot be decompressed: {}", ZSTD_getErrorName(left));
    if (piece.pos > bytes_max - out.size())
      return fmt::format("decompresses to more than {} bytes", bytes_max);
    out.insert(out.end(), step.begin(), step.begin() + static_cast<std::ptrdiff_t>(piece.pos));
    if (left == 0) return {};
    // The frame is whole, so a step that neither reads nor writes cannot be followed by one that
    // does.
    if (in.pos == in.size && piece.pos < piece.size) return "is not one whole zstd frame";
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
