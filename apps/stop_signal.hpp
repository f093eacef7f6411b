// Decides how a command that goes on until it is told to stop is told.
#pragma once

#include <atomic>
#include <chrono>

namespace lockstep {

/// SIGTERM and SIGINT, taken as words and not as ends. Made before any thread is, so that all of
/// them leave the signals alone. Thread-safe.
class stop_signal {
 public:
  stop_signal();

  /// Whether one has come; waits for it.
  bool wait_for(std::chrono::milliseconds patience);

 private:
  std::atomic<bool> came_ = false;
};

}  // namespace lockstep
