// Decides what the files that make up the sender share. Private to actors/.
#pragma once

#include "actors/states.hpp"

namespace lockstep::sending {

using pointer = sender_actor::stateful_pointer<sender_state>;

// --- sender_actor.cpp
/// The snapshots of all ranks have advanced, or one cannot.
void advanced(pointer self, const advance_result& m);

// --- sender_actions.cpp
/// Performs what the machine has decided.
void perform(pointer self, const sync_fsm::actions& actions);

/// Whether this one is better off with a raw delta than with a coded one, as far as is known.
bool takes_raw(const sender_state& state, const participant& who);
/// Whether nobody is better off with a coded one.
bool all_take_raw(const sender_state& state);

// --- sender_ranks.cpp
/// Begins to gather what every rank of the trainer has to say, this one included, of each of these
/// parts of the tensors, which are numbered from `first` on.
void ask_ranks(pointer self, shard_task what, txn_ref txn, std::uint64_t label,
               std::uint64_t challenge, const std::vector<shard_mask>& parts = {shard_mask()},
               std::uint32_t first = 0);
/// Asks for what leads here from the earliest of those who are behind, from all ranks; for all
/// weights where nobody is left.
void plan(pointer self, txn_ref txn);
/// What the other ranks have made for this transaction is of no use any more.
void drop_at_ranks(pointer self, txn_ref txn);
/// One rank has answered.
void add_answer(pointer self, std::size_t rank, shard_result_msg m);
/// This rank's answer to a question about a part; it has what to ship of it.
void add_mine(pointer self, shard_result_msg m, std::shared_ptr<bucket_source> source,
              std::shared_ptr<delta_source> absorbing);
/// Somebody has not answered in time.
void give_up_ranks(pointer self);
/// The different parts of the tensors that these take; all where none of them is there any more.
std::vector<shard_mask> parts_of(const sender_state& state, const std::vector<participant>& who);

}  // namespace lockstep::sending
