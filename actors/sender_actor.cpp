// The sender: performs what the sync machine asks for, and measures it.
#include <spdlog/spdlog.h>

#include <algorithm>

#include "actors/encoding.hpp"
#include "actors/states.hpp"
#include "protocol/deadlines.hpp"

namespace lockstep {

namespace {

namespace act = sync_action;
using pointer = sender_actor::stateful_pointer<sender_state>;

/// How long another rank may take: its trainer may come to the sync later than this one's.
std::chrono::milliseconds patience_with_ranks(const settings& s, const layout& shape) {
  return std::chrono::milliseconds(s.sync.recovery_timeout_ms) +
         2 * transfer_time(s, shape.total_bytes());
}

class performer {
 public:
  explicit performer(pointer self)
      : self_(self), state_(self->state), env_(*state_.setup.env), now_(self->clock().now()) {}

  void run(const sync_fsm::actions& list) {
    auto* const drill = env_.drill.get();
    for (const auto& action : list) {
      if (drill != nullptr) drill->pass(action, moment::before);
      std::visit([this](const auto& a) { perform(a); }, action);
      if (drill != nullptr) drill->pass(action, moment::after);
    }
  }

  /// Begins to gather what every rank of the trainer has to say, this one included.
  void ask_ranks(shard_task what, txn_ref txn, std::uint64_t label, std::uint64_t challenge) {
    auto& g = state_.gathering;
    g = {what, txn, challenge, {}, now_ + patience_with_ranks(env_.options, state_.setup.shape)};
    g.parts.resize(1 + state_.setup.ranks.size());
    for (const auto& rank : state_.setup.ranks)
      self_->send(rank, shard_task_msg{env_.cluster, what, txn, label, challenge});
  }

  /// What leads here from the earliest of those who are behind, from all ranks; all weights where
  /// nobody is left.
  void plan(txn_ref txn) {
    const auto challenge = env_.entropy();
    const auto steps = state_.laggards.empty() ? 0 : state_.laggards.rbegin()->first;
    ask_ranks(shard_task::plan, txn, steps, challenge);
    self_->send(state_.setup.snapshot, full_request{txn, challenge, steps});
  }

  /// What the other ranks have made for this transaction is of no use any more.
  void drop_at_ranks(txn_ref txn) {
    state_.gathering = {};
    for (const auto& rank : state_.setup.ranks)
      self_->send(rank, shard_task_msg{env_.cluster, shard_task::drop, txn, 0, 0});
  }

 private:
  envelope to(txn_ref txn, const participant& who) const { return {env_.cluster, txn, who.inc}; }
  const sender_state::route* route(const participant& who) const {
    const auto it = state_.routes.find(who);
    return it == state_.routes.end() ? nullptr : &it->second;
  }
  /// Sends what `make(envelope)` returns to each of `who`.
  template <class Make>
  void send_each(txn_ref txn, const std::vector<participant>& who, Make make) {
    for (const auto& p : who)
      if (const auto* r = route(p)) self_->send(r->receiver, make(to(txn, p)));
  }
  /// Who may have a shipment from each other; nothing where nobody passes anything on. The other
  /// ranks are told, before they are asked to ship.
  std::shared_ptr<const shipped_to> among(txn_ref txn, const std::vector<participant>& who,
                                          std::uint32_t round) {
    if (env_.options.transport.fanout == 0 || who.size() < 2) return {};
    auto ids = std::make_shared<shipped_to>();
    for (const auto& p : who) ids->push_back(p.id);
    std::ranges::sort(*ids);
    for (const auto& rank : state_.setup.ranks)
      self_->send(rank, shard_among_msg{env_.cluster, txn, round, packed_ids(*ids)});
    return ids;
  }
  /// Announces all buckets and ships this rank's; the other ranks ship theirs.
  template <class Make>
  void ship_each(txn_ref txn, const std::vector<participant>& who, std::uint32_t round,
                 const std::shared_ptr<bucket_source>& source,
                 const std::vector<std::uint32_t>& firsts, Make make) {
    // Only deltas are staged by who passes them on, and a redo may differ from what came first.
    const bool passed_on = source != state_.full && round == 0;
    const auto ids = passed_on ? among(txn, who, round) : nullptr;
    for (const auto& p : who) {
      const auto* r = route(p);
      if (r == nullptr) continue;
      self_->send(r->flusher, ship_request{make(to(txn, p)), source, ids});
      for (std::size_t i = 0; i < state_.setup.ranks.size(); ++i)
        self_->send(state_.setup.ranks[i], shard_ship_msg{env_.cluster, txn, p.id, p.inc, firsts[i],
                                                          round, source == state_.full});
    }
  }

