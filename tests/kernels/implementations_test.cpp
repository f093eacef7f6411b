#include <rapidcheck/catch.h>

#include <catch2/catch.hpp>

#include "kernels/coded_loops.hpp"
#include "kernels/inner_loops.hpp"
#include "tests/kernels/tensors.hpp"

using namespace lockstep::kernels;

namespace {

std::vector<const inner_loops*> all_loops() {
  std::vector<const inner_loops*> result{&portable_loops()};
  const inner_loops* found[4];
  const std::size_t count = vector_loops(found);
  result.insert(result.end(), found, found + count);
  return result;
}

/// The raw or full frame at offset 0 of a tensor of at most one range, written the plain way but
/// for its header, which is taken from `like`.
buffer plain_frame(const buffer& base, const buffer& target, std::uint32_t unit,
                   const buffer& like) {
  const auto where = differing(base, target, unit);
  if (where.empty()) return {};
  buffer payload;
  std::size_t next = 0;
  for (const std::size_t i : where) {
    std::size_t gap = i - next;
    for (; gap >= 65535; gap -= 65535) payload.insert(payload.end(), 2, std::byte{0xff});
    payload.push_back(static_cast<std::byte>(gap & 255));
    payload.push_back(static_cast<std::byte>(gap >> 8));
    for (std::size_t b = 0; b < unit; ++b) payload.push_back(target[i * unit + b]);
    next = i + 1;
  }
  if (payload.size() >= target.size()) payload = target;
  buffer result(like.begin(), like.begin() + frame_header_bytes);
  result.insert(result.end(), payload.begin(), payload.end());
  return result;
}

}  // namespace

TEST_CASE("the portable implementation is always there, and the best one is used at the start") {
  const auto available = available_implementations();
  REQUIRE_FALSE(available.empty());
  CHECK(available.front() == implementation::portable);
  CHECK(active_implementation() == available.back());
  CHECK(available.size() == all_loops().size());
#ifdef __x86_64__
  const auto has = [&](implementation which) {
    return std::find(available.begin(), available.end(), which) != available.end();
  };
  if (__builtin_cpu_supports("avx512vbmi2") && __builtin_cpu_supports("avx512bitalg") &&
      __builtin_cpu_supports("gfni"))
    CHECK(has(implementation::avx512_dl));
  else
    CHECK_FALSE(has(implementation::avx512_dl));
#endif
#ifdef __aarch64__
  CHECK(available.back() == implementation::neon);
#endif
}

TEST_CASE("a forced implementation is the one that runs") {
  for (const auto* loops : all_loops()) {
    const forced choice(loops->which);
    CHECK(active_implementation() == loops->which);
    CHECK(active_loops().compare == loops->compare);
    CHECK(active_loops().add_words == loops->add_words);
    CHECK(active_coded_loops().which == loops->which);
    const auto classify = active_coded_loops().of<std::uint16_t>().classify;
    for (const auto* other : all_loops()) {
      const forced too(other->which);
      CHECK((active_coded_loops().of<std::uint16_t>().classify == classify) ==
            (other->which == loops->which));
    }
  }
}

TEST_CASE("an implementation this machine lacks cannot be forced") {
  const auto before = active_implementation();
  const auto available = available_implementations();
  for (const auto which :
       {implementation::sse4, implementation::avx2, implementation::avx512,
        implementation::avx512_dl, implementation::neon, static_cast<implementation>(99)}) {
    if (std::find(available.begin(), available.end(), which) != available.end()) continue;
    CHECK_FALSE(set_implementation(which));
    CHECK(active_implementation() == before);
  }
  CHECK(std::string(to_string(implementation::avx512)) == "avx512");
  CHECK(std::string(to_string(static_cast<implementation>(99))) == "unknown");
}

