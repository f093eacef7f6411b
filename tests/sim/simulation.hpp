// Decides how the actors run deterministically: one thread, virtual time, and a seed that chooses
// which actor handles its next message.
#pragma once

#include <caf/actor_system.hpp>
#include <caf/actor_system_config.hpp>
#include <caf/scheduler/test_coordinator.hpp>
#include <cstring>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "actors/states.hpp"
#include "tests/sim/step_watch.hpp"

namespace lockstep {

/// Keeps nothing of what it is told.
std::shared_ptr<spdlog::logger> silent_log();

/// A whole fleet in one thread: supervisor, trainer's side, receivers. The real actors, with
/// nothing between them; only the scheduler and the clock are others. Two simulations of the same
/// seed that are asked the same do the same, message by message.
class simulation {
 public:
  using duration = std::chrono::milliseconds;

  explicit simulation(std::uint64_t seed, const settings& options = {})
      : rng_(seed),
        config_(),
        system_(config_),
        scheduler_(dynamic_cast<caf::scheduler::test_coordinator&>(system_.scheduler())) {
    clock().current_time += std::chrono::hours(1);
    auto env = std::make_shared<actor_env>();
    env->options = options;
    env->cluster = 1;
    env->entropy = [draw = std::mt19937_64(~seed)]() mutable { return draw(); };
    env->log = silent_log();
    supervisor_ = system_.spawn(supervisor_behavior, std::move(env));
  }

  ~simulation() {
    // All of them, first: the scheduler's end waits for timers to run out, and those of a live
    // supervisor never do.
    after_step = nullptr;
    caf::anon_send_exit(supervisor_, caf::exit_reason::kill);
    supervisor_ = nullptr;
    run_jobs();
    for (auto& [id, known] : actors_) caf::anon_send_exit(known.address, caf::exit_reason::kill);
    actors_.clear();
    run_jobs();
  }

  std::mt19937_64& rng() { return rng_; }
  std::uint64_t trace_hash() const { return hash_; }
  const std::vector<std::shared_ptr<engine>>& engines() const { return engines_; }
  const snapshot_store& store() const { return *store_; }
  /// Flips a bit of the snapshot, as failing memory would.
  void rot() {
    store_->read([](const tensor_views& tensors) {
      *const_cast<std::byte*>(tensors[0].bytes.data) ^= std::byte{1};
    });
  }

  /// One in how many steps fires the next timer although there is work: 0 is never.
  unsigned early_timer = 0;
  /// Called after every step.
  std::function<void()> after_step;
  /// Sees every message that an actor handles.
  std::shared_ptr<step_watch> watch;

  engine& add(const layout& shape, receiver_hooks hooks = {},
              std::shared_ptr<fault_source> faults = nullptr) {
    const auto id = static_cast<receiver_id>(engines_.size());
    engines_.push_back(std::make_shared<engine>(id, "receiver-" + std::to_string(id), shape,
                                                std::vector<std::span<std::byte>>{},
                                                std::move(hooks), std::move(faults)));
    caf::anon_send(supervisor_, add_engine{engines_.back()});
    return *engines_.back();
  }

  version_ref boot(const weight_buffer& w, std::uint64_t label = 0, std::uint64_t run = 1) {
    store_ = std::make_shared<snapshot_store>(w.shape(), reader_of(w), label);
    return ask<version_ref>([&](auto answer) { return boot_request{run, store_, answer}; });
  }

  /// `w` must live until the tensors are read.
  std::shared_ptr<ticket_state> sync(std::uint64_t label, const weight_buffer& w) {
    return sync(label, reader_of(w), std::make_shared<ticket_state>(duration(0)));
  }
  std::shared_ptr<ticket_state> sync(std::uint64_t label, tensor_reader tensors,
                                     std::shared_ptr<ticket_state> ticket) {
    caf::anon_send(supervisor_, sync_request{label, std::move(tensors), ticket});
    return ticket;
  }

  std::vector<receiver_status> statuses() {
    return ask<std::vector<receiver_status>>([](auto answer) {
      return observe_request{question::status, [answer](observation seen) {
                               answer->set_value(std::move(seen.states));
                             }};
    });
  }

  /// Timers under way, of all actors together.
  std::size_t timers() { return clock().schedule().size(); }

  /// The report, or none within `patience` of virtual time.
  std::optional<sync_report> wait(const std::shared_ptr<ticket_state>& ticket, duration patience) {
    std::optional<sync_report> report;
    run_until([&] { return (report = ticket->wait_report(duration(0))).has_value(); }, patience);
    return report;
  }

