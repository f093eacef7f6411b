// Decides what hides behind `runtime`. Private to actors/.
#pragma once

#include <atomic>
#include <caf/actor_system.hpp>
#include <caf/actor_system_config.hpp>
#include <caf/scoped_actor.hpp>
#include <chrono>
#include <map>
#include <mutex>
#include <optional>
#include <set>

#include "actors/agent.hpp"
#include "actors/gateway.hpp"
#include "actors/interfaces.hpp"
#include "actors/rank.hpp"
#include "actors/run_counter.hpp"
#include "actors/runtime.hpp"

namespace lockstep {

/// How long a caller waits for an answer that only a bug can withhold.
inline constexpr std::chrono::seconds answer_timeout{30};

class runtime::parts {
 public:
  parts(const settings& options, std::function<std::uint64_t()> entropy);
  ~parts();

  /// Strictly larger at every call in this process, and than in any process started earlier: by the
  /// clock, or whatever it says by `trainer.run_file`. Throws what `run_counter` does.
  std::uint64_t next_run();
  /// False if the id is taken.
  bool claim(receiver_id id);
  void unclaim(receiver_id id);
  /// Runs a receiver over `bytes`, for a trainer of this process or of another.
  void add(const std::shared_ptr<engine>& bytes);
  /// Ends it; `done` is kept when its actor is gone.
  void remove(receiver_id id, std::shared_ptr<std::promise<void>> done);
  /// False if there is a trainer.
  bool claim_trainer() { return !has_trainer_.exchange(true); }
  void unclaim_trainer() { has_trainer_ = false; }

  std::shared_ptr<const actor_env> env;
  caf::actor_system_config config;
  std::unique_ptr<caf::actor_system> system;
  supervisor_actor supervisor;
  std::unique_ptr<gateway> ways;       ///< to other processes; none where there are none
  std::vector<node_address> trainers;  ///< of other processes
  /// How long `receiver::detach` waits before it says that it does; for tests.
  std::chrono::milliseconds detach_patience = answer_timeout;

 private:
  void listen(const node_address& at);
  void listen_for_receivers(const engine& bytes);
  node_address relays_found_at() const;
  void end();

  std::atomic<bool> has_trainer_ = false;
  std::mutex mutex_;
  std::uint64_t last_run_ = 0;
  std::optional<run_counter> counter_;
  std::set<receiver_id> ids_;
  std::shared_ptr<relay_place> relays_;  ///< once a receiver of this process passes buckets on
  std::map<receiver_id, agent_actor> agents_;  ///< where trainers are in other processes
};

}  // namespace lockstep
