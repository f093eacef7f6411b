// Somebody who only looks on: asks a question, is answered line by line.
#include <atomic>
#include <caf/send.hpp>

#include "actors/link.hpp"

namespace lockstep {

namespace {

std::atomic<int> observers = 0;  ///< in this process
constexpr int observers_max = 64;

/// Why whoever asks this process of a trainer is to ask another; empty if it is not.
std::string wrong_rank(const transport_settings& t) {
  if (t.rank == 0) return {};
  return "rank " + std::to_string(t.rank) + " of the trainer does not lead: ask rank 0, at " +
         t.connect;
}

bool ask(observer_link* self, const actor_env& env, const wire_message& said) {
  auto& state = self->state;
  const auto* m = std::get_if<observe_msg>(&said);
  if (m == nullptr || state.asked) {
    state.io.end(self, errc::bad_frame, "it says " + std::string(name_of(said)));
    return false;
  }
  if (auto why = wrong_rank(env.options.transport); !why.empty())
    return state.io.write(self, refused_msg{env.cluster, {}, errc::bad_input, std::move(why)});
  state.asked = true;
  const auto me = caf::actor_cast<caf::actor>(self);
  self->send(state.supervisor, observe_request{m->what, [me](observation seen) {
                                                 caf::anon_send(me, std::move(seen));
                                               }});
  return true;
}

void answer(observer_link* self, const observation& seen) {
  auto& state = self->state;
  state.asked = false;
  for (const auto& line : seen.states)
    if (!state.io.write(self, line)) return;
  for (const auto& line : seen.relays.feeds)
    if (!state.io.write(self, line)) return;
  for (const auto& line : seen.relays.relayed)
    if (!state.io.write(self, line)) return;
  for (const auto& line : seen.failures)
    if (!state.io.write(self, line)) return;
  for (const auto& line : seen.audits)
    if (!state.io.write(self, line)) return;
  state.io.write(self, seen.end);
}

}  // namespace

observer_link_state::observer_link_state() {
  ++observers;
}

observer_link_state::~observer_link_state() {
  --observers;
}

caf::behavior observer_link_behavior(observer_link* self, std::shared_ptr<const actor_env> env,
                                     link_channels channels, supervisor_actor supervisor) {
  auto& state = self->state;
  state.supervisor = std::move(supervisor);
  self->monitor(state.supervisor);
  self->set_down_handler([self](const caf::down_msg&) { self->quit(); });
  state.io.open(self, std::move(channels), env);
  if (observers > observers_max) state.io.end(self, errc::busy, "too many look on already");
  return {
      [self](const observation& m) { answer(self, m); },
      [self, env](const caf::io::new_data_msg& m) {
        self->state.io.read(self, m.buf,
                            [&](const wire_message& said) { return ask(self, *env, said); });
      },
      [self](const caf::io::connection_closed_msg&) { self->quit(); },
      [self](tick) {
        // An audit of a large fleet takes its time, and whoever waits for it says nothing.
        if (self->state.asked)
          self->delayed_send(self, std::chrono::seconds(1), tick{});
        else
          self->state.io.watch(self);
      },
  };
}

}  // namespace lockstep
