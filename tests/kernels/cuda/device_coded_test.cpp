// Coded frames on a device: staged as the CPU stages them, refused as the CPU refuses them.
#include <catch2/catch.hpp>

#include "kernels/frame_layout.hpp"
#include "tests/kernels/coded_tensors.hpp"
#include "tests/kernels/cuda/beds.hpp"

using namespace lockstep::kernels;
using namespace lockstep::kernels::cuda;

namespace {

constexpr std::uint64_t seed = 41;

/// What a device makes of a list of frames.
struct decoded {
  stage_result result{};
  buffer frames;
  std::vector<std::uint64_t> frame_at;
  std::vector<std::uint64_t> pass_at;
  std::vector<std::uint32_t> claims;
  digest_sum base;
};

decoded decode_on(const bed& on, const device_tensors& model, const buffer& frames,
                  const std::vector<std::uint64_t>& frame_at, std::size_t capacity,
                  std::uint64_t memory_bytes) {
  const device_layout& layout = model.layout();
  const device_array<std::byte> there(on, frames);
  const device_array<std::uint64_t> at(on, frame_at);
  const device_array<device_key> key(on, 1);
  const device_array<std::byte> out(on, capacity, 4096);
  const device_array<std::uint64_t> out_at(on, frame_at.size());
  const device_array<std::uint64_t> pass_at(on, frame_at.size());
  const device_array<encode_result> sum(on, std::vector<encode_result>{{}});
  const device_array<std::uint32_t> claims(on, std::vector<std::uint32_t>(layout.range_count));
  const device_array<std::uint32_t> others(on, layout.range_count);
  const device_array<device_digest> base(on, std::vector<device_digest>{{}});
  const device_array<stage_result> result(on, 1);
  const device_array<std::byte> memory(on, memory_bytes, 4096);
  on.kernels->expand_key(seed, key.data(), nullptr);
  on.kernels->begin_stage(layout, others.data(), result.data(), nullptr);
  on.kernels->decode(
      layout, {there.data(), frames.size(), at.data(), frame_at.size()}, key.data(),
      {out.data(), capacity, out_at.data(), pass_at.data(), sum.data(), claims.data(), base.data()},
      memory.data(), memory_bytes, result.data(), nullptr);
  if (!out.guards_hold() || !memory.guards_hold() || !model.guards_hold())
    throw std::logic_error("decoding wrote outside");
  return {result.one(), out.get(), out_at.get(), pass_at.get(), claims.get(), base.one().to_sum()};
}

/// Of one frame that was made.
buffer frame_of(const decoded& from, std::size_t index) {
  const std::size_t at = from.frame_at[index];
  std::uint32_t payload = 0;
  std::memcpy(&payload, &from.frames[at + field::payload_bytes], 4);
  const auto begin = from.frames.begin() + std::ptrdiff_t(at);
  return buffer(begin, begin + std::ptrdiff_t(frame_header_bytes + payload));
}

struct coded_list {
  std::vector<tensor_states> tensors;
  std::vector<tensor_view> views;
  std::vector<class_model> models;
  std::uint64_t changes = 0;
  buffer frames;
  std::vector<std::uint64_t> frame_at;

