// Decides what happens next in a simulation: one thread, virtual time, and a seed that chooses
// which actor handles its next message.
#pragma once

#include <caf/actor_system.hpp>
#include <caf/actor_system_config.hpp>
#include <caf/scheduled_actor.hpp>
#include <caf/scheduler/test_coordinator.hpp>
#include <functional>
#include <vector>

#include "messages/type_ids.hpp"
#include "protocol/receiver_fsm.hpp"
#include "sim/random.hpp"

namespace lockstep::sim {

/// What looks on while actors run.
class spectator {
 public:
  virtual ~spectator() = default;
  /// Its process stands still: it must not run now.
  virtual bool stands_still(const caf::scheduled_actor& actor) = 0;
  /// `actor` is about to handle `message`, or to start where there is none.
  virtual void before(caf::scheduled_actor& actor, caf::mailbox_element* message) = 0;
  /// It has; it may have ended.
  virtual void after(caf::scheduled_actor& actor) = 0;
  /// It has ended, by a step of its own or with its process, and nothing more will be heard of it.
  virtual void ended(const caf::scheduled_actor& actor) = 0;
  /// Whoever does not stand still has handled all that there is, and the clock is about to move on.
  virtual void before_time_passes() {}
};

/// An actor system in one thread. Two of the same seed that are asked the same do the same.
class scheduler {
 public:
  explicit scheduler(std::uint64_t seed);
  ~scheduler();
  scheduler(const scheduler&) = delete;
  scheduler& operator=(const scheduler&) = delete;

  caf::actor_system& system() { return system_; }
  time_point now() const { return coordinator_.clock().current_time; }
  /// Since the simulation began.
  std::chrono::nanoseconds elapsed() const { return now() - epoch_; }

  void set_spectator(spectator* s) { spectator_ = s; }

  /// Calls `what` at `when`, between two messages. Calls of one time come in the order in which
  /// they were asked for.
  void at(time_point when, std::function<void()> what);
  void in(std::chrono::nanoseconds wait, std::function<void()> what) {
    at(now() + wait, std::move(what));
  }

  /// Lets the actor with a message that the seed chooses handle it; if there is none, lets time
  /// pass to whatever is due next. False if nothing will ever happen again.
  bool step();
  /// All clocks go ahead.
  void jump(std::chrono::nanoseconds by) { coordinator_.clock().current_time += by; }
  /// Ends an actor here and now, as the end of its process does: nobody watches, and what it says
  /// meanwhile is its network's to swallow.
  void kill(const caf::strong_actor_ptr& actor);
  /// Whoever was left out because its process stood still may run again.
  void wake();

  /// Ends all actors that ever ran, while what they talk to is still there.
  void end();

  /// Timers under way, of all actors together.
  std::size_t timers() { return coordinator_.clock().schedule().size(); }

 private:
  struct config : caf::actor_system_config {
    config();
  };
  struct call {
    time_point when;
    std::uint64_t number;
    std::function<void()> what;
  };
  static bool later(const call& a, const call& b) {
    return a.when != b.when ? a.when > b.when : a.number > b.number;
  }
  void note(const caf::scheduled_actor& actor);
  void tell_if_ended(const caf::scheduled_actor* actor);
  bool run_job();
  bool pass_time();

  random_stream random_;
  config config_;
  caf::actor_system system_;
  caf::scheduler::test_coordinator& coordinator_;
  time_point epoch_;
  spectator* spectator_ = nullptr;
  std::vector<call> calls_;  ///< a heap
  std::uint64_t call_number_ = 0;
  std::vector<caf::resumable*> asleep_;
  std::vector<caf::actor_addr> known_;
  std::vector<bool> noted_;  ///< by id
};

}  // namespace lockstep::sim
