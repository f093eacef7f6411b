#include "tests/support/emulated_device.hpp"

#include <cstdlib>
#include <cstring>

#include "kernels/cuda/emulated.hpp"

namespace lockstep::kernels::cuda {
namespace {

/// The device that is current; a thread has one or none.
thread_local emulated_device* current = nullptr;

/// Whether it is this call that is to fail.
bool strikes(std::atomic<std::uint64_t>& left) {
  std::uint64_t now = left;
  while (now != 0)
    if (left.compare_exchange_weak(now, now - 1)) return now == 1;
  return false;
}

}  // namespace

emulated_device::emulated_device() : kernels_(emulated_kernels()) {
  kernels_.apply = apply;
}

emulated_device::~emulated_device() {
  for (const auto& [memory, what] : blocks_)
    if (!what.lent) std::free(const_cast<std::byte*>(memory));
}

void emulated_device::lend(void* memory, std::uint64_t bytes) {
  const std::lock_guard<std::mutex> lock(mutex_);
  blocks_[static_cast<const std::byte*>(memory)] = {bytes, true};
}

int emulated_device::enter() {
  if (current != nullptr) throw device_error("another device is current");
  current = this;
  return 0;
}

void emulated_device::leave(int) noexcept {
  current = nullptr;
}

void emulated_device::require_entered() const {
  if (current != this) throw device_error("the device is not current");
}

void* emulated_device::allocate(std::uint64_t bytes, stream) {
  require_entered();
  // More than a device has. What the host cannot give either is an error to some sanitizers.
  constexpr std::uint64_t memory_max = std::uint64_t{64} << 30;
  if (bytes > memory_max || strikes(allocations_left_)) throw std::bad_alloc();
  void* const memory = std::malloc(static_cast<std::size_t>(bytes));
  if (memory == nullptr) throw std::bad_alloc();
  std::memset(memory, 0xa5, static_cast<std::size_t>(bytes));
  const std::lock_guard<std::mutex> lock(mutex_);
  try {
    blocks_[static_cast<const std::byte*>(memory)] = {bytes, false};
  } catch (...) {
    std::free(memory);
    throw;
  }
  held_ += bytes;
  if (held_ > held_max_) held_max_ = held_.load();
  return memory;
}

void emulated_device::release(void* memory, stream) noexcept {
  if (memory == nullptr) return;
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = blocks_.find(static_cast<const std::byte*>(memory));
  // Never allocated here, or released twice.
  if (found == blocks_.end() || found->second.lent) std::abort();
  held_ -= found->second.bytes;
  blocks_.erase(found);
  std::free(memory);
}

void emulated_device::require_here(const void* memory, std::uint64_t bytes) {
  require_entered();
  const auto* const first = static_cast<const std::byte*>(memory);
  const std::lock_guard<std::mutex> lock(mutex_);
  auto found = blocks_.upper_bound(first);
  if (found != blocks_.begin()) {
    --found;
    const auto offset = static_cast<std::uint64_t>(first - found->first);
    if (offset <= found->second.bytes && bytes <= found->second.bytes - offset) return;
  }
  if (bytes != 0) throw device_error("memory is not that of the emulated device");
}

void emulated_device::copy(void* to, const void* from, std::uint64_t bytes) {
  require_entered();
  if (strikes(copies_left_)) throw device_error("nothing was copied, on purpose");
  if (bytes != 0) std::memcpy(to, from, static_cast<std::size_t>(bytes));
}

void emulated_device::to_device(void* to, const void* from, std::uint64_t bytes, stream) {
  require_here(to, bytes);
  copy(to, from, bytes);
}

void emulated_device::to_host(void* to, const void* from, std::uint64_t bytes, stream) {
  require_here(from, bytes);
  copy(to, from, bytes);
}

void emulated_device::apply(const device_layout& layout, const std::byte* frames,
                            const checked_frame* checked, std::uint64_t count,
                            const stage_result* result, stream on) {
  if (current == nullptr) throw device_error("no device is current");
  if (strikes(current->applies_left_)) throw device_error("nothing was launched, on purpose");
  emulated_kernels().apply(layout, frames, checked, count, result, on);
}

}  // namespace lockstep::kernels::cuda
