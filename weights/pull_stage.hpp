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

class scratch_weights;

/// Deltas that are decoded at once.
inline constexpr std::size_t staged_deltas_max = 8;

/// How far a frame of zstd may look back, in bytes, where its delta is not decoded alone.
inline constexpr std::uint64_t staged_window_bytes_max = std::uint64_t{1} << 24;

/// Where what deltas make goes. All may be null.
struct stage_place {
  redo_log* log = nullptr;                ///< what turns the first base into the last target
  const scratch_weights* base = nullptr;  ///< what deltas before these have made of `live`
  scratch_weights* target = nullptr;      ///< takes what these make; may be the base
};

/// Told how many bytes of the checkpoint have been read, of all that will be.
using stage_progress = std::function<void(std::uint64_t done, std::uint64_t all)>;

/// What staging found.
struct staged_deltas {
  std::uint64_t changed_bytes = 0;
  /// Digest of the whole state after the last delta; empty if none of them has one.
  std::string state;
};

/// Decodes `deltas`, each the base of the next, onto `live`, and compares every checksum and, where
/// a delta has one, the digest of the whole state before and after it. Files are numbered in the
/// log as in `live`. Writes nothing live; after a throw what `to` took is of no use. At most
/// `staged_deltas_max`, which look back over `staged_window_bytes_max`, or one that looks back over
/// 128 MiB: holds so much for each of them and thread, and some MiB. Throws `error{wrong_base}` if
/// a digest proves that `live` is not the base, `error{bad_input}` if something else does not fit.
staged_deltas stage(const checkpoint& live, std::span<const published_delta> deltas,
                    const stage_place& to, const stage_progress& progress);

}  // namespace lockstep
