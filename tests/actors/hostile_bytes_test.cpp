// One real bucket, every bit of it: what of a damaged bucket reaches an engine's weights. First as
// an accident, with the hash that was announced; then as a lie, with every checksum made right.
#include <algorithm>
#include <catch2/catch.hpp>
#include <string>

#include "kernels/frame_layout.hpp"
#include "tests/support/allocations.hpp"
#include "tests/support/bare_receiver.hpp"
#include "tests/support/places.hpp"
#include "tests/support/wire_bytes.hpp"
#include "weights/checkpoint.hpp"
#include "weights/weight_stream.hpp"

using namespace lockstep;
using bytes = std::vector<std::byte>;

namespace {

/// Some tensors of the example's run, at the start and after its first step.
struct real_run {
  weight_buffer base, target;
  encoded_delta delta;
  digest base_state, target_state;

  real_run() {
    const auto data = test::example_data() / "tiny-rl";
    const auto start = checkpoint::open(data / "base");
    weight_buffer end(start.shape());
    end.copy_from(start);
    const auto stream = weight_stream::open(data / "stream", start.shape());
    stream.load(0, end);

    std::vector<tensor_spec> kept;
    for (const char* name : {"b.0.n1.w", "b.0.o.weight", "b.3.o.weight", "n.w", "p.weight"})
      kept.push_back(start.shape()[start.shape().find(name).value()]);
    const layout shape(std::move(kept));
    const auto part = [&](const auto& of) {
      weight_buffer w(shape);
      w.copy_from(shape, [&](std::size_t i) -> std::span<const std::byte> {
        return of.tensor(start.shape().find(shape[i].name).value());
      });
      return w;
    };
    base = part(start);
    target = part(end);
    delta = encode_delta(shape, views_of(base), views_of(target), kernels::frame_bytes_max);
    base_state = digest_of(public_digest_seed, views_of(base));
    target_state = digest_of(public_digest_seed, views_of(target));
  }

  target_info goal() const { return {{1, 2}, target_state, 1}; }
  static envelope env(std::uint64_t seq) {
    return {bare_receiver::cluster, {1, seq}, bare_receiver::me};
  }
  wire_message attach() const {
    return attach_msg{env(1), {{1, 0}, base_state, 0}, base.shape().fingerprint(), 3};
  }
  wire_message prepare(const manifest& content) const {
    return prepare_msg{env(2), {1, 0}, base_state, goal(), content};
  }
  wire_message commit() const { return commit_msg{env(2), target_state, 4, 1}; }
};

const real_run& run() {
  static const real_run made;
  return made;
}

bytes bytes_of(const payload& p) {
  return {p.data(), p.data() + p.size()};
}

/// The manifest of a liar: the sizes and hashes that `buckets` have.
manifest content_of(const std::vector<payload>& buckets, manifest like) {
  like.buckets.clear();
  like.bytes = 0;
  for (const auto& b : buckets) {
    like.buckets.push_back({b.size(), hash_of(b)});
    like.bytes += b.size();
  }
  return like;
}

/// Where the frames of a sound bucket begin, and where the last ends.
std::vector<std::size_t> frame_starts(const bytes& bucket) {
  std::vector<std::size_t> out{0};
  while (out.back() < bucket.size()) {
    std::uint32_t payload_bytes = 0;
    std::memcpy(&payload_bytes, bucket.data() + out.back() + kernels::field::payload_bytes, 4);
    out.push_back(out.back() + kernels::frame_header_bytes + payload_bytes);
  }
  return out;
}

/// The same bucket with the checksum of the frame that `bit` lies in made right.
bytes reseal_frame(bytes bucket, const std::vector<std::size_t>& starts, std::size_t bit) {
  const auto next = std::upper_bound(starts.begin(), starts.end(), bit / 8);
  const auto from = *(next - 1);
  const auto sum = kernels::frame_checksum({bucket.data() + from, *next - from});
  std::memcpy(bucket.data() + from + kernels::field::checksum, &sum, 4);
  return bucket;
}

/// One engine that is lied to over and over; a copy of what its memory should be.
struct victim {
  bare_receiver r{run().base};
  const guarded_memory base{run().base}, target{run().target};

