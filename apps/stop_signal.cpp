#include "apps/stop_signal.hpp"

#include <pthread.h>
#include <signal.h>

#include <ctime>

namespace lockstep {

namespace {

sigset_t stop_signals() {
  sigset_t set;
  ::sigemptyset(&set);
  ::sigaddset(&set, SIGTERM);
  ::sigaddset(&set, SIGINT);
  return set;
}

}  // namespace

stop_signal::stop_signal() {
  const auto set = stop_signals();
  ::pthread_sigmask(SIG_BLOCK, &set, nullptr);
}

bool stop_signal::wait_for(std::chrono::milliseconds patience) {
  if (came_) return true;
  const auto set = stop_signals();
  const auto seconds = std::chrono::floor<std::chrono::seconds>(patience);
  const timespec limit{static_cast<std::time_t>(seconds.count()),
                       static_cast<long>((patience - seconds).count()) * 1'000'000};
  came_ = ::sigtimedwait(&set, nullptr, &limit) > 0;
  return came_;
}

}  // namespace lockstep
