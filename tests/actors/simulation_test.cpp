// Whole syncs in virtual time, in every order that a seed can choose, with actors that die at any
// step.
#include "tests/sim/simulation.hpp"

#include <atomic>
#include <catch2/catch.hpp>

#include "actors/fleet.hpp"
#include "actors/runtime_parts.hpp"

using namespace lockstep;

namespace {

layout tiny_layout() {
  return layout({{"a", dtype::bf16, {8, 8}},
                 {"b", dtype::f32, {5}},
                 {"c", dtype::u8, {0}},
                 {"d", dtype::f8_e4m3, {61}}});
}

settings patient() {
  settings s;
  s.supervision.attempts_max = 20;
  return s;
}

constexpr const char* everybody[] = {"sender", "join", "snapshot", "flusher", "receiver"};

/// A simulated fleet whose promises are checked after every step, and whose steps are looked up in
/// the model.
struct checked_fleet {
  explicit checked_fleet(std::uint64_t seed, const settings& s = patient())
      : sim(seed, s), w(random_weights(tiny_layout(), 1)) {
    content.emplace(0, w.clone());
    sim.after_step = [this] {
      check_ready();
      check_model();
    };
  }

  /// Whoever is ready holds exactly what its version and label name (I3), and a version names one
  /// content for ever (I6).
  void check_ready() {
    for (const auto& e : sim.engines()) {
      const auto state = e->state();
      if (!state.ready) continue;
      ++ready_seen;
      const auto known = content.find(state.label);
      const auto label_of = labels.try_emplace(state.version, state.label).first->second;
      if (known == content.end() || !same(*e, known->second) || label_of != state.label) ++broken;
    }
  }

  void check_model() {
    if (!watch || watch->wrong().empty()) return;
    ++broken;
    UNSCOPED_INFO(watch->wrong().begin()->first);
  }

  bool start(unsigned receivers, std::shared_ptr<fault_plan> faults = nullptr) {
    watch = std::make_shared<step_watch>(faults ? faults->left() : std::vector<fault>{});
    sim.watch = watch;
    for (unsigned i = 0; i < receivers; ++i) sim.add(w.shape(), {}, faults);
    sim.boot(w);
    return sim.wait_members(receivers, 30s);
  }

  std::shared_ptr<ticket_state> begin(unsigned label) {
    step(w, label + 1000);
    content.insert_or_assign(label, w.clone());
    return sim.sync(label, content.at(label));
  }
  std::optional<sync_report> sync(unsigned label) { return sim.wait(begin(label), 300s); }

  /// Nothing is under way: every member holds the snapshot, which is what its label names (I1).
  bool members_hold_snapshot() {
    sim.settle();
    bool all = true;
    const auto& named = content.at(sim.store().label());
    sim.store().read([&](const tensor_views& views) {
      for (std::size_t i = 0; i < views.size(); ++i)
        if (views[i].bytes.size != 0 &&
            std::memcmp(views[i].bytes.data, named.tensor(i).data(), views[i].bytes.size) != 0)
          all = false;
    });
    for (const auto& s : sim.statuses())
      if (s.member && !same(*sim.engines()[s.id], named)) all = false;
    return all;
  }

  /// Everybody is a member again, still serves after leases could have run out twice, and follows a
  /// last sync.
  bool heals(unsigned label) {
    if (!sim.wait_members(sim.engines().size(), 120s)) return false;
    sim.pass(11s);
    for (const auto& e : sim.engines())
      if (!e->state().ready) return false;
    const auto report = sync(label);
    if (!report || report->result != sync_result::ok) return false;
    for (const auto& e : sim.engines())
      if (!e->state().ready || e->state().label != label || !same(*e, w)) return false;
    return members_hold_snapshot();
  }

