// Decides how a whole cluster is run from one seed, without actors: the machines of protocol/ over
// a network that loses, repeats, delays, reorders and corrupts, with checkers that see only bytes,
// tags and reports.
#pragma once

#include <array>
#include <deque>
#include <functional>
#include <memory>
#include <random>
#include <string>

#include "protocol/flusher_fsm.hpp"
#include "protocol/join_fsm.hpp"
#include "protocol/receiver_fsm.hpp"
#include "protocol/snapshot_fsm.hpp"
#include "protocol/supervision_fsm.hpp"
#include "protocol/sync_fsm.hpp"
#include "sim/relation.hpp"
#include "sim/relation_trainer.hpp"

namespace lockstep::sim {

/// All weights: eight units of one byte.
using weights = std::array<std::uint8_t, 8>;

/// Protocols that must fail, each made by a wrapper around the real machines.
enum class broken {
  no,
  advance_at_decision,  ///< the join says all ok as soon as the commit leaves
  no_eviction,          ///< a failed commit only leaves the snapshot where it was
  no_incarnation,       ///< a restarted receiver keeps its old identity
  no_run_fence,         ///< receivers see every run as the same
  attach_no_fence,      ///< what was staged before an attach can still be committed
  serve_torn,           ///< readiness is not withdrawn while bytes are written
  reuse_version,        ///< an attempt after an abort takes the aborted one's number
  unproven_base,        ///< who is behind catches up from anything that the history knows
  catch_up_by_diff,     ///< by what differs from the oldest base, not by all that has changed
};

/// Sees every step of every machine.
struct watcher {
  std::function<void(const receiver_step&)> receiver;
  std::function<void(const sender_step&)> sender;
  std::function<void(const receiver_fsm::summary&)> born;
  std::function<void(const sync_fsm::summary&)> booted;
  /// What the join of a run is told in a step, and what it says.
  std::function<void(std::uint64_t run, const join_event&, const join_fsm::emitted&)> join = {};
  /// Whether it says that all of these have acknowledged.
  std::function<void(std::uint64_t run, txn_ref, const std::vector<participant>&, bool)> verdict =
      {};
};

struct options {
  broken variant = broken::no;
  bool digests = true;  ///< false: only an attach compares bytes; else the fences stand alone
  int syncs = 20;
  const watcher* watch = nullptr;
};

struct result {
  std::string violation;  ///< empty: every checker held
  int reports = 0, ok = 0, recovered = 0, degraded = 0, aborted = 0;
  int reseeds = 0, catch_ups = 0, redone = 0, lies_caught = 0, runs = 0;
};

/// Runs one cluster from `seed` to its end.
result run_cluster(std::uint64_t seed, const options& opt);

}  // namespace lockstep::sim
