// What the supervisor does about receivers that pass buckets on to receivers.
#include <spdlog/spdlog.h>

#include "actors/packed.hpp"
#include "actors/patience.hpp"
#include "actors/supervisor_parts.hpp"

namespace lockstep::supervising {

using child = supervisor_state::child;

namespace {

/// Doublings of the time that a receiver which failed others is left alone.
constexpr std::uint32_t backoffs_max = 64;

bool is_trusted(const supervisor_state& state, receiver_id id, time_point now) {
  const auto it = state.fanout.distrusted.find(id);
  return it == state.fanout.distrusted.end() || it->second.until <= now;
}

/// Who can be told to have buckets from others, and who may pass them on: also who is yet to be
/// admitted and passes buckets on itself, for that may take all weights. Not who takes a part of
/// the tensors: its buckets are others than its neighbours', and it has them from here.
std::vector<fanout_member> members_of(supervisor_state& state, time_point now) {
  std::vector<fanout_member> out;
  if (!state.trainer) return out;
  for (const auto& [id, c] : state.children) {
    const auto record = state.policy->records().find(id);
    if (!c.receiver || c.bytes || c.taken.size() != 0 || record == state.policy->records().end() ||
        record->second.inc != c.life.inc)
      continue;
    // Who would be put among those who pass nothing on, and then passes something on, spoils trees.
    const auto where = record->second.where;
    if (where != standing::member && !(where == standing::attaching && c.offer)) continue;
    const bool trusted = is_trusted(state, id, now);
    if (!trusted) {
      const auto until = state.fanout.distrusted.at(id).until;
      auto& again = state.fanout.again;
      again = again ? std::min(*again, until) : until;
    }
    out.push_back({id, c.offer && trusted});
  }
  return out;
}

/// Tells the flusher what is brought by others: what is ordered, and linked.
void route(pointer self, const child& c) {
  relay_route out;
  const auto node = self->state.fanout.plan.nodes().find(c.life.id);
  if (node != self->state.fanout.plan.nodes().end()) {
    out.from = node->second.places;
    for (std::size_t s = 0; s < out.from.size(); ++s)
      if (s >= c.feeds.size() || !c.feeds[s].up) out.from[s] = {};
  }
  for (const auto& place : out.from) {
    if (!place.parent) continue;
    const auto& parent = self->state.children.at(*place.parent);
    if (parent.receiver) out.lenders.push_back({parent.life, parent.receiver});
  }
  for (const auto& [rank, r] : self->state.ranks)
    self->send(r.link, shard_route_msg{self->state.env->cluster, c.life.id, c.life.inc,
                                       packed_route(out.from)});
  if (c.flusher) self->send(c.flusher, std::move(out));
}

void order(pointer self, const child& c, std::uint32_t stripe) {
  const auto& state = self->state;
  const auto& f = c.feeds[stripe];
  relay_parent_msg m;
  m.cluster = state.env->cluster;
  m.inc = c.life.inc;
  m.order = f.order;
  m.stripes = static_cast<std::uint32_t>(c.feeds.size());
  m.stripe = stripe;
  if (f.parent) {
    const auto& offer = state.children.at(f.parent->id).offer;
    m.parent = f.parent->id;
    m.name = state.policy->records().at(f.parent->id).name;
    m.host = offer->host;
    m.port = offer->port;
  }
  self->send(c.receiver, std::move(m));
}

/// Tells a receiver what has changed for it.
void instruct(pointer self, child& c) {
  auto& state = self->state;
  const auto& plan = state.fanout.plan;
  const auto node = plan.nodes().find(c.life.id);
  const auto fresh = [&] { return version_ref{state.trainer->boot.run, ++state.fanout.orders}; };
  if (node == plan.nodes().end()) {
    if (c.feeds.empty()) return;
    c.feeds.assign(1, {fresh(), std::nullopt, false, true});
    order(self, c, 0);
    c.feeds.clear();
    return route(self, c);
  }
  if (c.feeds.size() != plan.stripes()) c.feeds.assign(plan.stripes(), {});
  bool changed = false;
  for (std::uint32_t s = 0; s < plan.stripes(); ++s) {
    const auto& place = node->second.places[s];
    std::optional<participant> parent;
    if (place.parent) parent = state.children.at(*place.parent).life;
    auto& f = c.feeds[s];
    if (f.order.run == state.trainer->boot.run && f.parent == parent) continue;
    f = {fresh(), parent, false, !parent};
    order(self, c, s);
    changed = true;
  }
  if (changed) route(self, c);
}

/// `who` has failed to bring `child` what it was to.
void blame(pointer self, child& by, receiver_id who, errc reason) {
  auto& state = self->state;
  const auto now = self->clock().now();
  const auto& t = state.env->options.transport;
  const std::chrono::milliseconds backoff(t.relay_backoff_ms);
  if (now - by.blamed_since > backoff) {
    by.blamed_since = now;
    by.blamed = 0;
  }
  // Who finds fault with everybody is at fault itself, and may not turn all others away.
  if (++by.blamed > t.fanout + 1) return;
  auto& d = state.fanout.distrusted[who];
  if (d.until > now) return;
  if (now - d.until > backoffs_max * backoff) d.times = 0;
  const auto longest = std::uint64_t{t.relay_backoff_ms} * backoffs_max;
  d.until = now + wait_after(d.times, t.relay_backoff_ms,
                             static_cast<std::uint32_t>(std::min<std::uint64_t>(longest, ~0u)));
  // A link that was lost says nothing of the next life; what was said over it does.
  // And one that finds fault again and again may be at fault itself: others have to say so too.
  if (reason != errc::dead && reason != errc::unreachable && d.by && *d.by != by.life.id) ++d.times;
  d.by = by.life.id;
  state.env->log->warn("receiver {} passes nothing on for a while: it failed receiver {}: {}", who,
                       by.life.id, to_string(reason));
  state.fanout.dirty = true;
  replan(self);
}

}  // namespace

void forget_orders(pointer self, child& c) {
  c.offer.reset();
  c.feeds.clear();
  self->state.fanout.dirty = true;
}

void replan(pointer self) {
  auto& state = self->state;
  auto& f = state.fanout;
  const auto now = self->clock().now();
  const auto degree = state.env->options.transport.fanout;
  if (degree == 0 || (!f.dirty && (!f.again || now < *f.again))) return;
  f.dirty = false;
  f.again.reset();
  f.plan = plan_fanout(f.plan, members_of(state, now), degree);
  if (!state.trainer) return;
  for (auto& [id, c] : state.children)
    if (c.receiver && !c.bytes) instruct(self, c);
}

void repeat_orders(pointer self) {
  replan(self);  // whoever is named is there
  const auto& state = self->state;
  if (!state.trainer) return;
  for (const auto& [id, c] : state.children)
    for (std::uint32_t s = 0; s < c.feeds.size(); ++s)
      if (!c.feeds[s].answered && c.receiver && state.fanout.plan.nodes().contains(id))
        order(self, c, s);
}

void on_offer(pointer self, const relay_offer_msg& m) {
  auto& state = self->state;
  const auto it = state.children.find(m.id);
  if (m.cluster != state.env->cluster || it == state.children.end() || it->second.bytes ||
      it->second.life.inc != m.inc || m.port == 0 || m.port > 0xffff || m.host.empty())
    return;
  if (it->second.offer == m) return;
  it->second.offer = m;
  if (const auto d = state.fanout.distrusted.find(m.id);
      d != state.fanout.distrusted.end() && d->second.times == 0)
    state.fanout.distrusted.erase(d);
  state.fanout.dirty = true;
  replan(self);
}

void on_relay_link(pointer self, const relay_link_msg& m) {
  auto& state = self->state;
  const auto it = state.children.find(m.id);
  if (m.cluster != state.env->cluster || it == state.children.end() ||
      it->second.life.inc != m.inc || m.stripe >= it->second.feeds.size())
    return;
  auto& c = it->second;
  auto& f = c.feeds[m.stripe];
  if (f.order != m.order || !f.parent) return;
  f.answered = m.up || m.reason != errc::none;
  if (std::exchange(f.up, m.up) != m.up) route(self, c);
  if (!m.up && m.reason != errc::none) blame(self, c, f.parent->id, m.reason);
}

void on_stalled(pointer self, const relay_stalled& m) {
  const auto it = self->state.children.find(m.child);
  if (it != self->state.children.end()) blame(self, it->second, m.parent, errc::timeout);
}

void on_rank_stalled(pointer self, const shard_stalled_msg& m) {
  if (m.cluster == self->state.env->cluster && self->state.ranks.contains(m.rank))
    on_stalled(self, {m.child, m.parent});
}

}  // namespace lockstep::supervising
