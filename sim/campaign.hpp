// Decides how many seeds are run at once, what is kept of them, and how a failing one is made
// small.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "sim/options.hpp"

namespace lockstep::sim {

struct campaign_options {
  run_options each;  ///< its `seed` is the first
  std::uint64_t seeds = 1;
  unsigned jobs = 1;           ///< processes, 1 to 256
  bool stop_at_first = false;  ///< end at the first seed with a violation, and soon after
  /// No seed is begun after this time; 0 is no limit.
  std::chrono::milliseconds time_max{0};
  /// A step takes microseconds. One that takes this long, by the wall clock, will never end.
  std::chrono::milliseconds step_time_max{std::chrono::minutes(2)};
};

/// Sums over all seeds.
struct campaign_sums {
  std::uint64_t seeds = 0;
  std::uint64_t violations = 0;
  std::uint64_t steps = 0;
  std::array<std::uint64_t, fault_count> faults{};
  consequences met{};
  std::uint64_t ok = 0, recovered = 0, degraded = 0, aborted = 0, lost = 0, reseeds = 0;
  std::uint64_t catch_ups = 0;
  std::uint64_t hash = 0;  ///< over all traces, whatever the number of jobs
  std::chrono::microseconds virtual_time{0};
};
struct campaign_result : campaign_sums {
  std::optional<std::uint64_t> first_bad_seed;
  std::string first_violation;
};

/// Adds what came of one seed.
void add(campaign_result& sums, std::uint64_t seed, const run_result& r);

/// Runs the seeds in `jobs` child processes, so that one which crashes, or of which a
/// step does not end, is a violation of its seed like any other. `progress` is called now and then
/// with the number of seeds that are done. Throws `error{no_memory}` if no process can be started.
campaign_result run_campaign(const campaign_options& o,
                             const std::function<void(std::uint64_t done)>& progress = {});

/// A failing run made small.
struct small_run {
  run_options run;
  /// What it ends with, which may differ from the whole run's but for the promise that is broken;
  /// empty if `run` is the whole one.
  std::string violation;
};

/// As few strikes and syncs as still break the same promise, as far as tries of `steps_max` steps
/// together find out: half a minute or so. Returns `o` itself if it violates nothing, if what
/// struck in it cannot be known, or if too many strikes are left to be named.
small_run shrink(const run_options& o, std::uint64_t steps_max = 10'000'000);

}  // namespace lockstep::sim
