// Every way in which bytes in a device's memory can fail to be frames: refused for the reason that
// the CPU gives, and nothing is written.
#include <catch2/catch.hpp>

#include "kernels/frame_layout.hpp"
#include "tests/kernels/cuda/beds.hpp"

using namespace lockstep::kernels;
using namespace lockstep::kernels::cuda;

namespace {

template <class T>
void put(buffer& bytes, std::size_t at, T value) {
  std::memcpy(bytes.data() + at, &value, sizeof value);
}

void seal(buffer& bytes) {
  put(bytes, field::checksum, frame_checksum(view(bytes)));
}

/// A raw and a full frame of the second of two tensors.
struct sample {
  static constexpr std::size_t size = 200;
  std::vector<tensor_states> tensors;
  std::vector<tensor_view> views;
  buffer raw;
  buffer full;

  sample() {
    tensor_states words{4, buffer(64), buffer(64)};
    tensor_states halves{2, buffer(size), buffer(size)};
    std::mt19937_64 random(1);
    halves.base = random_bytes(random, size);
    halves.target = halves.base;
    for (const std::size_t i : {3u, 4u, 50u, 99u}) halves.target[2 * i] ^= std::byte{0x11};
    tensors = {words, halves};
    views = {view(tensors[0].base, 4), view(tensors[1].base, 2)};
    encode_delta(1, views[1], view(tensors[1].target, 2), 0, raw);
    encode_full(1, view(tensors[1].target, 2), 0, full);
  }
};

using gaps = std::vector<std::uint16_t>;

/// A raw frame with these gaps, each but an escape followed by an element.
buffer forge(const sample& s, const gaps& list, std::uint32_t count, std::size_t extra = 0) {
  buffer bytes(s.raw.begin(), s.raw.begin() + frame_header_bytes);
  for (const std::uint16_t gap : list) {
    bytes.resize(bytes.size() + (gap == gap_escape ? 2 : 4), std::byte{0x22});
    put(bytes, bytes.size() - (gap == gap_escape ? 2 : 4), gap);
  }
  bytes.resize(bytes.size() + extra);
  std::memcpy(bytes.data() + field::count, &count, 3);
  put(bytes, field::payload_bytes, static_cast<std::uint32_t>(bytes.size() - frame_header_bytes));
  seal(bytes);
  return bytes;
}

/// What the CPU says of one frame; coded ones are none for `check`.
frame_status expected_status(const buffer& bytes, const std::vector<tensor_view>& tensors,
                             frame& f) {
  std::size_t consumed = 0;
  const frame_status status = parse_frame(view(bytes), tensors, f, consumed);
  const bool read_to_encoding = status == frame_status::ok || status == frame_status::bad_table ||
                                status == frame_status::bad_count ||
                                status == frame_status::bad_size;
  return read_to_encoding && bytes[field::encoding] == std::byte{3} ? frame_status::bad_encoding
                                                                    : status;
}

/// Holds a device's answer to one frame against the CPU's, and what it writes, too.
void check_one(const bed& on, const device_tensors& model, const sample& s, const buffer& bytes) {
  frame f;
  const frame_status expected = expected_status(bytes, s.views, f);
  device_stage stage(on, model, bytes, {0}, 9);
  const stage_result result = stage.result();
  if (expected == frame_status::ok) {
    REQUIRE(result.refused == nothing_refused);
    REQUIRE(result.change.to_sum() == change_of(digest_key(9), f, s.views[f.tensor]));
  } else {
    REQUIRE(refused_frame(result.refused) == 0);
    REQUIRE(refused_reason(result.refused) == static_cast<std::uint32_t>(expected));
  }
  stage.apply();
  for (std::size_t i = 0; i < s.tensors.size(); ++i) {
    buffer after = s.tensors[i].base;
    if (expected == frame_status::ok && f.tensor == i)
      apply_frame(f, {{after.data(), after.size()}, s.tensors[i].unit});
    REQUIRE((model.base(i) == after));
    model.set_base(i, s.tensors[i].base);
  }
  REQUIRE(model.guards_hold());
}

}  // namespace

TEST_CASE("a device notices every flipped bit of a frame") {
  on_each_bed([](const bed& on) {
    const sample s;
    const device_tensors model(on, s.tensors);
    for (buffer bytes : {s.raw, s.full}) {
      check_one(on, model, s, bytes);
      for (std::size_t bit = 0; bit < 8 * bytes.size(); bit += bit < 400 ? 1 : 13) {
        bytes[bit / 8] ^= static_cast<std::byte>(1u << bit % 8);
        check_one(on, model, s, bytes);
        bytes[bit / 8] ^= static_cast<std::byte>(1u << bit % 8);
      }
    }
  });
}

