#include "kernels/cuda/emulated.hpp"

#include "kernels/cuda/launches.hpp"

namespace lockstep::kernels::cuda {
namespace {

emulated_order& current_order() noexcept {
  static emulated_order order(thread_order::forward);
  return order;
}

struct emulated_grid {
  template <class Kernel>
  static void launch(const Kernel& kernel, std::uint64_t blocks, stream) {
    emulate(kernel, blocks, current_order());
  }
  static void fill(void* memory, int byte, std::uint64_t size, stream) {
    if (size != 0) std::memset(memory, byte, static_cast<std::size_t>(size));
  }
};

}  // namespace

const device_kernels& emulated_kernels() noexcept {
  static const device_kernels kernels = launches<emulated_grid>::table("emulated");
  return kernels;
}

void set_emulated_order(thread_order order, std::uint64_t seed) noexcept {
  current_order() = emulated_order(order, seed);
}

}  // namespace lockstep::kernels::cuda
