#include "kernels/frame.hpp"

#include <rapidcheck/catch.h>
#include <sys/mman.h>

#include <catch2/catch.hpp>
#include <stdexcept>

#include "tests/kernels/documented.hpp"
#include "tests/kernels/tensors.hpp"

using namespace lockstep::kernels;

namespace {

/// Encodes, parses and applies, with canaries round the live tensor.
void require_round_trip(const buffer& base, const buffer& target, std::uint32_t unit) {
  std::uint64_t count = 0;
  const buffer frames = encode(1, view(base, unit), view(target, unit), count);
  RC_ASSERT(count == differing(base, target, unit).size());
  RC_ASSERT(frames.empty() == (count == 0));

  constexpr std::size_t guard = 64;
  buffer live(base.size() + 2 * guard, std::byte{0xa5});
  std::copy(base.begin(), base.end(), live.begin() + guard);
  buffer expected = live;
  std::copy(target.begin(), target.end(), expected.begin() + guard);
  const std::vector<tensor_view> tensors{{}, view(base, unit)};
  for (bytes_view rest = view(frames); rest.size > 0;) {
    const frame f = parse(rest, tensors);
    RC_ASSERT(f.tensor == 1u);
    RC_ASSERT(f.payload.size + frame_header_bytes <= frame_bytes_max);
    apply_frame(f, {{live.data() + guard, base.size()}, unit});
  }
  RC_ASSERT(live == expected);
}

frame only_frame(const buffer& frames, const tensor_view& tensor) {
  bytes_view rest = view(frames);
  const frame f = parse(rest, {tensor});
  if (rest.size != 0) throw std::logic_error("more than one frame");
  return f;
}

}  // namespace

TEST_CASE("the raw frame of docs/wire-format.md is written and read byte by byte") {
  // Ten bf16 elements of 1.0; element 2 becomes -1.0 and element 5 the next larger value.
  buffer base = from_hex("803f803f803f803f803f803f803f803f803f803f");
  const buffer target = from_hex("803f803f80bf803f803f813f803f803f803f803f");
  const buffer expected = documented("raw");
  buffer out;
  CHECK(encode_delta(3, view(base, 2), view(target, 2), 0, out) == 2);
  CHECK(out == expected);

  const std::vector<tensor_view> tensors{{}, {}, {}, view(base, 2)};
  bytes_view rest = view(out);
  const frame f = parse(rest, tensors);
  const digest_key key(1);
  CHECK(digest_tensor(key, 3, view(base)).lane[0] == 0xec531359a0957a29);
  CHECK(digest_tensor(key, 3, view(base)).lane[1] == 0x79af4e304cd369d3);
  const digest_sum after = digest_tensor(key, 3, view(base)) + change_of(key, f, view(base, 2));
  CHECK(after.lane[0] == 0x494e27411d33fa29);
  CHECK(after.lane[1] == 0xb169fdc14990e9d3);
  apply_frame(f, {{base.data(), base.size()}, 2});
  CHECK(base == target);
}

TEST_CASE("a delta leads from base to target") {
  const auto which = GENERATE(from_range(available_implementations()));
  INFO(to_string(which));
  const forced choice(which);
  rc::prop("one range", [] {
    std::mt19937_64 random(*rc::gen::arbitrary<std::uint64_t>());
    const auto unit = *rc::gen::element(1u, 2u, 4u, 8u);
    const auto size = *rc::gen::inRange<std::size_t>(0, 70000) / unit * unit;
    const double density = *rc::gen::element(0.0, 1e-5, 1e-4, 1e-3, 0.01, 0.1, 0.33, 0.5, 1.0);
    const buffer base = random_bytes(random, size);
    require_round_trip(base, changed(random, base, unit, density), unit);
  });
}

TEST_CASE("a delta of several ranges leads from base to target") {
  std::mt19937_64 random(5);
  for (const std::uint32_t unit : {1u, 2u, 4u, 8u}) {
    for (const std::size_t size :
         {frame_span_bytes_max, frame_span_bytes_max + unit, 2 * frame_span_bytes_max + 48}) {
      for (const double density : {1e-5, 0.01, 1.0}) {
        const buffer base = random_bytes(random, size);
        buffer target = changed(random, base, unit, density);
        // The elements at the borders of a range.
        target[frame_span_bytes_max - 1] ^= std::byte{1};
        target.front() ^= std::byte{2};
        target.back() ^= std::byte{4};
        require_round_trip(base, target, unit);
      }
    }
  }
}

