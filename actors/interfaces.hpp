// Decides every typed actor interface, with a sentence per handler, and what actors of one process
// say to each other. All messages are one-way: whatever must be answered is fenced and has its
// deadline in a machine (protocol/), so that a lost answer is never taken for one.
#pragma once

#include <caf/allowed_unsafe_message_type.hpp>
#include <caf/typed_actor.hpp>
#include <functional>
#include <future>
#include <memory>
#include <variant>
#include <vector>

#include "actors/engine.hpp"
#include "actors/failpoint.hpp"
#include "actors/snapshot_store.hpp"
#include "actors/ticket_state.hpp"
#include "messages/observer.hpp"
#include "messages/type_ids.hpp"
#include "protocol/fanout.hpp"
#include "protocol/join_fsm.hpp"
#include "protocol/supervision_fsm.hpp"
#include "protocol/sync_fsm.hpp"
#include "weights/shard.hpp"
#include "weights/weight_buffer.hpp"

namespace spdlog {
class logger;
}

namespace lockstep {

// --- said inside one process only: these carry pointers and handles -----------------------------

/// The actor's machine asked to be called at about this time.
struct tick {};

/// Read the trainer's tensors and bring the fleet to them.
struct sync_request {
  std::uint64_t label = 0;
  tensor_reader tensors;  ///< valid until `ticket->tensors_read()`
  std::shared_ptr<ticket_state> ticket;
};

/// The trainer has its next weights: the report of the sync under way waits for nobody's recovery.
struct hurry_request {};

/// The sender to itself: it has encoded what the trainer wants shipped, or cannot.
struct encode_result {
  txn_ref txn;
  std::uint64_t challenge = 0;
  errc reason = errc::none;
  std::string detail;
  digest state;  ///< of the trainer's weights, under the public key
  std::shared_ptr<delta_source> delta;
};

/// Prove the encoding of `txn`; keep it until the join's verdict. Receivers may stage it meanwhile.
struct stage_request {
  txn_ref txn;
  version_ref base;
  target_info target;
  std::shared_ptr<delta_source> delta;
  std::uint64_t challenge = 0;
};
struct stage_result {
  txn_ref txn;
  errc reason = errc::none;
  std::string detail;
  digest proof;  ///< what a receiver that holds the target must answer to the challenge
  std::shared_ptr<delta_source> absorbing;  ///< the delta as it leads there from a torn mix as well
};

/// Which tensors something is asked of, for receivers that take no others.
struct part_choice {
  std::uint32_t number = 0;  ///< the asker's; the answer quotes it
  shard_mask taken = {};     ///< empty: all
};
/// Take from the encoding of `txn`, which has been proven, what is of these tensors, and prove it.
struct carve_request {
  txn_ref txn;
  std::uint64_t challenge = 0;
  part_choice part;
};
struct carve_result {
  txn_ref txn;
  std::uint64_t challenge = 0;
  std::uint32_t part = 0;
  errc reason = errc::none;
  std::string detail;
  digest base;   ///< what these tensors digest to under the public key, before and
  digest state;  ///< after
  digest proof;  ///< after, under the challenge
  std::shared_ptr<delta_source> delta;
  std::shared_ptr<delta_source> absorbing;
};

/// Digest the snapshot under the challenge.
struct prove_request {
  txn_ref txn;
  std::uint64_t challenge = 0;
  part_choice part = {};
};
struct prove_result {
  txn_ref txn;
  std::uint64_t challenge = 0;
  std::uint32_t part = 0;
  digest state;  ///< under the public key; only of a part
  digest proof;
};

/// Plan a full transfer of the snapshot, or of what has changed in its last `steps`.
struct full_request {
  txn_ref txn;
  std::uint64_t challenge = 0;
  std::size_t steps = 0;  ///< 0: all weights
  part_choice part = {};
};
struct full_result {
  txn_ref txn;
  std::uint64_t challenge = 0;
  std::uint32_t part = 0;
  digest state;  ///< under the public key; only of a part
  digest proof;
  std::shared_ptr<bucket_source> source;  ///< none: not so many steps are remembered, or too much
};

/// Did all of `view` acknowledge? The answer goes to the snapshot.
struct conclude_request {
  txn_ref txn;
  std::vector<participant> view;
};
struct join_verdict {
  txn_ref txn;
  bool all_ok = false;
};
struct advance_result {
  txn_ref txn;
  errc reason = errc::none;
  std::string detail;
};
/// The pending delta will not be committed.
struct drop_request {
  txn_ref txn;
};

struct relay_route;
/// Make this bucket of weights that are lent.
struct relay_cut {
  relay_lend_msg what;
  std::uint32_t index = 0;
};

/// Who gets the same shipment, or holds what it leads to, ascending.
using shipped_to = std::vector<receiver_id>;

/// A parent has brought nothing of its stripe for too long.
struct relay_stalled {
  receiver_id child = 0;
  receiver_id parent = 0;
};

/// This life of a receiver has ended.
struct down_notice {
  participant who;
  errc reason = errc::dead;
};
/// A receiver serves a newer run of the trainer than this one.
struct newer_run_notice {
  std::uint64_t run = 0;
};
/// Will not be tried again.
struct gave_up_notice {
  receiver_id id = 0;
  errc reason = errc::none;
};
/// What the fleet holds now, and who acknowledged it.
struct fleet_notice {
  version_ref version;
  std::vector<receiver_id> acknowledged;
};

/// What an observer is told.
struct observation {
  std::vector<receiver_status> states;  ///< ascending by id
  std::vector<receiver_audit> audits;   ///< likewise
  relay_report relays;
  std::vector<receiver_failure> failures;  ///< likewise, of those who ever failed
  observed_msg end;
};
/// Asks where everybody stands, or what everybody holds. `answer` is called once, on an actor's
/// thread.
struct observe_request {
  question what = question::status;
  std::function<void(observation)> answer;
};
/// What follows is the part of a shipment that another rank of the trainer has announced.
struct part_head {
  envelope env;
  std::uint32_t round = 0;  ///< of a redo; 0: the first time
  std::uint32_t first = 0;  ///< index of the part's first bucket among all
};
/// Digest every tensor of the snapshot under the challenge.
struct digests_request {
  std::uint64_t challenge = 0;
};
struct digests_result {
  std::uint64_t challenge = 0;
  version_ref version;
  std::vector<digest> tensors;
};
/// Start, or start anew as a new run, the trainer's side.
struct boot_request {
  std::uint64_t run = 0;                  ///< raised where the process has had it already
  std::shared_ptr<snapshot_store> store;  ///< of what this rank owns
  std::shared_ptr<std::promise<version_ref>> answer;
  /// Of the whole model; only where the trainer has several ranks. Else it is the store's.
  layout shape = {};
  shard_mask owned = {};
  time_point deadline = {};  ///< for the other ranks to come, likewise
};
/// The trainer leaves: its side ends, and receivers hear of no trainer any more.
struct end_request {};
/// Run a receiver over these bytes, and restart it when it ends.
struct add_engine {
  std::shared_ptr<engine> bytes;
};
/// Leave on purpose; answered when the receiver's actor is gone.
struct remove_engine {
  receiver_id id = 0;
  std::shared_ptr<std::promise<void>> answer;
};

}  // namespace lockstep

