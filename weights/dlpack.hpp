// Decides how a tensor that another library describes in DLPack's form is lent to a receiver.
#pragma once

#include <cstddef>
#include <cstdint>

#include "messages/layout.hpp"

namespace lockstep {

/// Where the bytes of a tensor are; borrowed.
struct lent_tensor {
  std::byte* data = nullptr;  ///< of the host, or of a device
  std::uint64_t bytes = 0;
  bool on_device = false;  ///< on a CUDA device; pinned memory of the host is not
  int ordinal = 0;         ///< of that device
};

/// What is read of a DLTensor, in the order in which it has it.
struct dlpack_fields {
  void* data = nullptr;
  std::int32_t device_type = 0;
  std::int32_t device_id = 0;
  std::int32_t ndim = 0;
  std::uint8_t code = 0;
  std::uint8_t bits = 0;
  std::uint16_t lanes = 1;
  const std::int64_t* shape = nullptr;
  const std::int64_t* strides = nullptr;
  std::uint64_t byte_offset = 0;
};

/// Throws `error{wrong_layout}`, naming the tensor, unless this is a tensor of just that type and
/// shape, whose elements lie one after the other in memory of the host or of a CUDA device.
/// Elements of 8 bits that are floats may be called integers, for want of a name.
lent_tensor lent_by(const dlpack_fields& tensor, const tensor_spec& wanted);

/// The same for a `DLTensor`, `DLManagedTensor` or `DLManagedTensorVersioned` of whichever version
/// of dlpack.h, which this does not include.
template <class Tensor>
lent_tensor lent_by(const Tensor& tensor, const tensor_spec& wanted) {
  if constexpr (requires { tensor.dl_tensor; }) {
    return lent_by(tensor.dl_tensor, wanted);
  } else {
    return lent_by(
        dlpack_fields{tensor.data, static_cast<std::int32_t>(tensor.device.device_type),
                      static_cast<std::int32_t>(tensor.device.device_id),
                      static_cast<std::int32_t>(tensor.ndim), tensor.dtype.code, tensor.dtype.bits,
                      tensor.dtype.lanes, tensor.shape, tensor.strides, tensor.byte_offset},
        wanted);
  }
}

}  // namespace lockstep
