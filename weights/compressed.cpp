#include "weights/compressed.hpp"

#include <fmt/format.h>
#include <zstd.h>
#include <zstd_errors.h>

#include <algorithm>
#include <array>
#include <new>
#include <stdexcept>
#include <utility>

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

std::uint64_t compressed_bytes_max(std::uint64_t bytes) noexcept {
  return ZSTD_compressBound(bytes);
}

namespace {

/// Follows the blocks of a frame that the library reads piece by piece. A block that is compressed,
/// and to no bytes, is refused where all of a frame is decompressed at once; in a stream the
/// library passes over it.
class block_watch {
 public:
  block_watch() = default;
  /// `front`: how the frame begins, as far as it is there.
  explicit block_watch(std::span<const std::byte> front) {
    constexpr std::array magic{std::byte{0x28}, std::byte{0xb5}, std::byte{0x2f}, std::byte{0xfd}};
    if (front.size() <= magic.size() || !std::equal(magic.begin(), magic.end(), front.begin()))
      return;
    const auto descriptor = std::to_integer<unsigned>(front[magic.size()]);
    const bool single = (descriptor >> 5 & 1) != 0;
    constexpr std::size_t dictionary_bytes[] = {0, 1, 2, 4};
    const std::size_t content_bytes[] = {single ? 1u : 0u, 2, 4, 8};
    skip_ = magic.size() + 1 + (single ? 0 : 1) + dictionary_bytes[descriptor & 3] +
            content_bytes[descriptor >> 6];
    last_ = false;
  }

  /// Returns false at such a block.
  bool pass(std::span<const std::byte> bytes) {
    while (!last_ && !bytes.empty()) {
      if (skip_ > 0) {
        const auto some = std::min(skip_, bytes.size());
        skip_ -= some;
        bytes = bytes.subspan(some);
        continue;
      }
      header_ |= std::to_integer<std::uint32_t>(bytes[0]) << 8 * held_;
      bytes = bytes.subspan(1);
      if (++held_ < 3) continue;
      enum : std::uint32_t { raw, repeated, compressed };
      const auto type = header_ >> 1 & 3;
      const std::size_t size = header_ >> 3;
      if (type == compressed && size == 0) return false;
      skip_ = type == repeated ? 1 : size;
      last_ = (header_ & 1) != 0;
      header_ = held_ = 0;
    }
    return true;
  }

 private:
  std::size_t skip_ = 0;  // to the next block's header
  std::uint32_t header_ = 0;
  std::uint32_t held_ = 0;  // bytes of it
  bool last_ = true;        // no block follows, or it is no frame of blocks
};

}  // namespace

// As RFC 8878 has it; zstd's own function for it is not part of what stays.
std::uint64_t frame_window_bytes(std::span<const std::byte> front) noexcept {
  const auto content = ZSTD_getFrameContentSize(front.data(), front.size());
  if (content == ZSTD_CONTENTSIZE_ERROR || front.size() < 6) return 0;
  const auto byte = [&](std::size_t at) { return std::to_integer<std::uint64_t>(front[at]); };
  const bool single_segment = (byte(4) & 0x20) != 0;
  if (single_segment) return content;
  const auto base = std::uint64_t{1} << (10 + (byte(5) >> 3));
  return base + base / 8 * (byte(5) & 7);
}

struct frame_reader::context {
  explicit context(byte_source source) : in(std::move(source)) {}
  ZSTD_DCtx* zstd = nullptr;
  byte_source in;
  unsigned long long announced = ZSTD_CONTENTSIZE_UNKNOWN;
  block_watch blocks;
  bool ended = false;
  std::uint64_t given = 0;  // bytes that came out
  ~context() { ZSTD_freeDCtx(zstd); }
};

frame_reader::frame_reader(byte_source compressed, int window_log_max)
    : context_(std::make_unique<context>(std::move(compressed))) {
  context_->zstd = ZSTD_createDCtx();
  if (!context_->zstd) throw std::bad_alloc();
  ZSTD_DCtx_setParameter(context_->zstd, ZSTD_d_windowLogMax, window_log_max);
  const auto front = context_->in.peek(frame_header_bytes_max);
  context_->announced = ZSTD_getFrameContentSize(front.data(), front.size());
  context_->blocks = block_watch(front);
}

