// The device kernels against those of the CPU: the same bytes, digests and refusals.
#include <catch2/catch.hpp>

#include "kernels/digest.hpp"
#include "kernels/frame_layout.hpp"
#include "tests/kernels/cuda/beds.hpp"

using namespace lockstep::kernels;
using namespace lockstep::kernels::cuda;

namespace {

tensor_states make_states(std::mt19937_64& random, std::uint32_t unit, std::size_t size,
                          double density) {
  tensor_states states;
  states.unit = unit;
  states.base = random_bytes(random, size);
  states.target = changed(random, states.base, unit, density);
  return states;
}

/// Tensors of every length from 0 to 257, of every unit.
std::vector<tensor_states> all_lengths(std::mt19937_64& random, double density) {
  std::vector<tensor_states> tensors;
  for (const std::uint32_t unit : {1u, 2u, 4u, 8u})
    for (std::size_t size = 0; size <= 257; size += unit)
      tensors.push_back(make_states(random, unit, size, density));
  return tensors;
}

/// Of several tiles and ranges, with whole and with partial ends.
std::vector<tensor_states> some_large(std::mt19937_64& random, double density) {
  std::vector<tensor_states> tensors;
  for (const std::uint32_t unit : {1u, 2u, 4u, 8u})
    for (const std::size_t size : {std::size_t{8192}, std::size_t{8192 + 8}, std::size_t{40000},
                                   frame_span_bytes_max, frame_span_bytes_max + 24})
      tensors.push_back(make_states(random, unit, size, density));
  return tensors;
}

struct expected_frames {
  buffer frames;
  std::vector<std::uint64_t> frame_at;
  std::uint64_t count = 0;
  std::uint64_t changes = 0;
};

/// What the CPU writes.
expected_frames encode_here(const std::vector<tensor_states>& tensors, bool full = false) {
  expected_frames expected;
  for (std::uint32_t i = 0; i < tensors.size(); ++i) {
    const tensor_states& t = tensors[i];
    for (std::size_t at = 0; at < t.base.size(); at += frame_span_bytes_max) {
      const std::size_t start = expected.frames.size();
      std::uint64_t changes = range_bytes_at(t.base.size(), at) / t.unit;
      if (full)
        encode_full(i, view(t.target, t.unit), at, expected.frames);
      else
        changes =
            encode_delta(i, view(t.base, t.unit), view(t.target, t.unit), at, expected.frames);
      expected.changes += changes;
      expected.frame_at.push_back(changes != 0 ? start : no_frame);
      expected.count += changes != 0;
    }
  }
  return expected;
}

digest_sum digest_here(const std::vector<tensor_states>& tensors, std::uint64_t seed, bool target) {
  const digest_key key(seed);
  digest_sum sum;
  for (std::uint32_t i = 0; i < tensors.size(); ++i)
    sum += digest_tensor(key, i, view(target ? tensors[i].target : tensors[i].base));
  return sum;
}

void check_encoding(const bed& on, const std::vector<tensor_states>& tensors, std::size_t shift,
                    bool full = false, std::uint64_t ranges_at_once = ~0ull) {
  const expected_frames expected = encode_here(tensors, full);
  const device_tensors model(on, tensors, shift);
  const encoded got = encode_on(on, model, expected.frames.size(), full, ranges_at_once);
  REQUIRE(got.result.bytes == expected.frames.size());
  REQUIRE(got.result.frames == expected.count);
  REQUIRE(got.result.changes == expected.changes);
  REQUIRE(got.result.missing == 0);
  REQUIRE(got.frame_at == expected.frame_at);
  REQUIRE((got.frames == expected.frames));
}

void check_stage(const bed& on, const std::vector<tensor_states>& tensors, std::size_t shift) {
  constexpr std::uint64_t seed = 77;
  const expected_frames delta = encode_here(tensors);
  const device_tensors model(on, tensors, shift);
  device_stage stage(on, model, delta.frames, delta.frame_at, seed);
  const stage_result result = stage.result();
  REQUIRE(result.refused == nothing_refused);
  const digest_sum base = digest_here(tensors, seed, false);
  const digest_sum target = digest_here(tensors, seed, true);
  REQUIRE(stage.base_digest() == base);
  REQUIRE(base + result.change.to_sum() == target);
  stage.prove(base, target);
  for (std::size_t i = 0; i < tensors.size(); ++i) REQUIRE((model.base(i) == tensors[i].base));
  for (int again = 0; again < 2; ++again) {
    stage.apply();
    for (std::size_t i = 0; i < tensors.size(); ++i) REQUIRE((model.base(i) == tensors[i].target));
  }
  stage.roll_back();
  for (std::size_t i = 0; i < tensors.size(); ++i) REQUIRE((model.base(i) == tensors[i].base));
  REQUIRE(model.guards_hold());
}

}  // namespace

