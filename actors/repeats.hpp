// Decides how often the same is said again while nothing changes.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <utility>

namespace lockstep {

/// Lets through what was not said last, and that again after a minute. Not thread-safe.
class repeats {
 public:
  using time_point = std::chrono::steady_clock::time_point;

  bool is_due(std::string what, time_point now) {
    if (said_ && what == said_->first && now - said_->second < every) return false;
    said_.emplace(std::move(what), now);
    return true;
  }
  /// Something else was said meanwhile.
  void forget() { said_.reset(); }

 private:
  static constexpr std::chrono::minutes every{1};
  std::optional<std::pair<std::string, time_point>> said_;
};

}  // namespace lockstep
