// What a supervisor orders of receivers that pass buckets on, and whom it believes of that: said to
// it by hand.
#include <algorithm>
#include <catch2/catch.hpp>
#include <future>
#include <map>

#include "actors/packed.hpp"
#include "actors/relays.hpp"
#include "actors/stage.hpp"
#include "actors/states.hpp"

using namespace lockstep;

namespace {

/// A receiver that the test plays, which answers nothing by itself.
struct played {
  explicit played(caf::actor_system& system) : me(system) {}
  caf::scoped_actor me;
  participant life;
  std::map<std::uint32_t, relay_parent_msg> ordered = {};  ///< what stands, by stripe
};

/// A supervisor whose trainer has seeded, and the test as its other rank and as receivers. Nobody
/// is ever admitted: who is yet to be has its place in the plan all the same.
struct fanout_stage : stage {
  explicit fanout_stage(std::uint32_t backoff_ms = 600'000, std::uint32_t ping_ms = 600'000,
                        std::uint32_t ranks = 2) {
    auto made = std::make_shared<actor_env>(*env);
    auto& s = made->options;
    s.transport.fanout = degree;
    s.transport.ranks = ranks;
    s.transport.relay_backoff_ms = backoff_ms;
    s.receiver.ping_ms = ping_ms;
    s.receiver.lease_ms = s.sync.attach_timeout_ms = s.sync.recovery_timeout_ms = 600'000;
    env = made;
    supervisor = spawn(supervisor_behavior, env);
    test->send(supervisor,
               shard_hello_msg{env->cluster, 1, 2, {5, 5}, w.shape().fingerprint(), {}});
    seed();
  }

  /// Another run begins.
  void seed() {
    boot_request m;
    m.run = 7;
    m.store = std::make_shared<snapshot_store>(w.shape(), reader_of(w), 0);
    m.shape = w.shape();
    m.owned = whole_model(w.shape());
    m.deadline = std::chrono::steady_clock::now() + 10s;
    m.answer = std::make_shared<std::promise<version_ref>>();
    auto begun = m.answer->get_future();
    test->send(supervisor, std::move(m));
    if (env->options.transport.ranks > 1) seed_other();
    REQUIRE(begun.wait_for(10s) == std::future_status::ready);
    run = begun.get().run;
  }

  void seed_other() {
    auto task = next<shard_task_msg>();
    while (task && task->what != shard_task::seed) task = next<shard_task_msg>();
    REQUIRE(task);
    shard_result_msg mine;
    mine.cluster = env->cluster;
    mine.rank = 1;
    mine.inc = {5, 5};
    mine.what = shard_task::seed;
    mine.txn = task->txn;
    test->send(supervisor, std::move(mine));
  }

  template <class M>
  void say(played& who, M m) {
    who.me->send(supervisor, std::move(m));
  }
  /// A life announces itself, and is linked to the other rank.
  played& announce(receiver_id id, incarnation inc, payload taken = {}) {
    auto& p = all.try_emplace(id, *rt.inside().system).first->second;
    p.life = {id, inc};
    say(p, hello_msg{env->cluster, id, std::to_string(id), inc, w.shape().fingerprint(),
                     std::move(taken)});
    test->send(supervisor, shard_reach_msg{env->cluster, 1, id, inc, true, 0});
    return p;
  }
  relay_offer_msg offer(const played& p, std::uint32_t port = 1'000) const {
    return {env->cluster, p.life.id, p.life.inc, "there", port + p.life.id};
  }
  /// Likewise, and it passes buckets on.
  played& add(receiver_id id) {
    auto& p = announce(id, {id, 1});
    say(p, offer(p));
    return p;
  }

  /// A flusher of this trainer says that `child` waits in vain.
  void stalled(receiver_id child, receiver_id parent) {
    test->send(supervisor, relay_stalled{child, parent});
  }

