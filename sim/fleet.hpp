// Decides what a simulated fleet consists of: trainer and receiver processes, what they hold, and
// how they start and end.
#pragma once

#include <caf/send.hpp>
#include <caf/stateful_actor.hpp>
#include <deque>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "actors/rank.hpp"
#include "actors/states.hpp"
#include "sim/connections.hpp"
#include "sim/model_bytes.hpp"
#include "sim/network.hpp"
#include "sim/options.hpp"
#include "sim/undigested_memory.hpp"

namespace lockstep::sim {

/// What a receiver has staged, or waits for the rest of.
struct kept_slot {
  txn_ref txn;
  receiver_fsm::slot_kind kind = receiver_fsm::slot_kind::delta;
  time_point since;
};

/// One inference engine's process, over all its lives.
struct receiver_process {
  endpoint where = 0;
  receiver_id id = 0;
  shard_mask taken;      ///< by this life; empty: all tensors
  weight_buffer memory;  ///< of all tensors; only those that are taken are lent, and count
  bytes checkpoint;      ///< what it can be loaded from

  bool wanted = true;  ///< false: it has left
  time_point left;     ///< when it did
  bool up = false;
  std::shared_ptr<engine> bytes_of_life;
  undigested_memory* undigested = nullptr;  ///< of this life; none: its digests are looked at
  receiver_actor actor;
  relay_actor relay;  ///< with fan-out
  incarnation inc;
  unsigned lives = 0;
  bool standing_still = false;
  time_point still_until;

  // What observers know of this life.
  readiness served;              ///< what the front door was told last
  std::uint64_t fence_run = 0;   ///< the highest run whose attach or full it has obeyed
  std::set<version_ref> proven;  ///< versions that it held when it said so
  version_ref highest;           ///< it ever served
  bool rotten = false;           ///< a bit flipped and it cannot know
  bytes seen;                    ///< the weights, as they were after the step before
  version_ref fleet;             ///< the latest that a ping or an attach named
  bool paused = false;           ///< the engine has been told to stop, and not to go on
  bool was_paused = false;       ///< at some time of this step
  bool was_unready = false;      ///< likewise
  bytes loaded;                  ///< what the engine has taken over from its memory
  version_ref told;              ///< at which it was told to go on
  std::uint64_t told_label = 0;
  bool was_told = false;        ///< in this step
  bool written = false;         ///< likewise: the engine was told of new bytes
  version_ref written_version;  ///< and that they are these
  std::uint64_t written_label = 0;
  bool ticked = false;  ///< in this step its time passed
  bool staged = false;  ///< before this step something was
  time_point heard;     ///< when it handled a word last that renews its lease
  txn_ref attached;     ///< the newest attach that it has handled
  std::optional<kept_slot> kept;

  bool takes(std::size_t tensor) const { return taken.empty() || taken[tensor]; }
};

/// Whether what it takes is what `what` has there.
bool holds(const receiver_process& r, const bytes& what);

struct trainer_process;

/// What the training loop of one rank is about, where there are several: it seeds until that
/// succeeds, and comes to one sync after the other until the run is over.
struct training_loop {
  bool seeks = true;                ///< it has no run
  std::future<version_ref> seeded;  ///< of the seed under way
  std::uint64_t base = 0;           ///< its label
  std::uint64_t meant = 0;     ///< label of the training step that it synced, or left out, last
  std::uint64_t left_out = 0;  ///< the others have to go on from this one first
  bool repeats = false;        ///< that was called off, and is tried again
  bool planned = false;        ///< it does something in a moment
};

/// Another process of a trainer of several ranks, over all its lives.
struct rank_process {
  endpoint where = 0;
  std::uint32_t number = 0;  ///< from 1
  trainer_process* of = nullptr;
  shard_mask owned;
  weight_buffer weights;   ///< what it trains, of which it owns a part
  weight_buffer mistaken;  ///< what is encoded in their place, where that is broken on purpose
  rank_actor actor;
  unsigned lives = 0;
  bool up = false;
  bool standing_still = false;
  time_point still_until;
  std::shared_ptr<ticket_state> ticket;  ///< of the sync under way
  std::uint64_t label = 0;
  bool unreadable = false;         ///< its tensors, in that sync,
  std::shared_ptr<bool> found_so;  ///< and whether somebody has tried to read them
  training_loop loop;
  std::chrono::nanoseconds runless{};  ///< that its coordinator takes for a time with a run,
  time_point looked_at;                ///< and until when that is known
  version_ref highest;                 ///< its snapshot ever stood at
  txn_ref dropped;                     ///< the latest transaction that it was told is over,
  txn_ref over;                        ///< and the one when its trainer last came to a sync
};

/// One trainer's process: at most one leads, older ones are zombies. Of several ranks the one that
/// leads.
struct trainer_process {
  endpoint where = 0;
  std::deque<rank_process> others;  ///< ranks; a deque: what is under way holds their addresses
  training_loop loop;
  std::map<std::uint64_t, bytes> weights_of;  ///< of several ranks: what a label names
  std::uint64_t base = 0;                     ///< label that they seed with
  bool lost = false;                          ///< somebody knows that their run is over
  std::uint64_t last_run = 0;                 ///< of the lives of its first process before
  unsigned lives = 1;                         ///< of its first process
  std::uint64_t run = 0;   ///< that it was started with; its own restarts count up
  weight_buffer weights;   ///< what it trains; not changed while a sync reads it
  weight_buffer mistaken;  ///< what is encoded in their place, where that is broken on purpose
  std::shared_ptr<snapshot_store> store;
  supervisor_actor supervisor;
  bool up = true;
  bool standing_still = false;
  time_point still_until;
  std::shared_ptr<ticket_state> ticket;  ///< of the sync under way
  std::uint64_t label = 0;
  time_point due;           ///< when the report of the sync under way is
  txn_ref sync_txn;         ///< of the sync under way
  version_ref sync_base;    ///< where the snapshot stood then
  bool unreadable = false;  ///< its tensors, in the sync under way
  bool refused = false;     ///< its delta, by the snapshot, likewise
  time_point stages_from;   ///< the snapshot does nothing before
  version_ref highest;      ///< its snapshot ever stood at
};

/// The trainer's actors as they are now; null where there are none, or they have not begun.
struct trainer_actors {
  supervisor_state* supervisor = nullptr;
  sender_state* sender = nullptr;
  snapshot_state* snapshot = nullptr;
};

/// The state of a stateful actor, if it has not ended.
template <class Handle, class State>
State* state_of(const Handle& handle) {
  if (!handle) return nullptr;
  auto* actor = caf::actor_cast<caf::abstract_actor*>(handle);
  if (actor->getf(caf::abstract_actor::is_terminated_flag)) return nullptr;
  using pointer = typename Handle::template stateful_pointer<State>;
  return &static_cast<pointer>(actor)->state;
}

class fleet final : public directory {
 public:
  fleet(const run_options& o, scheduler& on, dice& chance, trace& log);
  ~fleet() override;

