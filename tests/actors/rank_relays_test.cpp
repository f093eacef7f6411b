// Receivers that have buckets from each other, and a trainer of two ranks: each rank ships its
// part.
#include <catch2/catch.hpp>
#include <future>
#include <map>
#include <optional>

#include "actors/relays.hpp"

using namespace lockstep;

namespace {

constexpr std::uint32_t ranks = 2;

/// Half of the buckets are of each rank.
layout halves() {
  return layout({{"a", dtype::bf16, {5, 1 << 20}}, {"b", dtype::bf16, {5, 1 << 20}}});
}

struct ranked_relays {
  ranked_relays(unsigned count, std::uint32_t degree, std::uint32_t stall = stall_ms)
      : w(random_weights(halves(), 1)) {
    auto s = listening(degree);
    s.transport.relay_stall_ms = stall;
    s.transport.ranks = ranks;
    s.transport.retry_ms = 20;
    s.transport.retry_ms_max = 50;
    for (std::uint32_t rank = 0; rank < ranks; ++rank) {
      s.transport.rank = rank;
      if (rank > 0) s.transport.connect = "127.0.0.1:" + std::to_string(rt[0]->port());
      rt[rank].emplace(s);
      shard_mask mine(w.shape().count());
      mine[rank] = true;
      t[rank].emplace(*rt[rank], w.shape(), mine);
      to_rank[rank].leads_to = rt[rank]->port();
    }
    all_ranks<version_ref>([&](trainer& x) { return x.seed(w, 0); });
    for (receiver_id id = 1; id <= count; ++id) add(id);
    REQUIRE(t[0]->wait_for_members(count, 30s));
    REQUIRE(settled());
  }

  void add(receiver_id id, const tensor_names& tensors = {}) {
    auto& road = roads[id];
    auto s = connecting(0);
    s.transport.connect = "127.0.0.1:" + std::to_string(to_rank[0].port) +
                          ",127.0.0.1:" + std::to_string(to_rank[1].port);
    // Others have buckets of it over a road of our own.
    s.transport.relay_address = "127.0.0.1:" + std::to_string(road.port);
    auto& r = receivers[id];
    r.rt.emplace(s);
    r.tensors = tensors;
    receiver_options o;
    o.id = id;
    o.tensors = tensors;
    r.rx.emplace(*r.rt, w.shape(), o);
    road.leads_to = r.rt->port();
  }

  /// What `work(trainer)` returns at each rank, done at all of them at once.
  template <class Result, class Work>
  std::array<Result, ranks> all_ranks(Work work) {
    auto other = std::async(std::launch::async, [&] { return work(*t[1]); });
    auto first = work(*t[0]);
    return {std::move(first), other.get()};
  }

  /// What each rank reports of a sync in which everything changes.
  std::array<sync_report, ranks> sync() {
    for (std::size_t i = 0; i < w.shape().count(); ++i)
      for (auto& b : w.tensor(i)) b ^= std::byte{0x55};
    ++label;
    return all_ranks<sync_report>([&](trainer& x) { return x.sync(label, w).wait(); });
  }

  bool settled() {
    std::size_t since = 0;
    return eventually([&] {
      const auto feeds = t[0]->relays().feeds;
      const bool up = !feeds.empty() && std::ranges::all_of(feeds, &receiver_feed::up);
      since = up ? since + 1 : 0;
      return since > 20;
    });
  }
  receiver_id busiest() {
    std::map<receiver_id, int> children;
    for (const auto& x : t[0]->relays().feeds) ++children[x.parent];
    REQUIRE_FALSE(children.empty());
    return std::ranges::max_element(children, {}, [](const auto& c) { return c.second; })->first;
  }
  bool feeds_others(receiver_id id) {
    const auto feeds = t[0]->relays().feeds;
    return std::ranges::any_of(feeds, [&](const auto& x) { return x.parent == id; });
  }
  bool all_hold() const {
    return std::ranges::all_of(receivers, [&](const auto& r) {
      const auto& [id, node] = r;
      return node.tensors.empty() ? same(*node.rx, w) : holds_part(*node.rx, w, node.tensors);
    });
  }
  std::array<std::uint64_t, ranks> sent() const {
    return {to_rank[0].bytes_down, to_rank[1].bytes_down};
  }

  struct remote {
    std::optional<runtime> rt;
    std::optional<receiver> rx;
    tensor_names tensors;  ///< that it takes; none: all
  };
  weight_buffer w;
  std::array<bad_road, ranks> to_rank;
  std::map<receiver_id, bad_road> roads;
  std::array<std::optional<runtime>, ranks> rt;
  std::array<std::optional<trainer>, ranks> t;
  std::map<receiver_id, remote> receivers;
  unsigned label = 0;
};

}  // namespace