  /// All that was said before has been handled: where everybody stands.
  observation seen() {
    const auto answer = std::make_shared<std::promise<observation>>();
    auto out = answer->get_future();
    test->send(supervisor, observe_request{question::status, [answer](observation o) {
                                             answer->set_value(std::move(o));
                                           }});
    return out.get();
  }
  /// From whom receivers have what.
  std::vector<receiver_feed> feeds() { return seen().relays.feeds; }
  /// What of it one has from others.
  std::vector<receiver_feed> feeds_of(const played& p) {
    auto out = feeds();
    std::erase_if(out, [&](const auto& f) { return f.id != p.life.id; });
    return out;
  }
  bool feeds_others(const played& p) {
    const auto list = feeds();
    return std::ranges::any_of(list, [&](const auto& f) { return f.parent == p.life.id; });
  }
  /// All of this kind that somebody was told since it was looked last.
  template <class M>
  std::vector<M> told(caf::scoped_actor& whom) {
    seen();
    caf::anon_send(caf::actor_cast<caf::actor>(whom), tick());  // behind all of it
    std::vector<M> out;
    bool more = true;
    while (more)
      whom->receive([&](M& m) { out.push_back(std::move(m)); }, [&](const tick&) { more = false; });
    return out;
  }
  /// What one was ordered since it was looked last. What is said again meanwhile is no other order.
  std::vector<relay_parent_msg> orders(played& p) {
    auto out = told<relay_parent_msg>(p.me);
    std::erase_if(out, [&](const auto& m) {
      if (!p.ordered.empty() && p.ordered.begin()->second.stripes != m.stripes) p.ordered.clear();
      return std::exchange(p.ordered[m.stripe], m) == m;
    });
    return out;
  }
  /// The other rank's way to one, as it was said last since it was looked last.
  std::optional<std::vector<fanout_plan::place>> route_to(const played& p) {
    std::optional<std::vector<fanout_plan::place>> out;
    for (const auto& m : told<shard_route_msg>(test))
      if (m.id == p.life.id && m.inc == p.life.inc) out = unpacked_route(m.from);
    return out;
  }
  /// An order that stands to have a stripe from somebody, which is there.
  relay_parent_msg has_order(played& p) {
    orders(p);
    const auto it =
        std::ranges::find_if(p.ordered, [](const auto& o) { return !o.second.host.empty(); });
    REQUIRE(it != p.ordered.end());
    return it->second;
  }
  /// What has become of it.
  relay_link_msg word(const played& p, const relay_parent_msg& order, bool up,
                      errc reason = errc::none) const {
    return {env->cluster, p.life.id, p.life.inc, order.order, order.stripe, up, reason};
  }

  static constexpr std::uint32_t degree = 3;
  weight_buffer w = random_weights(small_layout(), 1);
  std::map<receiver_id, played> all;
  std::uint64_t run = 0;
  supervisor_actor supervisor;
};

}  // namespace

TEST_CASE("two who pass buckets on have a stripe from each other, and know where to dial") {
  fanout_stage s;
  auto &a = s.add(1), &b = s.add(2);
  for (auto* who : {&a, &b}) {
    const auto& other = who == &a ? b : a;
    const auto orders = s.orders(*who);
    REQUIRE(orders.size() == 2);
    int from_other = 0;
    for (std::uint32_t stripe = 0; stripe < 2; ++stripe) {
      const auto& m = orders[stripe];
      relay_parent_msg wanted{s.env->cluster, who->life.inc, m.order, 2, stripe, 0, "", "", 0};
      if (!m.host.empty()) {
        ++from_other;
        wanted.parent = other.life.id;
        wanted.name = std::to_string(other.life.id);
        wanted.host = "there";
        wanted.port = 1'000 + other.life.id;
      }
      CHECK(m == wanted);
      CHECK(m.order.run == s.run);
    }
    CHECK(from_other == 1);
  }
  // In another run all is said anew.
  s.seed();
  for (auto* who : {&a, &b})
    for (const auto& m : s.orders(*who)) CHECK(m.order.run == s.run);
}

