#include "protocol/fanout.hpp"

#include <algorithm>
#include <catch2/catch.hpp>
#include <random>
#include <set>

#include "protocol/relay_watch.hpp"

using namespace lockstep;

namespace {

std::vector<fanout_member> all_relay(std::uint32_t n) {
  std::vector<fanout_member> out;
  for (std::uint32_t i = 0; i < n; ++i) out.push_back({i, true});
  return out;
}

/// What every plan must be; returns how many edges leave the trainer.
std::size_t check_plan(const fanout_plan& plan, const std::vector<fanout_member>& members,
                       std::uint32_t degree) {
  const auto relays = std::ranges::count_if(members, &fanout_member::relays);
  if (members.size() < 2 || relays == 0 || degree == 0) {
    CHECK(plan.stripes() == 0);
    CHECK(plan.nodes().empty());
    return 0;
  }
  CHECK(plan.stripes() == std::min<std::uint64_t>(degree, static_cast<std::uint64_t>(relays)));
  REQUIRE(plan.nodes().size() == members.size());
  std::size_t from_trainer = 0;
  for (std::uint32_t s = 0; s < plan.stripes(); ++s) {
    std::size_t without_parent = 0;
    std::map<receiver_id, std::size_t> children;
    for (const auto& [id, node] : plan.nodes())
      if (node.passes_on == s) children[id] = 0;
    for (const auto& m : members) {
      const auto& place = plan.nodes().at(m.id).places.at(s);
      if (!place.parent) {
        ++without_parent;
        CHECK(place.depth == 1);
        continue;
      }
      ++children[*place.parent];
      // Only who may, and in one stripe; and every way up ends, since it gets shallower.
      const auto& parent = plan.nodes().at(*place.parent);
      CHECK(parent.passes_on == s);
      CHECK(place.depth == parent.places[s].depth + 1);
      const auto is_parent = [&](const auto& x) { return x.id == *place.parent; };
      CHECK(std::ranges::find_if(members, is_parent)->relays);
    }
    REQUIRE_FALSE(children.empty());
    const auto fewer = [](const auto& a, const auto& b) { return a.second < b.second; };
    const auto [least, most] = std::minmax_element(children.begin(), children.end(), fewer);
    CHECK(most->second <= plan.stripes() + 1);
    // Nobody has one more while there is room elsewhere.
    if (most->second > plan.stripes()) CHECK(least->second >= plan.stripes());
    // Nor does the trainer send to others than the root while somebody may have one more.
    if (without_parent > 1) CHECK(least->second == plan.stripes() + 1);
    from_trainer += without_parent;
  }
  return from_trainer;
}

std::size_t moved(const fanout_plan& a, const fanout_plan& b) {
  std::size_t out = 0;
  for (const auto& [id, node] : b.nodes()) {
    const auto was = a.nodes().find(id);
    if (was == a.nodes().end()) continue;
    for (std::uint32_t s = 0; s < b.stripes(); ++s)
      out += was->second.places[s].parent != node.places[s].parent;
  }
  return out;
}

std::uint32_t deepest(const fanout_plan& plan) {
  std::uint32_t out = 0;
  for (const auto& [id, node] : plan.nodes())
    for (const auto& p : node.places) out = std::max(out, p.depth);
  return out;
}

}  // namespace

TEST_CASE("fan-out: 64 receivers cost the trainer one delta, and each of them about one") {
  const auto members = all_relay(64);
  for (const std::uint32_t degree : {2U, 3U, 4U, 8U, 16U}) {
    INFO("degree " << degree);
    const auto plan = plan_fanout({}, members, degree);
    const auto edges = check_plan(plan, members, degree);
    // In deltas: edges / stripes. One for the roots, and little for whom there was no room.
    CHECK(static_cast<double>(edges) / degree <= 1.1 * degree);
    CHECK(edges <= 2 * degree);
    std::uint32_t levels = 1;
    for (std::uint32_t reach = 1; reach < 64; reach *= degree) ++levels;
    CHECK(deepest(plan) <= levels + 1);
  }
}

