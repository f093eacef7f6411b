// Decides when the ranks of a simulated trainer seed and come to syncs: each has a loop of its own.
#pragma once

#include <functional>

#include "sim/checker.hpp"

namespace lockstep::sim {

/// The loops of all ranks but the one that leads, and what that one's does beside its syncs. A
/// label names the same weights at every rank. Of use only where trainers have several ranks.
class training {
 public:
  training(const run_options& o, fleet& of, scheduler& on, dice& chance, checker& observer);

  /// Called when the rank that leads has seeded and may come to its first sync.
  std::function<void(trainer_process&)> on_seeded;

  /// All ranks of this trainer begin.
  void begin(trainer_process& t);
  /// The rank that leads has no run, or a process of its own that is new: it seeds.
  void seed(trainer_process& t);
  /// The rank that leads has come to a sync: the others will.
  void follow(trainer_process& t);
  // An actor of this process has handled a message.
  void after(trainer_process& t);
  /// What a rank reported of its sync by that.
  std::optional<sync_report> after(rank_process& p);
  /// What became of the sync of the rank that leads.
  void on_report(trainer_process& t, const sync_report& report);

  /// One process of a trainer ends, and comes back in a while. False: it is down.
  bool crash(trainer_process& t, std::uint32_t rank, std::chrono::milliseconds away);
  /// No faults any more: who is down comes back, and nobody comes to a sync before the one who
  /// leads.
  void end_trouble(trainer_process& t);
  /// Who has no run and has not noticed does.
  void help(trainer_process& t);
  /// Whether no rank is about to do something by itself.
  bool is_at_rest(const trainer_process& t) const;
  /// Whether no rank is at another sync than the next one of the rank that leads.
  bool is_aligned(const trainer_process& t) const;

 private:
  void lose(trainer_process& t);
  void seed(rank_process& p);
  /// In a moment, unless its process has ended by then, or it has a run.
  template <class Process>
  void plan_seed(Process& p);
  void begin_seed(trainer_process& t);
  void begin_seed(rank_process& p);
  void revive(trainer_process& t);
  void revive(rank_process& p);
  void want(rank_process& p);
  /// To its next sync, or to a new run, after a report.
  void go_on(rank_process& p, const sync_report& report);
  void come(rank_process& p, bool late);
  /// Whether there is a run that its next sync would belong to.
  bool is_running(const rank_process& p) const;
  std::uint64_t next_of(const rank_process& p) const;
  /// What came of a seed under way: nothing yet, or whether it succeeded.
  static std::optional<bool> outcome(training_loop& loop);

  fleet& fleet_;
  scheduler& scheduler_;
  dice& dice_;
  checker& checker_;
  random_stream random_;
  bool repeats_;  ///< a sync that was called off is tried again under its label
  bool troubled_ = true;
};

}  // namespace lockstep::sim
