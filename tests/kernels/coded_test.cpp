// The coded encoding: whatever the elements, dense or sparse, in every implementation, what is
// staged is the change that was encoded, and is proven against the base it was meant for.
#include "kernels/coded.hpp"

#include <rapidcheck/catch.h>

#include <catch2/catch.hpp>

#include "tests/kernels/coded_tensors.hpp"
#include "tests/kernels/documented.hpp"

using namespace lockstep::kernels;

namespace {

/// What `frames` are on `live`: staged, with both digests.
struct outcome {
  buffer staged;
  staged_digest digest;
};

outcome stage_all(const digest_key& key, const buffer& frames, tensor_view live) {
  outcome result;
  frame_stager stager;
  for (bytes_view rest = view(frames); rest.size > 0;) {
    const frame f = parse(rest, {live});
    const auto status = stager.stage(key, f, live, result.staged, result.digest);
    if (status != frame_status::ok) throw std::runtime_error(to_string(status));
  }
  return result;
}

/// Encoded in `which`, staged and applied: the target, proven, also on a mix of both.
buffer require_round_trip(const buffer& base, const buffer& target, std::uint32_t unit,
                          const class_model& model, std::mt19937_64& random) {
  const buffer frames = encode_coded(view(base, unit), view(target, unit), model);
  const digest_key key(random());
  const outcome staged = stage_all(key, frames, view(base, unit));
  digest_sum before;
  digest_sum after;
  for (bytes_view rest = view(frames); rest.size > 0;) {
    const frame f = parse(rest, {view(base, unit)});
    before += digest_range(key, 0, f.offset, {base.data() + f.offset, f.range_bytes});
    after += digest_range(key, 0, f.offset, {target.data() + f.offset, f.range_bytes});
  }
  RC_ASSERT(staged.digest.base == before);
  RC_ASSERT(staged.digest.base + staged.digest.change == after);
  buffer live = base;
  for (auto i = live.begin(); i != live.end(); ++i)
    if (random() % 2 == 0) *i = target[std::size_t(i - live.begin())];
  apply_all(staged.staged, {view(base, unit)}, live, unit);
  RC_ASSERT(live == target);
  return frames;
}

}  // namespace

TEST_CASE("the coded frame of docs/wire-format.md is written and read byte by byte") {
  buffer base(128);
  const auto put = [](buffer& to, std::size_t i, std::uint16_t value) {
    std::memcpy(&to[2 * i], &value, 2);
  };
  for (std::size_t i = 0; i < 64; ++i) put(base, i, i % 2 == 0 ? 0x3f80 : 0x3a83);
  buffer target = base;
  put(target, 5, 0x3a84);
  put(target, 9, 0x3a84);
  put(target, 10, 0x3f7f);
  put(target, 33, 0x3a82);
  put(target, 41, 0x3a87);
  class_model model;
  model.classes = 2;
  model.order = step_order::sign_magnitude;
  model.thresholds[0] = 120;
  buffer out;
  delta_encoder encoder;
  CHECK(encoder.encode(3, view(base, 2), view(target, 2), 0, model, encoding_choice::coded, out) ==
        5);
  CHECK(out == documented("coded"));

  const std::vector<tensor_view> tensors{{}, {}, {}, view(base, 2)};
  bytes_view rest = view(out);
  const frame f = parse(rest, tensors);
  const digest_key key(1);
  frame_stager stager;
  buffer staged;
  staged_digest digest;
  REQUIRE(stager.stage(key, f, view(base, 2), staged, digest) == frame_status::ok);
  CHECK(digest.base.lane[0] == 0x48df1cae7693fcf0);
  CHECK(digest.base.lane[1] == 0x5b9989dd0de7bc46);
  CHECK((digest.base + digest.change).lane[0] == 0x370f982e69c2044e);
  CHECK((digest.base + digest.change).lane[1] == 0xb62df8f30b43ddc3);
  apply_all(staged, tensors, base, 2);
  CHECK(base == target);
}

