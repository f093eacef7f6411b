// Decides how kernels see memory: borrowed byte ranges, and tensors as bytes with a unit of change.
#pragma once

#include <cstddef>
#include <cstdint>

namespace lockstep::kernels {

/// `size` readable bytes, borrowed for the duration of a call. Any alignment; `data` may be null
/// only if `size` is 0.
struct bytes_view {
  const std::byte* data = nullptr;
  std::size_t size = 0;
};

/// `size` writable bytes, borrowed for the duration of a call. Any alignment.
struct bytes_span {
  std::byte* data = nullptr;
  std::size_t size = 0;

  operator bytes_view() const noexcept { return {data, size}; }
};

/// One tensor, read only. `unit` is the width in bytes in which changes are found: 1, 2, 4 or 8
/// (the element's width; 1 for packed types). `bytes.size` is a multiple of `unit`.
struct tensor_view {
  bytes_view bytes;
  std::uint32_t unit = 1;
};

/// One tensor, writable; as `tensor_view`.
struct tensor_span {
  bytes_span bytes;
  std::uint32_t unit = 1;

  operator tensor_view() const noexcept { return {bytes, unit}; }
};

}  // namespace lockstep::kernels
