// Who is linked to a rank that does not lead, and what it ships to them.
#include <spdlog/spdlog.h>

#include <algorithm>
#include <caf/send.hpp>

#include "actors/packed.hpp"
#include "actors/rank_parts.hpp"
#include "actors/states.hpp"

namespace lockstep::ranking {

using std::chrono::milliseconds;

namespace {

/// Says whether a receiver is linked to this rank, and what it was sent.
void tell_reach(pointer self, receiver_id id, rank_state::reached& r) {
  const auto& state = self->state;
  if (!state.coordinator || !state.hello) return;
  r.sent_said = r.sent->sent;
  self->send(state.coordinator,
             shard_reach_msg{state.env->cluster, state.env->options.transport.rank, id, r.inc,
                             static_cast<bool>(r.receiver), r.sent_said});
}

}  // namespace

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
  source->expect(1);
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
  auto from = unpacked_route(m.from);
  if (m.cluster != state.env->cluster || !from) return;
  // What nobody may pass on, by what it is known by (`form_of`), comes from here.
  if (state.env->options.transport.fanout == 0 &&
      std::ranges::any_of(*from, [](const auto& place) { return place.parent.has_value(); })) {
    if (!std::exchange(state.said_no_fanout, true))
      state.env->log->warn(
          "this rank has no transport.fanout, which rank 0 has: every receiver is sent all of this "
          "rank's part from here");
    from->clear();
  }
  auto& r = state.receivers[m.id];
  r.routed = m.inc;
  r.route = {std::move(*from), {}};
  if (r.flusher && r.inc == m.inc) self->send(r.flusher, r.route);
}

void tell_counts(pointer self) {
  auto& state = self->state;
  const auto now = self->clock().now();
  if (now < state.next_count) return;
  state.next_count = now + milliseconds(state.env->options.receiver.ping_ms);
  for (auto& [id, r] : state.receivers)
    if (r.receiver && r.sent_said != r.sent->sent) tell_reach(self, id, r);
}

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
  if (r.flusher) {
    self->demonitor(r.flusher.address());
    self->send_exit(r.flusher, caf::exit_reason::user_shutdown);
  }
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
  const auto now = self->clock().now();
  if (r.receiver == from && r.inc == m.inc) {
    r.heard = now;
    return;
  }
  // An older life's hello that was under way for long must not put out the newer one. But lives
  // have no order: which was the older shows by whose link ends, or who says no more.
  const auto earlier = std::ranges::find(r.superseded, m.inc);
  if (earlier != r.superseded.end()) {
    const std::chrono::milliseconds lease(state.env->options.receiver.lease_ms);
    if (r.receiver && now - r.heard < lease + lease / 4) return;
    r.superseded.erase(earlier);
  }
  r.heard = now;
  if (r.inc && r.inc != m.inc) {
    if (r.superseded.size() == rank_state::superseded_max) r.superseded.pop_front();
    r.superseded.push_back(r.inc);
  }
  unreach(self, m.id, r);
  r.inc = m.inc;
  r.name = m.name;
  r.receiver = from;
  self->monitor(from);
  r.flusher = self->spawn<caf::monitored>(flusher_behavior, m.id, from, state.env, r.sent);
  if (r.routed == r.inc) self->send(r.flusher, r.route);
  tell_reach(self, m.id, r);
  if (const auto early = std::exchange(r.early, std::nullopt)) on_ship(self, *early);
}

}  // namespace lockstep::ranking
