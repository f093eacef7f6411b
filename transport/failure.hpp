// Decides how the transport says what went wrong, and to whom it logs.
#pragma once

#include <functional>
#include <string>

#include "config/settings.hpp"
#include "messages/errors.hpp"

namespace lockstep {

/// Why a connection is not there, or no longer. `detail` is one line for people.
struct failure {
  errc reason = errc::none;
  std::string detail;

  explicit operator bool() const noexcept { return reason != errc::none; }
};

/// Takes one line. Called from any thread that runs connections, sometimes from several at once;
/// must not throw and must not block. An empty function logs nothing.
using log_function = std::function<void(log_level, const std::string& line)>;

}  // namespace lockstep
