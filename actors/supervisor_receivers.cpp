// How receivers of other processes come to the supervisor, and whom it takes in.
#include <spdlog/spdlog.h>

#include "actors/supervisor_parts.hpp"
#include "messages/printable.hpp"

namespace lockstep::supervising {

void start_flusher(pointer self, supervisor_state::child& c) {
  c.flusher =
      self->spawn<caf::monitored>(flusher_behavior, c.life.id, c.receiver, self->state.env, c.sent);
  greet(self, c);
}

void unreach(pointer self, supervisor_state::child& c) {
  if (c.receiver) self->demonitor(c.receiver.address());
  if (c.flusher) {
    self->demonitor(c.flusher.address());
    self->send_exit(c.flusher, caf::exit_reason::user_shutdown);
  }
  c.receiver = nullptr;
  c.flusher = nullptr;
  forget_orders(self, c);
}

void refuse(pointer self, const receiver_actor& who, incarnation inc, errc reason,
            std::string why) {
  self->send(who, refused_msg{self->state.env->cluster, inc, reason, std::move(why)});
}

namespace {

/// A receiver that runs elsewhere is reached by the handle that its life announced itself from.
void reach(pointer self, const hello_msg& m) {
  const auto from = caf::actor_cast<receiver_actor>(self->current_sender());
  const auto& records = self->state.policy->records();
  const auto known = records.find(m.id);
  if (!from || known == records.end() || known->second.inc != m.inc) return;  // not listened to
  auto& c = self->state.children[m.id];
  if (c.receiver == from && c.life.inc == m.inc) return;
  unreach(self, c);
  c.life = {m.id, m.inc};
  c.model = m.layout;
  c.taken = m.taken;
  c.receiver = from;
  self->monitor(from);
  start_flusher(self, c);
}

/// A number belongs to the name that had it first until that one leaves on purpose: names may be
/// proven by certificates, numbers are not.
bool takes_anothers_place(const supervisor_state& state, const hello_msg& m) {
  const auto& records = state.policy->records();
  const auto known = records.find(m.id);
  return known != records.end() && known->second.where != standing::detached &&
         !known->second.name.empty() && known->second.name != m.name;
}

/// What a life takes is what it said first: flushers, proofs and routes of this life hang on it.
bool takes_other_tensors(const supervisor_state& state, const hello_msg& m) {
  const auto it = state.children.find(m.id);
  if (it == state.children.end() || it->second.life.inc != m.inc) return false;
  return it->second.model != m.layout || it->second.taken != m.taken;
}

/// Tells a life that its id is another's.
void refuse_id(pointer self, const hello_msg& m, std::string why) {
  self->state.env->log->error("receiver {} is refused: {}", m.id, why);
  if (const auto from = caf::actor_cast<receiver_actor>(self->current_sender()))
    refuse(self, from, m.inc, errc::bad_input, std::move(why));
}

/// Who announces itself a lease after another life has taken its place is no word that was long
/// under way: two processes have one id and one name, and neither can see that. Nobody ends for it,
/// since the place may be free again.
void tell_twin(pointer self, const hello_msg& m) {
  auto& state = self->state;
  const auto& records = state.policy->records();
  const auto known = records.find(m.id);
  if (known == records.end()) return;
  const auto now = self->clock().now();
  const auto it = state.twins.find(m.id);
  if (known->second.inc == m.inc) {
    if (it != state.twins.end() && it->second.life == m.inc) state.twins.erase(it);
    return;
  }
  if (it == state.twins.end() || it->second.life != m.inc) {
    state.twins.insert_or_assign(m.id, supervisor_state::put_out{m.inc, now});
    return;
  }
  if (now < it->second.since + std::chrono::milliseconds(state.env->options.receiver.lease_ms))
    return;
  std::string why = "another process has the id " + std::to_string(m.id) + " and the name '" +
                    printable(m.name) + "', and came later: give each an id of its own";
  if (!std::exchange(it->second.said, true))
    state.env->log->warn("receiver {} is there twice: {}", m.id, why);
  if (const auto from = caf::actor_cast<receiver_actor>(self->current_sender()))
    refuse(self, from, m.inc, errc::restarted, std::move(why));
}

}  // namespace

void on_hello(pointer self, const hello_msg& m) {
  auto& state = self->state;
  if (m.cluster != state.env->cluster) return;
  const auto it = state.children.find(m.id);
  const bool ours = it != state.children.end() && it->second.bytes;
  if (ours && (!self->current_sender() || !it->second.receiver ||
               it->second.receiver.address() != self->current_sender()->address()))
    return refuse_id(
        self, m, "id " + std::to_string(m.id) + " is that of a receiver of the trainer's process");
  if (!ours && takes_anothers_place(state, m))
    return refuse_id(self, m,
                     "id " + std::to_string(m.id) + " is that of '" +
                         printable(state.policy->records().at(m.id).name) + "', not of '" +
                         printable(m.name) + "'");
  if (!ours && takes_other_tensors(state, m)) {
    state.env->log->error(
        "receiver {} takes other tensors than it said first: that takes another "
        "life",
        m.id);
    return;
  }
  const bool parted = !ours && !is_reached(state, {m.id, m.inc});
  const auto actions = state.policy->on_hello(self->clock().now(), m, parted);
  if (!ours) {
    reach(self, m);
    tell_twin(self, m);
  }
  perform(self, actions);
  note_phase(self, m.id);
  if (const auto c = state.children.find(m.id); c != state.children.end())
    look_at_reach(self, c->second);
}

void on_goodbye(pointer self, const goodbye_msg& m) {
  auto& state = self->state;
  if (m.cluster != state.env->cluster) return;
  perform(self, state.policy->on_goodbye(self->clock().now(), m));
  note_phase(self, m.id);
  const auto it = state.children.find(m.id);
  if (it == state.children.end() || it->second.bytes || it->second.life.inc != m.inc) return;
  unreach(self, it->second);
  state.children.erase(it);
  replan(self);
}

}  // namespace lockstep::supervising
