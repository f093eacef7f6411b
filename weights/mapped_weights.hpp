// Decides how weights lie in a file that is kept up to date where it lies.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "messages/layout.hpp"
#include "weights/weight_buffer.hpp"

namespace lockstep {

/// All tensors of one layout in a safetensors file, mapped so that what is written to memory is
/// written to the file. Movable. Not synchronised: any number of readers, or one writer.
class mapped_weights {
 public:
  /// Maps `file` if it is a safetensors file of exactly `shape`. Writes it first, whole or not at
  /// all, with the bytes of `initial`, where it is missing, or is torn and was made here for this
  /// layout: `<file>.layout`, which is written before, says so. Throws what names the file:
  /// `error{wrong_layout}` for a checkpoint of another layout, `error{bad_input}` for what is none
  /// and not known to be ours, `error{unwritable}`; what stands there is as it was then.
  mapped_weights(const std::filesystem::path& file, layout shape, const tensor_reader& initial);
  mapped_weights(mapped_weights&& other) noexcept;
  mapped_weights& operator=(mapped_weights&&) = delete;
  ~mapped_weights();

  const layout& shape() const noexcept { return shape_; }
  /// Whether the file was there, with whatever bytes an earlier process left.
  bool reused() const noexcept { return reused_; }
  /// Why what was there was replaced, as `<file>: <what>`; empty if nothing was.
  const std::string& replaced() const noexcept { return replaced_; }
  /// Whether what is mapped still stands under the name it was mapped by. Else who opens that name
  /// sees nothing of what is written here. True where it cannot be looked at.
  bool in_place() const noexcept;

  std::span<std::byte> tensor(std::size_t index) { return tensors_[index]; }
  std::span<const std::byte> tensor(std::size_t index) const { return tensors_[index]; }

 private:
  std::string map(const std::filesystem::path& file);

  layout shape_;
  std::filesystem::path file_;
  std::uint64_t device_ = 0, inode_ = 0;
  std::span<std::byte> bytes_;
  std::vector<std::span<std::byte>> tensors_;
  std::string replaced_;
  bool reused_ = false;
};

}  // namespace lockstep
