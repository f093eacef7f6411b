// What somebody who has proven nothing makes a process allocate: as many bytes as it sent, and
// 64 KiB; and under TLS what OpenSSL keeps for a connection. A program of its own, since it counts
// what is allocated.
#include <malloc.h>
#include <openssl/crypto.h>
#include <openssl/ssl.h>

#include <algorithm>
#include <atomic>
#include <catch2/catch.hpp>
#include <cstdlib>
#include <cstring>
#include <random>

#include "link.hpp"
#include "tests/support/allocations.hpp"
#include "transport/bulk_frame.hpp"
#include "transport/handshake_bound.hpp"

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

/// Bytes that OpenSSL holds, and the most since somebody set it; OpenSSL does not use operator new.
std::atomic<std::size_t> openssl_holds = 0;
std::atomic<std::size_t> openssl_held = 0;

void openssl_took(void* memory) {
  const auto now = openssl_holds += malloc_usable_size(memory);
  auto most = openssl_held.load();
  while (most < now && !openssl_held.compare_exchange_weak(most, now)) {
  }
}

const bool openssl_is_counted = CRYPTO_set_mem_functions(
                                    [](std::size_t size, const char*, int) {
                                      void* const memory = std::malloc(size);
                                      openssl_took(memory);
                                      return memory;
                                    },
                                    [](void* old, std::size_t size, const char*, int) {
                                      const auto before = malloc_usable_size(old);
                                      void* const memory = std::realloc(old, size);
                                      if (memory == nullptr) return memory;
                                      openssl_holds -= before;
                                      openssl_took(memory);
                                      return memory;
                                    },
                                    [](void* memory, const char*, int) {
                                      openssl_holds -= malloc_usable_size(memory);
                                      std::free(memory);
                                    }) == 1;

/// The most that OpenSSL keeps for a connection whose handshake is not over; measured: 77 KiB,
/// most of it buffers for a record in either direction and for a message.
constexpr std::size_t openssl_state = 96 << 10;

bytes operator+(bytes a, const bytes& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

/// What a client of the library says first: one record.
bytes client_hello() {
  SSL_CTX* const context = SSL_CTX_new(TLS_client_method());
  SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION);
  SSL_CTX_set1_groups_list(context, "X25519:P-256");
  SSL* const ssl = SSL_new(context);
  BIO* const out = BIO_new(BIO_s_mem());
  SSL_set_bio(ssl, BIO_new(BIO_s_mem()), out);
  SSL_connect(ssl);
  bytes said(BIO_ctrl_pending(out));
  BIO_read(out, said.data(), static_cast<int>(said.size()));
  SSL_free(ssl);
  SSL_CTX_free(context);
  return said;
}

/// The same, with a share of a key in a group that nobody knows: it is asked for another.
bytes hello_to_be_retried() {
  auto hello = client_hello();
  const auto rename = [&](std::initializer_list<int> group) {
    const auto same = [](std::byte b, int wanted) { return std::to_integer<int>(b) == wanted; };
    const auto at = std::search(hello.begin(), hello.end(), group.begin(), group.end(), same);
    REQUIRE(at != hello.end());
    std::fill_n(at + static_cast<std::ptrdiff_t>(group.size()) - 2, 2, std::byte{0x2a});
  };
  rename({0x00, 0x33, 0x00, 0x26, 0x00, 0x24, 0x00, 0x1d});  // the share's, X25519
  rename({0x00, 0x04, 0x00, 0x1d, 0x00, 0x17});              // the other one of two that it knows
  return hello;
}

/// `message` in records of so many bytes.
bytes in_records(const bytes& message, std::size_t each) {
  bytes out;
  for (std::size_t from = 0; from < message.size(); from += each) {
    const auto size = std::min(each, message.size() - from);
    for (const auto b : {0x16, 3, 1, static_cast<int>(size >> 8), static_cast<int>(size & 0xff)})
      out.push_back(static_cast<std::byte>(b));
    const auto begin = message.begin() + static_cast<std::ptrdiff_t>(from);
    out.insert(out.end(), begin, begin + static_cast<std::ptrdiff_t>(size));
  }
  return out;
}

/// "Change cipher spec", which comes before a second hello and says nothing.
bytes change_of_ciphers() {
  bytes out(6, std::byte{1});
  out[0] = std::byte{0x14};
  out[1] = out[2] = std::byte{3};
  out[3] = std::byte{0};
  return out;
}

/// The beginning of a ClientHello that promises `promised` bytes after its header.
bytes beginning(std::size_t promised, std::size_t sent) {
  bytes out(sent);
  out[0] = std::byte{1};
  for (std::size_t i = 1; i < 4; ++i) out[i] = static_cast<std::byte>(promised >> (24 - 8 * i));
  if (sent > 5) out[4] = out[5] = std::byte{3};
  return out;
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

TEST_CASE("Under TLS a stranger costs what OpenSSL keeps for a connection, whatever it promises") {
  REQUIRE(openssl_is_counted);
  acceptor_options options;
  options.handshake_deadline = 2s;
  const auto& files = credentials::of_tests();
  const bool key = GENERATE(false, true);
  station s(key ? files.key_guard() : files.guard("trainer"), options);
  struct stranger {
    const char* what;
    bytes first;
    bytes then;  ///< once it was answered
    bool held;   ///< until the deadline
  };
  const std::size_t much = 130'000;
  const auto most = client_hello_bytes_max;
  for (const auto& one : std::initializer_list<stranger>{
           {"nothing", {}, {}, true},
           {"all but the end of the longest hello",
            in_records(beginning(most, most), 16'384),
            {},
            true},
           {"one byte more", in_records(beginning(most + 1, most), 16'384), {}, false},
           {"a promise", in_records(beginning(much, 8), 16'384), {}, false},
           {"a promise in small pieces", in_records(beginning(much, 8), 1), {}, false},
           {"all but the end of what is promised",
            in_records(beginning(much, much), 16'384),
            {},
            false},
           {"the longest hello in small pieces",
            in_records(beginning(most, most + 4), 1),
            {},
            false},
           {"a second hello that promises much", hello_to_be_retried(),
            change_of_ciphers() + in_records(beginning(much, 8), 16'384), false}}) {
    if (key && !one.then.empty()) continue;  // nobody who does not name the key is answered
    CAPTURE(key, one.what);
    const auto refused = s.door->counters().malformed;
    const auto before = openssl_holds.load();
    openssl_held = before;
    const int fd = plain_socket(s.door->port());
    (void)write_all(fd, one.first);
    if (!one.then.empty()) {
      REQUIRE(read_exactly(fd, 5).size() == 5);
      (void)write_all(fd, one.then);
    }
    if (one.held) {
      CHECK(read_exactly(fd, 1, 100ms).empty());
      CHECK(s.door->counters().unauthenticated == 1);
    } else {
      time_to_close(fd);
      CHECK(eventually([&] { return s.door->counters().malformed == refused + 1; }));
    }
    CHECK(openssl_held - before < openssl_state);
    close(fd);
    REQUIRE(eventually([&] { return s.door->counters().unauthenticated == 0; }));
  }
  CHECK(s.arrived.size() == 0);
}

}  // namespace lockstep::test
