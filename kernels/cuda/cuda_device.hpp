// Decides how an embedding program names a CUDA device. Nothing of CUDA's is needed to include it.
#pragma once

#include <memory>

namespace lockstep::kernels::cuda {

class device_runtime;

/// The CUDA device of this ordinal, as `cudaSetDevice` counts them in this process. May be shared.
/// @throws device_error (a std::runtime_error) if this library was built without CUDA, and if there
/// is no such device, or none that it has code for.
std::shared_ptr<device_runtime> open_cuda_device(int ordinal);

}  // namespace lockstep::kernels::cuda
