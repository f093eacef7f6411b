// A CUDA device, by CUDA's runtime interface.
#include "kernels/cuda/cuda_device.hpp"

#include <cudaTypedefs.h>
#include <cuda_runtime_api.h>

#include <array>
#include <atomic>
#include <new>
#include <optional>
#include <string>

#include "kernels/cuda/cuda_status.hpp"
#include "kernels/cuda/device_runtime.hpp"

namespace lockstep::kernels::cuda {
namespace {

/// Those calls of the driver that make a device current and nothing else. `cudaSetDevice`, to go
/// back with, makes a context on the device that was current, hundreds of megabytes on one that the
/// process may have nothing to do with; a context that is pushed is popped, and no other touched.
struct context_calls {
  PFN_cuDevicePrimaryCtxRetain_v7000 retain = nullptr;
  PFN_cuDevicePrimaryCtxRelease_v11000 release = nullptr;
  PFN_cuCtxPushCurrent_v4000 push = nullptr;
  PFN_cuCtxPopCurrent_v4000 pop = nullptr;

  /// The driver is there already: nothing is linked.
  context_calls() {
    find(retain, "cuDevicePrimaryCtxRetain");
    find(release, "cuDevicePrimaryCtxRelease");
    find(push, "cuCtxPushCurrent");
    find(pop, "cuCtxPopCurrent");
  }

 private:
  template <class Call>
  static void find(Call& call, const char* name) {
    void* found = nullptr;
    auto status = cudaDriverEntryPointSymbolNotFound;
#if CUDART_VERSION >= 12050
    constexpr unsigned version = 11000;
    require(cudaGetDriverEntryPointByVersion(name, &found, version, cudaEnableDefault, &status),
            "the driver does not say what it can do");
#else
    require(cudaGetDriverEntryPoint(name, &found, cudaEnableDefault, &status),
            "the driver does not say what it can do");
#endif
    if (status != cudaDriverEntryPointSuccess || found == nullptr)
      throw device_error(std::string("the driver has no ") + name);
    call = reinterpret_cast<Call>(found);
  }
};

void require_driver(CUresult status, const char* what) {
  if (status != CUDA_SUCCESS)
    throw device_error(std::string(what) + ": the driver's error " + std::to_string(status));
}

/// Of free memory: what a bucket takes, so that the next one finds it.
constexpr std::uint64_t kept_bytes = 64 << 20;

/// A bucket or a good part of one.
constexpr std::uint64_t room_size = 4 << 20;

/// Rooms that nobody has at the moment, of all devices of the process.
class kept_rooms {
 public:
  /// Null: there is none.
  static std::byte* take() noexcept {
    for (auto& slot : slots())
      if (std::byte* const room = slot.exchange(nullptr)) return room;
    return nullptr;
  }
  /// @returns whether there was place for it.
  static bool keep(std::byte* room) noexcept {
    for (auto& slot : slots())
      if (std::byte* none = nullptr; slot.compare_exchange_strong(none, room)) return true;
    return false;
  }

 private:
  /// More than a process has receivers at a time.
  using all = std::array<std::atomic<std::byte*>, 64>;
  static all& slots() noexcept {
    static all of_process{};
    return of_process;
  }
};

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
    calls_.emplace();
    require_driver(calls_->retain(&context_, ordinal), "the device has no room for a context");
    try {
      const entered here(*this);
      kernels_ = cuda_kernels();
      if (kernels_ == nullptr)
        throw device_error("there is no code for CUDA device " + std::to_string(ordinal));
      make_pool();
    } catch (...) {
      end();
      throw;
    }
  }
  ~cuda_device() override { end(); }

  const device_kernels& kernels() const noexcept override { return *kernels_; }

  int enter() override {
    require_driver(calls_->push(context_), "the device did not become current");
    // Otherwise whatever another thread of the process captures would forbid our calls, and a
    // question such as `passed` would end its capture: engines capture graphs at any time.
    auto mode = cudaStreamCaptureModeThreadLocal;
    try {
      require(cudaThreadExchangeStreamCaptureMode(&mode), "the thread's captures are not its own");
    } catch (...) {
      pop();
      throw;
    }
    return mode;
  }
  void leave(int before) noexcept override {
    auto mode = static_cast<cudaStreamCaptureMode>(before);
    if (cudaThreadExchangeStreamCaptureMode(&mode) != cudaSuccess) cudaGetLastError();
    pop();
  }

