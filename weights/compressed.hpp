// Decides which zstd payloads are accepted: one whole frame, never more bytes than asked for.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "weights/byte_source.hpp"

namespace lockstep {

/// Decompresses the one frame that is `compressed` into exactly all of `out`. Returns why it
/// cannot, or an empty string. Writes inside `out` only and allocates nothing that the frame could
/// size.
std::string decompress_exactly(std::span<const std::byte> compressed, std::span<std::byte> out);

/// Decompresses the one frame that is `compressed` into `out`, replacing what it holds. Returns why
/// it cannot, or an empty string. Holds at no time more than `bytes_max`, four times what really
/// arrives, or 64 bytes for each of `compressed` and 4 KiB, whichever of the last two is greater.
std::string decompress_up_to(std::span<const std::byte> compressed, std::uint64_t bytes_max,
                             std::vector<std::byte>& out);

/// One frame with its content size, at the level that publishers use (1).
std::vector<std::byte> compress(std::span<const std::byte> bytes);

/// No header of a frame is longer.
inline constexpr std::size_t frame_header_bytes_max = 18;

/// How far the frame that begins with `front` looks back, in bytes; 0 where that is none.
std::uint64_t frame_window_bytes(std::span<const std::byte> front) noexcept;

/// No frame of `bytes` is longer than this.
std::uint64_t compressed_bytes_max(std::uint64_t bytes) noexcept;

/// Decompresses one frame piece by piece. Holds the frame's window, at most
/// 2^`window_log_max` bytes, and some hundred KiB. Not thread-safe.
class frame_reader {
 public:
  /// Throws `error{bad_input}`, as everything here does, if its source does.
  frame_reader(byte_source compressed, int window_log_max);
  frame_reader(frame_reader&&) noexcept;
  frame_reader& operator=(frame_reader&&) noexcept;
  ~frame_reader();

  /// Fills all of `out` with what comes next. Returns why it cannot, or an empty string.
  std::string read(std::span<std::byte> out);
  /// The same for `count` bytes that nobody wants.
  std::string skip(std::uint64_t count);
  /// To be called after the last byte: why the frame does not end there, with nothing behind it, or
  /// an empty string.
  std::string finish();

 private:
  std::string step(std::span<std::byte> out, std::size_t& filled);

  struct context;
  std::unique_ptr<context> context_;
};

/// Compresses to one frame as `compress` does, piece by piece. Not thread-safe.
class frame_writer {
 public:
  /// `size`: bytes that will come, all told.
  explicit frame_writer(std::uint64_t size);
  frame_writer(const frame_writer&) = delete;
  frame_writer& operator=(const frame_writer&) = delete;
  ~frame_writer();

  /// Appends to `out` what `bytes` compress to, as far as it is known yet; with `last`, all that is
  /// left.
  void write(std::span<const std::byte> bytes, bool last, std::vector<std::byte>& out);

 private:
  struct context;
  std::unique_ptr<context> context_;
};

}  // namespace lockstep
