// Peers that say one thing at a time and wait for its answer.
#include <sys/socket.h>

#include <atomic>
#include <catch2/catch.hpp>

#include "link.hpp"
#include "messages/wire_stream.hpp"
#include "transport/answering_port.hpp"

namespace lockstep::test {

namespace {

/// Answers a ping of run N with a welcome to run N, and nothing else.
struct office {
  explicit office(std::shared_ptr<const security> guard = clear()) {
    acceptor_options o;
    o.self = trainer_greeting();
    door = std::make_unique<answering_port>(
        std::move(guard), std::move(o),
        [](const greeting& g, const std::string&) {
          return g.name == "stranger" ? failure{errc::bad_input, "unknown"} : failure{};
        },
        [this](const greeting& peer, const wire_message& said) -> std::optional<wire_message> {
          ++heard;
          const auto* m = std::get_if<welcome_msg>(&said);
          if (m == nullptr || peer.name != "r0") return std::nullopt;
          return welcome_msg{m->cluster, m->run + 1};
        },
        log_function{});
  }
  office(const office&) = delete;
  office& operator=(const office&) = delete;
  ~office() { door.reset(); }

  connect_result dial(std::shared_ptr<const security> guard = clear(),
                      const std::string& name = "r0") {
    connect_options o;
    o.host = "127.0.0.1";
    o.port = door->port();
    o.self = receiver_greeting(channel_purpose::control);
    o.self.name = name;
    return dialed(io, std::move(guard), std::move(o));
  }
  /// The bytes of a connection; the caller's.
  int connection(std::shared_ptr<const security> guard = clear()) {
    return std::get<std::shared_ptr<channel>>(dial(std::move(guard)))->release();
  }

  std::atomic<int> heard = 0;
  io_threads io{1};
  std::unique_ptr<answering_port> door;
};

bool say(int fd, const wire_message& m) {
  return write_all(fd, encode_message(m));
}

/// The next message; none if the connection ends before it.
std::optional<wire_message> hear(int fd) {
  wire_stream in;
  for (;;) {
    if (auto next = in.next()) return std::get<wire_message>(std::move(*next));
    const auto byte = read_exactly(fd, 1);
    if (byte.empty()) return std::nullopt;
    in.feed(byte);
  }
}

}  // namespace

TEST_CASE("Whoever waits for answers gets one for each thing it says") {
  for (const auto& guard : {clear(), credentials::of_tests().key_guard()}) {
    office o(guard);
    const int fd = o.connection(guard);
    for (std::uint64_t run = 1; run < 20; ++run) {
      REQUIRE(say(fd, welcome_msg{7, run}));
      const auto answer = hear(fd);
      REQUIRE(answer);
      CHECK(*answer == wire_message(welcome_msg{7, run + 1}));
    }
    // All at once as well.
    for (std::uint64_t run = 1; run < 20; ++run) REQUIRE(say(fd, welcome_msg{7, run}));
    const auto size = encode_message(welcome_msg{7, 1}).size();
    CHECK(read_exactly(fd, 19 * size).size() == 19 * size);
    close(fd);
  }
}

TEST_CASE("What has no answer ends the connection, and what is no message is never heard") {
  office o;
  SECTION("something else") {
    const int fd = o.connection();
    CHECK(say(fd, beat_msg{7}));
    CHECK(time_to_close(fd) < 5s);
    CHECK(o.heard == 1);
    close(fd);
  }
  SECTION("more than it takes") {
    const int fd = o.connection();
    // Longer than the 64 KiB of its greeting; refused by its header.
    const auto whole = encode_message(some_bucket(100 << 10));
    CHECK(write_all(fd, std::span(whole).first(wire_header_bytes)));
    CHECK(time_to_close(fd) < 5s);
    CHECK(o.heard == 0);
    close(fd);
  }
  SECTION("a damaged one") {
    const int fd = o.connection();
    auto bytes = encode_message(welcome_msg{7, 1});
    bytes.back() ^= std::byte{1};
    CHECK(write_all(fd, bytes));
    CHECK(time_to_close(fd) < 5s);
    CHECK(o.heard == 0);
    close(fd);
  }
  SECTION("from a stranger") {
    CHECK(refusal_of(o.dial(clear(), "stranger")).detail.find("unknown") != std::string::npos);
  }
}

TEST_CASE("A peer's newest connection is its only one") {
  office o;
  const int first = o.connection();
  REQUIRE(say(first, welcome_msg{7, 1}));
  REQUIRE(hear(first));
  const int second = o.connection();
  CHECK(time_to_close(first) < 5s);
  REQUIRE(say(second, welcome_msg{7, 1}));
  CHECK(hear(second));
  close(first);
  close(second);
}

TEST_CASE("Whoever says nothing is not waited for") {
  office o;
  const int fd = o.connection();
  const auto took = time_to_close(fd);
  CHECK(took > 5s);
  CHECK(took < patience);
  CHECK(o.heard == 0);
}

}  // namespace lockstep::test
