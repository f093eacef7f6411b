#include "weights/bucket_codec.hpp"

#include <catch2/catch.hpp>
#include <cstring>
#include <random>

#include "kernels/frame.hpp"
#include "made_weights.hpp"
#include "weights/weight_buffer.hpp"
#include "weights/workers.hpp"

using namespace lockstep;

namespace {

constexpr auto seed = public_digest_seed;
constexpr auto limit = std::uint64_t{kernels::frame_bytes_max};

bool same(const weight_buffer& a, const weight_buffer& b) {
  for (std::size_t i = 0; i < a.shape().count(); ++i)
    if (!std::equal(a.tensor(i).begin(), a.tensor(i).end(), b.tensor(i).begin())) return false;
  return true;
}

/// One tensor of each type, of sizes that no vector register divides, and the odd ones.
layout every_dtype() {
  std::vector<tensor_spec> tensors;
  for (unsigned t = 0; t <= static_cast<unsigned>(dtype::last_); ++t) {
    const auto type = static_cast<dtype>(t);
    const std::string name(to_string(type));
    const bool packed = bits_of(type) % 8 != 0;
    tensors.push_back({name, type, {packed ? 28u : 13u, 11}});
    tensors.push_back({name + ".empty", type, {3, 0}});
    if (!packed) tensors.push_back({name + ".scalar", type, {}});
  }
  return layout(std::move(tensors));
}

layout two_ranges() {
  return layout({{"a", dtype::u8, {40}}, {"big", dtype::bf16, {(3u << 19) + 5}}});
}

void check_bounds(const manifest& content, std::size_t buckets, std::uint64_t bytes_max) {
  std::uint64_t sum = 0;
  for (const auto& b : content.buckets) {
    CHECK(b.bytes > 0);
    CHECK(b.bytes <= bytes_max);
    sum += b.bytes;
  }
  CHECK(content.buckets.size() == buckets);
  CHECK(content.bytes == sum);
}

/// `buckets` lead from `base` to `target`: they pass the check, the prediction is what comes of
/// writing them, under the public key and under another, and what comes of it is `target`.
void check_leads(const std::vector<payload>& buckets, weight_buffer& base, weight_buffer& target) {
  const auto before = views(base);
  REQUIRE_FALSE(check_buckets(buckets, before));
  for (const auto key : {seed, std::uint64_t{77}})
    CHECK(predict(key, digest_of(key, before), buckets, before) == digest_of(key, views(target)));
  auto live = base.clone();
  std::vector<std::size_t> touched;
  for (const auto& b : buckets) REQUIRE_FALSE(apply_bucket(b, spans(live), touched));
  CHECK(same(live, target));
  CHECK(std::is_sorted(touched.begin(), touched.end()));
  CHECK(std::adjacent_find(touched.begin(), touched.end()) == touched.end());
  std::vector<std::size_t> differing;
  for (std::size_t i = 0; i < base.shape().count(); ++i)
    if (!std::equal(base.tensor(i).begin(), base.tensor(i).end(), target.tensor(i).begin()))
      differing.push_back(i);
  CHECK(std::includes(touched.begin(), touched.end(), differing.begin(), differing.end()));
}

/// What no staged delta can exceed.
std::uint64_t room_for(const weight_buffer& w) {
  return 2 * w.shape().total_bytes() + 64 * w.shape().count();
}

/// The same as coded buckets, which have to be staged first.
void check_coded(weight_buffer& base, weight_buffer& target, std::uint64_t bytes_max) {
  digest encoded;
  const auto delta = encode_delta(base.shape(), views(base), views(target), bytes_max,
                                  kernels::encoding_choice::coded, &encoded);
  CHECK(encoded == digest_of(public_digest_seed, views(target)));
  check_bounds(delta.content, delta.buckets.size(), bytes_max);
  for (const auto key : {seed, std::uint64_t{77}}) {
    auto staged = delta.buckets;
    staged_states states;
    REQUIRE_FALSE(stage_buckets(key, staged, views(base), room_for(base), states, key + 1));
    CHECK(states.base == digest_of(key, views(base)));
    CHECK(states.target == digest_of(key, views(target)));
    CHECK(states.other_base == digest_of(key + 1, views(base)));
    CHECK(states.other_target == digest_of(key + 1, views(target)));
    check_leads(staged, base, target);
  }
}

TEST_CASE("a bucket's other name is the first half of its SHA-256") {
  // FIPS 180-2, appendix B.1.
  const payload abc(std::vector<std::byte>{std::byte{'a'}, std::byte{'b'}, std::byte{'c'}});
  CHECK(hash_of(abc, bucket_hash::sha256) == hash128{0xba7816bf8f01cfea, 0x414140de5dae2223});
  CHECK_FALSE(hash_of(abc) == hash_of(abc, bucket_hash::sha256));
}

/// Whatever makes buckets names them in the way that it is told.
void check_names(weight_buffer& base, weight_buffer& target, std::uint64_t bytes_max) {
  const auto& shape = base.shape();
  for (const auto how : {bucket_hash::xxh3, bucket_hash::sha256}) {
    const bucket_form form{bytes_max, how};
    const auto check = [&](const manifest& content, const std::vector<payload>& buckets) {
      REQUIRE(content.buckets.size() == buckets.size());
      for (std::size_t i = 0; i < buckets.size(); ++i) {
        const auto& name = content.buckets[i].hash;
        CHECK(name == hash_of(buckets[i], how));
        CHECK(name == hash_like(name, buckets[i]));
      }
    };
    const auto delta = encode_delta(shape, views(base), views(target), form);
    check(delta.content, delta.buckets);
    const auto again = repacked(shape, delta.buckets, views(base), form);
    check(again.content, again.buckets);
    const auto part = carved(shape, delta.buckets, views(base), form);
    check(part.content, part.buckets);
    const full_plan plan(shape, views(target), form);
    std::vector<payload> all;
    for (std::size_t i = 0; i < plan.content().buckets.size(); ++i)
      all.push_back(plan.make(i, views(target)));
    check(plan.content(), all);
  }
}

void check_both_ways(weight_buffer& base, weight_buffer& target, std::uint64_t bytes_max) {
  const auto& shape = base.shape();
  check_coded(base, target, bytes_max);
  check_names(base, target, bytes_max);
  digest encoded;
  const auto delta = encode_delta(shape, views(base), views(target), bytes_max,
                                  kernels::encoding_choice::raw, &encoded);
  CHECK(encoded == digest_of(public_digest_seed, views(target)));
  CHECK(delta.content.layout == shape.fingerprint());
  check_bounds(delta.content, delta.buckets.size(), bytes_max);
  for (std::size_t i = 0; i < delta.buckets.size(); ++i)
    CHECK(hash_of(delta.buckets[i]) == delta.content.buckets[i].hash);
  check_leads(delta.buckets, base, target);

  const full_plan plan(shape, views(target), bytes_max);
  std::vector<payload> buckets;
  for (std::size_t i = 0; i < plan.content().buckets.size(); ++i) {
    buckets.push_back(plan.make(i, views(target)));
    CHECK(buckets[i].size() == plan.content().buckets[i].bytes);
    CHECK(hash_of(buckets[i]) == plan.content().buckets[i].hash);
  }
  CHECK(plan.content().layout == shape.fingerprint());
  check_bounds(plan.content(), buckets.size(), bytes_max);
  // Whoever has weights of this layout cuts them like this, whatever they were.
  const full_cut cut(views(base), bytes_max);
  REQUIRE(cut.count() == buckets.size());
  for (std::size_t i = 0; i < cut.count(); ++i)
    CHECK(hash_of(cut.make(i, views(target))) == hash_of(buckets[i]));
  check_leads(buckets, base, target);
}

payload flipped(const payload& p, std::size_t at) {
  std::vector<std::byte> bytes(p.data(), p.data() + p.size());
  bytes[at] ^= std::byte{0x10};
  return payload(std::move(bytes));
}

payload joined(const payload& a, const payload& b) {
  std::vector<std::byte> bytes(a.data(), a.data() + a.size());
  bytes.insert(bytes.end(), b.data(), b.data() + b.size());
  return payload(std::move(bytes));
}

}  // namespace

