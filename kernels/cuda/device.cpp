#include "kernels/cuda/device.hpp"

#include <algorithm>
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

std::uint64_t coded_memory_bytes(std::uint64_t ranges, std::uint64_t changes,
                                 std::uint32_t unit) noexcept {
  std::uint64_t used = 0;
  encode_memory raw{};
  cut_coded_memory(nullptr, ranges, raw, used);
  return used + changes * 2 * (4 + std::max<std::uint64_t>(unit, 2)) + ranges * 32;
}

device_model to_device(const class_model& model) noexcept {
  device_model result{};
  result.classes = model.classes;
  result.order = model.order;
  std::copy(model.thresholds.begin(), model.thresholds.end(), result.thresholds);
  return result;
}

std::uint64_t decode_memory_bytes(std::uint64_t frames, std::uint64_t changes) noexcept {
  std::uint64_t used = 0;
  cut_decode_memory(nullptr, frames, used);
  return used + changes * 12 + frames * 8;
}

}  // namespace lockstep::kernels::cuda
