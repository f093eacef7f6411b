// Decides how work on a device is enqueued and waited for, and who frees its memory. Private to
// weights/.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "kernels/cuda/device_runtime.hpp"

namespace lockstep {

using kernels::cuda::device_error;
using kernels::cuda::device_runtime;

/// One user's stream of a device. Every wait has a deadline: a device that has missed it once, or
/// that does not say whether it is done, is lost, takes no more work, and keeps what it was lent,
/// since it may still read and write there. One thread at a time.
class device_queue {
 public:
  using stream = kernels::cuda::stream;

  /// Throws `device_error` if the device gives no stream.
  device_queue(std::shared_ptr<device_runtime> device, std::chrono::milliseconds patience);
  ~device_queue();
  device_queue(const device_queue&) = delete;
  device_queue& operator=(const device_queue&) = delete;

  /// The device is the thread's current one for as long as this lives.
  class scope {
   public:
    /// Throws `device_error` if the device is lost.
    explicit scope(device_queue& of);
    ~scope() { device_.leave(before_); }
    scope(const scope&) = delete;
    scope& operator=(const scope&) = delete;

   private:
    device_runtime& device_;
    int before_;
  };

  // --- all that follows in a scope.
  const kernels::cuda::device_kernels& run() const noexcept { return device_->kernels(); }
  stream on() const noexcept { return stream_; }
  device_runtime& device() noexcept { return *device_; }
  /// Waits until all that is enqueued on `on` is done. Throws `device_error` if something of it
  /// failed, or patience ended.
  void wait_for(stream on);
  void wait() { wait_for(stream_); }
  /// Enqueues by `work` on the stream of somebody else, and waits until all there is done. Whatever
  /// is thrown, nothing there uses any more what it was given, or the device is lost: what is freed
  /// here is freed in the order of the own stream, which knows nothing of the other one.
  template <class Work>
  void run_on(stream on, Work work) {
    try {
      work();
      wait_for(on);
    } catch (...) {
      settle(on);
      throw;
    }
  }
  bool lost() const noexcept { return lost_; }

  /// Copies to the device, in the order of the stream; `from` is the caller's when the call is
  /// back. Waits where that is longer than the room for copies. Throws `std::bad_alloc` if there is
  /// none.
  void to_device(void* to, const void* from, std::uint64_t bytes);
  /// Waits for all that is enqueued, and copies from the device. `to` is written after the last
  /// wait for each part of it, and never when the call is back, whatever is thrown.
  void to_host(void* to, const void* from, std::uint64_t bytes);

  void* allocate(std::uint64_t bytes) { return device_->allocate(bytes, stream_); }
  /// In a scope or not.
  void release(void* memory) noexcept {
    if (!lost_) device_->release(memory, stream_);
  }

 private:
  /// Waits once more, or loses the device.
  void settle(stream on) noexcept;
  void settle_own() noexcept;
  /// A part of the room, of at most so many bytes, that no copy uses. Waits where there is none.
  std::span<std::byte> next_room(std::uint64_t bytes_max);

  std::shared_ptr<device_runtime> device_;
  std::chrono::milliseconds patience_;
  stream stream_ = nullptr;
  kernels::cuda::stream_mark mark_ = nullptr;
  bool lost_ = false;
  std::byte* room_ = nullptr;    ///< from the first copy on
  std::uint64_t room_used_ = 0;  ///< of it, by copies that were not waited for
};

/// An array in a device's memory; the queue must outlive it.
template <class T>
class device_block {
 public:
  device_block() = default;
  /// Throws `std::bad_alloc`.
  device_block(device_queue& queue, std::uint64_t count)
      : queue_(&queue),
        data_(count == 0 ? nullptr : static_cast<T*>(queue.allocate(count * sizeof(T)))),
        count_(count) {}
  device_block(device_queue& queue, std::span<const T> values)
      : device_block(queue, values.size()) {
    set(values);
  }
  device_block(device_block&& other) noexcept { swap(other); }
  device_block& operator=(device_block&& other) noexcept {
    device_block(std::move(other)).swap(*this);
    return *this;
  }
  ~device_block() {
    if (data_ != nullptr) queue_->release(data_);
  }

  /// An address of the device: to pass on, not to read from.
  T* data() const noexcept { return data_; }
  std::uint64_t size() const noexcept { return count_; }
  std::uint64_t bytes() const noexcept { return count_ * sizeof(T); }

  /// Copies the first values there, see `device_queue::to_device`.
  void set(std::span<const T> values) {
    queue_->to_device(data_, values.data(), values.size_bytes());
  }
  void set_one(const T& value) { set(std::span(&value, 1)); }
  /// Waits, and copies the first values.
  void get(std::span<T> out) const { queue_->to_host(out.data(), data_, out.size_bytes()); }
  T one() const {
    T out;
    get(std::span(&out, 1));
    return out;
  }
  /// At least so many from now on; what they were is lost if they are more than there were.
  void need(device_queue& queue, std::uint64_t count) {
    if (count <= count_) return;
    *this = device_block();  // not both at a time
    *this = device_block(queue, count);
  }

 private:
  void swap(device_block& other) noexcept {
    std::swap(queue_, other.queue_);
    std::swap(data_, other.data_);
    std::swap(count_, other.count_);
  }

  device_queue* queue_ = nullptr;
  T* data_ = nullptr;
  std::uint64_t count_ = 0;
};

}  // namespace lockstep
