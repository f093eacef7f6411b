// What of weights, and of what changes in them, is of a receiver that takes a part of the tensors.
#include <catch2/catch.hpp>
#include <random>

#include "kernels/frame.hpp"
#include "made_weights.hpp"
#include "messages/errors.hpp"
#include "weights/bucket_codec.hpp"
#include "weights/shard.hpp"

using namespace lockstep;

namespace {

constexpr auto bucket_max = std::uint64_t{kernels::frame_bytes_max};

/// Every fourth tensor has no bytes.
layout model(std::size_t count) {
  std::vector<tensor_spec> specs;
  for (std::size_t i = 0; i < count; ++i)
    specs.push_back({"t" + std::to_string(i), dtype::bf16, {i + 1, i % 4 == 3 ? 0u : 5u}});
  return layout(std::move(specs));
}

}  // namespace

TEST_CASE("the part that a receiver takes is a bit a tensor, in one spelling") {
  const auto bytes = [](std::vector<std::uint8_t> x) {
    std::vector<std::byte> out;
    for (const auto b : x) out.push_back(static_cast<std::byte>(b));
    return payload(std::move(out));
  };
  const auto shape = model(10);  // the fourth and the eighth have no bytes
  CHECK(part_from(payload(), shape).empty());
  shard_mask taken(10);
  taken[0] = taken[8] = taken[9] = true;
  CHECK(packed_part(taken) == bytes({0x01, 0x03}));
  CHECK(part_from(packed_part(taken), shape) == taken);
  CHECK(packed_part({}).size() == 0);

  const auto why = [&](const payload& x) -> std::string {
    try {
      part_from(x, shape);
      return "";
    } catch (const error& e) {
      CHECK(e.code() == errc::wrong_layout);
      return e.what();
    }
  };
  const std::string length = "its part is not one of this many tensors";
  CHECK(why(bytes({1})) == length);
  CHECK(why(bytes({1, 0, 0})) == length);
  for (unsigned bit = 2; bit < 8; ++bit)
    CHECK(why(bytes({1, static_cast<std::uint8_t>(1u << bit)})) ==
          "its part names tensors that there are not");
  CHECK(why(bytes({0, 0})) == "its part holds nothing");
  CHECK(why(bytes({0x88, 0})) == "its part holds nothing");
  CHECK(why(bytes({0xff, 0x03})) == "its part is the whole, and called a part");
  CHECK(why(bytes({0x77, 0x03})) == "");  // all but those without bytes
  CHECK_FALSE(why(bytes({1})).empty());
}

TEST_CASE("a part of tensors is all of them, those that are not taken emptied") {
  const auto shape = model(5);
  weight_buffer w(shape);
  const auto all = views(w);
  const auto same = part_of(all, {});
  for (std::size_t i = 0; i < all.size(); ++i) CHECK(same[i].bytes.data == all[i].bytes.data);
  const shard_mask taken{false, true, false, true, true};
  const auto part = part_of(all, taken);
  const auto part_shape = shard_layout(shape, taken);
  REQUIRE(part.size() == shape.count());
  for (std::size_t i = 0; i < part.size(); ++i) {
    CHECK(part[i].bytes.size == part_shape.bytes(i));
    CHECK(part[i].bytes.size == (taken[i] ? shape.bytes(i) : 0));
  }
}

TEST_CASE("what is carved of a delta leads each part to its target, and together that is all") {
  const auto choice = GENERATE(kernels::encoding_choice::coded, kernels::encoding_choice::raw,
                               kernels::encoding_choice::full);
  std::mt19937_64 rng(11);
  const layout shape({{"a", dtype::bf16, {(3u << 19) + 5}},
                      {"b", dtype::f8_e4m3, {1000}},
                      {"c", dtype::f32, {33, 7}},
                      {"d", dtype::f32, {(1u << 19) + 3}},
                      {"e", dtype::u8, {0}},
                      {"f", dtype::f16, {}},
                      {"g", dtype::f64, {100}}});
  auto base = random_weights(shape, rng);
  auto target = changed(base, rng, 40);
  // Larger buckets than those that it is carved into.
  const auto delta = encode_delta(shape, views(base), views(target), 4 * bucket_max, choice);
  std::uint64_t sum = 0, bytes = 0;
  for (unsigned which = 0; which < 3; ++which) {
    CAPTURE(which);
    shard_mask taken(shape.count());
    for (std::size_t i = 0; i < taken.size(); ++i) taken[i] = i % 3 == which;
    const auto part = shard_layout(shape, taken);
    auto c = carved(part, delta.buckets, views(base), bucket_max);
    CHECK(c.content.layout == part.fingerprint());
    REQUIRE(c.content.buckets.size() == c.buckets.size());
    for (const auto& bucket : c.buckets) CHECK(bucket.size() <= bucket_max);
    sum += c.content.changed;
    bytes += c.content.bytes;

    const auto held = part_of(views(base), taken), led = part_of(views(target), taken);
    staged_states states;
    REQUIRE_FALSE(stage_buckets(public_digest_seed, c.buckets, held, UINT64_MAX, states));
    CHECK(states.base == digest_of(public_digest_seed, held));
    CHECK(states.target == digest_of(public_digest_seed, led));
    REQUIRE_FALSE(check_buckets(c.buckets, held));
    CHECK(predict(public_digest_seed, states.base, c.buckets, held) == states.target);
    auto live = base.clone();
    std::vector<std::size_t> touched;
    for (const auto& b : c.buckets) REQUIRE_FALSE(apply_bucket(b, spans(live), touched));
    for (std::size_t i = 0; i < shape.count(); ++i) {
      const auto& wanted = taken[i] ? target : base;
      CHECK(std::equal(live.tensor(i).begin(), live.tensor(i).end(), wanted.tensor(i).begin()));
    }
  }
  // Full frames overwrite what has not changed, too.
  if (choice == kernels::encoding_choice::full)
    CHECK(sum >= delta.content.changed);
  else
    CHECK(sum == delta.content.changed);
  CHECK(bytes == delta.content.bytes);
}

TEST_CASE("of a delta that does not touch a part nothing is carved, and of a damaged one neither") {
  std::mt19937_64 rng(12);
  const layout shape({{"a", dtype::u8, {4000}}, {"b", dtype::u8, {4000}}});
  auto base = random_weights(shape, rng);
  auto target = base.clone();
  target.tensor(0)[7] ^= std::byte{1};
  auto delta = encode_delta(shape, views(base), views(target), bucket_max);
  const auto none =
      carved(shard_layout(shape, {false, true}), delta.buckets, views(base), bucket_max);
  CHECK(none.buckets.empty());
  CHECK(none.content.bytes == 0);
  CHECK(none.content.changed == 0);
  REQUIRE(delta.buckets.size() == 1);
  const auto& whole = delta.buckets[0];
  delta.buckets[0] = payload(std::vector<std::byte>(whole.data(), whole.data() + whole.size() - 1));
  CHECK_THROWS_AS(
      carved(shard_layout(shape, {true, false}), delta.buckets, views(base), bucket_max), error);
}