  void perform(const act::encode& a) {
    auto& m = state_.measures;
    m = {};
    m.started = now_;
    const auto failed = failure_of([&] {
      if (!state_.current.ticket->begin_reading())
        throw error(errc::timeout, "the trainer has stopped waiting for its tensors to be read");
      encode(a);
    });
    state_.current.ticket->tensors_read();
    state_.current.tensors = nullptr;
    if (!failed) return;
    drop_at_ranks(a.txn);
    run(state_.machine->on_encode_failed(now_, a.txn, failed->first, failed->second));
  }

  void encode(const act::encode& a) {
    const auto challenge = env_.entropy();
    // The other ranks meanwhile do the same.
    ask_ranks(shard_task::encode, a.txn, a.label, challenge);
    auto made = encode_against(*state_.setup.store, state_.current.tensors, env_.options);
    state_.delta = std::move(made.delta);
    state_.challenge = challenge;
    auto& mine = state_.gathering.parts.front();
    mine.content = state_.delta->content();
    mine.state = made.state;
    self_->send(state_.setup.snapshot, stage_request{a.txn,
                                                     a.base.version,
                                                     {{a.txn.run, a.txn.seq}, made.state, a.label},
                                                     state_.delta,
                                                     challenge});
  }

  void perform(const act::prove& a) {
    const auto challenge = env_.entropy();
    ask_ranks(shard_task::prove, a.txn, 0, challenge);
    self_->send(state_.setup.snapshot, prove_request{a.txn, challenge});
  }
  void perform(const act::encode_full& a) {
    state_.laggards.clear();
    const auto& known = state_.states;
    for (const auto& held : a.held)
      if (const auto it = std::find(known.rbegin(), known.rend(), held); it != known.rend())
        state_.laggards[static_cast<std::size_t>(it - known.rbegin()) + 1] = held;
    plan(a.txn);
  }
  void perform(const act::open_round& a) {
    if (a.spec.kind == round_kind::commit) state_.measures.voted = now_;
    self_->send(state_.setup.join, a.spec);
  }
  void perform(const act::hurry_round& a) { self_->send(state_.setup.join, a.what); }
  void perform(const act::send_attach& a) {
    const auto layout_print = state_.setup.shape.fingerprint();
    send_each(a.txn, a.who, [&](const envelope& env) {
      return attach_msg{env, a.target, layout_print, a.challenge};
    });
  }
  void perform(const act::ship_delta& a) {
    state_.measures.sent_bytes += state_.measures.wire_bytes * a.who.size();
    const auto& d = state_.delta_plan;
    ship_each(a.txn, a.who, 0, state_.delta, d.firsts, [&](const envelope& env) {
      return prepare_msg{env, a.base.version, a.base.state, a.target, d.content};
    });
  }
  void perform(const act::ship_redo& a) {
    // Who is torn cannot read what is coded against the base. With several ranks nobody comes here.
    const bool coded = state_.absorbing && state_.setup.ranks.empty();
    const auto source = coded ? state_.absorbing : state_.delta;
    const auto& content = coded ? source->content() : state_.delta_plan.content;
    state_.measures.sent_bytes += content.bytes * a.who.size();
    ship_each(a.txn, a.who, a.round, source, state_.delta_plan.firsts, [&](const envelope& env) {
      return redo_msg{env, a.target, content, a.challenge, a.round};
    });
  }
  void perform(const act::ship_full& a) {
    const auto& f = state_.full_plan;
    auto& m = state_.measures;
    (a.catch_up ? m.catch_up_bytes : m.reseed_bytes) += f.content.bytes * a.who.size();
    ship_each(a.txn, a.who, 0, state_.full, f.firsts, [&](const envelope& env) {
      return full_begin_msg{env, a.target, f.content, a.challenge, a.catch_up};
    });
  }
  void perform(const act::send_commit& a) {
    send_each(a.txn, a.who, [&](const envelope& env) {
      return commit_msg{env, a.target_state, a.challenge, a.round};
    });
  }
  void perform(const act::send_abort& a) {
    state_.measures.voted = now_;
    send_each(a.txn, a.who, [](const envelope& env) { return abort_msg{env}; });
  }
  void perform(const act::conclude& a) {
    state_.measures.committed = now_;
    self_->send(state_.setup.join, conclude_request{a.txn, a.view});
  }
  void perform(const act::release& a) {
    for (const auto& [who, r] : state_.routes) self_->send(r.flusher, stop_request{a.txn});
    self_->send(state_.setup.snapshot, drop_request{a.txn});
    drop_at_ranks(a.txn);
    state_.delta.reset();
    state_.absorbing.reset();
    state_.full.reset();
  }
  void perform(const act::mark_down& a) {
    self_->send(state_.setup.join, down_notice{a.who, a.reason});
  }
  void perform(const act::evicted& a) { self_->send(state_.setup.supervisor, a); }
  void perform(const act::admitted& a) { self_->send(state_.setup.supervisor, a); }
  void perform(const act::not_admitted& a) { self_->send(state_.setup.supervisor, a); }

