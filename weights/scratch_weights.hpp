// Decides where what deltas make of a checkpoint's tensors is kept while the checkpoint stays as it
// is. Private to weights/.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "weights/checkpoint.hpp"
#include "weights/plain_file.hpp"

namespace lockstep {

/// The windows of a checkpoint's tensors that deltas have changed, in one file without a name,
/// which goes with this or with the process. Holds a byte of memory for each window. Thread-safe
/// where no window is used by two threads at once.
class scratch_weights {
 public:
  /// Makes nothing before the first window comes, and then in `dir`; empty: where the system has
  /// temporary files.
  scratch_weights(const layout& shape, std::filesystem::path dir);

  /// Fills `out` with the window of `tensor` that begins at byte `at`, a multiple of
  /// `tensor_window_bytes`, and is as long; false if it was never written. Throws `error`.
  bool read(std::size_t tensor, std::uint64_t at, std::span<std::byte> out) const;
  /// Throws `error{unwritable}`.
  void write(std::size_t tensor, std::uint64_t at, std::span<const std::byte> bytes);

 private:
  void open();
  std::size_t window(std::size_t tensor, std::uint64_t at) const;

  std::filesystem::path dir_;
  std::vector<std::size_t> first_;  // of each tensor: its first window
  std::vector<std::uint8_t>
      written_;  // whether, of each window; bytes, which threads may share out
  std::once_flag opened_;
  std::optional<plain_file> file_;
};

}  // namespace lockstep
