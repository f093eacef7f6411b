// Campaigns of seeds: how they add up, what they do with processes that end, and how they make a
// run small.
#include "sim/campaign.hpp"

#include <catch2/catch.hpp>
#include <chrono>
#include <cstdlib>
#include <set>
#include <thread>

using namespace lockstep;
using namespace lockstep::sim;

TEST_CASE("seeds add up to the same however many processes run them") {
  campaign_options one, three;
  one.seeds = three.seeds = 40;
  three.jobs = 3;
  const auto a = run_campaign(one), b = run_campaign(three);
  CHECK(a.seeds == 40);
  CHECK(b.seeds == 40);
  CHECK(a.hash == b.hash);
  CHECK(a.steps == b.steps);
  CHECK(a.faults == b.faults);
  CHECK(a.virtual_time == b.virtual_time);
}

TEST_CASE("the first seed that is bad is the first, whoever is faster") {
  campaign_options o;
  o.seeds = 200;
  o.stop_at_first = true;
  for (const auto how : {variant::reuse_version, variant::no_run_fence}) {
    o.each.broken = how;
    o.jobs = 1;
    const auto one = run_campaign(o);
    REQUIRE(one.first_bad_seed);
    o.jobs = 9;  // more than there are cores, so that some are far ahead of others
    const auto several = run_campaign(o);
    CHECK(several.first_bad_seed == one.first_bad_seed);
    CHECK(several.first_violation == one.first_violation);
  }
}

TEST_CASE("a process that crashes is a violation of its seed, and the next seeds are run") {
  campaign_options o;
  o.seeds = 6;
  o.each.syncs = 3;
  o.each.level = trace_level::events;
  std::uint64_t lines = 0;
  o.each.to = [&](std::string_view line) {
    ++lines;
    if (line.find("every promise was kept") == std::string_view::npos) return;
    if (++lines % 2 == 0) std::_Exit(7);
  };
  const auto sums = run_campaign(o);
  CHECK(sums.seeds == 6);
  CHECK(sums.violations > 0);
  CHECK(sums.first_violation.substr(0, 6) == "crash:");
}

namespace {

/// Listens to a run, and ends the process when it is copied for the next one.
struct fatal_copy {
  fatal_copy() = default;
  fatal_copy(const fatal_copy&) {
    if (heard) std::_Exit(7);
  }
  void operator()(std::string_view line) const {
    heard |= line.find("every promise was kept") != std::string_view::npos;
  }
  static inline bool heard = false;
};

}  // namespace

TEST_CASE("a process that ends between two seeds leaves none out") {
  campaign_options o;
  o.seeds = 6;
  o.jobs = 2;
  o.each.syncs = 3;
  o.each.level = trace_level::events;
  o.each.to = fatal_copy();
  const auto sums = run_campaign(o);
  CHECK(sums.seeds == 6);
  CHECK(sums.violations == 2);  // of each job's three, the second
  CHECK(sums.first_bad_seed == 2);
  CHECK(sums.first_violation == "crash: the process ended by an exception");
}

TEST_CASE("a step that does not end is a violation of its seed, and the next seeds are run") {
  campaign_options o;
  o.seeds = 3;
  o.each.seed = 70;
  o.each.syncs = 3;
  o.each.level = trace_level::events;
  o.step_time_max = std::chrono::seconds(3);
  std::uint64_t seeds = 0;
  o.each.to = [&](std::string_view line) {
    if (line.find("every promise was kept") == std::string_view::npos || ++seeds != 2) return;
    for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
  };
  const auto sums = run_campaign(o);
  CHECK(sums.seeds == 3);
  CHECK(sums.violations == 1);
  CHECK(sums.first_bad_seed == 71);
  CHECK(sums.first_violation == "hang: a step took longer than 3 s");
}

TEST_CASE("a campaign ends when its time is over") {
  campaign_options o;
  o.seeds = 1'000'000;
  o.time_max = std::chrono::milliseconds(200);
  CHECK(run_campaign(o).seeds < 10'000);
}

TEST_CASE("what breaks is made small, and still breaks") {
  run_options o;
  o.broken = variant::only_not_advance;
  for (o.seed = 1; run(o).violation.empty(); ++o.seed) continue;
  const auto whole = run(o);
  const auto [small, ends] = shrink(o);
  REQUIRE(small.keep);
  CHECK(small.syncs <= o.syncs);
  CHECK(small.keep->size() <= whole.struck.size());
  CHECK(small.keep->size() <= 3);  // one failed write is all it takes
  const auto again = run(small);
  CHECK(again.violation.substr(0, 2) == whole.violation.substr(0, 2));
  CHECK(again.violation == ends);
  CHECK(again.struck.size() == small.keep->size());
  // Nothing breaks without them.
  auto none = small;
  none.keep->clear();
  CHECK(run(none).violation.empty());
}

TEST_CASE("a run that breaks nothing is not made smaller") {
  run_options o;
  o.seed = 1;
  CHECK_FALSE(shrink(o).run.keep);
}

TEST_CASE("making a run small ends, however long each try takes") {
  run_options o;
  o.broken = variant::only_not_advance;
  for (o.seed = 1; run(o).violation.empty(); ++o.seed) continue;
  const auto all = run(o).struck;
  const auto unchanged = shrink(o, 0).run;
  REQUIRE(unchanged.keep);
  CHECK(unchanged.keep->size() == std::set(all.begin(), all.end()).size());
  CHECK(unchanged.syncs == o.syncs);
  CHECK(unchanged.steps_max == 0);
  // Nor is a run that was cut short taken for one that breaks.
  o.steps_max = 10;
  const auto cut = run(o);
  CHECK(cut.violation.empty());
  CHECK(cut.steps == 10);
}
