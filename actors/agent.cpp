#include "actors/agent.hpp"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <caf/io/middleman.hpp>
#include <caf/send.hpp>

#include "actors/patience.hpp"
#include "actors/states.hpp"

namespace lockstep {

namespace {

using pointer = agent_actor::stateful_pointer<agent_state>;
using std::chrono::milliseconds;

/// A life as long as this was no failed start: what came before it is forgotten.
constexpr std::chrono::minutes long_life{1};

void arm(pointer self) {
  auto& state = self->state;
  auto due = state.restart_at;
  for (const auto& d : state.doors)
    if (!d.link && !d.dialing && (!due || d.next_try < *due)) due = d.next_try;
  state.timer.arm(self, due);
}

// --- the receiver -------------------------------------------------------------------------------

/// Dials other receivers as this one. Outlives the agent in calls that are under way: whatever it
/// captures is not called back once the gateway is closed.
relay_dialer dialer_of(pointer self) {
  auto& state = self->state;
  auto g = state.ways->own_greeting(node_role::receiver);
  g.id = state.bytes->id();
  g.name = state.bytes->name();
  return [g, ways = state.ways, env = state.env, system = &self->system()](
             const relay_actor& me, const relay_parent_msg& order) {
    const auto weak = caf::actor_cast<caf::actor_addr>(me);
    ways->dial({order.host, static_cast<std::uint16_t>(order.port)}, g, node_role::receiver,
               [weak, env, system, order](link_channels channels, failure why) {
                 const auto relay = caf::actor_cast<relay_actor>(weak);
                 if (!relay) return;
                 const auto is_meant = [&](const std::shared_ptr<channel>& c) {
                   return c->peer().id == order.parent && c->peer().name == order.name;
                 };
                 relay_dialed out{order.order, {}, std::move(why)};
                 if (channels.control &&
                     (!is_meant(channels.control) || !std::ranges::all_of(channels.bulk, is_meant)))
                   out.why = {errc::untrusted, "somebody else is there"};
                 else if (channels.control)
                   out.link = caf::actor_cast<relay_actor>(system->middleman().spawn_broker(
                       parent_link_behavior, env, std::move(channels), relay));
                 caf::anon_send(relay, std::move(out));
               });
  };
}

void start_receiver(pointer self) {
  auto& state = self->state;
  state.restart_at.reset();
  state.hello.reset();
  state.offer.reset();
  state.born = self->clock().now();
  const incarnation inc{state.env->entropy(), state.env->entropy()};
  const auto id = state.bytes->id();
  // Nobody but the ranks knows whose a bucket is.
  const auto ranks =
      state.doors.size() > 1 ? caf::actor_cast<flusher_actor>(self) : flusher_actor();
  state.relay =
      self->spawn(relay_behavior, state.env, id, state.bytes->name(), inc, dialer_of(self), ranks);
  relay_side side{state.relay, {}};
  if (state.place) {
    state.place->set(state.relay);
    side.offer =
        relay_offer_msg{state.env->cluster, id, inc, state.found_at.host, state.found_at.port};
  }
  state.receiver =
      self->spawn<caf::monitored>(receiver_behavior, state.env, state.bytes, inc,
                                  caf::actor_cast<supervisor_actor>(self), std::move(side));
  for (const auto& d : state.doors)
    if (d.link) self->send(d.link, retarget{state.receiver});
}

/// Gone for good once the receiver has ended and the trainers have closed their links, as they do
/// at its goodbye; links that are not closed end by themselves soon.
void leave(pointer self) {
  auto& state = self->state;
  if (state.receiver) return;
  if (state.hello)
    for (const auto& d : state.doors)
      if (d.link) return;
  state.leaving->set_value();
  self->quit();
}

void end_relay(pointer self) {
  auto& state = self->state;
  if (state.place) state.place->set({});
  if (state.relay) self->send_exit(state.relay, caf::exit_reason::user_shutdown);
  state.relay = nullptr;
}

void receiver_ended(pointer self, const caf::error& reason) {
  auto& state = self->state;
  const auto now = self->clock().now();
  state.receiver = nullptr;
  end_relay(self);
  if (state.leaving) return leave(self);
  state.env->log->warn("{} ended: {}", state.bytes->name(), caf::to_string(reason));
  // Nobody renews or ends its lease now.
  state.bytes->publish({false, receiver_phase::empty, {}, 0, errc::dead});
  const auto& s = state.env->options.supervision;
  if (now - state.born >= long_life) state.restarts = 0;
  if (++state.restarts > s.restart_max) {
    state.env->log->critical("{} is not started again: it ended {} times in a row",
                             state.bytes->name(), state.restarts);
    state.bytes->publish({false, receiver_phase::empty, {}, 0, errc::gave_up});
    return;
  }
  state.restart_at = now + wait_after(state.restarts - 1, s.backoff_ms, s.backoff_ms_max);
  arm(self);
}

// --- the trainers -------------------------------------------------------------------------------

void dial(pointer self, std::size_t index) {
  auto& state = self->state;
  auto& d = state.doors[index];
  d.dialing = true;
  auto g = state.ways->own_greeting(node_role::receiver);
  g.id = state.bytes->id();
  g.name = state.bytes->name();
  // A weak hold: an agent that has ended is not kept for an answer that nobody needs.
  const auto me = caf::actor_cast<caf::actor_addr>(self);
  state.ways->dial(d.where, std::move(g), node_role::trainer,
                   [me, index](link_channels channels, failure why) {
                     if (const auto agent = caf::actor_cast<agent_actor>(me))
                       caf::anon_send(agent, dialed{index, std::move(channels), std::move(why)});
                   });
}

/// Of a trainer of several ranks rank 0 takes receivers in, and no other.
void look_for_leader(pointer self) {
  auto& state = self->state;
  const auto& doors = state.doors;
  const bool leaderless =
      std::ranges::all_of(doors, [](const auto& d) { return d.link && d.rank != 0; });
  if (std::exchange(state.leaderless, leaderless) || !leaderless) return;
  state.env->log->warn(
      "{}: linked to rank {} of the trainer at {}:{}, which does not lead, and not to rank 0, for "
      "which it waits: give it the addresses of all ranks (--connect, transport.connect)",
      state.bytes->name(), doors.back().rank, doors.back().where.host, doors.back().where.port);
}

void on_dialed(pointer self, dialed& m) {
  auto& state = self->state;
  auto& d = state.doors[m.door];
  d.dialing = false;
  if (state.leaving) return;
  if (!m.channels.control) {
    const auto& t = state.env->options.transport;
    d.next_try = self->clock().now() + wait_after(d.failures++, t.retry_ms, t.retry_ms_max);
    // Once for each reason: a trainer may be away for long.
    if (std::exchange(d.last_failure, m.why.reason) != m.why.reason)
      state.env->log->warn("{}: no link to {}:{}: {} {}", state.bytes->name(), d.where.host,
                           d.where.port, to_string(m.why.reason), m.why.detail);
    return arm(self);
  }
  d.failures = 0;
  d.last_failure = errc::none;
  d.rank = m.channels.control->peer().id;
  d.link = caf::actor_cast<trainer_link_actor>(self->system().middleman().spawn_broker(
      trainer_link_behavior, state.env, std::move(m.channels), state.receiver,
      caf::actor_cast<caf::actor>(self)));
  self->monitor(d.link);
  state.env->log->info("{}: linked to {}:{}", state.bytes->name(), d.where.host, d.where.port);
  look_for_leader(self);
  self->send(d.link, announced{state.seen});
  if (state.hello) self->send(d.link, *state.hello);
  if (state.offer) self->send(d.link, *state.offer);
}

void on_down(pointer self, const caf::down_msg& m) {
  auto& state = self->state;
  if (state.receiver && state.receiver.address() == m.source) return receiver_ended(self, m.reason);
  for (auto& d : state.doors) {
    if (!d.link || d.link.address() != m.source) continue;
    d.link = nullptr;
    d.next_try = self->clock().now() + milliseconds(state.env->options.transport.retry_ms);
  }
  if (state.leaving) return leave(self);
  arm(self);
}

void on_remove(pointer self, const remove_engine& m) {
  auto& state = self->state;
  state.leaving = m.answer;
  if (state.hello) {
    const goodbye_msg farewell{state.env->cluster, state.hello->id, state.hello->inc};
    for (const auto& d : state.doors)
      if (d.link) self->send(d.link, farewell);
  }
  if (state.receiver) self->send_exit(state.receiver, caf::exit_reason::user_shutdown);
  leave(self);
}

void on_tick(pointer self) {
  auto& state = self->state;
  state.timer.fired();
  const auto now = self->clock().now();
  if (state.leaving) return;
  if (state.restart_at && *state.restart_at <= now) start_receiver(self);
  for (std::size_t i = 0; i < state.doors.size(); ++i) {
    const auto& d = state.doors[i];
    if (!d.link && !d.dialing && d.next_try <= now) dial(self, i);
  }
  arm(self);
}

}  // namespace

agent_actor::behavior_type agent_behavior(pointer self, std::shared_ptr<const actor_env> env,
                                          std::shared_ptr<engine> bytes, gateway* ways,
                                          std::vector<node_address> trainers,
                                          std::shared_ptr<relay_place> place,
                                          node_address found_at) {
  auto& state = self->state;
  state.env = std::move(env);
  state.bytes = std::move(bytes);
  state.ways = ways;
  state.place = std::move(place);
  state.found_at = std::move(found_at);
  for (auto& t : trainers) {
    agent_state::door d;
    d.where = std::move(t);
    state.doors.push_back(std::move(d));
  }
  self->set_down_handler([self](const caf::down_msg& m) { on_down(self, m); });
  self->set_exit_handler([self](const caf::exit_msg& m) {
    if (self->state.receiver) self->send_exit(self->state.receiver, m.reason);
    end_relay(self);
    self->quit(m.reason);
  });
  start_receiver(self);
  for (std::size_t i = 0; i < state.doors.size(); ++i) dial(self, i);
  return {
      [self](hello_msg& m) {
        auto& s = self->state;
        for (const auto& d : s.doors)
          if (d.link) self->send(d.link, m);
        s.hello = std::move(m);
      },
      [self](relay_offer_msg& m) {
        auto& s = self->state;
        for (const auto& d : s.doors)
          if (d.link) self->send(d.link, m);
        s.offer = std::move(m);
      },
      [self](const credit_msg& m) {
        for (const auto& d : self->state.doors)
          if (d.link) self->send(d.link, m);
      },
      [self](const announced& m) {
        auto& s = self->state;
        if (m.what <= s.seen) return;
        s.seen = m.what;
        for (const auto& d : s.doors)
          if (d.link) self->send(d.link, m);
      },
      [self](dialed& m) { on_dialed(self, m); },
      [self](const remove_engine& m) { on_remove(self, m); },
      [self](const tick&) { on_tick(self); },
  };
}

}  // namespace lockstep
