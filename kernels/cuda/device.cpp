#include "kernels/cuda/device.hpp"

#include <stdexcept>

#include "kernels/cuda/device_kernels.hpp"
#include "kernels/cuda/launches.hpp"
#include "kernels/frame_layout.hpp"

namespace lockstep::kernels::cuda {

std::vector<device_range> list_ranges(std::vector<device_tensor>& tensors) {
  std::vector<device_range> ranges;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    device_tensor& tensor = tensors[i];
    if (tensor.bytes > framable_bytes_max ||
        !is_framable({{nullptr, static_cast<std::size_t>(tensor.bytes)}, tensor.unit}))
      throw std::invalid_argument(
          "list_ranges: the unit is not 1, 2, 4 or 8, or does not divide the size, or the tensor "
          "is too large");
    tensor.first_range = ranges.size();
    for (std::uint64_t at = 0; at < tensor.bytes; at += frame_span_bytes_max)
      ranges.push_back(
          {static_cast<std::uint32_t>(i), static_cast<std::uint32_t>(at / frame_span_bytes_max)});
  }
  return ranges;
}

std::uint64_t encode_memory_bytes(std::uint64_t ranges) noexcept {
  std::uint64_t used = 0;
  cut_encode_memory(nullptr, ranges, used);
  return used;
}

}  // namespace lockstep::kernels::cuda