TEST_CASE("comparison masks have a bit for each byte that differs, and no other") {
  for (const auto* loops : all_loops()) {
    INFO(to_string(loops->which));
    for (std::size_t byte = 0; byte < 3 * block_bytes; ++byte) {
      for (unsigned bit = 0; bit < 8; ++bit) {
        const buffer a(3 * block_bytes, std::byte{0x7f});
        buffer b = a;
        b[byte] ^= static_cast<std::byte>(1u << bit);
        std::uint64_t masks[4] = {1, 1, 1, 42};
        loops->compare(a.data(), b.data(), 3, masks);
        for (std::size_t i = 0; i < 3; ++i)
          REQUIRE(masks[i] == (i == byte / 64 ? std::uint64_t{1} << byte % 64 : 0));
        REQUIRE(masks[3] == 42);
      }
    }
  }
}

TEST_CASE("every implementation writes the plain frame at every length and alignment") {
  const auto which = GENERATE(from_range(available_implementations()));
  INFO(to_string(which));
  const forced choice(which);
  std::mt19937_64 random(20261123);
  for (const std::uint32_t unit : {1u, 2u, 4u, 8u}) {
    for (std::size_t size = 0; size <= 257; ++size) {
      if (size % unit != 0) continue;
      for (const double density : {0.0, 0.02, 0.3, 1.0}) {
        const std::size_t shift_base = random() % 9;
        const std::size_t shift_target = random() % 9;
        const buffer base = random_bytes(random, size);
        const buffer target = changed(random, base, unit, density);
        buffer base_at(size + shift_base);
        buffer target_at(size + shift_target);
        std::copy(base.begin(), base.end(), base_at.begin() + std::ptrdiff_t(shift_base));
        std::copy(target.begin(), target.end(), target_at.begin() + std::ptrdiff_t(shift_target));
        buffer out;
        const auto count = encode_delta(7, {{base_at.data() + shift_base, size}, unit},
                                        {{target_at.data() + shift_target, size}, unit}, 0, out);
        REQUIRE(count == differing(base, target, unit).size());
        REQUIRE(out == plain_frame(base, target, unit, out));
      }
    }
  }
}

TEST_CASE("every implementation writes the same frames and digests of larger tensors") {
  rc::prop("as portable", [] {
    std::mt19937_64 random(*rc::gen::arbitrary<std::uint64_t>());
    const auto unit = *rc::gen::element(1u, 2u, 4u, 8u);
    const auto size = *rc::gen::inRange<std::size_t>(0, 200000) / unit * unit;
    const double density = *rc::gen::element(0.0, 1e-5, 1e-3, 0.01, 0.2, 1.0);
    const buffer base = random_bytes(random, size);
    const buffer target = changed(random, base, unit, density);
    const digest_key key(random());
    buffer expected_frames;
    digest_sum expected_sum;
    for (const auto which : available_implementations()) {
      const forced choice(which);
      std::uint64_t count = 0;
      const buffer frames = encode(3, view(base, unit), view(target, unit), count);
      const digest_sum sum = digest_tensor(key, 3, view(target));
      if (which == implementation::portable) {
        expected_frames = frames;
        expected_sum = sum;
      }
      RC_ASSERT(frames == expected_frames);
      RC_ASSERT(sum == expected_sum);
    }
  });
}

TEST_CASE("floats are compared as bits") {
  // bf16: NaN payloads, signs of zero and of infinity, subnormals.
  const std::vector<std::uint16_t> special{0x0000, 0x8000, 0x0001, 0x8001, 0x007f, 0x0080, 0x7f80,
                                           0xff80, 0x7f81, 0x7fc0, 0x7fc1, 0xffc0, 0xffff, 0x3f80};
  const auto which = GENERATE(from_range(available_implementations()));
  const forced choice(which);
  for (const std::uint16_t from : special) {
    for (const std::uint16_t to : special) {
      buffer base(200);
      for (std::size_t i = 0; i < 100; ++i) std::memcpy(base.data() + 2 * i, &from, 2);
      buffer target = base;
      std::memcpy(target.data() + 2 * 77, &to, 2);
      std::uint64_t count = 0;
      const buffer frames = encode(0, view(base, 2), view(target, 2), count);
      REQUIRE(count == (from == to ? 0 : 1));
      buffer live = base;
      apply_all(frames, {view(base, 2)}, live, 2);
      REQUIRE(live == target);
    }
  }
}
