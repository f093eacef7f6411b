// Stands in for cuda_device.cpp where CUDA is not built.
#include "kernels/cuda/cuda_device.hpp"
#include "kernels/cuda/device_runtime.hpp"

namespace lockstep::kernels::cuda {

std::shared_ptr<device_runtime> open_cuda_device(int) {
  throw device_error("this library was built without CUDA (LOCKSTEP_CUDA)");
}

}  // namespace lockstep::kernels::cuda
