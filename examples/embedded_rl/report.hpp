// Decides what the example prints: a line every few steps and a summary, for people or for
// programs.
#pragma once

#include <cstdint>
#include <string>

#include "options.hpp"

namespace embedded_rl {

/// What one step came to.
struct step_result {
  std::uint64_t step = 0;
  double mean_return = 0;  ///< of the episodes that the engines played for this step
  double changed = 0;      ///< share of the published weights in which engines and trainer differed
  std::uint64_t wire_bytes = 0;
  std::uint64_t full_bytes = 0;
  std::uint32_t reseeds = 0;
  std::string result;  ///< of the sync; empty: none
};

/// What the run came to.
struct run_result {
  double return_first = 0;   ///< mean over the first steps
  double return_last = 0;    ///< mean over the last steps
  std::uint64_t window = 0;  ///< how many steps that is
  std::uint64_t syncs = 0;
  std::uint64_t recovered = 0;  ///< syncs in which a receiver failed and came back
  std::uint32_t reseeds = 0;
  std::uint64_t wire_bytes = 0;
  std::uint64_t full_bytes = 0;
  bool on_policy = true;  ///< all episodes were played with the weights last published
  bool equal = false;     ///< all engines hold, byte for byte, what was last published
};

void print_header(const options& asked);
void print(const options& asked, const step_result& r);
/// Prints the summary and says whether all that was asked for came true.
bool conclude(const options& asked, const run_result& r);

}  // namespace embedded_rl
