// The sender: hands the sync machine what happens, and notes who takes part in what.
#include <spdlog/spdlog.h>

#include <algorithm>
#include <set>

#include "actors/sender_parts.hpp"

namespace lockstep {

using namespace sending;

namespace {

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
  const bool remembers = state.setup.env->options.sync.history_percent != 0;
  const auto add = [&](auto& to, const auto& what) {
    if (!remembers) return;
    to.push_back(what);
    if (to.size() > change_history::steps_max) to.pop_front();
  };
  add(state.states, left);
  for (auto& [taken, part] : state.known) {
    add(part.before, part.now);
    const auto* moved = find(state.delta, taken);
    part.now = moved == nullptr ? std::nullopt : std::optional(moved->state);
  }
}

/// Notes that somebody takes these tensors. Throws `error{bad_manifest}` if that is one part too
/// many.
void note_part(sender_state& state, const shard_mask& taken) {
  if (taken.empty() || state.known.contains(taken)) return;
  if (state.known.size() >= receiver_parts_max) {
    std::set<shard_mask> used;
    for (const auto& [who, r] : state.routes)
      if (state.machine->counts_on(who)) used.insert(r.taken);
    std::erase_if(state.known, [&](const auto& part) { return !used.contains(part.first); });
  }
  if (state.known.size() >= receiver_parts_max)
    throw error(errc::bad_manifest, "its part would be one more than the " +
                                        std::to_string(receiver_parts_max) + " that there may be");
  state.known.try_emplace(taken);
}

void on_admit(pointer self, const admit_request& m) {
  auto& s = self->state;
  // One life of a receiver at a time: routes to older ones lead nowhere.
  std::erase_if(s.routes,
                [&](const auto& r) { return r.first.id == m.who.id && r.first != m.who; });
  shard_mask taken;
  try {
    if (m.taken.size() != 0 && m.layout != s.setup.shape.fingerprint())
      throw error(errc::wrong_layout, "its part is one of another model");
    taken = part_from(m.taken, s.setup.shape);
    note_part(s, taken);
  } catch (const error& e) {
    return self->send(s.setup.supervisor, sync_action::not_admitted{m.who, e.code(), e.what()});
  }
  auto& route = s.routes[m.who];
  route = {m.name, m.receiver, m.flusher, std::move(taken), route.rate, m.elsewhere};
  perform(self, s.machine->on_admit(self->clock().now(), m.who));
}

/// This rank's snapshot has advanced, or cannot; the others follow before anybody is told.
void on_advanced(pointer self, advance_result& m) {
  auto& state = self->state;
  if (state.setup.ranks.empty() || m.reason != errc::none) return advanced(self, m);
  ask_ranks(self, shard_task::advance, m.txn, 0, 0);
  shard_result_msg mine;
  mine.what = shard_task::advance;
  mine.txn = m.txn;
  add_answer(self, 0, std::move(mine));
  state.timer.arm(self, state.gathering.deadline);
}

/// What is the same in all answers of the snapshot.
template <class Result>
shard_result_msg answer_of(shard_task what, const Result& m) {
  shard_result_msg out;
  out.what = what;
  out.txn = m.txn;
  out.challenge = m.challenge;
  out.part = m.part;
  out.proof = m.proof;
  return out;
}

}  // namespace

void sending::advanced(pointer self, const advance_result& m) {
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

sender_actor::behavior_type sender_behavior(pointer self, sender_setup setup) {
  auto& state = self->state;
  auto options = setup.env->options;
  // A redo has to be absorbing, and what of a coded delta is so is not announced between ranks.
  if (!setup.ranks.empty() && options.sync.encoding != delta_encoding::raw)
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
      [self](encode_result& m) {
        auto& s = self->state;
        if (s.gathering.what != shard_task::encode || s.gathering.txn != m.txn) return;
        s.encoded = m;
        shard_result_msg mine;
        mine.what = shard_task::encode;
        mine.txn = m.txn;
        mine.challenge = m.challenge;
        mine.reason = m.reason;
        mine.detail = std::move(m.detail);
        mine.state = m.state;
        add_mine(self, std::move(mine), std::move(m.delta), nullptr);
      },
      [self](stage_result& m) {
        shard_result_msg mine;
        mine.what = shard_task::stage;
        mine.txn = m.txn;
        mine.challenge = self->state.challenge;
        mine.reason = m.reason;
        mine.detail = std::move(m.detail);
        mine.proof = m.proof;
        add_mine(self, std::move(mine), nullptr, std::move(m.absorbing));
      },
      [self](carve_result& m) {
        auto mine = answer_of(shard_task::carve, m);
        mine.reason = m.reason;
        mine.detail = std::move(m.detail);
        mine.base = m.base;
        mine.state = m.state;
        add_mine(self, std::move(mine), std::move(m.delta), std::move(m.absorbing));
      },
      [self](const prove_result& m) {
        auto mine = answer_of(shard_task::prove, m);
        mine.state = m.state;
        add_mine(self, std::move(mine), nullptr, nullptr);
      },
      [self](const full_result& m) {
        auto mine = answer_of(shard_task::plan, m);
        mine.state = m.state;
        if (!m.source) mine.reason = errc::wrong_base;
        add_mine(self, std::move(mine), m.source, nullptr);
      },
      [self](shard_result_msg& m) {
        const auto from = m.rank;
        if (m.challenge != self->state.gathering.challenge || from == 0) return;
        m.rank = 0;
        add_answer(self, from, std::move(m));
      },
      [self](advance_result& m) { on_advanced(self, m); },
      [self, now](round_result& m) {
        perform(self, self->state.machine->on_round(now(), std::move(m)));
      },
      [self, now](const drained_notice& m) {
        for (auto& [who, route] : self->state.routes)
          if (who.id == m.id) route.rate.drained(now(), m.txn);
        // Later streams are redos and full transfers: part of the commit and the recovery.
        if (self->state.machine->phase() == sync_phase::voting)
          self->state.measures.shipped = now();
      },
      [self](const admit_request& m) { on_admit(self, m); },
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
