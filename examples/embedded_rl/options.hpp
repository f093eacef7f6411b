// Decides what can be asked of the example on its command line.
#pragma once

#include <cstdint>
#include <optional>

namespace embedded_rl {

enum class expectation : std::uint8_t { none, rise, flat };

struct options {
  std::uint32_t receivers = 4;
  std::uint64_t steps = 100;
  std::uint64_t seed = 1;
  bool sync = true;
  std::uint64_t fail_at = 0;  ///< the step in whose sync engine 0 fails; 0: none
  expectation expect = expectation::none;
  bool json = false;
};

/// Reads the command line. If the program is to end now, nothing, and `exit_code` is set: 0 after
/// the help, 2 after an error.
std::optional<options> parse_options(int argc, char** argv, int& exit_code);

}  // namespace embedded_rl
