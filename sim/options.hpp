// Decides what one simulated run is asked for and what comes of it.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "sim/faults.hpp"
#include "sim/trace.hpp"

namespace lockstep::sim {

/// Protocols that must fail: each does one thing wrong on purpose.
enum class variant : std::uint8_t {
  none,
  advance_before_flush,  ///< the snapshot advances while encoding, before anybody answers
  only_not_advance,      ///< a partial success leaves the snapshot where it was, and that is all
  reuse_version,         ///< an attempt after an abort takes the aborted one's number
  no_run_fence,          ///< receivers see every run of the trainer as the same
  no_incarnation,        ///< a restarted receiver goes on as the life before it
  attach_without_fence,  ///< what was staged before an attach can still be committed
  advance_at_decision,   ///< the snapshot advances when the commit leaves, not at the acks
  serve_torn,            ///< readiness is not withdrawn while bytes are written
  nan_mask,              ///< elements are compared as numbers: what is NaN or equal has not changed
  off_by_one,            ///< what is proven is written one element further
  off_by_one_unproven,   ///< likewise, and the proof of what was written sees none of it
};
struct variant_row {
  variant id;
  std::string_view name;
  std::string_view help;
};
std::span<const variant_row> variant_table() noexcept;
std::optional<variant> parse_variant(std::string_view name);

/// What faults lead to; counted, so that it is seen to happen.
enum class consequence : std::uint8_t {
  lease_ended,     ///< a receiver stopped serving because nobody renewed its lease
  staged_expired,  ///< a delta or full transfer that was staged was given up for its age
  late_commit,     ///< a receiver was told to commit what it had staged no more
  served_stale,    ///< a receiver that was told to goes on serving though its lease has ended
  lost_ack,        ///< an acknowledgement never arrived
  snapshot_last,   ///< all had voted when the snapshot had staged, or refused,
  snapshot_late,   ///< and when it had not in time
  scrubbed,        ///< a receiver found by itself that its weights had rotted
  ahead,           ///< a receiver staged a bucket that nobody had announced
  lent,            ///< a receiver made a bucket of its own weights for another
  count_
};
inline constexpr auto consequence_count = static_cast<std::size_t>(consequence::count_);
/// As in the summary of `lockstep sim --json`.
std::string_view to_string(consequence what) noexcept;
using consequences = std::array<std::uint64_t, consequence_count>;

struct run_options {
  std::uint64_t seed = 0;
  unsigned receivers = 4;  ///< at the start, 1 to 64
  unsigned syncs = 20;  ///< asked for while faults strike; two more follow when they have stopped
  /// Different parts of the tensors that receivers take; some take all. 0: all do.
  unsigned parts = 0;
  unsigned ranks = 1;   ///< of each trainer, 1 to 4
  unsigned fanout = 0;  ///< `transport.fanout`; 0: every receiver has everything from the trainer
  /// Of each process to all others, and back; 0: no matter how much.
  std::uint64_t link_bytes_per_s = 0;
  std::uint32_t tensors =
      0;  ///< of 4 KiB each, all of which change at every sync; 0: the small model
  fault_rates rates;
  variant broken = variant::none;
  /// False: no receiver compares what its weights digest to, but for an attach, and `lie` and `rot`
  /// do not strike, which nothing else finds.
  bool digests = true;
  /// Only these strike.
  std::optional<std::set<strike>> keep;
  /// After so many the run is cut short, with no violation; 0: never.
  std::uint64_t steps_max = 0;
  /// Counts steps for who watches from elsewhere that they end; none: nobody does. Not owned.
  std::atomic<std::uint64_t>* steps_seen = nullptr;
  trace_level level = trace_level::none;
  trace::sink to;
};

struct run_result {
  std::string violation;  ///< empty: every checker held
  std::uint64_t steps = 0;
  std::uint64_t hash = 0;  ///< of the trace
  std::array<std::uint64_t, fault_count> faults{};
  consequences met{};
  std::vector<strike> struck;  ///< in the order in which they came
  unsigned ok = 0, recovered = 0, degraded = 0, aborted = 0;
  unsigned lost = 0;  ///< syncs whose trainer ended
  std::uint64_t reseeds = 0;
  std::uint64_t catch_ups = 0;
  std::chrono::microseconds elapsed{0};  ///< of virtual time
  /// That observers still know something of at the end, all observers together.
  std::size_t joins_kept = 0;
};

/// Runs one seed from its beginning to its end, or to the first violation.
run_result run(const run_options& o);

}  // namespace lockstep::sim
