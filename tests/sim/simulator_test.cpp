// The simulator: that it can be trusted to repeat itself, to trouble, and to notice.
#include <catch2/catch.hpp>
#include <set>

#include "sim/campaign.hpp"
#include "tests/sim/seeds.hpp"

using namespace lockstep;
using namespace lockstep::sim;

namespace {

run_options of_seed(std::uint64_t seed) {
  run_options o;
  o.seed = seed;
  return o;
}

std::string traced(run_options o, run_result* result = nullptr) {
  std::string out;
  o.level = trace_level::steps;
  o.to = [&](std::string_view line) { (out += line) += '\n'; };
  const auto r = run(o);
  if (result) *result = r;
  return out;
}

campaign_result campaign(std::uint64_t seeds) {
  campaign_options o;
  o.seeds = seeds;
  return run_campaign(o);
}

}  // namespace

TEST_CASE("a seed gives the same run again, byte for byte, and no two seeds the same") {
  std::set<std::uint64_t> hashes;
  for (std::uint64_t seed = 0; seed < many / 8; ++seed) {
    CAPTURE(seed);
    run_result first, second;
    const auto trace = traced(of_seed(seed), &first);
    CHECK((traced(of_seed(seed), &second) == trace));
    CHECK(first.hash == second.hash);
    CHECK(first.steps == second.steps);
    CHECK(first.struck == second.struck);
    CHECK(hashes.insert(first.hash).second);
    // Writing it down changes nothing.
    CHECK(run(of_seed(seed)).hash == first.hash);
  }
}

TEST_CASE("a trace says what every message is") {
  auto o = of_seed(1);
  o.receivers = 6;
  o.ranks = o.fanout = 2;
  o.syncs = 5;
  const auto trace = traced(o);
  const auto says = [&](const char* what) { return trace.find(what) != std::string::npos; };
  CHECK(says(" has stripe 0 from receiver-"));
  CHECK(says(", stripe 1 from the trainer"));
  CHECK(says(" round 0 goes to receivers 0 "));
  for (const char* bare : {"another message", "shard_", "relay_"}) {
    CAPTURE(bare);
    CHECK_FALSE(says(bare));
  }
}

TEST_CASE("every fault strikes, every result comes, and every promise is kept") {
  const auto sums = campaign(many);
  INFO(sums.first_violation);
  CHECK(sums.violations == 0);
  CHECK(sums.seeds == many);
  for (const auto& row : fault_table()) {
    CAPTURE(row.name);
    // Nobody is late, absent or odd where a trainer is one process.
    CHECK((sums.faults[static_cast<std::size_t>(row.id)] > 0) == (row.unit != per::rank));
  }
  for (std::size_t i = 0; i < consequence_count; ++i) {
    CAPTURE(to_string(static_cast<consequence>(i)));
    // Nobody lends where nobody passes anything on.
    CHECK((sums.met[i] > 0) == (static_cast<consequence>(i) != consequence::lent));
  }
  CHECK(sums.ok > many);
  CHECK(sums.recovered > many);
  CHECK(sums.degraded > 0);
  CHECK(sums.aborted > 0);
  CHECK(sums.lost > 0);
  CHECK(sums.reseeds > many);
}

TEST_CASE("of a trainer of several ranks every fault strikes, and every promise is kept") {
  campaign_options o;
  o.each.ranks = 2;
  o.seeds = many;
  const auto sums = run_campaign(o);
  INFO(sums.first_violation);
  CHECK(sums.violations == 0);
  for (const auto& row : fault_table()) {
    CAPTURE(row.name);
    CHECK(sums.faults[static_cast<std::size_t>(row.id)] > 0);
  }
  CHECK(sums.ok > many);
  CHECK(sums.recovered > many);
  CHECK(sums.aborted > many);
  CHECK(sums.lost > 0);
}

TEST_CASE("without faults nothing goes wrong") {
  run_options o;
  o.ranks = GENERATE(1u, 2u, 3u, 4u);
  o.rates.rate.fill(0);
  // Those that are loaded with another checkpoint are seeded, before the first sync or beside it.
  for (o.seed = 0; o.seed < 20; ++o.seed) {
    const auto r = run(o);
    CHECK(r.violation.empty());
    CHECK(r.struck.empty());
    CHECK(r.recovered + r.degraded + r.lost == 0);
    CHECK(r.ok >= o.syncs);
  }
}

TEST_CASE("no rate of coming and going is too high for a fleet") {
  run_options o;
  o.syncs = 3;
  o.rates.rate.fill(0);
  o.rates.swarm = false;
  o.rates[fault_id::attach] = o.rates[fault_id::detach] = 0.08;
  for (o.seed = 1; o.seed <= 10; ++o.seed) {
    CAPTURE(o.seed);
    CHECK(run(o).violation.empty());
  }
}

TEST_CASE("observers keep nothing of joins that have ended, in whatever way they did") {
  // A trainer's end takes its actors with it; one that is killed has a last step of its own.
  for (const auto how : {fault_id::crash_trainer, fault_id::zombie_trainer, fault_id::kill_actor}) {
    for (const unsigned ranks : {1u, 2u}) {
      run_options o;
      o.ranks = ranks;
      o.rates.rate.fill(0);
      o.rates.swarm = false;
      o.rates[how] = 0.002;
      std::uint64_t struck = 0;
      for (o.seed = 0; o.seed < 10; ++o.seed) {
        CAPTURE(to_string(how), ranks, o.seed);
        const auto r = run(o);
        CHECK(r.violation.empty());
        struck += r.struck.size();
        // At the end there is one join, of which either observer knows.
        CHECK(r.joins_kept == 2);
      }
      CHECK(struck > 10);
    }
  }
}
