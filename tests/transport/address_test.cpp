#include "transport/address.hpp"

#include <catch2/catch.hpp>
#include <string>

#include "config/settings.hpp"

namespace lockstep::test {

namespace {

std::string refusal_of(const std::string& text) {
  try {
    parse_addresses("transport.connect", text);
    return {};
  } catch (const setting_error& e) {
    return e.what();
  }
}

}  // namespace

TEST_CASE("Addresses name a host and a port") {
  const auto all = parse_addresses("transport.connect",
                                   "127.0.0.1:0,node-3_a.example:65535,[::1]:7,[fe80::1%eth0]:8");
  REQUIRE(all.size() == 4);
  CHECK(all[0].host == "127.0.0.1");
  CHECK(all[1].host == "node-3_a.example");
  CHECK(all[1].port == 65'535);
  CHECK(all[2].host == "::1");
  CHECK(all[3].host == "fe80::1%eth0");
  CHECK(all[3].port == 8);
}

TEST_CASE("An address that stands twice is refused") {
  CHECK(refusal_of("a:1,b:1,a:1") == "transport.connect names a port 1 twice");
  CHECK(refusal_of("[::1]:1,[::1]:01") == "transport.connect names ::1 port 1 twice");
  CHECK(refusal_of("a:1,a:2").empty());
}

TEST_CASE("What is no address is refused in one short line") {
  for (const std::string text :
       {"", ",", ":1", "a", "a:", "a:65536", "a:-1", "a:1 ", "a:1,", "::1:7", "[]:1", "[::1:1",
        "[%eth0]:1", "[::1%]:1", "a b:1", "a\nb:1", "\x1b[2J:1", "a%b:1", "[x]:1"}) {
    CAPTURE(text);
    CHECK(refusal_of(text).starts_with("transport.connect is \""));
  }
  CHECK(refusal_of("a:65536") == "transport.connect is \"a:65536\", the highest port is 65535");
  CHECK(refusal_of("two\nlines").find('\n') == std::string::npos);
  CHECK(refusal_of(std::string(10'000, 'x')).size() < 400);
}

}  // namespace lockstep::test
