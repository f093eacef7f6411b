#include "kernels/digest.hpp"

#include <rapidcheck/catch.h>

#include <catch2/catch.hpp>
#include <stdexcept>

#include "tests/kernels/tensors.hpp"

using namespace lockstep::kernels;

namespace {

/// The digest as docs/codec.md defines it, one word at a time.
digest_sum plain_digest(const digest_key& key, std::uint32_t tensor, const buffer& bytes) {
  digest_sum sum;
  for (std::size_t word = 0; word * 8 < bytes.size(); ++word) {
    std::uint64_t halves[2] = {0, 0};
    for (std::size_t b = 0; b < 8 && word * 8 + b < bytes.size(); ++b)
      halves[b / 4] |= std::to_integer<std::uint64_t>(bytes[word * 8 + b]) << b % 4 * 8;
    for (std::size_t lane = 0; lane < 2; ++lane) {
      const std::uint64_t k = key.words()[word % 1024 + lane];
      const std::uint64_t low = (halves[0] + k % (1ull << 32)) % (1ull << 32);
      const std::uint64_t high = (halves[1] + (k >> 32)) % (1ull << 32);
      sum.lane[lane] += low * high * key.multiplier(lane, tensor, word / 1024);
    }
  }
  return sum;
}

buffer counting(std::size_t size) {
  buffer bytes(size);
  for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>(i * 7 + i / 256);
  return bytes;
}

}  // namespace

TEST_CASE("a digest is what the format says, at every length and alignment") {
  const auto which = GENERATE(from_range(available_implementations()));
  INFO(to_string(which));
  const forced choice(which);
  const digest_key key(1);
  const buffer bytes = counting(3 * digest_tile_bytes);
  std::vector<std::size_t> sizes{8184, 8191, 8192, 8193, 8200, 16384, 20001};
  for (std::size_t size = 0; size <= 257; ++size) sizes.push_back(size);
  for (const std::size_t size : sizes) {
    for (const std::size_t shift : {0u, 1u, 3u, 8u}) {
      const auto at = bytes.begin() + std::ptrdiff_t(shift);
      const buffer part(at, at + std::ptrdiff_t(size));
      REQUIRE(digest_tensor(key, 5, {bytes.data() + shift, size}) == plain_digest(key, 5, part));
    }
  }
}

TEST_CASE("digests do not change between releases") {
  const digest_key key(1);
  CHECK(key.words()[0] == 0x910a2dec89025cc1);  // SplitMix64's first output for seed 1
  const digest_sum sum = digest_tensor(key, 2, view(counting(10000)));
  CHECK(sum.lane[0] == 0x132fa300c99c3aee);
  CHECK(sum.lane[1] == 0x2424bed4da9365dd);
  CHECK(digest_tensor(key, 2, {}) == digest_sum{});
}

TEST_CASE("every flipped bit changes both lanes") {
  const auto which = GENERATE(from_range(available_implementations()));
  const forced choice(which);
  const digest_key key(99);
  for (const std::size_t size : {43u, 8195u}) {
    buffer bytes = counting(size);
    const digest_sum before = digest_tensor(key, 0, view(bytes));
    for (std::size_t bit = 0; bit < 8 * size; bit += size < 100 ? 1 : 61) {
      bytes[bit / 8] ^= static_cast<std::byte>(1u << bit % 8);
      const digest_sum after = digest_tensor(key, 0, view(bytes));
      REQUIRE(after.lane[0] != before.lane[0]);
      REQUIRE(after.lane[1] != before.lane[1]);
      bytes[bit / 8] ^= static_cast<std::byte>(1u << bit % 8);
    }
  }
}

