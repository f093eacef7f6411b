// Decides how deltas are decoded and proven beside the live bytes. Private to weights/.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "weights/checkpoint.hpp"
#include "weights/published.hpp"
#include "weights/redo_log.hpp"

namespace lockstep {

/// Told how many bytes of the checkpoint have been read, of all that will be.
using stage_progress = std::function<void(std::uint64_t done, std::uint64_t all)>;

/// What staging found.
struct staged_deltas {
  std::uint64_t changed_bytes = 0;
  /// Digest of the whole state after the last delta; empty if none of them has one.
  std::string state;
};

/// Decodes `deltas`, each the base of the next, onto `live`, and compares every checksum and, where
/// a delta has one, the digest of the whole state before and after it. What turns the first base
/// into the last target goes into `log` unless that is null; files are numbered as in `live`.
/// Writes nothing live. Holds some MiB for each delta and thread. Throws `error{wrong_base}` if a
/// digest proves that `live` is not the base, `error{bad_input}` if something else does not fit.
staged_deltas stage(const checkpoint& live, std::span<const published_delta> deltas, redo_log* log,
                    const stage_progress& progress);

}  // namespace lockstep