  void* allocate(std::uint64_t bytes, stream on) override {
    void* memory = nullptr;
    const cudaError_t status = cudaMallocFromPoolAsync(&memory, bytes, pool_, on);
    if (status == cudaErrorMemoryAllocation) {
      cudaGetLastError();
      throw std::bad_alloc();
    }
    require(status, "memory was not allocated");
    return memory;
  }
  void release(void* memory, stream on) noexcept override {
    if (memory != nullptr) while_current([&] { return cudaFreeAsync(memory, on); });
  }
  void trim() noexcept override {
    while_current([&] { return cudaMemPoolTrimTo(pool_, kept_bytes); });
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

  std::byte* take_room() override {
    if (std::byte* const kept = kept_rooms::take()) return kept;
    void* memory = nullptr;
    const cudaError_t status = cudaHostAlloc(&memory, room_size, cudaHostAllocPortable);
    if (status == cudaErrorMemoryAllocation) {
      cudaGetLastError();
      throw std::bad_alloc();
    }
    require(status, "there is no memory for copies");
    return static_cast<std::byte*>(memory);
  }
  void give_room(std::byte* room) noexcept override {
    if (room != nullptr && !kept_rooms::keep(room))
      while_current([&] { return cudaFreeHost(room); });
  }
  std::uint64_t room_bytes() const noexcept override { return room_size; }

  void to_device(void* to, const std::byte* room, std::uint64_t bytes, stream on) override {
    if (bytes != 0)
      require(cudaMemcpyAsync(to, room, bytes, cudaMemcpyHostToDevice, on), "nothing was copied");
  }
  void to_host(std::byte* room, const void* from, std::uint64_t bytes, stream on) override {
    if (bytes != 0)
      require(cudaMemcpyAsync(room, from, bytes, cudaMemcpyDeviceToHost, on), "nothing was copied");
  }

  stream make_stream() override {
    cudaStream_t made = nullptr;
    require(cudaStreamCreateWithFlags(&made, cudaStreamNonBlocking), "there is no stream");
    return made;
  }
  void end_stream(stream which) noexcept override {
    if (which != nullptr) while_current([&] { return cudaStreamDestroy(which); });
  }
  stream_mark make_mark() override {
    cudaEvent_t made = nullptr;
    require(cudaEventCreateWithFlags(&made, cudaEventDisableTiming), "there is no event");
    return made;
  }
  void end_mark(stream_mark which) noexcept override {
    if (which != nullptr) while_current([&] { return cudaEventDestroy(which); });
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
  struct entered {
    explicit entered(cuda_device& device) : of(device), before(device.enter()) {}
    ~entered() { of.leave(before); }
    cuda_device& of;
    int before;
  };

  /// Not the device's default pool, which the engine may allocate from as well: memory that it has
  /// freed there in the order of its stream would make ours wait for that. Within the pool streams
  /// do not wait for each other either.
  void make_pool() {
    cudaMemPoolProps wish{};
    wish.allocType = cudaMemAllocationTypePinned;
    wish.location.type = cudaMemLocationTypeDevice;
    wish.location.id = ordinal_;
    require(cudaMemPoolCreate(&pool_, &wish), "the device gives no pool of memory");
    int no = 0;
    require(cudaMemPoolSetAttribute(pool_, cudaMemPoolReuseAllowInternalDependencies, &no),
            "the pool of memory is not as it must be");
    std::uint64_t kept = kept_bytes;
    require(cudaMemPoolSetAttribute(pool_, cudaMemPoolAttrReleaseThreshold, &kept),
            "the pool of memory is not as it must be");
  }

  void end() noexcept {
    if (pool_ != nullptr) while_current([&] { return cudaMemPoolDestroy(pool_); });
    calls_->release(ordinal_);
  }

  /// What frees may be called by any thread, whatever is current there. If it fails the device is
  /// beyond help, which the next call that can throw says.
  template <class Work>
  void while_current(Work work) noexcept {
    try {
      const entered here(*this);
      if (work() != cudaSuccess) cudaGetLastError();  // so that no later call finds it
    } catch (const device_error&) {
    }
  }

  void pop() noexcept {
    CUcontext own = nullptr;
    calls_->pop(&own);
  }

  int ordinal_;
  std::optional<context_calls> calls_;
  CUcontext context_ = nullptr;
  cudaMemPool_t pool_ = nullptr;
  const device_kernels* kernels_ = nullptr;
};

}  // namespace

std::shared_ptr<device_runtime> open_cuda_device(int ordinal) {
  return std::make_shared<cuda_device>(ordinal);
}

}  // namespace lockstep::kernels::cuda