  simulation sim;
  std::shared_ptr<step_watch> watch;
  weight_buffer w;
  std::map<std::uint64_t, weight_buffer> content;
  std::map<version_ref, std::uint64_t> labels;
  std::size_t ready_seen = 0;
  std::size_t broken = 0;
};

/// What became of the syncs of many runs: a test of faults that never strike tests nothing.
struct tally {
  unsigned ok = 0, recovered = 0, degraded = 0, aborted = 0, died = 0;
  std::size_t steps = 0;  ///< of machines, each looked up in the model
  sim::coverage taken{};  ///< of the model
};

/// Ten syncs of three receivers with faults and deaths drawn from the seed.
std::uint64_t chaos(std::uint64_t seed, tally& seen) {
  CAPTURE(seed);
  checked_fleet f(seed);
  auto& rng = f.sim.rng();
  std::vector<fault> faults;
  for (std::uint64_t label = 1; label <= 10; ++label)
    for (receiver_id r = 0; r < 3; ++r)
      if (rng() % 6 == 0) faults.push_back({static_cast<fault_kind>(rng() % 6), label, r});
  f.sim.early_timer = rng() % 2 ? 150 : 0;
  REQUIRE(f.start(3, std::make_shared<fault_plan>(faults)));
  for (unsigned label = 1; label <= 10; ++label) {
    const auto ticket = f.begin(label);
    if (rng() % 4 == 0) {
      for (auto steps = rng() % 250; steps > 0; --steps) f.sim.step();
      f.sim.kill(everybody[rng() % 5]);
    }
    const auto report = f.sim.wait(ticket, 300s);
    CAPTURE(label);
    REQUIRE(report);
    CHECK(report->label == label);
    seen.ok += report->result == sync_result::ok;
    seen.recovered += report->result == sync_result::recovered;
    seen.degraded += report->result == sync_result::degraded;
    seen.aborted += report->result == sync_result::aborted;
    seen.died += report->reason == errc::dead && report->participants.empty();
    if (report->complete())
      for (const auto& p : report->participants) CHECK(p.member);
    CHECK(f.members_hold_snapshot());
    REQUIRE(f.broken == 0);
  }
  f.sim.early_timer = 0;
  CHECK(f.heals(99));
  CHECK(f.broken == 0);
  CHECK(f.ready_seen > 0);
  seen.steps += f.watch->steps();
  seen.taken.insert(f.watch->seen().begin(), f.watch->seen().end());
  return f.sim.trace_hash();
}

}  // namespace

TEST_CASE("the same seed gives the same run") {
  tally seen;
  for (const std::uint64_t seed : {1u, 2u, 3u}) CHECK(chaos(seed, seen) == chaos(seed, seen));
  CHECK(chaos(1, seen) != chaos(2, seen));
}