frame_reader::frame_reader(frame_reader&&) noexcept = default;
frame_reader& frame_reader::operator=(frame_reader&&) noexcept = default;
frame_reader::~frame_reader() = default;

// One call to the library: some output, some input, or the frame's end.
std::string frame_reader::step(std::span<std::byte> out, std::size_t& filled) {
  ZSTD_outBuffer to{out.data(), out.size(), filled};
  const auto next = context_->in.peek(1);
  ZSTD_inBuffer from{next.data(), next.size(), 0};
  const auto left = ZSTD_decompressStream(context_->zstd, &to, &from);
  if (ZSTD_isError(left)) {
    if (ZSTD_getErrorCode(left) == ZSTD_error_prefix_unknown) return "is not one whole zstd frame";
    return fmt::format("cannot be decompressed: {}", ZSTD_getErrorName(left));
  }
  if (!context_->blocks.pass(next.first(from.pos)))
    return "cannot be decompressed: a compressed block without bytes";
  context_->ended = left == 0;
  context_->in.skip(from.pos);
  const bool stuck = to.pos == filled && from.pos == 0;
  filled = to.pos;
  if (stuck && !context_->ended) return "is not one whole zstd frame";
  return {};
}

std::string frame_reader::read(std::span<std::byte> out) {
  std::size_t filled = 0;
  while (filled < out.size()) {
    if (context_->ended) return "decompresses to fewer bytes than it must give";
    if (auto problem = step(out, filled); !problem.empty()) return problem;
  }
  context_->given += filled;
  return {};
}

std::string frame_reader::skip(std::uint64_t count) {
  std::vector<std::byte> unwanted(std::min<std::uint64_t>(count, 64 << 10));
  while (count > 0) {
    const auto piece = std::span(unwanted).first(std::min<std::uint64_t>(count, unwanted.size()));
    if (auto problem = read(piece); !problem.empty()) return problem;
    count -= piece.size();
  }
  return {};
}

std::string frame_reader::finish() {
  while (!context_->ended) {
    std::byte surplus[1];
    std::size_t filled = 0;
    if (auto problem = step(surplus, filled); !problem.empty()) return problem;
    if (filled > 0) return "decompresses to more bytes than it must give";
  }
  if (const auto rest = context_->in.left(); rest > 0)
    return fmt::format("has {} bytes after its zstd frame", rest);
  // The library looks at this only where all of a frame is decompressed at once.
  const auto announced = context_->announced;
  if (announced < ZSTD_CONTENTSIZE_ERROR && announced != context_->given)
    return fmt::format("announces {} bytes, and has {}", announced, context_->given);
  return {};
}

struct frame_writer::context {
  ZSTD_CCtx* zstd = ZSTD_createCCtx();
  ~context() { ZSTD_freeCCtx(zstd); }
};

frame_writer::frame_writer(std::uint64_t size) : context_(std::make_unique<context>()) {
  if (!context_->zstd) throw std::bad_alloc();
  ZSTD_CCtx_setParameter(context_->zstd, ZSTD_c_compressionLevel, publish_level);
  ZSTD_CCtx_setPledgedSrcSize(context_->zstd, size);
}

frame_writer::~frame_writer() = default;

void frame_writer::write(std::span<const std::byte> bytes, bool last, std::vector<std::byte>& out) {
  ZSTD_inBuffer in{bytes.data(), bytes.size(), 0};
  for (;;) {
    const auto start = out.size();
    out.resize(start + ZSTD_CStreamOutSize());
    ZSTD_outBuffer to{out.data() + start, out.size() - start, 0};
    const auto left =
        ZSTD_compressStream2(context_->zstd, &to, &in, last ? ZSTD_e_end : ZSTD_e_continue);
    out.resize(start + to.pos);
    if (ZSTD_isError(left)) throw std::runtime_error(ZSTD_getErrorName(left));
    if (last ? left == 0 : in.pos == in.size) return;
  }
}

}  // namespace lockstep