  void start(network& net);

  // --- what it consists of
  std::deque<receiver_process>& receivers() { return receivers_; }
  std::deque<trainer_process>& trainers() { return trainers_; }
  trainer_process& leader() { return trainers_.back(); }
  const settings& options() const { return settings_; }
  time_point now() const { return scheduler_.now(); }
  trainer_actors actors_of(const trainer_process& t) const;
  receiver_state* state_of_receiver(const receiver_process& r) const;
  bool is_current_sender(const trainer_process& t, const caf::scheduled_actor& actor) const {
    const auto* s = actors_of(t).supervisor;
    return s && s->trainer && s->trainer->sender.id() == actor.id();
  }
  /// Whose actor this is; one of them, or neither.
  receiver_process* receiver_of(const caf::scheduled_actor& actor);
  trainer_process* trainer_of(const caf::scheduled_actor& actor);
  /// Whose process this is, of whatever rank; null: a receiver's.
  trainer_process* trainer_of(endpoint where);
  rank_process* rank_of(const caf::scheduled_actor& actor);
  /// At which process of a trainer it is, if it is at one.
  std::optional<endpoint> where_trains(const caf::scheduled_actor& actor);
  receiver_process* life(const participant& who);
  trainer_process& trainer_at(endpoint where) { return trainers_.at(where - first_trainer); }
  static bool is_rank(endpoint where) { return where >= first_rank; }
  rank_process& rank_at(endpoint where) { return const_cast<rank_process&>(find_rank(where)); }
  rank_state* state_of_rank(const rank_process& p) const;
  snapshot_state* snapshot_of_rank(const rank_process& p) const;
  /// Whether the bytes that all ranks hold of `version` together are `what`. A rank whose run is
  /// another holds nothing of it.
  bool snapshot_is(const trainer_process& t, version_ref version, const bytes& what) const;

