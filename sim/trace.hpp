// Decides what a run leaves behind: lines to read, and a hash that tells two runs apart.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

namespace lockstep::sim {

/// How much of a run is written down.
enum class trace_level : std::uint8_t {
  none,
  events,  ///< faults, reports, who comes and goes
  steps,   ///< and every message
};

/// Lines of one run, in the order in which things happened.
class trace {
 public:
  using sink = std::function<void(std::string_view line)>;

  trace() = default;
  trace(trace_level level, sink to) : level_(level), to_(std::move(to)) {}

  bool wants(trace_level level) const noexcept { return level_ >= level && to_; }
  void set_time(std::chrono::nanoseconds now) noexcept { now_ = now; }
  /// Writes a line, if it is wanted; `text` returns it without the time.
  template <class Text>
  void line(trace_level level, Text text) {
    if (wants(level)) write(text());
  }
  /// Takes part in the hash whether or not it is written.
  void fold(std::uint64_t value) noexcept { hash_ = (hash_ ^ value) * 1099511628211ull; }
  std::uint64_t hash() const noexcept { return hash_; }

 private:
  void write(std::string_view text);

  trace_level level_ = trace_level::none;
  sink to_;
  std::chrono::nanoseconds now_{0};
  std::uint64_t hash_ = 1469598103934665603ull;
};

}  // namespace lockstep::sim
