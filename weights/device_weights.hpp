// Decides how an inference engine says where its weights lie in a device's memory.
#pragma once

#include <chrono>
#include <cstddef>
#include <memory>
#include <vector>

#include "kernels/cuda/cuda_device.hpp"

/// CUDA's own name of a stream, so that no header of CUDA is needed.
struct CUstream_st;

namespace lockstep {

using kernels::cuda::device_runtime;
using kernels::cuda::open_cuda_device;

/// Weights in a device's memory, to be written there.
struct device_weights {
  /// Of `open_cuda_device(ordinal)`. Null: there are none.
  std::shared_ptr<device_runtime> device;
  /// Where each tensor begins, in the layout's canonical order; null for one without bytes. They
  /// lie one element after the other, need no alignment (16 bytes are fastest), and must be there,
  /// written by nobody else, for as long as the receiver is.
  std::vector<std::byte*> tensors;
  /// The engine's stream, a `cudaStream_t` of this device, null for the default one: all that is
  /// written is written in its order, so that what the engine has enqueued there still reads the
  /// old weights. Before a receiver is there all that stands in it is waited for.
  CUstream_st* stream = nullptr;
  /// A device that has not done what it was given for so long is held to be lost: the receiver
  /// gives it no more work but the undo of a write that hangs, waits for nothing, and frees nothing
  /// that it has there.
  std::chrono::milliseconds patience{60'000};
};

}  // namespace lockstep
