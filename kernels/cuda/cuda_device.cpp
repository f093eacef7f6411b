// A CUDA device, by CUDA's runtime interface.
#include "kernels/cuda/cuda_device.hpp"

#include <cuda_runtime_api.h>

#include <string>

#include "kernels/cuda/device_runtime.hpp"

namespace lockstep::kernels::cuda {
namespace {

void require(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // so that no later call finds it; what cannot be forgiven stays
  throw device_error(std::string(what) + ": " + cudaGetErrorString(status));
}

class cuda_device final : public device_runtime {
 public:
  explicit cuda_device(int ordinal) : ordinal_(ordinal) {
    int devices = 0;
    require(cudaGetDeviceCount(&devices), "there is no CUDA device");
    if (ordinal < 0 || ordinal >= devices)
      throw device_error("there is no CUDA device " + std::to_string(ordinal) + ", only " +
                         std::to_string(devices));
    int pools = 0;
    require(cudaDeviceGetAttribute(&pools, cudaDevAttrMemoryPoolsSupported, ordinal),
            "the device does not say what it can do");
    if (pools == 0) throw device_error("the device cannot allocate in the order of a stream");
    const int before = enter();
    kernels_ = cuda_kernels();
    leave(before);
    if (kernels_ == nullptr)
      throw device_error("there is no code for CUDA device " + std::to_string(ordinal));
  }

  const device_kernels& kernels() const noexcept override { return *kernels_; }

  int enter() override {
    int before = 0;
    require(cudaGetDevice(&before), "no device is current");
    if (before != ordinal_) require(cudaSetDevice(ordinal_), "the device did not become current");
    return before;
  }
  void leave(int before) noexcept override {
    if (before != ordinal_) cudaSetDevice(before);
  }

  void* allocate(std::uint64_t bytes, stream on) override {
    void* memory = nullptr;
    const cudaError_t status = cudaMallocAsync(&memory, bytes, on);
    if (status == cudaErrorMemoryAllocation) {
      cudaGetLastError();
      throw std::bad_alloc();
    }
    require(status, "memory was not allocated");
    return memory;
  }
  void release(void* memory, stream on) noexcept override {
    if (memory != nullptr) while_current([&] { cudaFreeAsync(memory, on); });
  }
  void require_here(const void* memory, std::uint64_t bytes) override {
    if (bytes == 0) return;
    // CUDA does not say where an allocation ends: both ends must be of this device.
    const auto* const first = static_cast<const std::byte*>(memory);
    for (const std::byte* at : {first, first + (bytes - 1)}) {
      cudaPointerAttributes found{};
      require(cudaPointerGetAttributes(&found, at), "memory is not the device's");
      const bool managed = found.type == cudaMemoryTypeManaged;
      if (!managed && (found.type != cudaMemoryTypeDevice || found.device != ordinal_))
        throw device_error("memory is not that of CUDA device " + std::to_string(ordinal_));
    }
  }

  // From memory that is not pinned the driver has copied to its own when the call is back.
  void to_device(void* to, const void* from, std::uint64_t bytes, stream on) override {
    if (bytes != 0)
      require(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, on), "nothing was copied");
  }
  void to_host(void* to, const void* from, std::uint64_t bytes, stream on) override {
    if (bytes != 0)
      require(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, on), "nothing was copied");
  }

  stream make_stream() override {
    cudaStream_t made = nullptr;
    require(cudaStreamCreateWithFlags(&made, cudaStreamNonBlocking), "there is no stream");
    return made;
  }
  void end_stream(stream which) noexcept override {
    if (which != nullptr) while_current([&] { cudaStreamDestroy(which); });
  }
  stream_mark make_mark() override {
    cudaEvent_t made = nullptr;
    require(cudaEventCreateWithFlags(&made, cudaEventDisableTiming), "there is no event");
    return made;
  }
  void end_mark(stream_mark which) noexcept override {
    if (which != nullptr) while_current([&] { cudaEventDestroy(which); });
  }
  void set_mark(stream_mark which, stream on) override {
    require(cudaEventRecord(which, on), "no event was recorded");
  }
  bool passed(stream_mark which) override {
    const cudaError_t status = cudaEventQuery(which);
    if (status == cudaErrorNotReady) {
      cudaGetLastError();
      return false;
    }
    require(status, "the device failed");
    return true;
  }

 private:
  /// What frees may be called by any thread, whatever is current there. If it fails the device is
  /// beyond help, which the next call that can throw says.
  template <class Work>
  void while_current(Work work) const noexcept {
    int before = ordinal_;
    cudaGetDevice(&before);
    if (before != ordinal_) cudaSetDevice(ordinal_);
    work();
    if (before != ordinal_) cudaSetDevice(before);
    cudaGetLastError();
  }

  int ordinal_;
  const device_kernels* kernels_ = nullptr;
};

}  // namespace

std::shared_ptr<device_runtime> open_cuda_device(int ordinal) {
  return std::make_shared<cuda_device>(ordinal);
}

}  // namespace lockstep::kernels::cuda
