// Decides what a rank of the trainer that does not lead does: keeps the snapshot of its tensors,
// and encodes, ships and advances them when the coordinator says so. Private to actors/.
#pragma once

#include <caf/stateful_actor.hpp>
#include <caf/typed_event_based_actor.hpp>
#include <deque>
#include <functional>
#include <set>

#include "actors/spawn.hpp"
#include "actors/timer.hpp"
#include "transport/failure.hpp"

namespace lockstep {

struct rank_dialed;

using rank_actor = caf::typed_actor<
    // The trainer has weights to begin with, or new ones, or leaves.
    caf::reacts_to<boot_request>, caf::reacts_to<sync_request>, caf::reacts_to<hurry_request>,
    caf::reacts_to<end_request>,
    // The coordinator has something to do.
    caf::reacts_to<shard_task_msg>, caf::reacts_to<shard_ship_msg>,
    // It says from whom receivers have what, and who gets the same.
    caf::reacts_to<shard_route_msg>, caf::reacts_to<shard_among_msg>,
    // It says why this is none of its ranks.
    caf::reacts_to<refused_msg>,
    // A flusher waits in vain for what another receiver was to bring.
    caf::reacts_to<relay_stalled>,
    // What the snapshot says.
    caf::reacts_to<stage_result>, caf::reacts_to<carve_result>, caf::reacts_to<prove_result>,
    caf::reacts_to<full_result>, caf::reacts_to<advance_result>, caf::reacts_to<digests_result>,
    // A flusher has nothing left to send.
    caf::reacts_to<drained_notice>,
    // A receiver announces itself to every rank; who looks on is told to ask the coordinator.
    caf::reacts_to<hello_msg>, caf::reacts_to<pong_msg>, caf::reacts_to<goodbye_msg>,
    caf::reacts_to<relay_offer_msg>, caf::reacts_to<observe_request>,
    // The coordinator was dialed.
    caf::reacts_to<rank_dialed>,
    // Time to dial again.
    caf::reacts_to<tick>>;

/// What came of dialing the coordinator.
struct rank_dialed {
  coordinator_link_actor link;  ///< none: failed
  failure why;
};

/// Dials the coordinator; a `rank_dialed` comes of it, in bounded time.
using rank_dialer = std::function<void(const rank_actor& me)>;

struct rank_state {
  static inline const char* name = "rank";
  static constexpr std::size_t superseded_max = 16;
  /// A receiver that is linked to this rank.
  struct reached {
    incarnation inc;
    std::deque<incarnation> superseded;  ///< earlier lives, latest last; at most `superseded_max`
    std::chrono::steady_clock::time_point heard;  ///< its last hello
    std::string name;
    receiver_actor receiver;
    flusher_actor flusher;
    std::optional<shard_ship_msg> early;  ///< asked for before this life was linked
    incarnation routed;                   ///< the life that `route` is of
    relay_route route;
    std::shared_ptr<sent_counters> sent = std::make_shared<sent_counters>();
    std::uint64_t sent_said = 0;  ///< of `sent`, to the coordinator
  };

  std::shared_ptr<const actor_env> env;
  rank_dialer dial;
  incarnation inc;
  coordinator_link_actor coordinator;    ///< while there is a link
  std::optional<shard_hello_msg> hello;  ///< once it is known what is owned
  bool dialing = false;
  std::uint32_t failures = 0;
  errc last_failure = errc::none;
  std::string no_link;  ///< why there is none, as far as that is known
  time_point next_try;
  /// Another process has this rank's number, as the coordinator says.
  struct twin_watch {
    time_point since;
    std::uint32_t refusals = 0;
    time_point next_hello;
  };
  std::optional<twin_watch> twin;
  bool said_no_fanout = false;  ///< over this link

  std::optional<boot_request> boot;  ///< the trainer waits for the coordinator's word to seed
  sync_request current;              ///< the trainer's sync under way; no ticket if there is none
  txn_ref joined;                    ///< the transaction that `current` has a part in
  version_ref base;                  ///< what `held` was then
  /// The one that was refused since `current` is another sync, or was called off meanwhile; or that
  /// `current` has a part in, and this rank has failed.
  struct {
    txn_ref txn;
    errc reason = errc::none;
    std::string why;
  } refused;
  std::optional<shard_task_msg> waiting;  ///< a task that came before the trainer did
  /// What the coordinator calls the syncs that were called off before the trainer came to them,
  /// since the last one that succeeded.
  std::set<std::uint64_t> missed;
  layout shape;  ///< of the whole model
  std::shared_ptr<snapshot_store> store;
  snapshot_actor snapshot;
  version_ref held;
  errc ended_by = errc::shut_down;  ///< the last run, while there is none
  txn_ref encoded;                  ///< what `delta` is for
  std::shared_ptr<delta_source> delta;
  digest delta_state;
  std::uint64_t challenge = 0;  ///< of the delta
  txn_ref planned;              ///< what `full` is for
  /// What there is to ship, by the coordinator's number of the part: of `delta` that of those who
  /// take some tensors only, and what was planned.
  std::map<std::uint32_t, std::shared_ptr<bucket_source>> carved, full;
  /// Who gets a shipment: told before it is to be shipped.
  struct {
    txn_ref txn;
    std::uint32_t round = 0;
    std::shared_ptr<const shipped_to> ids;
  } among;
  std::map<receiver_id, reached> receivers;
  time_point next_count;  ///< when the coordinator is told what was sent meanwhile
  tick_timer timer;
};

rank_actor::behavior_type rank_behavior(rank_actor::stateful_pointer<rank_state> self,
                                        std::shared_ptr<const actor_env> env, rank_dialer dial);

}  // namespace lockstep

CAF_ALLOW_UNSAFE_MESSAGE_TYPE(lockstep::rank_dialed)
