// Decides how many lines strangers may make us log.
#pragma once

#include <chrono>
#include <cstdint>
#include <mutex>
#include <string>
#include <utility>

#include "transport/failure.hpp"

namespace lockstep {

/// Passes on so many lines a second, and says how many it kept back. Thread-safe.
class log_throttle {
 public:
  explicit log_throttle(log_function log, std::uint32_t lines_per_s = 20)
      : log_(std::move(log)), lines_per_s_(lines_per_s) {}

  void operator()(log_level level, std::string line) {
    if (!log_) return;
    {
      const std::lock_guard lock(mutex_);
      const auto now = clock::now();
      if (now - since_ >= std::chrono::seconds(1)) {
        since_ = now;
        lines_ = 0;
      }
      if (++lines_ > lines_per_s_) {
        ++kept_back_;
        return;
      }
      if (const auto count = std::exchange(kept_back_, 0); count > 0)
        line += " (and " + std::to_string(count) + " lines before)";
    }
    log_(level, line);
  }

 private:
  using clock = std::chrono::steady_clock;

  const log_function log_;
  const std::uint32_t lines_per_s_;
  std::mutex mutex_;  // of what follows
  clock::time_point since_;
  std::uint32_t lines_ = 0;
  std::uint64_t kept_back_ = 0;
};

}  // namespace lockstep