  void perform(const act::finish& a) {
    auto report = a.report;
    complete(report);
    const auto level =
        report.result == sync_result::ok ? spdlog::level::debug : spdlog::level::warn;
    env_.log->log(level, "sync {} ({} -> {}): {} {} {}", report.label, to_string(report.base),
                  to_string(report.target), to_string(report.result), to_string(report.reason),
                  report.detail);
    const auto ticket = std::exchange(state_.current, {}).ticket;
    ticket->finish(std::move(report));
  }

  void complete(sync_report& r) const {
    using seconds = sync_report::seconds;
    const auto& m = state_.measures;
    const auto& shape = state_.setup.shape;
    r.full_bytes = shape.total_bytes();
    for (std::size_t i = 0; i < shape.count(); ++i)
      r.elements += shape.bytes(i) / unit_bytes(shape[i].type);
    r.wire_bytes = m.wire_bytes;
    r.sent_bytes = m.sent_bytes;
    r.reseed_bytes = m.reseed_bytes;
    r.catch_up_bytes = m.catch_up_bytes;
    r.changed = m.changed;
    const auto between = [](time_point from, time_point until) {
      return until > from && from != time_point{} ? seconds(until - from) : seconds(0);
    };
    r.encode = between(m.started, m.encoded);
    r.ship = between(m.encoded, m.shipped);
    r.vote = between(std::max(m.encoded, m.shipped), m.voted);
    r.commit = between(m.voted, m.committed);
    if (r.result != sync_result::ok) r.recover = between(m.committed, now_);
    r.total = between(m.started, now_);
    for (auto& p : r.participants)
      for (const auto& [who, known] : state_.routes)
        if (who.id == p.id) p.name = known.name;
  }

