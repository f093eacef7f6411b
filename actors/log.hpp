// Decides how a process logs: where to, and in what form.
#pragma once

#include <memory>

#include "config/settings.hpp"
#include "transport/failure.hpp"

namespace spdlog {
class logger;
}

namespace lockstep {

/// What the settings ask for: standard error or a file that is appended to, a line for each
/// message, whatever it quotes. Throws `error{unwritable}` (operator).
std::shared_ptr<spdlog::logger> make_log(const log_settings& options);

/// For the transport, which logs for whoever it runs for.
log_function logging_to(std::shared_ptr<spdlog::logger> log);

}  // namespace lockstep
