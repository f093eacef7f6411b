#include "messages/wire.hpp"

#include <rapidcheck/catch.h>

#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <fstream>
#include <sstream>

#include "tests/support/allocations.hpp"
#include "tests/support/places.hpp"
#include "tests/support/sample_messages.hpp"
#include "tests/support/wire_bytes.hpp"

using namespace lockstep;
using bytes = std::vector<std::byte>;

namespace {

/// What docs/wire-messages.md promises for any input.
constexpr std::size_t allocation_constant = 1024;

/// Decodes, holding the decoder to its bounds: what it accepts is canonical, and what it allocates
/// is in proportion to what it was given.
std::variant<wire_message, wire_failure> decode(const bytes& data, const wire_limits& limits = {}) {
  const allocation_counter counted;
  auto out = decode_message(data, limits);
  const auto allocated = counted.bytes();
  if (allocated > data.size() + allocation_constant)
    FAIL("decoding " << data.size() << " bytes allocated " << allocated);
  if (const auto* m = std::get_if<wire_message>(&out))
    if (encode_message(*m) != data) FAIL("accepted " << name_of(*m) << " in another spelling");
  return out;
}

errc reason_of(const bytes& data, const wire_limits& limits = {}) {
  const auto out = decode(data, limits);
  const auto* failure = std::get_if<wire_failure>(&out);
  if (failure == nullptr) return errc::none;
  CHECK_FALSE(failure->detail.empty());
  CHECK(failure->detail.find('\n') == std::string::npos);
  return failure->reason;
}

/// Whether `data`, damaged, is refused or still says what `m` says.
bool harmless(const bytes& data, const wire_message& m) {
  const auto out = decode(data);
  const auto* got = std::get_if<wire_message>(&out);
  return got == nullptr || *got == m;
}

/// The bytes of the document's example: on each line, the numbers of two hexadecimal digits before
/// anything else.
bytes documented_example() {
  std::ifstream file(test::checkout() / "docs/wire-messages.md");
  bytes out;
  bool example = false, inside = false;
  for (std::string line; std::getline(file, line);) {
    if (line == "## Example") example = true;
    if (example && line == "```") inside = !inside;
    std::istringstream words(line);
    for (std::string word; inside && words >> word;) {
      if (word.size() != 2 || word.find_first_not_of("0123456789abcdef") != std::string::npos)
        break;
      out.push_back(static_cast<std::byte>(std::stoi(word, nullptr, 16)));
    }
    if (example && !inside && !out.empty()) break;
  }
  return out;
}

}  // namespace

TEST_CASE("the example of docs/wire-messages.md is written and read byte by byte") {
  reply_msg m;
  m.env = {0x1122334455667788, {7, 2}, {3, 4}};
  m.id = 5;
  m.round = 1;
  m.kind = reply_kind::nack;
  m.reason = errc::bad_frame;
  m.detail = "no";
  m.proof = {8, 9};
  const auto expected = documented_example();
  const auto written = encode_message(m);
  INFO(shown(written));
  REQUIRE(expected == written);
  CHECK(std::get<wire_message>(decode(expected)) == wire_message(m));
}

TEST_CASE("every message comes back as it was, in the same bytes") {
  rc::prop("decode(encode(m)) == m", [] {
    message_source source(*rc::gen::arbitrary<std::uint64_t>());
    for (std::size_t kind = 0; kind < wire_kinds; ++kind) {
      const auto m = source.draw(kind);
      const auto data = encode_message(m);
      RC_ASSERT(data.capacity() == data.size());  // one allocation, of the right size
      const auto back = decode(data);
      RC_ASSERT(std::holds_alternative<wire_message>(back));
      RC_ASSERT(std::get<wire_message>(back) == m);
    }
  });
}