TEST_CASE("with fan-out each rank sends its own part about once, and everybody has all of it") {
  // Nobody stands still, however slow all of this is.
  ranked_relays g(8, 2, 30'000);
  for (int i = 0; i < 3; ++i) {
    const auto before = g.sent();
    const auto reports = g.sync();
    REQUIRE(reports[0].result == sync_result::ok);
    CHECK(g.all_hold());
    for (std::size_t rank = 0; rank < ranks; ++rank) {
      INFO("rank " << rank << " of " << reports[rank].wire_bytes);
      // Rank 0 reports the sum.
      const auto part =
          rank == 0 ? reports[0].wire_bytes - reports[1].wire_bytes : reports[1].wire_bytes;
      CHECK(part > 5 * 1'000'000);
      CHECK(g.sent()[rank] - before[rank] <= part * 22 / 10);
    }
  }
  for (const auto& line : g.t[0]->audit()) CHECK(line.pass);
}

TEST_CASE("a relay that changes what it passes on of any rank's part poisons nobody") {
  ranked_relays g(5, 2);
  const auto liar = g.busiest();
  g.roads.at(liar).now = bad_road::way::lies;
  CHECK(g.sync()[0].result == sync_result::ok);
  CHECK(g.roads.at(liar).bytes_down > 100'000);
  CHECK(g.all_hold());
  CHECK(eventually([&] { return !g.feeds_others(liar); }));
  REQUIRE(g.settled());
  CHECK(g.sync()[0].result == sync_result::ok);
  CHECK(g.all_hold());
}

TEST_CASE("a relay that stands still is noticed by every rank, and delays a sync by no more") {
  ranked_relays g(5, 2);
  REQUIRE(g.sync()[0].result == sync_result::ok);
  const auto still = g.busiest();
  g.roads.at(still).now = bad_road::way::stands_still;
  const auto report = g.sync()[0];
  CHECK(report.result == sync_result::ok);
  CHECK(report.total.count() < 30.0);
  CHECK(g.all_hold());
  CHECK(eventually([&] { return !g.feeds_others(still); }));
  REQUIRE(g.settled());
  CHECK(g.sync()[0].result == sync_result::ok);
  CHECK(g.all_hold());
}

TEST_CASE("a relay that ends in the midst is missed by nobody but the ranks") {
  ranked_relays g(6, 2);
  REQUIRE(g.sync()[0].result == sync_result::ok);
  for (receiver_id id = 2; id <= 4; ++id) {
    INFO("receiver " << id);
    REQUIRE(g.settled());
    for (std::size_t i = 0; i < g.w.shape().count(); ++i)
      for (auto& b : g.w.tensor(i)) b ^= std::byte{0x33};
    ++g.label;
    auto ended = std::async(std::launch::async, [&] {
      std::this_thread::sleep_for(std::chrono::milliseconds(3 * id));
      auto node = g.receivers.extract(id);
    });
    const auto reports =
        g.all_ranks<sync_report>([&](trainer& x) { return x.sync(g.label, g.w).wait(); });
    ended.get();
    for (const auto& p : reports[0].participants)
      if (p.id != id) CHECK(p.status == terminal::ok);
    CHECK(g.all_hold());
  }
  for (const auto& line : g.t[0]->audit()) CHECK(line.pass);
}

TEST_CASE("whoever takes a part has it from every rank itself, and others pass on all the same") {
  ranked_relays g(5, 2);
  g.add(6, {"a"});
  g.add(7, {"b"});
  REQUIRE(g.t[0]->wait_for_members(7, 30s));
  REQUIRE(g.settled());
  const auto uses_parts = [&] {
    return std::ranges::any_of(g.t[0]->relays().feeds,
                               [](const auto& x) { return x.id > 5 || x.parent > 5; });
  };
  for (int i = 0; i < 3; ++i) {
    const auto before = g.sent();
    const auto reports = g.sync();
    REQUIRE(reports[0].result == sync_result::ok);
    CHECK(reports[0].participants.size() == 7);
    CHECK(g.all_hold());
    CHECK_FALSE(uses_parts());
    for (std::size_t rank = 0; rank < ranks; ++rank) {
      INFO("rank " << rank);
      const auto part =
          rank == 0 ? reports[0].wire_bytes - reports[1].wire_bytes : reports[1].wire_bytes;
      // Once or twice to those who pass it on, and once to who takes that tensor.
      CHECK(g.sent()[rank] - before[rank] > part * 19 / 10);
      CHECK(g.sent()[rank] - before[rank] <= part * 32 / 10);
    }
  }
  // Nor when one of those who pass on lies.
  g.roads.at(g.busiest()).now = bad_road::way::lies;
  CHECK(g.sync()[0].result == sync_result::ok);
  CHECK(g.all_hold());
  for (const auto& line : g.t[0]->audit()) CHECK(line.pass);
}
