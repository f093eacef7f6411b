#include "sim/scheduler.hpp"

#include <algorithm>
#include <caf/send.hpp>

#include "sim/mailbox.hpp"

namespace lockstep::sim {

scheduler::config::config() {
  set("scheduler.policy", caf::atom("testing"));
  set("logger.file-verbosity", caf::atom("quiet"));
  add_message_types<caf::id_block::lockstep>();
}

scheduler::scheduler(std::uint64_t seed)
    : random_(mix(seed, 0x5c4ed)),
      system_(config_),
      coordinator_(dynamic_cast<caf::scheduler::test_coordinator&>(system_.scheduler())) {
  // Not at the clock's zero, which stands for "never" in places.
  coordinator_.clock().current_time += std::chrono::hours(1);
  epoch_ = now();
}

scheduler::~scheduler() {
  end();
}

void scheduler::end() {
  // All of them, first: the coordinator's end waits for timers to run out, and those of a live
  // supervisor never do.
  spectator_ = nullptr;
  wake();
  auto& jobs = coordinator_.jobs;
  for (std::size_t told = 0; told < known_.size() || !jobs.empty();) {
    for (; told < known_.size(); ++told)
      if (const auto actor = caf::actor_cast<caf::strong_actor_ptr>(known_[told]))
        caf::anon_send_exit(actor, caf::exit_reason::kill);
    // Also those that were started a moment ago and have not run yet.
    if (jobs.empty()) continue;
    if (const auto* actor = dynamic_cast<caf::scheduled_actor*>(jobs.front())) note(*actor);
    coordinator_.try_run_once();
  }
}

void scheduler::at(time_point when, std::function<void()> what) {
  calls_.push_back({std::max(when, now()), ++call_number_, std::move(what)});
  std::ranges::push_heap(calls_, later);
}

void scheduler::wake() {
  for (auto* job : std::exchange(asleep_, {})) coordinator_.jobs.push_back(job);
}

void scheduler::note(const caf::scheduled_actor& actor) {
  const auto id = static_cast<std::size_t>(actor.id());
  if (id >= noted_.size()) noted_.resize(id + 64);
  if (noted_[id]) return;
  noted_[id] = true;
  known_.push_back(actor.address());
}

void scheduler::kill(const caf::strong_actor_ptr& actor) {
  if (!actor) return;
  caf::anon_send_exit(actor, caf::exit_reason::kill);
  const auto* job = dynamic_cast<caf::resumable*>(actor->get());
  auto& jobs = coordinator_.jobs;
  for (auto it = asleep_.begin(); it != asleep_.end(); ++it) {
    if (*it != job) continue;
    jobs.push_back(*it);
    asleep_.erase(it);
    break;
  }
  while (!has_ended(*actor->get())) {
    const auto at = std::ranges::find(jobs, job);
    if (at == jobs.end()) return;
    std::rotate(jobs.begin(), at, at + 1);
    coordinator_.try_run_once();
  }
  tell_if_ended(dynamic_cast<const caf::scheduled_actor*>(actor->get()));
}

void scheduler::tell_if_ended(const caf::scheduled_actor* actor) {
  if (spectator_ && actor && has_ended(*actor)) spectator_->ended(*actor);
}

bool scheduler::step() {
  return run_job() || pass_time();
}

bool scheduler::run_job() {
  auto& jobs = coordinator_.jobs;
  while (!jobs.empty()) {
    const auto index = random_.below(jobs.size());
    auto* job = jobs[index];
    auto* actor = dynamic_cast<caf::scheduled_actor*>(job);
    const auto at = jobs.begin() + static_cast<std::ptrdiff_t>(index);
    if (actor && spectator_ && spectator_->stands_still(*actor)) {
      asleep_.push_back(job);
      jobs.erase(at);
      continue;
    }
    std::rotate(jobs.begin(), at, at + 1);
    if (!actor) {
      coordinator_.try_run_once();
      return true;
    }
    const caf::strong_actor_ptr keep(actor->ctrl());
    note(*actor);
    if (spectator_) spectator_->before(*actor, actor->mailbox().peek());
    coordinator_.try_run_once();
    if (spectator_) spectator_->after(*actor);
    tell_if_ended(actor);
    return true;
  }
  return false;
}

bool scheduler::pass_time() {
  auto& clock = coordinator_.clock();
  const auto& timers = clock.schedule();
  if (timers.empty() && calls_.empty()) return false;
  const bool call_first =
      !calls_.empty() && (timers.empty() || calls_.front().when <= timers.begin()->first);
  if (spectator_ && (call_first ? calls_.front().when : timers.begin()->first) > now())
    spectator_->before_time_passes();
  if (!call_first) {
    clock.current_time = std::max(clock.current_time, timers.begin()->first);
    clock.trigger_timeout();
    return true;
  }
  std::ranges::pop_heap(calls_, later);
  const auto next = std::move(calls_.back());
  calls_.pop_back();
  clock.current_time = std::max(clock.current_time, next.when);
  next.what();
  return true;
}

}  // namespace lockstep::sim
