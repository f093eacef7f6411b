// Parts of a model: together they are the model, and what is computed over them adds up to it.
#include "weights/shard.hpp"

#include <catch2/catch.hpp>

#include "messages/errors.hpp"
#include "weights/bucket_codec.hpp"

using namespace lockstep;

namespace {

layout model(std::size_t count) {
  std::vector<tensor_spec> specs;
  for (std::size_t i = 0; i < count; ++i)
    specs.push_back({"t" + std::to_string(i),
                     i % 3 == 0 ? dtype::f32 : dtype::bf16,
                     {7 * i + 1, i % 4 == 3 ? std::uint64_t{0} : 5}});
  return layout(std::move(specs));
}

}  // namespace

TEST_CASE("even parts are each tensor once, and even where tensors allow") {
  for (const std::size_t count :
       {std::size_t{0}, std::size_t{1}, std::size_t{2}, std::size_t{40}}) {
    const auto shape = model(count);
    for (const std::uint32_t ranks : {1u, 2u, 3u, 7u, 64u}) {
      std::vector<int> owners(count);
      std::uint64_t largest = 0, tensor_max = 0;
      for (std::uint32_t rank = 0; rank < ranks; ++rank) {
        const auto part = even_shard(shape, rank, ranks);
        REQUIRE(part.size() == count);
        for (std::size_t i = 0; i < count; ++i) owners[i] += part[i] ? 1 : 0;
        largest = std::max(largest, shard_layout(shape, part).total_bytes());
      }
      for (std::size_t i = 0; i < count; ++i) tensor_max = std::max(tensor_max, shape.bytes(i));
      CHECK(std::count(owners.begin(), owners.end(), 1) == static_cast<std::ptrdiff_t>(count));
      CHECK(largest <= shape.total_bytes() / ranks + tensor_max);
    }
  }
}

TEST_CASE("digests of the parts add up to the model's, and deltas of the parts are the model's") {
  const auto shape = model(20);
  weight_buffer base(shape), target(shape);
  for (std::size_t i = 0; i < shape.count(); ++i)
    for (std::size_t k = 0; k < base.tensor(i).size(); ++k) {
      base.tensor(i)[k] = static_cast<std::byte>(i * 31 + k);
      target.tensor(i)[k] = static_cast<std::byte>(i * 31 + k + (k % 9 == 0 ? 1 : 0));
    }
  constexpr std::uint32_t ranks = 3;
  constexpr std::uint64_t limit = 2 << 20;
  digest sum;
  std::vector<payload> buckets;
  for (std::uint32_t rank = 0; rank < ranks; ++rank) {
    shard_mask part(shape.count());
    for (std::size_t i = 0; i < part.size(); ++i) part[i] = i % ranks == rank;
    const auto shape_of_part = shard_layout(shape, part);
    CHECK(shape_of_part.count() == shape.count());
    const auto from = views_of(shape_of_part, shard_reader(reader_of(base), part));
    const auto to = views_of(shape_of_part, shard_reader(reader_of(target), part));
    const auto d = digest_of(9, from);
    sum = {sum.lane0 + d.lane0, sum.lane1 + d.lane1};
    const auto delta = encode_delta(shape_of_part, from, to, limit);
    buckets.insert(buckets.end(), delta.buckets.begin(), delta.buckets.end());
    CHECK(unpacked_mask(packed_mask(part), shape.count()) == part);
  }
  const auto whole = views_of(shape, reader_of(base));
  CHECK(sum == digest_of(9, whole));
  REQUIRE_FALSE(check_buckets(buckets, whole));
  const auto predicted = predict(9, sum, buckets, whole);
  CHECK(predicted == digest_of(9, views_of(shape, reader_of(target))));
}

TEST_CASE("a part is named by its tensors; strange and doubled names are refused") {
  const auto shape = model(4);
  CHECK(shard_of(shape, {"t2", "t0"}) == shard_mask{true, false, true, false});
  for (const auto& bad : {std::vector<std::string>{"x"}, std::vector<std::string>{"t1", "t1"}})
    CHECK_THROWS_AS(shard_of(shape, bad), error);
}

TEST_CASE("a mask that travels is ascending indices below the count, or none") {
  const auto bytes = [](std::vector<std::uint8_t> x) {
    std::vector<std::byte> out;
    for (const auto b : x) out.push_back(static_cast<std::byte>(b));
    return payload(std::move(out));
  };
  CHECK(unpacked_mask(payload(), 3) == shard_mask(3, false));
  CHECK_FALSE(unpacked_mask(bytes({1}), 3));
  CHECK_FALSE(unpacked_mask(bytes({3, 0, 0, 0}), 3));
  CHECK_FALSE(unpacked_mask(bytes({1, 0, 0, 0, 1, 0, 0, 0}), 3));
  CHECK_FALSE(unpacked_mask(bytes({2, 0, 0, 0, 1, 0, 0, 0}), 3));
  CHECK_FALSE(unpacked_mask(bytes({0, 0, 0, 128}), 3));
}
