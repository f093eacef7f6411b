// Receivers that pass buckets on to receivers: each other's links. Nothing crosses them but
// buckets, who wants them, and that they have come: whoever speaks here has no say in anything
// else.
#include "actors/link.hpp"

namespace lockstep {

namespace {

template <class Self>
bool strange(Self* self, const wire_message& m) {
  self->state.io.end(self, errc::bad_frame, "it says " + std::string(name_of(m)));
  return false;
}

bool hear_child(child_link* self, wire_message& m) {
  auto& state = self->state;
  if (std::holds_alternative<beat_msg>(m)) return true;
  if (auto* ask = std::get_if<relay_ask_msg>(&m); ask && ask->id == state.io.peer().id) {
    self->send(state.relay, std::move(*ask));
    return true;
  }
  auto* credit = std::get_if<credit_msg>(&m);
  if (credit == nullptr || credit->id != state.io.peer().id) return strange(self, m);
  self->send(state.relay, std::move(*credit));
  return true;
}

template <class Self>
void monitor_relay(Self* self, relay_actor relay) {
  self->state.relay = std::move(relay);
  self->monitor(self->state.relay);
  self->set_down_handler([self](const caf::down_msg&) { self->quit(); });
}

}  // namespace

caf::behavior parent_link_behavior(parent_link* self, std::shared_ptr<const actor_env> env,
                                   link_channels channels, relay_actor relay) {
  monitor_relay(self, std::move(relay));
  self->state.io.open(self, std::move(channels), std::move(env));
  return {
      [self](const relay_ask_msg& m) { self->state.io.write(self, m); },
      [self](const credit_msg& m) { self->state.io.write(self, m); },
      [self](const caf::io::new_data_msg& m) {
        self->state.io.read(self, m.buf, [self](const wire_message& said) {
          return std::holds_alternative<beat_msg>(said) || strange(self, said);
        });
      },
      [self](const caf::io::connection_closed_msg&) {
        self->state.io.end(self, errc::dead, "closed from there");
      },
      [self](bulk_bucket& m) { self->send(self->state.relay, std::move(m.bucket)); },
      [self](const bulk_closed& m) { self->state.io.end(self, m.why.reason, m.why.detail); },
      [self](tick) { self->state.io.watch(self); },
  };
}

caf::behavior child_link_behavior(child_link* self, std::shared_ptr<const actor_env> env,
                                  link_channels channels, relay_actor relay) {
  const bool nobody = !relay;
  if (!nobody) monitor_relay(self, std::move(relay));
  self->state.io.open(self, std::move(channels), std::move(env));
  if (nobody) self->state.io.end(self, errc::dead, "there is nobody here to have buckets from");
  return {
      [self](bucket_msg& m) { self->state.io.send(self, std::move(m)); },
      [self](const caf::io::new_data_msg& m) {
        self->state.io.read(self, m.buf,
                            [self](wire_message& said) { return hear_child(self, said); });
      },
      [self](const caf::io::connection_closed_msg&) {
        self->state.io.end(self, errc::dead, "closed from there");
      },
      [self](const bulk_bucket&) { self->state.io.end(self, errc::bad_frame, "it sends buckets"); },
      [self](const bulk_closed& m) { self->state.io.end(self, m.why.reason, m.why.detail); },
      [self](tick) { self->state.io.watch(self); },
  };
}

}  // namespace lockstep
