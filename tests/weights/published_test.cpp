#include "weights/published.hpp"

#include <sys/mman.h>

#include <cstdlib>
#include <nlohmann/json.hpp>

#include "support/places.hpp"
#include "test_files.hpp"
#include "weights/weight_stream.hpp"

using namespace lockstep;
using namespace lockstep::test;

namespace {

const fs::path golden = test_data() / "published";
const fs::path tiny_rl = example_data() / "tiny-rl";

// Walks a whole trace and compares every tensor's digest with the expected one.
void check_trace(const fs::path& trace) {
  auto weights = in_memory(checkpoint::open(trace / "base"));
  const auto stream = weight_stream::open(trace / "stream", weights.shape());
  for (std::size_t i = 0; i < stream.versions().size(); ++i) stream.load(i, weights);
  const auto expected = nlohmann::json::parse(get(trace / "expected.json"));
  CHECK(stream.versions().back().version == expected["final_version"]);
  REQUIRE(weights.shape().count() == expected["xxh3_128"].size());
  for (std::size_t i = 0; i < weights.shape().count(); ++i)
    CHECK(published_digest(published_checksum::xxh3_128, weights.tensor(i)) ==
          expected["xxh3_128"][weights.shape()[i].name]);
}

weight_buffer filled(const layout& shape, unsigned seed) {
  weight_buffer weights(shape);
  for (std::size_t i = 0; i < shape.count(); ++i)
    for (auto& b : weights.tensor(i)) b = static_cast<std::byte>((seed = seed * 1664525 + 1) >> 24);
  return weights;
}

const layout three({{"a", dtype::bf16, {4, 4}}, {"b", dtype::u8, {5}}, {"c", dtype::f32, {2}}});

}  // namespace

TEST_CASE("digests are spelled as the format wants them") {
  const std::string abc = "abc";
  CHECK(published_digest(published_checksum::xxh3_128, bytes(abc)) ==
        "06b05ab6733a618578af5f94892f3950");
  CHECK(published_digest(published_checksum::xxh3_128, {}) == "99aa06d3014798d86001c324468d497f");
  CHECK(published_digest(published_checksum::adler32, bytes(abc)) == "024d0127");
  CHECK(published_digest(published_checksum::adler32, {}) == "00000001");
}

TEST_CASE("the golden streams give the expected checkpoints") {
  for (const auto* format : {"xxh3-128", "adler32"}) {
    INFO(format);
    const auto base = checkpoint::open(golden / format / "base");
    const auto expected = checkpoint::open(golden / format / "expect_v2");
    const auto stream = weight_stream::open(golden / format / "stream", base.shape());
    REQUIRE(stream.versions().size() == 3);
    auto weights = in_memory(base);
    stream.load(0, weights);
    CHECK(contents(weights) != contents(base));
    CHECK(contents(weights) != contents(expected));
    stream.load(1, weights);
    CHECK(contents(weights) == contents(expected));
    stream.load(2, weights);  // an index that maps nothing
    CHECK(contents(weights) == contents(expected));
  }
}

TEST_CASE("what is published again reads back to the golden bytes") {
  for (const auto encoding : {published_encoding::xored, published_encoding::overwrite})
    for (const auto checksum : {published_checksum::xxh3_128, published_checksum::adler32}) {
      temp_dir dir;
      const auto base = checkpoint::open(golden / "xxh3-128/base");
      const auto target = checkpoint::open(golden / "xxh3-128/expect_v2");
      publish_options options;
      options.encoding = encoding;
      options.checksum = checksum;
      options.metadata = {{"lockstep_run", "7"}};
      publish_delta(dir.path(), 3, 2, base.shape(), reader_of(base), reader_of(target), options);
      const auto delta = published_delta::open(dir / "weight_v000003", base.shape());
      CHECK(delta.version() == 3);
      CHECK(delta.base_version() == 2);
      CHECK(delta.encoding() == encoding);
      CHECK(delta.checksum() == checksum);
      CHECK(delta.metadata().at("lockstep_run") == "7");
      CHECK(delta.count() == 2);
      CHECK(delta.compressed_bytes() > 0);
      auto weights = in_memory(base);
      delta.apply(weights);
      CHECK(contents(weights) == contents(target));
    }
}

TEST_CASE("a real run of twelve versions ends in the recorded bytes") {
  check_trace(tiny_rl);
}

TEST_CASE("a larger real run ends in the recorded bytes where it is present") {
  const auto* traces = std::getenv("TRACES");
  if (!traces || !fs::exists(fs::path(traces) / "rl-8m")) {
    WARN("skipped: TRACES does not name a directory that holds rl-8m");
    return;
  }
  check_trace(fs::path(traces) / "rl-8m");
}

TEST_CASE("only changed tensors are published, in as many shards as asked for") {
  temp_dir dir;
  const auto base = filled(three, 1);
  auto target = base.clone();
  target.tensor(0)[3] ^= std::byte{1};
  target.tensor(2)[7] ^= std::byte{128};
  publish_options options;
  options.shard_bytes_max = 1;
  publish_delta(dir.path(), 1, 0, three, reader_of(base), reader_of(target), options);
  const auto at = dir / "weight_v000001";
  CHECK(at == published_dir(dir.path(), 1));
  CHECK(fs::exists(at / "model-00000-of-00002.safetensors"));
  CHECK(fs::exists(at / "model-00001-of-00002.safetensors"));
  const auto index = nlohmann::json::parse(get(at / "model.safetensors.index.json"));
  CHECK(index["weight_map"] == nlohmann::json{{"a", "model-00000-of-00002.safetensors"},
                                              {"c", "model-00001-of-00002.safetensors"}});
  CHECK(index["metadata"] == nlohmann::json{{"version", "000001"},
                                            {"base_version", "000000"},
                                            {"delta_encoding", "xor"},
                                            {"compression_format", "zstd"},
                                            {"checksum_format", "xxh3-128"}});
  // The compressed part announces its content size, for readers that want to know.
  const auto shard = checkpoint::open(at / "model-00000-of-00002.safetensors");
  CHECK(ZSTD_getFrameContentSize(shard.tensor(0).data(), shard.tensor(0).size()) == 32);
  auto weights = base.clone();
  weight_stream::open(dir.path(), three).load(0, weights);
  CHECK(contents(weights) == contents(target));
}