TEST_CASE("a digest sees what is swapped") {
  std::mt19937_64 random(4);
  const digest_key key(7);
  const buffer bytes = random_bytes(random, 4 * digest_tile_bytes);
  const digest_sum before = digest_tensor(key, 1, view(bytes));
  const auto swapped = [&](std::size_t a, std::size_t b, std::size_t size) {
    buffer copy = bytes;
    std::swap_ranges(copy.begin() + std::ptrdiff_t(a), copy.begin() + std::ptrdiff_t(a + size),
                     copy.begin() + std::ptrdiff_t(b));
    return digest_tensor(key, 1, view(copy));
  };
  CHECK(swapped(0, 8, 8) != before);  // words
  CHECK(swapped(0, 4, 4) != before);  // halves of a word
  CHECK(swapped(40, 8000, 8) != before);
  CHECK(swapped(40, 40 + digest_tile_bytes, 8) != before);  // the same word of two tiles
  for (std::size_t a = 0; a < 4; ++a)
    for (std::size_t b = a + 1; b < 4; ++b)
      CHECK(swapped(a * digest_tile_bytes, b * digest_tile_bytes, digest_tile_bytes) != before);

  const buffer other = random_bytes(random, bytes.size());
  CHECK(digest_tensor(key, 1, view(bytes)) + digest_tensor(key, 2, view(other)) !=
        digest_tensor(key, 1, view(other)) + digest_tensor(key, 2, view(bytes)));
  CHECK(digest_tensor(digest_key(8), 1, view(bytes)) != before);
}

TEST_CASE("multipliers are odd and differ by lane, tensor and tile") {
  const digest_key key(3);
  std::vector<std::uint64_t> all;
  for (std::size_t lane = 0; lane < 2; ++lane)
    for (std::uint32_t tensor = 0; tensor < 16; ++tensor)
      for (std::uint64_t tile = 0; tile < 16; ++tile) {
        all.push_back(key.multiplier(lane, tensor, tile));
        CHECK(all.back() % 2 == 1);
      }
  std::sort(all.begin(), all.end());
  CHECK(std::adjacent_find(all.begin(), all.end()) == all.end());
}

TEST_CASE("digests of parts add up to the digest of the tensor") {
  const digest_key key(11);
  const buffer bytes = counting(5 * digest_tile_bytes + 77);
  const digest_sum whole = digest_tensor(key, 4, view(bytes));
  for (std::size_t tiles = 0; tiles <= 5; ++tiles) {
    const std::size_t cut = tiles * digest_tile_bytes;
    CHECK(digest_range(key, 4, 0, {bytes.data(), cut}) +
              digest_range(key, 4, cut, {bytes.data() + cut, bytes.size() - cut}) ==
          whole);
  }
  CHECK_THROWS_AS(digest_range(key, 4, 8, {bytes.data() + 8, 8}), std::invalid_argument);
  CHECK(digest_range(key, 4, std::uint64_t{1} << 32, {bytes.data(), 8192}) !=
        digest_range(key, 4, 0, {bytes.data(), 8192}));
}

TEST_CASE("the change of a digest is known before anything is written") {
  const auto which = GENERATE(from_range(available_implementations()));
  const forced choice(which);
  rc::prop("base + change == target", [] {
    std::mt19937_64 random(*rc::gen::arbitrary<std::uint64_t>());
    const auto unit = *rc::gen::element(1u, 2u, 4u, 8u);
    // Now and then more than one range.
    const auto size_max = *rc::gen::element<std::size_t>(40, 30000, 30000, 2500000);
    const auto size = *rc::gen::inRange<std::size_t>(0, size_max) / unit * unit;
    const double density = *rc::gen::element(1e-4, 0.01, 0.2, 0.6, 1.0);
    const auto tensor = *rc::gen::inRange(0u, 3u);
    const buffer base = random_bytes(random, size);
    const buffer target = changed(random, base, unit, density);
    const std::vector<tensor_view> tensors(3, view(base, unit));
    const digest_key key(random());
    std::uint64_t count = 0;
    const buffer frames = encode(tensor, view(base, unit), view(target, unit), count);
    const buffer untouched = base;
    digest_sum sum = digest_tensor(key, tensor, view(base));
    for (bytes_view rest = view(frames); rest.size > 0;)
      sum += change_of(key, parse(rest, tensors), view(base, unit));
    RC_ASSERT(sum == digest_tensor(key, tensor, view(target)));
    RC_ASSERT(base == untouched);
  });
}
