// A stream of bytes is cut into the messages that were said, wherever the cuts of the network fall.
#include "messages/wire_stream.hpp"

#include <catch2/catch.hpp>
#include <random>

#include "support/sample_messages.hpp"
#include "support/wire_bytes.hpp"

using namespace lockstep;

namespace {

std::vector<std::byte> all_of(const std::vector<wire_message>& said) {
  std::vector<std::byte> out;
  for (const auto& m : said) {
    const auto bytes = encode_message(m);
    out.insert(out.end(), bytes.begin(), bytes.end());
  }
  return out;
}

std::vector<wire_message> one_of_each() {
  std::vector<wire_message> out;
  message_source source(3);
  for (std::size_t kind = 0; kind < wire_kinds; ++kind) out.push_back(source.draw(kind));
  return out;
}

errc failure_of(wire_stream& s) {
  const auto next = s.next();
  return next && next->index() == 1 ? std::get<1>(*next).reason : errc::none;
}

}  // namespace

TEST_CASE("messages come out as they went in, whatever the pieces") {
  const auto said = one_of_each();
  const auto bytes = all_of(said);
  std::mt19937 rng(1);
  for (std::size_t piece_max : {std::size_t{1}, std::size_t{7}, std::size_t{100}, bytes.size()}) {
    wire_stream stream;
    std::vector<wire_message> heard;
    for (std::size_t at = 0; at < bytes.size();) {
      const auto piece = std::min(bytes.size() - at, 1 + rng() % piece_max);
      stream.feed(std::span(bytes).subspan(at, piece));
      at += piece;
      while (auto next = stream.next()) heard.push_back(std::get<wire_message>(std::move(*next)));
    }
    CHECK(heard == said);
    CHECK(stream.size() == 0);
  }
}

TEST_CASE("a header that promises too much is refused before its body is there") {
  const auto whole = encode_message(ping_msg{1, {2, 3}, {4, 5}});
  for (const auto length :
       {control_bytes_max, std::uint64_t{1} << 32, UINT64_MAX, UINT64_MAX - 31}) {
    auto header = whole;
    put_number(header, 8, length);
    header.resize(wire_header_bytes);
    wire_stream stream;
    stream.feed(header);
    CHECK(failure_of(stream) == errc::bad_manifest);
    CHECK(stream.size() == 0);
  }
  // The largest that is taken is waited for.
  auto header = whole;
  put_number(header, 8, control_bytes_max - wire_header_bytes - wire_checksum_bytes);
  header.resize(wire_header_bytes);
  wire_stream stream;
  stream.feed(header);
  CHECK_FALSE(stream.next().has_value());
}

TEST_CASE("what begins no message ends the stream at its first bytes, for good") {
  const auto whole = encode_message(ping_msg{1, {2, 3}, {4, 5}});
  for (std::size_t at = 0; at < 8; ++at) {
    auto spoilt = whole;
    spoilt[at] ^= std::byte{0x80};
    wire_stream stream;
    stream.feed(spoilt);
    CHECK(failure_of(stream) != errc::none);
    stream.feed(whole);
    CHECK(failure_of(stream) != errc::none);
    CHECK(stream.size() == 0);
  }
}

TEST_CASE("a message whose body is damaged ends the stream") {
  auto bytes = encode_message(ping_msg{1, {2, 3}, {4, 5}});
  bytes[wire_header_bytes] ^= std::byte{1};
  wire_stream stream;
  stream.feed(bytes);
  CHECK(failure_of(stream) == errc::bad_checksum);
}