  // --- what happens to it
  void crash(receiver_process& r, std::uint64_t chance);
  void begin_life(receiver_process& r);
  /// Its actor ended by itself.
  void ended(receiver_process& r, std::uint64_t chance);
  void leave(receiver_process& r);
  receiver_process& add_receiver();
  void crash(trainer_process& t);
  trainer_process& begin_trainer(const bytes& checkpoint);
  /// False: it is down, or has just stood still. Like the next: nothing was struck.
  bool stand_still(endpoint where, std::chrono::nanoseconds wait);
  void lift_pauses();
  bool kill_one_actor(trainer_process& t, std::uint64_t chance);
  // Of a trainer of several ranks, one process.
  void crash(rank_process& p);
  void begin_life(rank_process& p);
  /// The first process of a trainer, with nothing of the life before.
  void crash_first(trainer_process& t);
  void begin_first(trainer_process& t);
  /// What a label of its names.
  const bytes& weights_at(trainer_process& t, std::uint64_t label);
  /// `boot_request` of one rank, as a trainer's `seed` makes it.
  boot_request boot_of(const trainer_process& t, const shard_mask& owned,
                       const weight_buffer& weights) const;
  shard_mask owned_by(std::uint32_t rank) const;
  /// One rank comes to the sync that it calls `label`.
  void sync(rank_process& p, std::uint64_t label);
  connections& links() { return *connections_; }
  /// A training step, and the sync of what came of it. `again`: of what came of the last one.
  void sync(trainer_process& t, bool again = false);
  /// All clocks go ahead; nobody is late for that.
  void jump(std::chrono::nanoseconds by);
  /// Weights that some trainer's snapshot once held.
  const bytes& checkpoint(std::uint64_t chance) const {
    return checkpoints_[chance % checkpoints_.size()];
  }
  void remember(const bytes& snapshot);
  /// The delta is encoded, and the snapshot's to stage next.
  void before_staging(trainer_process& t);
  /// The snapshot is about to stage it.
  void before_staging(trainer_process& t, stage_request& m);
  /// Called when a receiver's executor makes up an answer.
  std::function<void()> on_lie;
  /// True: what becomes of a transaction depends on this bucket.
  bool awaits(const receiver_process& r, txn_ref txn, std::uint32_t index) const;
  const network& between() const { return *network_; }
  void count(consequence what) { ++met_[static_cast<std::size_t>(what)]; }
  const consequences& met() const { return met_; }
  void note_failure(receiver_id who, txn_ref txn, fault_id what) {
    failures_.try_emplace({txn, who}, what);
  }
  /// What struck a receiver in a transaction: a report has to name it.
  const std::map<std::pair<txn_ref, receiver_id>, fault_id>& failures() const { return failures_; }

  // --- directory
  std::string name_of(endpoint where) const override;
  std::optional<address> address_of(const caf::strong_actor_ptr& actor) override;
  caf::strong_actor_ptr resolve(const address& who) override;
  endpoint door() override;
  bool is_up(endpoint where) const override;
  bool is_still(endpoint where) const override;
  std::vector<endpoint> others_of(endpoint trainer) const override;

 private:
  class engine_faults;
  static constexpr endpoint first_trainer = 1000;
  static constexpr endpoint first_rank = 1'000'000;
  static constexpr endpoint ranks_max = 16;
  static constexpr endpoint nowhere = ~endpoint{0};
  static constexpr std::uint64_t cluster_id = 77;

  /// One of two values for each byte of the model: weights that move go back and forth between
  /// them, so that a change which is undone one step later is as common as any.
  std::byte value_of(std::size_t position, bool which) const {
    return static_cast<std::byte>(mix(o_.seed, position, which ? 1 : 2));
  }

  void choose_settings();
  std::shared_ptr<fault_source> faults_on_purpose();
  shard_mask part_of_receiver(const receiver_process& r) const;
  receiver_hooks hooks_of(receiver_process& r);
  std::shared_ptr<engine> engine_of(receiver_process& r);
  flusher_actor ranks_of(const receiver_process& r);
  relay_side relay_of(receiver_process& r, const std::shared_ptr<const actor_env>& env);
  std::function<std::uint64_t()> entropy_of(endpoint where, std::uint64_t life);
  std::shared_ptr<const actor_env> env_of(endpoint where, std::uint64_t life);
  const rank_process& find_rank(endpoint where) const;
  caf::strong_actor_ptr resolve_at_rank(const address& who);
  void begin_others(trainer_process& t);
  /// When it, its snapshot included, does something again.
  time_point acts_from(const trainer_process& t) const;
  /// A training step.
  void move(bytes& weights);
  tensor_reader reader_of_sync(const weight_buffer& from, bool fails) const;
  const weight_buffer& encoded_of(const weight_buffer& weights, weight_buffer& mistaken,
                                  const snapshot_store* held) const;
  endpoint where_is(const caf::scheduled_actor& actor);
  template <class Handle>
  void stop_actor(const Handle& actor) {
    scheduler_.kill(caf::actor_cast<caf::strong_actor_ptr>(actor));
  }

  const run_options& o_;
  scheduler& scheduler_;
  dice& dice_;
  trace& trace_;
  network* network_ = nullptr;
  std::unique_ptr<connections> connections_;
  random_stream random_;
  settings settings_;
  layout shape_;
  std::shared_ptr<spdlog::logger> log_;
  std::shared_ptr<fault_source> faults_;
  std::deque<receiver_process> receivers_;  // a deque: hooks hold addresses of its elements
  std::deque<trainer_process> trainers_;
  std::vector<bytes> checkpoints_;
  consequences met_{};
  std::map<std::pair<txn_ref, receiver_id>, fault_id> failures_;
  std::vector<endpoint> where_;  ///< by the actor's id, plus one; 0: not known yet
};

}  // namespace lockstep::sim
