// Decides how tests get kernels that run here, thread by thread, on memory of the host.
#pragma once

#include "kernels/cuda/device_kernels.hpp"
#include "kernels/cuda/grid.hpp"

namespace lockstep::kernels::cuda {

/// The kernels of the emulated grid: slow, and at once. For one thread at a time.
const device_kernels& emulated_kernels() noexcept;

/// The order in which later calls run threads and blocks.
void set_emulated_order(thread_order order, std::uint64_t seed) noexcept;

}  // namespace lockstep::kernels::cuda
