// What comes of an allocation that fails while something is decoded, staged, written or pulled:
// each of the first ten thousand in turn, on whichever thread. A refusal, nothing live written that
// was not to be, and nothing is left that keeps the next attempt from succeeding.
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <csignal>
#include <new>
#include <random>
#include <string>

#include "tests/support/allocations.hpp"
#include "tests/support/bare_receiver.hpp"
#include "weights/host_checkpoint.hpp"
#include "weights/published.hpp"
#include "weights/pull.hpp"
#include "weights/test_files.hpp"
#include "weights/workers.hpp"

using namespace lockstep;
using lockstep::test::contents;
using lockstep::test::temp_dir;

namespace {

constexpr std::size_t tries_max = 10'000;

/// Calls `once(number, stays)`, which says whether there were so many allocations, until there are
/// not; returns how many there were.
template <class Once>
std::size_t for_each_allocation(Once once) {
  std::size_t number = 1;
  for (; number <= tries_max; ++number) {
    const bool first = once(number, false);
    const bool second = once(number, true);
    if (!first && !second) break;
  }
  return number - 1;
}

/// What became of `work` while the `number`-th allocation failed.
struct outcome {
  bool struck = false;
  bool no_memory = false;  ///< thrown, as such
  std::string other;       ///< thrown, as something else
};

template <class Work>
outcome with_failure(std::size_t number, bool stays, Work work) {
  outcome out;
  std::exception_ptr thrown;
  {
    const failing_allocation failing(number, stays);
    try {
      work();
    } catch (const std::bad_alloc&) {
      out.no_memory = true;
    } catch (...) {
      thrown = std::current_exception();
    }
    out.struck = failing.struck();
  }
  try {
    if (thrown) std::rethrow_exception(thrown);
  } catch (const error& e) {
    out.no_memory = e.code() == errc::no_memory;
    if (!out.no_memory) out.other = e.what();
  } catch (const std::exception& e) {
    out.other = e.what();
  }
  return out;
}

tensor_views views_of(const weight_buffer& w) {
  tensor_views out;
  for (std::size_t i = 0; i < w.shape().count(); ++i)
    out.push_back({{w.tensor(i).data(), w.tensor(i).size()}, unit_bytes(w.shape()[i].type)});
  return out;
}

weight_buffer some_weights(const layout& shape, unsigned seed) {
  weight_buffer out(shape);
  std::mt19937 rng(seed);
  std::normal_distribution<float> values;
  for (std::size_t i = 0; i < shape.count(); ++i) {
    auto bytes = out.tensor(i);
    for (std::size_t at = 0; at + 2 <= bytes.size(); at += 2) {  // as bf16 weights look
      const auto value = values(rng);
      std::memcpy(bytes.data() + at, reinterpret_cast<const char*>(&value) + 2, 2);
    }
  }
  return out;
}

weight_buffer stepped(const weight_buffer& from, unsigned seed) {
  auto out = from.clone();
  std::mt19937 rng(seed);
  for (std::size_t i = 0; i < out.shape().count(); ++i)
    for (auto& b : out.tensor(i))
      if (rng() % 50 == 0) b ^= std::byte{1};
  return out;
}

/// Enough for passes on several threads, and for several frames and buckets.
const layout large({{"bias", dtype::f32, {7}},
                    {"head", dtype::bf16, {1500, 1100}},
                    {"trunk", dtype::bf16, {1200, 1000}}});
const layout small({{"a", dtype::bf16, {32, 16}},
                    {"b", dtype::f32, {5}},
                    {"c", dtype::bf16, {64}}});

struct transition {
  explicit transition(const layout& shape, kernels::encoding_choice choice)
      : base(some_weights(shape, 1)),
        target(stepped(base, 2)),
        delta(encode_delta(shape, views_of(base), views_of(target), kernels::frame_bytes_max,
                           choice)),
        base_state(digest_of(public_digest_seed, views_of(base))),
        target_state(digest_of(public_digest_seed, views_of(target))) {}

  target_info goal() const { return {{1, 2}, target_state, 1}; }
  static envelope env(std::uint64_t seq) {
    return {bare_receiver::cluster, {1, seq}, bare_receiver::me};
  }

