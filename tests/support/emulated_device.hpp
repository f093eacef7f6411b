// Decides how tests get a device whose memory is the host's, and how it fails on purpose.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "kernels/cuda/device_runtime.hpp"

namespace lockstep::kernels::cuda {

/// The emulated grid with memory of its own: what is allocated holds garbage, and only that is
/// "here". Everything is done when the call that enqueues it is back, but nobody may count on that:
/// until a mark behind it has passed, what a stream uses is its own. Who frees it, or uses it on
/// another stream, ends the program.
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
  /// On this stream no mark can be set from now on; null: on every one it can.
  void deny_marks(stream on) { denied_ = on; }

  /// What is allocated and not released, without what is lent, and the most that ever was.
  std::uint64_t bytes_held() const { return held_; }
  std::uint64_t bytes_held_max() const { return held_max_; }
  /// What was released and not given back by `trim`, but for what streams have not come past.
  std::uint64_t bytes_kept() const { return kept_; }

  /// What was enqueued on a stream: kernels that write weights, and all else.
  struct work {
    std::uint64_t writes = 0;
    std::uint64_t others = 0;
  };
  work enqueued_on(stream on);

  const device_kernels& kernels() const noexcept override { return kernels_; }
  int enter() override;
  void leave(int before) noexcept override;
  void* allocate(std::uint64_t bytes, stream on) override;
  void release(void* memory, stream on) noexcept override;
  void trim() noexcept override;
  void require_here(const void* memory, std::uint64_t bytes) override;
  std::byte* take_room() override;
  void give_room(std::byte* room) noexcept override;
  /// Little: most copies take several of them.
  std::uint64_t room_bytes() const noexcept override { return 4096; }
  void to_device(void* to, const std::byte* room, std::uint64_t bytes, stream on) override;
  void to_host(std::byte* room, const void* from, std::uint64_t bytes, stream on) override;
  stream make_stream() override;
  void end_stream(stream which) noexcept override;
  stream_mark make_mark() override;
  void end_mark(stream_mark which) noexcept override;
  void set_mark(stream_mark which, stream on) override;
  bool passed(stream_mark which) override;

 private:
  /// A call of `device_kernels`, and what it uses of the device (emulated_device.cpp).
  template <auto Member>
  struct through;

  struct line {
    work counts;
    std::uint64_t last = 0;  ///< the number of what was enqueued last
    std::uint64_t done = 0;  ///< and of what a mark was passed behind
  };
  struct place {
    stream on = nullptr;
    std::uint64_t behind = 0;
  };
  struct block {
    std::uint64_t bytes;
    bool lent;
    std::map<stream, std::uint64_t> uses;  ///< the last one of each stream
    place written;
  };

  void require_entered() const;
  /// `here`: that of both which is the device's.
  void copy(void* to, const void* from, std::uint64_t bytes, const void* here, stream on);
  void require_room(const std::byte* room, std::uint64_t bytes);
  // With the mutex held.
  line& line_of(stream on);
  block* block_of(const void* memory);
  bool is_done(const place& of) const;
  void use(const void* memory, const place& by, bool writes);

  device_kernels kernels_;
  std::atomic<std::uint64_t> allocations_left_ = 0;
  std::atomic<std::uint64_t> copies_left_ = 0;
  std::atomic<std::uint64_t> applies_left_ = 0;
  std::atomic<std::uint64_t> held_ = 0;
  std::atomic<std::uint64_t> held_max_ = 0;
  std::atomic<std::uint64_t> kept_ = 0;
  std::atomic<bool> hangs_ = false;
  std::atomic<stream> denied_ = nullptr;
  std::mutex mutex_;
  std::map<const std::byte*, block> blocks_;  ///< by where each begins
  std::map<const std::byte*, std::unique_ptr<std::byte[]>> rooms_;
  std::map<stream, line> lines_;
  std::map<stream_mark, place> marks_;
  std::vector<std::pair<place, std::uint64_t>> freed_;  ///< behind what, and how many bytes
};

}  // namespace lockstep::kernels::cuda
