#include "weights/sparse_frame.hpp"

// Frames from sequences of one's own are there since 1.5.0, though not in what is promised to stay.
#define ZSTD_STATIC_LINKING_ONLY
#include <zstd.h>

#include <algorithm>
#include <new>
#include <stdexcept>

#include "weights/byte_changes.hpp"
#include "weights/compressed.hpp"

namespace lockstep {

namespace {

using bytes_in = std::span<const std::byte>;

constexpr std::size_t block_bytes = 128 << 10;
// A shorter run of zeros costs more as a sequence than as literals.
constexpr std::size_t run_min = 9;

std::size_t checked(std::size_t result) {
  if (ZSTD_isError(result)) throw std::runtime_error(ZSTD_getErrorName(result));
  return result;
}

// Literals up to and with the first zero of each longer run, which the rest of it repeats at a
// distance of one. No other distance, so what a block is decoded with does not depend on those
// before it.
void add_sequences(bytes_in block, std::vector<ZSTD_Sequence>& out) {
  std::size_t written = 0;  // up to here
  std::size_t zeros = 0;    // the run begins here
  const auto end_run = [&](std::size_t end) {
    if (end - zeros < run_min) return;
    out.push_back(
        {1, static_cast<unsigned>(zeros + 1 - written), static_cast<unsigned>(end - zeros - 1), 0});
    written = end;
  };
  for_each_nonzero(block, [&](std::size_t at) {
    end_run(at);
    zeros = at + 1;
  });
  end_run(block.size());
  out.push_back({0, static_cast<unsigned>(block.size() - written), 0, 0});
}

}  // namespace

struct sparse_frame_writer::context {
  explicit context(std::uint64_t bytes) : size(bytes) {
    if (!zstd) throw std::bad_alloc();
    const auto set = [&](ZSTD_cParameter key, int value) {
      checked(ZSTD_CCtx_setParameter(zstd, key, value));
    };
    set(ZSTD_c_compressionLevel, 1);
    set(ZSTD_c_contentSizeFlag, 0);
    set(ZSTD_c_blockDelimiters, ZSTD_sf_explicitBlockDelimiters);
  }
  ~context() { ZSTD_freeCCtx(zstd); }

  /// Appends the blocks of `bytes`, of which none is the frame's last.
  void add_blocks(bytes_in bytes, std::vector<std::byte>& out) {
    sequences.clear();
    for (std::size_t at = 0; at < bytes.size(); at += block_bytes)
      add_sequences(bytes.subspan(at, std::min(block_bytes, bytes.size() - at)), sequences);
    frame.resize(ZSTD_compressBound(bytes.size()));
    const auto length =
        checked(ZSTD_compressSequences(zstd, frame.data(), frame.size(), sequences.data(),
                                       sequences.size(), bytes.data(), bytes.size()));
    constexpr std::size_t head_bytes = 3;
    auto at = checked(ZSTD_frameHeaderSize(frame.data(), length));
    for (bool last = false; !last && at + head_bytes <= length;) {
      auto* const head = frame.data() + at;
      const auto value = std::to_integer<std::size_t>(head[0]) |
                         std::to_integer<std::size_t>(head[1]) << 8 |
                         std::to_integer<std::size_t>(head[2]) << 16;
      last = (value & 1) != 0;
      head[0] &= std::byte{0xfe};
      const bool repeated = (value >> 1 & 3) == 1;  // one byte, and how often
      const auto next = at + head_bytes + (repeated ? 1 : value >> 3);
      if (next > length) throw std::logic_error("zstd wrote a block past its frame");
      out.insert(out.end(), frame.begin() + static_cast<std::ptrdiff_t>(at),
                 frame.begin() + static_cast<std::ptrdiff_t>(next));
      at = next;
    }
  }

  ZSTD_CCtx* zstd = ZSTD_createCCtx();
  std::uint64_t size;
  bool begun = false;
  std::vector<ZSTD_Sequence> sequences;
  std::vector<std::byte> frame;
};

bool sparse_frame_writer::pays(bytes_in front) {
  front = front.first(std::min(front.size(), block_bytes));
  std::vector<std::byte> ours;
  sparse_frame_writer(front.size()).write(front, true, ours);
  constexpr std::size_t head_bytes = 32;  // of either frame; says nothing about what follows
  return ours.size() <= compress(front).size() + head_bytes;
}

sparse_frame_writer::sparse_frame_writer(std::uint64_t size)
    : context_(std::make_unique<context>(size)) {}

sparse_frame_writer::~sparse_frame_writer() = default;

void sparse_frame_writer::write(bytes_in bytes, bool last, std::vector<std::byte>& out) {
  const auto put = [&](std::uint64_t value, int count) {
    for (int i = 0; i < count; ++i) out.push_back(static_cast<std::byte>(value >> (8 * i)));
  };
  if (!context_->begun) {
    context_->begun = true;
    put(ZSTD_MAGICNUMBER, 4);
    put(0xc0, 1);  // eight bytes of content size, no checksum, no dictionary
    put(0x50, 1);  // a window of 1 MiB, whatever the content
    put(context_->size, 8);
  }
  if (!bytes.empty()) context_->add_blocks(bytes, out);
  if (last) put(1, 3);  // an empty block, the last one
}

}  // namespace lockstep
