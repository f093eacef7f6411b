#include <sys/prctl.h>

#include <algorithm>
#include <catch2/catch.hpp>

#include "actors/fleet.hpp"
#include "config/settings_table.hpp"
#include "kernels/dispatch.hpp"

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

TEST_CASE("runtime.simd forces the kernels' implementation, or is refused") {
  using kernels::implementation;
  const auto before = kernels::active_implementation();
  const auto available = kernels::available_implementations();
  for (auto choice = simd_choice::portable; choice <= simd_choice::neon;
       choice = static_cast<simd_choice>(static_cast<unsigned>(choice) + 1)) {
    auto s = quiet();
    s.runtime.simd = choice;
    const std::string name =
        to_string(find_setting("runtime.simd")->load(s));  // as it is written in settings
    INFO(name);
    const auto known = std::ranges::find_if(
        available, [&](const auto& which) { return name == kernels::to_string(which); });
    if (known == available.end()) {
      CHECK_THROWS_WITH(runtime(s), Catch::Contains("runtime.simd") && Catch::Contains(name));
      continue;
    }
    const runtime rt(s);
    CHECK(kernels::active_implementation() == *known);
  }
  kernels::set_implementation(before);
  // What is refused for something else changes nothing.
  settings refused;
  refused.runtime.simd = simd_choice::portable;
  refused.transport.rank = refused.transport.ranks = 3;
  CHECK_THROWS_WITH(runtime(refused), Catch::Contains("transport.rank"));
  CHECK(kernels::active_implementation() == before);
}
