// How a trainer's process goes on, or ends, when its run is over.
#include "apps/lost_run.hpp"

#include <catch2/catch.hpp>
#include <optional>

#include "apps/exit_codes.hpp"

using namespace lockstep;

namespace {

/// The status that the process ends with, or nothing if it begins again.
std::optional<int> status_after(errc why, std::uint32_t ranks) {
  try {
    lose_run(why, "detail", ranks);
  } catch (const error& e) {
    return exit_code_of(e);
  } catch (const run_lost&) {
    return std::nullopt;
  }
}

}  // namespace

TEST_CASE("a trainer whose own side is down, in a sync or between two, may be started again") {
  CHECK(status_after(errc::shut_down, 1) == exit_try_again);
  CHECK(status_after(errc::dead, 1) == exit_try_again);
}

TEST_CASE("of several ranks all begin again, whatever the run was lost for") {
  for (const auto why : {errc::shut_down, errc::dead, errc::unreachable})
    CHECK_FALSE(status_after(why, 2));
}

TEST_CASE("a trainer that a newer run has fenced stays ended, however many ranks it has") {
  CHECK(status_after(errc::fenced, 1) == exit_bad_input);
  CHECK(status_after(errc::fenced, 2) == exit_bad_input);
}
