#include "weights/device_queue.hpp"

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
  if (lost_) return;
  device_->end_mark(mark_);
  device_->end_stream(stream_);
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
