// The supervisor: starts all others, watches them, and performs what the supervision policy
// decides.
#include <spdlog/spdlog.h>

#include <array>
#include <exception>

#include "actors/supervisor_parts.hpp"

namespace lockstep {

using namespace supervising;

namespace {

namespace act = supervision_action;

// --- receivers ----------------------------------------------------------------------------------

}  // namespace

void supervising::greet(pointer self, const supervisor_state::child& c) {
  const auto& trainer = self->state.trainer;
  if (trainer && c.receiver) self->send(c.receiver, welcome{trainer->boot.run, trainer->join});
}

namespace {

void start_receiver(pointer self, supervisor_state::child& c) {
  auto& state = self->state;
  const incarnation inc{state.env->entropy(), state.env->entropy()};
  c.life = {c.bytes->id(), inc};
  c.model = c.bytes->model();
  c.taken = packed_part(c.bytes->taken());
  c.receiver = self->spawn<caf::monitored>(receiver_behavior, state.env, c.bytes, inc,
                                           supervisor_actor(self), relay_side{});
  start_flusher(self, c);
}

void end_child(pointer self, const supervisor_state::child& c) {
  if (c.receiver) self->send_exit(c.receiver, caf::exit_reason::user_shutdown);
  if (c.flusher) self->send_exit(c.flusher, caf::exit_reason::user_shutdown);
}

void send_ping(pointer self, const supervisor_state::child& c) {
  const auto& state = self->state;
  if (c.receiver) self->send(c.receiver, ping_msg{state.env->cluster, c.life.inc, state.fleet});
}

// --- the policy's decisions ---------------------------------------------------------------------

class performer {
 public:
  explicit performer(pointer self) : self_(self), state_(self->state) {}

  void run(const supervision_fsm::actions& list) {
    auto* const drill = state_.env->drill.get();
    for (const auto& action : list) {
      if (drill != nullptr) drill->pass(action, moment::before);
      std::visit([this](const auto& a) { perform(a); }, action);
      if (drill != nullptr) drill->pass(action, moment::after);
    }
  }

 private:
  void perform(const act::admit& a) {
    const auto it = state_.children.find(a.who.id);
    if (!state_.trainer) return;
    if (it == state_.children.end() || !it->second.receiver) {
      // Heard of, by a pong that was under way, and not to be reached: until it announces itself.
      run(state_.policy->on_down(self_->clock().now(), a.who, false));
      return;
    }
    // Again before each try: the word may have been lost, and without it no answer comes.
    greet(self_, it->second);
    const auto& record = state_.policy->records().at(a.who.id);
    const auto& c = it->second;
    self_->send(state_.trainer->sender, admit_request{a.who, record.name, c.receiver, c.flusher,
                                                      c.model, c.taken, !c.bytes});
  }
  void perform(const act::down& a) {
    if (state_.trainer) self_->send(state_.trainer->sender, down_notice{a.who, a.reason});
  }
  void perform(const act::restart& a) {
    const auto it = state_.children.find(a.id);
    if (it == state_.children.end() || !it->second.bytes) return;
    state_.env->log->warn("{}: restarting", it->second.bytes->name());
    start_receiver(self_, it->second);
  }
  void perform(const act::gave_up& a) {
    auto& log = *state_.env->log;
    if (a.reason == errc::dead && !is_here(a.id))
      log.warn("receiver {} is gone, or its connection is; it is waited for", a.id);
    else if (a.reason != errc::detached)
      log.error("receiver {} is given up: {} {}", a.id, to_string(a.reason), a.detail);
    if (state_.trainer) self_->send(state_.trainer->sender, gave_up_notice{a.id, a.reason});
  }
  void perform(const act::silent& a) {
    state_.env->log->warn(
        "receiver {} is silent, or a rank does not reach it: no sync waits for it", a.id);
    if (state_.trainer) self_->send(state_.trainer->sender, gave_up_notice{a.id, errc::timeout});
  }

  /// Is it a receiver of this process, which nobody else can start again?
  bool is_here(receiver_id id) const {
    const auto it = state_.children.find(id);
    return it != state_.children.end() && it->second.bytes;
  }