TEST_CASE("an offer is believed of who makes it, if it leads somewhere") {
  fanout_stage s;
  auto& a = s.add(1);
  auto& b = s.announce(2, {2, 1});
  auto bad = s.offer(b);
  SECTION("of another fleet")++ bad.cluster;
  SECTION("of another life") bad.inc = {2, 2};
  SECTION("of nobody") bad.id = 9;
  SECTION("of no port") bad.port = 0;
  SECTION("of what is no port") bad.port = 65'536;
  SECTION("of no host") bad.host.clear();
  SECTION("of whom not every rank reaches") {
    s.say(b, hello_msg{s.env->cluster, 3, "3", {3, 1}, s.w.shape().fingerprint(), {}});
    bad.id = 3;
    bad.inc = {3, 1};
  }
  SECTION("of who takes a part") {
    s.announce(3, {3, 1}, packed_part(shard_mask{true, false, false, false}));
    bad = s.offer(s.all.at(3));
  }
  s.say(b, bad);
  CHECK(s.feeds().empty());
  CHECK(s.orders(a).empty());
  CHECK(s.orders(b).empty());
  s.say(b, s.offer(b));
  CHECK(s.feeds().size() == 2);
}

TEST_CASE("that a receiver is linked to another is believed of this life and this order") {
  fanout_stage s;
  auto &a = s.add(1), &b = s.add(2);
  const auto order = s.has_order(a);
  s.route_to(a);
  const auto is_up = [&] {
    const auto list = s.feeds_of(a);
    return std::ranges::any_of(list, &receiver_feed::up);
  };
  for (const auto up : {true, false}) {
    const auto right = s.word(a, order, up, up ? errc::none : errc::bad_checksum);
    for (int what = 0; what < 6; ++what) {
      auto m = right;
      if (what == 0) ++m.cluster;
      if (what == 1) m.inc = {1, 2};
      if (what == 2) m.stripe = 2;
      if (what == 3) m.stripe = 1 - m.stripe;
      if (what == 4) --m.order.number;
      if (what == 5) m.id = 9;
      CAPTURE(up, what);
      s.say(a, m);
      CHECK(is_up() != up);
      CHECK_FALSE(s.route_to(a));
    }
    if (!up) break;
    s.say(a, right);
    CHECK(is_up());
    const auto route = s.route_to(a);
    REQUIRE(route);
    REQUIRE(route->size() == 2);
    CHECK((*route)[order.stripe].parent == b.life.id);
    CHECK_FALSE((*route)[1 - order.stripe].parent);
    s.say(a, right);
    CHECK_FALSE(s.route_to(a));  // it knows
  }
  CHECK(s.feeds_others(b));
}

TEST_CASE("the word on a stripe that comes from the trainer is no word on anybody") {
  fanout_stage s;
  auto& a = s.add(1);
  s.add(2);
  auto list = s.orders(a);
  std::erase_if(list, [](const auto& m) { return !m.host.empty(); });
  REQUIRE(list.size() == 1);
  s.say(a, s.word(a, list[0], false, errc::bad_checksum));
  s.say(a, s.word(a, list[0], true));
  const auto feeds = s.feeds();
  CHECK(feeds.size() == 2);
  CHECK(std::ranges::none_of(feeds, &receiver_feed::up));
}