TEST_CASE("every number of threads encodes the same buckets") {
  std::mt19937_64 rng(21);
  std::vector<tensor_spec> tensors;
  for (unsigned i = 0; i < 300; ++i)
    tensors.push_back({"small" + std::to_string(i), dtype::bf16, {i * 7, 31}});
  tensors.push_back({"large", dtype::bf16, {11, 1 << 19}});
  const layout shape(std::move(tensors));
  auto base = random_weights(shape, rng);
  auto target = changed(base, rng, 300);
  for (const auto choice : {kernels::encoding_choice::raw, kernels::encoding_choice::coded,
                            kernels::encoding_choice::full}) {
    set_workers(1);
    const auto one = encode_delta(shape, views(base), views(target), limit, choice);
    for (const unsigned threads : {2u, 0u}) {
      set_workers(threads);
      std::vector<payload> shown;
      const auto more = encode_delta(shape, views(base), views(target), limit, choice, nullptr,
                                     [&](const payload& bucket) { shown.push_back(bucket); });
      CHECK(more.content == one.content);
      CHECK(more.buckets == one.buckets);
      CHECK(shown == one.buckets);
    }
  }
  set_workers(0);
}

TEST_CASE("coded buckets are refused where only absorbing ones may be") {
  std::mt19937_64 rng(22);
  const layout shape({{"t", dtype::bf16, {64, 64}}});
  weight_buffer base(shape);
  auto target = base.clone();
  for (std::size_t i = 0; i < 4096; i += 100) target.tensor(0)[2 * i] = std::byte{1};
  const auto delta =
      encode_delta(shape, views(base), views(target), limit, kernels::encoding_choice::coded);
  REQUIRE(delta.buckets.size() == 1);
  const auto failure = check_buckets(delta.buckets, views(base));
  REQUIRE(failure);
  CHECK(failure->reason == errc::bad_frame);
  CHECK(failure->detail == "bucket 0, frame at byte 0: bad_encoding");
  std::vector<std::size_t> touched;
  auto live = base.clone();
  CHECK(apply_bucket(delta.buckets[0], spans(live), touched));
  CHECK(same(live, base));

  const auto refusal = [&](std::vector<payload> all, std::uint64_t room) {
    staged_states states;
    return stage_buckets(seed, all, views(base), room, states).value_or(bucket_failure{});
  };
  const auto room = room_for(base);
  CHECK(refusal({delta.buckets[0], flipped(delta.buckets[0], 50)}, room).detail ==
        "bucket 1, frame at byte 0: bad_checksum");
  CHECK(refusal({joined(delta.buckets[0], flipped(delta.buckets[0], 0))}, room).reason ==
        errc::bad_frame);

  CHECK(refusal({delta.buckets[0], delta.buckets[0]}, room).detail ==
        "bucket 1, a range is there twice");
  CHECK(refusal({joined(delta.buckets[0], delta.buckets[0])}, room).detail ==
        "bucket 0, ranges are not in order");
}

