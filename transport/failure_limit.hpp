// Decides when an address has failed so often that it is not listened to for a while.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <unordered_map>

namespace lockstep {

/// Counts failures of addresses within the last minute or so. Remembers a bounded number of
/// addresses; when there are more, the new ones are let through. Not thread-safe.
class failure_limit {
 public:
  using clock = std::chrono::steady_clock;

  explicit failure_limit(std::uint32_t per_minute) : per_minute_(per_minute) {}

  bool is_over(const std::string& address, clock::time_point now) const {
    const auto found = counts_.find(address);
    return per_minute_ > 0 && found != counts_.end() && now - found->second.since < window &&
           found->second.failures >= per_minute_;
  }

  void failed(const std::string& address, clock::time_point now) {
    if (per_minute_ == 0) return;
    if (counts_.size() >= addresses_max && !counts_.contains(address))
      std::erase_if(counts_, [&](const auto& c) { return now - c.second.since >= window; });
    if (counts_.size() >= addresses_max && !counts_.contains(address)) return;
    auto& its = counts_[address];
    if (now - its.since >= window) its = {now, 0};
    ++its.failures;
  }

 private:
  static constexpr std::chrono::minutes window{1};
  static constexpr std::size_t addresses_max = 4'096;

  struct count {
    clock::time_point since;
    std::uint32_t failures = 0;
  };

  const std::uint32_t per_minute_;
  std::unordered_map<std::string, count> counts_;
};

}  // namespace lockstep
