// Every step that a receiver's machine can be brought to make is one of the model's, and steps that
// are not are caught.
#include "sim/relation.hpp"

#include <catch2/catch.hpp>
#include <map>

#include "sim/relation_table.hpp"
#include "tests/sim/relation_fuzz.hpp"

using namespace lockstep;
using namespace lockstep::sim;

namespace {

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
  for (std::uint64_t seed = 1; seed <= 2000; ++seed) {
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
  const auto never = missing(seen, "receiver");
  for (const auto& line : never) WARN(line);
  CHECK(never.size() == 0);
}