  pointer self_;
  sender_state& state_;
  const actor_env& env_;
  time_point now_;
};

void advanced(pointer self, const advance_result& m);

void perform(pointer self, const sync_fsm::actions& actions) {
  performer(self).run(actions);
  if (self->state.machine->phase() == sync_phase::failed) {
    // The supervisor starts the trainer's side anew, as another run, if the snapshot is whole.
    self->quit(caf::make_error(caf::sec::runtime_error, "the run cannot go on"));
    return;
  }
  auto due = self->state.machine->deadline();
  const auto& g = self->state.gathering;
  // This rank's own work has no deadline, others' has.
  if (g.parts.size() > 1 && (!due || g.deadline < *due)) due = g.deadline;
  self->state.timer.arm(self, due);
}

// --- the ranks of the trainer -------------------------------------------------------------------

/// Where each rank's buckets begin among all, but this one's, which come first.
shard_plan plan_of(const sender_state& state, const std::vector<shard_result_msg>& parts) {
  std::vector<manifest> contents;
  for (const auto& p : parts) contents.push_back(p.content);
  shard_plan out{merged(contents, state.setup.shape.fingerprint()), {}};
  std::size_t first = 0;
  for (std::size_t i = 0; i + 1 < contents.size(); ++i) {
    first += contents[i].buckets.size();
    out.firsts.push_back(static_cast<std::uint32_t>(first));
  }
  return out;
}

/// Whether all ranks know what has changed, and that is less than all weights.
bool worth_it(const sender_state& state, const std::vector<shard_result_msg>& parts) {
  std::uint64_t bytes = 0;
  for (const auto& p : parts) {
    if (p.reason == errc::wrong_base) return false;
    bytes += p.content.bytes;
  }
  return bytes < state.setup.shape.total_bytes() &&
         bytes <= state.setup.env->options.receiver.staged_bytes_max;
}

/// All have answered: goes on with the sum of what they said.
void gathered(pointer self) {
  auto& s = self->state;
  const auto now = self->clock().now();
  const auto g = std::exchange(s.gathering, {});
  const auto bad =
      std::ranges::find_if(g.parts, [](const auto& p) { return p.reason != errc::none; });
  digest state, proof;
  for (const auto& p : g.parts) {
    state = state + p.state;
    proof = proof + p.proof;
  }
  const bool failed = bad != g.parts.end();
  const auto rank = bad - g.parts.begin();
  const auto detail = !failed || rank == 0 ? (failed ? bad->detail : std::string())
                                           : "rank " + std::to_string(rank) + ": " + bad->detail;
  if (g.what == shard_task::encode && failed) {
    performer(self).drop_at_ranks(g.txn);
    return perform(self, s.machine->on_encode_failed(now, g.txn, bad->reason, detail));
  }
  if (g.what == shard_task::encode) {
    s.measures.encoded = now;
    s.delta_plan = plan_of(s, g.parts);
    s.target_state = state;
    s.measures.wire_bytes = s.delta_plan.content.bytes;
    s.measures.changed = s.delta_plan.content.changed;
    return perform(
        self, s.machine->on_encoded(now, g.txn, s.measures.wire_bytes, state, s.challenge, proof));
  }
  if (g.what == shard_task::advance) {
    advanced(self, {g.txn, failed ? bad->reason : errc::none, detail});
    return;
  }
  if (g.what == shard_task::plan && !s.laggards.empty() && !worth_it(s, g.parts)) {
    // Not for who was away longest; perhaps for the others.
    s.laggards.erase(std::prev(s.laggards.end()));
    performer(self).plan(g.txn);
    return s.timer.arm(self, s.gathering.deadline);
  }
  if (failed) {
    // What a rank holds is not known: nobody can be admitted from it.
    s.setup.env->log->critical("a rank cannot {}: {}", to_string(g.what), detail);
    return self->quit(caf::make_error(caf::sec::runtime_error, "a rank cannot go on"));
  }
  if (g.what == shard_task::prove)
    return perform(self, s.machine->on_proof(now, g.txn, g.challenge, proof));
  s.full_plan = plan_of(s, g.parts);
  std::vector<digest> known;
  for (const auto& [steps, held] : s.laggards) known.push_back(held);
  perform(self, s.machine->on_full_encoded(now, g.txn, s.full_plan.content.bytes, g.challenge,
                                           proof, known));
}

/// One rank has answered.
void add_part(pointer self, std::size_t rank, shard_result_msg m) {
  auto& g = self->state.gathering;
  if (m.what != g.what || m.txn != g.txn || rank >= g.parts.size() || g.parts[rank].rank != 0)
    return;
  m.rank = static_cast<std::uint32_t>(rank) + 1;  // marks that it is there
  g.parts[rank] = std::move(m);
  if (std::ranges::all_of(g.parts, [](const auto& p) { return p.rank != 0; })) gathered(self);
}

/// Somebody has not answered in time.
void give_up_ranks(pointer self) {
  auto& g = self->state.gathering;
  if (g.parts.size() <= 1 || self->clock().now() < g.deadline) return;
  for (auto& p : g.parts) {
    if (p.rank != 0) continue;
    p.rank = 1;
    p.reason = errc::timeout;
    p.detail = "it does not answer";
  }
  gathered(self);
}

void on_sync(pointer self, sync_request& m) {
  auto& state = self->state;
  if (state.current.ticket) {
    // The embedding interface waits for one sync before it starts the next.
    sync_report refused;
    refused.label = m.label;
    refused.base = refused.target = state.machine->snapshot().version;
    refused.reason = errc::busy;
    m.ticket->finish(std::move(refused));
    return;
  }
  const auto label = m.label;
  state.current = std::move(m);
  state.measures = {};  // a refusal measures nothing
  perform(self, state.machine->on_sync(self->clock().now(), label));
}

/// What the snapshot was until now.
void remember(sender_state& state, const digest& left) {
  if (state.setup.env->options.sync.history_percent == 0) return;
  state.states.push_back(left);
  if (state.states.size() > change_history::steps_max) state.states.pop_front();
}

void advanced(pointer self, const advance_result& m) {
  auto& state = self->state;
  const auto now = self->clock().now();
  if (m.reason != errc::none) {
    state.setup.env->log->critical("the snapshot cannot advance: {}", m.detail);
    perform(self, state.machine->on_advance_failed(now, m.txn, m.detail));
    return;
  }
  const auto left = state.machine->snapshot();
  auto actions = state.machine->on_advanced(now, m.txn);
  if (state.machine->snapshot() != left) remember(state, left.state);
  // Sent before the report is handed over, so that whoever is behind hears of it soon: until that
  // ping arrives it still shows its old version, truthfully tagged.
  fleet_notice fleet{state.machine->snapshot().version, {}};
  for (const auto& p : state.machine->members()) fleet.acknowledged.push_back(p.id);
  self->send(state.setup.supervisor, std::move(fleet));
  perform(self, actions);
}

/// This rank's snapshot has advanced, or cannot; the others follow before anybody is told.
void on_advanced(pointer self, advance_result& m) {
  auto& state = self->state;
  if (state.setup.ranks.empty() || m.reason != errc::none) return advanced(self, m);
  performer(self).ask_ranks(shard_task::advance, m.txn, 0, 0);
  shard_result_msg mine;
  mine.what = shard_task::advance;
  mine.txn = m.txn;
  add_part(self, 0, std::move(mine));
  state.timer.arm(self, state.gathering.deadline);
}

}  // namespace

sender_actor::behavior_type sender_behavior(pointer self, sender_setup setup) {
  auto& state = self->state;
  auto options = setup.env->options;
  // A redo has to be absorbing, and what of a coded delta is so is not announced between ranks.
  if (!setup.ranks.empty() && options.sync.encoding == delta_encoding::coded)
    options.sync.redo_max = 0;
  state.machine.emplace(setup.env->cluster, setup.run, setup.held.state, setup.held.label,
                        setup.shape.total_bytes(), options);
  state.setup = std::move(setup);
  // The run before this one may have left what it remembers, where one rank's part is the model.
  if (state.setup.ranks.empty())
    state.setup.store->read([&](const auto&) {
      for (const auto& held : state.setup.store->history().states()) state.states.push_back(held);
    });
  const auto now = [self] { return self->clock().now(); };
  return {
      [self](sync_request& m) { on_sync(self, m); },
      [self, now](const hurry_request&) {
        perform(self, self->state.machine->on_next_wanted(now()));
      },
      [self](stage_result& m) {
        auto& g = self->state.gathering;
        if (g.what != shard_task::encode || g.txn != m.txn || g.parts.empty()) return;
        self->state.absorbing = std::move(m.absorbing);
        auto mine = g.parts.front();
        mine.what = g.what;
        mine.txn = m.txn;
        mine.reason = m.reason;
        mine.detail = std::move(m.detail);
        mine.proof = m.proof;
        add_part(self, 0, std::move(mine));
      },
      [self](const prove_result& m) {
        if (m.challenge != self->state.gathering.challenge) return;
        shard_result_msg mine;
        mine.what = shard_task::prove;
        mine.txn = m.txn;
        mine.proof = m.proof;
        add_part(self, 0, std::move(mine));
      },
      [self](const full_result& m) {
        if (m.challenge != self->state.gathering.challenge) return;
        self->state.full = m.source;
        shard_result_msg mine;
        mine.what = shard_task::plan;
        mine.txn = m.txn;
        mine.proof = m.proof;
        if (m.source)
          mine.content = m.source->content();
        else
          mine.reason = errc::wrong_base;
        add_part(self, 0, std::move(mine));
      },
      [self](shard_result_msg& m) {
        const auto from = m.rank;
        if (m.challenge != self->state.gathering.challenge || from == 0) return;
        m.rank = 0;
        add_part(self, from, std::move(m));
      },
      [self](advance_result& m) { on_advanced(self, m); },
      [self, now](round_result& m) {
        perform(self, self->state.machine->on_round(now(), std::move(m)));
      },
      [self, now](const drained_notice&) {
        // Later streams are redos and full transfers: part of the commit and the recovery.
        if (self->state.machine->phase() == sync_phase::voting)
          self->state.measures.shipped = now();
      },
      [self, now](const admit_request& m) {
        auto& s = self->state;
        // One life of a receiver at a time: routes to older ones lead nowhere.
        for (auto it = s.routes.begin(); it != s.routes.end();)
          it = it->first.id == m.who.id && it->first != m.who ? s.routes.erase(it) : std::next(it);
        s.routes[m.who] = {m.name, m.receiver, m.flusher};
        perform(self, s.machine->on_admit(now(), m.who));
      },
      [self, now](const down_notice& m) {
        perform(self, self->state.machine->on_down(now(), m.who, m.reason));
      },
      [self, now](const gave_up_notice& m) {
        perform(self, self->state.machine->on_gave_up(now(), m.id, m.reason));
      },
      [self, now](const newer_run_notice& m) {
        perform(self, self->state.machine->on_newer_run(now(), m.run));
      },
      [self, now](const tick&) {
        self->state.timer.fired();
        give_up_ranks(self);
        perform(self, self->state.machine->on_tick(now()));
      },
  };
}

}  // namespace lockstep
