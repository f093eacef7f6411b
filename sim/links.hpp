// Decides how long a sync takes where links are what takes the time: a fleet without faults, whose
// processes send and take in no more than so much a second.
#pragma once

#include <cstdint>

namespace lockstep::sim {

struct link_options {
  std::uint64_t seed = 0;
  unsigned receivers = 64;  ///< 1 to 64
  unsigned fanout = 4;      ///< `transport.fanout`
  std::uint64_t link_bytes_per_s = 10'000'000;
  std::uint32_t tensors = 1024;  ///< of 4 KiB, all of which change
};

struct link_result {
  double seconds = 0;  ///< of virtual time, from the encoded delta to the last acknowledgement
  std::uint64_t delta_bytes = 0;
  std::uint64_t trainer_bytes = 0;       ///< that the trainer sent meanwhile, control included
  std::uint64_t receiver_bytes_max = 0;  ///< that a receiver sent
};

/// Seeds the fleet, waits until everything planned is linked, and takes the time of one sync.
/// Throws `error{timeout}` if it comes to no end, and `error{bad_checksum}` if a receiver does not
/// hold the trainer's weights afterwards: bugs, both.
link_result measure_links(const link_options& o);

}  // namespace lockstep::sim