TEST_CASE("who fails another passes nothing on until it is found elsewhere") {
  fanout_stage s;
  auto &a = s.add(1), &b = s.add(2);
  const auto order = s.has_order(a);
  s.route_to(a);
  s.say(a, s.word(a, order, true));
  REQUIRE(s.route_to(a));
  SECTION("it says so") s.say(a, s.word(a, order, false, errc::dead));
  SECTION("its flusher says so") s.stalled(1, 2);
  SECTION("the rank's flusher says so") {
    s.test->send(s.supervisor, shard_stalled_msg{s.env->cluster + 1, 1, 1, 2});
    s.test->send(s.supervisor, shard_stalled_msg{s.env->cluster, 2, 1, 2});
    s.test->send(s.supervisor, shard_stalled_msg{s.env->cluster, 1, 9, 2});
    CHECK(s.feeds_others(b));
    s.test->send(s.supervisor, shard_stalled_msg{s.env->cluster, 1, 1, 2});
  }
  SECTION("nothing has failed") {
    s.say(a, s.word(a, order, false));
    const auto route = s.route_to(a);
    REQUIRE(route);
    CHECK_FALSE((*route)[order.stripe].parent);
    CHECK(s.feeds_others(b));
    s.say(a, s.word(a, order, true, errc::dead));
    CHECK(s.feeds_others(b));
    return;
  }
  CHECK_FALSE(s.feeds_others(b));
  const auto route = s.route_to(a);
  REQUIRE(route);
  CHECK(std::ranges::none_of(*route, [](const auto& p) { return p.parent.has_value(); }));
  // It has a stripe from the other still, and is where it was: nothing new.
  CHECK(s.feeds_of(b).size() == 1);
  s.say(b, s.offer(b));
  CHECK_FALSE(s.feeds_others(b));
  s.say(b, s.offer(b, 2'000));
  CHECK(s.feeds_others(b));
  CHECK(s.has_order(a).port == 2'002);
}

TEST_CASE("who has failed two others is not forgiven for being found elsewhere") {
  fanout_stage s(1'000, 10);
  s.add(1);
  auto &b = s.add(2), &c = s.add(3);
  s.stalled(1, 2);
  s.stalled(3, 2);  // it brings nothing to anybody any more
  REQUIRE(eventually([&] { return s.feeds_others(b); }));
  bool forgiven = true;
  SECTION("the same one twice") s.stalled(1, 2);
  SECTION("another, who has lost it") {
    const auto reason = GENERATE(errc::dead, errc::unreachable);
    s.orders(c);
    for (const auto& [stripe, order] : std::map(c.ordered))
      if (order.parent == 2) s.say(c, s.word(c, order, false, reason));
  }
  SECTION("another, who finds fault") {
    s.stalled(3, 2);
    forgiven = false;
  }
  CHECK_FALSE(s.feeds_others(b));
  s.say(b, s.offer(b, 2'000));
  CHECK(s.feeds_others(b) == forgiven);
}

TEST_CASE("who has failed nobody for long is as good as who never did") {
  fanout_stage s(20, 5);
  s.add(1);
  auto& b = s.add(2);
  s.add(3);
  s.stalled(1, 2);
  REQUIRE(eventually([&] { return s.feeds_others(b); }));
  s.stalled(3, 2);
  REQUIRE(eventually([&] { return s.feeds_others(b); }));
  std::this_thread::sleep_for(1'500ms);  // more than 64 times what it was left alone for
  s.stalled(3, 2);
  s.say(b, s.offer(b, 2'000));
  CHECK(s.feeds_others(b));
}

TEST_CASE("who finds fault with everybody is not believed for long, and then again") {
  const bool later = GENERATE(false, true);
  fanout_stage s(later ? 1 : 600'000);
  for (receiver_id id = 1; id <= 8; ++id) s.add(id);
  // Finds fault with somebody who passes something on, and is believed.
  const auto is_believed = [&] {
    const auto list = s.feeds();
    const auto it = std::ranges::find_if(list, [](const auto& f) { return f.parent != 1; });
    REQUIRE(it != list.end());
    s.stalled(1, it->parent);
    return !s.feeds_others(s.all.at(it->parent));
  };
  const int believed = s.degree + 1;
  for (int i = 0; i < (later ? 2 * believed : believed); ++i) {
    if (later) std::this_thread::sleep_for(5ms);
    CHECK(is_believed());
  }
  if (!later) CHECK_FALSE(is_believed());
}

TEST_CASE("who failed another passes buckets on again when its time is over") {
  fanout_stage s(300, 10);
  auto& a = s.add(1);
  auto& b = s.add(2);
  s.say(a, s.word(a, s.has_order(a), false, errc::dead));
  CHECK_FALSE(s.feeds_others(b));
  CHECK(eventually([&] { return s.feeds_others(b); }));
}

TEST_CASE("whom another rank reaches is believed of that rank, of its fleet, and of this life") {
  fanout_stage s;
  s.announce(1, {1, 1});
  const auto stands = [&](std::string_view standing) {
    return s.seen().states.at(0).standing == standing;
  };
  CHECK(stands("attaching"));
  const auto reaches = [&](bool linked, std::uint64_t cluster, std::uint32_t rank,
                           incarnation inc) {
    s.test->send(s.supervisor, shard_reach_msg{s.env->cluster + cluster, rank, 1, inc, linked, 0});
  };
  for (const bool linked : {false, true}) {
    reaches(linked, 1, 1, {1, 1});
    reaches(linked, 0, 2, {1, 1});
    reaches(linked, 0, 1, {1, 2});
    CHECK(stands(linked ? "quarantined" : "attaching"));
    reaches(linked, 0, 1, {1, 1});
    CHECK(stands(linked ? "attaching" : "quarantined"));
  }
}

TEST_CASE("an order is said again until it is answered") {
  fanout_stage s(600'000, 10);
  auto& a = s.add(1);
  s.add(2);
  const auto order = s.has_order(a);
  for (int i = 0; i < 3; ++i) CHECK(next_of<relay_parent_msg>(a.me) == order);
  s.say(a, s.word(a, order, true));
  s.orders(a);
  s.told<ping_msg>(a.me);
  for (int i = 0; i < 3; ++i) REQUIRE(next_of<ping_msg>(a.me));  // and orders with each
  CHECK(s.told<relay_parent_msg>(a.me).empty());
}

TEST_CASE("who is left alone is told to have nothing from others, once") {
  fanout_stage s;
  auto &a = s.add(1), &b = s.add(2);
  const auto order = s.has_order(a);
  s.say(a, s.word(a, order, true));
  REQUIRE(s.route_to(a));
  s.say(b, goodbye_msg{s.env->cluster, b.life.id, b.life.inc});
  const auto orders = s.orders(a);
  REQUIRE(orders.size() == 1);
  CHECK(orders[0] ==
        relay_parent_msg{s.env->cluster, a.life.inc, orders[0].order, 1, 0, 0, "", "", 0});
  CHECK(orders[0].order > order.order);
  const auto route = s.route_to(a);
  REQUIRE(route);
  CHECK(route->empty());
  s.announce(3, {3, 1});
  CHECK(s.orders(a).empty());
}

TEST_CASE("what stays as it is planned is not ordered anew, and nothing is without a trainer") {
  fanout_stage s;
  auto& a = s.add(1);
  for (receiver_id id = 2; id <= 4; ++id) s.add(id);
  const auto order = s.has_order(a);
  s.say(a, s.word(a, order, true));
  s.say(s.all.at(4), s.offer(s.all.at(4), 2'000));  // planned anew, to the same
  const auto feeds = s.feeds_of(a);
  CHECK(std::ranges::count_if(feeds, &receiver_feed::up) == 1);
  s.orders(a);
  s.test->send(s.supervisor, end_request{});
  s.say(a, s.offer(a, 3'000));
  CHECK(s.orders(a).empty());
}

TEST_CASE("another life of a receiver passes nothing on before it offers to, and is ordered anew") {
  fanout_stage s(600'000, 600'000, GENERATE(1u, 2u));
  auto &a = s.add(1), &b = s.add(2);
  s.say(a, s.word(a, s.has_order(a), true));
  s.orders(b);
  s.announce(2, {2, 2});
  CHECK(s.feeds().empty());
  s.say(b, s.offer(b));
  CHECK(s.orders(b).size() == 2);
  CHECK(s.has_order(a).parent == 2);
  const auto feeds = s.feeds();
  CHECK(feeds.size() == 2);
  CHECK(std::ranges::none_of(feeds, &receiver_feed::up));
}