TEST_CASE("coded frames lead from base to target, whatever the elements") {
  rc::prop("all kinds", [] {
    std::mt19937_64 random(*rc::gen::arbitrary<std::uint64_t>());
    const auto kind = *rc::gen::elementOf(kinds());
    const auto size = *rc::gen::oneOf(rc::gen::inRange<std::size_t>(1, 300),
                                      rc::gen::inRange<std::size_t>(1, 40000));
    const double density = *rc::gen::element(1e-4, 1e-3, 0.01, 0.03, 0.1, 0.5, 1.0);
    const auto [base, target] = make_change(random, kind, size, density);
    const class_model model = *rc::gen::arbitrary<bool>()
                                  ? plan_classes(view(base, kind.unit), view(target, kind.unit))
                                  : random_model(random, kind.unit);
    std::optional<buffer> first;
    for (const auto which : available_implementations()) {
      const forced choice(which);
      const buffer frames = require_round_trip(base, target, kind.unit, model, random);
      if (!first) first = frames;
      RC_ASSERT(frames == *first);
    }
  });
}

TEST_CASE("coded frames lead from base to target where elements are any bits") {
  rc::prop("random bits", [] {
    std::mt19937_64 random(*rc::gen::arbitrary<std::uint64_t>());
    const auto unit = *rc::gen::element(1u, 2u, 4u, 8u);
    const auto size = *rc::gen::inRange<std::size_t>(1, 40000) * unit;
    const double density = *rc::gen::element(1e-4, 0.01, 0.2, 1.0);
    const buffer base = random_bytes(random, size);
    const buffer target = changed(random, base, unit, density);
    const class_model model = random_model(random, unit);
    for (const auto which : available_implementations()) {
      const forced choice(which);
      require_round_trip(base, target, unit, model, random);
    }
  });
}

