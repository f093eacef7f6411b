#include "weights/change_history.hpp"

#include <algorithm>
#include <catch2/catch.hpp>
#include <random>

#include "kernels/frame.hpp"
#include "made_weights.hpp"
#include "weights/shard.hpp"
#include "weights/weight_buffer.hpp"
#include "weights/workers.hpp"

using namespace lockstep;

namespace {

constexpr std::uint64_t bucket_max = kernels::frame_bytes_max;
constexpr std::uint64_t no_limit = ~std::uint64_t{0};

/// Several ranges, and one of each width of element.
layout shape_of_all() {
  return layout({{"a", dtype::bf16, {(3u << 19) + 5}},
                 {"none", dtype::f32, {0}},
                 {"b", dtype::f32, {1000}},
                 {"c", dtype::f64, {33}},
                 {"d", dtype::u8, {1 << 20}}});
}

bool same(const weight_buffer& a, const weight_buffer& b) {
  for (std::size_t i = 0; i < a.shape().count(); ++i)
    if (!std::equal(a.tensor(i).begin(), a.tensor(i).end(), b.tensor(i).begin())) return false;
  return true;
}

/// Weights that are trained, all that they ever were, and what is remembered of it.
struct trained {
  explicit trained(std::uint64_t bytes_max, layout shape = shape_of_all())
      : history(bytes_max), now(std::move(shape)) {
    for (std::size_t i = 0; i < now.shape().count(); ++i)
      for (auto& b : now.tensor(i)) b = static_cast<std::byte>(rng());
  }

  digest state() { return digest_of(public_digest_seed, views(now)); }

  /// About one byte in `every` gets one of two values: half of them are as they were before.
  void step(unsigned every) {
    earlier.push_back(now.clone());
    states.push_back(state());
    for (std::size_t i = 0; i < now.shape().count(); ++i)
      for (auto& b : now.tensor(i))
        if (rng() % every == 0) b ^= std::byte{1};
    const auto delta = encode_delta(now.shape(), views(earlier.back()), views(now), bucket_max);
    history.record(states.back(), marks_of(delta.buckets, views(now)));
  }

  std::optional<encoded_delta> merged(std::size_t steps, std::uint64_t bytes_max = no_limit) {
    return history.merged(steps, now.shape(), views(now), bucket_max, bytes_max);
  }

  /// What is merged from `steps` ago leads here from there, and from each state since.
  void check_leads(std::size_t steps) {
    CAPTURE(steps);
    const auto delta = merged(steps);
    REQUIRE(delta);
    CHECK_FALSE(check_buckets(delta->buckets, views(now)));
    for (auto from = steps; from > 0; --from) {
      CAPTURE(from);
      auto base = earlier[earlier.size() - from].clone();
      const auto held = states[states.size() - from];
      CHECK(predict(public_digest_seed, held, delta->buckets, views(base)) == state());
      std::vector<std::size_t> touched;
      for (const auto& bucket : delta->buckets)
        REQUIRE_FALSE(apply_bucket(bucket, spans(base), touched));
      CHECK(same(base, now));
    }
  }

  std::mt19937_64 rng{7};
  change_history history;
  weight_buffer now;
  std::vector<weight_buffer> earlier;
  std::vector<digest> states;
};

}  // namespace

