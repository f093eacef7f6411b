// Strangers, and peers that do not keep to the format.
#include <arpa/inet.h>
#include <sys/socket.h>

#include <catch2/catch.hpp>
#include <random>
#include <thread>

#include "link.hpp"
#include "transport/bulk_frame.hpp"
#include "transport/sockets.hpp"

namespace lockstep::test {

namespace {

/// A socket that has been through the handshake, with the acceptor's end of it.
struct raw_link {
  int fd = -1;
  std::shared_ptr<channel> accepted;

  explicit raw_link(station& s) : fd(plain_socket(s.door->port())) {
    REQUIRE(write_all(fd, encode_greeting(receiver_greeting())));
    accepted = s.arrived.get();
    const auto head = read_exactly(fd, greeting_header_bytes);
    const auto length = answer_frame_bytes(std::span(head).first<greeting_header_bytes>());
    read_exactly(fd, std::get<std::size_t>(length) - head.size());
  }
  raw_link(const raw_link&) = delete;
  raw_link& operator=(const raw_link&) = delete;
  ~raw_link() { close(fd); }
};

bool says(const std::vector<std::byte>& header, int fd) {
  return write_all(fd, header);
}

acceptor_options quick(std::chrono::milliseconds deadline = 300ms) {
  acceptor_options o;
  o.handshake_deadline = deadline;
  o.channels.frame_deadline = deadline;
  return o;
}

}  // namespace

TEST_CASE("Frames of all lengths up to the limit arrive; what promises more is closed") {
  auto options = quick();
  options.self = trainer_greeting();
  options.self.payload_bytes_max = 1'000;
  station s(clear(), options);
  for (const std::size_t length : {0u, 1u, 1'000u}) {
    const raw_link raw(s);
    const bulk b(raw.accepted);
    const auto bucket = some_bucket(length, 5);
    const auto header = encode_bulk_header({bucket.env, 5, length});
    REQUIRE(write_all(raw.fd, header));
    REQUIRE(write_all(raw.fd, std::span(bucket.bytes.data(), length)));
    CHECK(b.next() == bucket);
  }
  const auto before = resident_bytes();
  for (const std::uint64_t length :
       {std::uint64_t{1'001}, std::uint64_t{0xffffffff}, std::uint64_t{1} << 32,
        std::uint64_t{1} << 63, ~std::uint64_t{0}}) {
    CAPTURE(length);
    const raw_link raw(s);
    const bulk b(raw.accepted);
    REQUIRE(write_all(raw.fd, encode_bulk_header({{}, 0, length})));
    CHECK(b.end().reason == errc::bad_manifest);
    CHECK(time_to_close(raw.fd) < 5s);
  }
  CHECK(resident_bytes() < before + (1 << 20));
}

TEST_CASE("A flipped bit in a header ends the channel and delivers nothing") {
  station s;
  for (std::size_t i = 0; i < bulk_header_bytes; ++i) {
    CAPTURE(i);
    const raw_link raw(s);
    const bulk b(raw.accepted);
    auto header = encode_bulk_header({{7, {1, 2}, {3, 4}}, 0, 0});
    header[i] ^= static_cast<std::byte>(1 << (i % 8));
    REQUIRE(write_all(raw.fd, header));
    const auto reason = b.end().reason;
    CHECK((reason == errc::bad_frame || reason == errc::bad_checksum ||
           reason == errc::wrong_version));
    CHECK(b.buckets->size() == 0);
  }
}

TEST_CASE("The largest length that is allowed allocates no more than what arrived") {
  auto options = quick(5'000ms);
  options.self = trainer_greeting();
  options.self.payload_bytes_max = 64 << 20;
  station s(clear(), options);
  const raw_link raw(s);
  const bulk b(raw.accepted);
  const auto before = resident_bytes();
  REQUIRE(write_all(raw.fd, encode_bulk_header({{}, 0, 64 << 20, 0})));
  REQUIRE(write_all(raw.fd, std::vector<std::byte>(100'000)));
  usleep(100'000);
  CHECK(resident_bytes() < before + (2 << 20));
}

TEST_CASE("A frame that dawdles is closed by its deadline while others pass") {
  auto options = quick(400ms);
  options.channels.frame_bytes_per_s = 1 << 20;
  station s(clear(), options);
  const raw_link loris(s);
  const bulk slow(loris.accepted);
  auto [dialed, accepted] = s.link();
  const bulk receiver(dialed);
  const bulk trainer(accepted);
  const auto begin = std::chrono::steady_clock::now();
  std::thread dripper([&] {
    const auto header = encode_bulk_header({{}, 0, 100});
    for (std::size_t i = 0; i < header.size(); ++i) {
      if (!write_all(loris.fd, std::span(header).subspan(i, 1))) return;
      usleep(50'000);
    }
  });
  std::uint32_t passed = 0;
  for (; slow.ends->size() == 0 && passed < 100'000; ++passed) {
    REQUIRE(trainer.to->send(some_bucket(100'000, passed)));
    REQUIRE(receiver.next().index == passed);
  }
  CHECK(slow.end().reason == errc::timeout);
  CHECK(std::chrono::steady_clock::now() - begin < 3s);
  CHECK(passed > 10);
  dripper.join();
  CHECK(trainer.ends->size() == 0);
}

TEST_CASE("Idle between frames is no reason to close") {
  auto options = quick(100ms);
  options.channels.write_deadline = 100ms;
  station s(clear(), options);
  auto [dialed, accepted] = s.link(clear(), receiver_greeting(), options.channels);
  const bulk receiver(dialed);
  const bulk trainer(accepted);
  for (std::uint32_t i = 0; i < 3; ++i) {
    usleep(300'000);
    REQUIRE(trainer.to->send(some_bucket(10, i)));
    CHECK(receiver.next().index == i);
  }
}

TEST_CASE("Who says nothing, or too slowly, is closed by the deadline") {
  station s(clear(), quick());
  const int silent = plain_socket(s.door->port());
  const int slow = plain_socket(s.door->port());
  REQUIRE(says({std::byte{0x4c}}, slow));
  const auto took = time_to_close(silent);
  CHECK(took > 200ms);
  CHECK(took < 3s);
  time_to_close(slow);
  close(silent);
  close(slow);
  CHECK(eventually([&] { return s.door->counters().timed_out == 2; }));
  CHECK(s.door->counters().unauthenticated == 0);
}

TEST_CASE("So many strangers at a time and no more") {
  auto options = quick(1'000ms);
  options.unauthenticated_max = 8;
  station s(clear(), options);
  std::vector<int> strangers;
  for (int i = 0; i < 8; ++i) strangers.push_back(plain_socket(s.door->port()));
  CHECK(eventually([&] { return s.door->counters().unauthenticated == 8; }));
  const int another = plain_socket(s.door->port());
  CHECK(time_to_close(another) < 500ms);
  CHECK(s.door->counters().crowded_out == 1);
  CHECK(s.door->counters().unauthenticated == 8);
  for (const int fd : strangers) close(fd);
  close(another);
  CHECK(eventually([&] { return s.door->counters().unauthenticated == 0; }));
  CHECK(std::holds_alternative<std::shared_ptr<channel>>(s.dial()));
}

TEST_CASE("Strangers of one address leave places for others") {
  auto options = quick(10'000ms);
  options.unauthenticated_max = 8;
  options.unauthenticated_of_one_max = 2;
  station s(clear(), options);
  const auto from = [&](std::uint32_t host) { return plain_socket(s.door->port(), host); };
  constexpr std::uint32_t there = INADDR_LOOPBACK + 1;
  std::vector<int> strangers;
  for (int i = 0; i < 10; ++i) strangers.push_back(from(there));
  CHECK(eventually([&] { return s.door->counters().crowded_out == 8; }));
  CHECK(s.door->counters().unauthenticated == 2);
  CHECK(std::holds_alternative<std::shared_ptr<channel>>(s.dial()));
  strangers.push_back(from(there + 1));
  CHECK(eventually([&] { return s.door->counters().unauthenticated == 3; }));
  for (const int fd : strangers) close(fd);
  CHECK(eventually([&] { return s.door->counters().unauthenticated == 0; }));
  close(from(there));
  CHECK(eventually([&] { return s.door->counters().went_away == 4; }));
  CHECK(s.door->counters().crowded_out == 8);
}

TEST_CASE("Strangers of few addresses hold no place that somebody else wants") {
  auto options = quick(10'000ms);
  options.unauthenticated_max = 8;
  options.unauthenticated_of_one_max = 4;
  station s(clear(), options);
  const auto from = [&](std::uint32_t host) { return plain_socket(s.door->port(), host); };
  constexpr std::uint32_t there = INADDR_LOOPBACK + 1;
  std::vector<int> strangers;
  for (std::uint32_t i = 0; i < 8; ++i) strangers.push_back(from(there + i % 2));
  REQUIRE(eventually([&] { return s.door->counters().unauthenticated == 8; }));
  CHECK(std::holds_alternative<std::shared_ptr<channel>>(s.dial()));
  CHECK(s.door->counters().crowded_out == 1);
  CHECK(eventually([&] { return s.door->counters().accepted == 1; }));
  CHECK(time_to_close(strangers[1]) < 500ms);  // of equals the higher address
  // A third address gets what is fair, and no more: by then nobody has two more than it.
  for (int i = 0; i < 8; ++i) strangers.push_back(from(there + 2));
  CHECK(eventually([&] { return s.door->counters().crowded_out > 5; }));
  CHECK(s.door->counters().unauthenticated == 8);
  CHECK(std::holds_alternative<std::shared_ptr<channel>>(s.dial()));
  for (const int fd : strangers) close(fd);
  CHECK(eventually([&] { return s.door->counters().unauthenticated == 0; }));
}

TEST_CASE("Whose an address is") {
  const auto source = [](const char* text) {
    return source_of(boost::asio::ip::make_address(text));
  };
  CHECK(source("192.0.2.1") == "192.0.2.1");
  CHECK(source("192.0.2.1") == source("::ffff:192.0.2.1"));
  CHECK(source("192.0.2.1") != source("192.0.2.2"));
  CHECK(source("2001:db8:0:1::1") == source("2001:db8:0:1:ffff:ffff:ffff:ffff"));
  CHECK(source("2001:db8:0:1::1") == source("2001:db8:0:1::1%7"));
  CHECK(source("2001:db8:0:1::1") != source("2001:db8:0:2::1"));
}

TEST_CASE("Ten thousand strangers with garbage cost no memory") {
  const auto& files = credentials::of_tests();
  const bool tls = GENERATE(false, true);
  CAPTURE(tls);
  station s(tls ? files.guard("trainer") : clear(), quick(2'000ms));
  std::mt19937_64 random(1);
  const auto strangers = [&](int count) {
    for (int i = 0; i < count; ++i) {
      const int fd = plain_socket(s.door->port());
      std::vector<std::byte> garbage(random() % 300);
      for (auto& b : garbage) b = static_cast<std::byte>(random());
      (void)write_all(fd, garbage);
      close(fd);
    }
    return eventually([&] { return s.door->counters().unauthenticated == 0; });
  };
  const int count = 10'000;
  REQUIRE(strangers(count / 5));
  while (s.lines.size() > 0) s.lines.get();
  const auto before = resident_bytes();
  REQUIRE(strangers(count));
  CHECK(resident_bytes() < before + (1 << 20));
  CHECK(s.lines.size() < 2'000);
  CHECK(s.arrived.size() == 0);
}

TEST_CASE("A greeting of another cluster, version, role or shape is refused for what it is") {
  const auto& files = credentials::of_tests();
  station s(files.guard("trainer"));
  auto self = receiver_greeting();
  SECTION("cluster") {
    self.cluster = 8;
    CHECK(refusal_of(s.dial(files.guard("receiver-r0"), self)).reason == errc::wrong_cluster);
    CHECK(eventually([&] { return s.door->counters().wrong_cluster == 1; }));
  }
  SECTION("role that is not the certificate's") {
    self.role = node_role::observer;
    CHECK(refusal_of(s.dial(files.guard("receiver-r0"), self)).reason == errc::untrusted);
    self.role = node_role::trainer;
    CHECK(refusal_of(s.dial(files.guard("receiver-r0"), self)).reason == errc::untrusted);
    CHECK(eventually([&] { return s.door->counters().untrusted == 2; }));
  }
  SECTION("name that is not the certificate's") {
    self.name = "r1";
    CHECK(refusal_of(s.dial(files.guard("receiver-r0"), self)).reason == errc::untrusted);
  }
  SECTION("not admitted") {
    s.admit = [](const greeting& g) { return failure{errc::fenced, "not you, " + g.name}; };
    const auto why = refusal_of(s.dial(files.guard("receiver-r0"), self));
    CHECK(why.reason == errc::fenced);
    CHECK(why.detail.find("not you, r0") != std::string::npos);
    CHECK(eventually([&] { return s.door->counters().not_admitted == 1; }));
  }
  CHECK(s.arrived.size() == 0);
  CHECK(s.door->counters().accepted == 0);
}

TEST_CASE("Another version of the format is told which is spoken here") {
  station s;
  const int fd = plain_socket(s.door->port());
  auto bytes = encode_greeting(receiver_greeting());
  bytes[3] = std::byte{2};
  REQUIRE(write_all(fd, bytes));
  const auto head = read_exactly(fd, greeting_header_bytes);
  REQUIRE(head.size() == greeting_header_bytes);
  const auto length =
      std::get<std::size_t>(answer_frame_bytes(std::span(head).first<greeting_header_bytes>()));
  auto all = head;
  for (const auto b : read_exactly(fd, length - head.size())) all.push_back(b);
  const auto said = std::get<greeting_answer>(decode_answer(all));
  CHECK(said.verdict.reason == errc::wrong_version);
  CHECK(said.verdict.detail.starts_with("speaks version 2"));
  close(fd);
  CHECK(eventually([&] { return s.door->counters().wrong_version == 1; }));
}

TEST_CASE("A port that is taken, a closed port and a clear port off loopback say so") {
  station s;
  acceptor_options options;
  options.port = s.door->port();
  const auto admit = [](const greeting&, const std::string&) { return failure{}; };
  const auto take = [](const std::shared_ptr<channel>&) {};
  try {
    const acceptor second(s.trainer_io, clear(), options, admit, take);
    FAIL("listens on a taken port");
  } catch (const error& e) {
    CHECK(e.code() == errc::unreachable);
    CHECK(std::string(e.what()).find("127.0.0.1:" + std::to_string(options.port)) !=
          std::string::npos);
  }
  options.host = "0.0.0.0";
  options.port = 0;
  try {
    const acceptor open(s.trainer_io, clear(), options, admit, take);
    FAIL("listens in clear where others reach it");
  } catch (const error& e) {
    CHECK(e.code() == errc::bad_setting);
  }
  security_options careless;
  careless.insecure = true;
  const acceptor open(s.trainer_io, std::make_shared<const security>(careless), options, admit,
                      take);
  CHECK(open.port() != 0);
  connect_options to;
  to.host = "192.0.2.1";
  to.port = 1;
  to.self = receiver_greeting();
  CHECK(refusal_of(s.dial_with(clear(), to)).reason == errc::bad_setting);
  to.host = "127.0.0.1";
  CHECK(refusal_of(s.dial_with(clear(), to)).reason == errc::unreachable);
}

TEST_CASE("A clear port off loopback is complained of for as long as it is open") {
  security_options careless;
  careless.insecure = true;
  acceptor_options options;
  options.warn_every = 20ms;
  SECTION("where others reach it") {
    options.host = "0.0.0.0";
    station s(std::make_shared<const security>(careless), options);
    for (int i = 0; i < 3; ++i) CHECK(s.lines.get().find("in clear") != std::string::npos);
  }
  SECTION("not on loopback, and not where it is not in clear") {
    const bool secret = GENERATE(false, true);
    if (secret) options.host = "0.0.0.0";
    station s(
        secret ? credentials::of_tests().key_guard() : std::make_shared<const security>(careless),
        options);
    std::this_thread::sleep_for(100ms);
    CHECK(s.lines.size() == 0);
  }
}

TEST_CASE("Who accepts and says nothing is given up in time") {
  station s;
  const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in at{};
  at.sin_family = AF_INET;
  at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof at;
  REQUIRE(bind(listener, reinterpret_cast<const sockaddr*>(&at), size) == 0);
  REQUIRE(listen(listener, 1) == 0);
  REQUIRE(getsockname(listener, reinterpret_cast<sockaddr*>(&at), &size) == 0);
  connect_options to;
  to.host = "localhost";
  to.port = ntohs(at.sin_port);
  to.self = receiver_greeting();
  to.deadline = 300ms;
  CHECK(refusal_of(s.dial_with(clear(), to)).reason == errc::timeout);
  close(listener);
}

TEST_CASE("An acceptor that closes drops who waits and keeps its channels") {
  station s;
  auto [dialed, accepted] = s.link();
  const int waiting = plain_socket(s.door->port());
  CHECK(eventually([&] { return s.door->counters().unauthenticated == 1; }));
  const auto port = s.door->port();
  s.door->close();
  CHECK(time_to_close(waiting) < 2s);
  close(waiting);
  CHECK(eventually([&] {
    try {
      close(plain_socket(port));
      return false;
    } catch (const std::runtime_error&) {
      return true;
    }
  }));
  const bulk receiver(dialed);
  const bulk trainer(accepted);
  CHECK(trainer.to->send(some_bucket(100)));
  CHECK(receiver.next() == some_bucket(100));
}

}  // namespace lockstep::test