TEST_CASE("a delta without changes is an index and nothing else") {
  temp_dir dir;
  const auto base = filled(three, 1);
  publish_delta(dir.path(), 1234567, 5, three, reader_of(base), reader_of(base));
  const auto at = dir / "weight_v1234567";
  CHECK(std::distance(fs::directory_iterator(at), fs::directory_iterator()) == 1);
  auto weights = base.clone();
  published_delta::open(at, three).apply(weights);
  CHECK(contents(weights) == contents(base));
}

TEST_CASE("a full version is an ordinary checkpoint in shards") {
  temp_dir dir;
  const auto source = filled(three, 2);
  publish_options options;
  options.shard_bytes_max = 33;
  options.metadata = {{"lockstep_run", "7"}};
  publish_full(dir.path(), 4, three, reader_of(source), options);
  const auto read = checkpoint::open(dir / "weight_v000004");
  CHECK(contents(read) == contents(source));
  CHECK(fs::exists(dir / "weight_v000004/model-00001-of-00002.safetensors"));
  const auto index =
      nlohmann::json::parse(get(dir / "weight_v000004/model.safetensors.index.json"));
  CHECK(index["metadata"] ==
        nlohmann::json{{"version", "000004"}, {"total_size", 45}, {"lockstep_run", "7"}});
}

TEST_CASE("a version is published once, and leftovers of an attempt that died are cleared") {
  temp_dir dir;
  const auto base = filled(three, 1);
  const auto target = filled(three, 2);
  const auto publish = [&] {
    publish_delta(dir.path(), 1, 0, three, reader_of(base), reader_of(target));
  };
  put(dir / "weight_v000001/model-00003-of-00004.safetensors",
      get(golden / "xxh3-128/base/model.safetensors"));
  put(dir / "weight_v000001/model.safetensors.index.json.tmp", "{");
  publish();
  CHECK(std::distance(fs::directory_iterator(dir / "weight_v000001"), fs::directory_iterator()) ==
        2);
  const auto before = get(dir / "weight_v000001/model-00000-of-00001.safetensors");
  check_refused(publish, errc::unwritable, {"weight_v000001", "published already"});
  check_refused([&] { publish_full(dir.path(), 1, three, reader_of(base)); }, errc::unwritable,
                {"published already"});
  CHECK(get(dir / "weight_v000001/model-00000-of-00001.safetensors") == before);
}

TEST_CASE("a failed publication leaves no index and so no version") {
  temp_dir dir;
  const auto base = filled(three, 1);
  const auto target = filled(three, 2);
  fs::create_directories(dir / "weight_v000001/model-00000-of-00001.safetensors/x");
  check_refused([&] { publish_delta(dir.path(), 1, 0, three, reader_of(base), reader_of(target)); },
                errc::unwritable, {"weight_v000001"});
  CHECK_FALSE(fs::exists(dir / "weight_v000001/model.safetensors.index.json"));
  put(dir / "file", "x");
  check_refused(
      [&] { publish_delta(dir / "file", 1, 0, three, reader_of(base), reader_of(target)); },
      errc::unwritable, {"file/weight_v000001"});
}

TEST_CASE("what cannot be published is refused before anything is written") {
  temp_dir dir;
  const auto base = filled(three, 1);
  const auto source = reader_of(base);
  const auto check = [&](std::uint64_t version, std::uint64_t from, publish_options options,
                         const char* part) {
    check_refused([&] { publish_delta(dir.path(), version, from, three, source, source, options); },
                  errc::bad_input, {"weight_v", part});
    CHECK(fs::is_empty(dir.path()));
  };
  check(0, 0, {}, "never published");
  check(3, 3, {}, "not an earlier version");
  publish_options own;
  own.metadata = {{"delta_encoding", "x"}};
  check(3, 2, own, "'delta_encoding' is the format's own");
  check_refused([&] { publish_full(dir.path(), 1, three, source, own); }, errc::bad_input, {});
  check_refused([&] { publish_full(dir.path(), 0, three, source); }, errc::bad_input, {});
  check_refused(
      [&] {
        publish_delta(dir.path(), 1, 0, three, source,
                      [&](std::size_t) { return base.tensor(1).first(4); });
      },
      errc::wrong_layout, {"'a'", "another length"});
  CHECK(fs::is_empty(dir.path()));
}

TEST_CASE("overwrite refuses a tensor that its positions cannot address") {
  temp_dir dir;
  const std::uint64_t size = overwrite_bytes_max + 1;
  // Address space only: the refusal must come before a byte is looked at.
  void* memory =
      ::mmap(nullptr, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  REQUIRE(memory != MAP_FAILED);
  const auto reader = [&](std::size_t) {
    return std::span<const std::byte>(static_cast<const std::byte*>(memory), size);
  };
  publish_options options;
  options.encoding = published_encoding::overwrite;
  check_refused(
      [&] {
        publish_delta(dir.path(), 1, 0, layout({{"big", dtype::u8, {size}}}), reader, reader,
                      options);
      },
      errc::wrong_layout, {"'big'", "4294967296", "use \"xor\""});
  CHECK(fs::is_empty(dir.path()));
  ::munmap(memory, size);
}