TEST_CASE("history: what is merged leads from every state since, sparse or dense") {
  trained t(no_limit);
  // At nine, marks are a bitmap and frames are not yet full ones.
  for (const auto every : {400u, 9u, 3000u, 9u, 100'000u, 3u}) {
    t.step(every);
    for (std::size_t steps = 1; steps <= t.history.size(); ++steps) t.check_leads(steps);
  }
  REQUIRE(t.history.size() == 6);
}

TEST_CASE("history: the marks of buckets are the same in whichever order they come") {
  trained t(no_limit);
  t.step(100);
  // A bucket for each frame.
  auto delta = encode_delta(t.now.shape(), views(t.earlier.back()), views(t.now), 1);
  REQUIRE(delta.buckets.size() > 1);
  std::reverse(delta.buckets.begin(), delta.buckets.end());
  change_history again(no_limit);
  again.record(t.states.back(), marks_of(delta.buckets, views(t.now)));
  const auto merged = again.merged(1, t.now.shape(), views(t.now), bucket_max, no_limit);
  REQUIRE(merged);
  CHECK(merged->content == t.merged(1)->content);
}

TEST_CASE("history: one step merged is the delta itself") {
  trained t(no_limit);
  t.step(100);
  t.step(100);
  const auto delta = encode_delta(t.now.shape(), views(t.earlier.back()), views(t.now), bucket_max);
  const auto merged = t.merged(1);
  REQUIRE(merged);
  CHECK(merged->content == delta.content);
}

TEST_CASE("history: what is noted and merged is the same on any number of threads") {
  const auto of = [](unsigned threads) {
    set_workers(threads);
    trained t(no_limit, layout({{"a", dtype::bf16, {(9u << 19) + 3}},
                                {"b", dtype::f32, {(5u << 18) + 1}},
                                {"c", dtype::u8, {77}}}));
    for (const auto every : {400u, 9u, 3000u}) t.step(every);
    const auto bytes = t.history.bytes();
    auto merged = t.merged(3);
    set_workers(0);
    REQUIRE(merged);
    return std::pair(bytes, std::move(*merged));
  };
  const auto [bytes, alone] = of(1);
  for (const unsigned threads : {2u, 5u}) {
    const auto [bytes_now, merged] = of(threads);
    CHECK(bytes_now == bytes);
    CHECK(merged.content == alone.content);
  }
}

TEST_CASE("history: several steps merged are less than all of them") {
  trained t(no_limit);
  std::uint64_t replayed = 0;
  for (int i = 0; i < 8; ++i) {
    t.step(50);
    replayed += encode_delta(t.now.shape(), views(t.earlier.back()), views(t.now), bucket_max)
                    .content.bytes;
  }
  const auto merged = t.merged(8);
  REQUIRE(merged);
  CHECK(merged->content.bytes < replayed);
  CHECK_FALSE(t.merged(8, merged->content.bytes - 1));
  CHECK(t.merged(8, merged->content.bytes));
}

TEST_CASE("history: knows what was, in order, also where it came back") {
  trained t(no_limit);
  const auto first = t.now.clone();
  t.step(1000);
  t.step(1000);
  CHECK(t.history.states() == t.states);
  // Back to the start, and away again.
  t.earlier.push_back(t.now.clone());
  t.states.push_back(t.state());
  const auto back = encode_delta(t.now.shape(), views(t.now), views(t.earlier[0]), bucket_max);
  t.now.copy_from(t.now.shape(), reader_of(first));
  t.history.record(t.states.back(), marks_of(back.buckets, views(t.now)));
  t.step(1000);
  CHECK(t.history.states() == t.states);
  CHECK(t.states.front() == t.states.back());
  t.check_leads(1);
  t.check_leads(4);
}

TEST_CASE("history: forgets the oldest, and all where one step alone is too much") {
  trained t(no_limit);
  t.step(100);
  const auto one = t.history.bytes();
  trained bounded(one * 5 / 2);
  for (int i = 0; i < 6; ++i) {
    bounded.step(100);
    CHECK(bounded.history.bytes() <= one * 5 / 2);
  }
  CHECK(bounded.history.size() == 2);
  CHECK(bounded.history.states() ==
        std::vector<digest>(bounded.states.end() - 2, bounded.states.end()));
  CHECK_FALSE(bounded.merged(3));
  bounded.check_leads(2);
  bounded.step(3);
  CHECK(bounded.history.size() == 0);
  CHECK(bounded.history.bytes() == 0);
  CHECK_FALSE(bounded.merged(1));
}

TEST_CASE("history: no more than so many steps, however small") {
  trained t(no_limit, layout({{"a", dtype::u8, {4}}}));
  for (std::size_t i = 0; i < change_history::steps_max + 5; ++i) t.step(4);
  CHECK(t.history.size() == change_history::steps_max);
}

TEST_CASE("history: costs about a byte for each change, and a bit for each element at most") {
  trained sparse(no_limit), dense(no_limit);
  sparse.step(100);
  dense.step(2);
  std::uint64_t elements = 0;
  for (std::size_t i = 0; i < dense.now.shape().count(); ++i)
    elements += dense.now.shape().bytes(i) / unit_bytes(dense.now.shape()[i].type);
  const auto changed =
      encode_delta(sparse.now.shape(), views(sparse.earlier.back()), views(sparse.now), bucket_max)
          .content.changed;
  CHECK(sparse.history.bytes() < changed * 5 / 4 + 1000);
  CHECK(dense.history.bytes() < elements / 8 + 1000);
}

TEST_CASE("history: what is merged of a part leads its tensors from every state, and no others") {
  trained t(no_limit);
  for (const auto every : {400u, 9u, 3000u, 50u}) t.step(every);
  const std::vector<shard_mask> parts{{true, false, false, false, false},
                                      {false, true, true, false, true},
                                      {false, false, false, true, false}};
  for (std::size_t steps = 1; steps <= t.history.size(); ++steps) {
    std::uint64_t sum = 0;
    for (const auto& taken : parts) {
      CAPTURE(steps, taken);
      const auto shape = shard_layout(t.now.shape(), taken);
      const auto led = part_of(views(t.now), taken);
      const auto delta = t.history.merged(steps, shape, led, bucket_max, no_limit);
      REQUIRE(delta);
      CHECK(delta->content.layout == shape.fingerprint());
      sum += delta->content.bytes;
      CHECK_FALSE(check_buckets(delta->buckets, led));
      for (auto from = steps; from > 0; --from) {
        CAPTURE(from);
        auto base = t.earlier[t.earlier.size() - from].clone();
        const auto before = base.clone();
        const auto held = digest_of(public_digest_seed, part_of(views(base), taken));
        CHECK(predict(public_digest_seed, held, delta->buckets, part_of(views(base), taken)) ==
              digest_of(public_digest_seed, led));
        std::vector<std::size_t> touched;
        for (const auto& bucket : delta->buckets)
          REQUIRE_FALSE(apply_bucket(bucket, spans(base), touched));
        for (std::size_t i = 0; i < taken.size(); ++i) {
          const auto& wanted = taken[i] ? t.now : before;
          CHECK(std::equal(base.tensor(i).begin(), base.tensor(i).end(), wanted.tensor(i).begin()));
        }
      }
    }
    CHECK(sum == t.merged(steps)->content.bytes);
  }
}
