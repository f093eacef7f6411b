#include "sim/trace.hpp"

#include <fmt/format.h>

namespace lockstep::sim {

void trace::write(std::string_view text) {
  const auto us = std::chrono::duration_cast<std::chrono::microseconds>(now_).count();
  to_(fmt::format("{:4}.{:06} {}", us / 1'000'000, us % 1'000'000, text));
}

}  // namespace lockstep::sim
