#include "sim/checker.hpp"

#include <algorithm>

#include "sim/mailbox.hpp"

namespace lockstep::sim {

using std::chrono::seconds;

namespace {

/// Messages that wait for one actor: what all others can have to say to it at a time, with room for
/// what the network repeats.
constexpr std::size_t mailbox_max = 400;
/// Likewise, more for each receiver of a large fleet.
constexpr std::size_t mailbox_of_receiver = 16;
/// How long a coordinator may not know that a rank has lost its run: the link says so by ending.
constexpr auto runless_max = seconds(10);

}  // namespace

bool checker::names(version_ref version, const receiver_process& held) const {
  const auto it = content_.find(version);
  return it != content_.end() && holds(held, it->second);
}

void checker::on_boot(std::uint64_t run, const bytes& from) {
  const auto [it, fresh] = content_.emplace(version_ref{run, 0}, from);
  if (!fresh && it->second != from) violated("I6: a run was named twice");
}

void checker::on_taken_over(const trainer_process& t, std::uint64_t run, const bytes& from) {
  const auto is = [&](version_ref version) {
    const auto it = content_.find(names_.on_wire(version));
    return it != content_.end() && it->second == from;
  };
  // One that has looked at nothing yet stood where its process began.
  const auto stood = std::max(t.highest, version_ref{t.run, 0});
  const auto leads_on = [&](version_ref next) { return next.run == stood.run && next > stood; };
  if (!is(stood) && std::ranges::none_of(decided_, [&](auto v) { return leads_on(v) && is(v); }))
    violated("I6: " + fleet_.name_of(t.where) +
             " takes over from other bytes than the run before it stood at or had decided on");
  on_boot(run, from);
}

// --- before a step ------------------------------------------------------------------------------

void checker::before(caf::scheduled_actor& actor, caf::mailbox_element* message) {
  if (!message) return;
  // Only now: to count the messages of an actor that waits for one would take it off its guard.
  check_bounds(actor);
  if (auto* r = fleet_.receiver_of(actor)) {
    hear_lease(*r, *message);
    const auto fenced = [&](const envelope& env) {
      if (env.inc == r->inc) r->fence_run = std::max(r->fence_run, env.txn.run);
    };
    r->was_paused = r->paused;
    r->was_told = r->written = false;
    r->ticked =
        content_of<tick>(*message) != nullptr && std::string_view(actor.name()) == "receiver";
    r->was_unready = !r->served.ready;
    const auto* s = fleet_.state_of_receiver(*r);
    r->staged = s && s->machine->summarize().slot;
    const auto* commit = content_of<commit_msg>(*message);
    if (s && commit && commit->env.inc == r->inc &&
        (!r->staged || s->machine->summarize().slot->txn != commit->env.txn))
      fleet_.count(consequence::late_commit);
    if (const auto* made = content_of<relay_made>(*message); made && made->bytes.size() != 0)
      fleet_.count(consequence::lent);
    const auto* ping = content_of<ping_msg>(*message);
    if (s && ping && ping->inc == r->inc && ping->current.run >= s->machine->summarize().fence.run)
      r->fleet = std::max(r->fleet, names_.true_tag(*r, ping->current));
    const auto* bucket = content_of<bucket_msg>(*message);
    if (s && bucket && bucket->env.inc == r->inc &&
        bucket->env.txn > s->machine->summarize().fence &&
        s->ahead.lacks(bucket->env, bucket->index))
      fleet_.count(consequence::ahead);
    // A relay that finds one lets the trainer send it.
    if (bucket && std::string_view(actor.name()) == "receiver" && bucket->env.inc == r->inc &&
        fleet_.between().was_spoilt(*bucket) && fleet_.awaits(*r, bucket->env.txn, bucket->index))
      fleet_.note_failure(r->id, bucket->env.txn, fault_id::flip_bucket);
    if (const auto* m = content_of<attach_msg>(*message)) {
      fenced(m->env);
      if (m->env.inc == r->inc && m->env.txn == r->attached)
        r->fleet = std::max(r->fleet, names_.true_tag(*r, m->target.version));
    }
    if (const auto* m = content_of<full_begin_msg>(*message)) fenced(m->env);
    return;
  }
  if (auto* p = fleet_.rank_of(actor)) {
    const auto* task = content_of<shard_task_msg>(*message);
    if (task && task->what == shard_task::drop) p->dropped = std::max(p->dropped, task->txn);
    return;
  }
  auto* t = fleet_.trainer_of(actor);
  if (!t) return;
  if (std::string_view(actor.name()) == "join") listen(actor, message);
  if (std::string_view(actor.name()) == "supervisor") hear_failures(*t, *message);
  if (const auto* m = content_of<reply_msg>(*message)) return hear(*t, *m);
  const auto* s =
      std::string_view(actor.name()) == "sender" ? fleet_.actors_of(*t).sender : nullptr;
  if (!s || !fleet_.is_current_sender(*t, actor)) return;
  members_[t->where] = s->machine->members();
  if (const auto* m = content_of<round_result>(*message);
      m && answers_.ended_early(*m, fleet_.now()))
    violated("R15: a round of " + to_string(m->txn) +
             " has ended before its deadline, and not all were heard");
  if (const auto* m = content_of<stage_result>(*message); m && m->txn == t->sync_txn)
    staging_[t->where].answered = fleet_.now();
  if (const auto* m = content_of<encode_result>(*message); m && m->delta) {
    t->sync_txn = m->txn;
    t->sync_base = s->machine->snapshot().version;
    staging_[t->where] = {fleet_.now(), std::nullopt};
    // The tensors do not change while they are read, nor until the report.
    const auto name = names_.on_wire({m->txn.run, m->txn.seq});
    labels_[name] = s->machine->summarize().target.label;
    if (!content_.emplace(name, bytes_of(t->weights)).second)
      violated("I6: a version was named twice");
  }
}

// --- after a step -------------------------------------------------------------------------------

void checker::after(caf::scheduled_actor& actor) {
  if (auto* r = fleet_.receiver_of(actor)) {
    check(*r);
  } else if (auto* t = fleet_.trainer_of(actor)) {
    check(*t);
    if (std::string_view(actor.name()) == "flusher") check_flusher(actor);
    if (std::string_view(actor.name()) == "supervisor") check_supervisor(*t);
  } else if (auto* p = fleet_.rank_of(actor)) {
    check(*p);
    check(*p->of);
    if (std::string_view(actor.name()) == "flusher") check_flusher(actor);
  }
}

/// What it holds goes on, and at every rank to the same; and it has a run, and a sync of it, as
/// long as it has a coordinator and a snapshot.
void checker::check(rank_process& p) {
  if (const auto* s = fleet_.state_of_rank(p)) {
    if (!s->coordinator && (s->current.ticket || s->held))
      violated("R15: " + fleet_.name_of(p.where) +
               " has lost its coordinator, and does not say so");
    if (!s->snapshot && (s->current.ticket || s->held))
      violated("R15: " + fleet_.name_of(p.where) + " has lost its snapshot, and does not say so");
    // A sender stands for a run that every rank has a part in. What the clock jumps by is no time.
    const auto passed = std::min<std::chrono::nanoseconds>(fleet_.now() - p.looked_at, seconds(1));
    p.looked_at = fleet_.now();
    const bool counted_on = s->coordinator && !s->held && fleet_.actors_of(*p.of).sender;
    p.runless = counted_on ? p.runless + passed : std::chrono::nanoseconds(0);
    if (p.runless > runless_max)
      violated("R15: " + fleet_.name_of(p.where) +
               " has no run, and its coordinator goes on with it");
  }
  const auto* held = fleet_.snapshot_of_rank(p);
  if (held == nullptr) return;
  check_history(p.where, *held->store);
  const auto version = held->machine->held().version;
  if (version.run == p.highest.run && version < p.highest)
    violated("I6: the snapshot of " + fleet_.name_of(p.where) + " went back");
  p.highest = version;
  if (version.number != 0 && !decided_.contains(version))
    violated("I2: the snapshot of " + fleet_.name_of(p.where) + " stands at " + to_string(version) +
             ", which nobody has committed");
}

void checker::listen(const caf::scheduled_actor& join, caf::mailbox_element* message) {
  const auto id = join.id();
  if (const auto* m = content_of<round_spec>(*message)) answers_.on_opened(id, *m);
  if (const auto* m = content_of<round_hurry>(*message)) answers_.on_hurried(id, *m);
  if (const auto* m = content_of<reply_msg>(*message)) answers_.on_heard(id, *m, fleet_.now());
  if (const auto* m = content_of<down_notice>(*message)) answers_.on_down(id, m->who, fleet_.now());
}

void checker::check_bounds(caf::scheduled_actor& actor) {
  const auto most = std::max(mailbox_max, mailbox_of_receiver * fleet_.receivers().size());
  if (actor.mailbox().size() > most)
    violated(std::string("bounds: ") + actor.name() + " has " +
             std::to_string(actor.mailbox().size()) + " messages waiting");
}

/// A peer that grants more credit than it was sent buckets gets no more for it.
void checker::check_flusher(caf::scheduled_actor& actor) {
  const auto handle = caf::actor_cast<flusher_actor>(caf::strong_actor_ptr(actor.ctrl()));
  const auto* s = state_of<flusher_actor, flusher_state>(handle);
  if (s && s->machine.under_way() > fleet_.options().bucket.credit)
    violated("bounds: more buckets are under way to one receiver than it gave credit for");
}

namespace {

/// Whether a snapshot still has the delta of a transaction that is over, or of one before it.
bool keeps_delta(const snapshot_state* s, txn_ref over) {
  return s != nullptr && s->pending && s->machine->staged() &&
         s->machine->staged()->txn.run == over.run && s->machine->staged()->txn <= over;
}

}  // namespace

void checker::check_released(const trainer_process& t) {
  const auto* s = fleet_.actors_of(t).supervisor;
  // Who would have told them may have died.
  if (!s || !s->trainer || s->trainer->boot.run != t.sync_txn.run) return;
  for (const auto& [id, c] : s->children) {
    const auto* f = state_of<flusher_actor, flusher_state>(c.flusher);
    if (f && f->source && f->env.txn.run == t.sync_txn.run && f->env.txn.seq <= t.sync_txn.seq)
      violated("bounds: a flusher keeps what is over");
  }
  // One that stands still has not come to what it was told since.
  if (fleet_.now() >= t.stages_from && keeps_delta(fleet_.actors_of(t).snapshot, t.sync_txn))
    violated("bounds: the snapshot keeps what is over");
}

void checker::check_released(const rank_process& p) {
  const auto* s = fleet_.state_of_rank(p);
  if (s == nullptr) return;
  for (const auto& [id, r] : s->receivers) {
    const auto* f = state_of<flusher_actor, flusher_state>(r.flusher);
    if (f && f->source && f->env.txn <= p.over)
      violated("bounds: a flusher of " + fleet_.name_of(p.where) + " keeps what is over");
  }
  if (keeps_delta(fleet_.snapshot_of_rank(p), p.over))
    violated("bounds: the snapshot of " + fleet_.name_of(p.where) + " keeps what is over");
}

void checker::check_fenced(const trainer_process& t) {
  const auto* s = fleet_.actors_of(t).supervisor;
  if (s && s->trainer)
    violated("fences: " + fleet_.name_of(t.where) + " was fenced, and has begun another run");
}

void checker::check_history(endpoint where, const snapshot_store& store) {
  const auto& history = store.history();
  const auto most = store.shape().total_bytes() * fleet_.options().sync.history_percent / 100;
  if (history.bytes() > most || history.size() > change_history::steps_max)
    violated("bounds: the history of changes of " + fleet_.name_of(where) +
             " is longer than it may be");
}

void checker::check_memory(const trainer_actors& actors) {
  if (actors.sender->routes.size() > fleet_.receivers().size())
    violated("bounds: the sender keeps ways to lives that are over");
  if (actors.supervisor->policy->records().size() > fleet_.receivers().size())
    violated("bounds: the supervisor knows more receivers than there ever were");
}

/// Weights change while the engine stands still and takes no requests, or not at all.
void checker::check_write(receiver_process& r) {
  if (holds(r.memory, r.seen)) return;
  r.seen = bytes_of(r.memory);
  const auto who = "receiver-" + std::to_string(r.id);
  if (!r.was_paused) violated("I3: weights of " + who + " were written under a running engine");
  if (!r.was_unready) violated("I3: weights of " + who + " were written while it was ready");
}

/// What the engine was told through its hooks is what there is.
void checker::check_engine(receiver_process& r, const receiver_state& s) {
  const auto who = "the engine of " + s.bytes->name();
  const auto& now = s.machine->state();
  if (r.was_told && (r.told != now.version || r.told_label != now.label))
    violated("I3: " + who + " was told to go on at " + to_string(r.told) + ", not " +
             to_string(now.version));
  if (r.written && now.phase == receiver_phase::serving &&
      (r.written_version != now.version || r.written_label != now.label))
    violated("I3: " + who + " was told that it holds " + to_string(r.written_version) + ", not " +
             to_string(now.version));
  if (!r.served.ready) return;
  if (r.paused) violated("I3: " + who + " is ready, and was never told to go on");
  if (!r.rotten && !holds(r, r.loaded)) violated("I3: " + who + " was not told what was written");
}

void checker::check(receiver_process& r) {
  check_write(r);
  const auto* s = fleet_.state_of_receiver(r);
  if (!s) return;
  if (r.ticked && r.staged && !s->machine->summarize().slot)
    fleet_.count(consequence::staged_expired);
  const auto& now = s->machine->state();
  const bool serving = now.phase == receiver_phase::serving;
  if (serving != static_cast<bool>(now.version))
    violated("I3: a tag without serving, or none with");
  if (now.ready && !serving) violated("I3: ready, but not serving");
  const auto tag = names_.true_tag(r, now.version);
  if (serving && tag.number != 0 && !committed_.contains(tag))
    violated("I3: " + s->bytes->name() + " serves " + to_string(tag) +
             ", which nobody has said to commit");
  if (serving && !r.rotten && !names(tag, r))
    violated("I3: " + s->bytes->name() + " holds other bytes than its tag " + to_string(tag) +
             " names");
  if (r.served.ready && !r.rotten && !names(names_.true_tag(r, r.served.version), r))
    violated("I3: the engine of " + s->bytes->name() + " serves other bytes than it was told");
  if (r.served.ready && tag.run == r.fleet.run && tag < r.fleet)
    violated("I3: " + s->bytes->name() + " is ready at " + to_string(tag) + " and was told of " +
             to_string(r.fleet));
  if (tag) {
    if (tag < r.highest)
      violated("I3: a version went back from " + to_string(r.highest) + " to " + to_string(tag) +
               " at " + s->bytes->name());
    r.highest = std::max(r.highest, tag);
  }
  check_engine(r, *s);
  note_kept(r, *s);
  if (s->bytes->staged_bytes() > fleet_.options().receiver.staged_bytes_max)
    violated("bounds: " + s->bytes->name() + " keeps more staged than it may");
  if (!(s->bytes->state() == now)) violated("I3: readiness changed without being published");
  for (const auto& t : fleet_.trainers())
    if (const auto actors = fleet_.actors_of(t); actors.sender) check_rest(t, actors, r);
}

void checker::check(trainer_process& t) {
  const auto actors = fleet_.actors_of(t);
  if (!actors.sender) return;
  // Also where nobody could be told, since all of them had ended.
  if (actors.sender->machine->phase() == sync_phase::committing)
    committed_.insert(names_.on_wire(actors.sender->machine->summarize().target.version));
  if (!actors.snapshot) return;
  check_history(t.where, *actors.supervisor->trainer->boot.store);
  check_memory(actors);
  const auto& sync = *actors.sender->machine;
  if (sync.phase() == sync_phase::encoding) asked_[t.where].clear();
  if (sync.phase() == sync_phase::voting && asked_[t.where].empty())
    for (const auto& p : sync.members()) asked_[t.where].emplace(p.id, p.inc);
  const auto& snapshot = sync.snapshot().version;
  if (snapshot.number == 0 && !content_.contains(snapshot)) {
    const auto& store = *actors.supervisor->trainer->boot.store;
    if (t.others.empty()) {
      // A run of the trainer's side that took over from the one that died.
      store.read(
          [&](const tensor_views& views) { on_taken_over(t, snapshot.run, bytes_of(views)); });
    } else {
      on_boot(snapshot.run, fleet_.weights_at(t, store.label()));
    }
  }
  if (sync.phase() == sync_phase::advancing) decided_.insert(sync.summarize().target.version);
  if (sync.phase() != sync_phase::failed) {
    check_snapshot(t, actors);
    const auto held = actors.snapshot->machine->held().version;
    if (held < t.highest) violated("I6: the snapshot went back");
    t.highest = std::max(t.highest, held);
  }
  for (const auto& r : fleet_.receivers()) check_rest(t, actors, r);
}

/// The store itself, also before the sender hears that it has advanced. Ranks advance one after the
/// other: their bytes are compared where they stand at one version.
void checker::check_snapshot(const trainer_process& t, const trainer_actors& actors) {
  const auto& sync = *actors.sender->machine;
  const auto held = actors.snapshot->machine->held().version;
  const bool advances = sync.phase() == sync_phase::advancing;
  if (held != sync.snapshot().version && !(advances && held == sync.summarize().target.version))
    violated("I6: sender and snapshot differ on where the snapshot stands");
  const auto elsewhere = [&](const rank_process& p) {
    const auto version = held_by(p, held.run);
    return version && *version != held;
  };
  if (advances && std::ranges::any_of(t.others, elsewhere)) return;
  const auto it = content_.find(names_.on_wire(held));
  if (it == content_.end() || !fleet_.snapshot_is(t, held, it->second))
    violated("I6: the snapshot is not the content of its version");
}

/// Where a rank's part stands, if it is one of this run.
std::optional<version_ref> checker::held_by(const rank_process& p, std::uint64_t run) const {
  const auto* s = fleet_.snapshot_of_rank(p);
  if (s == nullptr || s->machine->held().version.run != run) return std::nullopt;
  return s->machine->held().version;
}

/// What binds one trainer's snapshot and one receiver.
void checker::check_rest(const trainer_process& t, const trainer_actors& actors,
                         const receiver_process& r) {
  const auto& sync = *actors.sender->machine;
  if (!r.up || sync.phase() == sync_phase::failed) return;
  const auto* receiver = fleet_.state_of_receiver(r);
  if (!receiver || !sync.is_member({r.id, r.inc})) return;
  const auto run = sync.snapshot().version.run;
  if (r.fence_run > run) return;  // obeys a later trainer, and this one will learn of it
  const auto snapshot = names_.on_wire(sync.snapshot().version);
  const auto tag = names_.true_tag(r, receiver->machine->state().version);
  if (sync.phase() == sync_phase::idle) {
    if (tag != snapshot)
      violated("I1: at rest " + receiver->bytes->name() + " stands at " + to_string(tag) +
               ", the snapshot at " + to_string(snapshot));
    const bool same = r.rotten || names(snapshot, r);
    if (!same) violated("I1: at rest " + receiver->bytes->name() + " holds other bytes");
  }
  check_proven(
      t, r, *receiver,
      actors.snapshot ? actors.snapshot->machine->held().version : sync.snapshot().version);
  for (const auto& p : t.others)
    if (const auto held = held_by(p, run)) check_proven(t, r, *receiver, *held);
}

/// The snapshot, or a rank's part of it, stands where this member has proven to be: asked of the
/// store's own machine, which advances before the sender hears that it has.
void checker::check_proven(const trainer_process& t, const receiver_process& r,
                           const receiver_state& receiver, version_ref held) {
  const auto snapshot = names_.on_wire(held);
  const auto tag = names_.true_tag(r, receiver.machine->state().version);
  if (tag && tag.run == held.run && tag < snapshot)
    violated("I2: the snapshot is ahead of " + receiver.bytes->name());
  if (!heard_.contains({t.where, r.inc, held}))
    violated("I2: " + receiver.bytes->name() + " is a member, and the join never heard that it is");
  if (!r.proven.contains(snapshot))
    violated("I2: the snapshot is at " + to_string(snapshot) + ", which " + receiver.bytes->name() +
             " never acknowledged");
}

// --- in peace -----------------------------------------------------------------------------------

bool checker::is_whole(const trainer_process& t) const {
  const auto actors = fleet_.actors_of(t);
  if (!actors.sender || t.ticket) return false;
  const auto& sync = *actors.sender->machine;
  if (sync.phase() != sync_phase::idle) return false;
  for (const auto& p : t.others) {
    const auto* held = fleet_.snapshot_of_rank(p);
    if (held == nullptr || held->machine->held().version != sync.snapshot().version) return false;
  }
  const auto snapshot = names_.on_wire(sync.snapshot().version);
  return std::ranges::all_of(fleet_.receivers(), [&](const auto& r) {
    // Rot shows at the next proof, which the next sync asks for.
    return !r.wanted || (r.up && sync.is_member({r.id, r.inc}) && r.served.ready &&
                         (r.rotten || names(snapshot, r)));
  });
}

}  // namespace lockstep::sim
