#include "apps/stop_signal.hpp"

#include <pthread.h>
#include <signal.h>

#include <algorithm>
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
  const auto set = stop_signals();
  const auto until = std::chrono::steady_clock::now() + patience;
  // In slices: the signal may be taken by another thread that waits for it too.
  constexpr std::chrono::milliseconds slice(50);
  while (!came_) {
    const auto left =
        std::chrono::ceil<std::chrono::milliseconds>(until - std::chrono::steady_clock::now());
    const auto wait = std::clamp(left, std::chrono::milliseconds(0), slice);
    const timespec limit{0, static_cast<long>(wait.count()) * 1'000'000};
    if (::sigtimedwait(&set, nullptr, &limit) > 0) came_ = true;
    if (left <= slice) break;
  }
  return came_;
}

}  // namespace lockstep
