#include "messages/report.hpp"

#include <array>

namespace lockstep {

std::string_view to_string(sync_result result) noexcept {
  constexpr std::array<std::string_view, 4> names{"ok", "recovered", "degraded", "aborted"};
  const auto index = static_cast<std::size_t>(result);
  return index < names.size() ? names[index] : "unknown";
}

std::string_view to_string(terminal status) noexcept {
  constexpr std::array<std::string_view, 6> names{"ok", "no", "nack", "timeout", "dead", "aborted"};
  const auto index = static_cast<std::size_t>(status);
  return index < names.size() ? names[index] : "unknown";
}

}  // namespace lockstep
