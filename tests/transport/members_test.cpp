#include "transport/members.hpp"

#include <catch2/catch.hpp>
#include <string>

#include "config/settings.hpp"

namespace lockstep::test {

TEST_CASE("An empty list of members admits every receiver") {
  const member_list all("transport.members", "");
  CHECK(all.admits("anybody", 7));
  CHECK(all.admits("", 0));
}

TEST_CASE("Members are known by the whole of their names") {
  const member_list some("transport.members", "gpu-?,node[12]-*");
  CHECK(some.admits("gpu-1", 1));
  CHECK(some.admits("node2-", 2));
  CHECK(some.admits("node1-a/b", 3));
  CHECK_FALSE(some.admits("gpu-10", 1));
  CHECK_FALSE(some.admits("my-gpu-1", 1));
  CHECK_FALSE(some.admits("node3-a", 1));
  CHECK_FALSE(some.admits("", 1));
}

TEST_CASE("An id in the list is its owner's alone") {
  const member_list some("transport.members", "gpu-0=0,gpu-1=4294967295,a=b=3,gpu-*");
  CHECK(some.admits("gpu-0", 0));
  CHECK(some.admits("gpu-1", 4'294'967'295));
  CHECK(some.admits("a=b", 3));
  CHECK(some.admits("gpu-2", 2));
  CHECK_FALSE(some.admits("gpu-2", 0));
  CHECK_FALSE(some.admits("gpu-0", 3));
  CHECK_FALSE(some.admits("a=b", 4));
  // Called as the last one says too, with an id that is nobody's.
  CHECK(some.admits("gpu-0", 9));
}

TEST_CASE("What is no list of members is refused in one short line") {
  for (const std::string text : {",", "a,", ",a", "=1", "a=", "a=x", "a=-1", "a=1 ", "a=4294967296",
                                 "a=1,b=1", "a=1,b=01", "a\nb="}) {
    CAPTURE(text);
    try {
      const member_list list("transport.members", text);
      FAIL("taken");
    } catch (const setting_error& e) {
      const std::string said = e.what();
      CHECK(said.starts_with("transport.members is \""));
      CHECK(said.find('\n') == said.npos);
    }
  }
}

}  // namespace lockstep::test
