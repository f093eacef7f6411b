// Every step that a receiver's machine can be brought to make is one of the model's, and steps that
// are not are caught.
#include "sim/relation.hpp"

#include <catch2/catch.hpp>
#include <map>

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

TEST_CASE("every step of whole clusters under faults is the model's") {
  coverage seen;
  std::size_t steps = 0;
  std::map<std::string, int> bad;
  const auto judge = [&](const auto& step) {
    ++steps;
    if (const auto why = check(step, &seen)) ++bad[*why];
  };
  const watcher watch{judge, judge,
                      [](const auto& born) { REQUIRE(check_start(born) == std::nullopt); },
                      [](const auto& booted) { REQUIRE(check_start(booted) == std::nullopt); }};
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
    REQUIRE(run_cluster(seed, opt).violation.empty());
  }
  for (const auto& [why, times] : bad) WARN(times << ": " << why);
  CHECK(bad.size() == 0);
  CHECK(steps > 300 * seeds);
  CHECK(missing(seen, "sender") == never);
}
