// How many lines come through, and that none is lost count of.
#include "transport/log_throttle.hpp"

#include <catch2/catch.hpp>
#include <vector>

using namespace lockstep;
using namespace std::chrono_literals;

namespace {

struct throttled {
  std::vector<std::string> said;
  log_throttle log{[this](log_level, const std::string& line) { said.push_back(line); }};
  log_throttle::clock::time_point now{1h};

  void say(std::string_view kind, int times = 1) {
    for (int i = 0; i < times; ++i) log(log_level::warn, kind, std::string(kind) + '!', now);
  }
};

}  // namespace

TEST_CASE("Of each kind of line a few come through at once, then one a second") {
  throttled t;
  t.say("a", 100);
  CHECK(t.said == std::vector<std::string>(5, "a!"));
  t.say("b");
  CHECK(t.said.back() == "b!");
  REQUIRE(t.said.size() == 6);
  t.now += 999ms;
  t.say("a");
  CHECK(t.said.size() == 6);
  t.now += 1ms;
  t.say("a", 2);
  REQUIRE(t.said.size() == 7);
  CHECK(t.said.back() == "a! (and 96 lines like this before)");
  for (int i = 0; i < 10'000; ++i, t.now += 1ms) t.say("a");
  CHECK(t.said.size() == 7 + 9);  // the first of ten seconds was spent already
  // After some quiet all is as in the beginning.
  t.now += 1min;
  t.said.clear();
  t.say("a", 100);
  REQUIRE(t.said.size() == 5);
  CHECK(t.said.front() == "a! (and 999 lines like this before)");
  CHECK(t.said.back() == "a!");
}

TEST_CASE("What was kept back last is told in the end") {
  throttled t;
  t.say("a", 7);
  t.say("b", 6);
  t.say("c", 5);
  t.said.clear();
  t.log.flush();
  CHECK(t.said == std::vector<std::string>{"2 lines like the last of this kind: a",
                                           "1 line like the last of this kind: b"});
  t.log.flush();
  CHECK(t.said.size() == 2);
}
