// Tensors split by rows: pieces of whole rows, that together are the tensors and no more.
#include "weights/row_split.hpp"

#include <rapidcheck.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <map>
#include <string>

#include "messages/errors.hpp"
#include "weights/bucket_codec.hpp"

using namespace lockstep;

namespace {

layout model() {
  return layout({{"a", dtype::bf16, {5, 3}},
                 {"b", dtype::f32, {}},
                 {"c", dtype::f32, {0, 7}},
                 {"d", dtype::u8, {9}},
                 {"e", dtype::f4, {2, 3}},     // rows of a byte and a half
                 {"f", dtype::f4, {4, 2, 2}},  // rows of two bytes
                 {"g", dtype::i64, {1, 40}}});
}

std::vector<std::string> names_of(const layout& shape) {
  std::vector<std::string> out;
  for (const auto& spec : shape.tensors()) out.push_back(spec.name);
  return out;
}

}  // namespace

TEST_CASE("tensors are split into runs of rows, the last ones shorter or missing") {
  const row_split split(model(), 4);
  CHECK(names_of(split.shape()) == std::vector<std::string>{"a@0/4", "a@1/4", "a@2/4", "b", "c",
                                                            "d@0/4", "d@1/4", "d@2/4", "e", "f@0/4",
                                                            "f@1/4", "f@2/4", "f@3/4", "g"});
  const auto& shape = split.shape();
  CHECK(shape[0].shape == std::vector<std::uint64_t>{2, 3});
  CHECK(shape[2].shape == std::vector<std::uint64_t>{1, 3});
  CHECK(shape[7].shape == std::vector<std::uint64_t>{3});
  CHECK(shape[12].shape == std::vector<std::uint64_t>{1, 2, 2});
  CHECK(split[2].tensor == 0);
  CHECK(split[2].offset == 24);
  CHECK(split[2].part == 2);
  CHECK_FALSE(split[2].alone);
  CHECK(split[3].alone);
  CHECK(shape.total_bytes() == model().total_bytes());
}

TEST_CASE("a rank of several parts has neighbouring rows, and the first what is not split") {
  const row_split split(model(), 4);
  const auto names = [&](std::uint32_t rank) {
    const auto share = split.share(rank, 2);
    std::vector<std::string> out;
    for (std::size_t i = 0; i < share.size(); ++i)
      if (share[i]) out.push_back(split.shape()[i].name);
    return out;
  };
  CHECK(names(0) == std::vector<std::string>{"a@0/4", "a@1/4", "b", "c", "d@0/4", "d@1/4", "e",
                                             "f@0/4", "f@1/4", "g"});
  CHECK(names(1) == std::vector<std::string>{"a@2/4", "d@2/4", "f@2/4", "f@3/4"});
}

TEST_CASE("in one part nothing is split") {
  const row_split split(model(), 1);
  CHECK(split.shape() == model());
  CHECK(split.share(0, 1) == whole_model(model()));
  CHECK(split.share(1, 3) == even_shard(model(), 1, 3));
}

TEST_CASE("names that would stand for two things, and numbers of parts that make no sense") {
  const layout twice({{"a", dtype::u8, {4}}, {"a@1/2", dtype::u8, {}}});
  CHECK_THROWS_AS(row_split(twice, 2), error);
  CHECK_NOTHROW(row_split(twice, 1));
  // Split as well, it would be named by whoever names the piece.
  const layout both({{"a", dtype::u8, {4}}, {"a@1/2", dtype::u8, {2}}});
  CHECK_THROWS_AS(row_split(both, 2), error);
  CHECK_NOTHROW(row_split(both, 3));
  CHECK_THROWS_AS(row_split(model(), 0), error);
  CHECK_THROWS_AS(row_split(model(), row_split::parts_max + 1), error);
  CHECK_THROWS_AS(row_split(model(), 4).share(0, 3), error);
  CHECK_THROWS_AS(row_split(model(), 4).share(0, 0), error);
  CHECK_THROWS_AS(row_split(model(), 4).share(0, 8), error);
}

TEST_CASE("every byte of a model is in one piece of one rank, read and written where it lies") {
  rc::check([] {
    const auto parts_of_rank = *rc::gen::inRange<std::uint32_t>(1, 4);
    const auto ranks = *rc::gen::inRange<std::uint32_t>(1, 5);
    const auto rows = *rc::gen::inRange<std::uint64_t>(0, 40);
    const auto columns = *rc::gen::inRange<std::uint64_t>(1, 4);
    auto specs = model().tensors();
    specs.push_back({"z", dtype::i16, {rows, columns}});
    const layout whole(std::move(specs));
    weight_buffer weights(whole);
    const row_split split(whole, parts_of_rank * ranks);
    const auto& shape = split.shape();
    std::vector<std::span<std::byte>> all;
    for (std::size_t i = 0; i < whole.count(); ++i) all.push_back(weights.tensor(i));
    const auto memory = split.memory(all);
    const auto reader = split.reader(reader_of(weights));
    std::map<const std::byte*, int> covered;
    for (std::uint32_t rank = 0; rank < ranks; ++rank) {
      const auto share = split.share(rank, ranks);
      for (std::size_t i = 0; i < shape.count(); ++i) {
        if (!share[i]) continue;
        RC_ASSERT(memory[i].size() == shape.bytes(i));
        const auto read = reader(i);
        RC_ASSERT(read.data() == memory[i].data() && read.size() == memory[i].size());
        for (const auto& b : memory[i]) ++covered[&b];
      }
    }
    RC_ASSERT(covered.size() == whole.total_bytes());
    for (const auto& [at, times] : covered) RC_ASSERT(times == 1);
  });
}

TEST_CASE("memory that is not lent has no pieces") {
  const row_split split(model(), 2);
  const std::vector<std::span<std::byte>> none(model().count());
  const auto reader = split.reader([](std::size_t) { return std::span<const std::byte>(); });
  for (const auto& piece : split.memory(none)) CHECK(piece.empty());
  for (std::size_t i = 0; i < split.shape().count(); ++i) CHECK(reader(i).empty());
}

TEST_CASE("a tensor of another size than its layout's has no pieces, not even some that fit") {
  const row_split split(layout({{"a", dtype::u8, {4}}, {"b", dtype::u8, {}}}), 2);
  // Of two bytes the second half would be what the first one is; of six both halves would be there.
  for (const std::size_t size : {1u, 2u, 3u, 5u, 6u}) {
    CAPTURE(size);
    std::vector<std::byte> bytes(size), one(1);
    const auto reader = split.reader(
        [&](std::size_t tensor) { return std::span<const std::byte>(tensor == 0 ? bytes : one); });
    CHECK_THROWS_WITH(reader(0), Catch::Contains("'a'") && Catch::Contains("not 4"));
    CHECK_THROWS_AS(reader(1), error);
    CHECK(reader(2).data() == one.data());
    CHECK_THROWS_AS(split.memory(std::vector<std::span<std::byte>>{bytes, one}), error);
    CHECK_THROWS_AS(split.memory(std::vector<std::span<std::byte>>{one, one}), error);
  }
  std::vector<std::byte> whole(4), two(2);
  CHECK_THROWS_AS(split.memory(std::vector<std::span<std::byte>>{whole, two}), error);
  CHECK_THROWS_AS(split.memory(std::vector<std::span<std::byte>>{whole}), error);
  std::vector<std::byte> one(1);
  CHECK_NOTHROW(split.memory(std::vector<std::span<std::byte>>{whole, one}));
  CHECK_THROWS_AS(split.memory(std::vector<std::span<std::byte>>{whole, one, one}), error);
}
