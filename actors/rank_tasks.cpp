// What a rank that does not lead does for the coordinator's transactions, and how its trainer's
// syncs go with them.
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
#include <spdlog/spdlog.h>

#include <caf/send.hpp>

#include "actors/encoding.hpp"
#include "actors/rank_parts.hpp"
#include "actors/states.hpp"

namespace lockstep::ranking {

namespace {

/// Of syncs in a row that a trainer did not come to so many are remembered: each has cost the
/// coordinator its whole patience.
constexpr std::size_t syncs_missed_max = 1'000;

void refuse_task(pointer self, const shard_task_msg& t, errc reason, std::string detail) {
  self->state.env->log->error("{} refused: {}", to_string(t.what), detail);
  auto m = result_of(self, t.what, t.txn, t.challenge);
  m.part = t.part;
  m.reason = reason;
  m.detail = std::move(detail);
  say(self, std::move(m));
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

}  // namespace

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

void finish_sync(pointer self, sync_result result, errc reason, std::string detail) {
  auto& state = self->state;
  const auto current = std::exchange(state.current, {});
  state.joined = {};
  state.refused = {};
  if (!current.ticket) return;
  sync_report report;
  report.label = current.label;
  report.target = state.held;
  report.base = result == sync_result::ok ? state.base : state.held;
  report.result = result;
  report.reason = reason;
  report.detail = std::move(detail);
  if (state.delta) {
    report.wire_bytes = state.delta->content().bytes;
    report.changed = state.delta->content().changed;
  }
  current.ticket->finish(std::move(report));
}

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
  if (state.held) state.ended_by = reason;
  state.held = {};
  finish_sync(self, sync_result::aborted, reason, detail);
}

void seed(pointer self, const shard_task_msg& t) {
  auto& state = self->state;
  if (state.current.ticket) end_run(self, errc::shut_down, "the coordinator seeds anew");
  if (!state.boot) {
    state.waiting = t;
    return;
  }
  state.waiting.reset();
  if (state.boot->store->label() != t.label)  // its trainer hears of it when the coordinator does
    return refuse_task(self, t, errc::bad_input,
                       "it seeds label " + std::to_string(state.boot->store->label()) +
                           ", rank 0 label " + std::to_string(t.label) +
                           ": start all ranks from the same checkpoint");
  auto boot = *std::exchange(state.boot, std::nullopt);
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
    state.refused = {
        t.txn, errc::bad_input,
        "it syncs " + std::to_string(label) + ", the coordinator " + std::to_string(t.label)};
    return refuse_task(self, t, errc::bad_input, state.refused.why);
  }
  state.joined = state.encoded = t.txn;
  state.base = state.held;
  state.carved.clear();
  const auto failed = failure_of([&] {
    if (!state.current.ticket->begin_reading())
      throw error(errc::timeout, "the trainer has stopped waiting for its tensors to be read");
    const auto& options = state.env->options;
    auto made = encode_against(*state.store, state.current.tensors,
                               options.sync.encoding == delta_encoding::raw
                                   ? kernels::encoding_choice::raw
                                   : kernels::encoding_choice::coded,
                               form_of(options));
    state.delta = std::move(made.delta);
    state.delta_state = made.state;
  });
  state.current.ticket->tensors_read();
  state.current.tensors = nullptr;
  if (failed) {
    state.refused = {t.txn, failed->first, failed->second};
    return refuse_task(self, t, failed->first, failed->second);
  }
  auto m = result_of(self, t.what, t.txn, t.challenge);
  m.content = state.delta->content();
  m.state = state.delta_state;
  say(self, std::move(m));
}

namespace {

/// Has the snapshot prove what was encoded, while it may be shipped already.
void stage(pointer self, const shard_task_msg& t) {
  auto& state = self->state;
  if (state.encoded != t.txn || !state.delta)
    return refuse_task(self, t, errc::not_serving, "it has encoded no such delta");
  state.challenge = t.challenge;
  self->send(state.snapshot, stage_request{t.txn,
                                           state.base,
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
  const bool joined = state.joined == t.txn;
  if (state.refused.txn == t.txn) {
    const auto refused = std::exchange(state.refused, {});
    // Unheard of, it was over before this sync began: the next one may be this one's.
    if (joined || t.label != 0)
      finish_sync(self, sync_result::aborted, refused.reason, refused.why);
  } else if (joined) {
    finish_sync(self, sync_result::aborted, errc::none, "the coordinator has called it off");
  }
}

void end(pointer self, const shard_task_msg& t) {
  auto& state = self->state;
  const bool held{state.held};
  end_run(self, errc::shut_down, "the run is over: seed again");
  if (held && t.label != 0) state.ended_by = errc::detached;
}

void do_task(pointer self, const shard_task_msg& t) {
  auto& state = self->state;
  if (t.what == shard_task::seed) return seed(self, t);
  if (t.what == shard_task::encode) return encode(self, t);
  if (t.what == shard_task::end) return end(self, t);
  if (t.what == shard_task::drop) return drop(self, t);
  if (!state.snapshot) return refuse_task(self, t, errc::not_serving, "it has not been seeded");
  if (t.what == shard_task::stage) return stage(self, t);
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

}  // namespace

void on_task(pointer self, const shard_task_msg& t) {
  const auto& env = *self->state.env;
  if (t.cluster != env.cluster) return;
  // Whoever else had this rank's number is gone.
  if (std::exchange(self->state.twin, std::nullopt)) self->state.no_link.clear();
  const auto step = "rank." + std::string(to_string(t.what));
  if (env.drill) env.drill->pass(step, moment::before);
  do_task(self, t);
  if (env.drill) env.drill->pass(step, moment::after);
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
  // Who did not come along may still be shipped to: `encoded` says what is stopped if the run ends.
  state.delta.reset();
  state.carved.clear();
}

}  // namespace lockstep::ranking