TEST_CASE("buckets may be in any order, and ranges in one of them only ascend") {
  const layout shape({{"a", dtype::bf16, {64}}, {"b", dtype::bf16, {64}}});
  weight_buffer base(shape);
  auto target = base.clone();
  for (std::size_t i = 0; i < 2; ++i) target.tensor(i)[7] = std::byte{1};
  const auto delta = encode_delta(shape, views(base), views(target), 1);
  REQUIRE(delta.buckets.size() == 2);
  const auto& a = delta.buckets[0];
  const auto& b = delta.buckets[1];
  const auto staged = [&](std::vector<payload> buckets) {
    staged_states states;
    const auto failure = stage_buckets(seed, buckets, views(base), room_for(base), states);
    if (!failure) CHECK(states.target == digest_of(seed, views(target)));
    return failure ? failure->detail : "";
  };
  CHECK(staged({b, a}).empty());
  CHECK(staged({joined(a, b)}).empty());
  CHECK(staged({joined(b, a)}) == "bucket 0, ranges are not in order");
}

TEST_CASE("what is dense is coded too, and shorter so") {
  std::mt19937_64 rng(9);
  SECTION("bf16, of which a third changes by a step") {
    auto base = random_weights(layout({{"t", dtype::bf16, {4, 512 * 1024}}}), rng);
    auto target = base.clone();
    for (std::size_t i = 0; i < 4 * 512 * 1024; ++i)
      if (rng() % 3 == 0) target.tensor(0)[2 * i] ^= std::byte{1};
    const auto delta = encode_delta(base.shape(), views(base), views(target), 4 * limit,
                                    kernels::encoding_choice::coded);
    // A bit and a half tells which third it is.
    CHECK(delta.content.bytes < base.shape().total_bytes() / 8);
    check_both_ways(base, target, 4 * limit);
  }
  SECTION("fp32, all of which change a little, as master copies do") {
    auto base = random_weights(layout({{"t", dtype::f32, {1024, 1024}}}), rng);
    const auto floats = [](weight_buffer& w) {
      return reinterpret_cast<float*>(w.tensor(0).data());
    };
    std::normal_distribution<float> weight(0, 0.02f), step(0, 1e-6f);
    for (std::size_t i = 0; i < 1024 * 1024; ++i) floats(base)[i] = weight(rng);
    auto target = base.clone();
    for (std::size_t i = 0; i < 1024 * 1024; ++i) floats(target)[i] += step(rng);
    const auto delta = encode_delta(base.shape(), views(base), views(target), 4 * limit,
                                    kernels::encoding_choice::coded);
    CHECK(delta.content.bytes < base.shape().total_bytes() / 2);
    check_both_ways(base, target, 4 * limit);
  }
}

