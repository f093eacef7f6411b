// Decides what the files that make up a rank that does not lead share. Private to actors/.
#pragma once

#include "actors/rank.hpp"

namespace lockstep::ranking {

using pointer = rank_actor::stateful_pointer<rank_state>;

// --- rank_tasks.cpp
/// An answer of this rank to what it was asked, to be filled in.
shard_result_msg result_of(pointer self, shard_task what, txn_ref txn, std::uint64_t challenge);
/// Says it to the coordinator, if that is linked.
void say(pointer self, shard_result_msg m);
/// Ends the trainer's sync, if there is one.
void finish_sync(pointer self, sync_result result, errc reason, std::string detail);
/// The run is over: what this rank holds is a part of nothing.
void end_run(pointer self, errc reason, const std::string& detail);
/// Seeds as soon as the trainer of this rank has come to the same point.
void seed(pointer self, const shard_task_msg& t);
/// Likewise, for the trainer's sync.
void encode(pointer self, const shard_task_msg& t);
/// The coordinator has something to do.
void on_task(pointer self, const shard_task_msg& t);
/// The snapshot stands at the next version, or cannot.
void on_advanced(pointer self, const advance_result& m);

// --- rank_receivers.cpp
/// Ships to one receiver, if it is linked to this rank; else once it is.
void on_ship(pointer self, const shard_ship_msg& m);
void on_among(pointer self, const shard_among_msg& m);
void on_route(pointer self, const shard_route_msg& m);
/// Tells the coordinator what receivers were sent since it was told.
void tell_counts(pointer self);
/// Who this rank is, and whom it reaches.
void introduce(pointer self);
/// A receiver is not linked any more.
void unreach(pointer self, receiver_id id, rank_state::reached& r);
void on_hello(pointer self, const hello_msg& m);

}  // namespace lockstep::ranking