TEST_CASE("a coded change may follow another by more than a raw gap holds") {
  // Staged, the last has escapes in front of it: one, and as many as a range can have.
  std::mt19937_64 random(11);
  for (const unsigned unit : {1u, 2u}) {
    const auto elements = frame_span_bytes_max / unit;
    for (const std::size_t front : {std::size_t{1}, std::size_t{300'000}}) {
      const buffer base = random_bytes(random, frame_span_bytes_max);
      buffer target = base;
      for (std::size_t i = 0; i < front; ++i) target[i * unit] ^= std::byte{1};
      target[(elements - 1) * unit] ^= std::byte{1};
      for (const auto which : available_implementations()) {
        INFO(to_string(which) << ", unit " << unit << ", " << front << " changes in front");
        const forced choice(which);
        class_model model;
        model.classes = 1;
        require_round_trip(base, target, unit, model, random);
      }
    }
  }
}

TEST_CASE("coded frames of tensors around the borders of ranges, chunks and blocks") {
  std::mt19937_64 random(7);
  for (const auto& kind : kinds()) {
    for (const std::size_t bytes :
         {std::size_t{8}, std::size_t{512}, digest_tile_bytes - 8, digest_tile_bytes,
          digest_tile_bytes + 8, frame_span_bytes_max - 8, frame_span_bytes_max,
          frame_span_bytes_max + 8, 2 * frame_span_bytes_max + 4104}) {
      INFO(kind.name << " of " << bytes << " bytes");
      auto [base, target] = make_change(random, kind, bytes / kind.unit, 0.01);
      for (const std::size_t at : {std::size_t{0}, bytes - 1, bytes / 2})
        target[at] ^= std::byte{1};
      require_round_trip(base, target, kind.unit,
                         plan_classes(view(base, kind.unit), view(target, kind.unit)), random);
    }
  }
}

TEST_CASE("every bit pattern of two bytes can become any other") {
  std::mt19937_64 random(9);
  for (const auto order : {step_order::integer, step_order::sign_magnitude}) {
    class_model model;
    model.order = order;
    buffer base(2 * 65536);
    for (std::uint32_t i = 0; i < 65536; ++i) std::memcpy(&base[2 * i], &i, 2);
    for (const std::uint16_t to :
         std::initializer_list<std::uint16_t>{0x0000, 0x8000, 0x0001, 0x8001, 0x7f80, 0xff80,
                                              0x7fc1, 0xffff, 0x3f80, 0x7fff, 0x8080, 0x0080}) {
      buffer target(base.size());
      for (std::size_t i = 0; i < 65536; ++i) std::memcpy(&target[2 * i], &to, 2);
      require_round_trip(base, target, 2, model, random);
    }
  }
}

TEST_CASE("fields and exceptions of every width come back") {
  std::mt19937_64 random(14);
  const class_model model;
  for (unsigned bits = 0; bits < 40; ++bits) {
    for (unsigned spread = 0; spread < 12; ++spread) {
      const std::size_t elements = std::max<std::size_t>(256, std::size_t{16} << spread);
      const buffer base = random_bytes(random, 8 * elements);
      for (const unsigned share : {1u, 16u}) {  // of the changes that are far
        buffer target = base;
        for (std::size_t i = 0; i < elements; i += 1 + random() % (std::size_t{1} << spread)) {
          std::uint64_t value = 0;
          std::memcpy(&value, &base[8 * i], 8);
          const std::uint64_t far = random() & ((std::uint64_t{1} << bits) - 1);
          value += 1 + (random() % share == 0 ? far : 0);
          std::memcpy(&target[8 * i], &value, 8);
        }
        require_round_trip(base, target, 8, model, random);
      }
    }
  }
}

TEST_CASE("every byte can become any other, as a number and as two of four bits") {
  std::mt19937_64 random(10);
  for (const auto order : {step_order::integer, step_order::sign_magnitude, step_order::nibbles}) {
    class_model model;
    model.order = order;
    buffer base(65536 * 8);
    buffer target(base.size());
    // Every eighth changes, so that coded is the shortest.
    for (std::size_t i = 0; i < 65536; ++i) {
      base[8 * i] = static_cast<std::byte>(i & 255);
      target[8 * i] = static_cast<std::byte>(i >> 8);
    }
    const buffer frames = require_round_trip(base, target, 1, model, random);
    bytes_view rest = view(frames);
    CHECK(parse(rest, {view(base, 1)}).encoding == frame_encoding::coded);
  }
}

TEST_CASE("a preference decides, unless it would take more bytes") {
  std::mt19937_64 random(11);
  const auto kind = kinds().front();
  delta_encoder encoder;
  const auto encoding_of = [&](double density, encoding_choice choice) {
    const auto [base, target] = make_change(random, kind, 4096, density);
    buffer out;
    encoder.encode(0, view(base, 2), view(target, 2), 0,
                   plan_classes(view(base, 2), view(target, 2)), choice, out);
    bytes_view rest = view(out);
    const frame f = parse(rest, {view(base, 2)});
    CHECK(rest.size == 0);
    return f.encoding;
  };
  CHECK(encoding_of(0.02, encoding_choice::coded) == frame_encoding::coded);
  CHECK(encoding_of(0.02, encoding_choice::raw) == frame_encoding::raw);
  CHECK(encoding_of(0.02, encoding_choice::full) == frame_encoding::full);
  CHECK(encoding_of(0.9, encoding_choice::raw) == frame_encoding::full);

  // Noise cannot be coded; one change in a small tensor is shorter raw.
  const buffer base = random_bytes(random, 8192);
  buffer out;
  encoder.encode(0, view(base, 2), view(random_bytes(random, 8192), 2), 0, {},
                 encoding_choice::coded, out);
  bytes_view rest = view(out);
  CHECK(parse(rest, {view(base, 2)}).encoding == frame_encoding::full);
  out.clear();
  CHECK(encoder.encode(0, view(base, 2), view(base, 2), 0, {}, encoding_choice::coded, out) == 0);
  CHECK(encoder.encode(0, view(base, 2), view(base, 2), 0, {}, encoding_choice::full, out) == 0);
  CHECK(out.empty());
}

TEST_CASE("raw and full frames are staged as they are") {
  std::mt19937_64 random(12);
  const buffer base = random_bytes(random, 4000);
  const buffer target = changed(random, base, 2, 0.01);
  std::uint64_t count = 0;
  buffer frames = encode(0, view(base, 2), view(target, 2), count);
  encode_full(0, view(target, 2), 0, frames);
  const digest_key key(3);
  const outcome staged = stage_all(key, frames, view(base, 2));
  CHECK(staged.staged == frames);
  const auto before = digest_tensor(key, 0, view(base));
  CHECK(staged.digest.base == before + before);
  CHECK(staged.digest.base + staged.digest.change ==
        digest_tensor(key, 0, view(target)) + digest_tensor(key, 0, view(target)));
}

TEST_CASE("a coded frame on another base is refused, or does not prove the base") {
  rc::prop("other base", [] {
    std::mt19937_64 random(*rc::gen::arbitrary<std::uint64_t>());
    const auto kind = *rc::gen::elementOf(kinds());
    const auto [base, target] = make_change(random, kind, 3000, 0.02);
    const buffer frames =
        encode_coded(view(base, kind.unit), view(target, kind.unit),
                     plan_classes(view(base, kind.unit), view(target, kind.unit)));
    if (frames.empty()) return;
    const buffer other = changed(random, base, kind.unit, 0.1);
    if (other == base) return;
    bytes_view rest = view(frames);
    const frame f = parse(rest, {view(base, kind.unit)});
    frame_stager stager;
    buffer out(3, std::byte{7});
    staged_digest digest;
    const digest_key key(random());
    const auto status = stager.stage(key, f, view(other, kind.unit), out, digest);
    if (status == frame_status::ok) {
      RC_ASSERT(digest.base == digest_tensor(key, 0, view(other)));
      RC_ASSERT(digest.base != digest_tensor(key, 0, view(base)));
    } else {
      RC_ASSERT(status == frame_status::bad_position);
      RC_ASSERT(out == buffer(3, std::byte{7}));
      RC_ASSERT(digest.base == digest_sum{});
    }
    // What was refused leaves nothing behind.
    out.clear();
    digest = {};
    RC_ASSERT(stager.stage(key, f, view(base, kind.unit), out, digest) == frame_status::ok);
    buffer live = base;
    apply_all(out, {view(base, kind.unit)}, live, kind.unit);
    RC_ASSERT(live == target);
  });
}

TEST_CASE("a model is planned from either state, and the same every time") {
  std::mt19937_64 random(13);
  for (const auto& kind : kinds()) {
    INFO(kind.name);
    const auto [base, target] = make_change(random, kind, 300000, 0.01);
    const auto model = plan_classes(view(base, kind.unit), view(target, kind.unit));
    for (const auto which : available_implementations()) {
      const forced choice(which);
      const auto again = plan_classes(view(base, kind.unit), view(target, kind.unit));
      CHECK(again.classes == model.classes);
      CHECK(again.order == model.order);
      CHECK(again.thresholds == model.thresholds);
    }
    CHECK((model.order == step_order::nibbles) == (kind.what == kind_of_element::nibbles));
    if (kind.what == kind_of_element::floats && kind.unit == 2) {
      CHECK(model.classes >= 4);
      // In more than one range the last classes save less than their time is worth.
      const auto [large, changed_large] = make_change(random, kind, 600000, 0.01);
      const auto of_large = plan_classes(view(large, kind.unit), view(changed_large, kind.unit));
      CHECK(of_large.classes >= 3);
      CHECK(of_large.classes < model.classes);
    }
  }
}

TEST_CASE("what cannot be coded is refused before anything is appended") {
  const buffer bytes(100);
  delta_encoder encoder;
  buffer out;
  const auto encode_with = [&](tensor_view base, tensor_view target, class_model model) {
    encoder.encode(0, base, target, 0, model, encoding_choice::coded, out);
  };
  using refused = std::invalid_argument;
  class_model model;
  CHECK_THROWS_AS(encode_with(view(bytes, 2), view(buffer(102), 2), model), refused);
  CHECK_THROWS_AS(encode_with(view(bytes, 2), view(bytes, 4), model), refused);
  CHECK_THROWS_AS(encode_with(view(bytes, 3), view(bytes, 3), model), refused);
  CHECK_THROWS_AS(plan_classes(view(bytes, 2), view(buffer(102), 2)), refused);
  model.order = step_order::nibbles;
  CHECK_THROWS_AS(encode_with(view(bytes, 2), view(bytes, 2), model), refused);
  model = {};
  model.classes = 0;
  CHECK_THROWS_AS(encode_with(view(bytes, 2), view(bytes, 2), model), refused);
  model.classes = 9;
  CHECK_THROWS_AS(encode_with(view(bytes, 2), view(bytes, 2), model), refused);
  model.classes = 2;  // a threshold of 0
  CHECK_THROWS_AS(encode_with(view(bytes, 2), view(bytes, 2), model), refused);
  model.classes = 3;
  model.thresholds = {5, 5};
  CHECK_THROWS_AS(encode_with(view(bytes, 2), view(bytes, 2), model), refused);
  CHECK(out.empty());
}
