// Decides what whoever works on a device needs of it beside its kernels: memory, copies, streams,
// and whether work is done.
#pragma once

#include <cstddef>
#include <cstdint>
#include <new>

#include "kernels/cuda/device_kernels.hpp"

/// CUDA's own name of an event, so that no header of CUDA is needed.
struct CUevent_st;

namespace lockstep::kernels::cuda {

/// A place in a stream, a `cudaEvent_t`.
using stream_mark = CUevent_st*;

/// One device: a CUDA device (kernels/cuda/cuda_device.hpp), or an emulated one. It holds no state
/// of those who use it, and may be used by any number of threads. Calls throw `device_error` where
/// the device does not take them; what a kernel did wrong comes out in a later call.
class device_runtime {
 public:
  device_runtime() = default;
  device_runtime(const device_runtime&) = delete;
  device_runtime& operator=(const device_runtime&) = delete;
  virtual ~device_runtime() = default;

  virtual const device_kernels& kernels() const noexcept = 0;

  /// Makes it the calling thread's current device, on which all other calls but those that free
  /// act, kernels too. Until `leave` no call is in the way of graphs that other threads capture.
  /// @returns what `leave` needs to make that current which was before.
  virtual int enter() = 0;
  virtual void leave(int before) noexcept = 0;

  /// Memory for what is enqueued on `on` from now on. Waits for no other stream, nor makes `on`
  /// wait for one.
  /// @throws std::bad_alloc if there is not so much.
  virtual void* allocate(std::uint64_t bytes, stream on) = 0;
  /// Free once `on` has come so far, for who allocates next; nothing for null.
  virtual void release(void* memory, stream on) noexcept = 0;
  /// Gives back to the device what is free, but for a little. Streams need not have come so far.
  virtual void trim() noexcept = 0;
  /// @throws device_error unless all of it is memory that kernels of this device may read and
  /// write.
  virtual void require_here(const void* memory, std::uint64_t bytes) = 0;

  /// Memory of the host that the device reads and writes by itself, `room_bytes()` of it, for
  /// copies: those of other memory may wait, for nobody knows how long, or go on when it is gone.
  /// May wait for all that runs on the device.
  /// @throws std::bad_alloc if there is none.
  virtual std::byte* take_room() = 0;
  /// No copy uses it any more; nothing for null. It is kept for who asks next: CUDA would free it
  /// after all that runs on the device.
  virtual void give_room(std::byte* room) noexcept = 0;
  virtual std::uint64_t room_bytes() const noexcept = 0;

  /// Enqueues a copy from a room; what is there must not change until it is done.
  virtual void to_device(void* to, const std::byte* room, std::uint64_t bytes, stream on) = 0;
  /// Enqueues a copy to a room.
  virtual void to_host(std::byte* room, const void* from, std::uint64_t bytes, stream on) = 0;

  /// A stream that waits for no other one, the default one included.
  virtual stream make_stream() = 0;
  virtual void end_stream(stream which) noexcept = 0;
  virtual stream_mark make_mark() = 0;
  virtual void end_mark(stream_mark which) noexcept = 0;
  /// Sets the mark behind all that is enqueued on the stream.
  virtual void set_mark(stream_mark which, stream on) = 0;
  /// Whether the stream has come past the mark. Does not wait.
  virtual bool passed(stream_mark which) = 0;
};

}  // namespace lockstep::kernels::cuda