  /// Adds a tensor and its frames.
  void add(const element_kind& kind, std::pair<buffer, buffer> states, const class_model& model) {
    const auto tensor = static_cast<std::uint32_t>(tensors.size());
    const auto [base, target] = std::move(states);
    delta_encoder encoder;
    for (std::size_t at = 0; at < base.size(); at += frame_span_bytes_max) {
      const std::size_t start = frames.size();
      changes += encoder.encode(tensor, view(base, kind.unit), view(target, kind.unit), at, model,
                                encoding_choice::coded, frames);
      frame_at.push_back(frames.size() != start ? start : no_frame);
    }
    models.push_back(model);
    tensors.push_back({kind.unit, base, target});
    views.clear();
    for (const auto& t : tensors) views.push_back(view(t.base, t.unit));
  }
};

coded_list coded_tensors(std::mt19937_64& random, double density,
                         const std::vector<std::size_t>& elements) {
  coded_list result;
  for (const auto& kind : kinds()) {
    for (const std::size_t count : elements) {
      auto states = make_change(random, kind, count, density);
      const auto model = random() % 2 != 0 ? random_model(random, kind.unit)
                                           : plan_classes(view(states.first, kind.unit),
                                                          view(states.second, kind.unit));
      result.add(kind, std::move(states), model);
    }
  }
  return result;
}

/// Holds what a device makes of coded frames to what the CPU makes of them.
void check_decoding(const bed& on, const coded_list& list, std::size_t shift) {
  const device_tensors model(on, list.tensors, shift);
  const decoded got = decode_on(on, model, list.frames, list.frame_at, 24 << 20,
                                decode_memory_bytes(list.frame_at.size(), 1 << 20));
  REQUIRE(got.result.refused == nothing_refused);
  frame_stager stager;
  const digest_key key(seed);
  staged_digest sum;
  for (std::size_t i = 0; i < list.frame_at.size(); ++i) {
    if (list.frame_at[i] == no_frame) {
      REQUIRE(got.frame_at[i] == no_frame);
      REQUIRE(got.pass_at[i] == no_frame);
      continue;
    }
    bytes_view rest{list.frames.data() + list.frame_at[i], list.frames.size() - list.frame_at[i]};
    const frame f = parse(rest, list.views);
    REQUIRE((f.encoding == frame_encoding::coded) == (got.pass_at[i] == no_frame));
    if (f.encoding != frame_encoding::coded) {
      REQUIRE(got.pass_at[i] == list.frame_at[i]);
      REQUIRE(got.frame_at[i] == no_frame);
      continue;
    }
    buffer expected;
    REQUIRE(stager.stage(key, f, list.views[f.tensor], expected, sum) == frame_status::ok);
    REQUIRE((frame_of(got, i) == expected));
  }
  REQUIRE(got.base == sum.base);
}

std::vector<device_model> to_devices(const std::vector<class_model>& models) {
  std::vector<device_model> result;
  for (const auto& model : models) result.push_back(to_device(model));
  return result;
}

/// Holds the coded frames that a device writes to those of the CPU.
void check_coding(const bed& on, const coded_list& list, std::size_t shift) {
  const device_array<device_model> models(on, to_devices(list.models));
  const device_array<std::byte> memory(
      on, coded_memory_bytes(list.frame_at.size(), list.changes, 8), 4096);
  const device_tensors model(on, list.tensors, shift);
  const device_array<std::byte> frames(on, list.frames.size(), 4096);
  const device_array<std::uint64_t> frame_at(on, list.frame_at.size());
  const device_array<encode_result> result(on, std::vector<encode_result>{{}});
  on.kernels->encode_coded(model.layout(), models.data(),
                           {frames.data(), frames.size(), frame_at.data(), result.data()},
                           memory.data(), memory.size(), nullptr);
  REQUIRE(result.one().bytes == list.frames.size());
  REQUIRE(result.one().changes == list.changes);
  REQUIRE(result.one().missing == 0);
  REQUIRE(frame_at.get() == list.frame_at);
  REQUIRE((frames.get() == list.frames));
  REQUIRE(frames.guards_hold());
  REQUIRE(memory.guards_hold());
}

/// A coded frame of one tensor, and what the CPU says of it after damage.
struct coded_sample {
  tensor_states states;
  buffer bytes;

  coded_sample(std::mt19937_64& random, const element_kind& kind, std::size_t elements,
               double density) {
    auto [base, target] = make_change(random, kind, elements, density);
    const auto model = plan_classes(view(base, kind.unit), view(target, kind.unit));
    bytes = encode_coded(view(base, kind.unit), view(target, kind.unit), model);
    states = {kind.unit, std::move(base), std::move(target)};
  }
};

void seal(buffer& bytes) {
  const std::uint32_t sum = frame_checksum(view(bytes));
  std::memcpy(&bytes[field::checksum], &sum, 4);
}

/// Holds a device's answer to one frame, which may be anything, against the CPU's.
void check_one(const bed& on, const device_tensors& model, const tensor_states& states,
               const buffer& bytes) {
  const std::vector<tensor_view> views{view(states.base, states.unit)};
  frame f;
  std::size_t consumed = 0;
  frame_status expected = parse_frame(view(bytes), views, f, consumed);
  const decoded got = decode_on(on, model, bytes, {0}, 1 << 17, decode_memory_bytes(1, 1 << 14));
  if (got.pass_at[0] == 0) {
    // Left to the check, because it is no coded frame.
    REQUIRE((expected != frame_status::ok || f.encoding != frame_encoding::coded));
    REQUIRE(got.result.refused == nothing_refused);
    return;
  }
  buffer staged;
  staged_digest sum;
  if (expected == frame_status::ok)
    expected = frame_stager().stage(digest_key(seed), f, views[0], staged, sum);
  if (expected == frame_status::ok) {
    REQUIRE(got.result.refused == nothing_refused);
    REQUIRE((frame_of(got, 0) == staged));
    REQUIRE(got.base == sum.base);
    return;
  }
  REQUIRE(refused_frame(got.result.refused) == 0);
  REQUIRE(refused_reason(got.result.refused) == static_cast<std::uint32_t>(expected));
  REQUIRE(got.frame_at[0] == no_frame);
}

}  // namespace