TEST_CASE("fan-out: nobody to relay to, or nobody who does") {
  CHECK(plan_fanout({}, all_relay(8), 0).stripes() == 0);
  CHECK(plan_fanout({}, all_relay(1), 4).stripes() == 0);
  CHECK(plan_fanout({}, {}, 4).stripes() == 0);
  std::vector<fanout_member> none{{1, false}, {2, false}};
  CHECK(plan_fanout({}, none, 4).stripes() == 0);
  none[1].relays = true;
  const auto plan = plan_fanout({}, none, 4);
  CHECK(plan.stripes() == 1);
  CHECK(plan.nodes().at(1).places[0].parent == 2u);
}

TEST_CASE("fan-out: whatever comes and goes, the trees hold and few are moved") {
  for (unsigned seed = 0; seed < 60; ++seed) {
    std::mt19937 rng(seed);
    const auto degree = static_cast<std::uint32_t>(1 + rng() % 6);
    const bool some_do_not = rng() % 2 == 0;
    std::vector<fanout_member> members;
    fanout_plan plan;
    receiver_id next = 0;
    for (int event = 0; event < 120; ++event) {
      INFO("seed " << seed << " event " << event << " degree " << degree);
      const auto what = rng() % 5;
      if (members.empty() || what < (event < 60 ? 4u : 1u)) {
        members.push_back({next++, !some_do_not || rng() % 3 != 0});
      } else if (what == 4 && some_do_not) {
        auto& m = members[rng() % members.size()];
        m.relays = !m.relays;
      } else {
        members.erase(members.begin() + static_cast<std::ptrdiff_t>(rng() % members.size()));
      }
      const auto then = plan_fanout(plan, members, degree);
      check_plan(then, members, degree);
      // Of one inner node's children, and of another's that is moved to even the trees out.
      if (then.stripes() == plan.stripes()) CHECK(moved(plan, then) <= 5 * (degree + 2));
      check_plan(plan_fanout(then, members, degree), members, degree);
      plan = then;
    }
  }
}

TEST_CASE("fan-out: the same members again change nothing") {
  const auto members = all_relay(40);
  const auto plan = plan_fanout({}, members, 4);
  CHECK(plan_fanout(plan, members, 4) == plan);
}

TEST_CASE("fan-out: where a root goes, who was highest below it is the next, and not who is new") {
  auto members = all_relay(13);
  members.erase(members.begin());
  const auto plan = plan_fanout({}, members, 2);
  for (std::uint32_t stripe = 0; stripe < 2; ++stripe) {
    const auto is_root = [&](const fanout_plan& p, receiver_id id) {
      const auto& node = p.nodes().at(id);
      return node.passes_on == stripe && !node.places[stripe].parent;
    };
    auto left = members;
    std::erase_if(left, [&](const auto& m) { return is_root(plan, m.id); });
    REQUIRE(left.size() == 11);
    left.push_back({0, true});
    const auto then = plan_fanout(plan, left, 2);
    check_plan(then, left, 2);
    REQUIRE(then.nodes().at(0).passes_on == stripe);
    for (const auto& m : left)
      if (is_root(then, m.id)) CHECK(plan.nodes().at(m.id).places[stripe].depth == 2);
    CHECK_FALSE(is_root(then, 0));
  }
}

TEST_CASE("fan-out: to even the trees out the one furthest from the root is moved") {
  std::vector<fanout_member> members{{20, true}, {21, true}};
  auto plan = plan_fanout({}, members, 2);
  const auto stripe = plan.nodes().at(20).passes_on;
  for (receiver_id id = 1; id <= 4; ++id) members.push_back({id, true});
  plan = plan_fanout(plan, members, 2);
  REQUIRE(plan.nodes().at(20).passes_on == stripe);
  std::erase_if(members, [&](const auto& m) {
    return m.id < 20 && plan.nodes().at(m.id).passes_on != stripe;
  });
  REQUIRE(members.size() == 4);
  const auto then = plan_fanout(plan, members, 2);
  check_plan(then, members, 2);
  CHECK(then.nodes().at(20).passes_on == stripe);
}