TEST_CASE("gaps of every length around the escape survive") {
  const buffer base(frame_span_bytes_max);
  for (const std::size_t gap :
       {0ul, 1ul, 65533ul, 65534ul, 65535ul, 65536ul, 131069ul, 131070ul, 131071ul, 1048574ul}) {
    for (const std::size_t first : {0ul, 1ul, 65535ul}) {
      buffer target = base;
      target[first] = std::byte{1};
      const std::size_t second = first + 1 + gap;
      if (second < target.size()) target[second] = std::byte{2};
      require_round_trip(base, target, 1);
      std::uint64_t count = 0;
      const buffer frames = encode(0, view(base, 1), view(target, 1), count);
      const std::size_t escapes = first / 65535 + (second < target.size() ? gap / 65535 : 0);
      CHECK(frames.size() == frame_header_bytes + 2 * escapes + 3 * count);
    }
  }
}

TEST_CASE("whichever of raw and full is shorter is written") {
  const buffer base(1000);
  for (const std::uint32_t unit : {1u, 2u, 4u, 8u}) {
    const std::size_t record = unit + 2;
    for (std::size_t changes = 1; changes <= 1000 / unit; ++changes) {
      buffer target = base;
      for (std::size_t i = 0; i < changes; ++i) target[i * unit] = std::byte{9};
      buffer out;
      CHECK(encode_delta(0, view(base, unit), view(target, unit), 0, out) == changes);
      const frame f = only_frame(out, view(base, unit));
      const bool raw = changes * record < 1000;
      CHECK(f.encoding == (raw ? frame_encoding::raw : frame_encoding::full));
      CHECK(f.count == (raw ? changes : 1000 / unit));
      CHECK(f.payload.size == (raw ? changes * record : 1000));
    }
  }
}

TEST_CASE("all changes are counted where the delta is too dense for raw") {
  std::mt19937_64 random(8);
  for (const std::uint32_t unit : {1u, 2u, 4u, 8u}) {
    const buffer base = random_bytes(random, frame_span_bytes_max);
    const buffer target = changed(random, base, unit, 0.9);
    buffer out(10, std::byte{7});
    CHECK(encode_delta(0, view(base, unit), view(target, unit), 0, out) ==
          differing(base, target, unit).size());
    CHECK(out.size() == 10 + frame_bytes_max);
    CHECK(std::count(out.begin(), out.begin() + 10, std::byte{7}) == 10);
  }
}

TEST_CASE("nothing is appended where nothing changed, or where there is nothing") {
  const buffer same(100, std::byte{3});
  buffer out(5, std::byte{1});
  CHECK(encode_delta(0, view(same, 4), view(same, 4), 0, out) == 0);
  CHECK(encode_delta(0, {{}, 4}, {{}, 4}, 0, out) == 0);
  encode_full(0, {{}, 4}, 0, out);
  CHECK(out == buffer(5, std::byte{1}));
}

TEST_CASE("a full frame overwrites whatever was there") {
  std::mt19937_64 random(6);
  const buffer target = random_bytes(random, 2 * frame_span_bytes_max + 24);
  buffer frames;
  for (std::size_t at = 0; at < target.size(); at += frame_span_bytes_max)
    encode_full(0, view(target, 8), at, frames);
  CHECK(frames.size() == target.size() + 3 * frame_header_bytes);
  buffer live = random_bytes(random, target.size());
  apply_all(frames, {view(target, 8)}, live, 8);
  CHECK(live == target);
}

TEST_CASE("a frame absorbs: any mix of base and target becomes the target") {
  rc::prop("mix", [] {
    std::mt19937_64 random(*rc::gen::arbitrary<std::uint64_t>());
    const auto unit = *rc::gen::element(1u, 2u, 4u, 8u);
    const auto size = *rc::gen::inRange<std::size_t>(1, 5000) * unit;
    const double density = *rc::gen::element(0.001, 0.05, 0.5, 1.0);
    const buffer base = random_bytes(random, size);
    const buffer target = changed(random, base, unit, density);
    buffer live = base;
    // A torn write may stop anywhere, even inside an element.
    for (std::size_t i = 0; i < size; ++i)
      if (random() % 2 == 0) live[i] = target[i];
    std::uint64_t count = 0;
    const buffer frames = encode(0, view(base, unit), view(target, unit), count);
    apply_all(frames, {view(base, unit)}, live, unit);
    RC_ASSERT(live == target);
    apply_all(frames, {view(base, unit)}, live, unit);
    RC_ASSERT(live == target);
  });
}