TEST_CASE("a device expands the same key, and digests as the CPU does at every length") {
  on_each_bed([](const bed& on) {
    std::mt19937_64 random(1);
    for (const auto& tensors : {all_lengths(random, 0.3), some_large(random, 0.3)}) {
      for (const std::size_t shift : {0u, 8u, 3u}) {
        const device_tensors model(on, tensors, shift);
        const device_array<device_key> key(on, 1);
        on.kernels->expand_key(shift, key.data(), nullptr);
        const digest_key here(shift);
        const device_key there = key.one();
        REQUIRE(std::equal(here.words(), here.words() + digest_tile_words + 1, there.words));
        for (const bool target : {false, true}) {
          const device_array<device_digest> sum(on, std::vector<device_digest>{{}});
          on.kernels->digest(model.layout(), target ? which_state::target : which_state::base,
                             key.data(), nullptr, sum.data(), nullptr);
          REQUIRE(sum.one().to_sum() == digest_here(tensors, shift, target));
        }
      }
    }
  });
}

TEST_CASE("a device writes the CPU's frames at every length, density and alignment") {
  on_each_bed([](const bed& on) {
    std::mt19937_64 random(2);
    for (const double density : {0.0, 0.02, 0.3, 1.0})
      for (const std::size_t shift : {0u, 8u, 5u})
        check_encoding(on, all_lengths(random, density), shift);
  });
}

TEST_CASE("a device writes the CPU's frames of several ranges, at once and in parts") {
  on_each_bed([](const bed& on) {
    std::mt19937_64 random(3);
    for (const double density : {1e-5, 1e-3, 0.02, 0.4}) {
      const auto tensors = some_large(random, density);
      check_encoding(on, tensors, 0);
      check_encoding(on, tensors, 2, false, 3);
    }
  });
}

TEST_CASE("a device writes long gaps as the CPU does") {
  on_each_bed([](const bed& on) {
    for (const std::uint32_t unit : {1u, 2u}) {
      std::vector<tensor_states> tensors;
      // The gap to the first change, and between two of them, about one and two escapes long.
      for (const std::size_t gap : {65534u, 65535u, 65536u, 131069u, 131070u, 131071u, 500000u}) {
        tensor_states states;
        states.unit = unit;
        states.base.resize(frame_span_bytes_max);
        states.target = states.base;
        for (std::size_t i = gap; i < frame_span_bytes_max / unit; i += gap + 1)
          states.target[i * unit] = std::byte{1};
        tensors.push_back(states);
        // The same from a first change at 0, and the very last element.
        states.target[0] = states.target[frame_span_bytes_max - 1] = std::byte{2};
        tensors.push_back(states);
      }
      check_encoding(on, tensors, 0);
      check_stage(on, tensors, 0);
    }
  });
}

TEST_CASE("a device writes the CPU's full frames") {
  on_each_bed([](const bed& on) {
    std::mt19937_64 random(4);
    check_encoding(on, all_lengths(random, 0.1), 0, true);
    check_encoding(on, {make_states(random, 2, 3 * frame_span_bytes_max + 10, 0)}, 7, true, 2);
  });
}

