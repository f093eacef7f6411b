// The simulator: that it can be trusted to repeat itself, to trouble, and to notice.
#include <algorithm>
#include <catch2/catch.hpp>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <map>
#include <thread>

#include "messages/errors.hpp"
#include "sim/campaign.hpp"

using namespace lockstep;
using namespace lockstep::sim;

namespace {

// Fewer where every instruction is watched.
#if defined(NDEBUG) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
constexpr std::uint64_t many = 400;
#else
constexpr std::uint64_t many = 60;
#endif

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

namespace {

struct kind_of_fleet {
  std::string_view options;  ///< of `lockstep sim`, as broken.txt has them
  run_options each;
};

/// A trainer of one process, receivers that pass buckets on, several ranks, and all of it.
std::vector<kind_of_fleet> kinds_of_fleets() {
  run_options plain, fanout, ranks, all;
  fanout.receivers = all.receivers = 6;
  fanout.fanout = all.fanout = 2;
  ranks.ranks = all.ranks = 2;
  all.parts = 3;
  return {{"--receivers 4", plain},
          {"--receivers 6 --fanout 2", fanout},
          {"--ranks 2", ranks},
          {"--receivers 6 --ranks 2 --parts 3 --fanout 2", all}};
}

kind_of_fleet without_digests() {
  run_options plain;
  plain.digests = false;
  return {"--no-digests --receivers 4", plain};
}

}  // namespace

namespace {

/// The promises that a broken protocol breaks (docs/protocol.md). Whoever catches it by another has
/// not seen what is wrong, or sees what is not.
std::vector<std::string_view> broken_by(variant how, bool digests) {
  using v = variant;
  using promises = std::vector<std::string_view>;
  switch (how) {
    case v::none:
      return {};
    case v::advance_before_flush:
    case v::advance_at_decision:
      return {"I2"};
    case v::only_not_advance:
      return {"I1", "I3"};  // also where somebody serves what was called off
    case v::reuse_version:
      return digests ? promises{"L1"} : promises{"L1", "I3"};
    case v::off_by_one:
      return {digests ? "L1" : "I3"};  // the digests keep the bytes from being served
    case v::no_run_fence:
      return {"I3", "L1"};
    case v::no_incarnation:
      return {"I1", "I2"};
    case v::attach_without_fence:
      return {"I1", "I3"};
    case v::serve_torn:
    case v::nan_mask:
    case v::off_by_one_unproven:
      return {"I3"};
  }
  return {};
}

std::string promise_of(const std::string& violation) {
  return violation.substr(0, violation.find(':'));
}

std::vector<std::string> lines_of(const char* file) {
  std::ifstream in(file);
  REQUIRE(in);
  std::vector<std::string> out;
  for (std::string line; std::getline(in, line);) out.push_back(line);
  return out;
}

}  // namespace

TEST_CASE("every broken protocol is caught by its promise within a thousand seeds, in any fleet") {
  // tests/sim/scenarios/update writes both.
  const auto known = lines_of(LOCKSTEP_TEST_DATA "/../sim/broken.txt");
  const auto document = lines_of(LOCKSTEP_TEST_DATA "/../../docs/sim.md");
  campaign_options o;
  o.seeds = 1000;
  o.stop_at_first = true;
  for (const auto& row : variant_table()) {
    std::string cells = " |";
    auto fleets = kinds_of_fleets();
    fleets.push_back(without_digests());
    for (const auto& fleet : fleets) {
      CAPTURE(row.name, fleet.options);
      o.each = fleet.each;
      o.each.broken = row.id;
      const auto sums = run_campaign(o);
      REQUIRE(sums.first_bad_seed);
      CAPTURE(sums.first_violation);
      const auto promise = promise_of(sums.first_violation);
      CHECK(std::ranges::count(broken_by(row.id, fleet.each.digests), promise) == 1);
      const auto seed = std::to_string(*sums.first_bad_seed);
      CHECK(std::ranges::count(known, std::string(row.name) + ' ' + std::string(fleet.options) +
                                          ": " + seed + ", " + sums.first_violation) == 1);
      cells += ' ' + seed + ", " + promise + " |";
    }
    CAPTURE(row.name, cells);
    CHECK(std::ranges::count_if(document, [&](const std::string& line) {
            return line.starts_with("| `" + std::string(row.name) + "` |") && line.ends_with(cells);
          }) == 1);
  }
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

TEST_CASE("what is caught is what is broken, and not how: where nothing fails nothing is wrong") {
  for (auto [options, each] : kinds_of_fleets()) {
    each.rates.rate.fill(0);
    for (const auto how : {variant::only_not_advance, variant::reuse_version, variant::no_run_fence,
                           variant::no_incarnation, variant::attach_without_fence}) {
      each.broken = how;
      for (each.seed = 0; each.seed < 10; ++each.seed) {
        CAPTURE(static_cast<int>(how), options, each.seed);
        CHECK(run(each).violation.empty());
      }
    }
  }
}

TEST_CASE("what is caught is what is broken, whatever fails, and whatever is called off") {
  // Under `reuse_version` digests are on, so that nobody takes the bytes of one attempt for those
  // of another: whoever is said to hold other bytes has been judged by another name than it was
  // told. Under `only_not_advance` nobody waits for what will not come.
  for (const auto how : {variant::reuse_version, variant::only_not_advance}) {
    const auto promises = broken_by(how, true);
    for (auto [options, each] : kinds_of_fleets()) {
      each.broken = how;
      each.rates[fault_id::rot] = 0;
      unsigned aborted = 0, caught = 0;
      for (each.seed = 0; each.seed < 40; ++each.seed) {
        CAPTURE(static_cast<int>(how), options, each.seed);
        const auto r = run(each);
        aborted += r.aborted;
        if (r.violation.empty()) continue;
        ++caught;
        CAPTURE(r.violation);
        CHECK(std::ranges::count(promises, promise_of(r.violation)) == 1);
      }
      CHECK(aborted > 20);
      CHECK(caught > 10);
    }
  }
}

TEST_CASE("without digests the fences alone keep every promise") {
  for (const auto& [options, each] : kinds_of_fleets()) {
    CAPTURE(options);
    campaign_options o;
    o.each = each;
    o.each.digests = false;
    o.seeds = many / 4;
    const auto sums = run_campaign(o);
    INFO(sums.first_violation);
    CHECK(sums.violations == 0);
    // What nothing but a digest finds does not strike.
    CHECK(sums.faults[static_cast<std::size_t>(fault_id::lie)] == 0);
    CHECK(sums.faults[static_cast<std::size_t>(fault_id::rot)] == 0);
    CHECK(sums.faults[static_cast<std::size_t>(fault_id::crash_receiver)] > 0);
    CHECK(sums.recovered > 0);
    CHECK(sums.reseeds > 0);
  }
}

TEST_CASE("what digests alone keep from being served is served without them") {
  // An attempt that is called off when all have voted, and one who is not told, has staged what the
  // next attempt of that number is not.
  run_options attempts;
  attempts.broken = variant::reuse_version;
  attempts.syncs = 40;
  attempts.rates.rate.fill(0);
  attempts.rates.swarm = false;
  attempts.rates[fault_id::lose] = 0.03;
  attempts.rates[fault_id::refuse_delta] = 0.3;
  run_options further;
  further.broken = variant::off_by_one;
  for (auto each : {attempts, further}) {
    std::map<std::string, unsigned> with, without;
    for (each.seed = 0; each.seed < 40; ++each.seed) {
      each.digests = true;
      ++with[promise_of(run(each).violation)];
      each.digests = false;
      ++without[promise_of(run(each).violation)];
    }
    CHECK(with["L1"] > 10);
    CHECK(with["I3"] == 0);
    CHECK(without["I3"] > 3);
  }
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

TEST_CASE("a run that breaks nothing is not made smaller") {
  CHECK_FALSE(shrink(of_seed(1)).run.keep);
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

TEST_CASE("rates are read as they are written, and refused where they are not") {
  fault_rates rates;
  read_rates(rates, "# comment\n none \nlose=0.5 # half\n\nflip = 1\nswarm = off", "file");
  CHECK(rates[fault_id::lose] == 0.5);
  CHECK(rates[fault_id::flip] == 1);
  CHECK(rates[fault_id::delay] == 0);
  CHECK_FALSE(rates.swarm);
  for (const char* bad : {"lose", "lose=", "lose=x", "lose=1.5", "lose=-1", "lose=nan", "lose=1 2",
                          "lost=1", "swarm=maybe", "=1"})
    CHECK_THROWS_AS(set_rate(rates, bad), error);
  CHECK_THROWS_WITH(read_rates(rates, "lose=0.1\nlose=2\n", "file"),
                    Catch::Matchers::Contains("file:2: lose"));
}

TEST_CASE("a fault strikes as often as its rate says, wherever others strike") {
  fault_rates rates;
  rates.swarm = false;
  rates[fault_id::lose] = 0.25;
  rates[fault_id::delay] = 0;
  rates[fault_id::flip] = 1;
  dice all(1, rates);
  std::vector<bool> lost;
  for (int i = 0; i < 4000; ++i) {
    lost.push_back(all.strikes(fault_id::lose));
    CHECK_FALSE(all.strikes(fault_id::delay));
    CHECK(all.strikes(fault_id::flip));
  }
  CHECK(std::count(lost.begin(), lost.end(), true) > 850);
  CHECK(std::count(lost.begin(), lost.end(), true) < 1150);
  // The same with others off, and with only some kept.
  rates[fault_id::flip] = 0;
  dice alone(1, rates);
  const std::set<strike> keep{{fault_id::lose, 0}, {fault_id::lose, 2}};
  dice kept(1, rates, keep);
  int drawn = 0;
  for (const bool was : lost) {
    CHECK(alone.strikes(fault_id::lose) == was);
    const bool wanted = was && keep.contains({fault_id::lose, static_cast<std::uint32_t>(drawn)});
    CHECK(kept.strikes(fault_id::lose) == wanted);
    drawn += was;
  }
  alone.stop();
  CHECK_FALSE(alone.at_step());
}

TEST_CASE("strikes are named as they are read") {
  for (const auto& row : fault_table()) {
    const strike s{row.id, 12};
    CHECK(parse_strike(to_string(s)) == s);
  }
  for (const char* bad : {"", "lose", "lose:", "lose:x", "lose:1x", "lost:1", ":1", "lose:-1"})
    CHECK_FALSE(parse_strike(bad));
}