TEST_CASE("a device codes every kind of element as the CPU does") {
  on_each_bed([](const bed& on) {
    std::mt19937_64 random(10);
    std::vector<std::size_t> lengths{70000};
    for (std::size_t i = 1; i < 300; i += 7) lengths.push_back(i);
    for (const double density : {0.0005, 0.02, 0.3, 0.8})
      check_coding(on, coded_tensors(random, density, lengths), density < 0.01 ? 3 : 0);
  });
}

TEST_CASE("ranges whose changes find no room to be coded go raw") {
  on_each_bed([](const bed& on) {
    std::mt19937_64 random(17);
    const coded_list list = coded_tensors(random, 0.05, {4000});
    const device_array<device_model> models(on, to_devices(list.models));
    const device_array<std::byte> memory(on, coded_memory_bytes(list.frame_at.size(), 0, 8), 4096);
    const device_tensors model(on, list.tensors);
    const std::size_t capacity = 1 << 20;
    const device_array<std::byte> frames(on, capacity, 4096);
    const device_array<std::uint64_t> frame_at(on, list.frame_at.size());
    const device_array<encode_result> result(on, std::vector<encode_result>{{}});
    on.kernels->encode_coded(model.layout(), models.data(),
                             {frames.data(), capacity, frame_at.data(), result.data()},
                             memory.data(), memory.size(), nullptr);
    const buffer got = frames.get();
    buffer expected;
    for (std::uint32_t i = 0; i < list.tensors.size(); ++i) {
      const tensor_states& t = list.tensors[i];
      // The room that is left beside 32 bytes a range is for a few of the ranges.
      expected.clear();
      encode_delta(i, view(t.base, t.unit), view(t.target, t.unit), 0, expected);
      const std::uint64_t at = frame_at.get()[i];
      REQUIRE((got[at + field::encoding] == std::byte{3} ||
               std::equal(expected.begin(), expected.end(), got.begin() + std::ptrdiff_t(at))));
    }
    REQUIRE(got[frame_at.get().back() + field::encoding] != std::byte{3});
    REQUIRE(memory.guards_hold());
    REQUIRE(frames.guards_hold());
  });
}

TEST_CASE("a device stages coded frames of every kind of element as the CPU does") {
  on_each_bed([](const bed& on) {
    std::mt19937_64 random(11);
    std::vector<std::size_t> lengths{70000};
    for (std::size_t i = 1; i < 200; i += 13) lengths.push_back(i);
    for (const double density : {0.003, 0.05, 0.4})
      check_decoding(on, coded_tensors(random, density, lengths), density < 0.01 ? 3 : 0);
  });
}

TEST_CASE("a device stages coded frames of several ranges and of long gaps as the CPU does") {
  on_each_bed([](const bed& on) {
    std::mt19937_64 random(12);
    coded_list list;
    for (const double density : {2e-5, 0.02}) {
      auto states = make_change(random, kinds()[0], frame_span_bytes_max / 3 * 2, density);
      const auto model = plan_classes(view(states.first, 2), view(states.second, 2));
      list.add(kinds()[0], std::move(states), model);
    }
    check_coding(on, list, 0);
    check_decoding(on, list, 0);
  });
}

