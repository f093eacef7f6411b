// Faults: how their rates are read, and how often they strike.
#include "sim/faults.hpp"

#include <algorithm>
#include <catch2/catch.hpp>
#include <set>
#include <vector>

#include "messages/errors.hpp"

using namespace lockstep;
using namespace lockstep::sim;

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
