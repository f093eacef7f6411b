// Protocols that are broken on purpose: each is caught, by its promise, and for what it breaks.
#include <algorithm>
#include <catch2/catch.hpp>
#include <fstream>
#include <map>
#include <string>

#include "sim/campaign.hpp"
#include "tests/sim/seeds.hpp"
#include "tests/support/places.hpp"

using namespace lockstep;
using namespace lockstep::sim;

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

std::vector<std::string> lines_of(const std::filesystem::path& file) {
  std::ifstream in(file);
  REQUIRE(in);
  std::vector<std::string> out;
  for (std::string line; std::getline(in, line);) out.push_back(line);
  return out;
}

}  // namespace

TEST_CASE("every broken protocol is caught by its promise within a thousand seeds, in any fleet") {
  // tests/sim/scenarios/update writes both.
  const auto known = lines_of(test::checkout() / "tests/sim/broken.txt");
  const auto document = lines_of(test::checkout() / "docs/sim.md");
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
