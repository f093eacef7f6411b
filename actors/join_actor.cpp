// The join: feeds replies and deadlines to its machine and passes on what it emits.
#include "actors/states.hpp"

namespace lockstep {

namespace {

void emit(join_actor::stateful_pointer<join_state> self, join_fsm::emitted result) {
  auto& state = self->state;
  state.timer.arm(self, state.machine.deadline());
  if (result) self->send(state.opener, std::move(*result));
}

}  // namespace

join_actor::behavior_type join_behavior(join_actor::stateful_pointer<join_state> self,
                                        snapshot_actor snapshot) {
  return {
      [self](round_spec& spec) {
        self->state.opener = caf::actor_cast<sender_actor>(self->current_sender());
        emit(self, self->state.machine.on_open(std::move(spec)));
      },
      [self](const round_hurry& h) {
        self->state.machine.on_hurry(h);
        emit(self, std::nullopt);
      },
      [self](const reply_msg& m) { emit(self, self->state.machine.on_reply(m)); },
      [self](const down_notice& m) { emit(self, self->state.machine.on_down(m.who, m.reason)); },
      [self, snapshot](const conclude_request& m) {
        self->send(snapshot, join_verdict{m.txn, self->state.machine.all_ok(m.txn, m.view)});
      },
      [self](const tick&) {
        self->state.timer.fired();
        emit(self, self->state.machine.on_tick(self->clock().now()));
      },
  };
}

}  // namespace lockstep