  bool wait_members(std::size_t count, duration patience) {
    for (const auto until = now() + patience; now() < until; pass(duration(100))) {
      std::size_t members = 0;
      for (const auto& s : statuses()) members += s.member ? 1u : 0u;
      if (members >= count) return true;
    }
    return false;
  }

  /// Kills a living actor of this name that has run before, drawn at random; false if there is
  /// none. It ends when its turn comes, like any other step.
  bool kill(std::string_view name) {
    std::vector<actor_id> found;
    for (const auto& [id, known] : actors_)
      if (known.name == name && !known.killed && lives(known.address)) found.push_back(id);
    if (found.empty()) return false;
    auto& victim = actors_[found[rng_() % found.size()]];
    victim.killed = true;
    caf::anon_send_exit(victim.address, caf::exit_reason::kill);
    return true;
  }

  std::chrono::steady_clock::time_point now() { return clock().current_time; }

  /// Runs everything until `patience` has passed.
  void pass(duration patience) {
    run_until([] { return false; }, patience);
  }

  template <class Done>
  bool run_until(Done done, duration patience) {
    const auto until = now() + patience;
    while (!done()) {
      if (scheduler_.jobs.empty() && next_timer() > until) {
        clock().current_time = until;
        return false;
      }
      step();
    }
    return true;
  }

  /// Handles one message, or fires one timer.
  void step() {
    const bool early = early_timer != 0 && clock().has_pending_timeout() &&
                       !scheduler_.jobs.empty() && rng_() % early_timer == 0;
    if (scheduler_.jobs.empty() || early) {
      fire_timer();
    } else {
      run_job(rng_() % scheduler_.jobs.size());
    }
    if (after_step) after_step();
  }

  /// No message is waiting; time stands still.
  void settle() {
    while (!scheduler_.jobs.empty()) step();
  }

 private:
  using actor_id = caf::actor_id;
  struct known_actor {
    std::string name;
    caf::actor_addr address;
    bool killed = false;
  };
  struct node_config : caf::actor_system_config {
    node_config() {
      set("scheduler.policy", caf::atom("testing"));
      set("logger.file-verbosity", caf::atom("quiet"));
      add_message_types<caf::id_block::lockstep>();
    }
  };

  static bool lives(const caf::actor_addr& address) {
    const auto self = caf::actor_cast<caf::strong_actor_ptr>(address);
    return self && !self->get()->getf(caf::abstract_actor::is_terminated_flag);
  }

  caf::detail::test_actor_clock& clock() { return scheduler_.clock(); }

  std::chrono::steady_clock::time_point next_timer() {
    const auto& due = clock().schedule();
    if (due.empty()) throw std::logic_error("no timer: nothing will ever happen again");
    return due.begin()->first;
  }

  template <class Answer, class Make>
  Answer ask(Make make) {
    auto promise = std::make_shared<std::promise<Answer>>();
    auto answer = promise->get_future();
    caf::anon_send(supervisor_, make(std::move(promise)));
    while (answer.wait_for(duration(0)) != std::future_status::ready) step();
    return answer.get();
  }

  void trace(std::uint64_t value) { hash_ = (hash_ ^ value) * 1099511628211ull; }

  void fire_timer() {
    clock().current_time = std::max(clock().current_time, next_timer());
    trace(static_cast<std::uint64_t>(clock().current_time.time_since_epoch().count()));
    clock().trigger_timeout();
  }

  void run_job(std::size_t index) {
    auto& jobs = scheduler_.jobs;
    if (auto* self = dynamic_cast<caf::scheduled_actor*>(jobs[index])) {
      actors_.try_emplace(self->id(), known_actor{self->name(), self->address(), false});
      trace(self->id());
      for (const char* c = self->name(); *c != 0; ++c) trace(static_cast<unsigned char>(*c));
      if (const auto* message = self->mailbox().peek()) trace(message->content().type_token());
      if (watch) watch->before(*self);
    }
    const auto at = jobs.begin() + static_cast<std::ptrdiff_t>(index);
    std::rotate(jobs.begin(), at, at + 1);
    scheduler_.try_run_once();
    if (watch) watch->after();
  }

  void run_jobs() {
    while (scheduler_.try_run_once()) continue;
  }

  std::mt19937_64 rng_;
  std::uint64_t hash_ = 1469598103934665603ull;
  node_config config_;
  caf::actor_system system_;
  caf::scheduler::test_coordinator& scheduler_;
  supervisor_actor supervisor_;
  std::map<actor_id, known_actor> actors_;
  std::vector<std::shared_ptr<engine>> engines_;
  std::shared_ptr<snapshot_store> store_;
};

}  // namespace lockstep