TEST_CASE("a device notices every truncation, and frames that begin outside") {
  on_each_bed([](const bed& on) {
    const sample s;
    const device_tensors model(on, s.tensors);
    for (const buffer& whole : {s.raw, s.full}) {
      for (std::size_t length = 0; length < whole.size(); ++length)
        check_one(on, model, s, buffer(whole.begin(), whole.begin() + std::ptrdiff_t(length)));
      for (const std::uint64_t at :
           {std::uint64_t{1}, std::uint64_t{whole.size()}, std::uint64_t{whole.size() + 1},
            no_frame - 1, no_frame - frame_header_bytes}) {
        device_stage stage(on, model, whole, {at}, 9);
        const auto reason = static_cast<frame_status>(refused_reason(stage.result().refused));
        REQUIRE(
            (reason == frame_status::truncated || (at == 1 && reason == frame_status::bad_magic)));
        stage.apply();
        REQUIRE((model.base(1) == s.tensors[1].base));
      }
    }
  });
}

TEST_CASE("a device refuses forged positions, counts and sizes as the CPU does") {
  on_each_bed([](const bed& on) {
    const sample s;
    const device_tensors model(on, s.tensors);
    const std::uint16_t escape = gap_escape;
    const std::vector<buffer> rows{forge(s, {0, 98}, 2),
                                   forge(s, {0, 99}, 2),
                                   forge(s, {100}, 1),
                                   forge(s, {65534}, 1),
                                   forge(s, {escape, 0}, 1),
                                   forge(s, {0, 0, escape, 3}, 3),
                                   forge(s, {escape, escape, 2}, 1),
                                   forge(s, {0, escape}, 1),
                                   forge(s, {0, 1}, 2, 1),
                                   forge(s, {0, 1}, 2, 2),
                                   forge(s, {0, 1}, 2, 3),
                                   forge(s, {0, 1}, 2, 4),
                                   forge(s, {}, 1),
                                   forge(s, {}, 0),
                                   forge(s, gaps(49, 0), 49),
                                   forge(s, gaps(50, 0), 50),
                                   forge(s, gaps(100, 0), 100),
                                   forge(s, gaps(49, 0), 48)};
    for (const buffer& row : rows) check_one(on, model, s, row);
    for (const int extra : {-1, 1, 2, -180}) {
      buffer bytes = s.full;
      bytes.resize(static_cast<std::size_t>(static_cast<int>(bytes.size()) + extra));
      put(bytes, field::payload_bytes,
          static_cast<std::uint32_t>(sample::size) + static_cast<std::uint32_t>(extra));
      seal(bytes);
      check_one(on, model, s, bytes);
    }
  });
}

TEST_CASE("a device refuses escapes that lead past the end of a large range") {
  on_each_bed([](const bed& on) {
    const sample s;
    sample large;
    large.tensors[1].base = large.tensors[1].target = buffer(frame_span_bytes_max);
    large.views[1] = view(large.tensors[1].base, 2);
    const device_tensors model(on, large.tensors);
    const std::uint16_t escape = gap_escape;
    // 524288 elements are eight escapes and 8 elements.
    gaps fits(8, escape);
    fits.push_back(7);
    gaps behind(8, escape);
    behind.push_back(8);
    gaps records(3000, 3);
    records.push_back(escape);
    records.insert(records.end(), 1100, 0);
    gaps bad = records;
    bad.back() = 65534;
    bad.insert(bad.end(), 8, 65534);
    const std::vector<buffer> rows{
        forge(s, {escape, 0}, 1),  forge(s, {0, escape}, 1), forge(s, {0, escape, escape}, 1),
        forge(s, fits, 1),         forge(s, behind, 1),      forge(s, gaps(9, escape), 1),
        forge(s, records, 4100),   forge(s, records, 4101),  forge(s, bad, 4108),
        forge(s, records, 4100, 2)};
    for (const buffer& row : rows) check_one(on, model, large, row);
  });
}