#define LOCKSTEP_LOCAL_MESSAGE(type) CAF_ALLOW_UNSAFE_MESSAGE_TYPE(lockstep::type)
LOCKSTEP_LOCAL_MESSAGE(tick)
LOCKSTEP_LOCAL_MESSAGE(sync_request)
LOCKSTEP_LOCAL_MESSAGE(hurry_request)
LOCKSTEP_LOCAL_MESSAGE(encode_result)
LOCKSTEP_LOCAL_MESSAGE(stage_request)
LOCKSTEP_LOCAL_MESSAGE(stage_result)
LOCKSTEP_LOCAL_MESSAGE(carve_request)
LOCKSTEP_LOCAL_MESSAGE(carve_result)
LOCKSTEP_LOCAL_MESSAGE(prove_request)
LOCKSTEP_LOCAL_MESSAGE(prove_result)
LOCKSTEP_LOCAL_MESSAGE(full_request)
LOCKSTEP_LOCAL_MESSAGE(full_result)
LOCKSTEP_LOCAL_MESSAGE(conclude_request)
LOCKSTEP_LOCAL_MESSAGE(join_verdict)
LOCKSTEP_LOCAL_MESSAGE(advance_result)
LOCKSTEP_LOCAL_MESSAGE(drop_request)
LOCKSTEP_LOCAL_MESSAGE(down_notice)
LOCKSTEP_LOCAL_MESSAGE(relay_cut)
LOCKSTEP_LOCAL_MESSAGE(relay_route)
LOCKSTEP_LOCAL_MESSAGE(relay_stalled)
LOCKSTEP_LOCAL_MESSAGE(gave_up_notice)
LOCKSTEP_LOCAL_MESSAGE(newer_run_notice)
LOCKSTEP_LOCAL_MESSAGE(fleet_notice)
LOCKSTEP_LOCAL_MESSAGE(observation)
LOCKSTEP_LOCAL_MESSAGE(observe_request)
LOCKSTEP_LOCAL_MESSAGE(digests_request)
LOCKSTEP_LOCAL_MESSAGE(part_head)
LOCKSTEP_LOCAL_MESSAGE(digests_result)
LOCKSTEP_LOCAL_MESSAGE(boot_request)
LOCKSTEP_LOCAL_MESSAGE(end_request)
LOCKSTEP_LOCAL_MESSAGE(add_engine)
LOCKSTEP_LOCAL_MESSAGE(remove_engine)
LOCKSTEP_LOCAL_MESSAGE(round_spec)
LOCKSTEP_LOCAL_MESSAGE(round_hurry)
LOCKSTEP_LOCAL_MESSAGE(round_result)
LOCKSTEP_LOCAL_MESSAGE(sync_action::evicted)
LOCKSTEP_LOCAL_MESSAGE(sync_action::admitted)
LOCKSTEP_LOCAL_MESSAGE(sync_action::not_admitted)

