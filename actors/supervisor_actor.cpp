// The supervisor: starts all others, watches them, and performs what the supervision policy
// decides.
#include <spdlog/spdlog.h>

#include <exception>

#include "actors/encoding.hpp"
#include "actors/states.hpp"

namespace lockstep {

namespace {

namespace act = supervision_action;
using pointer = supervisor_actor::stateful_pointer<supervisor_state>;

// --- receivers ----------------------------------------------------------------------------------

void greet(pointer self, const supervisor_state::child& c) {
  const auto& trainer = self->state.trainer;
  if (trainer && c.receiver) self->send(c.receiver, welcome{trainer->boot.run, trainer->join});
}

void start_flusher(pointer self, supervisor_state::child& c) {
  c.flusher = self->spawn<caf::monitored>(flusher_behavior, c.life.id, c.receiver,
                                          self->state.env->options.bucket.credit, c.sent_bytes);
  greet(self, c);
}

/// Forgets how a receiver that runs elsewhere was reached.
void unreach(pointer self, supervisor_state::child& c) {
  if (c.receiver) self->demonitor(c.receiver.address());
  if (c.flusher) {
    self->demonitor(c.flusher.address());
    self->send_exit(c.flusher, caf::exit_reason::user_shutdown);
  }
  c.receiver = nullptr;
  c.flusher = nullptr;
}

/// A receiver that runs elsewhere is reached by the handle that its life announced itself from.
void reach(pointer self, const hello_msg& m) {
  const auto from = caf::actor_cast<receiver_actor>(self->current_sender());
  const auto& records = self->state.policy->records();
  const auto known = records.find(m.id);
  if (!from || known == records.end() || known->second.inc != m.inc) return;  // not listened to
  auto& c = self->state.children[m.id];
  if (c.receiver == from && c.life.inc == m.inc) return;
  unreach(self, c);
  c.life = {m.id, m.inc};
  c.receiver = from;
  self->monitor(from);
  start_flusher(self, c);
}

void start_receiver(pointer self, supervisor_state::child& c) {
  auto& state = self->state;
  const incarnation inc{state.env->entropy(), state.env->entropy()};
  c.life = {c.bytes->id(), inc};
  c.receiver = self->spawn<caf::monitored>(receiver_behavior, state.env, c.bytes, inc,
                                           supervisor_actor(self));
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
    for (const auto& action : list) std::visit([this](const auto& a) { perform(a); }, action);
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
    self_->send(state_.trainer->sender,
                admit_request{a.who, record.name, it->second.receiver, it->second.flusher});
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
    if (a.reason != errc::detached)
      state_.env->log->error("receiver {} is given up: {} {}", a.id, to_string(a.reason), a.detail);
    if (state_.trainer) self_->send(state_.trainer->sender, gave_up_notice{a.id, a.reason});
  }