TEST_CASE("a device takes randomly damaged frames as the CPU does") {
  on_each_bed([](const bed& on) {
    const sample s;
    const device_tensors model(on, s.tensors);
    std::mt19937_64 random(20261124);
    for (int round = 0; round < 400; ++round) {
      buffer bytes = random() % 2 != 0 ? s.raw : s.full;
      const auto hits = 1 + random() % 4;
      for (std::uint64_t i = 0; i < hits; ++i)
        bytes[5 + random() % (bytes.size() - 5)] = static_cast<std::byte>(random());
      if (random() % 4 == 0) bytes.resize(frame_header_bytes + random() % 300);
      put(bytes, field::payload_bytes,
          static_cast<std::uint32_t>(bytes.size() - frame_header_bytes));
      seal(bytes);
      check_one(on, model, s, bytes);
    }
  });
}

TEST_CASE("one bad frame among good ones keeps all from being written") {
  on_each_bed([](const bed& on) {
    std::mt19937_64 random(3);
    std::vector<tensor_states> tensors;
    buffer frames;
    std::vector<std::uint64_t> frame_at;
    for (std::uint32_t i = 0; i < 20; ++i) {
      tensor_states states{2, random_bytes(random, 3000), {}};
      states.target = changed(random, states.base, 2, 0.05);
      frame_at.push_back(frames.size());
      encode_delta(i, view(states.base, 2), view(states.target, 2), 0, frames);
      tensors.push_back(states);
    }
    const device_tensors model(on, tensors);
    const auto check_refused = [&](const buffer& bytes, const std::vector<std::uint64_t>& list,
                                   std::uint64_t index, std::uint32_t reason) {
      device_stage stage(on, model, bytes, list, 5);
      const std::uint64_t refused = stage.result().refused;
      REQUIRE(refused_frame(refused) == index);
      REQUIRE(refused_reason(refused) == reason);
      stage.apply();
      for (std::size_t i = 0; i < tensors.size(); ++i) REQUIRE((model.base(i) == tensors[i].base));
    };
    for (const std::size_t bad : {0u, 7u, 19u}) {
      buffer bytes = frames;
      bytes[frame_at[bad] + frame_header_bytes + 1] ^= std::byte{1};
      check_refused(bytes, frame_at, bad, static_cast<std::uint32_t>(frame_status::bad_checksum));
    }
    // The same frame twice: one of the two is refused.
    auto twice = frame_at;
    twice.push_back(frame_at[4]);
    device_stage stage(on, model, frames, twice, 5);
    const std::uint64_t refused = stage.result().refused;
    REQUIRE(refused_reason(refused) == refused_twice);
    REQUIRE((refused_frame(refused) == 4 || refused_frame(refused) == 20));
    stage.apply();
    REQUIRE((model.base(0) == tensors[0].base));
  });
}

TEST_CASE("weights that are not the base, and frames to another target, are refused") {
  on_each_bed([](const bed& on) {
    const sample s;
    const device_tensors model(on, s.tensors);
    for (int wrong = 0; wrong < 5; ++wrong) {
      device_stage stage(on, model, s.raw, {0}, 9);
      digest_sum base = stage.base_digest();
      digest_sum target = base + stage.result().change.to_sum();
      if (wrong == 1 || wrong == 2) base.lane[static_cast<std::size_t>(wrong - 1)] += 1;
      if (wrong == 3 || wrong == 4) target.lane[static_cast<std::size_t>(wrong - 3)] ^= 1;
      stage.prove(base, target);
      const std::uint64_t refused = stage.result().refused;
      stage.apply();
      if (wrong == 0) {
        REQUIRE(refused == nothing_refused);
        REQUIRE((model.base(1) == s.tensors[1].target));
        model.set_base(1, s.tensors[1].base);
        continue;
      }
      REQUIRE(refused_frame(refused) == all_frames);
      REQUIRE(refused_reason(refused) == (wrong < 3 ? refused_base : refused_target));
      REQUIRE((model.base(1) == s.tensors[1].base));
    }
  });
}

TEST_CASE("frames that were damaged after they were checked write nothing outside their range") {
  on_each_bed([](const bed& on) {
    const sample s;
    const device_tensors model(on, s.tensors);
    std::mt19937_64 random(6);
    for (int round = 0; round < 200; ++round) {
      device_stage stage(on, model, s.raw, {0}, 9);
      REQUIRE(stage.result().refused == nothing_refused);
      buffer bytes = s.raw;
      for (std::size_t i = 0; i < bytes.size(); ++i)
        if (random() % 3 == 0) bytes[i] = static_cast<std::byte>(random());
      stage.set_frames(bytes);
      stage.apply();
      REQUIRE(model.guards_hold());
      REQUIRE((model.base(0) == s.tensors[0].base));
      model.set_base(1, s.tensors[1].base);
    }
  });
}