TEST_CASE("staged buckets grow to what they may and not beyond") {
  // Few coded bytes that stand for many raw ones.
  const layout shape({{"t", dtype::bf16, {512, 1024}}});
  weight_buffer base(shape);
  auto target = base.clone();
  for (std::size_t i = 0; i < 512 * 1024; i += 5) target.tensor(0)[2 * i] = std::byte{1};
  const auto delta =
      encode_delta(shape, views(base), views(target), limit, kernels::encoding_choice::coded);
  auto staged = delta.buckets;
  staged_states states;
  REQUIRE_FALSE(stage_buckets(seed, staged, views(base), 2 << 20, states));
  std::uint64_t bytes = 0;
  for (const auto& b : staged) bytes += b.size();
  CHECK(bytes > 4 * delta.content.bytes);

  staged = delta.buckets;
  CHECK_FALSE(stage_buckets(seed, staged, views(base), bytes, states));
  staged = delta.buckets;
  const auto failure = stage_buckets(seed, staged, views(base), bytes - 1, states);
  REQUIRE(failure);
  CHECK(failure->reason == errc::bad_manifest);

  // One range again and again, each time of a MiB.
  std::vector<payload> many(100, delta.buckets[0]);
  CHECK(stage_buckets(seed, many, views(base), UINT64_MAX, states)->detail ==
        "bucket 1, a range is there twice");
}

TEST_CASE("deltas and full transfers of every dtype lead to the target, bit for bit") {
  const auto number = GENERATE(range(0u, 20u));
  const auto every = GENERATE(2u, 50u, 1000u);
  CAPTURE(number, every);
  std::mt19937_64 rng(number);
  auto base = random_weights(every_dtype(), rng);
  auto target = changed(base, rng, every);
  check_both_ways(base, target, limit);
}

TEST_CASE("the number of changed units is counted in units") {
  const layout shape({{"w", dtype::f32, {100}}, {"x", dtype::f4, {10}}});
  weight_buffer base(shape);
  auto target = base.clone();
  target.tensor(0)[4] = target.tensor(0)[7] = std::byte{1};  // one element
  target.tensor(0)[396] = std::byte{1};
  target.tensor(1)[4] = std::byte{1};
  CHECK(encode_delta(shape, views(base), views(target), limit).content.changed == 3);
  CHECK(full_plan(shape, views(target), limit).content().changed == 105);
}

TEST_CASE("values that compare strangely travel as bits") {
  const layout shape({{"w", dtype::f32, {6}}});
  const std::uint32_t from[] = {0x00000000, 0x7fc00000, 0x7fc00000, 0x7f800001, 0x00000001, 1};
  const std::uint32_t to[] = {0x80000000, 0x7fc00001, 0xffc00000, 0x7fc00001, 0x00000002, 0};
  weight_buffer base(shape);
  weight_buffer target(shape);
  std::memcpy(base.tensor(0).data(), from, sizeof from);
  std::memcpy(target.tensor(0).data(), to, sizeof to);
  CHECK(encode_delta(shape, views(base), views(target), limit).content.changed == 6);
  check_both_ways(base, target, limit);
  check_both_ways(target, base, limit);
  // And the same NaN is no change.
  CHECK(encode_delta(shape, views(base), views(base), limit).buckets.empty());
}

TEST_CASE("tensors over a mebibyte are cut into ranges") {
  std::mt19937_64 rng(1);
  auto base = random_weights(two_ranges(), rng);
  auto target = changed(base, rng, 300);
  for (const auto bytes_max : {limit, 2 * limit, 4 * limit})
    check_both_ways(base, target, bytes_max);
  CHECK(full_plan(base.shape(), views(base), limit).content().buckets.size() > 2);
}

