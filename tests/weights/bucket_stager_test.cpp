// Deltas that are staged while their buckets arrive.
#include "weights/bucket_stager.hpp"

#include <catch2/catch.hpp>
#include <random>

#include "kernels/frame.hpp"
#include "made_weights.hpp"
#include "weights/weight_buffer.hpp"

using namespace lockstep;

namespace {

constexpr auto seed = public_digest_seed;
constexpr auto other_seed = seed + 1;

/// A delta of five buckets, one for each range; some tensors, and a range, do not change.
struct shipped {
  explicit shipped(kernels::encoding_choice choice) {
    std::mt19937_64 random(1);
    base = random_weights(layout({{"a.same", dtype::f32, {9}},
                                  {"b.large", dtype::bf16, {5, 512 * 1024}},
                                  {"c.small", dtype::bf16, {300}},
                                  {"d.same", dtype::bf16, {1024}}}),
                          random);
    target = base.clone();
    constexpr std::size_t range = 1 << 20;
    for (std::size_t at = 0; at < target.tensor(1).size(); at += 100)
      if (at / range != 3) target.tensor(1)[at] ^= std::byte{1};
    target.tensor(2)[7] ^= std::byte{1};
    buckets = encode_delta(base.shape(), views(base), views(target), 1, choice).buckets;
    REQUIRE(buckets.size() == 5);
  }

  staged_states states() {
    return {digest_of(seed, views(base)), digest_of(seed, views(target)),
            digest_of(other_seed, views(base)), digest_of(other_seed, views(target))};
  }

  weight_buffer base, target;
  std::vector<payload> buckets;
};

void check_same(const staged_states& a, const staged_states& b) {
  CHECK(a.base == b.base);
  CHECK(a.target == b.target);
  CHECK(a.other_base == b.other_base);
  CHECK(a.other_target == b.other_target);
}

}  // namespace

TEST_CASE("buckets that are staged as they come lead where all at once do, in any order") {
  shipped s(GENERATE(kernels::encoding_choice::coded, kernels::encoding_choice::raw));
  const auto order = GENERATE(std::vector{0, 1, 2, 3, 4}, std::vector{3, 0, 4, 2, 1});
  const auto sent = s.buckets;
  bucket_stager stager(seed, views(s.base), UINT64_MAX, other_seed);
  for (const auto i : order) {
    const auto at = static_cast<std::size_t>(i);
    REQUIRE_FALSE(stager.stage({&s.buckets[at], 1}, at));
    // Not only then when all are there.
    CHECK_FALSE(check_buckets({&s.buckets[at], 1}, views(s.base)));
  }
  staged_states states;
  REQUIRE_FALSE(stager.finish(states));
  check_same(states, s.states());
  // To the same buckets, too.
  auto at_once = sent;
  staged_states same;
  REQUIRE_FALSE(stage_buckets(seed, at_once, views(s.base), UINT64_MAX, same));
  for (std::size_t i = 0; i < sent.size(); ++i) CHECK(hash_of(at_once[i]) == hash_of(s.buckets[i]));
}

TEST_CASE("a delta of no bucket leads nowhere, and is read all the same") {
  shipped s(kernels::encoding_choice::coded);
  bucket_stager stager(seed, views(s.base), 0, other_seed);
  staged_states states;
  REQUIRE_FALSE(stager.finish(states));
  const auto here = digest_of(seed, views(s.base));
  const auto there = digest_of(other_seed, views(s.base));
  check_same(states, {here, here, there, there});
}

TEST_CASE("what comes apart is looked at together") {
  shipped s(kernels::encoding_choice::coded);
  staged_states states;
  SECTION("a range that was there is there again") {
    auto again = s.buckets[1];
    bucket_stager stager(seed, views(s.base), UINT64_MAX);
    for (auto* b : {&s.buckets[1], &s.buckets[2]}) REQUIRE_FALSE(stager.stage({b, 1}, 0));
    // At once: its few bytes could stand for all weights, again and again.
    const auto failure = stager.stage({&again, 1}, 3);
    REQUIRE(failure);
    CHECK(failure->reason == errc::bad_frame);
    CHECK(failure->detail == "bucket 3, a range is there twice");
  }
  SECTION("all of them take what they may, and no more") {
    auto staged = s.buckets;
    REQUIRE_FALSE(stage_buckets(seed, staged, views(s.base), UINT64_MAX, states));
    std::uint64_t bytes = 0;
    for (const auto& b : staged) bytes += b.size();
    for (const auto missing : {0u, 1u}) {
      auto sent = s.buckets;
      bucket_stager stager(seed, views(s.base), bytes - missing);
      for (std::size_t i = 0; i + 1 < sent.size(); ++i)
        REQUIRE_FALSE(stager.stage({&sent[i], 1}, i));
      const auto failure = stager.stage({&sent.back(), 1}, sent.size() - 1);
      CHECK(failure.has_value() == (missing != 0));
      if (failure) CHECK(failure->reason == errc::bad_manifest);
    }
  }
  SECTION("one that is refused is named by its number") {
    std::vector<std::byte> bytes(s.buckets[2].data(), s.buckets[2].data() + s.buckets[2].size());
    bytes[50] ^= std::byte{1};
    payload bad(std::move(bytes));
    bucket_stager stager(seed, views(s.base), UINT64_MAX);
    REQUIRE_FALSE(stager.stage({s.buckets.data(), 2}, 0));
    const auto failure = stager.stage({&bad, 1}, 2);
    REQUIRE(failure);
    CHECK(failure->detail == "bucket 2, frame at byte 0: bad_checksum");
  }
}
