#include <sys/prctl.h>

#include <catch2/catch.hpp>

#include "actors/fleet.hpp"

using namespace lockstep;

TEST_CASE("a process that may leave no core dump is dumpable no more") {
  REQUIRE(::prctl(PR_GET_DUMPABLE) == 1);
  { const runtime usual(quiet()); }
  CHECK(::prctl(PR_GET_DUMPABLE) == 1);
  auto s = quiet();
  s.runtime.core_dumps = false;
  { const runtime closed(s); }
  CHECK(::prctl(PR_GET_DUMPABLE) == 0);
  // What looks for leaks in this process when it ends traces it.
  CHECK(::prctl(PR_SET_DUMPABLE, 1) == 0);
}
