// Every way in which bytes can fail to be a frame. Forged frames carry a right checksum, so that
// the guard behind it is what refuses them.
#include <rapidcheck/catch.h>

#include <catch2/catch.hpp>
#include <functional>
#include <stdexcept>

#include "kernels/frame_layout.hpp"
#include "tests/kernels/tensors.hpp"

using namespace lockstep::kernels;

namespace Catch {
template <>
struct StringMaker<frame_status> {
  static std::string convert(frame_status status) { return to_string(status); }
};
}  // namespace Catch

namespace {

template <class T>
void put(buffer& bytes, std::size_t at, T value) {
  std::memcpy(bytes.data() + at, &value, sizeof value);
}

void put_3(buffer& bytes, std::size_t at, std::uint32_t value) {
  std::memcpy(bytes.data() + at, &value, 3);
}

void seal(buffer& bytes) {
  put(bytes, field::checksum, frame_checksum(view(bytes)));
}

std::uint32_t load_count(const buffer& bytes) {
  std::uint32_t count = 0;
  std::memcpy(&count, bytes.data() + field::count, 3);
  return count;
}

frame_status status_of(const buffer& bytes, const std::vector<tensor_view>& tensors) {
  frame f;
  f.tensor = 4242;
  std::size_t consumed = 4242;
  const frame_status status = parse_frame(view(bytes), tensors, f, consumed);
  if (status != frame_status::ok) {
    CHECK(f.tensor == 4242);
    CHECK(consumed == 4242);
  } else {
    CHECK(consumed <= bytes.size());
  }
  return status;
}

constexpr std::size_t size = 200;  // 100 elements of 2 bytes

struct sample {
  buffer base = buffer(size);
  buffer target = base;
  std::vector<tensor_view> tensors;
  buffer raw;
  buffer full;

  sample() {
    for (const std::size_t i : {3u, 4u, 50u, 99u}) target[2 * i] = std::byte{0x11};
    tensors = {view(base, 4), view(base, 2)};
    encode_delta(1, tensors[1], view(target, 2), 0, raw);
    encode_full(1, view(target, 2), 0, full);
  }
};

using gaps = std::vector<std::uint16_t>;

/// A raw frame of 2-byte elements with these gaps, each but an escape followed by an element.
buffer forge(const gaps& list, std::uint32_t count, std::size_t extra = 0) {
  const sample s;
  buffer bytes(s.raw.begin(), s.raw.begin() + frame_header_bytes);
  for (const std::uint16_t gap : list) {
    bytes.resize(bytes.size() + (gap == gap_escape ? 2 : 4), std::byte{0x22});
    put(bytes, bytes.size() - (gap == gap_escape ? 2 : 4), gap);
  }
  bytes.resize(bytes.size() + extra);
  put_3(bytes, field::count, count);
  put(bytes, field::payload_bytes, static_cast<std::uint32_t>(bytes.size() - frame_header_bytes));
  seal(bytes);
  return bytes;
}

}  // namespace

TEST_CASE("every flipped bit of a frame is noticed") {
  const sample s;
  for (buffer bytes : {s.raw, s.full}) {
    REQUIRE(status_of(bytes, s.tensors) == frame_status::ok);
    for (std::size_t bit = 0; bit < 8 * bytes.size(); ++bit) {
      bytes[bit / 8] ^= static_cast<std::byte>(1u << bit % 8);
      REQUIRE(status_of(bytes, s.tensors) != frame_status::ok);
      bytes[bit / 8] ^= static_cast<std::byte>(1u << bit % 8);
    }
  }
}

TEST_CASE("every truncation is noticed, and bytes behind a frame are no part of it") {
  const sample s;
  for (const buffer& bytes : {s.raw, s.full}) {
    for (std::size_t length = 0; length < bytes.size(); ++length) {
      // A copy of its own, so that the address sanitizer sees a read behind it.
      const buffer cut(bytes.begin(), bytes.begin() + std::ptrdiff_t(length));
      REQUIRE(status_of(cut, s.tensors) == frame_status::truncated);
    }
    for (std::size_t extra = 1; extra < 2 * frame_header_bytes; ++extra) {
      buffer longer = bytes;
      longer.resize(bytes.size() + extra);
      frame f;
      std::size_t consumed = 0;
      REQUIRE(parse_frame(view(longer), s.tensors, f, consumed) == frame_status::ok);
      REQUIRE(consumed == bytes.size());
      const buffer rest(longer.begin() + std::ptrdiff_t(consumed), longer.end());
      REQUIRE(status_of(rest, s.tensors) ==
              (extra < frame_header_bytes ? frame_status::truncated : frame_status::bad_magic));
    }
  }
}

