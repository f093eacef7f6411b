#include "weights/device_queue.hpp"

#include <algorithm>
#include <cstring>
#include <string>
#include <thread>

namespace lockstep {

using clock_type = std::chrono::steady_clock;

device_queue::device_queue(std::shared_ptr<device_runtime> device,
                           std::chrono::milliseconds patience)
    : device_(std::move(device)), patience_(patience) {
  const scope here(*this);
  stream_ = device_->make_stream();
  try {
    mark_ = device_->make_mark();
  } catch (...) {
    device_->end_stream(stream_);
    throw;
  }
}

device_queue::~device_queue() {
  if (room_used_ != 0 && !lost_) settle_own();
  if (lost_) return;
  device_->give_room(room_);
  device_->end_mark(mark_);
  device_->end_stream(stream_);
}

// A room that a copy may still write to is nobody else's.
void device_queue::settle_own() noexcept {
  try {
    const scope here(*this);
    settle(stream_);
  } catch (const std::exception&) {
    lost_ = true;
  }
}

std::span<std::byte> device_queue::next_room(std::uint64_t bytes_max) {
  if (room_ == nullptr) room_ = device_->take_room();
  if (room_used_ == device_->room_bytes()) wait();
  const std::span part(room_ + room_used_, std::min(bytes_max, device_->room_bytes() - room_used_));
  room_used_ += part.size();
  return part;
}

void device_queue::to_device(void* to, const void* from, std::uint64_t bytes) {
  for (std::uint64_t done = 0; done < bytes;) {
    const auto part = next_room(bytes - done);
    std::memcpy(part.data(), static_cast<const std::byte*>(from) + done, part.size());
    device_->to_device(static_cast<std::byte*>(to) + done, part.data(), part.size(), stream_);
    done += part.size();
  }
}

void device_queue::to_host(void* to, const void* from, std::uint64_t bytes) {
  for (std::uint64_t done = 0; done < bytes;) {
    const auto part = next_room(bytes - done);
    device_->to_host(part.data(), static_cast<const std::byte*>(from) + done, part.size(), stream_);
    wait();
    std::memcpy(static_cast<std::byte*>(to) + done, part.data(), part.size());
    done += part.size();
  }
}

device_queue::scope::scope(device_queue& of) : device_(*of.device_) {
  if (of.lost_) throw device_error("the device did not answer before");
  before_ = device_.enter();
}

void device_queue::wait_for(stream on) {
  // A stage takes some hundred microseconds, which is no time to sleep; a full queue takes longer.
  constexpr auto awake = std::chrono::milliseconds(2);
  constexpr auto nap = std::chrono::microseconds(100);
  if (lost_) throw device_error("the device did not answer before");
  device_->set_mark(mark_, on);
  const auto start = clock_type::now();
  while (!device_->passed(mark_)) {
    const auto waited = clock_type::now() - start;
    if (waited > patience_) {
      lost_ = true;
      throw device_error("the device has not done its work for " +
                         std::to_string(patience_.count()) + " ms");
    }
    if (waited < awake)
      std::this_thread::yield();
    else
      std::this_thread::sleep_for(nap);
  }
  if (on == stream_) room_used_ = 0;
}

void device_queue::settle(stream on) noexcept {
  if (lost_) return;
  try {
    wait_for(on);
  } catch (const std::exception&) {
    lost_ = true;
  }
}

}  // namespace lockstep