namespace lockstep {

/// Waits for every participant's reply, or its deadline.
using join_actor = caf::typed_actor<
    // The sender opens a round; its result goes back to the sender, once.
    caf::reacts_to<round_spec>,
    // The sender cannot wait for a round as long as it thought.
    caf::reacts_to<round_hurry>,
    // A receiver answers.
    caf::reacts_to<reply_msg>,
    // The sender knows of a participant that will not answer any more.
    caf::reacts_to<down_notice>,
    // The sender has no more rounds for a delta; the verdict goes to the snapshot.
    caf::reacts_to<conclude_request>,
    // A round's deadline.
    caf::reacts_to<tick>>;

/// Where a receiver's answers to run `run` go.
struct welcome {
  std::uint64_t run = 0;
  join_actor join;
};

/// Holds the bytes that the fleet holds.
using snapshot_actor = caf::typed_actor<
    // The sender has encoded a delta: decode it as a receiver would, prove it, keep it.
    caf::reacts_to<stage_request>,
    // The sender ships to somebody who takes a part of the tensors.
    caf::reacts_to<carve_request>,
    // The sender wants to know what receivers that hold the snapshot must answer to a challenge.
    caf::reacts_to<prove_request>,
    // The sender needs all weights as buckets.
    caf::reacts_to<full_request>,
    // The join's word on a delta: the only thing that makes the snapshot advance.
    caf::reacts_to<join_verdict>,
    // The sender has aborted.
    caf::reacts_to<drop_request>,
    // An auditor wants to know what the snapshot holds.
    caf::reacts_to<digests_request>>;

/// One inference engine's side. Everything but `welcome` may come from another node.
using receiver_actor = caf::typed_actor<
    // Raise the fences, drop staged data, prove by digest that you hold the target.
    caf::reacts_to<attach_msg>,
    // A delta follows: stage it, prove base and payload, vote.
    caf::reacts_to<prepare_msg>,
    // The decided delta again, after a failed apply.
    caf::reacts_to<redo_msg>,
    // All weights follow.
    caf::reacts_to<full_begin_msg>,
    // Another rank of the trainer ships its part from here on; for links only.
    caf::reacts_to<part_head>,
    // One bucket of what was announced.
    caf::reacts_to<bucket_msg>,
    // Apply what is staged and prove the result.
    caf::reacts_to<commit_msg>,
    // Drop what is staged.
    caf::reacts_to<abort_msg>,
    // The lease, and what the fleet holds.
    caf::reacts_to<ping_msg>,
    // A trainer's side has started: answers go to its join.
    caf::reacts_to<welcome>,
    // Say what the bytes are now, tensor by tensor.
    caf::reacts_to<audit_msg>,
    // Have a stripe of the buckets from another receiver; for the relay.
    caf::reacts_to<relay_parent_msg>,
    // Another receiver may have these weights; likewise.
    caf::reacts_to<relay_lend_msg>,
    // The trainer has no use for this life.
    caf::reacts_to<refused_msg>,
    // The relay needs a bucket of weights that are lent.
    caf::reacts_to<relay_cut>,
    // A deadline: staged data or the lease.
    caf::reacts_to<tick>>;

/// From whom a receiver gets each stripe of what is passed on; a parent only where the two are
/// linked. Empty: all of it from the trainer.
struct relay_route {
  /// How a parent is told that it may lend its weights.
  struct lender {
    participant who;
    receiver_actor receiver;
  };