TEST_CASE("a header that promises what the tensor is not is refused") {
  struct row {
    const char* what;
    frame_status expected;
    std::function<void(buffer&)> forge;
  };
  const std::vector<row> rows{
      {"as it was", frame_status::ok, [](buffer&) {}},
      {"other magic", frame_status::bad_magic, [](buffer& b) { put(b, 0, std::uint8_t{0xe2}); }},
      {"next version", frame_status::bad_magic, [](buffer& b) { put(b, 0, std::uint8_t{0xf3}); }},
      {"payload past the end", frame_status::truncated,
       [](buffer& b) {
         put(b, field::payload_bytes, std::uint32_t(b.size() - frame_header_bytes + 1));
       }},
      {"payload of 4 GiB", frame_status::truncated,
       [](buffer& b) { put(b, field::payload_bytes, 0xffffffffu); }},
      {"encoding 0", frame_status::bad_encoding,
       [](buffer& b) { put(b, field::encoding, std::uint8_t{0}); }},
      {"encoding 4", frame_status::bad_encoding,
       [](buffer& b) { put(b, field::encoding, std::uint8_t{4}); }},
      {"tensor == count", frame_status::bad_tensor,
       [](buffer& b) { put(b, field::tensor, std::uint32_t{2}); }},
      {"tensor 2^32 - 1", frame_status::bad_tensor,
       [](buffer& b) { put(b, field::tensor, 0xffffffffu); }},
      {"a tensor of another unit", frame_status::bad_tensor,
       [](buffer& b) { put(b, field::tensor, std::uint32_t{0}); }},
      {"unit 1", frame_status::bad_tensor, [](buffer& b) { put(b, field::unit, std::uint8_t{1}); }},
      {"unit 4", frame_status::bad_tensor, [](buffer& b) { put(b, field::unit, std::uint8_t{4}); }},
      {"unit 0", frame_status::bad_tensor, [](buffer& b) { put(b, field::unit, std::uint8_t{0}); }},
      {"the range behind the end", frame_status::bad_range,
       [](buffer& b) { put_3(b, field::range, 1); }},
      {"the last range there can be", frame_status::bad_range,
       [](buffer& b) { put_3(b, field::range, 0xffffffu); }},
      {"count one more", frame_status::bad_count,
       [](buffer& b) { put_3(b, field::count, 1 + load_count(b)); }},
      {"count one less", frame_status::bad_count,
       [](buffer& b) { put_3(b, field::count, load_count(b) - 1); }},
      {"count 0", frame_status::bad_count,
       [](buffer& b) { put_3(b, field::count, std::uint32_t{0}); }},
      {"count 2^24 - 1", frame_status::bad_count,
       [](buffer& b) { put_3(b, field::count, 0xffffffu); }},
  };
  const sample s;
  for (const buffer& real : {s.raw, s.full}) {
    for (const row& r : rows) {
      INFO(r.what);
      buffer bytes = real;
      r.forge(bytes);
      // Sealed over what it promises, where that is there.
      if (r.expected != frame_status::truncated) seal(bytes);
      CHECK(status_of(bytes, s.tensors) == r.expected);
    }
    buffer unsealed = real;
    unsealed[field::checksum] ^= std::byte{1};
    CHECK(status_of(unsealed, s.tensors) == frame_status::bad_checksum);
    CHECK(status_of(real, {}) == frame_status::bad_tensor);
  }
}

TEST_CASE("a tensor that no frame can describe takes none") {
  const sample s;
  buffer bytes = s.raw;
  put(bytes, field::unit, std::uint8_t{3});
  seal(bytes);
  CHECK(status_of(bytes, {{}, view(s.base, 3)}) == frame_status::bad_tensor);

  bytes = s.raw;
  CHECK(status_of(bytes, {{}, {{s.base.data(), 199}, 2}}) == frame_status::bad_tensor);
  CHECK(status_of(bytes, {{}, {{}, 2}}) == frame_status::bad_range);
}