TEST_CASE("fan-out: a root stays one, whoever below it goes") {
  std::vector<fanout_member> members{{20, true}, {21, true}};
  auto plan = plan_fanout({}, members, 2);
  for (receiver_id id = 1; id <= 12; ++id) members.push_back({id, true});
  plan = plan_fanout(plan, members, 2);
  for (receiver_id gone = 1; gone <= 12; ++gone) {
    auto left = members;
    std::erase_if(left, [&](const auto& m) { return m.id == gone; });
    const auto then = plan_fanout(plan, left, 2);
    check_plan(then, left, 2);
    for (const receiver_id root : {20U, 21U}) {
      const auto stripe = plan.nodes().at(root).passes_on;
      REQUIRE(then.nodes().at(root).passes_on == stripe);
      CHECK_FALSE(then.nodes().at(root).places[*stripe].parent);
    }
  }
}

TEST_CASE("relay watch: a stripe has its time from what came last, and who is deeper has more") {
  using std::chrono::milliseconds;
  const time_point start = time_point{} + std::chrono::hours(1);
  const auto at = [&](int ms) { return start + milliseconds(ms); };
  relay_watch w;
  CHECK_FALSE(w.deadline());
  w.on_taken(start, 5);
  // Stripe 0 from the trainer, 1 from a child of a root, 2 from further down; 7 buckets.
  w.on_start(start, milliseconds(100), 0, 7, {{std::nullopt, 1}, {4u, 2}, {5u, 4}});
  CHECK(w.deadline() == at(100));
  CHECK(w.stalled(at(99)).empty());
  w.on_taken(at(60), 1);
  CHECK(w.stalled(at(100)).empty());
  CHECK(w.deadline() == at(160));
  CHECK(w.stalled(at(160)) == std::vector<std::uint32_t>{1});
  CHECK(w.drop(1) == 4u);
  CHECK_FALSE(w.drop(1));
  CHECK(w.stalled(at(199)).empty());
  CHECK(w.stalled(at(200)) == std::vector<std::uint32_t>{2});
  w.on_taken(at(150), 2);
  w.on_taken(at(150), 5);
  CHECK_FALSE(w.deadline());  // buckets 2 and 5 are all of stripe 2
}

