#include "actors/failpoint.hpp"

#include <catch2/catch.hpp>

#include "config/settings.hpp"
#include "protocol/receiver_fsm.hpp"

using namespace lockstep;

TEST_CASE("a point strikes at its step, its moment and its time, and once") {
  failpoint third("receiver.apply_slot:during:3");
  const receiver_action::apply_slot here{};
  const receiver_action::write_bucket elsewhere{};
  CHECK_FALSE(third.strikes(elsewhere, moment::during));
  CHECK_FALSE(third.strikes(here, moment::before));
  CHECK_FALSE(third.strikes(here, moment::after));
  CHECK_FALSE(third.strikes(here, moment::during));
  CHECK_FALSE(third.strikes(here, moment::during));
  CHECK(third.strikes(here, moment::during));
  CHECK_FALSE(third.strikes(here, moment::during));
}

TEST_CASE("every point that is listed can be asked for, and nothing else") {
  const auto& all = failpoint::all();
  CHECK(all.size() > 80);
  for (const auto& point : all) {
    INFO(point);
    CHECK_NOTHROW(failpoint(point));
    CHECK_NOTHROW(failpoint(point + ":18446744073709551615"));
    for (const auto* more : {":", ":0", ":x", ":1x", ":-1", ":1:", ":18446744073709551616"})
      CHECK_THROWS_AS(failpoint(point + more), setting_error);
  }
  for (const auto* bad : {"?", ":", "receiver", "receiver.pause", "receiver.pause:", "pause:before",
                          "receiver.pause:during", "receiver.pause:later"})
    CHECK_THROWS_WITH(failpoint(bad), Catch::Contains("of these points: receiver.pause:before"));
}
