// Decides how tests get a device whose memory is the host's, and how it fails on purpose.
#pragma once

#include <atomic>
#include <map>
#include <mutex>

#include "kernels/cuda/device_runtime.hpp"

namespace lockstep::kernels::cuda {

/// The emulated grid with memory of its own: what is allocated holds garbage, and only that is
/// "here". Everything is done when the call that enqueues it is back.
class emulated_device final : public device_runtime {
 public:
  emulated_device();
  /// Frees what was not released.
  ~emulated_device() override;

  /// Takes memory of the caller's to be this device's. It must outlive this.
  void lend(void* memory, std::uint64_t bytes);

  // --- failures. Each counts from 1, the next such call; 0: never. They strike once.
  void fail_allocation(std::uint64_t number) { allocations_left_ = number; }
  void fail_copy(std::uint64_t number) { copies_left_ = number; }
  /// A launch of `device_kernels::apply`.
  void fail_apply(std::uint64_t number) { applies_left_ = number; }
  /// No mark is passed from now on.
  void hang(bool on) { hangs_ = on; }

  /// What is allocated and not released, without what is lent, and the most that ever was.
  std::uint64_t bytes_held() const { return held_; }
  std::uint64_t bytes_held_max() const { return held_max_; }

  const device_kernels& kernels() const noexcept override { return kernels_; }
  int enter() override;
  void leave(int before) noexcept override;
  void* allocate(std::uint64_t bytes, stream on) override;
  void release(void* memory, stream on) noexcept override;
  void require_here(const void* memory, std::uint64_t bytes) override;
  void to_device(void* to, const void* from, std::uint64_t bytes, stream on) override;
  void to_host(void* to, const void* from, std::uint64_t bytes, stream on) override;
  stream make_stream() override { return require_entered(), nullptr; }
  void end_stream(stream) noexcept override {}
  stream_mark make_mark() override { return require_entered(), nullptr; }
  void end_mark(stream_mark) noexcept override {}
  void set_mark(stream_mark, stream) override { require_entered(); }
  bool passed(stream_mark) override { return require_entered(), !hangs_; }

 private:
  void require_entered() const;
  void copy(void* to, const void* from, std::uint64_t bytes);
  static void apply(const device_layout& layout, const std::byte* frames,
                    const checked_frame* checked, std::uint64_t count, const stage_result* result,
                    stream on);

  device_kernels kernels_;
  std::atomic<std::uint64_t> allocations_left_ = 0;
  std::atomic<std::uint64_t> copies_left_ = 0;
  std::atomic<std::uint64_t> applies_left_ = 0;
  std::atomic<std::uint64_t> held_ = 0;
  std::atomic<std::uint64_t> held_max_ = 0;
  std::atomic<bool> hangs_ = false;
  std::mutex mutex_;
  struct block {
    std::uint64_t bytes;
    bool lent;
  };
  std::map<const std::byte*, block> blocks_;  ///< by where each begins
};

}  // namespace lockstep::kernels::cuda