TEST_CASE("a raw payload that leaves its range, its count or its size is refused") {
  struct row {
    const char* what;
    frame_status expected;
    buffer bytes;
  };
  const std::uint16_t escape = gap_escape;
  const std::vector<row> rows{
      {"first and last element", frame_status::ok, forge({0, 98}, 2)},
      {"position == range end", frame_status::bad_position, forge({0, 99}, 2)},
      {"first position == range end", frame_status::bad_position, forge({100}, 1)},
      {"the largest gap", frame_status::bad_position, forge({65534}, 1)},
      {"an escape out of the range", frame_status::bad_position, forge({escape, 0}, 1)},
      // The sum of these gaps is 2^16 and 2^17: 0 if positions were kept in 16 bits.
      {"gaps that wrap in 16 bits", frame_status::bad_position, forge({0, 0, escape, 3}, 3)},
      {"gaps that wrap twice", frame_status::bad_position, forge({escape, escape, 2}, 1)},
      {"a last escape", frame_status::bad_size, forge({0, escape}, 1)},
      {"one byte left over", frame_status::bad_size, forge({0, 1}, 2, 1)},
      {"a gap without its element", frame_status::bad_size, forge({0, 1}, 2, 2)},
      {"a gap with half its element", frame_status::bad_size, forge({0, 1}, 2, 3)},
      {"an element more", frame_status::bad_count, forge({0, 1}, 2, 4)},
      {"no element", frame_status::bad_count, forge({}, 1)},
      {"nothing, and says so", frame_status::bad_count, forge({}, 0)},
      {"49 elements", frame_status::ok, forge(gaps(49, 0), 49)},
      {"as long as full", frame_status::bad_size, forge(gaps(50, 0), 50)},
      {"every element", frame_status::bad_size, forge(gaps(100, 0), 100)},
  };
  const sample s;
  for (const row& r : rows) {
    INFO(r.what);
    CHECK(status_of(r.bytes, s.tensors) == r.expected);
  }
}

TEST_CASE("a raw payload may not end in an escape, nor skip over the end of a large range") {
  const buffer base(frame_span_bytes_max);
  const std::vector<tensor_view> tensors{{}, view(base, 2)};
  const auto in_large = [&](const gaps& list, std::uint32_t count) {
    return status_of(forge(list, count), tensors);
  };
  const std::uint16_t escape = gap_escape;
  CHECK(in_large({escape, 0}, 1) == frame_status::ok);
  CHECK(in_large({0, escape}, 1) == frame_status::bad_size);
  CHECK(in_large({0, escape, escape}, 1) == frame_status::bad_size);
  // 524288 elements are eight escapes and 8 elements.
  gaps long_gap(8, escape);
  long_gap.push_back(7);
  CHECK(in_large(long_gap, 1) == frame_status::ok);
  long_gap.back() = 8;
  CHECK(in_large(long_gap, 1) == frame_status::bad_position);
  gaps escapes(9, escape);
  CHECK(in_large(escapes, 1) == frame_status::bad_size);
  escapes.push_back(0);
  CHECK(in_large(escapes, 1) == frame_status::bad_position);
}

TEST_CASE("a full payload is as long as its range") {
  const sample s;
  for (const int extra : {-1, 1, 2, -200}) {
    buffer bytes = s.full;
    bytes.resize(std::size_t(int(bytes.size()) + extra));
    put(bytes, field::payload_bytes, std::uint32_t(200 + extra));
    seal(bytes);
    CHECK(status_of(bytes, s.tensors) == frame_status::bad_size);
  }
}

TEST_CASE("a frame is not applied to a tensor it does not fit, and never writes outside") {
  const sample s;
  const digest_key key(1);
  for (const buffer& bytes : {s.raw, s.full}) {
    frame f;
    std::size_t consumed = 0;
    REQUIRE(parse_frame(view(bytes), s.tensors, f, consumed) == frame_status::ok);
    buffer live(size + 64, std::byte{0xa5});
    const buffer before = live;
    const auto refused = [&](const frame& given, tensor_span to) {
      CHECK_THROWS_AS(apply_frame(given, to), std::invalid_argument);
      CHECK_THROWS_AS(change_of(key, given, to), std::invalid_argument);
      CHECK(live == before);
    };
    refused(f, {{live.data(), size - 2}, 2});
    refused(f, {{live.data(), size + 2}, 2});
    refused(f, {{live.data(), size}, 4});
    refused(f, {{live.data(), size}, 1});
    frame other = f;
    other.offset = frame_span_bytes_max;
    refused(other, {{live.data(), size}, 2});
    other.range_bytes = frame_span_bytes_max;
    refused(other, {{live.data(), size}, 2});
    other = f;
    other.encoding = frame_encoding::coded;
    refused(other, {{live.data(), size}, 2});
    other = f;
    other.unit = 3;
    refused(other, {{live.data(), size}, 3});
  }
}

