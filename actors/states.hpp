// Decides what each actor keeps: its machine, the handles it talks to, and the bytes it works on.
// Private to actors/.
#pragma once

#include <algorithm>
#include <atomic>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>

#include "actors/link_rate.hpp"
#include "actors/repeats.hpp"
#include "actors/spawn.hpp"
#include "actors/timer.hpp"
#include "actors/unannounced.hpp"
#include "protocol/flusher_fsm.hpp"
#include "protocol/receiver_fsm.hpp"
#include "protocol/relay_watch.hpp"
#include "protocol/snapshot_fsm.hpp"

namespace lockstep {

struct join_state {
  static inline const char* name = "join";
  join_fsm machine;
  sender_actor opener;
  tick_timer timer;
};

struct flusher_state {
  static inline const char* name = "flusher";
  receiver_id id = 0;
  receiver_actor receiver;
  sender_actor owner;
  flusher_fsm machine{1};
  std::shared_ptr<const actor_env> env_of_process;
  std::shared_ptr<sent_counters> sent;
  relay_route route;            ///< of what is to come
  supervisor_actor supervisor;  ///< who gave it
  relay_watch watch;            ///< over what others are to bring of the shipment under way
  tick_timer timer;
  envelope env;
  std::uint32_t first = 0;  ///< index of the source's first bucket among those announced
  std::shared_ptr<bucket_source> source;
  /// Of the shipment under way, where it is all weights and others may lend theirs.
  struct lending {
    version_ref version;  ///< that it leads to
    std::shared_ptr<const shipped_to> among;
  };
  std::optional<lending> lends;
  /// For what others bring of shipments that this one is yet to be told of; the latest last.
  std::deque<credit_msg> early;

  void stop() {
    machine.on_stop();
    watch.on_stop();
    source.reset();
    lends.reset();
  }
};

struct snapshot_state {
  static inline const char* name = "snapshot";
  std::shared_ptr<snapshot_store> store;
  std::uint64_t owner_mark = 0;  ///< what the store knows us by
  std::optional<snapshot_fsm> machine;
  std::shared_ptr<delta_source> encoded;  ///< what was staged, as it is shipped
  std::shared_ptr<delta_source> pending;  ///< and as it is applied
  std::optional<change_marks> marks;      ///< where; nothing: not to be remembered
  sender_actor owner;
};

struct receiver_state {
  static inline const char* name = "receiver";
  std::shared_ptr<const actor_env> env;
  std::shared_ptr<engine> bytes;
  std::optional<receiver_fsm> machine;
  supervisor_actor supervisor;
  join_actor join;
  std::uint64_t join_run = 0;
  relay_side side;
  tick_timer timer;
  time_point proven_at;  ///< all bytes were digested last, and were what the tag names

  payload arrived;      ///< of the bucket being handled
  envelope bucket_env;  ///< likewise
  caf::strong_actor_ptr arrived_from;
  bool arrived_staged = false;  ///< before it was announced, and its credit was given
  unannounced ahead;
  std::uint32_t round = 0;
  transfer_ref announced;  ///< the newest: what faults on purpose are keyed by
  bool said_twin = false;  ///< that another process has its place
};

struct auditor_state {
  static inline const char* name = "auditor";
  /// A receiver that has not been compared yet.
  struct open_target {
    audit_target target;
    std::optional<audit_reply_msg> reply;  ///< to this round's challenge
  };