TEST_CASE("the marks of a frame are the elements that it overwrites, and no others") {
  rc::prop("marks", [] {
    std::mt19937_64 random(*rc::gen::arbitrary<std::uint64_t>());
    const auto unit = *rc::gen::element(1u, 2u, 4u, 8u);
    const auto size = *rc::gen::inRange<std::size_t>(1, 5000) * unit;
    const double density = *rc::gen::element(0.001, 0.05, 0.5, 1.0);
    const buffer base = random_bytes(random, size);
    const buffer target = changed(random, base, unit, density);
    std::uint64_t count = 0;
    const buffer frames = encode(0, view(base, unit), view(target, unit), count);
    if (frames.empty()) return;
    const frame f = only_frame(frames, view(base, unit));
    const std::size_t elements = size / unit;
    std::vector<std::uint64_t> marks((elements + 63) / 64 + 1);
    mark_elements(f, marks);
    std::vector<std::size_t> found, expected = differing(base, target, unit);
    for (std::size_t i = 0; i < marks.size() * 64; ++i)
      if (marks[i / 64] >> i % 64 & 1) found.push_back(i);
    if (f.encoding == frame_encoding::full) {
      expected.resize(elements);
      for (std::size_t i = 0; i < elements; ++i) expected[i] = i;
    }
    RC_ASSERT(found == expected);
    if (elements > 64) {
      std::vector<std::uint64_t> few((elements - 1) / 64);
      RC_ASSERT_THROWS_AS(mark_elements(f, few), std::invalid_argument);
    }
  });
}

TEST_CASE("a delta is the same where only the range of the base is there") {
  std::mt19937_64 random(5);
  const buffer base = random_bytes(random, 2 * frame_span_bytes_max + 10);
  const buffer target = changed(random, base, 2, 0.01);
  for (std::size_t at = 0; at < base.size(); at += frame_span_bytes_max) {
    const std::size_t range = std::min(frame_span_bytes_max, base.size() - at);
    buffer whole, part;
    encode_delta(3, view(base, 2), view(target, 2), at, whole);
    encode_delta_range(3, {base.data() + at, range}, view(target, 2), at, part);
    CHECK(whole == part);
    if (range == frame_span_bytes_max) CHECK_FALSE(part.empty());
    CHECK_THROWS_AS(encode_delta_range(3, {base.data(), range - 2}, view(target, 2), at, part),
                    std::invalid_argument);
  }
}

TEST_CASE("what cannot be framed is refused before anything is appended") {
  const buffer bytes(2 * frame_span_bytes_max);
  const buffer longer(2 * frame_span_bytes_max + 8);
  buffer out;
  const auto delta = [&](tensor_view base, tensor_view target, std::size_t offset) {
    encode_delta(0, base, target, offset, out);
  };
  using refused = std::invalid_argument;
  CHECK_THROWS_AS(delta(view(bytes, 2), view(longer, 2), 0), refused);
  CHECK_THROWS_AS(delta(view(bytes, 2), view(bytes, 4), 0), refused);
  CHECK_THROWS_AS(delta(view(bytes, 3), view(bytes, 3), 0), refused);
  CHECK_THROWS_AS(delta(view(bytes, 0), view(bytes, 0), 0), refused);
  CHECK_THROWS_AS(delta(view(bytes, 2), view(bytes, 2), 2), refused);
  CHECK_THROWS_AS(delta(view(bytes, 2), view(bytes, 2), bytes.size()), refused);
  CHECK_THROWS_AS(delta({{bytes.data(), 7}, 2}, {{bytes.data(), 7}, 2}, 0), refused);
  CHECK_THROWS_AS(encode_full(0, view(bytes, 2), 2, out), refused);
  CHECK_THROWS_AS(encode_full(0, view(bytes, 2), 3 * frame_span_bytes_max, out), refused);
  CHECK_THROWS_AS(encode_full(0, view(bytes, 16), 0, out), refused);
  CHECK(out.empty());
}

TEST_CASE("tensors beyond 4 GiB are addressed") {
  const std::size_t offset = std::size_t{1} << 32;
  const std::size_t size = offset + 1000;
  // Reserved, not committed: only the pages touched exist.
  const auto map = [&] {
    void* at = mmap(nullptr, size, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    REQUIRE(at != MAP_FAILED);
    return static_cast<std::byte*>(at);
  };
  std::byte* const base = map();
  std::byte* const target = map();
  target[offset + 998] = std::byte{5};
  target[offset + 2] = std::byte{6};
  buffer out;
  CHECK(encode_delta(0, {{base, size}, 2}, {{target, size}, 2}, offset, out) == 2);
  const frame f = only_frame(out, {{base, size}, 2});
  CHECK(f.offset == offset);
  const digest_key key(1);
  CHECK(change_of(key, f, {{base, size}, 2}) ==
        digest_range(key, 0, offset, {target + offset, 1000}) -
            digest_range(key, 0, offset, {base + offset, 1000}));
  apply_frame(f, {{base, size}, 2});
  CHECK(std::memcmp(base + offset, target + offset, 1000) == 0);
  CHECK(base[2] == std::byte{0});
  munmap(base, size);
  munmap(target, size);
}