  weight_buffer base, target;
  encoded_delta delta;
  digest base_state, target_state;
};

constexpr kernels::encoding_choice choices[] = {kernels::encoding_choice::raw,
                                                kernels::encoding_choice::coded};

}  // namespace

TEST_CASE("an allocation that fails in staging is a no, and nothing is written") {
  set_workers(4);
  for (const auto choice : choices) {
    const transition t(large, choice);
    bare_receiver r(t.base);
    const guarded_memory base(t.base);
    const auto stage = [&] {
      for (std::uint32_t i = 0; i < t.delta.buckets.size(); ++i)
        r.bytes.stage(i, t.delta.buckets[i], std::uint64_t{1} << 30);
      return r.bytes.verify(t.base_state, t.target_state);
    };
    std::size_t refused = 0;
    const auto count = for_each_allocation([&](std::size_t number, bool stays) {
      r.bytes.drop();
      engine::failure said;
      const auto o = with_failure(number, stays, [&] { said = stage(); });
      INFO("allocation " << number << ", later ones too: " << stays << ", " << said.detail);
      if (o.no_memory || !o.other.empty()) FAIL("thrown: " << o.other);
      if (said && said.reason != errc::no_memory) FAIL("refused for another reason");
      if (!(r.memory == base)) FAIL("written");
      refused += said ? 1 : 0;
      return o.struck;
    });
    CHECK(count > 3);
    CHECK(count < tries_max);
    CHECK(refused > 3);
    r.bytes.drop();
    CHECK_FALSE(stage());
    CHECK_FALSE(r.bytes.apply(t.goal()));
    CHECK(r.memory == guarded_memory(t.target));
  }
  set_workers(0);
}

TEST_CASE("an allocation that fails in writing is told, and a redo heals what it left") {
  set_workers(4);
  for (const auto choice : choices) {
    const transition t(large, choice);
    bare_receiver r(t.base);
    const guarded_memory base(t.base), target(t.target);
    for (std::uint32_t i = 0; i < t.delta.buckets.size(); ++i)
      r.bytes.stage(i, t.delta.buckets[i], std::uint64_t{1} << 30);
    REQUIRE_FALSE(r.bytes.verify(t.base_state, t.target_state));
    for_each_allocation([&](std::size_t number, bool stays) {
      r.memory.reset(base);
      engine::failure said;
      const auto goal = t.goal();
      const auto o = with_failure(number, stays, [&] { said = r.bytes.apply(goal); });
      INFO("allocation " << number << ", later ones too: " << stays << ", " << said.detail);
      if (o.no_memory || !o.other.empty()) FAIL("thrown: " << o.other);
      if (said && said.reason != errc::no_memory) FAIL("refused for another reason");
      if (!said && !(r.memory == target)) FAIL("said to be written, and is not");
      if (!r.memory.canaries_alive()) FAIL("written where nobody may");
      if (said && (r.bytes.apply(goal) || !(r.memory == target))) FAIL("not healed");
      return o.struck;
    });
  }
  set_workers(0);
}

TEST_CASE("an allocation that fails in a receiver's conversation ends in no, or ends its life") {
  for (const auto choice : choices) {
    const transition t(small, choice);
    const guarded_memory base(t.base), target(t.target);
    const wire_message attach =
        attach_msg{t.env(1), {{1, 0}, t.base_state, 0}, t.base.shape().fingerprint(), 3};
    const wire_message prepare =
        prepare_msg{t.env(2), {1, 0}, t.base_state, t.goal(), t.delta.content};
    const wire_message commit = commit_msg{t.env(2), t.target_state, 4, 1};
    std::vector<std::vector<std::byte>> buckets;
    for (std::uint32_t i = 0; i < t.delta.buckets.size(); ++i)
      buckets.push_back(encode_message(bucket_msg{t.env(2), i, t.delta.buckets[i]}));
    std::size_t no = 0;
    const auto count = for_each_allocation([&](std::size_t number, bool stays) {
      bare_receiver r(t.base);
      r.deliver(attach);
      r.replies.clear();
      const auto o = with_failure(number, stays, [&] {
        r.deliver(prepare);
        for (const auto& b : buckets) r.deliver(std::get<wire_message>(decode_message(b)));
      });
      INFO("allocation " << number << ", later ones too: " << stays);
      if (!o.other.empty()) FAIL("thrown: " << o.other);
      if (!(r.memory == base) || !r.written.empty()) FAIL("written before the commit");
      if (o.no_memory) return o.struck;  // the actor's life ends, and it says hello in another
      if (r.replies.size() != 1) FAIL("not one vote but " << r.replies.size());
      if (r.replies[0].kind != reply_kind::vote_yes) {
        ++no;
        if (r.replies[0].reason != errc::no_memory) FAIL("refused for another reason");
      }
      r.deliver(commit);
      const bool yes = r.replies[0].kind == reply_kind::vote_yes;
      if (!(r.memory == (yes ? target : base))) FAIL("the commit was not taken as voted");
      return o.struck;
    });
    CHECK(count > 10);
    CHECK(no > 3);
  }
}

