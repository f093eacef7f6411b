#include "tests/support/cluster_sim.hpp"

#include <algorithm>

#include "tests/support/cluster.hpp"

namespace lockstep::sim {

cluster::cluster(std::uint64_t seed, const options& opt) : opt_(opt), rng_(seed) {
  loss_ = below(3) * 15;
  twice_ = below(3) * 30;
  trouble_ = below(3) * 4;
  disorder_ = below(3) * 60;
  jumps_ = below(4) * 4;
  lies_ = opt.digests && chance(300) ? 50 : 0;
  const auto count = 1 + below(5);
  auto& s = settings_;
  s.sync.stage_timeout_ms = s.sync.commit_timeout_ms = 1000;
  s.sync.attach_timeout_ms = s.sync.full_timeout_ms = 1000;
  s.sync.recovery_timeout_ms = 8000;
  s.sync.members_min = chance(300) ? static_cast<std::uint32_t>(count) : 1;
  s.sync.reseed = chance(250) ? reseed_scope::all : reseed_scope::failed;
  s.sync.redo_max = static_cast<std::uint32_t>(below(3));
  s.bucket.credit = static_cast<std::uint32_t>(1 + below(3));
  s.receiver.ping_ms = 1000;
  s.supervision.backoff_ms_max = 1000;
  s.supervision.attempts_max = chance(300) ? 2 : 1000;
  nodes_.resize(count);
  weights first{};
  for (auto& w : first) w = static_cast<std::uint8_t>(below(3));
  boot(first);
  for (std::size_t i = 0; i < count; ++i) {
    auto& n = nodes_[i];
    n.id = static_cast<receiver_id>(10 + i);
    if (chance(700)) n.bytes = first;
    start(n);
  }
}

// --- checkers -----------------------------------------------------------------------------------

version_ref cluster::tag_of(const node& n) const {
  auto v = n.fsm->state().version;
  if (v && opt_.variant == broken::no_run_fence) v.run = n.tag_run;
  return v;
}

void cluster::check() {
  for (const auto& n : nodes_) {
    if (!n.alive || n.lying) continue;
    const auto& s = n.fsm->state();
    const auto holds = [&](version_ref v) {
      const auto it = content_.find(v);
      return it != content_.end() && it->second == n.bytes;
    };
    const bool serving = s.phase == receiver_phase::serving;
    if (serving != static_cast<bool>(s.version))
      violated("I3: a tag without serving, or none with");
    if (serving && !holds(tag_of(n))) violated("I3: served bytes are not what their tag names");
    if (s.ready && !serving) violated("I3: ready, but not serving");
    auto engine = n.served.version;
    if (engine && opt_.variant == broken::no_run_fence) engine.run = n.tag_run;
    if (n.served.ready && !holds(engine)) violated("I3: the engine serves other bytes than told");
  }
  for (auto& t : trainers_) {
    if (!t.alive || t.sync->phase() == sync_phase::failed) continue;
    const auto& snapshot = t.sync->snapshot().version;
    if (t.sync->phase() != sync_phase::advancing) {
      if (t.snapshot->held().version != snapshot) violated("I6: two opinions on the snapshot");
      if (content_.at(on_wire(t, snapshot)) != t.held)
        violated("I6: the snapshot is not the content of its version");
    }
    const bool idle = t.sync->phase() == sync_phase::idle;
    for (const auto& p : t.sync->members()) {
      const auto* n = life(p);
      if (!n || n->fence_run > t.run) continue;
      const auto tag = tag_of(*n);
      if (idle && (tag != on_wire(t, snapshot) || n->bytes != t.held))
        violated("I1: idle, but a live member does not hold the snapshot");
      if (tag && tag.run == t.run && tag < on_wire(t, snapshot))
        violated("I2: the snapshot is ahead of a live member");
    }
  }
}

// --- time and the world -------------------------------------------------------------------------

void cluster::tick() {
  std::optional<time_point> next;
  const auto consider = [&](const std::optional<time_point>& t) {
    if (t) next = next ? std::min(*next, *t) : *t;
  };
  for (auto& t : trainers_) {
    if (!t.alive) continue;
    consider(t.sync->deadline());
    consider(t.join.deadline());
    consider(t.supervision->deadline(now_));
    consider(t.ping_at);
  }
  for (auto& n : nodes_) {
    if (!n.alive) continue;
    consider(n.fsm->deadline());
    for (const auto& [index, at] : n.hello_at) consider(at);
  }
  if (next) now_ = std::max(now_, *next);
  const auto due = [&](const std::optional<time_point>& t) { return t && *t <= now_; };
  for (auto& t : trainers_) {
    if (!t.alive) continue;
    if (due(t.sync->deadline())) perform(t, sender_event::tick, t.sync->on_tick(now_));
    if (due(t.join.deadline())) on_emitted(t, std::monostate{}, t.join.on_tick(now_));
    if (due(t.supervision->deadline(now_))) perform(t, t.supervision->on_tick(now_));
    if (due(t.sync->deadline()) || due(t.join.deadline()) || due(t.supervision->deadline(now_)))
      violated("a deadline passed and nothing was done about it");
    if (t.ping_at > now_) continue;
    t.ping_at = now_ + milliseconds(settings_.receiver.ping_ms);
    for (const auto& [id, r] : t.supervision->records())
      if (r.where != standing::dead && r.where != standing::detached)
        to_node({id, r.inc}, ping_msg{cluster_id, r.inc, on_wire(t, t.sync->snapshot().version)},
                t.index);
  }
  for (auto& n : nodes_) {
    if (!n.alive) continue;
    ticking_ = true;
    if (due(n.fsm->deadline())) perform(n, n.fsm->on_tick(now_));
    ticking_ = false;
    if (due(n.fsm->deadline())) violated("a receiver's deadline passed and nothing was done");
    for (auto& [index, at] : n.hello_at) {
      if (at > now_) continue;
      at = now_ + milliseconds(1000);
      // Announces itself until it is pinged, and again when the pings stop.
      const auto heard = n.pinged.find(index);
      if (heard == n.pinged.end() || now_ - heard->second > milliseconds(5000))
        send({false, index, 0, hello_msg{cluster_id, n.id, "r", n.inc, sim_layout}});
    }
  }
}

void cluster::mischief() {
  for (auto& n : nodes_) {
    if (!n.alive) {
      if (chance(20)) start(n);
      continue;
    }
    const auto life_before = n.inc;
    const bool crashes = chance(trouble_);
    if (crashes) crash(n);
    // Somebody notices, or believes to.
    if (crashes ? chance(500) : chance(trouble_ / 4)) {
      auto& t = trainers_[below(trainers_.size())];
      const bool restartable = chance(500);
      if (t.alive) perform(t, t.supervision->on_down(now_, {n.id, life_before}, restartable));
    }
  }
  if (!old_.empty() && chance(10)) deliver(old_[below(old_.size())]);
  if (trainers_.size() >= runs_max || !chance(trouble_ / 2)) return;
  // A new run boots, from what the old one had, from a receiver, or from anywhere. The old one is
  // dead or goes on as a zombie.
  auto& last = trainers_.back();
  last.alive = chance(600);
  const auto from = below(4);
  auto w = from == 0 ? last.current : from == 1 ? nodes_[below(nodes_.size())].bytes : last.held;
  if (from == 3) w[below(w.size())] = static_cast<std::uint8_t>(below(3));
  boot(w);
}

void cluster::one_step() {
  moved_ = true;
  std::vector<std::deque<std::function<void()>>*> tasks;
  for (auto& t : trainers_) {
    if (!t.alive) continue;
    for (auto* q : {&t.jobs, &t.to_sync, &t.to_supervision})
      if (!q->empty()) tasks.push_back(q);
  }
  std::vector<node*> busy;
  for (auto& n : nodes_)
    if (n.alive && !n.jobs.empty()) busy.push_back(&n);
  const auto choices = net_.size() + 2 * tasks.size() + 2 * busy.size();
  if (choices == 0 || fault(jumps_)) {
    moved_ = choices != 0;
    return tick();
  }
  auto pick = below(choices);
  if (pick < net_.size()) {
    // Mostly in order between two ends, as a connection keeps it; sometimes not.
    if (quiet_ || !chance(disorder_)) {
      const auto& chosen = net_[pick];
      pick = static_cast<std::size_t>(std::find_if(net_.begin(), net_.end(),
                                                   [&](const auto& p) {
                                                     return p.to_node == chosen.to_node &&
                                                            p.to == chosen.to;
                                                   }) -
                                      net_.begin());
    }
    auto p = std::move(net_[pick]);
    net_.erase(net_.begin() + static_cast<std::ptrdiff_t>(pick));
    return deliver(std::move(p));
  }
  pick = (pick - net_.size()) / 2;
  if (pick < tasks.size()) {
    const auto task = std::move(tasks[pick]->front());
    tasks[pick]->pop_front();
    return task();
  }
  step(*busy[pick - tasks.size()]);
}

bool cluster::whole() const {
  const auto& t = trainers_.back();
  if (t.open || t.sync->phase() != sync_phase::idle) return false;
  // Whatever was said of lives while there were faults has been heard.
  if (!t.to_sync.empty() || !t.to_supervision.empty()) return false;
  const auto members = t.sync->members();
  return members.size() == nodes_.size() &&
         std::all_of(nodes_.begin(), nodes_.end(), [&](const auto& n) {
           return n.alive && n.served.ready && n.bytes == t.held &&
                  std::find(members.begin(), members.end(), participant{n.id, n.inc}) !=
                      members.end();
         });
}

result cluster::run() {
  const auto advance = [&] {
    one_step();
    check();
    auto& t = trainers_.back();
    // A run that cannot go on is followed by the next.
    if (t.sync->phase() == sync_phase::failed) {
      t.alive = false;
      boot(t.current);
    }
    return out_.violation.empty();
  };
  int wanted = 0;
  for (int i = 0; i < 400 * opt_.syncs && (wanted < opt_.syncs || trainers_.back().open); ++i) {
    mischief();
    for (auto& t : trainers_)
      if (t.alive && !t.open && t.sync->phase() != sync_phase::failed && chance(60))
        want_sync(t), ++wanted;
    if (!advance()) return out_;
  }
  // Faults stop: nobody crashes, lies or refuses any more, nothing is lost, one trainer is left.
  quiet_ = true;
  for (auto& t : trainers_) t.alive = t.index + 1 == trainers_.size();
  for (auto& n : nodes_)
    if (!n.alive) start(n);
  const auto until = now_ + milliseconds(120'000);
  for (int last_sync = 0; last_sync < 2; ++last_sync) {
    while (!whole()) {
      // Who was given up stays out until somebody restarts it.
      for (const auto& [id, r] : trainers_.back().supervision->records())
        for (auto& n : nodes_)
          if (n.id == id && n.inc == r.inc && r.where == standing::gave_up) crash(n), start(n);
      if (!advance()) return out_;
      if (now_ < until) continue;
      violated("L1: not whole again after the faults had stopped");
      return out_;
    }
    if (last_sync == 1) break;
    want_sync(trainers_.back());
  }
  if (trainers_.back().last != sync_result::ok) violated("L1: the last sync was not ok");
  for (const auto& t : trainers_)
    if (t.alive && t.issued != t.reported) violated("I4: a sync without a report");
  return out_;
}

result run_cluster(std::uint64_t seed, const options& opt) {
  return cluster(seed, opt).run();
}

}  // namespace lockstep::sim
