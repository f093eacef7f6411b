// Decides what keeps one receiver alive in a process that has no trainer, and keeps it in touch
// with trainers elsewhere. Private to actors/.
#pragma once

#include <caf/stateful_actor.hpp>
#include <caf/typed_event_based_actor.hpp>

#include "actors/gateway.hpp"
#include "actors/spawn.hpp"
#include "actors/timer.hpp"

namespace lockstep {

/// A trainer's link, as an agent speaks to it.
using trainer_link_actor = caf::typed_actor<
    // To be said to the trainer.
    caf::reacts_to<hello_msg>, caf::reacts_to<goodbye_msg>, caf::reacts_to<relay_offer_msg>,
    // The receiver has taken what another receiver brought.
    caf::reacts_to<credit_msg>,
    // The receiver has a new life.
    caf::reacts_to<retarget>,
    // Another link has heard an announcement.
    caf::reacts_to<announced>>;

/// The receiver's supervisor, as far as this process goes: starts it anew when it ends, and says
/// for it to every trainer it reaches what it says to its supervisor.
using agent_actor = caf::typed_actor<
    // The receiver announces itself, and that it passes buckets on.
    caf::reacts_to<hello_msg>, caf::reacts_to<relay_offer_msg>,
    // The relay's receiver has taken what another receiver brought: any rank may have been to.
    caf::reacts_to<credit_msg>,
    // A link has heard an announcement.
    caf::reacts_to<announced>,
    // An address was dialed.
    caf::reacts_to<dialed>,
    // Leave on purpose; answered when the receiver's actor is gone.
    caf::reacts_to<remove_engine>,
    // Time to dial again, or to start the receiver again.
    caf::reacts_to<tick>>;

struct agent_state {
  static inline const char* name = "agent";
  /// One address at which a trainer may be.
  struct door {
    node_address where;
    trainer_link_actor link;  ///< while there is one
    std::uint32_t rank = 0;   ///< of the trainer, that was linked to last
    bool dialing = false;
    time_point next_try;
    std::uint32_t failures = 0;  ///< since there was a link
    errc last_failure = errc::none;
  };

  std::shared_ptr<const actor_env> env;
  std::shared_ptr<engine> bytes;
  gateway* ways = nullptr;             ///< outlives all actors
  std::shared_ptr<relay_place> place;  ///< where others find the relay, if they do
  node_address found_at;               ///< likewise
  receiver_actor receiver;
  relay_actor relay;
  std::optional<hello_msg> hello;        ///< of the receiver's life
  std::optional<relay_offer_msg> offer;  ///< likewise
  shipment seen;                         ///< announced last
  std::vector<door> doors;
  bool leaderless = false;  ///< and said so: all doors lead to ranks, and none to rank 0
  std::uint32_t restarts = 0;
  time_point born;
  std::optional<time_point> restart_at;
  std::shared_ptr<std::promise<void>> leaving;
  tick_timer timer;
};

/// `place`: where those who find this process at `found_at` look for the receiver's relay; none: it
/// passes nothing on.
agent_actor::behavior_type agent_behavior(agent_actor::stateful_pointer<agent_state> self,
                                          std::shared_ptr<const actor_env> env,
                                          std::shared_ptr<engine> bytes, gateway* ways,
                                          std::vector<node_address> trainers,
                                          std::shared_ptr<relay_place> place,
                                          node_address found_at);

}  // namespace lockstep
