// Decides how bytes that are mostly zero, as the change of a tensor is, become a zstd frame.
// Private to weights/.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace lockstep {

/// Compresses to one frame as `frame_writer` does, piece by piece. Repeats runs of zeros and
/// nothing else, so there is nothing to search for: faster, and shorter where a few single elements
/// changed. Not thread-safe.
class sparse_frame_writer {
 public:
  /// Length of the longest piece.
  static constexpr std::size_t piece_bytes_max = std::size_t{1} << 20;

  /// Whether bytes that begin with `front` become shorter than by the library's own search.
  static bool pays(std::span<const std::byte> front);

  /// `size`: bytes that will come, all told.
  explicit sparse_frame_writer(std::uint64_t size);
  sparse_frame_writer(const sparse_frame_writer&) = delete;
  sparse_frame_writer& operator=(const sparse_frame_writer&) = delete;
  ~sparse_frame_writer();

  /// Appends to `out` what `bytes`, at most `piece_bytes_max`, compress to; with `last`, the end.
  void write(std::span<const std::byte> bytes, bool last, std::vector<std::byte>& out);

 private:
  struct context;
  std::unique_ptr<context> context_;
};

}  // namespace lockstep
