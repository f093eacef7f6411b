#include "actors/rank.hpp"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <caf/io/middleman.hpp>
#include <caf/send.hpp>

#include "actors/encoding.hpp"
#include "actors/patience.hpp"
#include "actors/states.hpp"

namespace lockstep {

namespace {

using pointer = rank_actor::stateful_pointer<rank_state>;
using std::chrono::milliseconds;

/// Of syncs in a row that a trainer did not come to so many are remembered: each has cost the
/// coordinator its whole patience.
constexpr std::size_t syncs_missed_max = 1'000;

shard_result_msg result_of(pointer self, shard_task what, txn_ref txn, std::uint64_t challenge) {
  shard_result_msg m;
  m.cluster = self->state.env->cluster;
  m.rank = self->state.env->options.transport.rank;
  m.inc = self->state.inc;
  m.what = what;
  m.txn = txn;
  m.challenge = challenge;
  return m;
}

void say(pointer self, shard_result_msg m) {
  if (self->state.coordinator) self->send(self->state.coordinator, std::move(m));
}

void refuse_task(pointer self, const shard_task_msg& t, errc reason, std::string detail) {
  self->state.env->log->error("{} refused: {}", to_string(t.what), detail);
  auto m = result_of(self, t.what, t.txn, t.challenge);
  m.part = t.part;
  m.reason = reason;
  m.detail = std::move(detail);
  say(self, std::move(m));
}

// --- the trainer's sync -------------------------------------------------------------------------
//
// Each rank's trainer calls `sync` when it gets there, and what the coordinator says is on its way
// for a while: a rank may be asked to encode for a transaction that is over already, and told so
// only when its trainer has come to the next sync. So a sync shares the fate of a transaction that
// it has a part in, and of no other:
//
// * It joins one that has its label, and ends with it.
// * One of another label it refuses. That either ends both, since trainers that disagree cannot go
//   on, or the transaction was over before the coordinator heard of it. Only the coordinator knows
//   which, and says so when it calls the transaction off.
// * Who comes to a sync after it was called off (`missed`) has its sync aborted, and the
//   coordinator's next transaction waits for the one after: it is late, not at odds.

void finish_sync(pointer self, sync_result result, errc reason, std::string detail) {
  auto& state = self->state;
  const auto current = std::exchange(state.current, {});
  state.joined = {};
  state.refused = {};
  if (!current.ticket) return;
  sync_report report;
  report.label = current.label;
  report.base = report.target = state.held;
  report.result = result;
  report.reason = reason;
  report.detail = std::move(detail);
  if (state.delta) {
    report.wire_bytes = state.delta->content().bytes;
    report.changed = state.delta->content().changed;
  }
  current.ticket->finish(std::move(report));
}

void forget(pointer self, txn_ref txn) {
  auto& state = self->state;
  for (const auto& [id, r] : state.receivers)
    if (r.flusher) self->send(r.flusher, stop_request{txn});
  if (state.snapshot) self->send(state.snapshot, drop_request{txn});
  if (state.encoded == txn) {
    state.delta.reset();
    state.carved.clear();
  }
  if (state.planned == txn) state.full.clear();
}

/// The run is over: what this rank holds is a part of nothing.
void end_run(pointer self, errc reason, const std::string& detail) {
  auto& state = self->state;
  forget(self, state.encoded);
  forget(self, state.planned);
  state.encoded = state.planned = {};
  if (state.snapshot) self->send_exit(state.snapshot, caf::exit_reason::user_shutdown);
  state.snapshot = nullptr;
  state.store.reset();
  state.waiting.reset();
  state.missed.clear();
  state.held = {};
  finish_sync(self, sync_result::aborted, reason, detail);
}

/// The trainer waits for nothing any more.
void refuse_seed(pointer self, errc reason, const std::string& detail) {
  const auto boot = std::exchange(self->state.boot, std::nullopt);
  if (boot) boot->answer->set_exception(std::make_exception_ptr(error(reason, detail)));
}

// --- what the coordinator asks for --------------------------------------------------------------

/// As soon as the trainer of this rank has come to the same point.
void seed(pointer self, const shard_task_msg& t) {
  auto& state = self->state;
  if (state.current.ticket) end_run(self, errc::shut_down, "the coordinator seeds anew");
  if (!state.boot) {
    state.waiting = t;
    return;
  }
  auto boot = *std::exchange(state.boot, std::nullopt);
  state.waiting.reset();
  if (boot.store->label() != t.label) {
    const auto detail = "it seeds " + std::to_string(boot.store->label()) + ", the coordinator " +
                        std::to_string(t.label);
    boot.answer->set_exception(std::make_exception_ptr(error(errc::bad_input, detail)));
    return refuse_task(self, t, errc::bad_input, detail);
  }
  if (state.snapshot) self->send_exit(state.snapshot, caf::exit_reason::user_shutdown);
  state.store = std::move(boot.store);
  state.held = {t.txn.run, 0};
  state.shape = boot.shape;
  const target_info part{state.held, state.store->read([](const tensor_views& tensors) {
                           return digest_of(public_digest_seed, tensors);
                         }),
                         t.label};
  state.snapshot = self->spawn<caf::monitored>(snapshot_behavior, state.env, state.store, part,
                                               state.store->take_over());
  auto m = result_of(self, t.what, t.txn, t.challenge);
  m.state = part.state;
  say(self, std::move(m));
  boot.answer->set_value(state.held);
}

void encode(pointer self, const shard_task_msg& t) {
  auto& state = self->state;
  if (!state.snapshot || t.txn.run != state.held.run)
    return refuse_task(self, t, errc::not_serving, "it has not been seeded in this run");
  if (!state.current.ticket) {
    state.waiting = t;
    return;
  }
  const auto label = state.current.label;
  if (label != t.label && state.missed.contains(label)) {
    state.waiting = t;
    return finish_sync(self, sync_result::aborted, errc::timeout,
                       "it came after the coordinator had called it off");
  }
  if (label != t.label) {
    state.refused = {t.txn, "it syncs " + std::to_string(label) + ", the coordinator " +
                                std::to_string(t.label)};
    return refuse_task(self, t, errc::bad_input, state.refused.why);
  }
  state.joined = state.encoded = t.txn;
  state.carved.clear();
  state.challenge = t.challenge;
  const auto failed = failure_of([&] {
    if (!state.current.ticket->begin_reading())
      throw error(errc::timeout, "the trainer has stopped waiting for its tensors to be read");
    auto made = encode_against(*state.store, state.current.tensors, state.env->options);
    state.delta = std::move(made.delta);
    state.delta_state = made.state;
  });
  state.current.ticket->tensors_read();
  state.current.tensors = nullptr;
  if (failed) return refuse_task(self, t, failed->first, failed->second);
  self->send(state.snapshot, stage_request{t.txn,
                                           state.held,
                                           {{t.txn.run, t.txn.seq}, state.delta_state, t.label},
                                           state.delta,
                                           t.challenge});
}

/// The transaction is over, and has not committed, or has advanced here already.
void drop(pointer self, const shard_task_msg& t) {
  auto& state = self->state;
  if (state.waiting && state.waiting->txn == t.txn) {
    if (state.missed.size() == syncs_missed_max) state.missed.clear();
    if (state.waiting->what == shard_task::encode) state.missed.insert(state.waiting->label);
    state.waiting.reset();
  }
  forget(self, t.txn);
  if (state.encoded == t.txn) state.encoded = {};
  if (state.joined == t.txn)
    return finish_sync(self, sync_result::aborted, errc::none, "the coordinator has called it off");
  if (state.refused.txn != t.txn) return;
  const auto refused = std::exchange(state.refused, {});
  // Unheard of, it was over before this sync began: the next one may be this one's.
  if (t.label != 0) finish_sync(self, sync_result::aborted, errc::bad_input, refused.why);
}

void do_task(pointer self, const shard_task_msg& t) {
  auto& state = self->state;
  if (t.what == shard_task::seed) return seed(self, t);
  if (t.what == shard_task::encode) return encode(self, t);
  if (t.what == shard_task::end)
    return end_run(self, errc::shut_down, "the run is over: seed again");
  if (t.what == shard_task::drop) return drop(self, t);
  if (!state.snapshot) return refuse_task(self, t, errc::not_serving, "it has not been seeded");
  part_choice part{t.part, {}};
  if (const auto failed = failure_of([&] { part.taken = part_from(t.taken, state.shape); }))
    return refuse_task(self, t, failed->first, failed->second);
  switch (t.what) {
    case shard_task::prove:
      return self->send(state.snapshot, prove_request{t.txn, t.challenge, std::move(part)});
    case shard_task::plan:
      return self->send(
          state.snapshot,
          full_request{t.txn, t.challenge, static_cast<std::size_t>(t.label), std::move(part)});
    case shard_task::carve:
      return self->send(state.snapshot, carve_request{t.txn, t.challenge, std::move(part)});
    case shard_task::advance:
      return self->send(state.snapshot, join_verdict{t.txn, true});
    case shard_task::digests:
      return self->send(state.snapshot, digests_request{t.challenge});
    default:
      return;
  }
}

void on_task(pointer self, const shard_task_msg& t) {
  const auto& env = *self->state.env;
  if (t.cluster != env.cluster) return;
  const auto step = "rank." + std::string(to_string(t.what));
  if (env.drill) env.drill->pass(step, moment::before);
  do_task(self, t);
  if (env.drill) env.drill->pass(step, moment::after);
}

void on_ship(pointer self, const shard_ship_msg& m) {
  auto& state = self->state;
  const auto r = state.receivers.find(m.id);
  std::shared_ptr<bucket_source> source;
  const auto& parts = m.full ? state.full : state.carved;
  if ((m.full ? state.planned : state.encoded) == m.txn) {
    if (const auto part = parts.find(m.part); part != parts.end()) source = part->second;
    if (!m.full && m.part == 0) source = state.delta;
  }
  if (m.cluster != state.env->cluster || !source) return;
  if (r == state.receivers.end() || r->second.inc != m.inc || !r->second.flusher) {
    // Perhaps it soon will be; else its vote will be missed in time.
    state.env->log->warn("receiver {} is not linked to this rank", m.id);
    state.receivers[m.id].early = m;
    return;
  }
  const auto& a = state.among;
  self->send(r->second.flusher,
             ship_request{part_head{{m.cluster, m.txn, m.inc}, m.round, m.first}, source,
                          m.part == 0 && a.txn == m.txn && a.round == m.round ? a.ids : nullptr});
}

void on_among(pointer self, const shard_among_msg& m) {
  auto ids = unpacked_ids(m.ids);
  if (m.cluster != self->state.env->cluster || !ids) return;
  self->state.among = {m.txn, m.round, std::make_shared<const shipped_to>(std::move(*ids))};
}

void on_route(pointer self, const shard_route_msg& m) {
  auto& state = self->state;
  auto route = unpacked_route(m.from);
  if (m.cluster != state.env->cluster || !route) return;
  auto& r = state.receivers[m.id];
  r.routed = m.inc;
  r.route = std::move(*route);
  if (r.flusher && r.inc == m.inc) self->send(r.flusher, r.route);
}

void on_advanced(pointer self, const advance_result& m) {
  auto& state = self->state;
  // Of a snapshot whose run is over: nothing to the run that has begun since.
  if (m.txn.run != state.held.run) return;
  auto out = result_of(self, shard_task::advance, m.txn, 0);
  out.reason = m.reason;
  out.detail = m.detail;
  say(self, std::move(out));
  if (m.reason != errc::none) return end_run(self, m.reason, m.detail);
  state.held = {m.txn.run, m.txn.seq};
  state.missed.clear();
  if (state.joined == m.txn) finish_sync(self, sync_result::ok, errc::none, {});
  state.encoded = {};
  state.delta.reset();
  state.carved.clear();
}

// --- receivers ----------------------------------------------------------------------------------

/// Says whether a receiver is linked to this rank, and what it was sent.
void tell_reach(pointer self, receiver_id id, rank_state::reached& r) {
  const auto& state = self->state;
  if (!state.coordinator || !state.hello) return;
  r.sent_said = r.sent->sent;
  self->send(state.coordinator,
             shard_reach_msg{state.env->cluster, state.env->options.transport.rank, id, r.inc,
                             static_cast<bool>(r.receiver), r.sent_said});
}

void tell_counts(pointer self) {
  auto& state = self->state;
  const auto now = self->clock().now();
  if (now < state.next_count) return;
  state.next_count = now + milliseconds(state.env->options.receiver.ping_ms);
  for (auto& [id, r] : state.receivers)
    if (r.receiver && r.sent_said != r.sent->sent) tell_reach(self, id, r);
}

/// Who this rank is, and whom it reaches.
void introduce(pointer self) {
  auto& state = self->state;
  if (!state.coordinator || !state.hello) return;
  self->send(state.coordinator, *state.hello);
  for (auto& [id, r] : state.receivers)
    if (r.receiver) tell_reach(self, id, r);
}

void unreach(pointer self, receiver_id id, rank_state::reached& r) {
  const bool was = static_cast<bool>(r.receiver);
  if (was) self->demonitor(r.receiver.address());
  if (r.flusher) self->send_exit(r.flusher, caf::exit_reason::user_shutdown);
  r.receiver = nullptr;
  r.flusher = nullptr;
  if (was) tell_reach(self, id, r);
}

void on_hello(pointer self, const hello_msg& m) {
  auto& state = self->state;
  const auto from = caf::actor_cast<receiver_actor>(self->current_sender());
  if (m.cluster != state.env->cluster || !from) return;
  if (state.receivers.size() >= supervision_fsm::receivers_max && !state.receivers.contains(m.id))
    return;
  auto& r = state.receivers[m.id];
  if (r.receiver && r.name != m.name) {
    state.env->log->error("receiver {} is '{}', and is not taken over by '{}'", m.id, r.name,
                          m.name);
    return;
  }
  if (r.receiver == from && r.inc == m.inc) return;
  unreach(self, m.id, r);
  r.inc = m.inc;
  r.name = m.name;
  r.receiver = from;
  self->monitor(from);
  r.flusher = self->spawn(flusher_behavior, m.id, from, state.env, r.sent);
  if (r.routed == r.inc) self->send(r.flusher, r.route);
  tell_reach(self, m.id, r);
  if (const auto early = std::exchange(r.early, std::nullopt)) on_ship(self, *early);
}

// --- the coordinator's link ---------------------------------------------------------------------

void arm(pointer self) {
  auto& state = self->state;
  if (!state.coordinator && !state.dialing) state.timer.arm(self, state.next_try);
  if (state.boot) state.timer.arm(self, state.boot->deadline);
  if (state.coordinator) state.timer.arm(self, state.next_count);
}

void dial(pointer self) {
  auto& state = self->state;
  state.dialing = true;
  auto g = state.ways->own_greeting(node_role::trainer);
  g.id = state.env->options.transport.rank;
  const auto me = caf::actor_cast<caf::actor_addr>(self);
  state.ways->dial(state.where, std::move(g), node_role::trainer,
                   [me](link_channels channels, failure why) {
                     if (const auto rank = caf::actor_cast<rank_actor>(me))
                       caf::anon_send(rank, dialed{0, std::move(channels), std::move(why)});
                   });
}

void on_dialed(pointer self, dialed& m) {
  auto& state = self->state;
  const auto& t = state.env->options.transport;
  state.dialing = false;
  if (!m.channels.control) {
    state.next_try = self->clock().now() + wait_after(state.failures++, t.retry_ms, t.retry_ms_max);
    if (std::exchange(state.last_failure, m.why.reason) != m.why.reason)
      state.env->log->warn("no link to the coordinator: {} {}", to_string(m.why.reason),
                           m.why.detail);
    return arm(self);
  }
  state.failures = 0;
  state.last_failure = errc::none;
  state.coordinator =
      caf::actor_cast<coordinator_link_actor>(self->system().middleman().spawn_broker(
          coordinator_link_behavior, state.env, std::move(m.channels),
          caf::actor_cast<caf::actor>(self)));
  self->monitor(state.coordinator);
  introduce(self);
  arm(self);
}

void on_down(pointer self, const caf::down_msg& m) {
  auto& state = self->state;
  if (state.coordinator && state.coordinator.address() == m.source) {
    state.coordinator = nullptr;
    state.next_try = self->clock().now() + milliseconds(state.env->options.transport.retry_ms);
    end_run(self, errc::unreachable, "the coordinator is gone");
    return arm(self);
  }
  if (state.snapshot && state.snapshot.address() == m.source) {
    state.snapshot = nullptr;
    // The coordinator must not count on this rank any more.
    if (state.coordinator) self->send_exit(state.coordinator, caf::exit_reason::kill);
    return;
  }
  for (auto& [id, r] : state.receivers)
    if (r.receiver && r.receiver.address() == m.source) return unreach(self, id, r);
}

// --- the trainer of this rank -------------------------------------------------------------------

void on_boot(pointer self, boot_request& m) {
  auto& state = self->state;
  if (!state.hello) {
    state.hello = {state.env->cluster,
                   state.env->options.transport.rank,
                   state.env->options.transport.ranks,
                   state.inc,
                   m.shape.fingerprint(),
                   packed_mask(m.owned)};
    introduce(self);
  }
  refuse_seed(self, errc::busy, "another start has taken its place");
  state.boot = std::move(m);
  arm(self);
  if (state.waiting && state.waiting->what == shard_task::seed)
    seed(self, *std::exchange(state.waiting, std::nullopt));
}

void on_sync(pointer self, sync_request& m) {
  auto& state = self->state;
  if (!state.snapshot) {
    sync_report refused;
    refused.label = m.label;
    refused.reason = errc::shut_down;
    refused.detail = "the coordinator has no run: seed again";
    return m.ticket->finish(std::move(refused));
  }
  finish_sync(self, sync_result::aborted, errc::busy, "another sync has taken its place");
  state.current = std::move(m);
  if (state.waiting && state.waiting->what == shard_task::encode)
    encode(self, *std::exchange(state.waiting, std::nullopt));
}

}  // namespace

rank_actor::behavior_type rank_behavior(pointer self, std::shared_ptr<const actor_env> env,
                                        gateway* ways, node_address coordinator) {
  auto& state = self->state;
  state.inc = {env->entropy(), env->entropy()};
  state.env = std::move(env);
  state.ways = ways;
  state.where = std::move(coordinator);
  self->set_down_handler([self](const caf::down_msg& m) { on_down(self, m); });
  self->set_exit_handler([self](const caf::exit_msg& m) {
    end_run(self, errc::shut_down, "the runtime is ending");
    for (auto& [id, r] : self->state.receivers) unreach(self, id, r);
    self->quit(m.reason);
  });
  dial(self);
  return {
      [self](boot_request& m) { on_boot(self, m); },
      [self](sync_request& m) { on_sync(self, m); },
      // The coordinator's trainer says when nobody is waited for any more.
      [](const hurry_request&) {},
      [self](const end_request&) {
        refuse_seed(self, errc::shut_down, "the trainer has left");
        end_run(self, errc::shut_down, "the trainer has left");
      },
      [self](const shard_task_msg& m) { on_task(self, m); },
      [self](const shard_ship_msg& m) { on_ship(self, m); },
      [self](const shard_route_msg& m) { on_route(self, m); },
      [self](const shard_among_msg& m) { on_among(self, m); },
      [self](const relay_stalled& m) {
        const auto& s = self->state;
        if (s.coordinator)
          self->send(s.coordinator, shard_stalled_msg{s.env->cluster, s.env->options.transport.rank,
                                                      m.child, m.parent});
      },
      [self](const stage_result& m) {
        auto& s = self->state;
        if (m.txn != s.encoded || !s.delta) return;
        auto out = result_of(self, shard_task::encode, m.txn, 0);
        out.reason = m.reason;
        out.detail = m.detail;
        out.content = s.delta->content();
        out.state = s.delta_state;
        out.proof = m.proof;
        out.challenge = s.challenge;
        say(self, std::move(out));
      },
      [self](carve_result& m) {
        auto& s = self->state;
        if (m.txn != s.encoded || !s.delta) return;
        auto out = result_of(self, shard_task::carve, m.txn, m.challenge);
        out.part = m.part;
        out.reason = m.reason;
        out.detail = std::move(m.detail);
        out.base = m.base;
        out.state = m.state;
        out.proof = m.proof;
        if (m.delta) out.content = m.delta->content();
        s.carved[m.part] = std::move(m.delta);
        say(self, std::move(out));
      },
      [self](const prove_result& m) {
        auto out = result_of(self, shard_task::prove, m.txn, m.challenge);
        out.part = m.part;
        out.state = m.state;
        out.proof = m.proof;
        say(self, std::move(out));
      },
      [self](const full_result& m) {
        auto& s = self->state;
        if (s.planned != m.txn) s.full.clear();
        s.planned = m.txn;
        s.full[m.part] = m.source;
        auto out = result_of(self, shard_task::plan, m.txn, m.challenge);
        out.part = m.part;
        out.state = m.state;
        out.proof = m.proof;
        if (m.source) {
          out.content = m.source->content();
        } else {
          out.reason = errc::wrong_base;
          out.detail = "it does not remember so many steps";
        }
        say(self, std::move(out));
      },
      [self](const advance_result& m) { on_advanced(self, m); },
      [self](const digests_result& m) {
        auto out = result_of(self, shard_task::digests, {}, m.challenge);
        out.digests = packed_digests(m.tensors);
        say(self, std::move(out));
      },
      [](const drained_notice&) {},
      [self](const hello_msg& m) { on_hello(self, m); },
      [](const pong_msg&) {},
      [](const relay_offer_msg&) {},
      [self](const goodbye_msg& m) {
        const auto r = self->state.receivers.find(m.id);
        if (r == self->state.receivers.end() || r->second.inc != m.inc) return;
        unreach(self, m.id, r->second);
        self->state.receivers.erase(r);
      },
      [self](const observe_request& m) {
        observation mine;  // of receivers the coordinator knows
        mine.end.fleet = self->state.held;
        mine.end.reason = self->state.snapshot ? errc::none : errc::shut_down;
        m.answer(std::move(mine));
      },
      [self](dialed& m) { on_dialed(self, m); },
      [self](const tick&) {
        auto& s = self->state;
        s.timer.fired();
        const auto now = self->clock().now();
        if (s.boot && s.boot->deadline <= now)
          refuse_seed(self, errc::timeout, "the coordinator has not seeded");
        if (!s.coordinator && !s.dialing && s.next_try <= now) dial(self);
        tell_counts(self);
        arm(self);
      },
  };
}

}  // namespace lockstep