  audit_setup setup;
  std::map<receiver_id, open_target> open;
  std::vector<receiver_audit> done;
  std::uint64_t challenge = 0;
  std::optional<digests_result> held;  ///< the snapshot, under this round's challenge
  std::size_t parts = 0;               ///< of `held` that are still to come from other ranks
  std::vector<digest> others;          ///< the sum of theirs that came
  std::vector<version_ref> versions;   ///< and what each of them held
  time_point next_round;
  time_point deadline;
};

/// When the steps of the sync under way ended, and what it has moved.
struct sync_measures {
  time_point started;
  time_point encoded;
  time_point shipped;
  time_point voted;
  time_point committed;
  std::uint64_t wire_bytes = 0;
  std::uint64_t sent_bytes = 0;
  std::uint64_t reseed_bytes = 0;
  std::uint64_t catch_up_bytes = 0;
  std::uint64_t changed = 0;
};

/// What a transaction ships to all who take the same tensors, over all ranks of the trainer.
struct part_shipment {
  shard_mask taken;          ///< empty: all
  std::uint32_t number = 0;  ///< what ranks call it
  manifest content;
  std::vector<std::uint32_t> firsts;  ///< index of the first bucket of each other rank
  digest base;   ///< what these tensors digest to under the public key before, only of a part of a
                 ///< delta, and
  digest state;  ///< at the target; not of all tensors, unless it is a delta
  digest proof;  ///< at the target, under the challenge
  std::shared_ptr<bucket_source> source;    ///< this rank's
  std::shared_ptr<delta_source> absorbing;  ///< the same delta for who may be torn
};
using part_shipments = std::vector<part_shipment>;

/// What is for those who take these tensors; nothing if nobody asked for it.
inline const part_shipment* find(const part_shipments& all, const shard_mask& taken) {
  const auto it =
      std::find_if(all.begin(), all.end(), [&](const auto& s) { return s.taken == taken; });
  return it == all.end() ? nullptr : &*it;
}

struct sender_state {
  static inline const char* name = "sender";
  struct route {
    std::string name;
    receiver_actor receiver;
    flusher_actor flusher;
    shard_mask taken;  ///< empty: all tensors
    link_rate rate = {};
    bool elsewhere = false;  ///< in another process
    txn_ref ahead = {};      ///< the delta that began to leave before it was announced
  };
  /// What somebody takes, or took, who takes a part of the tensors.
  struct part_record {
    std::optional<digest> now;                 ///< of the snapshot, if it was asked for since
    std::deque<std::optional<digest>> before;  ///< each step, as in `states`
  };
  /// Who is behind and can be caught up.
  struct laggard {
    std::size_t steps = 0;  ///< since
    shard_mask taken;
    digest held;
  };
  sender_setup setup;
  std::optional<sync_fsm> machine;
  std::map<participant, route> routes;
  sync_request current;   ///< the trainer's sync under way; no ticket if there is none
  encode_result encoded;  ///< by this rank, until its snapshot is asked to stage it
  part_shipments held;    ///< of an attach: no bytes
  part_shipments delta;   ///< all tensors first
  part_shipments full;
  std::map<shard_mask, part_record> known;  ///< at most `receiver_parts_max`
  /// What the model was before each step, as far as it may be remembered, the latest last.
  std::deque<digest> states;
  /// `full` is to lead from what all of these hold, and is all weights where there are none.
  std::vector<laggard> laggards;
  /// What the ranks of the trainer have answered to the question under way.
  struct {
    shard_task what = shard_task::drop;
    txn_ref txn;
    std::uint64_t challenge = 0;
    part_shipments parts;  ///< that were asked about
    /// Of each part those of all ranks, this one first; `rank` is 0 where nothing has come yet.
    std::vector<shard_result_msg> answers;
    time_point deadline;
  } gathering;
  std::set<std::size_t> heard;  ///< ranks that have answered to `encode` of the last transaction
  std::uint64_t challenge = 0;  ///< of the delta
  sync_measures measures;
  repeats aborts;  ///< that were logged
  tick_timer timer;
};

struct supervisor_state {
  static inline const char* name = "supervisor";
  /// From whom a receiver has been told to have a stripe.
  struct feed {
    version_ref order;
    std::optional<participant> parent;  ///< none: from here
    bool up = false;                    ///< it says that it is linked to it
    bool answered = false;
  };
  /// A receiver's actors, and its bytes if it runs in this process.
  struct child {
    std::shared_ptr<engine> bytes;
    participant life;
    receiver_actor receiver;
    flusher_actor flusher;
    std::shared_ptr<std::promise<void>> leaving;
    /// The flushers of all its lives count here.
    std::shared_ptr<sent_counters> sent = std::make_shared<sent_counters>();
    hash128 model;                         ///< that this life says it is for
    payload taken;                         ///< and which of its tensors; empty: all
    std::optional<relay_offer_msg> offer;  ///< of this life, if it passes buckets on
    std::vector<feed> feeds;               ///< by stripe; none: all from here
    std::uint32_t blamed = 0;              ///< others, of late
    time_point blamed_since;
  };
  /// Who fails others passes nothing on for a while.
  struct distrust {
    time_point until;
    std::uint32_t times = 0;
    std::optional<receiver_id> by;  ///< who found fault with it last
  };
  struct fanout_state {
    fanout_plan plan;
    std::uint64_t orders = 0;
    bool dirty = false;               ///< to be planned anew
    std::optional<time_point> again;  ///< likewise, at this time
    std::map<receiver_id, distrust> distrusted;
  };
  /// Since when a receiver has been what it is.
  struct phase_note {
    standing where = standing::quarantined;
    receiver_phase phase = receiver_phase::empty;
    time_point since;
  };
  /// The trainer's side: one failure domain.
  struct trainer_group {
    boot_request boot;
    snapshot_actor snapshot;
    join_actor join;
    sender_actor sender;
    bool fenced = false;  ///< a newer run was heard of
  };
  /// Another rank of the trainer.
  struct other_rank {
    rank_link_actor link;
    shard_hello_msg hello;
    std::map<receiver_id, incarnation> reached = {};  ///< the lives linked to it
    std::map<receiver_id, std::uint64_t> sent = {};   ///< bulk bytes that it has handed to them
  };
  /// A boot that waits for other ranks to be there and to seed their parts.
  struct waiting_boot {
    boot_request request;
    std::set<std::uint32_t> asked;  ///< once all are there, and anew who took a refused one's place
    std::map<std::uint32_t, digest> seeded;
    time_point say_next = {};  ///< when people are told, again, for whom it waits
    std::string said = {};     ///< what they were told
  };

  std::shared_ptr<const actor_env> env;
  std::optional<supervision_fsm> policy;
  std::map<receiver_id, child> children;
  std::map<receiver_id, phase_note> phases;
  std::optional<trainer_group> trainer;
  std::map<std::uint32_t, other_rank> ranks;  ///< by number, from 1
  std::optional<waiting_boot> waiting;
  std::uint32_t trainer_restarts = 0;
  bool fenced = false;  ///< the last run ended because a newer one leads the fleet
  /// A sync that was handed on to this sender.
  struct handed_on {
    caf::actor_addr sender;
    std::uint64_t label = 0;
    std::weak_ptr<ticket_state> ticket;
  };
  handed_on sync;               ///< the last one
  std::vector<handed_on> lost;  ///< to senders that were told to end and have not yet
  /// A life that another of the same id and name has taken the place of.
  struct put_out {
    incarnation life;
    time_point since;  ///< it announced itself all the same
    bool said = false;
  };
  std::map<receiver_id, put_out> twins;  ///< the last that was heard of each id
  std::uint64_t last_run = 0;
  version_ref fleet;
  fanout_state fanout;
  tick_timer timer;
  time_point next_ping;
};

}  // namespace lockstep