TEST_CASE("every message has the name that the protocol gives it") {
  const std::array<const char*, wire_kinds> names{
      "hello",        "ping",        "pong",         "goodbye",     "attach",        "full_begin",
      "prepare",      "bucket",      "commit",       "abort",       "redo",          "reply",
      "credit",       "welcome",     "audit",        "audit_reply", "observe",       "status_line",
      "audit_line",   "observed",    "shard_hello",  "shard_task",  "shard_result",  "shard_ship",
      "beat",         "relay_offer", "relay_parent", "relay_link",  "relay_ask",     "feed_line",
      "relayed_line", "shard_reach", "shard_route",  "shard_among", "shard_stalled", "relay_lend",
      "refused",      "failed_line"};
  message_source source(1);
  for (std::size_t kind = 0; kind < wire_kinds; ++kind)
    CHECK(name_of(source.draw(kind)) == names[kind]);
}

TEST_CASE("the fuzzer begins with a message of every kind") {
  const std::string seeds = test::checkout() / "tests/fuzz/corpus/message/";
  message_source source(1);
  for (std::size_t kind = 0; kind < wire_kinds; ++kind) {
    const std::string name(name_of(source.draw(kind)));
    INFO("no seed for " << name << ": fuzz_seeds makes them");
    std::ifstream file(seeds + name + "-1", std::ios::binary);
    std::ostringstream text;
    text << file.rdbuf();
    const auto seed = std::move(text).str();
    const auto* data = reinterpret_cast<const std::byte*>(seed.data());
    const auto out = decode({data, data + seed.size()});
    const auto* m = std::get_if<wire_message>(&out);
    REQUIRE(m != nullptr);
    CHECK(m->index() == kind);
  }
}