TEST_CASE("two hundred random runs with faults and deaths keep every promise and heal") {
  tally seen;
  for (std::uint64_t seed = 100; seed < 300; ++seed) chaos(seed, seen);
  CHECK(seen.ok > 500);
  CHECK(seen.recovered > 300);
  CHECK(seen.aborted > 3);
  CHECK(seen.died > 50);
  CHECK(seen.degraded < 2 * seen.died);
  WARN(seen.steps << " steps, " << seen.taken.size() << " transitions of the model");
  CHECK(seen.steps > 50'000);
  CHECK(seen.taken.size() > 50);
}

TEST_CASE("the trainer's side may die at any step of a sync") {
  // Each of its actors, killed before each step until the sync is over: a new run takes over from
  // the snapshot, whether it had advanced or not, and names its bytes by the right label.
  const std::string victim = GENERATE("sender", "join", "snapshot");
  const auto seed = GENERATE(range(0u, 5u));
  unsigned killed = 0, lost = 0;
  for (unsigned at = 0;; ++at) {
    CAPTURE(victim, at, seed);
    checked_fleet f(1000 * seed + at);
    REQUIRE(f.start(2));
    const auto run = f.sim.statuses()[0].state.version.run;
    REQUIRE(f.sync(1)->result == sync_result::ok);
    const auto ticket = f.begin(2);
    unsigned steps = 0;
    while (steps < at && !ticket->wait_report(0ms)) {
      f.sim.step();
      ++steps;
    }
    if (steps < at) break;  // the sync was over before this step
    REQUIRE(f.sim.kill(victim));
    ++killed;
    const auto report = f.sim.wait(ticket, 300s);
    REQUIRE(report);
    CHECK(report->label == 2);
    if (report->reason == errc::dead) {
      ++lost;
      CHECK(report->result == sync_result::degraded);
    }
    f.sim.settle();  // it may have been killed after its last word
    REQUIRE(f.sim.wait_members(2, 60s));
    CHECK(f.sim.statuses()[0].state.version.run == run + 1);
    CHECK(f.members_hold_snapshot());
    CHECK(f.heals(3));
    REQUIRE(f.broken == 0);
  }
  CHECK(killed > 20);
  CHECK(lost > 10);
}

TEST_CASE("a receiver or a flusher may die at any step of a sync") {
  const std::string victim = GENERATE("receiver", "flusher");
  unsigned killed = 0, recovered = 0;
  for (unsigned at = 0;; ++at) {
    CAPTURE(victim, at);
    checked_fleet f(at);
    REQUIRE(f.start(2));
    REQUIRE(f.sync(1)->result == sync_result::ok);
    const auto ticket = f.begin(2);
    unsigned steps = 0;
    while (steps < at && !ticket->wait_report(0ms)) {
      f.sim.step();
      ++steps;
    }
    if (steps < at) break;
    REQUIRE(f.sim.kill(victim));
    ++killed;
    const auto report = f.sim.wait(ticket, 300s);
    REQUIRE(report);
    // The other one is there and has not failed: no reason to abort.
    CHECK(report->result != sync_result::aborted);
    CHECK(report->result != sync_result::degraded);
    f.sim.settle();
    recovered += report->result == sync_result::recovered ? 1u : 0u;
    CHECK(f.heals(3));
    REQUIRE(f.broken == 0);
  }
  CHECK(killed > 20);
  CHECK(recovered > 5);
}

TEST_CASE("a receiver that is given up after its death is not ready") {
  auto s = patient();
  s.supervision.restart_max = 0;
  checked_fleet f(1, s);
  REQUIRE(f.start(1));
  REQUIRE(f.sync(1)->result == sync_result::ok);
  REQUIRE(f.sim.engines()[0]->state().ready);
  REQUIRE(f.sim.kill("receiver"));
  f.sim.settle();
  CHECK_FALSE(f.sim.engines()[0]->state().ready);
  CHECK(f.sim.engines()[0]->state().reason == errc::dead);
  CHECK(f.sim.statuses()[0].standing == "gave_up");
}

TEST_CASE("the trainer's side is restarted only so often, and seeding starts it again") {
  auto s = patient();
  s.supervision.restart_max = 1;
  checked_fleet f(1, s);
  REQUIRE(f.start(2));
  REQUIRE(f.sim.kill("sender"));
  f.sim.settle();
  REQUIRE(f.sim.wait_members(2, 60s));
  REQUIRE(f.sync(1)->result == sync_result::ok);
  REQUIRE(f.sim.kill("sender"));
  f.sim.settle();
  for (const auto& status : f.sim.statuses()) CHECK_FALSE(status.member);
  const auto refused = f.sync(2);
  REQUIRE(refused);
  CHECK(refused->result == sync_result::aborted);
  CHECK(refused->reason == errc::shut_down);
  f.content.insert_or_assign(50, f.w.clone());
  // As if the clock that the number was drawn from had been set back.
  CHECK(f.sim.boot(f.w, 50, 1) == version_ref{3, 0});
  CHECK(f.heals(51));
  CHECK(f.broken == 0);
}

TEST_CASE("timers do not become more, however often one is overtaken by another") {
  auto s = patient();
  s.supervision.attempts_max = 1000;
  s.supervision.backoff_ms = s.supervision.backoff_ms_max = 50;
  s.sync.stage_timeout_ms = 200;
  s.receiver.lease_ms = 60'000;
  checked_fleet f(1, s);
  REQUIRE(f.start(2));
  SECTION("the supervisor's, by a receiver that fails again and again") {
    f.sim.add(layout({{"a", dtype::bf16, {64, 64}}}));
    f.sim.pass(40s);
    REQUIRE(f.sim.statuses()[2].reason == errc::wrong_layout);
  }
  SECTION("a receiver's, by deltas that are staged") {
    for (unsigned label = 1; label <= 60; ++label) {
      REQUIRE(f.sync(label)->result == sync_result::ok);
      f.sim.pass(1s);
    }
  }
  CHECK(f.sim.timers() < 12);
}

TEST_CASE("no run starts from a snapshot that could not be advanced") {
  checked_fleet f(1);
  REQUIRE(f.start(2));
  REQUIRE(f.sync(1)->result == sync_result::ok);
  const auto before = f.content.at(1).clone();
  const auto ticket = f.begin(2);
  // Between the proof and the advance its memory rots. All receivers have applied by then.
  f.sim.run_until(
      [&] {
        for (const auto& e : f.sim.engines())
          if (e->state().label != 2) return false;
        return true;
      },
      60s);
  f.sim.rot();
  const auto report = f.sim.wait(ticket, 300s);
  REQUIRE(report);
  CHECK(report->result == sync_result::degraded);
  CHECK(report->reason == errc::encode_failed);
  CHECK(f.sim.store().torn());
  const auto refused = f.sync(3);
  REQUIRE(refused);
  CHECK(refused->reason == errc::shut_down);
  CHECK(refused->sent_bytes == 0);  // nothing of the sync before is booked on it
  CHECK(refused->changed == 0);
  CHECK(refused->total == 0s);
  // What the receivers hold is sound, and stays so: nobody is seeded from the rotten bytes.
  f.sim.pass(60s);
  CHECK(f.sync(4)->reason == errc::shut_down);
  for (const auto& e : f.sim.engines()) CHECK(same(*e, f.content.at(2)));
  CHECK(f.broken == 0);
  f.content.insert_or_assign(50, f.w.clone());
  f.sim.boot(f.w, 50);
  CHECK(f.heals(51));
}

TEST_CASE("a snapshot that rots between syncs stops the sync before anything leaves") {
  checked_fleet f(1);
  REQUIRE(f.start(2));
  f.sim.rot();
  const auto report = f.sync(1);
  REQUIRE(report);
  CHECK(report->result == sync_result::aborted);
  CHECK(report->reason == errc::torn);
  for (const auto& e : f.sim.engines()) CHECK(same(*e, f.content.at(0)));
}

TEST_CASE("a snapshot that was taken over is not written by the run before") {
  const auto w = random_weights(tiny_layout(), 1);
  snapshot_store store(w.shape(), reader_of(w), 4);
  const auto first = store.take_over();
  int calls = 0;
  const auto work = [&](const tensor_spans&) { ++calls; };
  store.write(first, 5, work);
  const auto second = store.take_over();
  CHECK_THROWS_AS(store.write(first, 6, work), error);
  CHECK(calls == 1);
  CHECK(store.label() == 5);
  CHECK_FALSE(store.torn());
  store.write(second, 6, work);
  CHECK(store.label() == 6);
  CHECK_THROWS(store.write(second, 7, [](const tensor_spans&) { throw 1; }));
  CHECK(store.torn());
}

TEST_CASE("nobody is told that the tensors are free while they are read") {
  // On the real scheduler: another run is started while the sender reads.
  runtime rt(quiet());
  auto w = random_weights(small_layout(), 1);
  trainer t(rt, small_layout());
  t.seed(w);
  std::atomic<bool> reading = false, read = false;
  const tensor_reader slow = [&](std::size_t i) {
    reading = true;
    std::this_thread::sleep_for(20ms);
    if (i == 3) read = true;
    return std::span<const std::byte>(w.tensor(i));
  };
  std::thread other([&] {
    while (!reading) std::this_thread::sleep_for(1ms);
    caf::anon_send(
        rt.inside().supervisor,
        boot_request{1, std::make_shared<snapshot_store>(w.shape(), reader_of(w), 0), nullptr});
  });
  const auto ticket = t.sync(1, slow);
  CHECK(read);
  other.join();
  CHECK(ticket.wait_for(10s));
}