TEST_CASE("frames there is no room for are counted and not written") {
  on_each_bed([](const bed& on) {
    std::mt19937_64 random(5);
    const auto tensors = all_lengths(random, 0.3);
    const expected_frames expected = encode_here(tensors);
    const device_tensors model(on, tensors);
    for (const std::size_t capacity : {std::size_t{0}, std::size_t{40}, expected.frames.size() / 2,
                                       expected.frames.size() - 1}) {
      const encoded got = encode_on(on, model, capacity);
      REQUIRE(got.result.bytes == expected.frames.size());
      REQUIRE(got.result.frames == expected.count);
      std::uint64_t missing = 0;
      for (std::size_t i = 0; i < got.frame_at.size(); ++i) {
        if (got.frame_at[i] == expected.frame_at[i]) continue;
        REQUIRE(got.frame_at[i] == no_frame);
        ++missing;
      }
      REQUIRE(missing != 0);
      REQUIRE(got.result.missing == missing);
      // Frames stand in order: those before the first that is missing are there.
      std::size_t whole = 0;
      for (std::size_t i = 0; i < got.frame_at.size() && got.frame_at[i] == expected.frame_at[i];
           ++i)
        if (got.frame_at[i] != no_frame) whole = got.frame_at[i] + frame_header_bytes;
      REQUIRE(std::equal(got.frames.begin(), got.frames.begin() + std::ptrdiff_t(whole),
                         expected.frames.begin()));
    }
  });
}

TEST_CASE("too little working memory is refused") {
  on_each_bed([](const bed& on) {
    const device_tensors model(on, {{2, buffer(100), buffer(100)}});
    const std::uint64_t needed = encode_memory_bytes(1);
    const device_array<std::byte> memory(on, needed);
    CHECK_THROWS_AS(on.kernels->encode_raw(model.layout(), {}, memory.data(), needed - 1, nullptr),
                    std::invalid_argument);
  });
}

TEST_CASE("a device checks, writes and takes back deltas of every length and density") {
  on_each_bed([](const bed& on) {
    std::mt19937_64 random(6);
    for (const double density : {0.0, 0.02, 0.3, 1.0})
      for (const std::size_t shift : {0u, 8u, 5u})
        check_stage(on, all_lengths(random, density), shift);
    for (const double density : {1e-4, 0.02, 0.2}) check_stage(on, some_large(random, density), 0);
  });
}

TEST_CASE("a device compares floats as bits") {
  // bf16: NaN payloads, signs of zero and of infinity, subnormals.
  const std::vector<std::uint16_t> special{0x0000, 0x8000, 0x0001, 0x8001, 0x007f, 0x0080, 0x7f80,
                                           0xff80, 0x7f81, 0x7fc0, 0x7fc1, 0xffc0, 0xffff, 0x3f80};
  on_each_bed([&](const bed& on) {
    std::vector<tensor_states> tensors;
    for (const std::uint16_t from : special) {
      for (const std::uint16_t to : special) {
        tensor_states states;
        states.base.resize(200);
        for (std::size_t i = 0; i < 100; ++i) std::memcpy(&states.base[2 * i], &from, 2);
        states.target = states.base;
        std::memcpy(&states.target[2 * 77], &to, 2);
        tensors.push_back(states);
      }
    }
    check_encoding(on, tensors, 0);
    check_stage(on, tensors, 0);
  });
}

TEST_CASE("an apply that was interrupted is repeated or rolled back") {
  on_each_bed([](const bed& on) {
    std::mt19937_64 random(7);
    const std::vector<tensor_states> tensors{make_states(random, 2, 30000, 0.05),
                                             make_states(random, 4, 9000, 0.9)};
    const expected_frames delta = encode_here(tensors);
    const device_tensors model(on, tensors);
    device_stage stage(on, model, delta.frames, delta.frame_at, 1);
    for (const bool back : {false, true}) {
      for (std::size_t i = 0; i < tensors.size(); ++i) {
        buffer mixed = tensors[i].base;
        for (std::size_t at = 0; at < mixed.size() / 3; ++at) mixed[at] = tensors[i].target[at];
        model.set_base(i, mixed);
      }
      back ? stage.roll_back() : stage.apply();
      for (std::size_t i = 0; i < tensors.size(); ++i)
        REQUIRE((model.base(i) == (back ? tensors[i].base : tensors[i].target)));
    }
  });
}

TEST_CASE("the base becomes the target by a copy") {
  on_each_bed([](const bed& on) {
    std::mt19937_64 random(8);
    for (const std::size_t shift : {0u, 8u, 5u}) {
      for (const auto& tensors : {all_lengths(random, 0.5), some_large(random, 0.5)}) {
        const device_tensors model(on, tensors, shift);
        on.kernels->copy(model.layout(), nullptr);
        for (std::size_t i = 0; i < tensors.size(); ++i)
          REQUIRE((model.base(i) == tensors[i].target));
        REQUIRE(model.guards_hold());
      }
    }
  });
}
