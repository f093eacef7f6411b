// Decides how a model's tensors are split by rows, for ranks and engines that hold some rows of
// each. Every piece is a tensor to all that follows.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "messages/layout.hpp"
#include "weights/shard.hpp"
#include "weights/weight_buffer.hpp"

namespace lockstep {

/// A model whose tensors are split along their first dimension, as torch.chunk and fully sharded
/// data parallelism do: in `parts` runs of rows, each of ceil(rows / parts), the last ones shorter
/// or missing. Piece 3 of 8 of tensor "w" is called "w@3/8". What has one piece only, or rows that
/// are not whole bytes, keeps its name, and counts as of part 0. Both sides of a fleet must split
/// alike: the layout is that of the pieces.
///
/// Thread-safe: all members are const after construction.
class row_split {
 public:
  static constexpr std::uint32_t parts_max = 4'096;

  /// One run of rows.
  struct piece {
    std::size_t tensor = 0;    ///< index in the whole layout
    std::uint64_t offset = 0;  ///< where it begins in that tensor, in bytes
    std::uint32_t part = 0;    ///< below `parts`
    bool alone = true;         ///< it is all of its tensor
  };

  /// `parts` 1: nothing is split. Throws `error{bad_input}` if `parts` is not 1 to `parts_max`, and
  /// `error{wrong_layout}` if a tensor has the name of another's piece, whether it is split as well
  /// or not.
  row_split(const layout& whole, std::uint32_t parts);

  /// Of the pieces, in canonical order.
  const layout& shape() const noexcept { return shape_; }
  std::uint32_t parts() const noexcept { return parts_; }
  /// What tensor `index` of `shape()` is.
  const piece& operator[](std::size_t index) const { return pieces_[index]; }

  /// The pieces of `rank`, where each of `ranks` has as many parts as the others: `parts()` must be
  /// a multiple of `ranks`, or `error{bad_input}` is thrown. Without a split, `even_shard`.
  shard_mask share(std::uint32_t rank, std::uint32_t ranks) const;

  /// Reads pieces out of whole tensors. Holds what it needs of this. What is empty there has empty
  /// pieces; where a tensor has another size it throws `error{wrong_layout}`, which names it.
  tensor_reader reader(tensor_reader whole) const;
  /// The memory of the pieces; `whole`: of the tensors, in their canonical order. Empty tensors and
  /// those of another size are dealt with as by `reader`. Throws the same if there are not as many
  /// as the whole layout has.
  std::vector<std::span<std::byte>> memory(std::span<const std::span<std::byte>> whole) const;

 private:
  template <class Byte>
  std::span<Byte> cut(std::size_t index, std::span<Byte> tensor) const;

  std::uint32_t parts_;
  layout whole_;
  layout shape_;
  std::vector<piece> pieces_;
};

}  // namespace lockstep
