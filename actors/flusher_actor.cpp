// The flusher: a stream of buckets to one receiver, as fast as it takes them.
#include "actors/states.hpp"

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
    *state.sent_bytes += bucket.size();
    self->send(state.receiver, bucket_msg{state.env, state.first + index, std::move(bucket)});
  }
  if (!state.machine.drained()) return;
  self->send(state.owner, drained_notice{state.env.txn, state.id});
  state.stop();
}

}  // namespace

flusher_actor::behavior_type flusher_behavior(pointer self, receiver_id id, receiver_actor receiver,
                                              std::uint32_t credit,
                                              std::shared_ptr<std::atomic<std::uint64_t>> sent) {
  self->state.id = id;
  self->state.sent_bytes = std::move(sent);
  self->state.receiver = receiver;
  self->state.machine = flusher_fsm(credit);
  return {
      [self](ship_request& m) {
        auto& state = self->state;
        state.owner = caf::actor_cast<sender_actor>(self->current_sender());
        state.source = std::move(m.source);
        state.first = 0;
        if (const auto* part = std::get_if<part_head>(&m.head)) state.first = part->first;
        std::visit(
            [&](auto& head) {
              state.env = head.env;
              self->send(state.receiver, std::move(head));
            },
            m.head);
        const auto count = static_cast<std::uint32_t>(state.source->content().buckets.size());
        send_buckets(self, state.machine.on_start(state.env, count));
      },
      [self](const credit_msg& m) {
        auto& state = self->state;
        if (!state.source || m.index < state.first) return;
        send_buckets(self, state.machine.on_credit({m.env, m.id, m.index - state.first}));
      },
      [self](const stop_request& m) {
        if (self->state.env.txn == m.txn) self->state.stop();
      },
  };
}

}  // namespace lockstep
