#include <cuda_runtime_api.h>

#include <cstdio>

#include "tests/kernels/cuda/beds.hpp"

namespace lockstep::kernels::cuda {
namespace {

void require(cudaError_t status) {
  if (status != cudaSuccess) throw device_error(cudaGetErrorString(status));
}

}  // namespace

std::vector<bed> cuda_beds() {
  bed result;
  result.kernels = cuda_kernels();
  if (result.kernels == nullptr) {
    std::fputs("skipped on CUDA: no device that this build has code for\n", stderr);
    return {};
  }
  result.name = "CUDA";
  result.allocate = [](std::size_t size) {
    void* memory = nullptr;
    require(cudaMalloc(&memory, size));
    return memory;
  };
  result.release = [](void* memory) { cudaFree(memory); };
  result.to_device = [](void* to, const void* from, std::size_t size) {
    require(cudaMemcpy(to, from, size, cudaMemcpyHostToDevice));
  };
  result.to_host = [](void* to, const void* from, std::size_t size) {
    require(cudaDeviceSynchronize());
    require(cudaMemcpy(to, from, size, cudaMemcpyDeviceToHost));
  };
  result.prepare = [] {};
  return {result};
}

}  // namespace lockstep::kernels::cuda