TEST_CASE(
    "every flipped bit of every message is refused, and so is every cut and every extension") {
  message_source source(2);
  std::size_t flips = 0, harmful = 0;
  for (std::size_t kind = 0; kind < wire_kinds; ++kind)
    for (int i = 0; i < 8; ++i) {
      const auto m = source.draw(kind);
      const auto whole = encode_message(m);
      for (std::size_t bit = 0; bit < whole.size() * 8; ++bit, ++flips)
        harmful += reason_of(flipped(whole, bit)) == errc::none ? 1 : 0;
      for (std::size_t length = 0; length < whole.size(); ++length)
        harmful += reason_of({whole.begin(), at(whole, length)}) == errc::none ? 1 : 0;
      for (std::size_t more = 1; more <= 64; ++more) {
        auto longer = whole;
        longer.resize(whole.size() + more, std::byte{static_cast<unsigned char>(more % 2 * 0xff)});
        harmful += reason_of(longer) == errc::none ? 1 : 0;
      }
    }
  CHECK(flips > 80'000);
  CHECK(harmful == 0);
}

namespace {

/// How many of `count` messages are taken of whose bits 2 to 64 in a row were drawn anew, the first
/// of them flipped.
std::size_t taken_bursts(int count) {
  message_source source(3);
  std::mt19937_64 rng(4);
  std::size_t taken = 0;
  for (int i = 0; i < count; ++i) {
    const auto m = source.draw(static_cast<std::size_t>(i) % wire_kinds);
    const auto whole = encode_message(m);
    const auto length = 2 + rng() % 63;
    const auto first = rng() % (whole.size() * 8 - length);
    auto burst = flipped(whole, first);
    for (auto bit = first + 1; bit < first + length; ++bit)
      if (rng() % 2 == 0) burst[bit / 8] ^= std::byte{1} << (bit % 8);
    taken += reason_of(burst) == errc::none ? 1 : 0;
  }
  return taken;
}

}  // namespace

TEST_CASE("bursts of flipped bits are refused") {
  CHECK(taken_bursts(200'000) == 0);
}

TEST_CASE("ten million bursts of flipped bits are refused", "[.]") {
  CHECK(taken_bursts(10'000'000) == 0);
}

TEST_CASE("whoever makes the checksum right still gets no more than canonical messages in") {
  message_source source(5);
  std::size_t accepted = 0;
  for (std::size_t kind = 0; kind < wire_kinds; ++kind)
    for (int i = 0; i < 8; ++i) {
      const auto whole = encode_message(source.draw(kind));
      // `decode` fails on anything that is accepted and not canonical, or allocates too much.
      for (std::size_t bit = 0; bit < (whole.size() - wire_checksum_bytes) * 8; ++bit)
        accepted += reason_of(sealed(flipped(whole, bit))) == errc::none ? 1 : 0;
      const auto body = whole.size() - wire_header_bytes - wire_checksum_bytes;
      for (std::size_t length = 0; length < body; ++length)
        CHECK(reason_of(resized(whole, length)) == errc::bad_frame);
      for (std::size_t more = 1; more <= 64; ++more) {
        const auto longer = resized(whole, body + more);
        CHECK(reason_of(longer) == errc::bad_frame);
        auto unannounced = longer;
        put_number(unannounced, 8, body);
        CHECK(reason_of(sealed(unannounced)) == errc::bad_frame);
      }
    }
  CHECK(accepted > 10'000);  // other values of the fields: the layer above has to tell
}

TEST_CASE("a hostile length anywhere allocates nothing") {
  message_source source(6);
  for (std::size_t kind = 0; kind < wire_kinds; ++kind) {
    const auto whole = encode_message(source.draw(kind));
    for (std::size_t from = wire_header_bytes; from + 8 + wire_checksum_bytes <= whole.size();
         ++from)
      for (const std::uint64_t length :
           {std::uint64_t{whole.size()}, std::uint64_t{1} << 20, payload_bytes_max,
            payload_bytes_max + 1, std::uint64_t{UINT32_MAX}, std::uint64_t{1} << 63,
            UINT64_MAX / bucket_bytes + 1, UINT64_MAX}) {
        auto hostile = whole;
        put_number(hostile, from, length);
        decode(sealed(hostile));
        decode(sealed(hostile), {UINT64_MAX, UINT64_MAX});
      }
  }
}

TEST_CASE("a count whose bytes overflow is refused, whatever the limits") {
  auto data = encode_message(redo_msg{});
  constexpr std::size_t count_at = wire_header_bytes + 40 + 40 + 32;
  data.insert(at(data, count_at + 8), 8, std::byte{0});
  put_number(data, count_at, UINT64_MAX / bucket_bytes + 1);  // times 24 is 8
  CHECK(reason_of(sealed(resize_announced(data)), {UINT64_MAX, UINT64_MAX}) == errc::bad_frame);
}

TEST_CASE("the limits are exact") {
  const bucket_msg bucket{{}, 0, payload(bytes(100))};
  const auto small = encode_message(bucket);
  CHECK(reason_of(small, {100, 0}) == errc::none);
  CHECK(reason_of(small, {99, 0}) == errc::bad_manifest);

  redo_msg redo;
  redo.content.buckets.resize(7);
  const auto seven = encode_message(redo);
  CHECK(reason_of(seven, {0, 7}) == errc::none);
  CHECK(reason_of(seven, {0, 6}) == errc::bad_manifest);

  CHECK(reason_of(encode_message(bucket_msg{{}, 0, payload(bytes(payload_bytes_max))})) ==
        errc::none);
  CHECK(reason_of(encode_message(bucket_msg{{}, 0, payload(bytes(payload_bytes_max + 1))})) ==
        errc::bad_manifest);
  CHECK(encode_message(bucket_msg{{}, 0, payload(bytes(payload_bytes_max))}).size() <=
        wire_bytes_max);
}

TEST_CASE("a hello's part is no longer than that of the most tensors, and nothing is held for it") {
  hello_msg hello;
  hello.name = "r";
  hello.taken = payload(bytes(receiver_part_bytes_max));
  CHECK(reason_of(encode_message(hello)) == errc::none);
  CHECK(reason_of(encode_message(hello), {receiver_part_bytes_max - 1, 0}) == errc::bad_manifest);
  hello.taken = payload(bytes(receiver_part_bytes_max + 1));
  const auto longer = encode_message(hello);
  CHECK(reason_of(longer) == errc::bad_manifest);
  CHECK(reason_of(longer, {UINT64_MAX, UINT64_MAX}) == errc::bad_manifest);
  const allocation_counter counted;
  const auto refused = decode_message(longer);
  CHECK(counted.bytes() < 1024);
  CHECK(std::holds_alternative<wire_failure>(refused));
  // Other messages have their own limits.
  shard_task_msg task;
  task.taken = payload(bytes(receiver_part_bytes_max + 1));
  CHECK(reason_of(encode_message(task)) == errc::none);
}

TEST_CASE("a text is one line: control characters are replaced when written, refused when read") {
  reply_msg reply;
  reply.detail = "disk full\nall is well \x1b[2J\x7f, na\xc3\xafve";
  auto data = encode_message(reply);
  const auto read = decode_message(data);
  REQUIRE(std::holds_alternative<wire_message>(read));
  CHECK(std::get<reply_msg>(std::get<wire_message>(read)).detail ==
        "disk full?all is well ?[2J?, na\xc3\xafve");
  for (const char c : {'\0', '\n', '\r', '\x1b', '\x1f', '\x7f'}) {
    CAPTURE(int{c});
    reply.detail = "disk full|all is well";
    data = encode_message(reply);
    *std::find(data.begin(), data.end(), std::byte{'|'}) = static_cast<std::byte>(c);
    CHECK(reason_of(sealed(data)) == errc::bad_frame);
  }
}

TEST_CASE("a text above its bound is cut when written and refused when read") {
  const auto text_at = [](const auto& m, const std::string& text) {
    const auto data = encode_message(m);
    const auto first = reinterpret_cast<const std::byte*>(text.data());
    return static_cast<std::size_t>(
        std::search(data.begin(), data.end(), first, first + text.size()) - data.begin());
  };
  hello_msg hello;
  hello.name = std::string(receiver_name_max, 'n');
  reply_msg reply;
  reply.detail = std::string(reply_detail_max, 'd');
  const auto check = [&](auto m, std::string& text) {
    const auto longest = encode_message(m);
    CHECK(reason_of(longest) == errc::none);
    // One character more, written by somebody else.
    const auto from = text_at(m, text);
    auto longer = longest;
    longer.insert(at(longer, from), std::byte{'x'});
    put_number(longer, from - 8, text.size() + 1);
    CHECK(reason_of(sealed(resize_announced(longer))) == errc::bad_manifest);
  };
  check(hello, hello.name);
  check(reply, reply.detail);

  auto longer = hello;
  longer.name += "x";
  CHECK(encode_message(longer) == encode_message(hello));
  auto more = reply;
  more.detail += "x";
  CHECK(encode_message(more) == encode_message(reply));
}

TEST_CASE("values that are no enumerator and truth values that are neither are refused") {
  const auto first_difference = [](const wire_message& a, const wire_message& b) {
    const auto x = encode_message(a), y = encode_message(b);
    const auto found = std::mismatch(x.begin(), x.end(), y.begin());
    return static_cast<std::size_t>(found.first - x.begin());
  };
  const auto check = [&](auto with, auto without, unsigned last) {
    const auto where = first_difference(with, without);
    auto data = encode_message(with);
    for (unsigned value = 0; value < 256; ++value) {
      data[where] = static_cast<std::byte>(value);
      CHECK(reason_of(sealed(data)) == (value <= last ? errc::none : errc::bad_frame));
    }
  };
  pong_msg pong;
  auto other = pong;
  other.state.ready = true;
  check(pong, other, 1);
  other = pong;
  other.state.phase = receiver_phase::torn;
  check(pong, other, static_cast<unsigned>(receiver_phase::last_));
  other = pong;
  other.state.reason = errc::last_;
  check(pong, other, static_cast<unsigned>(errc::last_));
  reply_msg reply;
  auto changed = reply;
  changed.kind = reply_kind::ack;
  check(reply, changed, static_cast<unsigned>(reply_kind::last_));
}

TEST_CASE("an unknown kind and an unknown version are refused, whatever the checksum says") {
  const auto whole = encode_message(ping_msg{});
  auto unknown = whole;
  unknown[4] = static_cast<std::byte>(wire_kinds);
  CHECK(reason_of(sealed(unknown)) == errc::bad_frame);
  for (const int other : {-1, 1}) {
    auto next = whole;
    next[3] = static_cast<std::byte>(std::to_integer<int>(whole[3]) + other);
    CHECK(reason_of(sealed(next)) == errc::bad_frame);
  }
  CHECK(reason_of({}) == errc::bad_frame);
  CHECK(harmless(whole, ping_msg{}));
}