  pointer self_;
  supervisor_state& state_;
};

}  // namespace

void supervising::note_phase(pointer self, receiver_id id) {
  auto& state = self->state;
  const auto it = state.policy->records().find(id);
  if (it == state.policy->records().end()) return;
  const auto& r = it->second;
  auto& note = state.phases[id];
  if (note.since != time_point{} && note.where == r.where && note.phase == r.state.phase) return;
  state.fanout.dirty |= note.where != r.where;
  note = {r.where, r.state.phase, self->clock().now()};
  replan(self);
}

void supervising::perform(pointer self, const supervision_fsm::actions& actions) {
  performer(self).run(actions);
  replan(self);
  auto& state = self->state;
  const auto due = state.policy->deadline(self->clock().now());
  state.timer.arm(self, due ? std::min(*due, state.next_ping) : state.next_ping);
}

namespace {

// --- the trainer's side -------------------------------------------------------------------------

/// Tells those who wait for a sync that `sender`, which has ended, will not finish it. Not sooner:
/// it may be reading the trainer's tensors until then.
void finish_lost(supervisor_state& state, const caf::actor_addr& sender) {
  for (const auto& sync : state.lost) {
    const auto ticket = sync.ticket.lock();
    if (!ticket || sync.sender != sender) continue;
    sync_report report;
    report.label = sync.label;
    report.result = sync_result::degraded;
    report.reason = errc::dead;
    report.detail = "the trainer's side ended during the sync";
    ticket->finish(std::move(report));
  }
  std::erase_if(state.lost, [&](const auto& sync) { return sync.sender == sender; });
}

}  // namespace

void supervising::end_trainer(pointer self, sequel next) {
  auto& state = self->state;
  if (!state.trainer) return;
  const auto group = *std::exchange(state.trainer, std::nullopt);
  state.fanout.dirty = true;
  self->send_exit(group.sender, caf::exit_reason::user_shutdown);
  self->send_exit(group.join, caf::exit_reason::user_shutdown);
  self->send_exit(group.snapshot, caf::exit_reason::user_shutdown);
  end_ranks(self, next);
  // It may be about to write: what is read from the store from here on stands.
  group.boot.store->take_over();
  if (!state.sync.ticket.expired()) state.lost.push_back(std::exchange(state.sync, {}));
}

namespace {

/// One failure domain: the death of any of the three ends them all. A new run takes over from the
/// snapshot's bytes, unless they were being written; receivers that hold them attach by digest.
void trainer_died(pointer self, const caf::actor_addr& source, const caf::error& reason) {
  auto& state = self->state;
  auto again = state.trainer->boot;
  state.env->log->critical("the trainer's side has died: {}", caf::to_string(reason));
  const bool fenced = state.trainer->fenced;
  end_trainer(self, fenced ? sequel::none : sequel::another_run);
  finish_lost(state, source);
  // Fenced: somebody else leads the fleet now, and a number of ours would only start a quarrel. And
  // of several ranks nobody knows which of them has advanced.
  if (fenced || again.store->torn() || state.env->options.transport.ranks > 1 ||
      ++state.trainer_restarts > state.env->options.supervision.restart_max) {
    state.env->log->critical("the trainer's side stays down: seed again");
    perform(self, state.policy->on_new_run(self->clock().now()));  // nobody is a member of anything
    return;
  }
  boot(self, std::move(again));
}

void on_down(pointer self, const caf::down_msg& m) {
  auto& state = self->state;
  const auto is = [&](const auto& handle) { return handle && handle.address() == m.source; };
  if (state.trainer &&
      (is(state.trainer->sender) || is(state.trainer->join) || is(state.trainer->snapshot))) {
    trainer_died(self, m.source, m.reason);
    return;
  }
  finish_lost(state, m.source);
  for (const auto& [rank, r] : state.ranks)
    if (is(r.link)) return rank_died(self, rank);
  for (auto& [id, c] : state.children) {
    if (is(c.receiver)) {
      if (c.flusher) self->send_exit(c.flusher, caf::exit_reason::user_shutdown);
      c.receiver = nullptr;
      c.flusher = nullptr;
      forget_orders(self, c);
      if (c.leaving) {
        c.leaving->set_value();
        state.children.erase(id);
        return;
      }
      // Of one elsewhere its link has said why, unless it broke.
      const auto level = c.bytes ? spdlog::level::warn : spdlog::level::debug;
      state.env->log->log(level, "receiver {} ended: {}", id, caf::to_string(m.reason));
      // Nobody renews or ends its lease now, and perhaps nobody ever will again.
      if (c.bytes) c.bytes->publish({false, receiver_phase::empty, {}, 0, errc::dead});
      perform(self, state.policy->on_down(self->clock().now(), c.life, c.bytes != nullptr));
      note_phase(self, id);
      return;
    }
    if (is(c.flusher)) {
      // Its stream is lost, and the join's deadline books that on the receiver. A new life gets a
      // new flusher with it; one that runs elsewhere is reached anew when it announces itself.
      state.env->log->error("the flusher of receiver {} ended: {}", id, caf::to_string(m.reason));
      c.flusher = nullptr;
      if (c.bytes) {
        if (c.receiver) self->send_exit(c.receiver, caf::exit_reason::kill);
        return;
      }
      unreach(self, c);
      perform(self, state.policy->on_down(self->clock().now(), c.life, false));
      return;
    }
  }
}

// --- questions from the embedding process -------------------------------------------------------

void on_sync(pointer self, sync_request& m) {
  auto& state = self->state;
  if (state.trainer) {
    state.sync = {state.trainer->sender.address(), m.label, m.ticket};
    self->send(state.trainer->sender, std::move(m));
    return;
  }
  sync_report refused;
  refused.label = m.label;
  refused.reason = state.fenced ? errc::fenced : errc::shut_down;
  refused.detail = state.fenced ? "a newer run of the trainer leads the fleet"
                                : "the trainer's side is down: seed again";
  m.ticket->finish(std::move(refused));
}

void on_add(pointer self, const add_engine& m) {
  auto& c = self->state.children[m.bytes->id()];
  c.bytes = m.bytes;
  start_receiver(self, c);
}

void on_remove(pointer self, const remove_engine& m) {
  auto& state = self->state;
  const auto it = state.children.find(m.id);
  if (it == state.children.end() || !it->second.receiver) {
    if (it != state.children.end()) state.children.erase(it);
    m.answer->set_value();
    return;
  }
  const auto& life = it->second.life;
  it->second.leaving = m.answer;
  const auto flusher = std::exchange(it->second.flusher, nullptr);
  if (flusher) self->send_exit(flusher, caf::exit_reason::user_shutdown);
  perform(self,
          state.policy->on_goodbye(self->clock().now(), {state.env->cluster, life.id, life.inc}));
  end_child(self, it->second);
}

void on_pong(pointer self, const pong_msg& m) {
  auto& state = self->state;
  if (m.cluster != state.env->cluster) return;
  perform(self, state.policy->on_pong(self->clock().now(), m));
  note_phase(self, m.id);
  const auto run = m.state.version.run;
  if (!state.trainer || run <= state.trainer->boot.run) return;
  if (!std::exchange(state.trainer->fenced, true))
    state.env->log->critical("receiver {} serves run {} of the trainer: this one is over", m.id,
                             run);
  state.fenced = true;
  self->send(state.trainer->sender, newer_run_notice{run});
}

/// Is what is being handled from the sender that leads the fleet now? What an ended run still had
/// to say would be booked on the one that follows, and would name a version that is over.
bool from_sender(pointer self) {
  const auto& trainer = self->state.trainer;
  return trainer && self->current_sender() &&
         trainer->sender.address() == self->current_sender()->address();
}

/// Who was given up or left while a sync still counted on it is put out of the view after the
/// sender has been told so: tell it again, or the sync waits for a recovery that nobody attempts.
void repeat_farewell(pointer self, receiver_id id) {
  const auto& records = self->state.policy->records();
  const auto it = records.find(id);
  if (it == records.end()) return;
  if (it->second.where == standing::gave_up || it->second.where == standing::detached)
    self->send(self->state.trainer->sender, gave_up_notice{id, it->second.reason});
}

void on_fleet(pointer self, const fleet_notice& m) {
  auto& state = self->state;
  state.fleet = m.version;
  for (const auto id : m.acknowledged) state.policy->on_acknowledged(id);
  // Whoever did not come along learns at once that it is behind.
  for (const auto& [id, c] : state.children) send_ping(self, c);
}

void on_tick(pointer self) {
  auto& state = self->state;
  const auto now = self->clock().now();
  state.timer.fired();
  if (now >= state.next_ping) {
    state.next_ping = now + std::chrono::milliseconds(state.env->options.receiver.ping_ms);
    // The lease is the trainer's word: without one nobody renews it.
    if (state.trainer)
      for (const auto& [id, c] : state.children) send_ping(self, c);
    repeat_orders(self);
  }
  if (state.waiting && state.waiting->request.deadline <= now)
    refuse_boot(self, errc::timeout, missing_ranks(state));
  say_who_is_missing(self);
  perform(self, state.policy->on_tick(now));
}

}  // namespace

supervisor_actor::behavior_type supervisor_behavior(pointer self,
                                                    std::shared_ptr<const actor_env> env) {
  auto& state = self->state;
  state.policy.emplace(env->options);
  state.env = std::move(env);
  state.next_ping = self->clock().now();
  self->set_down_handler([self](const caf::down_msg& m) { on_down(self, m); });
  self->set_exit_handler([self](const caf::exit_msg& m) {
    end_trainer(self, sequel::none);
    while (!self->state.lost.empty())
      finish_lost(self->state, caf::actor_addr(self->state.lost.back().sender));
    for (const auto& [id, c] : self->state.children) end_child(self, c);
    self->quit(m.reason);
  });
  perform(self, {});
  const auto now = [self] { return self->clock().now(); };
  return {
      [self](boot_request& m) {
        self->state.trainer_restarts = 0;
        self->state.fenced = false;
        boot(self, std::move(m));
      },
      [self](const end_request&) {
        if (self->state.waiting) refuse_boot(self, errc::shut_down, "the trainer has left");
        end_trainer(self, sequel::none);
        perform(self, self->state.policy->on_new_run(self->clock().now()));  // of no view now
      },
      [self](sync_request& m) { on_sync(self, m); },
      [self](const hurry_request& m) {
        if (const auto& t = self->state.trainer) self->send(t->sender, m);
      },
      [self](const add_engine& m) { on_add(self, m); },
      [self](const remove_engine& m) { on_remove(self, m); },
      [self](const hello_msg& m) { on_hello(self, m); },
      [self](const pong_msg& m) { on_pong(self, m); },
      [self](const goodbye_msg& m) { on_goodbye(self, m); },
      [self](const relay_offer_msg& m) { on_offer(self, m); },
      [self](const relay_link_msg& m) { on_relay_link(self, m); },
      [self](const relay_stalled& m) { on_stalled(self, m); },
      [self, now](const sync_action::evicted& m) {
        if (!from_sender(self)) return;
        auto& s = self->state;
        // Who leaves on purpose is nothing to warn of.
        s.env->log->log(m.reason == errc::detached ? spdlog::level::info : spdlog::level::warn,
                        "receiver {} is out of the view: {} {}", m.who.id, to_string(m.reason),
                        m.detail);
        perform(self, s.policy->on_evicted(now(), m.who, m.reason, m.detail));
        note_phase(self, m.who.id);
        repeat_farewell(self, m.who.id);
      },
      [self, now](const sync_action::admitted& m) {
        if (!from_sender(self)) return;
        constexpr std::array how{"", ", caught up by what it had missed",
                                 ", seeded with all weights"};
        self->state.env->log->info("receiver {} is in the view{}", m.who.id,
                                   how[static_cast<std::size_t>(m.how)]);
        perform(self, self->state.policy->on_admitted(now(), m.who, m.how));
        note_phase(self, m.who.id);
      },
      [self, now](const sync_action::not_admitted& m) {
        if (!from_sender(self)) return;
        self->state.env->log->warn("receiver {} could not be admitted: {} {}", m.who.id,
                                   to_string(m.reason), m.detail);
        if (const auto c = self->state.children.find(m.who.id);
            m.reason == errc::wrong_layout && c != self->state.children.end() &&
            c->second.receiver && c->second.life == m.who)
          refuse(self, c->second.receiver, m.who.inc, m.reason,
                 "its model is not the trainer's: other tensors, dtypes or shapes, or split into "
                 "other rows");
        perform(self, self->state.policy->on_not_admitted(now(), m.who, m.reason, m.detail));
        note_phase(self, m.who.id);
      },
      [self](const fleet_notice& m) {
        if (from_sender(self)) on_fleet(self, m);
      },
      [self](shard_hello_msg& m) { on_rank(self, m); },
      [self](const shard_result_msg& m) { on_rank_result(self, m); },
      [self](const shard_reach_msg& m) { on_reach(self, m); },
      [self](const shard_stalled_msg& m) { on_rank_stalled(self, m); },
      [self](const observe_request& m) { on_observe(self, m); },
      [self](const tick&) { on_tick(self); },
  };
}

}  // namespace lockstep
