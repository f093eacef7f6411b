// The bytes are frames, packed into two buckets; the last byte says after how many the second
// begins.
#include <algorithm>
#include <numeric>

#include "fuzz/frame_tensors.hpp"
#include "weights/bucket_codec.hpp"

namespace {

using namespace lockstep;
using fuzz::bytes;

constexpr std::uint64_t seed = 7;
constexpr std::uint64_t other_seed = 6;
/// A coded frame becomes longer when it is staged: low, so that it is reached.
constexpr std::uint64_t staged_bytes_max = 5 << 10;

struct {
  std::vector<bytes> base = fuzz::make_tensors();
  std::vector<bytes> live = base;
  tensor_spans spans = fuzz::spans_of(live);
  tensor_views views = as_views(spans);
  digest state = digest_of(seed, views);
  digest other_state = digest_of(other_seed, views);
} world;

payload payload_of(std::span<const std::byte> part) {
  return payload(bytes(part.begin(), part.end()));
}

/// Where the frame after the first `count` begins, as far as their lengths can be followed.
std::size_t after_frames(std::span<const std::byte> input, std::size_t count) {
  std::size_t at = 0;
  for (; count > 0 && input.size() - at >= kernels::frame_header_bytes; --count) {
    std::uint32_t length = 0;
    std::memcpy(&length, input.data() + at + kernels::field::payload_bytes, sizeof length);
    if (length > input.size() - at - kernels::frame_header_bytes) break;
    at += kernels::frame_header_bytes + length;
  }
  return at;
}

/// What accepted buckets lead to, frame by frame.
std::vector<std::size_t> apply_plainly(const std::vector<payload>& buckets,
                                       std::vector<bytes>& tensors) {
  std::vector<bool> touched(tensors.size());
  for (const auto& bucket : buckets) {
    for (std::size_t at = 0; at < bucket.size();) {
      kernels::frame f;
      std::size_t length = 0;
      fuzz::demand(kernels::parse_frame({bucket.data() + at, bucket.size() - at}, world.views, f,
                                        length) == kernels::frame_status::ok,
                   "an accepted bucket is a row of frames");
      fuzz::apply_plainly(f, tensors[f.tensor]);
      touched[f.tensor] = true;
      at += length;
    }
  }
  std::vector<std::size_t> result;
  for (std::size_t i = 0; i < touched.size(); ++i)
    if (touched[i]) result.push_back(i);
  return result;
}

void demand_live(const std::vector<bytes>& expected, const char* what) {
  for (std::size_t i = 0; i < expected.size(); ++i)
    fuzz::demand(fuzz::same(world.live[i], expected[i]), what);
}

void restore(const std::vector<std::size_t>& touched) {
  for (const auto i : touched) std::ranges::copy(world.base[i], world.live[i].begin());
}

void check_accepted(const std::vector<payload>& buckets) {
  auto target = world.base;
  const auto expected = apply_plainly(buckets, target);
  const auto predicted = predict(seed, world.state, buckets, world.views);
  std::vector<std::size_t> touched;
  for (const auto& bucket : buckets)
    fuzz::demand(!apply_bucket(bucket, world.spans, touched), "what is accepted can be applied");
  fuzz::demand(touched == expected, "the tensors that are written are named");
  demand_live(target, "apply writes what the frames say, and nothing else");
  restore(touched);
  touched.clear();
  fuzz::demand(!apply_buckets(buckets, world.spans, touched) && touched == expected,
               "all at once as one after the other");
  demand_live(target, "all at once as one after the other");
  fuzz::demand(digest_of(seed, world.views) == predicted,
               "the digest that is predicted is the result's");
  restore(touched);
}

/// Frame by frame: who stops after `frames_max` has written those and no other.
void check_interrupted(const payload& bucket) {
  const auto count = count_frames(bucket, world.views);
  for (std::size_t frames = 0; frames < std::min<std::size_t>(count, 3); ++frames) {
    std::vector<std::size_t> touched;
    fuzz::demand(!apply_bucket(bucket, world.spans, touched, frames), "a stop is no failure");
    const auto whole = std::span(bucket.data(), bucket.size());
    auto target = world.base;
    apply_plainly({payload_of(whole.first(after_frames(whole, frames)))}, target);
    demand_live(target, "an interrupted apply has written whole frames");
    restore(touched);
  }
}

/// What is refused may have been written up to the frame that is not one, and says so.
void check_refused(const payload& bucket) {
  const bool well_formed = !check_buckets(std::span(&bucket, 1), world.views);
  std::vector<std::size_t> touched;
  const auto failure = apply_bucket(bucket, world.spans, touched);
  fuzz::demand(!well_formed || !failure, "what is accepted alone can be applied");
  if (failure) fuzz::demand_message(failure->detail);
  restore(touched);
  demand_live(world.base, "the tensors that are written are named");
}

/// Coded frames are decoded, and what comes of them is absorbing. `plain`: nothing was refused
/// before that.
void check_staged(std::vector<payload> buckets, bool plain) {
  staged_states states;
  const auto failure =
      stage_buckets(seed, buckets, world.views, staged_bytes_max, states, other_seed);
  demand_live(world.base, "who stages writes nothing");
  if (failure) {
    fuzz::demand(!plain || failure->reason == errc::bad_manifest, "what is accepted can be staged");
    fuzz::demand_message(failure->detail);
    return;
  }
  std::size_t staged = 0;
  for (const auto& bucket : buckets) staged += bucket.size();
  fuzz::demand(staged <= staged_bytes_max, "what is staged is bounded");
  fuzz::demand(!check_buckets(buckets, world.views), "what is staged is frames, none there twice");
  fuzz::demand(states.base == world.state, "the base is digested");
  fuzz::demand(states.other_base == world.other_state, "under the other key too");
  fuzz::demand(predict(seed, world.state, buckets, world.views) == states.target,
               "the target is predicted");
  fuzz::demand(predict(other_seed, world.other_state, buckets, world.views) == states.other_target,
               "under the other key too");
  if (!plain) check_accepted(buckets);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const auto frames = fuzz::input_of(data, size - 1);
  const auto cut = after_frames(frames, data[size - 1] % 16);
  const std::vector<payload> buckets{payload_of(frames.first(cut)),
                                     payload_of(frames.subspan(cut))};
  std::optional<bucket_failure> failure;
  {
    const fuzz::held_bytes bound(size + (16 << 10));
    failure = check_buckets(buckets, world.views);
  }
  if (failure) {
    fuzz::demand(failure->reason == errc::bad_frame || failure->reason == errc::bad_checksum,
                 "refused for what it is");
    fuzz::demand_message(failure->detail);
    for (const auto& bucket : buckets) check_refused(bucket);
  } else {
    check_accepted(buckets);
    check_interrupted(buckets[0]);
  }
  check_staged(buckets, !failure);
  return 0;
}
