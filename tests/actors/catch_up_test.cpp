// Who comes back with an older version is brought up by what it has missed, or by all weights where
// that is less; whatever it holds, its bytes are the fleet's in the end.
#include <algorithm>
#include <catch2/catch.hpp>

#include "actors/fleet.hpp"

using namespace lockstep;

namespace {

settings remembering(std::uint32_t percent) {
  auto s = quiet();
  s.sync.history_percent = percent;
  return s;
}

/// A fleet of one that stays, and receivers over the test's memory that come and go.
struct absent_fleet : fleet {
  explicit absent_fleet(std::uint32_t percent) : fleet(remembering(percent)) {
    add();
    REQUIRE(seed());
  }

  struct guest {
    weight_buffer memory;
    std::unique_ptr<receiver> life;
    std::vector<std::size_t> touched;  ///< by the last write
    std::size_t pauses = 0;
    std::size_t failures = 0;  ///< that the engine's next writes end in
  };

  /// Comes with what it has, and is a member when this returns.
  void come(guest& g, receiver_id id) {
    receiver_options options;
    options.id = id;
    options.memory = memory_of(g.memory);
    options.hooks.pause = [&g] { ++g.pauses; };
    options.hooks.apply = [&g](version_ref, std::uint64_t, std::span<const std::size_t> touched) {
      g.touched.assign(touched.begin(), touched.end());
      if (g.failures != 0 && g.failures-- != 0) throw std::runtime_error("on purpose");
    };
    g.life = std::make_unique<receiver>(rt, w.shape(), placed(std::move(options), w.shape()));
    REQUIRE(g.life->wait_ready(label, 10s));
    REQUIRE(wait_standing(id, "member"));
    CHECK(same(g.memory, w));
    CHECK(g.life->state().label == label);
  }
  guest holding(const weight_buffer& weights) { return {weights.clone(), nullptr, {}, 0, 0}; }

  void train(int steps) {
    for (int i = 0; i < steps; ++i) {
      const auto report = sync(static_cast<unsigned>(++label));
      REQUIRE(report.result == sync_result::ok);
      deltas += report.wire_bytes;
    }
  }

  std::uint64_t label = 0;
  std::uint64_t deltas = 0;  ///< bytes of all that were shipped
};

}  // namespace

TEST_CASE("who was away for three syncs is brought up by one merged delta") {
  absent_fleet f(100);
  auto g = f.holding(f.w);
  f.come(g, 1);
  CHECK(f.status(1).catch_ups == 0);  // it held the version: nothing was sent
  f.train(1);
  const auto before = f.status(1).sent_bytes;
  g.life.reset();
  f.deltas = 0;
  f.train(3);
  f.come(g, 1);
  const auto now = f.status(1);
  CHECK(now.catch_ups == 1);
  CHECK(now.reseeds == 0);
  CHECK(g.pauses == 2);
  CHECK(g.touched == std::vector<std::size_t>{0, 1, 3});
  // Less than all the deltas that it missed, for some elements changed twice; far less than all.
  CHECK(now.sent_bytes > before);
  CHECK(now.sent_bytes - before < f.deltas);
  CHECK(now.sent_bytes - before < f.w.shape().total_bytes() / 2);
  f.train(1);
  CHECK(same(g.memory, f.w));
}

TEST_CASE("what one step changes and the next undoes is not missed by who held the one between") {
  absent_fleet f(100);
  const auto first = f.w.clone();
  f.train(1);
  auto between = f.holding(f.w);
  auto from_the_start = f.holding(first);
  f.w.copy_from(f.w.shape(), reader_of(first));
  f.w.tensor(0)[7] ^= std::byte{1};
  REQUIRE(f.t.sync(++f.label, f.w).wait().result == sync_result::ok);
  f.come(between, 1);
  f.come(from_the_start, 2);
  CHECK(f.status(1).catch_ups == 1);
  CHECK(f.status(2).catch_ups == 1);
  CHECK(f.status(1).reseeds + f.status(2).reseeds == 0);
}

TEST_CASE("who was away for longer than is remembered is given all weights") {
  absent_fleet f(5);
  auto recent = f.holding(f.w), old = f.holding(f.w);
  f.train(2);
  recent.memory = f.w.clone();
  f.train(1);
  f.come(old, 1);
  CHECK(f.status(1).catch_ups == 0);
  CHECK(f.status(1).reseeds == 1);
  f.come(recent, 2);
  CHECK(f.status(2).catch_ups == 1);
  CHECK(f.status(2).reseeds == 0);
}

TEST_CASE("nothing is remembered where that is switched off") {
  absent_fleet f(0);
  auto g = f.holding(f.w);
  f.train(1);
  f.come(g, 1);
  CHECK(f.status(1).reseeds == 1);
}

TEST_CASE("where everything has changed, all weights are no more than what has changed") {
  absent_fleet f(1000);
  auto g = f.holding(f.w);
  f.w = random_weights(f.w.shape(), 99);
  REQUIRE(f.t.sync(++f.label, f.w).wait().result == sync_result::ok);
  f.come(g, 1);
  CHECK(f.status(1).catch_ups == 0);
  CHECK(f.status(1).reseeds == 1);
}

TEST_CASE("bytes that the fleet never held are replaced whole") {
  absent_fleet f(100);
  auto g = f.holding(f.w);
  f.train(2);
  g.memory.tensor(3)[5] ^= std::byte{4};
  f.come(g, 1);
  CHECK(f.status(1).catch_ups == 0);
  CHECK(f.status(1).reseeds == 1);
}

TEST_CASE("whose write of what it missed fails is given all weights in the same admission") {
  absent_fleet f(100);
  auto g = f.holding(f.w);
  f.train(2);
  g.failures = 1;
  f.come(g, 1);
  CHECK(f.status(1).catch_ups == 0);
  CHECK(f.status(1).reseeds == 1);
  CHECK(g.touched.size() == f.w.shape().count());
}

TEST_CASE("a sync tells who caught up within it, and what that took") {
  auto s = remembering(100);
  s.sync.encoding = delta_encoding::raw;  // as who is behind is sent it
  fleet f(s);
  f.add();
  receiver_options options;
  options.faults = std::make_shared<fault_plan>(std::vector<fault>{{fault_kind::stage_fail, 1, 1}});
  f.add(std::move(options));
  REQUIRE(f.seed());
  const auto report = f.sync(1);
  CHECK(report.result == sync_result::recovered);
  REQUIRE(report.participants.size() == 2);
  CHECK(report.participants[1].status == terminal::no);
  CHECK(report.participants[1].catch_ups == 1);
  CHECK(report.participants[1].reseeds == 0);
  CHECK(report.reseed_bytes == 0);
  // It missed this one delta.
  CHECK(report.catch_up_bytes == report.wire_bytes);
  CHECK(f.all_hold(f.w));
}
