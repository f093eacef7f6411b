// Every step that a receiver's machine can be brought to make is one of the model's, and steps that
// are not are caught.
#include "sim/relation.hpp"

#include <catch2/catch.hpp>
#include <map>
#include <random>

#include "sim/relation_table.hpp"
#include "tests/sim/relation_fuzz.hpp"
#include "tests/support/cluster_sim.hpp"

using namespace lockstep;
using namespace lockstep::sim;

namespace {

// Fewer where the machines are built for debugging or under a sanitizer; more where lines of the
// model have not been taken yet.
#if defined(NDEBUG) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
constexpr std::uint64_t seeds = 2000;
#else
constexpr std::uint64_t seeds = 100;
#endif
constexpr std::uint64_t seeds_max = 20'000;

/// Lines of the table that begin so and that nobody took.
std::vector<std::string> missing(const coverage& seen, std::string_view who) {
  std::vector<std::string> out;
  for (const auto& [from, all] : transitions())
    for (const auto& to : all)
      if (const auto line = from + " > " + to; from.starts_with(who) && seen.count(line) == 0)
        out.push_back(line);
  return out;
}

}  // namespace

TEST_CASE("whatever is said to a receiver, its steps are the model's") {
  coverage seen;
  const auto never = [&] { return missing(seen, "receiver"); };
  for (std::uint64_t seed = 1; seed <= seeds || (seed < seeds_max && !never().empty()); ++seed) {
    CAPTURE(seed);
    receiver_fuzz fuzz(seed);
    std::size_t steps = 0;
    fuzz.on_start = [&](const auto& born) {
      REQUIRE(check_start(born) == std::nullopt);
      seen.insert("receiver start > newrun out none none none");
    };
    fuzz.on_step = [&](const receiver_step& s) {
      ++steps;
      const auto why = check(s, &seen);
      if (why) {
        CAPTURE(steps);
        FAIL_CHECK(*why);
      }
    };
    for (int i = 0; i < 2000; ++i) fuzz.step();
  }
  CHECK(never() == std::vector<std::string>{});
}

TEST_CASE("whatever is said to a join, it counts what the model counts") {
  std::mt19937_64 random(7);
  const auto below = [&](std::uint64_t n) { return random() % n; };
  const participant all[] = {{1, {1, 1}}, {2, {2, 2}}, {3, {3, 3}}, {3, {4, 4}}};
  const auto some = [&] {
    std::vector<participant> out;
    for (const auto& p : all)
      if (below(3) != 0) out.push_back(p);
    return out;
  };
  const digest proof{5, 5}, other{6, 6};
  const errc reasons[] = {errc::no_memory, errc::torn, errc::behind};
  coverage seen;
  join_fsm join;
  join_relation told;
  round_spec spec;
  time_point now{};
  int rounds = 0;
  for (int i = 0; i < 300'000; ++i) {
    CAPTURE(i);
    join_fsm::emitted said;
    const auto what = below(40);
    if (what < 4) {
      const auto kind = static_cast<round_kind>(below(5));
      const auto number = kind == round_kind::commit ? 1u : kind == round_kind::redo ? 2u : 0u;
      spec = {9, {2, 10 + below(2)}, number, kind, some(), proof, now + std::chrono::seconds(1)};
      if (below(4) == 0) spec.part_proofs[all[0]] = other;  // who takes a part proves a part
      told.on_open(spec);
      said = join.on_open(spec);
    } else if (what < 5) {
      now += std::chrono::milliseconds(below(1500));
      told.on_tick();
      said = join.on_tick(now);
    } else if (what < 7) {
      const auto& who = all[below(4)];
      told.on_down(who);
      said = join.on_down(who, errc::dead);
    } else {
      const auto& who = all[below(4)];
      reply_msg m;
      m.env = {9, spec.txn, who.inc};
      m.id = who.id;
      m.round = below(8) == 0 ? static_cast<std::uint32_t>(below(3)) : spec.number;
      m.kind = static_cast<reply_kind>(below(8));
      m.reason = reasons[below(3)];
      m.proof = below(8) == 0 ? other : proof;
      if (below(8) == 0) --m.env.txn.seq;
      if (below(16) == 0) ++m.env.cluster;
      told.on_reply(m, &seen);
      said = join.on_reply(m);
    }
    rounds += said.has_value();
    REQUIRE(told.check(said ? &*said : nullptr) == std::nullopt);
    const auto view = some();
    const join_relation::verdict all_ok[] = {{spec.txn, true}};
    const bool confirmed =
        told.check_verdicts(sync_action::conclude{spec.txn, view}, all_ok) == std::nullopt;
    REQUIRE(confirmed == join.all_ok(spec.txn, view));
  }
  CHECK(rounds > 5'000);
  CHECK(missing(seen, "join") == std::vector<std::string>{});
}

TEST_CASE("every step of whole clusters under faults is the model's") {
  coverage seen;
  std::size_t steps = 0;
  std::map<std::string, int> bad;
  const auto judge = [&](const auto& step) {
    ++steps;
    if (const auto why = check(step, &seen)) ++bad[*why];
  };
  std::map<std::uint64_t, join_relation> joins;  // by run, of this seed
  const auto say = [&](const std::optional<std::string>& why) {
    ++steps;
    if (why) ++bad[*why];
  };
  const watcher watch{judge,
                      judge,
                      [](const auto& born) { REQUIRE(check_start(born) == std::nullopt); },
                      [](const auto& booted) { REQUIRE(check_start(booted) == std::nullopt); },
                      [&](auto run, const auto& event, const auto& said) {
                        joins[run].on(event);
                        say(joins[run].check(said ? &*said : nullptr));
                      },
                      [&](auto run, auto txn, const auto& view, bool all_ok) {
                        const join_relation::verdict said[] = {{txn, all_ok}};
                        say(joins[run].check_verdicts(sync_action::conclude{txn, view}, said));
                      }};
  // Not taken here. The model tells who attaches out of the view when the attach leaves, the code
  // before; it may run out of transactions; nothing rots in these clusters; and who follows with a
  // full after others have caught up is chosen when the bytes are there.
  const std::vector<std::string> never{"sender attach idle > attaching - in > out attach",
                                       "sender attached attaching > idle no out > out -",
                                       "sender seeded seeding > seeding - out > out full",
                                       "sender votes voting > committing doubt in > out -",
                                       "sender votes voting > idle doubt in > out abort"};
  const auto enough = [&] { return missing(seen, "sender") == never; };
  for (std::uint64_t seed = 1; seed <= seeds || (seed < seeds_max && !enough()); ++seed) {
    CAPTURE(seed);
    options opt;
    opt.watch = &watch;
    joins.clear();
    REQUIRE(run_cluster(seed, opt).violation.empty());
  }
  for (const auto& [why, times] : bad) WARN(times << ": " << why);
  CHECK(bad.size() == 0);
  CHECK(steps > 300 * seeds);
  CHECK(missing(seen, "sender") == never);
}
