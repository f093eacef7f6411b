#include "messages/errors.hpp"

#include <catch2/catch.hpp>
#include <set>

using namespace lockstep;

TEST_CASE("every reason has a name of its own") {
  std::set<std::string_view> names;
  for (int i = 0; i <= static_cast<int>(errc::last_); ++i) {
    const auto name = to_string(static_cast<errc>(i));
    CHECK_FALSE(name.empty());
    CHECK(name != "unknown");
    CHECK(names.insert(name).second);
  }
  CHECK(to_string(errc::false_ack) == "false_ack");
  CHECK(to_string(errc::unreachable) == "unreachable");
}

TEST_CASE("a reason from a hostile peer still has a name") {
  CHECK(to_string(static_cast<errc>(255)) == "unknown");
}
