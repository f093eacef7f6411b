// Decides how weights lie in memory: one aligned allocation, shaped by a layout.
#pragma once

#include <concepts>
#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "messages/layout.hpp"

namespace lockstep {

/// Alignment in bytes of every tensor in a `weight_buffer`: a cache line, and the widest vector
/// register.
inline constexpr std::size_t weight_alignment = 64;

/// Read access to the bytes of tensor `index` in canonical order. What it returns stays valid for
/// as long as whatever it was made from.
using tensor_reader = std::function<std::span<const std::byte>(std::size_t index)>;

/// Anything that holds all tensors of one layout: a `weight_buffer`, a `checkpoint`.
template <class T>
concept tensor_source = requires(const T& source, std::size_t index) {
  { source.shape() } -> std::same_as<const layout&>;
  { source.tensor(index) } -> std::convertible_to<std::span<const std::byte>>;
};

/// A reader over `source`, which must outlive it.
template <tensor_source T>
tensor_reader reader_of(const T& source) {
  return [&source](std::size_t index) { return source.tensor(index); };
}

/// Weights in memory: one allocation, tensors in canonical order, each at a multiple of
/// `weight_alignment`. Movable; a copy must be asked for. New memory and the padding are zero.
///
/// Not synchronised: any number of readers, or one writer.
class weight_buffer {
 public:
  /// No tensors, no memory. Also what a moved-from buffer is.
  weight_buffer() = default;

  /// Allocates for `shape`. Throws `error{no_memory}` if the system says no.
  explicit weight_buffer(layout shape);

  weight_buffer(weight_buffer&& other) noexcept { swap(other); }
  weight_buffer& operator=(weight_buffer&& other) noexcept {
    weight_buffer(std::move(other)).swap(*this);
    return *this;
  }
  weight_buffer(const weight_buffer&) = delete;
  weight_buffer& operator=(const weight_buffer&) = delete;

  /// The explicit copy.
  weight_buffer clone() const;
  void swap(weight_buffer& other) noexcept;

  const layout& shape() const noexcept { return shape_; }

  /// Bytes of tensor `index` (`index < shape().count()`), aligned; empty for an empty tensor.
  std::span<std::byte> tensor(std::size_t index) {
    return {memory_.get() + offsets_[index], static_cast<std::size_t>(shape_.bytes(index))};
  }
  std::span<const std::byte> tensor(std::size_t index) const {
    return {memory_.get() + offsets_[index], static_cast<std::size_t>(shape_.bytes(index))};
  }

  /// Overwrites all tensors with those of `source`. Throws `error{wrong_layout}`, having written
  /// nothing, if `source_shape` is not `shape()` or a tensor has another length than it says.
  void copy_from(const layout& source_shape, const tensor_reader& source);

  template <tensor_source T>
  void copy_from(const T& source) {
    copy_from(source.shape(), reader_of(source));
  }

 private:
  struct release {
    void operator()(std::byte* memory) const noexcept;
  };

  layout shape_;
  std::vector<std::size_t> offsets_;
  std::size_t capacity_ = 0;
  std::unique_ptr<std::byte[], release> memory_;
};

}  // namespace lockstep
