// The flusher: a stream of buckets to one receiver, as fast as it takes them, but for those that
// other receivers bring it.
#include <spdlog/spdlog.h>

#include <algorithm>

#include "actors/states.hpp"
#include "protocol/deadlines.hpp"

namespace lockstep {

namespace {

using pointer = flusher_actor::stateful_pointer<flusher_state>;

void send_buckets(pointer self, const std::vector<std::uint32_t>& indices) {
  auto& state = self->state;
  for (const auto index : indices) {
    auto bucket = state.source->bucket(index);
    if (bucket.size() == 0) {
      // The bytes are gone, so the transaction is over; the join's deadline says so to everybody.
      state.stop();
      return;
    }
    state.sent->sent += bucket.size();
    self->send(state.receiver, bucket_msg{state.env, state.first + index, std::move(bucket)});
  }
  state.timer.arm(self, state.watch.deadline());
  if (!state.machine.drained()) return;
  self->send(state.owner, drained_notice{state.env.txn, state.id});
  state.stop();
}

/// Credits that may come before the shipment that they are for.
constexpr std::size_t early_max = 1'024;

/// Who of the route brings what of a shipment: those who get it too, or hold what it leads to.
std::vector<fanout_plan::place> brought_by(const relay_route& route, const shipped_to& among) {
  auto out = route.from;
  for (auto& place : out)
    if (place.parent && !std::ranges::binary_search(among, *place.parent)) place.parent.reset();
  return out;
}

/// Which buckets of a shipment other receivers bring.
std::vector<bool> elsewhere(const std::vector<fanout_plan::place>& from, std::uint32_t first,
                            std::uint32_t count) {
  std::vector<bool> out(count);
  for (std::uint32_t i = 0; i < count; ++i)
    out[i] = from[(first + i) % from.size()].parent.has_value();
  return out;
}

/// How long others may bring nothing of a stripe.
std::chrono::milliseconds patience_of(const flusher_state& state, std::size_t stripes) {
  const auto& s = state.env_of_process->options;
  // The receiver may first have to stage what it has of the other stripes.
  const auto ahead = static_cast<double>(stripes) * s.bucket.credit /
                     static_cast<double>(state.source->content().buckets.size());
  const auto weights = static_cast<double>(state.source->staged_over());
  auto out = std::chrono::milliseconds(s.transport.relay_stall_ms) +
             transfer_time(s, s.bucket.bytes_max * (std::uint64_t{stripes} + 1)) +
             scan_time(s, static_cast<std::uint64_t>(std::min(ahead, 1.0) * weights));
  // All weights are written as they come: here and where they are lent the engine has to stop
  // first.
  if (state.lends) out += std::chrono::milliseconds(s.sync.full_timeout_ms / 4);
  return out;
}

/// What others were to bring of this stripe falls to us. Returns who was to.
std::optional<receiver_id> recall(pointer self, std::uint32_t stripe) {
  auto& state = self->state;
  const auto parent = state.watch.drop(stripe);
  if (!parent) return std::nullopt;
  std::vector<std::uint32_t> missing;
  const auto count = state.source->content().buckets.size();
  for (std::uint32_t i = 0; i < count; ++i)
    if ((state.first + i) % state.watch.stripes() == stripe && state.machine.awaited(i))
      missing.push_back(i);
  send_buckets(self, state.machine.on_ours(missing));
  return parent;
}

/// How whoever is to bring a stripe is told that it may lend; nothing if nobody knows.
const relay_route::lender* lender_of(const flusher_state& state, const fanout_plan::place& from) {
  const auto it = std::ranges::find_if(state.route.lenders,
                                       [&](const auto& l) { return l.who.id == from.parent; });
  return it == state.route.lenders.end() ? nullptr : &*it;
}

/// Tells it so, of what comes from `first` on.
void lend(pointer self, const relay_route::lender& lender, std::uint32_t first) {
  const auto& state = self->state;
  self->send(
      lender.receiver,
      relay_lend_msg{state.env.cluster, lender.who.inc, state.env.txn, state.lends->version,
                     state.id, state.env.inc, state.env_of_process->options.bucket.bytes_max,
                     static_cast<std::uint32_t>(state.source->content().buckets.size()), first});
}

/// Who is linked by now lends what has not left of the weights under way, and has not fallen to us.
void hand_over(pointer self) {
  auto& state = self->state;
  if (!state.lends) return;
  const auto from = brought_by(state.route, *state.lends->among);
  const auto n = static_cast<std::uint32_t>(from.size());
  const auto now = self->clock().now();
  const auto patience = patience_of(state, n);
  const auto count = static_cast<std::uint32_t>(state.source->content().buckets.size());
  if (state.watch.stripes() != n)  // those of another plan are all ours by now
    state.watch.on_start(now, patience, 0, count, std::vector<fanout_plan::place>(n));
  for (std::uint32_t s = 0; s < n; ++s) {
    const auto* lender = lender_of(state, from[s]);
    if (lender == nullptr) continue;
    std::vector<std::uint32_t> left;
    for (auto i = s; i < count; i += n)
      if (state.machine.on_elsewhere(i)) left.push_back(i);
    if (left.empty()) continue;
    state.watch.on_handed(now, patience, s, static_cast<std::uint32_t>(left.size()), from[s]);
    lend(self, *lender, left.front());
  }
  state.timer.arm(self, state.watch.deadline());
}

void on_credit(pointer self, const credit_msg& m) {
  auto& state = self->state;
  // What others bring may be there before we are told to ship: then the other ranks have been.
  if (m.env.txn > state.env.txn) {
    if (state.early.size() == early_max) state.early.pop_front();
    return state.early.push_back(m);
  }
  if (m.index < state.first) return;
  const auto index = m.index - state.first;
  if (m.env == state.env && state.machine.awaited(index))
    state.watch.on_taken(self->clock().now(), m.index);
  // What has fallen to us may have been on its way from there.
  if (m.env == state.env && state.machine.unsent(index))
    state.sent->relayed += state.source->content().buckets[index].bytes;
  send_buckets(self, state.machine.on_credit({m.env, m.id, index}));
}

/// What there is of a delta leaves while the rest is being encoded.
void on_ahead(pointer self, ship_ahead& m) {
  auto& state = self->state;
  const bool begun = state.machine.streaming();
  if (begun ? !(m.env == state.env) : m.env.txn <= state.env.txn) return;
  if (!begun) {
    state.env = m.env;
    state.first = 0;
    state.source = std::move(m.source);
  }
  send_buckets(self, state.machine.on_ahead(state.env, m.count));
}

void on_ship(pointer self, ship_request& m) {
  auto& state = self->state;
  state.owner = caf::actor_cast<sender_actor>(self->current_sender());
  state.source = std::move(m.source);
  state.first = 0;
  if (const auto* part = std::get_if<part_head>(&m.head)) state.first = part->first;
  // Whoever holds the version that all weights lead to has them, and needs not be sent them.
  std::optional<version_ref> full;
  if (const auto* begin = std::get_if<full_begin_msg>(&m.head); begin && !begin->catch_up)
    full = begin->target.version;
  std::visit(
      [&](auto& head) {
        state.env = head.env;
        self->send(state.receiver, std::move(head));
      },
      m.head);
  const auto count = static_cast<std::uint32_t>(state.source->content().buckets.size());
  state.watch.on_stop();
  state.lends.reset();
  if (!m.among) return send_buckets(self, state.machine.on_start(state.env, count));
  auto from = brought_by(state.route, *m.among);
  if (full) {
    state.lends = {*full, std::move(m.among)};
    for (auto& place : from) {
      if (const auto* lender = lender_of(state, place))
        lend(self, *lender, 0);
      else
        place.parent.reset();
    }
  }
  if (from.empty()) return send_buckets(self, state.machine.on_start(state.env, count));
  state.watch.on_start(self->clock().now(), patience_of(state, from.size()), state.first, count,
                       from);
  send_buckets(self, state.machine.on_start(state.env, count, elsewhere(from, state.first, count)));
  for (const auto& early : std::exchange(state.early, {})) on_credit(self, early);
}

/// What was to come from somebody who brings nothing any more is sent from here at once.
void on_route(pointer self, relay_route& m) {
  auto& state = self->state;
  state.supervisor = caf::actor_cast<supervisor_actor>(self->current_sender());
  const auto before = std::exchange(state.route, std::move(m)).from;
  const auto& from = state.route.from;
  for (std::uint32_t s = 0; s < state.watch.stripes(); ++s) {
    const bool stays =
        from.size() == before.size() && s < from.size() && from[s].parent == before[s].parent;
    if (!stays) recall(self, s);
  }
  hand_over(self);
}

void on_tick(pointer self) {
  auto& state = self->state;
  state.timer.fired();
  for (const auto stripe : state.watch.stalled(self->clock().now())) {
    const auto parent = recall(self, stripe);
    if (!parent) continue;
    state.env_of_process->log->warn("receiver {} waits in vain for what receiver {} was to bring",
                                    state.id, *parent);
    self->send(state.supervisor, relay_stalled{state.id, *parent});
  }
  state.timer.arm(self, state.watch.deadline());
}

}  // namespace

flusher_actor::behavior_type flusher_behavior(pointer self, receiver_id id, receiver_actor receiver,
                                              std::shared_ptr<const actor_env> env,
                                              std::shared_ptr<sent_counters> sent) {
  self->state.id = id;
  self->state.sent = std::move(sent);
  self->state.receiver = receiver;
  self->state.machine = flusher_fsm(env->options.bucket.credit);
  self->state.env_of_process = std::move(env);
  return {
      [self](ship_request& m) { on_ship(self, m); },
      [self](ship_ahead& m) { on_ahead(self, m); },
      [self](const credit_msg& m) { on_credit(self, m); },
      [self](relay_route& m) { on_route(self, m); },
      [self](const tick&) { on_tick(self); },
      [self](const stop_request& m) {
        if (self->state.env.txn == m.txn) self->state.stop();
      },
  };
}

}  // namespace lockstep
