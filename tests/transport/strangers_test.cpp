// What somebody who has proven nothing makes a process allocate: as many bytes as it sent, and
// 64 KiB. A program of its own, since it counts what is allocated.
#include <algorithm>
#include <catch2/catch.hpp>
#include <random>

#include "link.hpp"
#include "tests/support/allocations.hpp"
#include "transport/bulk_frame.hpp"

namespace lockstep::test {

namespace {

constexpr std::size_t allowance = 64 << 10;

using bytes = std::vector<std::byte>;

/// Of a frame in every state that a flipped bit or a cut brings it to, the most that decoding it
/// allocates beyond its length.
template <class Decode>
std::size_t most_allocated(const bytes& whole, Decode decode) {
  std::size_t most = 0;
  const auto count = [&](std::span<const std::byte> frame) {
    const allocation_counter counted;
    decode(frame);
    most = std::max(most, counted.bytes() - std::min(counted.bytes(), frame.size()));
  };
  for (std::size_t bit = 0; bit < 8 * whole.size(); ++bit) {
    auto flipped = whole;
    flipped[bit / 8] ^= static_cast<std::byte>(1 << bit % 8);
    count(flipped);
  }
  for (std::size_t size = 0; size <= whole.size(); ++size) count(std::span(whole).first(size));
  return most;
}

/// What the acceptor's side allocates for a connection that says `said` and is then closed by
/// either end.
std::size_t cost_of(station& s, const bytes& said) {
  const allocation_counter counted;
  const int fd = plain_socket(s.door->port());
  (void)write_all(fd, said);
  usleep(20'000);  // it is read by then, or will be while nobody counts: the sum below is of many
  close(fd);
  REQUIRE(eventually([&] { return s.door->counters().unauthenticated == 0; }));
  return counted.bytes_of_all();
}

bytes garbage(std::size_t size, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  bytes out(size);
  for (auto& b : out) b = static_cast<std::byte>(random());
  return out;
}

}  // namespace

TEST_CASE("Decoding what came before it is known from whom allocates little") {
  const auto hello = encode_greeting(receiver_greeting());
  CHECK(most_allocated(hello, [](auto frame) { (void)decode_greeting(frame); }) < allowance);
  greeting_answer a;
  a.verdict = failure{errc::wrong_cluster, "belongs to another"};
  a.self = trainer_greeting();
  CHECK(most_allocated(encode_answer(a), [](auto frame) { (void)decode_answer(frame); }) <
        allowance);
}

TEST_CASE("A stranger costs what it sent and 64 KiB") {
  acceptor_options quick;
  quick.handshake_deadline = 300ms;
  const auto& files = credentials::of_tests();
  const int mode = GENERATE(0, 1, 2);
  CAPTURE(mode);
  station s(mode == 0 ? clear() : mode == 1 ? files.key_guard() : files.guard("trainer"), quick);
  const auto hello = encode_greeting(receiver_greeting());
  cost_of(s, hello);  // whatever is made once
  // A header that promises the longest greeting there is, and nothing or everything of it.
  bytes longest(hello.begin(), hello.begin() + 8);
  longest[4] = std::byte{0x00};
  longest[5] = std::byte{0x10};
  longest[6] = longest[7] = std::byte{0};
  auto whole = longest;
  whole.resize(4096);
  // And one that promises four gigabytes.
  auto absurd = longest;
  std::fill(absurd.begin() + 4, absurd.end(), std::byte{0xff});
  std::vector<bytes> said{{}, {hello.begin(), hello.begin() + 1}, longest, whole, absurd};
  for (std::size_t size : {1u, 8u, 300u, 5'000u, 100'000u}) said.push_back(garbage(size, size));
  for (std::size_t cut = 1; cut < hello.size(); cut += 7)
    said.emplace_back(hello.begin(), hello.begin() + static_cast<std::ptrdiff_t>(cut));
  for (const auto& what : said) {
    CAPTURE(what.size());
    CHECK(cost_of(s, what) < what.size() + allowance);
  }
  CHECK(s.arrived.size() == (mode == 0 ? 1 : 0));  // the first, whole one
}

}  // namespace lockstep::test
