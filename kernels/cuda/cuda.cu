// The kernels of CUDA devices.
#include <cuda_runtime.h>

#include "kernels/cuda/cuda_status.hpp"
#include "kernels/cuda/launches.hpp"

namespace lockstep::kernels::cuda {
namespace {

struct cuda_grid {
  template <class Kernel>
  static void launch(const Kernel& kernel, std::uint64_t blocks, stream on) {
    // The device numbers blocks with 31 bits: 16 TiB of tiles.
    if (blocks > 0x7fffffff) throw std::invalid_argument("device_kernels: too many ranges at once");
    if (blocks == 0) return;
    // Not <<<>>>, whose status has to be asked for: the answer may be an error of an earlier call,
    // the engine's even, and who believes that nothing was enqueued frees what is being read.
    void* arguments[] = {const_cast<Kernel*>(&kernel)};
    require(cudaLaunchKernel(run_kernel<Kernel>, dim3(static_cast<unsigned>(blocks)),
                             dim3(Kernel::threads), arguments, 0, on),
            "a kernel was not launched");
  }
  static void fill(void* memory, int byte, std::uint64_t size, stream on) {
    if (size != 0) require(cudaMemsetAsync(memory, byte, size, on), "memory was not set");
  }
};

struct cuda_loader {
  template <class Kernel>
  static bool load() {
    cudaFuncAttributes attributes{};
    return cudaFuncGetAttributes(&attributes, run_kernel<Kernel>) == cudaSuccess;
  }
};

}  // namespace

const device_kernels* cuda_kernels() noexcept {
  static const device_kernels kernels = launches<cuda_grid>::table("cuda");
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    cudaGetLastError();  // so that no later call finds it
    return nullptr;
  }
  if (!all_kernels::load<cuda_loader>()) {
    cudaGetLastError();
    return nullptr;
  }
  return &kernels;
}

}  // namespace lockstep::kernels::cuda