  pointer self_;
  supervisor_state& state_;
};

/// Notes what a receiver has become, if it has become something else.
void note_phase(pointer self, receiver_id id) {
  auto& state = self->state;
  const auto it = state.policy->records().find(id);
  if (it == state.policy->records().end()) return;
  const auto& r = it->second;
  auto& note = state.phases[id];
  if (note.since != time_point{} && note.where == r.where && note.phase == r.state.phase) return;
  note = {r.where, r.state.phase, self->clock().now()};
}

void perform(pointer self, const supervision_fsm::actions& actions) {
  performer(self).run(actions);
  auto& state = self->state;
  const auto due = state.policy->deadline(self->clock().now());
  state.timer.arm(self, due ? std::min(*due, state.next_ping) : state.next_ping);
}

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

void end_trainer(pointer self) {
  auto& state = self->state;
  if (!state.trainer) return;
  const auto group = *std::exchange(state.trainer, std::nullopt);
  self->send_exit(group.sender, caf::exit_reason::user_shutdown);
  self->send_exit(group.join, caf::exit_reason::user_shutdown);
  self->send_exit(group.snapshot, caf::exit_reason::user_shutdown);
  // It may be about to write: what is read from the store from here on stands.
  group.boot.store->take_over();
  if (!state.sync.ticket.expired()) state.lost.push_back(std::exchange(state.sync, {}));
}

/// Starts the trainer's side over what all ranks hold; `others`: the digests of their parts.
void start_group(pointer self, boot_request m, digest others) {
  auto& state = self->state;
  const auto mine = m.store->read(
      [](const tensor_views& tensors) { return digest_of(public_digest_seed, tensors); });
  const target_info part{{m.run, 0}, mine, m.store->label()};
  const target_info held{part.version, mine + others, part.label};
  supervisor_state::trainer_group group;
  group.snapshot = self->spawn<caf::monitored>(snapshot_behavior, state.env, m.store, part,
                                               m.store->take_over());
  group.join = self->spawn<caf::monitored>(join_behavior, group.snapshot);
  sender_setup setup{state.env,  m.store,        m.run,
                     held,       m.shape,        {},
                     group.join, group.snapshot, supervisor_actor(self)};
  for (const auto& [rank, r] : state.ranks) setup.ranks.push_back(r.link);
  group.sender = self->spawn<caf::monitored>(sender_behavior, std::move(setup));
  state.fleet = held.version;
  const auto answer = std::exchange(m.answer, nullptr);
  group.boot = std::move(m);
  state.trainer = std::move(group);
  for (const auto& [id, c] : state.children) greet(self, c);
  perform(self, state.policy->on_new_run(self->clock().now()));
  if (answer) answer->set_value(held.version);
}

// --- the ranks of the trainer -------------------------------------------------------------------

void refuse_boot(pointer self, errc reason, const std::string& detail) {
  auto request = std::move(self->state.waiting->request);
  self->state.waiting.reset();
  self->state.env->log->error("the trainer's side cannot start: {}", detail);
  if (request.answer) request.answer->set_exception(std::make_exception_ptr(error(reason, detail)));
}

/// Empty if the parts of all ranks are the model.
std::string misfit_of_ranks(const supervisor_state& state, const boot_request& m) {
  auto owners = m.owned;
  for (const auto& [rank, r] : state.ranks) {
    if (r.hello.layout != m.shape.fingerprint())
      return "rank " + std::to_string(rank) + " has another model";
    const auto owned = unpacked_mask(r.hello.owned, m.shape.count());
    if (!owned) return "rank " + std::to_string(rank) + " owns what there is not";
    for (std::size_t i = 0; i < owners.size(); ++i) {
      if ((*owned)[i] && owners[i]) return "two ranks own tensor '" + m.shape[i].name + "'";
      owners[i] = owners[i] || (*owned)[i];
    }
  }
  const auto orphan = std::ranges::find(owners, false) - owners.begin();
  if (orphan == std::ssize(owners)) return {};
  return "no rank owns tensor '" + m.shape[static_cast<std::size_t>(orphan)].name + "'";
}

/// Goes on with a boot that waits for other ranks, as far as that can be.
void advance_boot(pointer self) {
  auto& state = self->state;
  if (!state.waiting) return;
  auto& w = *state.waiting;
  const auto others = state.env->options.transport.ranks - 1;
  if (state.ranks.size() < others) return;
  if (!w.asked) {
    if (const auto misfit = misfit_of_ranks(state, w.request); !misfit.empty())
      return refuse_boot(self, errc::wrong_layout, misfit);
    w.asked = true;
    for (const auto& [rank, r] : state.ranks)
      self->send(r.link, shard_task_msg{state.env->cluster,
                                        shard_task::seed,
                                        {w.request.run, 0},
                                        w.request.store->label(),
                                        0});
  }
  if (w.seeded.size() < others) return;
  digest sum;
  for (const auto& [rank, d] : w.seeded) sum = sum + d;
  auto request = std::move(w.request);
  state.waiting.reset();
  start_group(self, std::move(request), sum);
}

void boot(pointer self, boot_request m) {
  auto& state = self->state;
  end_trainer(self);
  if (state.waiting) refuse_boot(self, errc::busy, "another start has taken its place");
  // A version names one content for ever, so no two runs may share a number, whatever the clock
  // that they were drawn from did and however often a run was restarted under the next one.
  m.run = state.last_run = std::max(m.run, state.last_run + 1);
  if (state.env->options.transport.ranks == 1) {
    m.shape = m.store->shape();
    return start_group(self, std::move(m), {});
  }
  state.waiting.emplace().request = std::move(m);
  advance_boot(self);
}

/// One failure domain: without a part of the model the rest leads nowhere.
void rank_died(pointer self, std::uint32_t rank) {
  auto& state = self->state;
  state.ranks.erase(rank);
  state.env->log->error("rank {} of the trainer is gone", rank);
  if (state.waiting && state.waiting->asked)
    refuse_boot(self, errc::dead, "rank " + std::to_string(rank) + " is gone");
  if (!state.trainer) return;
  state.env->log->critical("the trainer's side is over: seed again");
  end_trainer(self);
  perform(self, state.policy->on_new_run(self->clock().now()));  // nobody is a member of anything
}

/// A rank announces itself.
void on_rank(pointer self, shard_hello_msg& m) {
  auto& state = self->state;
  const auto ranks = state.env->options.transport.ranks;
  if (m.cluster != state.env->cluster || m.rank == 0 || m.rank >= ranks || m.ranks != ranks) {
    state.env->log->error("rank {} of {} is none of this trainer's {}", m.rank, m.ranks, ranks);
    return;
  }
  const auto from = caf::actor_cast<rank_link_actor>(self->current_sender());
  if (const auto known = state.ranks.find(m.rank); known != state.ranks.end()) {
    if (known->second.link == from) return;
    self->demonitor(known->second.link.address());
    self->send_exit(known->second.link, caf::exit_reason::user_shutdown);
    rank_died(self, m.rank);
  }
  self->monitor(from);
  state.env->log->info("rank {} is there", m.rank);
  state.ranks[m.rank] = {from, std::move(m)};
  advance_boot(self);
}

void on_rank_result(pointer self, const shard_result_msg& m) {
  auto& state = self->state;
  const auto rank = state.ranks.find(m.rank);
  if (!state.waiting || m.what != shard_task::seed || rank == state.ranks.end() ||
      rank->second.hello.inc != m.inc || m.txn.run != state.waiting->request.run)
    return;
  if (m.reason != errc::none)
    return refuse_boot(self, m.reason, "rank " + std::to_string(m.rank) + ": " + m.detail);
  state.waiting->seeded[m.rank] = m.state;
  advance_boot(self);
}

/// One failure domain: the death of any of the three ends them all. A new run takes over from the
/// snapshot's bytes, unless they were being written; receivers that hold them attach by digest.
void trainer_died(pointer self, const caf::actor_addr& source, const caf::error& reason) {
  auto& state = self->state;
  auto again = state.trainer->boot;
  state.env->log->critical("the trainer's side has died: {}", caf::to_string(reason));
  const bool fenced = state.trainer->fenced;
  end_trainer(self);
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
      if (c.leaving) {
        c.leaving->set_value();
        state.children.erase(id);
        return;
      }
      state.env->log->warn("receiver {} ended: {}", id, caf::to_string(m.reason));
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

std::uint64_t milliseconds_since(time_point then, time_point now) {
  if (then == time_point{} || then >= now) return 0;
  return static_cast<std::uint64_t>(
      std::chrono::duration_cast<std::chrono::milliseconds>(now - then).count());
}

std::vector<receiver_status> statuses(const supervisor_state& state, time_point now) {
  std::vector<receiver_status> out;
  for (const auto& [id, r] : state.policy->records()) {
    receiver_status s;
    s.id = id;
    s.name = r.name;
    s.state = r.state;
    s.heard_ms = milliseconds_since(r.last_heard, now);
    if (const auto it = state.children.find(id); it != state.children.end()) {
      // Of this process: not as old as the last pong.
      if (it->second.bytes) s.state = it->second.bytes->state();
      s.sent_bytes = *it->second.sent_bytes;
    }
    if (const auto it = state.phases.find(id); it != state.phases.end())
      s.phase_ms = milliseconds_since(it->second.since, now);
    s.member = r.where == standing::member;
    s.standing = to_string(r.where);
    s.reason = r.reason;
    s.detail = r.detail;
    s.reseeds = r.reseeds;
    s.restarts = r.restarts;
    out.push_back(std::move(s));
  }
  return out;
}

void start_audit(pointer self, std::function<void(observation)> answer) {
  auto& state = self->state;
  if (!state.trainer) {
    observation none;
    none.end.reason = state.fenced ? errc::fenced : errc::shut_down;
    return answer(std::move(none));
  }
  audit_setup setup{state.env, state.trainer->snapshot, {}, state.trainer->boot.shape,
                    {},        std::move(answer)};
  for (const auto& [rank, r] : state.ranks) setup.ranks.push_back(r.link);
  for (const auto& [id, r] : state.policy->records()) {
    if (r.where == standing::detached) continue;  // it is nobody's engine any more
    audit_target t{{id, r.inc}, r.name, {}, {}};
    const auto it = state.children.find(id);
    if (it != state.children.end() && it->second.receiver && it->second.life.inc == r.inc)
      t.receiver = it->second.receiver;
    else
      t.why_not = "it is not to be reached: " + std::string(to_string(r.reason));
    setup.targets.push_back(std::move(t));
  }
  self->spawn(auditor_behavior, std::move(setup));
}

void on_observe(pointer self, const observe_request& m) {
  if (m.what == question::audit) return start_audit(self, m.answer);
  auto& state = self->state;
  observation out;
  out.states = statuses(state, self->clock().now());
  out.end.lines = static_cast<std::uint32_t>(out.states.size());
  if (state.trainer)
    out.end.fleet = state.fleet;
  else
    out.end.reason = state.fenced ? errc::fenced : errc::shut_down;
  m.answer(std::move(out));
}

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

/// A number belongs to the name that had it first until that one leaves on purpose: names may be
/// proven by certificates, numbers are not.
bool takes_anothers_place(const supervisor_state& state, const hello_msg& m) {
  const auto& records = state.policy->records();
  const auto known = records.find(m.id);
  return known != records.end() && known->second.where != standing::detached &&
         !known->second.name.empty() && known->second.name != m.name;
}

void on_hello(pointer self, const hello_msg& m) {
  auto& state = self->state;
  if (m.cluster != state.env->cluster) return;
  const auto it = state.children.find(m.id);
  const bool ours = it != state.children.end() && it->second.bytes;
  if (ours && (!self->current_sender() || !it->second.receiver ||
               it->second.receiver.address() != self->current_sender()->address())) {
    state.env->log->error("receiver {} of this process is announced from elsewhere too", m.id);
    return;
  }
  if (!ours && takes_anothers_place(state, m)) {
    state.env->log->error("receiver {} is '{}', and is not taken over by '{}'", m.id,
                          state.policy->records().at(m.id).name, m.name);
    return;
  }
  const auto actions = state.policy->on_hello(self->clock().now(), m);
  if (!ours) reach(self, m);
  perform(self, actions);
  note_phase(self, m.id);
}

void on_goodbye(pointer self, const goodbye_msg& m) {
  auto& state = self->state;
  if (m.cluster != state.env->cluster) return;
  perform(self, state.policy->on_goodbye(self->clock().now(), m));
  note_phase(self, m.id);
  const auto it = state.children.find(m.id);
  if (it == state.children.end() || it->second.bytes || it->second.life.inc != m.inc) return;
  unreach(self, it->second);
  state.children.erase(it);
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
  }
  if (state.waiting && state.waiting->request.deadline <= now)
    refuse_boot(self, errc::timeout, "not every rank has come and seeded its part");
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
    end_trainer(self);
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
        end_trainer(self);
        perform(self, self->state.policy->on_new_run(self->clock().now()));  // of no view now
      },
      [self](sync_request& m) { on_sync(self, m); },
      [self](const add_engine& m) { on_add(self, m); },
      [self](const remove_engine& m) { on_remove(self, m); },
      [self](const hello_msg& m) { on_hello(self, m); },
      [self](const pong_msg& m) { on_pong(self, m); },
      [self](const goodbye_msg& m) { on_goodbye(self, m); },
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
        self->state.env->log->info("receiver {} is in the view{}", m.who.id,
                                   m.reseeded ? ", seeded with all weights" : "");
        perform(self, self->state.policy->on_admitted(now(), m.who, m.reseeded));
        note_phase(self, m.who.id);
      },
      [self, now](const sync_action::not_admitted& m) {
        if (!from_sender(self)) return;
        self->state.env->log->warn("receiver {} could not be admitted: {} {}", m.who.id,
                                   to_string(m.reason), m.detail);
        perform(self, self->state.policy->on_not_admitted(now(), m.who, m.reason, m.detail));
        note_phase(self, m.who.id);
      },
      [self](const fleet_notice& m) {
        if (from_sender(self)) on_fleet(self, m);
      },
      [self](shard_hello_msg& m) { on_rank(self, m); },
      [self](const shard_result_msg& m) { on_rank_result(self, m); },
      [self](const observe_request& m) { on_observe(self, m); },
      [self](const tick&) { on_tick(self); },
  };
}

}  // namespace lockstep
