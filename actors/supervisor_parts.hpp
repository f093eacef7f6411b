// Decides what the files that make up the supervisor share. Private to actors/.
#pragma once

#include "actors/states.hpp"

namespace lockstep::supervising {

using pointer = supervisor_actor::stateful_pointer<supervisor_state>;

// --- supervisor_actor.cpp
/// Tells a receiver where answers to the run go.
void greet(pointer self, const supervisor_state::child& c);
/// Performs what the policy has decided.
void perform(pointer self, const supervision_fsm::actions& actions);
/// Notes what a receiver has become, if it has become something else.
void note_phase(pointer self, receiver_id id);
/// What there is to be after a run that has ended.
enum class sequel : std::uint8_t {
  another_run,
  none,  ///< the trainer has left
};
/// Ends sender, join and snapshot, if there are any.
void end_trainer(pointer self, sequel next);

// --- supervisor_receivers.cpp
void start_flusher(pointer self, supervisor_state::child& c);
/// Forgets how a receiver that runs elsewhere was reached.
void unreach(pointer self, supervisor_state::child& c);
/// Tells a life that it is of no use here as it is.
void refuse(pointer self, const receiver_actor& who, incarnation inc, errc reason, std::string why);
/// A life announces itself.
void on_hello(pointer self, const hello_msg& m);
/// It leaves on purpose.
void on_goodbye(pointer self, const goodbye_msg& m);

// --- supervisor_ranks.cpp
/// Starts a run, as soon as every rank of the trainer has seeded its part.
void boot(pointer self, boot_request m);
/// Tells all other ranks that what they hold is a part of nothing any more.
void end_ranks(pointer self, sequel next);
/// Gives up a start that waits for other ranks.
void refuse_boot(pointer self, errc reason, const std::string& detail);
/// Whom a start that waits for other ranks waits for, in words.
std::string missing_ranks(const supervisor_state& state);
/// Says it to people now and then while a boot waits for them.
void say_who_is_missing(pointer self);
/// A rank announces itself.
void on_rank(pointer self, shard_hello_msg& m);
/// A rank's link has ended.
void rank_died(pointer self, std::uint32_t rank);
/// Whether this life is linked to every rank of the trainer that is there.
bool is_reached(const supervisor_state& state, const participant& who);
/// Whoever not all ranks reach is out until they do.
void look_at_reach(pointer self, const supervisor_state::child& c);
/// A rank says whom it reaches.
void on_reach(pointer self, const shard_reach_msg& m);
/// A rank has seeded its part, or cannot.
void on_rank_result(pointer self, const shard_result_msg& m);

// --- supervisor_fanout.cpp
/// Plans anew who has what from whom, if anything has changed, and tells whom it concerns.
void replan(pointer self);
/// A receiver that is reached anew knows of no orders.
void forget_orders(pointer self, supervisor_state::child& c);
/// Says again what has not been answered.
void repeat_orders(pointer self);
void on_offer(pointer self, const relay_offer_msg& m);
void on_relay_link(pointer self, const relay_link_msg& m);
void on_stalled(pointer self, const relay_stalled& m);
/// Likewise, at another rank.
void on_rank_stalled(pointer self, const shard_stalled_msg& m);

// --- supervisor_status.cpp
void on_observe(pointer self, const observe_request& m);

}  // namespace lockstep::supervising
