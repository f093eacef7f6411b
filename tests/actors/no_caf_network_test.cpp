// CAF's own protocol between nodes is not spoken: nobody can reach an actor by it, and the readers
// that `messages/type_ids.hpp` has for it are never given what came from outside.
#include <netinet/in.h>
#include <sys/socket.h>

#include <catch2/catch.hpp>
#include <vector>

#include "actors/fleet.hpp"

using namespace lockstep;

namespace {

constexpr int descriptors = 1024;

/// Where this process waits for others: the ports, and 0 for what is no TCP.
std::vector<std::uint16_t> listening_ports() {
  std::vector<std::uint16_t> out;
  for (int fd = 0; fd < descriptors; ++fd) {
    int listens = 0;
    socklen_t size = sizeof listens;
    if (::getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) != 0 || listens == 0) continue;
    sockaddr_in at{};
    size = sizeof at;
    const bool named = ::getsockname(fd, reinterpret_cast<sockaddr*>(&at), &size) == 0;
    out.push_back(named && at.sin_family == AF_INET ? ntohs(at.sin_port) : std::uint16_t{0});
  }
  return out;
}

settings connecting(std::uint16_t port) {
  auto s = quiet();
  s.transport.connect = "127.0.0.1:" + std::to_string(port);
  return s;
}

}  // namespace

TEST_CASE(
    "a linked trainer waits for others at its own port and nowhere else, a receiver nowhere") {
  auto s = quiet();
  s.transport.listen = "127.0.0.1:0";
  fleet f(s);
  f.t.seed(f.w);
  runtime other(connecting(f.rt.port()));
  receiver_options options;
  options.id = 1;
  const receiver rx(other, small_layout(), std::move(options));
  REQUIRE(f.t.wait_for_members(1, 10s));
  CHECK(f.sync(1).result == sync_result::ok);
  CHECK(listening_ports() == std::vector{f.rt.port()});
}