  bool untouched() const { return r.memory == base; }

  /// Whether the engine would vote yes for these buckets.
  bool votes_yes(const std::vector<payload>& buckets) {
    r.bytes.drop();
    const allocation_counter counted;
    for (std::uint32_t i = 0; i < buckets.size(); ++i)
      r.bytes.stage(i, buckets[i], std::uint64_t{1} << 30);
    const bool yes = !r.bytes.verify(run().base_state, run().target_state);
    if (counted.bytes() > verify_allocates_max) FAIL("verifying allocated " << counted.bytes());
    if (!untouched()) FAIL("verifying wrote");
    return yes;
  }
  /// Views of the tensors, the digest's key, a stager's tables and a line for people: nothing of it
  /// grows with what was sent.
  static constexpr std::size_t verify_allocates_max = 128 * 1024;

  /// Yes must mean the target's bytes, exactly.
  bool leads_to_target(const std::vector<payload>& buckets) {
    if (!votes_yes(buckets)) return false;
    CHECK_FALSE(r.bytes.apply(run().goal()));
    const bool right = r.memory == target;
    r.memory.reset(base);
    if (!right) FAIL("a delta was accepted that does not lead to the target");
    return true;
  }
};

}  // namespace

TEST_CASE("what was staged before a bucket that is not sound is let go at once") {
  victim v;
  const auto& buckets = run().delta.buckets;
  CHECK_FALSE(v.r.bytes.stage(0, buckets[0], std::uint64_t{1} << 30));
  CHECK(v.r.bytes.staged_bytes() > 0);
  const auto unsound = v.r.bytes.stage(1, payload(bytes(7)), std::uint64_t{1} << 30);
  CHECK(unsound);
  CHECK_FALSE(v.r.bytes.stage(2, buckets[0], std::uint64_t{1} << 30));
  CHECK(v.r.bytes.staged_bytes() == 0);
  const auto said = v.r.bytes.verify(run().base_state, run().target_state);
  CHECK(said.reason == unsound.reason);
  CHECK(said.detail == unsound.detail);
  CHECK(v.untouched());
  v.r.bytes.drop();
  CHECK(v.leads_to_target(buckets));
}