TEST_CASE("relay watch: who was stopped itself blames nobody, once") {
  using std::chrono::milliseconds;
  const time_point start = time_point{} + std::chrono::hours(1);
  const auto at = [&](int ms) { return start + milliseconds(ms); };
  const std::vector<std::uint32_t> stripe{0};
  relay_watch w;
  w.on_start(start, milliseconds(100), 0, 3, {{4u, 2}});
  CHECK(w.stalled(at(1'500)).empty());
  CHECK(w.deadline() == at(1'600));
  CHECK(w.stalled(at(1'599)).empty());
  CHECK(w.stalled(at(3'000)) == stripe);
  // What comes makes up for it.
  w.on_taken(at(3'000), 0);
  CHECK(w.stalled(at(5'000)).empty());
  CHECK(w.stalled(at(5'100)) == stripe);
  // A little late is not stopped.
  w.on_taken(at(5'100), 1);
  CHECK(w.stalled(at(5'250)) == stripe);
}

TEST_CASE("relay watch: no stripe of more than there are buckets") {
  relay_watch w;
  w.on_start(time_point{}, std::chrono::milliseconds(1), 0, 1, {{1u, 2}, {2u, 2}});
  w.on_taken(time_point{}, 0);
  CHECK_FALSE(w.deadline());
}

TEST_CASE("relay watch: of a rank's buckets those are watched whose stripe among all it is") {
  relay_watch w;
  const auto now = time_point{} + std::chrono::hours(1);
  // Buckets 5 to 8 of all: stripes 2, 0, 1, 2.
  w.on_start(now, std::chrono::milliseconds(1), 5, 4,
             {{std::nullopt, 1}, {std::nullopt, 1}, {4u, 2}});
  w.on_taken(now, 6);
  w.on_taken(now, 5);
  CHECK(w.deadline());
  w.on_taken(now, 8);
  CHECK_FALSE(w.deadline());
  // Buckets 4 and 5 of all are not of stripe 0.
  w.on_start(now, std::chrono::milliseconds(1), 4, 2,
             {{7u, 2}, {std::nullopt, 1}, {std::nullopt, 1}});
  CHECK_FALSE(w.deadline());
}

TEST_CASE("relay watch: the deadline is that of the stripe that has been silent longest") {
  using std::chrono::milliseconds;
  const time_point start = time_point{} + std::chrono::hours(1);
  relay_watch w;
  // Who is no deeper than a root's child has no more time than that, whatever it says.
  w.on_start(start, milliseconds(100), 0, 9, {{4u, 6}, {5u, 2}, {6u, 1}});
  CHECK(w.deadline() == start + milliseconds(100));
  w.on_taken(start + milliseconds(50), 1);
  CHECK(w.deadline() == start + milliseconds(100));
  w.on_taken(start + milliseconds(60), 2);
  CHECK(w.deadline() == start + milliseconds(150));
}

TEST_CASE("relay watch: a shipment that is over is not waited for, nor counted in the next") {
  relay_watch w;
  const auto now = time_point{} + std::chrono::hours(1);
  const std::vector<fanout_plan::place> both{{4u, 2}, {5u, 2}};
  w.on_start(now, std::chrono::milliseconds(1), 0, 4, both);
  CHECK_FALSE(w.drop(2));
  w.on_stop();
  CHECK(w.stripes() == 0);
  CHECK_FALSE(w.deadline());
  CHECK_FALSE(w.drop(0));
  w.on_start(now, std::chrono::milliseconds(1), 0, 4, both);
  w.on_start(now, std::chrono::milliseconds(1), 0, 4, {{std::nullopt, 1}, {std::nullopt, 1}});
  CHECK_FALSE(w.deadline());
  // One bucket more than there is says nothing about what is still missing.
  w.on_start(now, std::chrono::milliseconds(1), 0, 2, both);
  for (int again = 0; again < 2; ++again) w.on_taken(now, 0);
  CHECK(w.deadline());
  w.on_taken(now, 1);
  CHECK_FALSE(w.deadline());
}

TEST_CASE("relay watch: a stripe that is handed over later has its time from then") {
  using std::chrono::milliseconds;
  const time_point start = time_point{} + std::chrono::hours(1);
  const std::vector<std::uint32_t> stripe{1};
  relay_watch w;
  w.on_handed(start, milliseconds(100), 0, 2, {4u, 2});  // of a shipment that is none
  CHECK_FALSE(w.deadline());
  w.on_start(start, milliseconds(100), 0, 6, {{std::nullopt, 1}, {std::nullopt, 1}});
  w.on_handed(start + milliseconds(500), milliseconds(100), 1, 2, {std::nullopt, 1});
  CHECK_FALSE(w.deadline());
  w.on_handed(start + milliseconds(500), milliseconds(100), 1, 2, {4u, 2});
  CHECK(w.deadline() == start + milliseconds(600));
  w.on_taken(start + milliseconds(550), 3);
  CHECK(w.stalled(start + milliseconds(649)).empty());
  CHECK(w.stalled(start + milliseconds(650)) == stripe);
  w.on_taken(start + milliseconds(650), 5);
  CHECK_FALSE(w.deadline());
  CHECK_FALSE(w.drop(1));
}
