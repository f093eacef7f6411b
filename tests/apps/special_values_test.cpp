#include <cstring>
#include <random>

#include "apps/program.hpp"

namespace lockstep::test {

namespace {

// Every dtype of the format, in as many shapes as matter: a scalar (but for those packed below a
// byte, of which one fills none), an empty tensor, one that is no multiple of anything, a matrix.
layout every_dtype() {
  std::vector<tensor_spec> specs;
  for (int i = 0; i <= static_cast<int>(dtype::last_); ++i) {
    const auto type = static_cast<dtype>(i);
    const std::string name(to_string(type));
    const bool packed = bits_of(type) % 8 != 0;
    if (!packed) specs.push_back({name + ".scalar", type, {}});
    if (!packed) specs.push_back({name + ".odd", type, {13}});
    specs.push_back({name + ".empty", type, {3, 0, 5}});
    specs.push_back({name + ".matrix", type, {16, 24}});
  }
  return layout(std::move(specs));
}

weight_buffer random_bits(unsigned seed) {
  weight_buffer out(every_dtype());
  std::mt19937 rng(seed);
  for (std::size_t i = 0; i < out.shape().count(); ++i)
    for (auto& b : out.tensor(i)) b = static_cast<std::byte>(rng());
  return out;
}

template <class Number>
void set(weight_buffer& weights, const std::string& tensor, std::size_t at, Number bits) {
  const auto bytes = weights.tensor(weights.shape().find(tensor).value());
  std::memcpy(bytes.data() + at * sizeof bits, &bits, sizeof bits);
}

// Values that arithmetic would not keep: signalling and quiet NaNs with payloads, −0, subnormals.
void set_special(weight_buffer& weights, std::uint32_t turn) {
  const std::uint32_t f32[] = {0x7f800001u + turn, 0xffc12345u + turn, 0x80000000u, 1u + turn};
  const std::uint16_t bf16[] = {0x7f81, 0xffc1, 0x8000, 0x0001};
  const std::uint16_t f16[] = {0x7c01, 0xfe55, 0x8000, 0x0001};
  const std::uint64_t f64[] = {0x7ff0000000000001u + turn, 0xfff8dead00000000u, 1ull << 63, 1u};
  for (std::size_t i = 0; i < 4; ++i) {
    const auto at = (i + turn) % 13;
    set(weights, "F32.odd", at, f32[i]);
    set(weights, "BF16.odd", at, bf16[i]);
    set(weights, "F16.odd", at, f16[i]);
    set(weights, "F64.odd", at, f64[i]);
  }
  set(weights, "F32.scalar", 0, 0x80000000u ^ (turn << 31));  // 0 and −0 in turn
}

std::vector<weight_buffer> history() {
  std::vector<weight_buffer> all;
  all.push_back(random_bits(1));
  for (std::uint32_t v = 1; v <= 3; ++v) {
    auto next = v == 2 ? random_bits(2) : all.back().clone();  // 2 changes everything
    set_special(next, v);
    all.push_back(std::move(next));
  }
  return all;
}

}  // namespace

TEST_CASE("every dtype and every bit pattern arrives bit for bit, faults or not") {
  const auto faults = GENERATE(false, true);
  const auto published = GENERATE(false, true);
  CAPTURE(faults, published);
  const temp_dir dir;
  const auto all = history();
  make_checkpoint(dir / "base", all[0]);
  for (std::uint64_t v = 1; v < all.size(); ++v) {
    publish_options how;
    if (v == 3) how.encoding = published_encoding::overwrite;
    if (published)
      publish_delta(dir / "stream", v, v - 1, all[v].shape(), reader_of(all[v - 1]),
                    reader_of(all[v]), how);
    else
      make_checkpoint(dir / "stream" / ("v" + std::to_string(v)), all[v]);
  }
  arguments more{"--json", "--receivers", "3", "--out", (dir / "out").string()};
  if (faults)
    for (const auto* f : {"apply-fail@1:0", "crash@2:1", "false-ok@3:2", "corrupt-frame@3:0"})
      more.insert(more.end(), {"--inject", f});
  const auto r = passed(replay(dir / "base", dir / "stream", more));
  CHECK(r.syncs.size() == 3);
  const auto healed = r.summary["reseeds"].get<int>() + r.summary["catch_ups"].get<int>();
  CHECK(healed == (faults ? 4 : 0));
  check_written(dir / "out", 3, all.back());
}

TEST_CASE("a model of empty tensors only can be replayed") {
  const temp_dir dir;
  const weight_buffer model{layout({{"a", dtype::bf16, {0}}, {"b", dtype::f32, {4, 0}}})};
  make_checkpoint(dir / "base", model);
  make_checkpoint(dir / "stream" / "v1", model);
  make_checkpoint(dir / "stream" / "v2", model);
  passed(replay(dir / "base", dir / "stream",
                {"--json", "--receivers", "2", "--out", (dir / "out").string()}));
  check_written(dir / "out", 2, model);
}

TEST_CASE("a scalar alone is a model") {
  const temp_dir dir;
  weight_buffer base{layout({{"x", dtype::f32, {}}})};
  auto target = base.clone();
  target.tensor(0)[3] = std::byte{0x80};  // 0 becomes −0
  make_checkpoint(dir / "base", base);
  make_checkpoint(dir / "stream" / "v1", target);
  const auto r = passed(replay(dir / "base", dir / "stream",
                               {"--json", "--receivers", "2", "--out", (dir / "out").string()}));
  CHECK(r.syncs[0]["changed"] == 1);
  CHECK(r.syncs[0]["elements"] == 1);
  check_written(dir / "out", 2, target);
}

TEST_CASE("names that need escaping arrive, in reports and files") {
  const temp_dir dir;
  weight_buffer base{layout({{"layer \"0\"\n\\w é", dtype::u8, {5}}})};
  auto target = base.clone();
  target.tensor(0)[4] = std::byte{9};
  make_checkpoint(dir / "base", base);
  make_checkpoint(dir / "stream" / "v1", target);
  passed(replay(dir / "base", dir / "stream", {"--json", "--out", (dir / "out").string()}));
  check_written(dir / "out", 4, target);
}

}  // namespace lockstep::test
