#include <rapidcheck.h>

#include <algorithm>

#include "test_files.hpp"
#include "weights/published.hpp"

using namespace lockstep;
using namespace lockstep::test;

namespace {

// Every dtype, with shapes that are scalar, empty, odd or flat.
layout random_layout() {
  const auto count = *rc::gen::inRange<std::size_t>(1, 12);
  std::vector<tensor_spec> specs;
  for (std::size_t i = 0; i < count; ++i) {
    tensor_spec spec;
    spec.name = "t" + std::to_string(i) + *rc::gen::element<std::string>("", ".weight", " é\"\\\n");
    spec.type = static_cast<dtype>(*rc::gen::inRange(0, static_cast<int>(dtype::last_) + 1));
    spec.shape =
        *rc::gen::container<std::vector<std::uint64_t>>(rc::gen::inRange<std::uint64_t>(0, 7));
    spec.shape.resize(std::min<std::size_t>(spec.shape.size(), 3));
    // Packed types must fill whole bytes.
    if (bits_of(spec.type) < 8) spec.shape.push_back(4);
    specs.push_back(std::move(spec));
  }
  return layout(std::move(specs));
}

weight_buffer random_weights(const layout& shape) {
  weight_buffer weights(shape);
  for (std::size_t i = 0; i < shape.count(); ++i)
    for (auto& b : weights.tensor(i)) b = static_cast<std::byte>(*rc::gen::inRange(0, 256));
  return weights;
}

}  // namespace

TEST_CASE("every dtype is among those that make the round trip") {
  std::vector<tensor_spec> specs;
  for (int i = 0; i <= static_cast<int>(dtype::last_); ++i) {
    const auto type = static_cast<dtype>(i);
    const std::string name(to_string(type));
    specs.push_back({name, type, {3, 4}});
    specs.push_back({name + " empty", type, {4, 0}});
    if (bits_of(type) >= 8) specs.push_back({name + " scalar", type, {}});
  }
  weight_buffer weights((layout(specs)));
  unsigned seed = 1;
  for (std::size_t i = 0; i < specs.size(); ++i)
    for (auto& b : weights.tensor(i)) b = static_cast<std::byte>((seed = seed * 1664525 + 1) >> 24);
  temp_dir dir;
  write_safetensors(dir / "model.safetensors", weights);
  const auto read = checkpoint::open(dir.path());
  CHECK(read.shape() == weights.shape());
  CHECK(contents(read) == contents(weights));
}

TEST_CASE("any weights survive the file, and any change the stream, bit for bit") {
  CHECK(rc::check("round trip", [] {
    const auto shape = random_layout();
    const auto base = random_weights(shape);
    auto target = base.clone();
    const auto changes =
        *rc::gen::container<std::vector<std::uint32_t>>(rc::gen::arbitrary<std::uint32_t>());
    for (const auto change : changes) {
      const auto t = target.tensor(change % shape.count());
      if (!t.empty()) t[change / 16 % t.size()] ^= static_cast<std::byte>(change >> 24);
    }
    temp_dir dir;
    write_safetensors(dir / "base/model.safetensors", base);
    const auto read = checkpoint::open(dir / "base");
    RC_ASSERT(read.shape() == shape);
    RC_ASSERT(contents(read) == contents(base));

    publish_options options;
    options.encoding = *rc::gen::element(published_encoding::xored, published_encoding::overwrite,
                                         published_encoding::coded);
    options.checksum = *rc::gen::element(published_checksum::xxh3_128, published_checksum::adler32);
    options.shard_bytes_max = *rc::gen::element<std::uint64_t>(1, 50, 1u << 30);
    publish_delta(dir.path(), 1, 0, shape, reader_of(base), reader_of(target), options);
    auto weights = in_memory(read);
    published_delta::open(published_dir(dir.path(), 1), shape).apply(weights);
    RC_ASSERT(contents(weights) == contents(target));
  }));
}
