// Decides how one changed tensor of a published delta is decoded window by window.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "weights/byte_source.hpp"
#include "weights/published.hpp"

namespace lockstep {

/// Turns a tensor's old bytes into its new ones, one window after the other from the front, so that
/// memory does not grow with the tensor. Checks no checksum. Throws what its source throws.
/// Movable; not thread-safe.
class part_stream {
 public:
  /// Length of every window but the last, which ends with the tensor.
  static constexpr std::size_t window_bytes = std::size_t{1} << 20;

  /// `compressed`: the part; where it is in memory, that must outlive this. `unit`: width of the
  /// tensor's elements (only coded parts have a use for it). `window_log_max`: see frame_reader.
  part_stream(published_encoding encoding, byte_source compressed, std::uint64_t tensor_bytes,
              std::uint32_t unit, int window_log_max);
  part_stream(part_stream&&) noexcept;
  part_stream& operator=(part_stream&&) noexcept;
  ~part_stream();

  /// `out`, as long as `old`, becomes the new bytes of the window whose base is `old`; they may be
  /// the same memory. Returns why it cannot, or an empty string; nothing may follow that.
  std::string next(std::span<const std::byte> old, std::span<std::byte> out);
  /// After the last window: what is wrong with the part's end, or an empty string.
  std::string finish();

  /// What decodes one encoding. Private to part_stream.cpp.
  struct decoder;

 private:
  std::unique_ptr<decoder> decoder_;
};

}  // namespace lockstep