TEST_CASE("applying a payload that was damaged after it was accepted is an error") {
  sample s;
  frame f;
  std::size_t consumed = 0;
  buffer live = s.base;
  const tensor_span to{{live.data(), live.size()}, 2};
  const digest_key key(1);
  REQUIRE(parse_frame(view(s.raw), s.tensors, f, consumed) == frame_status::ok);
  put(s.raw, frame_header_bytes, std::uint16_t{100});  // the first gap: past the end
  CHECK_THROWS_AS(apply_frame(f, to), std::invalid_argument);
  CHECK_THROWS_AS(change_of(key, f, to), std::invalid_argument);

  REQUIRE(parse_frame(view(s.full), s.tensors, f, consumed) == frame_status::ok);
  --f.payload.size;
  CHECK_THROWS_AS(apply_frame(f, to), std::invalid_argument);
  CHECK_THROWS_AS(change_of(key, f, to), std::invalid_argument);
  CHECK(live == s.base);
}

TEST_CASE("a payload that was damaged after it was accepted writes nothing outside its range") {
  const sample s;
  rc::prop("canaries", [&] {
    std::mt19937_64 random(*rc::gen::arbitrary<std::uint64_t>());
    buffer bytes = *rc::gen::element(s.raw, s.full);
    frame f;
    std::size_t consumed = 0;
    RC_ASSERT(parse_frame(view(bytes), s.tensors, f, consumed) == frame_status::ok);
    for (std::size_t i = frame_header_bytes; i < bytes.size(); ++i)
      if (random() % 4 == 0) bytes[i] = static_cast<std::byte>(random());
    f.payload.size -= random() % 3;
    constexpr std::size_t guard = 1 << 18;  // further than any sum of these gaps
    buffer live(size + 2 * guard, std::byte{0xa5});
    try {
      apply_frame(f, {{live.data() + guard, size}, 2});
    } catch (const std::invalid_argument&) {
    }
    const auto canary = [](std::byte b) { return b == std::byte{0xa5}; };
    RC_ASSERT(std::all_of(live.begin(), live.begin() + guard, canary));
    RC_ASSERT(std::all_of(live.end() - guard, live.end(), canary));
  });
}

TEST_CASE("random damage to a sealed frame is refused or stays inside the tensor") {
  const sample s;
  rc::prop("no crash, canaries", [&] {
    std::mt19937_64 random(*rc::gen::arbitrary<std::uint64_t>());
    buffer bytes = *rc::gen::element(s.raw, s.full);
    const auto hits = 1 + random() % 4;
    for (std::uint64_t i = 0; i < hits; ++i)
      bytes[4 + random() % (bytes.size() - 4)] = static_cast<std::byte>(random());
    const auto payload = std::min<std::size_t>(bytes.size() - frame_header_bytes,
                                               random() % 4 == 0 ? random() % 300 : 1000);
    bytes.resize(frame_header_bytes + payload);
    put(bytes, field::payload_bytes, std::uint32_t(payload));
    seal(bytes);
    frame f;
    std::size_t consumed = 0;
    if (parse_frame(view(bytes), s.tensors, f, consumed) != frame_status::ok) return;
    constexpr std::size_t guard = 4096;
    buffer live(size + 2 * guard, std::byte{0xa5});
    const auto unit = s.tensors[f.tensor].unit;
    const tensor_span to{{live.data() + guard, size}, unit};
    const digest_key key(5);
    const digest_sum expected = digest_tensor(key, f.tensor, to.bytes) + change_of(key, f, to);
    apply_frame(f, to);
    RC_ASSERT(digest_tensor(key, f.tensor, to.bytes) == expected);
    const auto canary = [](std::byte b) { return b == std::byte{0xa5}; };
    RC_ASSERT(std::all_of(live.begin(), live.begin() + guard, canary));
    RC_ASSERT(std::all_of(live.end() - guard, live.end(), canary));
  });
}

TEST_CASE("every status has a name of its own") {
  std::vector<std::string> names;
  for (int i = 0; i <= static_cast<int>(frame_status::bad_table); ++i)
    names.emplace_back(to_string(static_cast<frame_status>(i)));
  std::sort(names.begin(), names.end());
  CHECK(std::adjacent_find(names.begin(), names.end()) == names.end());
  CHECK(std::find(names.begin(), names.end(), "unknown") == names.end());
  CHECK(std::string(to_string(static_cast<frame_status>(200))) == "unknown");
}
