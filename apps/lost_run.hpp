// Decides what a trainer's process does where its run is over though nobody wanted it to be: begin
// again, or end with which status.
#pragma once

#include <cstdint>
#include <string>

#include "messages/errors.hpp"
#include "messages/transient.hpp"

namespace lockstep {

/// Thrown where all ranks of the trainer are to begin again.
struct run_lost {};

/// `why`: what `trainer::ended_by`, or the report of the run's last sync, says; `ranks`: how many
/// the trainer has. Throws `run_lost`, or what ends the process. Where a newer run leads the fleet,
/// one of ours would only start a quarrel.
[[noreturn]] inline void lose_run(errc why, const std::string& detail, std::uint32_t ranks) {
  if (why == errc::fenced) throw error(why, "a newer run of the trainer leads the fleet");
  if (ranks > 1) throw run_lost();
  // Its own actors have ended, perhaps in the midst of a sync: a process that begins anew may get
  // on.
  if (why == errc::shut_down || why == errc::dead) throw try_again_error(why, detail);
  throw error(why, detail);
}

}  // namespace lockstep
