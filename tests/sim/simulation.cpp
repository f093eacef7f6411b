#include "tests/sim/simulation.hpp"

#include <spdlog/logger.h>
#include <spdlog/sinks/null_sink.h>

namespace lockstep {

std::shared_ptr<spdlog::logger> silent_log() {
  return std::make_shared<spdlog::logger>("simulation",
                                          std::make_shared<spdlog::sinks::null_sink_st>());
}

}  // namespace lockstep