TEST_CASE("the real bucket holds several frames and leads where it should") {
  const auto& delta = run().delta;
  REQUIRE(delta.buckets.size() == 1);
  CHECK(count_frames(delta.buckets[0], views_of(run().base)) >= 3);
  CHECK(delta.buckets[0].size() > 1000);
  CHECK(delta.buckets[0].size() < 20'000);
  CHECK(victim().leads_to_target(delta.buckets));
}

TEST_CASE("every flipped bit and every cut of a real bucket's message is refused") {
  const wire_message m = bucket_msg{real_run::env(2), 0, run().delta.buckets[0]};
  const auto whole = encode_message(m);
  std::size_t harmful = 0;
  for (std::size_t bit = 0; bit < whole.size() * 8; ++bit) {
    const allocation_counter counted;
    harmful += std::holds_alternative<wire_message>(decode_message(flipped(whole, bit))) ? 1 : 0;
    if (counted.bytes() > 2 * whole.size() + 1024) FAIL("allocated " << counted.bytes());
  }
  for (std::size_t length = 0; length < whole.size(); ++length) {
    const std::span cut(whole.data(), length);
    harmful += std::holds_alternative<wire_message>(decode_message(cut)) ? 1 : 0;
  }
  CHECK(harmful == 0);
}

TEST_CASE("a damaged bucket is not the one announced, and nothing of it is kept") {
  const auto& delta = run().delta;
  const auto whole = bytes_of(delta.buckets[0]);
  bare_receiver r(run().base);
  r.deliver(run().attach());
  r.deliver(run().prepare(delta.content));
  const auto opened = r.machine;  // one for each try
  const guarded_memory base(run().base);
  const auto refused = [&](bytes damaged) {
    r.machine = opened;
    r.replies.clear();
    r.deliver(bucket_msg{real_run::env(2), 0, payload(std::move(damaged))});
    const bool told = r.replies.size() == 1 && r.replies[0].kind == reply_kind::vote_no &&
                      r.replies[0].reason == errc::bad_checksum;
    r.deliver(run().commit());
    return told && r.written.empty() && r.memory == base;
  };
  std::size_t harmful = 0;
  for (std::size_t bit = 0; bit < whole.size() * 8; ++bit)
    harmful += refused(flipped(whole, bit)) ? 0 : 1;
  for (std::size_t length = 0; length < whole.size(); ++length)
    harmful += refused({whole.begin(), at(whole, length)}) ? 0 : 1;
  for (std::size_t more = 1; more < 64; ++more) {
    auto longer = whole;
    longer.resize(whole.size() + more);
    harmful += refused(longer) ? 0 : 1;
  }
  CHECK(harmful == 0);

  r.machine = opened;
  r.deliver(bucket_msg{real_run::env(2), 0, payload(whole)});
  CHECK(r.replies.back().kind == reply_kind::vote_yes);
}

TEST_CASE("a bucket whose bytes and hash lie alike never gets past the proofs") {
  const auto whole = bytes_of(run().delta.buckets[0]);
  const auto starts = frame_starts(whole);
  REQUIRE(starts.back() == whole.size());
  victim v;
  std::size_t frame_found = 0, resealed_found = 0, harmless = 0;
  for (std::size_t bit = 0; bit < whole.size() * 8; ++bit) {
    if (v.leads_to_target({payload(flipped(whole, bit))})) {
      ++harmless;
    } else {
      ++frame_found;
    }
    // With the frame's checksum made right as well: bounds and the predicted digest are left.
    const auto resealed = reseal_frame(flipped(whole, bit), starts, bit);
    if (resealed == whole) continue;  // the flip was in the checksum itself
    if (v.leads_to_target({payload(resealed)})) {
      ++harmless;
    } else {
      ++resealed_found;
    }
  }
  CHECK(frame_found == whole.size() * 8);
  CHECK(resealed_found == (whole.size() - 4 * (starts.size() - 1)) * 8);
  CHECK(harmless == 0);
  for (std::size_t length = 0; length < whole.size(); ++length)
    CHECK_FALSE(v.leads_to_target({payload(bytes{whole.begin(), at(whole, length)})}));
  CHECK(v.leads_to_target({payload(whole)}));
}

TEST_CASE("a bit that flipped at rest is found before the vote") {
  const auto& delta = run().delta;
  for (std::size_t i = 0; i < run().base.shape().count(); ++i)
    for (std::size_t bit = 0; bit < run().base.tensor(i).size() * 8; bit += 1009) {
      bare_receiver r(run().base);
      r.deliver(run().attach());
      r.memory.tensors()[i][bit / 8] ^= static_cast<std::byte>(1u << bit % 8);
      const auto rotten = r.memory;
      r.deliver(run().prepare(delta.content));
      r.deliver(bucket_msg{real_run::env(2), 0, delta.buckets[0]});
      REQUIRE(r.replies.back().kind == reply_kind::vote_no);
      REQUIRE(r.replies.back().reason == errc::wrong_base);
      REQUIRE(r.machine.state().phase == receiver_phase::torn);
      REQUIRE(r.memory == rotten);
    }
}

TEST_CASE("a liar's whole conversation ends with a no") {
  // As above, but through the machine: a sample, since every try digests the weights four times.
  const auto whole = bytes_of(run().delta.buckets[0]);
  const auto starts = frame_starts(whole);
  const guarded_memory base(run().base);
  for (std::size_t bit = 0; bit < whole.size() * 8; bit += 37) {
    const auto forged = reseal_frame(flipped(whole, bit), starts, bit);
    if (forged == whole) continue;
    const std::vector<payload> buckets{payload(forged)};
    bare_receiver r(run().base);
    r.deliver(run().attach());
    r.deliver(run().prepare(content_of(buckets, run().delta.content)));
    r.deliver(bucket_msg{real_run::env(2), 0, buckets[0]});
    REQUIRE(r.replies.back().kind == reply_kind::vote_no);
    r.deliver(run().commit());
    REQUIRE(r.written.empty());
    REQUIRE(r.memory == base);
    REQUIRE(r.machine.state().ready);
  }
}

TEST_CASE("a forged full transfer stays in its bounds and is never served") {
  const auto views = views_of(run().target);
  const full_plan plan(run().base.shape(), views, kernels::frame_bytes_max);
  REQUIRE(plan.content().buckets.size() == 1);
  const auto whole = bytes_of(plan.make(0, views));
  const auto starts = frame_starts(whole);
  const guarded_memory target(run().target);
  std::size_t written = 0, refused = 0, harmless = 0, harmful = 0;
  const auto forge = [&](bytes forged) {
    const std::vector<payload> buckets{payload(std::move(forged))};
    bare_receiver r(run().base);
    r.deliver(run().attach());
    r.deliver(
        full_begin_msg{real_run::env(2), run().goal(), content_of(buckets, plan.content()), 5});
    r.deliver(bucket_msg{real_run::env(2), 0, buckets[0]});
    const auto& last = r.replies.back();
    if (last.kind == reply_kind::full_ok) {
      // A frame that went to another tensor of the same bytes.
      ++harmless;
      harmful += r.memory == target ? 0 : 1;
      return;
    }
    ++(last.reason == errc::wrong_target ? written : refused);
    const bool fine = last.kind == reply_kind::full_fail && !r.machine.state().ready &&
                      r.machine.state().phase == receiver_phase::torn && r.memory.canaries_alive();
    harmful += fine ? 0 : 1;
  };
  for (std::size_t bit = 0; bit < whole.size() * 8;) {
    forge(flipped(whole, bit));
    const auto resealed = reseal_frame(flipped(whole, bit), starts, bit);
    if (resealed != whole) forge(resealed);
    // All of the headers and of the first tensor; of the rest every 61st bit.
    const bool all = std::any_of(starts.begin(), starts.end(), [&](std::size_t s) {
      return bit / 8 >= s && bit / 8 < s + kernels::frame_header_bytes;
    });
    bit += all || bit / 8 < starts[1] ? 1 : 61;
  }
  for (std::size_t length = 1; length < whole.size(); length += length < 400 ? 1 : 97)
    forge({whole.begin(), at(whole, length)});
  CHECK(harmful == 0);
  CHECK(harmless < 8);
  CHECK(written > 2000);  // resealed values: in bounds, and found by the digest
  CHECK(refused > 2000);
}

TEST_CASE("swapped, repeated, missing and stale buckets are refused or ignored") {
  // One frame to a bucket.
  const auto delta =
      encode_delta(run().base.shape(), views_of(run().base), views_of(run().target), 1);
  const auto count = static_cast<std::uint32_t>(delta.buckets.size());
  REQUIRE(count >= 3);
  const guarded_memory base(run().base), target(run().target);
  bare_receiver r(run().base);
  r.deliver(run().attach());
  const auto put = [&](std::uint32_t index, const payload& bucket, std::uint64_t seq = 2) {
    return r.deliver(bucket_msg{real_run::env(seq), index, bucket});
  };
  const auto open = [&] { r.deliver(run().prepare(delta.content)); };
  const auto refused = [&] {
    r.deliver(run().commit());
    return r.written.empty() && r.memory == base && r.machine.state().ready;
  };

  SECTION("swapped: the first is refused") {
    open();
    put(0, delta.buckets[1]);
    CHECK(r.replies.back().reason == errc::bad_checksum);
    const auto said = r.replies.size();
    put(1, delta.buckets[0]);
    CHECK(r.replies.size() == said);  // the slot is gone
    CHECK(refused());
  }
  SECTION("swapped and announced so: the same delta, as several ranks might have it") {
    auto swapped = delta.buckets;
    std::swap(swapped[0], swapped[1]);
    r.deliver(run().prepare(content_of(swapped, delta.content)));
    for (std::uint32_t i = 0; i < count; ++i) put(i, swapped[i]);
    CHECK(r.replies.back().kind == reply_kind::vote_yes);
    r.deliver(run().commit());
    CHECK(r.memory == target);
  }
  SECTION("one in another's place and announced so: a range is there twice") {
    auto doubled = delta.buckets;
    doubled[1] = doubled[0];
    r.deliver(run().prepare(content_of(doubled, delta.content)));
    for (std::uint32_t i = 0; i < count; ++i) put(i, doubled[i]);
    CHECK(r.replies.back().kind == reply_kind::vote_no);
    CHECK(r.replies.back().reason == errc::bad_frame);
    CHECK(refused());
  }
  SECTION("repeated: the first is taken, and once") {
    open();
    put(0, delta.buckets[0]);
    put(0, delta.buckets[0]);
    CHECK(r.machine.ignored() == 1);
    for (std::uint32_t i = 1; i < count; ++i) put(i, delta.buckets[i]);
    CHECK(r.replies.back().kind == reply_kind::vote_yes);
    SECTION("and after the vote too") {
      put(0, delta.buckets[0]);
      r.deliver(run().commit());
      CHECK(r.memory == target);
      CHECK(r.machine.state().version == version_ref{1, 2});
    }
    SECTION("and another one in its place undoes nothing") {
      const auto said = r.replies.size();
      put(0, delta.buckets[1]);
      CHECK(r.replies.size() == said);
      r.deliver(run().commit());
      CHECK(r.memory == target);
    }
  }
  SECTION("repeated and announced so: frames are out of order") {
    auto twice = delta.buckets;
    twice.insert(twice.begin(), twice[0]);
    r.deliver(run().prepare(content_of(twice, delta.content)));
    for (std::uint32_t i = 0; i <= count; ++i) put(i, twice[i]);
    CHECK(r.replies.back().reason == errc::bad_frame);
    CHECK(refused());
  }
  SECTION("missing: no vote, and a commit writes nothing") {
    open();
    for (std::uint32_t i = 1; i < count; ++i) put(i, delta.buckets[i]);
    CHECK(r.replies.back().kind == reply_kind::attached);
    CHECK(refused());
    CHECK(r.replies.back().reason == errc::not_staged);
  }
  SECTION("missing and announced so: another target") {
    auto fewer = delta.buckets;
    fewer.erase(fewer.begin());
    r.deliver(run().prepare(content_of(fewer, delta.content)));
    for (std::uint32_t i = 0; i + 1 < count; ++i) put(i, fewer[i]);
    CHECK(r.replies.back().reason == errc::wrong_target);
    CHECK(refused());
  }
  SECTION("beyond the last") {
    open();
    put(count, delta.buckets[0]);
    CHECK(r.replies.back().reason == errc::bad_checksum);
    CHECK(refused());
  }
  SECTION("stale: of the transaction before") {
    open();
    put(0, delta.buckets[0]);
    r.deliver(prepare_msg{real_run::env(3),
                          {1, 0},
                          run().base_state,
                          {{1, 3}, run().target_state, 1},
                          delta.content});
    for (std::uint32_t i = 0; i < count; ++i) CHECK(put(i, delta.buckets[i], 2) == 0);
    CHECK(r.replies.back().kind == reply_kind::attached);  // no vote
    CHECK(refused());
    for (std::uint32_t i = 0; i < count; ++i) put(i, delta.buckets[i], 3);
    CHECK(r.replies.back().kind == reply_kind::vote_yes);
  }
  SECTION("of a transaction that was never announced") {
    for (std::uint32_t i = 0; i < count; ++i) CHECK(put(i, delta.buckets[i], 4) == 0);
    CHECK(refused());
  }
}