TEST_CASE("a device proves and writes a delta of raw, full and coded frames") {
  on_each_bed([](const bed& on) {
    std::mt19937_64 random(13);
    const coded_list list = coded_tensors(random, 0.1, {40, 999, 5000});
    const device_tensors model(on, list.tensors);
    const decoded got = decode_on(on, model, list.frames, list.frame_at, 4 << 20,
                                  decode_memory_bytes(list.frame_at.size(), 1 << 18));
    REQUIRE(got.result.refused == nothing_refused);
    // One list of both: what was made stands behind what came.
    buffer all = list.frames;
    all.insert(all.end(), got.frames.begin(), got.frames.end());
    std::vector<std::uint64_t> at = got.pass_at;
    for (std::size_t i = 0; i < at.size(); ++i)
      if (got.frame_at[i] != no_frame) at[i] = list.frames.size() + got.frame_at[i];
    device_stage stage(on, model, all, at, seed);
    REQUIRE(stage.result().refused == nothing_refused);
    const digest_key key(seed);
    digest_sum base;
    digest_sum target;
    for (std::uint32_t i = 0; i < list.tensors.size(); ++i) {
      base += digest_tensor(key, i, view(list.tensors[i].base));
      target += digest_tensor(key, i, view(list.tensors[i].target));
    }
    // Ranges that decoding has read are left out of the digest of the others.
    const device_array<device_key> key_there(on, 1);
    const device_array<std::uint32_t> claims(on, got.claims);
    const device_array<device_digest> sum(on, std::vector<device_digest>{{}});
    on.kernels->expand_key(seed, key_there.data(), nullptr);
    on.kernels->digest(model.layout(), which_state::base, key_there.data(), claims.data(),
                       sum.data(), nullptr);
    REQUIRE(got.base != base);
    REQUIRE(got.base + sum.one().to_sum() == base);
    stage.prove(base, target);
    stage.apply();
    for (std::size_t i = 0; i < list.tensors.size(); ++i)
      REQUIRE((model.base(i) == list.tensors[i].target));
    stage.roll_back();
    for (std::size_t i = 0; i < list.tensors.size(); ++i)
      REQUIRE((model.base(i) == list.tensors[i].base));
  });
}

TEST_CASE("a device refuses damaged coded frames for the CPU's reasons") {
  on_each_bed([](const bed& on) {
    std::mt19937_64 random(14);
    for (const std::size_t which : {0u, 2u, 4u, 8u}) {
      const coded_sample s(random, kinds()[which], 3000, 0.05);
      REQUIRE(s.bytes[field::encoding] == std::byte{3});
      const device_tensors model(on, {s.states});
      check_one(on, model, s.states, s.bytes);
      for (int round = 0; round < 150; ++round) {
        buffer bytes = s.bytes;
        const auto hits = 1 + random() % 3;
        // Half of them in the header's fields and the table.
        const std::size_t reach = random() % 2 != 0 ? 50 : bytes.size() - 6;
        for (std::uint64_t i = 0; i < hits; ++i)
          bytes[6 + random() % reach] ^= static_cast<std::byte>(1u << random() % 8);
        if (random() % 5 == 0) bytes.resize(bytes.size() - random() % 20);
        if (random() % 9 == 0) bytes.insert(bytes.end(), random() % 5, std::byte{0});
        const auto payload = static_cast<std::uint32_t>(bytes.size() - frame_header_bytes);
        if (random() % 9 != 0) std::memcpy(&bytes[field::payload_bytes], &payload, 4);
        if (random() % 9 != 0) seal(bytes);
        check_one(on, model, s.states, bytes);
      }
    }
  });
}

TEST_CASE("a device refuses coded frames on other weights as the CPU does") {
  on_each_bed([](const bed& on) {
    std::mt19937_64 random(15);
    coded_sample s(random, kinds()[0], 4000, 0.05);
    for (int round = 0; round < 20; ++round) {
      tensor_states other = s.states;
      other.base = random_bytes(random, other.base.size());
      if (round % 2 == 0)
        for (std::size_t i = 1; i < other.base.size(); i += 2) other.base[i] &= std::byte{0x83};
      check_one(on, device_tensors(on, {other}), other, s.bytes);
    }
  });
}

TEST_CASE("coded frames that find no room, or are there twice, are refused") {
  on_each_bed([](const bed& on) {
    std::mt19937_64 random(16);
    const coded_sample s(random, kinds()[0], 4000, 0.05);
    const device_tensors model(on, {s.states});
    const std::uint64_t enough = decode_memory_bytes(1, 4000);
    const auto reason_of = [](const decoded& d) { return refused_reason(d.result.refused); };
    REQUIRE(decode_on(on, model, s.bytes, {0}, 8000, enough).result.refused == nothing_refused);
    REQUIRE(reason_of(decode_on(on, model, s.bytes, {0}, 100, enough)) == refused_room);
    REQUIRE(reason_of(decode_on(on, model, s.bytes, {0}, 8000, decode_memory_bytes(1, 0))) ==
            refused_room);
    REQUIRE(reason_of(decode_on(on, model, s.bytes, {0, 0}, 16000, decode_memory_bytes(2, 8000))) ==
            refused_twice);
    CHECK_THROWS_AS(decode_on(on, model, s.bytes, {0}, 8000, 10), std::invalid_argument);
  });
}
