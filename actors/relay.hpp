// Decides how a receiver has buckets from other receivers, and passes on what it has. Private to
// actors/.
//
// A relay stands beside its receiver and decides nothing of the protocol: the receiver is told of
// every shipment by the trainer itself, and a bucket from elsewhere that is not the announced one
// never gets to it.
#pragma once

#include <caf/stateful_actor.hpp>
#include <caf/typed_event_based_actor.hpp>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <vector>

#include "actors/interfaces.hpp"
#include "actors/timer.hpp"
#include "protocol/flusher_fsm.hpp"
#include "transport/failure.hpp"

namespace lockstep {

/// The trainer has announced a shipment to the receiver, who says so.
struct relay_begin {
  envelope env;
  std::shared_ptr<const std::vector<bucket_info>> buckets;
  flusher_actor announcer;  ///< hears of every bucket that is taken
};
/// The receiver has taken a bucket of it, and proven that it is the announced one.
struct relay_kept {
  txn_ref txn;
  std::uint32_t index = 0;
  payload bytes;  ///< empty: they were written, and are among the weights now
};
/// The receiver has no bucket of it any more.
struct relay_over {};
/// The receiver's weights may be lent.
struct relay_lent {
  relay_lend_msg what;
  receiver_actor receiver;  ///< who makes buckets of them
  bool whole = false;       ///< it holds them; else it is being sent them too
};
/// What came of `relay_cut`.
struct relay_made {
  receiver_id child = 0;
  txn_ref txn;
  std::uint32_t index = 0;
  payload bytes;  ///< empty: the weights are not those any more
};
/// The supervisor's word, and where the answer goes.
struct relay_order {
  relay_parent_msg what;
  supervisor_actor from;
};
struct relay_dialed;

/// What stands for another receiver's relay is of this type too.
using relay_actor = caf::typed_actor<
    // The receiver's shipments.
    caf::reacts_to<relay_begin>, caf::reacts_to<relay_kept>, caf::reacts_to<relay_over>,
    // Another receiver may have the receiver's weights; a bucket of them has been made.
    caf::reacts_to<relay_lent>, caf::reacts_to<relay_made>,
    // Have a stripe from another receiver.
    caf::reacts_to<relay_order>,
    // That one was dialed.
    caf::reacts_to<relay_dialed>,
    // A parent brings a bucket.
    caf::reacts_to<bucket_msg>,
    // Another receiver wants a stripe passed on to it.
    caf::reacts_to<relay_ask_msg>,
    // The receiver, or a child, has taken a bucket.
    caf::reacts_to<credit_msg>,
    // Time to ask again: a word may have been lost.
    caf::reacts_to<tick>>;

/// What came of dialing a parent.
struct relay_dialed {
  version_ref order;
  relay_actor link;  ///< none: failed
  failure why;
};

/// Dials the parent that an order names; a `relay_dialed` comes of it, in bounded time.
using relay_dialer = std::function<void(const relay_actor& me, const relay_parent_msg& order)>;

/// What a receiver is given of its relay.
struct relay_side {
  relay_actor relay;                     ///< none: it has everything from the trainer
  std::optional<relay_offer_msg> offer;  ///< if it passes buckets on
};

/// Whose relay is spoken to by those who find this process. Thread-safe.
class relay_place {
 public:
  void set(relay_actor now) {
    const std::lock_guard lock(mutex_);
    now_ = std::move(now);
  }
  relay_actor get() const {
    const std::lock_guard lock(mutex_);
    return now_;
  }

 private:
  mutable std::mutex mutex_;
  relay_actor now_;
};

struct relay_state {
  static inline const char* name = "relay";
  /// One stripe, and from whom it comes.
  struct feed {
    relay_parent_msg order;
    relay_actor link;  ///< while there is one
    bool dialing = false;
    errc reason = errc::none;  ///< why there is no link
  };
  struct child {
    relay_actor link;
    receiver_id id = 0;
    incarnation inc;
    std::uint32_t stripes = 1;
    std::uint32_t stripe = 0;
    flusher_fsm machine{1};
    bool borrows = false;  ///< what is in `lent` for it
  };
  /// What was announced last.
  struct shipment {
    relay_begin what;
    receiver_actor receiver;
    bool over = false;
    std::vector<bool> taken = {};        ///< by index
    std::vector<payload> kept = {};      ///< likewise; empty: not taken, or written
    std::vector<relay_actor> from = {};  ///< likewise: whom the receiver's credit is for
  };
  struct early_bucket {
    bucket_msg bucket;
    relay_actor from;
  };

  std::shared_ptr<const actor_env> env;
  receiver_id id = 0;
  std::string who;  ///< for the log
  incarnation inc;
  relay_dialer dial;
  flusher_actor ranks;    ///< hear of every bucket that is taken; none: the announcer alone does
  supervisor_actor boss;  ///< who gave the orders
  std::uint64_t run = 0;  ///< that they are of
  version_ref newest;
  std::vector<feed> feeds;  ///< by stripe
  std::vector<child> children;
  std::optional<shipment> now;
  std::map<receiver_id, relay_lent> lent;  ///< by who may have them
  std::deque<early_bucket> early;          ///< came before the announcement that they belong to
  tick_timer timer;
};

relay_actor::behavior_type relay_behavior(relay_actor::stateful_pointer<relay_state> self,
                                          std::shared_ptr<const actor_env> env, receiver_id id,
                                          std::string who, incarnation inc, relay_dialer dial,
                                          flusher_actor ranks);

}  // namespace lockstep

CAF_ALLOW_UNSAFE_MESSAGE_TYPE(lockstep::relay_begin)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(lockstep::relay_kept)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(lockstep::relay_over)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(lockstep::relay_lent)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(lockstep::relay_made)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(lockstep::relay_order)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(lockstep::relay_dialed)