TEST_CASE("an allocation that fails in a published delta leaves the weights as they were") {
  for (const auto encoding :
       {published_encoding::xored, published_encoding::overwrite, published_encoding::coded}) {
    INFO(to_string(encoding));
    const temp_dir dir;
    const auto base = some_weights(small, 1);
    const auto target = stepped(base, 2);
    publish_options how;
    how.encoding = encoding;
    publish_delta(dir.path(), 1, 0, small, reader_of(base), reader_of(target), how);
    const auto version = published_dir(dir.path(), 1);
    auto weights = base.clone();
    const auto count = for_each_allocation([&](std::size_t number, bool stays) {
      const auto o = with_failure(number, stays,
                                  [&] { published_delta::open(version, small).apply(weights); });
      const bool refused = o.no_memory || !o.other.empty();
      INFO("allocation " << number << ", later ones too: " << stays << ", " << o.other);
      if (!o.other.empty()) FAIL("refused for another reason");
      if (contents(weights) != contents(refused ? base : target)) FAIL("written, or not");
      if (!refused) weights.copy_from(base);
      return o.struck;
    });
    CHECK(count > 50);
    CHECK(count < tries_max);
  }
}

// In a child, since the destructor of the JSON library's values allocates and cannot say no: where
// just that fails the process ends as by a kill, which a pull must survive at any point anyway.
TEST_CASE("an allocation that fails in a pull leaves a checkpoint that the next one brings up") {
  enum : int { not_struck, went_well, no_memory, something_else };
  const temp_dir dir(test::in_memory());
  const auto base = some_weights(small, 1);
  const auto target = stepped(base, 2);
  write_safetensors(dir / "base" / "model.safetensors", base);
  publish_delta(dir / "stream", 1, 0, small, reader_of(base), reader_of(target));
  pull_options how;
  how.source = dir / "stream";
  how.checkpoint = dir / "host";
  std::size_t refused = 0;
  std::size_t ended = 0;
  const auto count = for_each_allocation([&](std::size_t number, bool stays) {
    test::fs::remove_all(dir / "host");
    test::fs::copy(dir / "base", dir / "host");
    const auto child = ::fork();
    if (child == 0) {
      ::signal(SIGABRT, SIG_DFL);
      ::close(STDERR_FILENO);
      const auto o = with_failure(number, stays, [&] { pull(how); });
      ::_exit(!o.other.empty() ? something_else
              : o.no_memory    ? no_memory
              : o.struck       ? went_well
                               : not_struck);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    INFO("allocation " << number << ", later ones too: " << stays << ", status " << status);
    if (WIFEXITED(status) ? WEXITSTATUS(status) == something_else : WTERMSIG(status) != SIGABRT)
      FAIL("refused for another reason, or ended otherwise");
    if (const auto marker = marker_of(dir / "host"))
      if (contents(checkpoint::open(dir / "host")) != contents(*marker == 1 ? target : base))
        FAIL("the marker lies");
    refused += WIFEXITED(status) && WEXITSTATUS(status) == no_memory ? 1 : 0;
    ended += WIFSIGNALED(status) ? 1 : 0;
    if (pull(how).version != 1) FAIL("not brought up");
    if (contents(checkpoint::open(dir / "host")) != contents(target)) FAIL("not the target");
    return !WIFEXITED(status) || WEXITSTATUS(status) != not_struck;
  });
  INFO(count << " allocations, " << refused << " refusals, ended " << ended << " times");
  CHECK(count > 100);
  CHECK(refused > count);
  CHECK(4 * ended < count);
}
