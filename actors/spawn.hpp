// Decides what each actor is started with. Only the supervisor starts actors, and the runtime
// starts the supervisor.
#pragma once

#include <atomic>
#include <caf/stateful_actor.hpp>
#include <caf/typed_event_based_actor.hpp>
#include <memory>

#include "actors/interfaces.hpp"
#include "actors/relay.hpp"

namespace lockstep {

struct join_state;
join_actor::behavior_type join_behavior(join_actor::stateful_pointer<join_state> self,
                                        snapshot_actor snapshot);

struct snapshot_state;
snapshot_actor::behavior_type snapshot_behavior(
    snapshot_actor::stateful_pointer<snapshot_state> self, std::shared_ptr<const actor_env> env,
    std::shared_ptr<snapshot_store> store, target_info held, std::uint64_t owner_mark);

/// Bulk bytes that a receiver got: from this process, and of what it got from other receivers.
struct sent_counters {
  std::atomic<std::uint64_t> sent{0};
  std::atomic<std::uint64_t> relayed{0};
};

struct flusher_state;
flusher_actor::behavior_type flusher_behavior(flusher_actor::stateful_pointer<flusher_state> self,
                                              receiver_id id, receiver_actor receiver,
                                              std::shared_ptr<const actor_env> env,
                                              std::shared_ptr<sent_counters> sent);

struct receiver_state;
receiver_actor::behavior_type receiver_behavior(
    receiver_actor::stateful_pointer<receiver_state> self, std::shared_ptr<const actor_env> env,
    std::shared_ptr<engine> bytes, incarnation inc, supervisor_actor supervisor, relay_side side);

/// What a run of the trainer's side starts from.
struct sender_setup {
  std::shared_ptr<const actor_env> env;
  std::shared_ptr<const snapshot_store> store;
  std::uint64_t run = 0;
  target_info held;  ///< of the whole model
  layout shape;      ///< of the whole model; the store's is this rank's part of it
  std::vector<rank_link_actor> ranks;  ///< the others, in order
  join_actor join;
  snapshot_actor snapshot;
  supervisor_actor supervisor;
};

struct sender_state;
sender_actor::behavior_type sender_behavior(sender_actor::stateful_pointer<sender_state> self,
                                            sender_setup setup);

/// Whom an auditor asks.
struct audit_target {
  participant who;
  std::string name;
  receiver_actor receiver;  ///< nobody: not to be reached
  std::string why_not;      ///< then
  hash128 model = {};       ///< that it says it is for
  payload taken = {};       ///< and which of its tensors; empty: all
};
/// Asks `snapshot` and `targets` until each was compared at one version, or the deadline has
/// passed, and calls `answer` once.
struct audit_setup {
  std::shared_ptr<const actor_env> env;
  snapshot_actor snapshot;
  std::vector<rank_link_actor> ranks;  ///< the others of the trainer
  layout shape;
  std::vector<audit_target> targets;
  std::function<void(observation)> answer;
};

struct auditor_state;
auditor_actor::behavior_type auditor_behavior(auditor_actor::stateful_pointer<auditor_state> self,
                                              audit_setup setup);

struct supervisor_state;
supervisor_actor::behavior_type supervisor_behavior(
    supervisor_actor::stateful_pointer<supervisor_state> self,
    std::shared_ptr<const actor_env> env);

}  // namespace lockstep
