// Decides how many lines strangers may make us log.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>

#include "transport/failure.hpp"

namespace lockstep {

/// Passes on the first lines of each kind, and then one a second of it, which says how many were
/// kept back before it. Thread-safe.
class log_throttle {
 public:
  using clock = std::chrono::steady_clock;

  /// So many of a kind come through at once, where there were none for as many seconds.
  static constexpr int burst = 5;
  static constexpr std::chrono::seconds every{1};

  explicit log_throttle(log_function log) : log_(std::move(log)) {}

  /// `kind`: one of a few, that outlives this.
  void operator()(log_level level, std::string_view kind, std::string line,
                  clock::time_point now = clock::now()) {
    if (!log_) return;
    std::uint64_t before = 0;
    {
      const std::lock_guard lock(mutex_);
      auto& its = kinds_[kind];
      if (its.paid_until > now + (burst - 1) * every) {
        its.level = level;
        ++its.kept_back;
        return;
      }
      its.paid_until = std::max(its.paid_until, now) + every;
      before = std::exchange(its.kept_back, 0);
    }
    if (before > 0) line += " (and " + lines(before) + " like this before)";
    log_(level, line);
  }

  /// Says what was kept back since the last line of its kind, for no other may come.
  void flush() {
    if (!log_) return;
    const std::lock_guard lock(mutex_);
    for (auto& [kind, its] : kinds_)
      if (const auto count = std::exchange(its.kept_back, 0); count > 0)
        log_(its.level, lines(count) + " like the last of this kind: " + std::string(kind));
  }

 private:
  struct record {
    clock::time_point paid_until;  ///< each line that came through costs `every`
    std::uint64_t kept_back = 0;
    log_level level = log_level::warn;  ///< of what was kept back
  };

  static std::string lines(std::uint64_t count) {
    return std::to_string(count) + (count == 1 ? " line" : " lines");
  }

  const log_function log_;
  std::mutex mutex_;  // of what follows
  std::map<std::string_view, record> kinds_;
};

}  // namespace lockstep