  std::vector<fanout_plan::place> from;
  std::vector<lender> lenders = {};
};

/// Stream `source` to the receiver, after `head` has announced it.
struct ship_request {
  std::variant<prepare_msg, redo_msg, full_begin_msg, part_head> head;
  std::shared_ptr<bucket_source> source;
  /// Those of the route who are among these bring it: of all weights what they hold, of a delta
  /// what they stage. None: nobody does.
  std::shared_ptr<const shipped_to> among = {};
};
/// The first `count` buckets of a delta that is still being encoded: they may leave before anything
/// announces them. A `ship_request` of the same transaction follows, or its end.
struct ship_ahead {
  envelope env;
  std::shared_ptr<bucket_source> source;
  std::uint32_t count = 0;
};
/// Stop streaming this transaction.
struct stop_request {
  txn_ref txn;
};
/// Every bucket of this transaction has been taken.
struct drained_notice {
  txn_ref txn;
  receiver_id id = 0;
};

/// Ships buckets to one receiver, `bucket.credit` of them at a time.
using flusher_actor = caf::typed_actor<
    // The sender has something to ship.
    caf::reacts_to<ship_request>,
    // And before it knows all of it, what there is by now.
    caf::reacts_to<ship_ahead>,
    // The receiver has taken a bucket, from whomever.
    caf::reacts_to<credit_msg>,
    // The supervisor knows who brings what.
    caf::reacts_to<relay_route>,
    // Others may have had their time.
    caf::reacts_to<tick>,
    // The sender's transaction is over.
    caf::reacts_to<stop_request>>;

/// The supervisor wants this life admitted; it is reached like this.
struct admit_request {
  participant who;
  std::string name;
  receiver_actor receiver;
  flusher_actor flusher;
  hash128 layout = {};     ///< of the whole model, as it says
  payload taken = {};      ///< as in `hello_msg`
  bool elsewhere = false;  ///< in another process
};

/// Reads the trainer's tensors, diffs them against the snapshot, encodes, and leads the fleet
/// through each transaction.
using sender_actor = caf::typed_actor<
    // The trainer has new weights.
    caf::reacts_to<sync_request>,
    // It has the next ones already.
    caf::reacts_to<hurry_request>,
    // It has encoded them itself, or cannot.
    caf::reacts_to<encode_result>,
    // The snapshot has proven the encoding, or not.
    caf::reacts_to<stage_result>,
    // The snapshot has proven what is of some of the tensors.
    caf::reacts_to<carve_result>,
    // The snapshot has digested itself under a challenge.
    caf::reacts_to<prove_result>,
    // The snapshot has planned a full transfer.
    caf::reacts_to<full_result>,
    // The snapshot has advanced, or cannot.
    caf::reacts_to<advance_result>,
    // The join has every participant's terminal status.
    caf::reacts_to<round_result>,
    // A flusher has nothing left to send.
    caf::reacts_to<drained_notice>,
    // The supervisor wants a receiver in the view.
    caf::reacts_to<admit_request>,
    // The supervisor has seen a receiver end.
    caf::reacts_to<down_notice>,
    // The supervisor will not try this receiver again.
    caf::reacts_to<gave_up_notice>,
    // The supervisor has heard of a newer run: this one is over.
    caf::reacts_to<newer_run_notice>,
    // Another rank has done its part.
    caf::reacts_to<shard_result_msg>,
    // A deadline of the machine.
    caf::reacts_to<tick>>;

/// Starts and monitors all others; quarantines, restarts, readmits and gives up receivers.
using supervisor_actor = caf::typed_actor<
    // The trainer's weights are there: start its side as a new run.
    caf::reacts_to<boot_request>,
    // The trainer has left.
    caf::reacts_to<end_request>,
    // Handed on to the sender.
    caf::reacts_to<sync_request>, caf::reacts_to<hurry_request>,
    // Run a receiver of this process.
    caf::reacts_to<add_engine>,
    // End a receiver of this process, on purpose.
    caf::reacts_to<remove_engine>,
    // A life of a receiver announces itself.
    caf::reacts_to<hello_msg>,
    // A receiver answers a ping.
    caf::reacts_to<pong_msg>,
    // A receiver leaves on purpose.
    caf::reacts_to<goodbye_msg>,
    // A receiver offers to pass buckets on, or says what became of an order to have some from
    // another.
    caf::reacts_to<relay_offer_msg>, caf::reacts_to<relay_link_msg>,
    // A flusher waits in vain for what another receiver was to bring.
    caf::reacts_to<relay_stalled>,
    // The sender has put a receiver out of the view.
    caf::reacts_to<sync_action::evicted>,
    // The sender has a receiver in the view.
    caf::reacts_to<sync_action::admitted>,
    // The sender could not admit a receiver.
    caf::reacts_to<sync_action::not_admitted>,
    // The snapshot has moved.
    caf::reacts_to<fleet_notice>,
    // Another rank of the trainer announces itself, or has seeded its part.
    caf::reacts_to<shard_hello_msg>, caf::reacts_to<shard_result_msg>,
    // It says whom it reaches, and who waits in vain for what others were to bring of its part.
    caf::reacts_to<shard_reach_msg>, caf::reacts_to<shard_stalled_msg>,
    // Somebody asks where everybody stands, or what everybody holds.
    caf::reacts_to<observe_request>,
    // Time to ping, and to try who waits.
    caf::reacts_to<tick>>;

/// Another rank of this trainer, at the coordinator's: owns some tensors and does what is asked
/// with them.
using rank_link_actor = caf::typed_actor<
    // Something to do, or to ship.
    caf::reacts_to<shard_task_msg>, caf::reacts_to<shard_ship_msg>,
    // From whom receivers have what, and who gets the same.
    caf::reacts_to<shard_route_msg>, caf::reacts_to<shard_among_msg>,
    // It cannot be a rank of this trainer.
    caf::reacts_to<refused_msg>>;

/// The coordinator, at another rank's.
using coordinator_link_actor = caf::typed_actor<
    // Said to the coordinator.
    caf::reacts_to<shard_hello_msg>, caf::reacts_to<shard_result_msg>,
    caf::reacts_to<shard_reach_msg>, caf::reacts_to<shard_stalled_msg>>;

/// Compares what receivers hold with the snapshot, once, and ends.
using auditor_actor = caf::typed_actor<
    // Another rank's side.
    caf::reacts_to<shard_result_msg>,
    // The snapshot's side.
    caf::reacts_to<digests_result>,
    // A receiver's.
    caf::reacts_to<audit_reply_msg>,
    // The deadline, or time to ask again who had moved on.
    caf::reacts_to<tick>>;

/// What every actor of a process is given.
struct actor_env {
  settings options;
  std::uint64_t cluster = 0;
  std::function<std::uint64_t()> entropy;  ///< incarnations and challenges; thread-safe
  std::shared_ptr<spdlog::logger> log;
  std::shared_ptr<failpoint> drill;  ///< where this process is to end; usually nowhere
};

}  // namespace lockstep

LOCKSTEP_LOCAL_MESSAGE(welcome)
LOCKSTEP_LOCAL_MESSAGE(ship_request)
LOCKSTEP_LOCAL_MESSAGE(ship_ahead)
LOCKSTEP_LOCAL_MESSAGE(stop_request)
LOCKSTEP_LOCAL_MESSAGE(drained_notice)
LOCKSTEP_LOCAL_MESSAGE(admit_request)
#undef LOCKSTEP_LOCAL_MESSAGE
