// Decides what an inference engine has to do to be kept in lockstep: its memory, its gate, its
// readiness.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <future>
#include <lockstep/lockstep.hpp>
#include <memory>
#include <mutex>

#include "bf16.hpp"
#include "policy.hpp"
#include "rollout.hpp"

namespace embedded_rl {

/// An engine decides only while it holds a pass; an update closes the gate. Thread-safe.
class step_gate {
 public:
  struct pass {
    std::unique_lock<std::mutex> held;  ///< while it lives, `close` waits
    std::uint64_t label = 0;            ///< of the weights: the trainer's step
  };

  /// Waits until the gate is open. Throws `std::runtime_error` if it stays closed.
  pass enter();

  /// Returns when no pass is out; there is none again until `open`. What is closed already may be
  /// closed once more: a receiver that died in mid-update pauses again in its next life.
  void close();
  void open(std::uint64_t label);

 private:
  std::mutex mutex_;
  std::condition_variable opened_;
  bool closed_ = true;  ///< nobody may act on weights that were never sent
  std::uint64_t label_ = 0;
};

/// Plays episodes with the weights that Lockstep has written to its memory.
class rollout_engine {
 public:
  /// Chance is drawn from `seed`, `step` and the engine's id, whenever it is played.
  struct order {
    std::uint64_t seed = 0;
    std::uint64_t step = 0;
    std::uint64_t label = 0;  ///< of the weights to wait for
  };

  /// `on` must outlive this.
  rollout_engine(lockstep::runtime& on, lockstep::receiver_id id,
                 std::shared_ptr<lockstep::fault_plan> faults);

  /// Starts playing on a thread of its own; one order at a time. The future must not outlive this,
  /// and throws `std::runtime_error` if the engine does not get to play.
  std::future<rollout> play(order what);

  const lockstep::receiver& receiver() const { return receiver_; }

 private:
  lockstep::receiver_options receiver_options(std::shared_ptr<lockstep::fault_plan> faults);
  rollout play_now(const order& what);
  episode attempt(grid_world world, random_stream& chance, std::uint64_t& oldest_label);
  std::size_t decide(const observation& seen, random_stream& chance, std::uint64_t& oldest_label);

  lockstep::receiver_id id_;
  policy_weights<bf16> weights_;  ///< written by Lockstep alone, while the gate is closed
  step_gate gate_;
  lockstep::receiver receiver_;  ///< the last member: it is gone before what it writes to
};

}  // namespace embedded_rl
