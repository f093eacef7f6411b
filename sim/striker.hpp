// Decides what a fault that can strike at any step does to a simulated fleet.
#pragma once

#include <functional>

#include "sim/training.hpp"

namespace lockstep::sim {

/// Faults of single messages, writes and syncs strike where those are; all others do here.
class striker {
 public:
  striker(const run_options& o, scheduler& on, dice& chance, fleet& of, network& between,
          training& loops)
      : o_(o), scheduler_(on), dice_(chance), fleet_(of), network_(between), training_(loops) {}

  // What is the run's to do.
  std::function<void(std::uint64_t chance)> begin_trainer;  ///< from a checkpoint
  std::function<void(trainer_process&)> end_trainer;
  std::function<void()> on_lost_sync;  ///< its trainer's process ends

  /// False: it found nothing to strike.
  bool strike(fault_id id);
  /// What is under way strikes no more.
  void stop() { stopped_ = true; }

 private:
  receiver_process& some_receiver(fault_id id);
  trainer_process& some_trainer(fault_id id);
  endpoint some_process(fault_id id);
  bool stand_still(fault_id id);
  bool strike_link(fault_id id);
  bool false_down();
  bool swizzle();
  void cut_off(endpoint a, time_point until);
  bool crash_receiver();
  bool detach(receiver_process& r);
  bool attach();
  bool rot(receiver_process& r);
  bool kill_actor();
  bool crash_trainer();

  const run_options& o_;
  scheduler& scheduler_;
  dice& dice_;
  fleet& fleet_;
  network& network_;
  training& training_;
  bool stopped_ = false;
};

}  // namespace lockstep::sim
