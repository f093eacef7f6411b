// Decides what becomes of a call that CUDA's runtime did not take. Private to kernels/cuda/.
#pragma once

#include <cuda_runtime_api.h>

#include <string>

#include "kernels/cuda/device_kernels.hpp"

namespace lockstep::kernels::cuda {

/// @throws device_error unless it is success.
inline void require(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // so that no later call finds it; what cannot be forgiven stays
  throw device_error(std::string(what) + ": " + cudaGetErrorString(status));
}

}  // namespace lockstep::kernels::cuda
