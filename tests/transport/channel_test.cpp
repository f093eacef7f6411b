#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <catch2/catch.hpp>
#include <climits>
#include <thread>

#include "link.hpp"

namespace lockstep::test {

namespace {

struct mode {
  std::string name;
  std::shared_ptr<const security> trainer;
  std::shared_ptr<const security> receiver;
};

mode mode_of(const std::string& name) {
  const auto& files = credentials::of_tests();
  if (name == "clear") return {name, clear(), clear()};
  if (name == "certificates") return {name, files.guard("trainer"), files.guard("receiver-r0")};
  return {name, files.key_guard(), files.key_guard()};
}

mode any_mode() {
  return mode_of(GENERATE("clear", "certificates", "shared key"));
}

int option(int fd, int name) {
  int value = -1;
  socklen_t size = sizeof value;
  return getsockopt(fd, IPPROTO_TCP, name, &value, &size) == 0 ? value : -1;
}

}  // namespace

TEST_CASE("The kernel gives up a peer that is silent for as long as either end was told") {
  const auto told = GENERATE(3'500ms, 60'000ms, 1ms, std::chrono::milliseconds(40h * 24 * 365));
  const auto wanted = static_cast<int>(std::min<std::int64_t>(told.count(), INT_MAX));
  CAPTURE(wanted);
  channel_options channels;
  channels.silence_max = told;
  acceptor_options options;
  options.channels = channels;
  station s(clear(), options);
  auto [dialed, accepted] = s.link(clear(), receiver_greeting(), channels);
  for (const auto& end : {dialed, accepted}) {
    const int fd = end->release();
    CHECK(option(fd, TCP_USER_TIMEOUT) == wanted);
    // Where nothing is sent it asks often enough for that.
    const auto asks =
        option(fd, TCP_KEEPIDLE) + option(fd, TCP_KEEPCNT) * option(fd, TCP_KEEPINTVL);
    CHECK(option(fd, TCP_KEEPIDLE) >= 1);
    CHECK(asks <= std::max(wanted / 1'000, 5));
    ::close(fd);
  }
}

TEST_CASE("Buckets arrive as they were sent, both ways, in every mode") {
  const auto m = any_mode();
  CAPTURE(m.name);
  station s(m.trainer);
  auto [dialed, accepted] = s.link(m.receiver);
  CHECK(dialed->peer() == [] {
    auto g = trainer_greeting();
    g.purpose = channel_purpose::bulk;
    g.link = {1, 2};
    g.stream = 1;
    return g;
  }());
  CHECK(accepted->peer() == receiver_greeting());
  CHECK(accepted->peer_address().starts_with("127.0.0.1:"));
  const bulk receiver(dialed);
  const bulk trainer(accepted);
  const std::size_t sizes[] = {0, 1, 63, 16'319, 16'320, 16'321, 262'144, 262'145, 8 << 20};
  std::uint32_t index = 0;
  for (const auto size : sizes) {
    REQUIRE(trainer.to->send(some_bucket(size, index)));
    REQUIRE(receiver.to->send(some_bucket(size, index + 100)));
    ++index;
  }
  index = 0;
  for (const auto size : sizes) {
    CAPTURE(size);
    CHECK(receiver.next() == some_bucket(size, index));
    CHECK(trainer.next() == some_bucket(size, index + 100));
    ++index;
  }
  CHECK(trainer.to->counters().frames_sent == std::size(sizes));
  CHECK(trainer.to->queued_bytes() == 0);
  receiver.to->close();
  CHECK(receiver.end().reason == errc::detached);
  CHECK(trainer.end().reason == errc::dead);
  CHECK_FALSE(trainer.to->send(some_bucket(1)));
}

TEST_CASE("A payload is let go of once it is sent") {
  const auto m = any_mode();
  station s(m.trainer);
  auto [dialed, accepted] = s.link(m.receiver);
  const bulk receiver(dialed);
  const bulk trainer(accepted);
  auto bytes = std::make_shared<const std::vector<std::byte>>(1 << 20);
  const std::weak_ptr<const std::vector<std::byte>> seen = bytes;
  REQUIRE(trainer.to->send({{}, 0, payload(std::move(bytes))}));
  CHECK(receiver.next().bytes.size() == 1 << 20);
  CHECK(eventually([&] { return seen.expired(); }, 1s));
}

TEST_CASE("A released channel carries bytes both ways and ends with either side") {
  const auto m = any_mode();
  CAPTURE(m.name);
  station s(m.trainer);
  auto [dialed, accepted] = s.link(m.receiver, receiver_greeting(channel_purpose::control));
  const int near = dialed->release();
  const int far = accepted->release();
  dialed.reset();
  accepted.reset();
  const auto bytes = some_bytes(3 << 20);
  const std::vector<std::byte> all(bytes.data(), bytes.data() + bytes.size());
  for (const auto& [from, to] : {std::pair(near, far), std::pair(far, near)}) {
    bool written = false;
    std::thread writer([&, from = from] { written = write_all(from, all); });
    CHECK(read_exactly(to, all.size()) == all);
    writer.join();
    CHECK(written);
  }
  SECTION("closed") {
    CHECK(write_all(near, std::span(all).first(100'000)));
    close(near);
    CHECK(read_exactly(far, 200'000).size() == 100'000);  // all of it, then the end
    close(far);
  }
  SECTION("half closed") {
    shutdown(near, SHUT_WR);
    CHECK(read_exactly(far, 1).empty());
    CHECK(write_all(far, std::span(all).first(100'000)));
    CHECK(read_exactly(near, 100'000).size() == 100'000);
    close(far);
    CHECK(read_exactly(near, 1).empty());
    close(near);
  }
}

TEST_CASE("A channel is used once") {
  station s;
  SECTION("released") {
    auto [dialed, accepted] = s.link();
    close(dialed->release());
    CHECK_THROWS_AS(dialed->release(), error);
    CHECK_THROWS_AS(dialed->start({}, {}), error);
  }
  SECTION("started") {
    auto [dialed, accepted] = s.link();
    const bulk b(dialed);
    CHECK_THROWS_AS(dialed->release(), error);
    CHECK_THROWS_AS(dialed->start({}, {}), error);
  }
  SECTION("closed") {
    auto [dialed, accepted] = s.link();
    dialed->close();
    dialed->close();
    CHECK_THROWS_AS(dialed->release(), error);
    CHECK_FALSE(dialed->send(some_bucket(1)));
    const bulk b(accepted);
    CHECK(b.end().reason == errc::dead);
  }
  SECTION("dropped") {
    auto [dialed, accepted] = s.link();
    dialed.reset();
    const bulk b(accepted);
    CHECK(b.end().reason == errc::dead);
  }
}

TEST_CASE("A channel can be closed while it is written to") {
  const auto m = any_mode();
  CAPTURE(m.name);
  station s(m.trainer);
  for (int round = 0; round < 10; ++round) {
    auto [dialed, accepted] = s.link(m.receiver);
    const bulk receiver(dialed);
    const bulk trainer(accepted);
    std::atomic<bool> stopped = false;
    std::thread writer([&] {
      const auto bucket = some_bucket(100'000);
      while (trainer.to->send(bucket))
        while (trainer.to->queued_bytes() > 1 << 20) std::this_thread::yield();
      stopped = true;
    });
    (void)receiver.next();
    std::thread closer([&] { (round % 2 == 0 ? trainer : receiver).to->close(); });
    closer.join();
    CHECK(eventually([&] { return stopped.load(); }));
    writer.join();
    CHECK(trainer.end().reason == (round % 2 == 0 ? errc::detached : errc::dead));
    CHECK(trainer.ends->size() == 0);
  }
}

TEST_CASE("A peer that stops reading is given up, within bounded memory") {
  const auto m = any_mode();
  CAPTURE(m.name);
  channel_options options;
  const bool by_deadline = GENERATE(true, false);
  options.write_deadline = by_deadline ? 400ms : 20'000ms;
  options.send_queue_bytes_max = 16 << 20;
  acceptor_options door;
  door.channels = options;
  station s(m.trainer, door);
  auto [dialed, accepted] = s.link(m.receiver);  // never started: reads nothing
  const bulk trainer(accepted);
  const auto bucket = some_bucket(1 << 20);
  if (by_deadline) {
    for (int i = 0; i < 15; ++i) REQUIRE(trainer.to->send(bucket));
    CHECK(trainer.end().reason == errc::timeout);
    return;
  }
  bool taken = true;
  for (int i = 0; taken && i < 100; ++i) {
    taken = trainer.to->send(bucket);
    CHECK(trainer.to->queued_bytes() <= options.send_queue_bytes_max);
  }
  CHECK_FALSE(taken);
  CHECK(trainer.end().reason == errc::no_memory);
}

TEST_CASE("A reader that is slow but reads is not given up") {
  channel_options options;
  options.write_deadline = 300ms;
  options.socket_buffer_bytes = 64 << 10;
  acceptor_options door;
  door.channels = options;
  station s(clear(), door);
  auto [dialed, accepted] = s.link(clear(), receiver_greeting(), options);
  const bulk trainer(accepted);
  std::atomic<int> got = 0;
  std::atomic<bool> ended = false;
  dialed->start(
      [&](const bucket_msg&, std::uint64_t) {
        ++got;
        usleep(100'000);
      },
      [&](const failure&) { ended = true; });
  for (std::uint32_t i = 0; i < 12; ++i) REQUIRE(trainer.to->send(some_bucket(100'000, i)));
  CHECK(eventually([&] { return got == 12; }));
  CHECK(trainer.ends->size() == 0);
  dialed->close();
  CHECK(eventually([&] { return ended.load(); }));
}

TEST_CASE("A payload above what the peer takes is not sent") {
  station s;
  auto self = receiver_greeting();
  self.payload_bytes_max = 1'000;
  auto [dialed, accepted] = s.link(clear(), self);
  const bulk receiver(dialed);
  const bulk trainer(accepted);
  CHECK(trainer.to->send(some_bucket(1'000)));
  CHECK(receiver.next() == some_bucket(1'000));
  CHECK_FALSE(trainer.to->send(some_bucket(1'001)));
  CHECK(trainer.end().reason == errc::bad_manifest);
}

}  // namespace lockstep::test
