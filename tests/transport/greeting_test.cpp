#include "transport/greeting.hpp"

#include <catch2/catch.hpp>
#include <string>

#include "link.hpp"
#include "transport/bulk_frame.hpp"

namespace lockstep::test {

namespace {

errc reason_of(const std::variant<greeting, failure>& result) {
  const auto* why = std::get_if<failure>(&result);
  return why != nullptr ? why->reason : errc::none;
}

}  // namespace

TEST_CASE("A greeting and an answer come back as they were") {
  const auto g = receiver_greeting();
  CHECK(std::get<greeting>(decode_greeting(encode_greeting(g))) == g);
  greeting_answer a;
  a.verdict = failure{errc::wrong_cluster, "belongs to another"};
  a.self = trainer_greeting();
  const auto back = std::get<greeting_answer>(decode_answer(encode_answer(a)));
  CHECK(back.verdict.reason == a.verdict.reason);
  CHECK(back.verdict.detail == a.verdict.detail);
  CHECK(back.self == a.self);
}

TEST_CASE("Texts that are too long or not printable are made to fit") {
  auto g = receiver_greeting();
  g.name = std::string(1'000, 'n');
  g.program = "a\nb";
  const auto back = std::get<greeting>(decode_greeting(encode_greeting(g)));
  CHECK(back.name == std::string(greeting_name_max, 'n'));
  CHECK(back.program == "a?b");
  g.program = std::string(1'000, 'p');
  greeting_answer a;
  a.verdict = failure{errc::busy, std::string(5'000, 'd')};
  a.self = g;
  const auto bytes = encode_answer(a);
  CHECK(bytes.size() <= greeting_bytes_max);
  CHECK(std::holds_alternative<greeting_answer>(decode_answer(bytes)));
}

TEST_CASE("Every flipped bit and every cut of a greeting is refused") {
  const auto bytes = encode_greeting(receiver_greeting());
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    for (int bit = 0; bit < 8; ++bit) {
      auto changed = bytes;
      changed[i] ^= static_cast<std::byte>(1 << bit);
      REQUIRE(reason_of(decode_greeting(changed)) != errc::none);
    }
    REQUIRE(reason_of(decode_greeting(std::span(bytes).first(i))) != errc::none);
  }
  auto longer = bytes;
  longer.emplace_back();
  CHECK(reason_of(decode_greeting(longer)) == errc::bad_frame);
}

TEST_CASE("The first bytes say the length, or why there is none") {
  const auto of = [](std::vector<std::byte> bytes) {
    return greeting_frame_bytes(std::span(bytes).first<greeting_header_bytes>());
  };
  const auto good = encode_greeting(receiver_greeting());
  CHECK(std::get<std::size_t>(of(good)) == good.size());
  auto other = good;
  other[3] = std::byte{9};
  CHECK(std::get<failure>(of(other)).reason == errc::wrong_version);
  CHECK(std::get<failure>(of(other)).detail.starts_with("speaks version 9"));
  for (const std::uint32_t length : {0u, 15u, 4'097u, 0x7fffffffu, 0xffffffffu}) {
    CAPTURE(length);
    auto lies = good;
    for (std::size_t i = 0; i < 4; ++i)
      lies[4 + i] = static_cast<std::byte>(length >> (8 * i) & 0xff);
    CHECK(std::get<failure>(of(lies)).reason == errc::bad_frame);
  }
  CHECK(std::get<failure>(of(encode_answer({}))).reason == errc::bad_frame);
}

TEST_CASE("Every flipped bit of a bulk frame's header is refused") {
  const bulk_header header{{7, {8, 9}, {10, 11}}, 12, 13};
  const auto bytes = encode_bulk_header(header);
  CHECK(std::get<bulk_header>(decode_bulk_header(bytes, 13)) == header);
  for (std::size_t i = 0; i < bytes.size(); ++i)
    for (int bit = 0; bit < 8; ++bit) {
      auto changed = bytes;
      changed[i] ^= static_cast<std::byte>(1 << bit);
      REQUIRE(std::holds_alternative<failure>(decode_bulk_header(changed, 1ull << 63)));
    }
}

TEST_CASE("A bulk frame's length is taken up to the limit and not beyond") {
  constexpr std::uint64_t max = 8 << 20;
  const auto reason = [](std::uint64_t length) {
    const auto r = decode_bulk_header(encode_bulk_header({{}, 0, length}), max);
    const auto* why = std::get_if<failure>(&r);
    return why != nullptr ? why->reason : errc::none;
  };
  for (const std::uint64_t length : {std::uint64_t{0}, std::uint64_t{1}, max})
    CHECK(reason(length) == errc::none);
  for (const std::uint64_t length :
       {max + 1, std::uint64_t{0xffffffff}, std::uint64_t{1} << 63, ~std::uint64_t{0}})
    CHECK(reason(length) == errc::bad_manifest);
}

}  // namespace lockstep::test