TEST_CASE("many small tensors share buckets, and fill more than one") {
  std::vector<tensor_spec> tensors;
  for (unsigned i = 0; i < 45'000; ++i)
    tensors.push_back({"t" + std::to_string(i), dtype::bf16, {1 + i % 7}});
  std::mt19937_64 rng(2);
  auto base = random_weights(layout(std::move(tensors)), rng);
  auto target = changed(base, rng, 3);
  check_both_ways(base, target, limit);
  const auto buckets = full_plan(base.shape(), views(base), limit).content().buckets.size();
  CHECK(buckets == 2);
}

TEST_CASE("nothing to say takes no bucket") {
  std::mt19937_64 rng(3);
  SECTION("an empty delta") {
    auto w = random_weights(every_dtype(), rng);
    const auto delta = encode_delta(w.shape(), views(w), views(w), limit);
    CHECK(delta.buckets.empty());
    CHECK(delta.content.changed == 0);
    CHECK(predict(seed, digest_of(seed, views(w)), {}, views(w)) == digest_of(seed, views(w)));
    check_both_ways(w, w, limit);
  }
  SECTION("an empty model") {
    weight_buffer w{layout()};
    check_both_ways(w, w, limit);
    CHECK(full_plan(w.shape(), views(w), limit).content().buckets.empty());
  }
  SECTION("a model of empty tensors") {
    weight_buffer w(layout({{"a", dtype::f32, {0}}, {"b", dtype::f4, {0, 5}}}));
    check_both_ways(w, w, limit);
    CHECK(full_plan(w.shape(), views(w), limit).content().buckets.empty());
  }
}

TEST_CASE("the digest sees every byte and where it stands") {
  std::mt19937_64 rng(4);
  auto w = random_weights(every_dtype(), rng);
  const auto whole = digest_of(seed, views(w));
  CHECK(digest_of(seed + 1, views(w)) != whole);
  for (std::size_t i = 0; i < w.shape().count(); ++i) {
    for (auto& b : w.tensor(i)) {
      b ^= std::byte{1};
      CHECK(digest_of(seed, views(w)) != whole);
      b ^= std::byte{1};
    }
  }
  CHECK(digest_of(seed, views(w)) == whole);
}

TEST_CASE("a prediction is of the bytes that are there") {
  std::mt19937_64 rng(5);
  auto base = random_weights(layout({{"a", dtype::bf16, {60}}, {"b", dtype::f32, {9}}}), rng);
  auto target = changed(base, rng, 20);
  const auto delta = encode_delta(base.shape(), views(base), views(target), limit);
  const auto claimed = digest_of(seed, views(base));
  const auto goal = digest_of(seed, views(target));
  auto other = base.clone();
  std::size_t healed = 0, fooled = 0;
  for (std::size_t i = 0; i < other.shape().count(); ++i) {
    for (auto& b : other.tensor(i)) {
      b ^= std::byte{1};
      auto live = other.clone();
      std::vector<std::size_t> touched;
      REQUIRE_FALSE(apply_bucket(delta.buckets[0], spans(live), touched));
      const bool overwritten = same(live, target);
      healed += overwritten ? 1u : 0u;
      // From what is really held, the prediction tells what will come of it. From a base that is
      // only claimed it cannot: that is what the base's own digest is for.
      const auto held = digest_of(seed, views(other));
      CHECK(held != claimed);
      CHECK((predict(seed, held, delta.buckets, views(other)) == goal) == overwritten);
      const bool believed = predict(seed, claimed, delta.buckets, views(other)) == goal;
      CHECK_FALSE((believed && overwritten));
      fooled += believed ? 1u : 0u;
      b ^= std::byte{1};
    }
  }
  CHECK(healed > 10);
  CHECK(fooled > 10);
}

TEST_CASE("an interrupted write is healed by the same buckets") {
  std::mt19937_64 rng(6);
  auto base = random_weights(every_dtype(), rng);
  auto target = changed(base, rng, 20);
  const auto delta = encode_delta(base.shape(), views(base), views(target), limit);
  REQUIRE(delta.buckets.size() == 1);
  const auto frames = count_frames(delta.buckets[0], views(base));
  REQUIRE(frames > 10);
  for (std::size_t cut = 0; cut <= frames; ++cut) {
    auto live = base.clone();
    std::vector<std::size_t> touched;
    REQUIRE_FALSE(apply_bucket(delta.buckets[0], spans(live), touched, cut));
    CHECK(touched.size() == cut);  // one frame for each tensor here
    CHECK(same(live, target) == (cut == frames));
    REQUIRE_FALSE(apply_bucket(delta.buckets[0], spans(live), touched));
    CHECK(same(live, target));
  }
}

TEST_CASE("a damaged bucket is refused before anything is predicted from it") {
  std::mt19937_64 rng(7);
  auto base = random_weights(layout({{"a", dtype::bf16, {60}}, {"b", dtype::f32, {}}}), rng);
  auto target = changed(base, rng, 3);
  const auto delta = encode_delta(base.shape(), views(base), views(target), limit);
  REQUIRE(delta.buckets.size() == 1);
  const auto& good = delta.buckets[0];
  for (std::size_t at = 0; at < good.size(); ++at) {
    const std::vector<payload> bad{flipped(good, at)};
    CAPTURE(at);
    const auto failure = check_buckets(bad, views(base));
    REQUIRE(failure);
    CHECK((failure->reason == errc::bad_checksum || failure->reason == errc::bad_frame));
    CHECK(failure->detail.find("bucket 0, ") == 0);
  }
  for (std::size_t size = 1; size < good.size(); ++size) {
    const std::vector<payload> cut{
        payload(std::vector<std::byte>(good.data(), good.data() + size))};
    const auto failure = check_buckets(cut, views(base));
    // What ends between two frames is well formed, and betrayed by where it leads.
    if (!failure)
      CHECK(predict(seed, digest_of(seed, views(base)), cut, views(base)) !=
            digest_of(seed, views(target)));
    if (size % 100 == 1) CHECK(failure);
  }
  // A write stops where the damage is.
  auto live = base.clone();
  std::vector<std::size_t> touched;
  CHECK(apply_bucket(flipped(good, good.size() - 1), spans(live), touched));
  CHECK(touched.size() == 1);
}

TEST_CASE("ranges must ascend within a bucket, and none may be there twice") {
  std::mt19937_64 rng(8);
  auto base = random_weights(two_ranges(), rng);
  auto target = changed(base, rng, 2);
  const auto delta = encode_delta(base.shape(), views(base), views(target), limit);
  REQUIRE(delta.buckets.size() >= 3);
  REQUIRE_FALSE(check_buckets(delta.buckets, views(base)));
  const auto refused = [&](const std::vector<payload>& buckets) {
    const auto failure = check_buckets(buckets, views(base));
    return failure && failure->reason == errc::bad_frame &&
           failure->detail.find("ranges are not in order") != std::string::npos;
  };
  const auto& b = delta.buckets;
  const auto twice = [&](const std::vector<payload>& buckets) {
    const auto failure = check_buckets(buckets, views(base));
    return failure && failure->reason == errc::bad_frame &&
           failure->detail.find("a range is there twice") != std::string::npos;
  };
  CHECK(twice({b[0], b[0]}));
  CHECK(twice({b[1], b[0], b[1]}));
  CHECK(twice({b[0], joined(b[0], b[1])}));
  // As the ranks of a trainer have it.
  CHECK_FALSE(check_buckets(std::vector{b[1], b[0]}, views(base)));
  CHECK_FALSE(check_buckets(std::vector{b[0], b[2], b[1]}, views(base)));
  CHECK(refused({joined(b[1], b[1])}));
  CHECK(refused({joined(b[1], b[0])}));
  CHECK_FALSE(refused({joined(b[0], b[1])}));
  CHECK_FALSE(refused({b[0], b[2]}));
}

TEST_CASE("frames of another layout are refused") {
  std::mt19937_64 rng(9);
  auto base = random_weights(layout({{"a", dtype::bf16, {60}}, {"b", dtype::bf16, {60}}}), rng);
  auto target = changed(base, rng, 2);
  const auto delta = encode_delta(base.shape(), views(base), views(target), limit);
  const auto refuses = [&](std::vector<tensor_spec> tensors) {
    weight_buffer other{layout(std::move(tensors))};
    std::vector<std::size_t> touched;
    const bool written = !apply_bucket(delta.buckets[0], spans(other), touched);
    return check_buckets(delta.buckets, views(other)).has_value() && !written;
  };
  CHECK(refuses({}));
  CHECK(refuses({{"a", dtype::bf16, {60}}}));
  CHECK(refuses({{"a", dtype::bf16, {60}}, {"b", dtype::f32, {30}}}));
  CHECK(refuses({{"a", dtype::bf16, {60}}, {"b", dtype::bf16, {61}}}));
  CHECK(refuses({{"a", dtype::bf16, {59}}, {"b", dtype::bf16, {60}}}));
}
