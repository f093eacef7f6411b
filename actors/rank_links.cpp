// The ranks of one trainer: each other's links, over which tasks go out and results come back.
#include <spdlog/spdlog.h>

#include "actors/link.hpp"

namespace lockstep {

namespace {

/// Ends a link whose peer says what its role does not.
template <class Self>
bool strange(Self* self, const wire_message& m) {
  self->state.io.end(self, errc::bad_frame, "it says " + std::string(name_of(m)));
  return false;
}

bool hear_rank(rank_link* self, wire_message& m) {
  auto& state = self->state;
  if (std::holds_alternative<beat_msg>(m)) return true;
  if (auto* hello = std::get_if<shard_hello_msg>(&m)) {
    if (hello->rank != state.io.peer().id) return strange(self, m);
    self->send(state.supervisor, std::move(*hello));
    return true;
  }
  if (auto* reach = std::get_if<shard_reach_msg>(&m)) {
    if (reach->rank != state.io.peer().id) return strange(self, m);
    self->send(state.supervisor, std::move(*reach));
    return true;
  }
  if (auto* stalled = std::get_if<shard_stalled_msg>(&m)) {
    if (stalled->rank != state.io.peer().id) return strange(self, m);
    self->send(state.supervisor, std::move(*stalled));
    return true;
  }
  auto* result = std::get_if<shard_result_msg>(&m);
  if (result == nullptr || result->rank != state.io.peer().id) return strange(self, m);
  const auto asker =
      result->what == shard_task::digests ? state.auditors.take(result->challenge) : state.asker;
  if (asker) self->send(asker, std::move(*result));
  return true;
}

/// Hands `m` on if it is a `M`.
template <class M>
bool passed(coordinator_link* self, wire_message& m) {
  auto* said = std::get_if<M>(&m);
  if (said != nullptr) self->send(self->state.rank, std::move(*said));
  return said != nullptr;
}

bool hear_coordinator(coordinator_link* self, wire_message& m) {
  return std::holds_alternative<beat_msg>(m) || passed<shard_task_msg>(self, m) ||
         passed<shard_ship_msg>(self, m) || passed<shard_route_msg>(self, m) ||
         passed<shard_among_msg>(self, m) || passed<refused_msg>(self, m) || strange(self, m);
}

}  // namespace

caf::behavior rank_link_behavior(rank_link* self, std::shared_ptr<const actor_env> env,
                                 link_channels channels, supervisor_actor supervisor) {
  auto& state = self->state;
  state.supervisor = std::move(supervisor);
  self->monitor(state.supervisor);
  self->set_down_handler([self](const caf::down_msg&) { self->quit(); });
  state.io.open(self, std::move(channels), std::move(env));
  return {
      [self](const shard_task_msg& m) {
        auto& s = self->state;
        auto asker = caf::actor_cast<caf::actor>(self->current_sender());
        if (m.what == shard_task::digests)
          s.auditors.note(m.challenge, std::move(asker));
        else
          s.asker = std::move(asker);
        s.io.write(self, m);
      },
      [self](const shard_ship_msg& m) { self->state.io.write(self, m); },
      [self](const shard_route_msg& m) { self->state.io.write(self, m); },
      [self](const shard_among_msg& m) { self->state.io.write(self, m); },
      [self](const refused_msg& m) { self->state.io.write(self, m); },
      [self](const caf::io::new_data_msg& m) {
        self->state.io.read(self, m.buf,
                            [self](wire_message& said) { return hear_rank(self, said); });
      },
      [self](const caf::io::connection_closed_msg&) {
        self->state.io.end(self, errc::dead, "closed from there");
      },
      [self](tick) { self->state.io.watch(self); },
  };
}

caf::behavior coordinator_link_behavior(coordinator_link* self,
                                        std::shared_ptr<const actor_env> env,
                                        link_channels channels, caf::actor rank) {
  auto& state = self->state;
  state.rank = std::move(rank);
  self->monitor(state.rank);
  self->set_down_handler([self](const caf::down_msg&) { self->quit(); });
  state.io.open(self, std::move(channels), std::move(env));
  return {
      [self](const shard_hello_msg& m) { self->state.io.write(self, m); },
      [self](const shard_result_msg& m) { self->state.io.write(self, m); },
      [self](const shard_reach_msg& m) { self->state.io.write(self, m); },
      [self](const shard_stalled_msg& m) { self->state.io.write(self, m); },
      [self](const caf::io::new_data_msg& m) {
        self->state.io.read(self, m.buf,
                            [self](wire_message& said) { return hear_coordinator(self, said); });
      },
      [self](const caf::io::connection_closed_msg&) {
        self->state.io.end(self, errc::dead, "closed from there");
      },
      [self](tick) { self->state.io.watch(self); },
  };
}

}  // namespace lockstep
