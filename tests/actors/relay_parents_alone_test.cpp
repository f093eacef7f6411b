// What a relay obeys of whom it has buckets from, and of who orders that: said to it by hand.
#include <caf/event_based_actor.hpp>

#include "actors/relay_stage.hpp"

using namespace lockstep;

namespace {

/// A relay with a parent that brings it the second of two stripes.
struct fed_stage : relay_stage {
  fed_stage()
      : relay_stage([this](const relay_actor& me, const relay_parent_msg& m) {
          caf::anon_send(me, relay_dialed{m.order, caf::actor_cast<relay_actor>(parent), {}});
        }) {
    test->send(relay, relay_order{{cluster, inc, {2, 1}, 2, 1, 7, "7", "there", 1},
                                  caf::actor_cast<supervisor_actor>(boss)});
    REQUIRE(said().up);
  }
  relay_link_msg said() {
    const auto out = next_of<relay_link_msg>(boss, 5s);
    REQUIRE(out);
    return *out;
  }
  void brings(std::uint32_t index, const envelope& e) {
    parent->send(relay, bucket_msg{e, index, some});
  }
  void brings(std::uint32_t index) { brings(index, {cluster, {2, 5}, inc}); }
  /// The receiver is handed this next.
  void hands_on(std::uint32_t index) {
    const auto m = next<bucket_msg>();
    REQUIRE(m);
    CHECK(m->index == index);
  }
  void hands_nothing_on() { CHECK_FALSE(next<bucket_msg>(100ms)); }

  caf::scoped_actor parent{*rt.inside().system}, boss{*rt.inside().system};
};

}  // namespace

TEST_CASE("a relay hands on what was announced, and ends the link to who brings anything else") {
  fed_stage s;
  s.begin({2, 5});
  s.brings(1);
  s.hands_on(1);
  SECTION("other bytes") {
    const payload wrong(std::vector<std::byte>(10, std::byte{1}));
    s.parent->send(s.relay, bucket_msg{{s.cluster, {2, 5}, s.inc}, 3, wrong});
  }
  SECTION("of another stripe") s.brings(2);
  SECTION("of none that there is") s.brings(7);
  const auto end = s.said();
  CHECK_FALSE(end.up);
  CHECK(end.reason == errc::bad_checksum);
  s.hands_nothing_on();
}

TEST_CASE("a relay takes nothing that is known by a hash which can be forged, and blames nobody") {
  fed_stage s;
  const txn_ref txn{2, 5};
  s.announces({s.cluster, txn, s.inc}, bucket_hash::xxh3);
  s.brings(1);
  const auto credit = next_of<credit_msg>(s.parent, 5s);
  REQUIRE(credit);
  CHECK(*credit == credit_msg{{s.cluster, txn, s.inc}, 1, 1});
  s.hands_nothing_on();
  s.begin({2, 6});
  s.brings(3, {s.cluster, {2, 6}, s.inc});
  s.hands_on(3);
}

TEST_CASE("a relay hands on nothing of another shipment, and early what is early") {
  fed_stage s;
  const txn_ref txn{2, 5};
  SECTION("of another fleet, life, or transaction, or by a stranger") {
    s.begin(txn);
    s.brings(1, {s.cluster + 1, txn, s.inc});
    s.brings(1, {s.cluster, txn, {1, 2}});
    s.brings(1, {s.cluster, {2, 4}, s.inc});
    s.child->send(s.relay, bucket_msg{{s.cluster, txn, s.inc}, 1, s.some});
    s.hands_nothing_on();
    s.brings(3);
    s.hands_on(3);
  }
  SECTION("when it is over") {
    s.begin(txn);
    s.test->send(s.relay, relay_over{});
    s.brings(1);
    s.hands_nothing_on();
  }
  SECTION("what was taken already: the parent is told so") {
    s.begin(txn);
    s.kept(txn, 1, s.some);
    s.brings(1);
    const auto credit = next_of<credit_msg>(s.parent, 5s);
    REQUIRE(credit);
    CHECK(*credit == credit_msg{{s.cluster, txn, s.inc}, 1, 1});
    s.hands_nothing_on();
  }
  SECTION("before it is announced, as many as may be under way") {
    s.brings(1);
    s.brings(3);
    s.brings(5);  // a credit of one, and two feeds
    s.begin(txn);
    s.hands_on(1);
    s.hands_on(3);
    s.hands_nothing_on();
  }
  SECTION("before it is announced, of that one") {
    s.brings(3, {s.cluster, {2, 6}, s.inc});
    s.begin(txn);
    s.brings(1);
    s.hands_on(1);
    s.begin({2, 6});
    s.hands_on(3);
  }
  SECTION("what was early for a shipment that never was, or comes late, takes nothing's place") {
    const bool late = GENERATE(false, true);
    if (late) s.begin(txn);
    s.brings(1, {s.cluster, {2, 4}, s.inc});
    if (!late) s.begin(txn);
    for (const auto i : {1u, 3u}) s.brings(i, {s.cluster, {2, 6}, s.inc});
    s.begin({2, 6});
    s.hands_on(1);
    s.hands_on(3);
  }
  SECTION("what the receiver takes is said to who brought it") {
    s.begin(txn);
    s.brings(1);
    s.hands_on(1);
    s.test->send(s.relay, credit_msg{{s.cluster, {2, 4}, s.inc}, 1, 1});
    s.test->send(s.relay, credit_msg{{s.cluster, txn, s.inc}, 1, 1});
    const auto credit = next_of<credit_msg>(s.parent, 5s);
    REQUIRE(credit);
    CHECK(credit->env.txn == txn);
    const auto announcers = s.next<credit_msg>();
    REQUIRE(announcers);
    CHECK(announcers->env.txn == txn);
  }
}

namespace {

/// A relay that nobody has ordered anything, and the test as the one who dials.
struct ordered_stage : relay_stage {
  ordered_stage()
      : relay_stage([this](const relay_actor&, const relay_parent_msg& m) {
          caf::anon_send(caf::actor_cast<caf::actor>(dials), m);
        }) {}

  relay_parent_msg order(version_ref number) const {
    return {cluster, inc, number, 2, 1, 7, "7", "there", 1};
  }
  void orders(const relay_parent_msg& m) {
    test->send(relay, relay_order{m, caf::actor_cast<supervisor_actor>(boss)});
  }
  /// What is dialed next is this, and it leads to `whom`.
  void dialed(const relay_parent_msg& m, caf::scoped_actor& whom) {
    const auto out = next_of<relay_parent_msg>(dials);
    REQUIRE(out);
    CHECK(*out == m);
    test->send(relay, relay_dialed{m.order, caf::actor_cast<relay_actor>(whom), {}});
    asked(whom, m.stripes);
    said(m, true);
  }
  void not_dialed() { CHECK_FALSE(next_of<relay_parent_msg>(dials, 50ms)); }
  /// The next that somebody is asked for is a stripe of so many; 0: none any more.
  void asked(caf::scoped_actor& whom, std::uint32_t stripes) {
    const auto out = next_of<relay_ask_msg>(whom);
    REQUIRE(out);
    CHECK(out->stripes == stripes);
  }
  void said(const relay_parent_msg& m, bool up) {
    const auto out = next_of<relay_link_msg>(boss);
    REQUIRE(out);
    CHECK(out->order == m.order);
    CHECK(out->stripe == m.stripe);
    CHECK(out->up == up);
  }

  caf::scoped_actor parent{*rt.inside().system}, other{*rt.inside().system};
  caf::scoped_actor boss{*rt.inside().system}, dials{*rt.inside().system};
};

}  // namespace

TEST_CASE("a relay obeys orders to its own life, of its own fleet, that are sound and new") {
  ordered_stage s;
  const auto first = s.order({2, 5});
  s.orders(first);
  s.dialed(first, s.parent);
  auto bad = s.order({2, 6});
  bad.parent = 8;
  SECTION("of another fleet")++ bad.cluster;
  SECTION("to another life") bad.inc = {1, 2};
  SECTION("of too many stripes") bad.stripes = relay_stripes_max + 1;
  SECTION("of no stripe") bad.stripes = bad.stripe = 0;
  SECTION("of a stripe that there is not") bad.stripe = 2;
  SECTION("of an earlier run") bad.order = {1, 9};
  SECTION("of an earlier plan") {
    bad.order = {2, 4};
    bad.stripes = 3;
  }
  SECTION("earlier") bad.order = {2, 4};
  s.orders(bad);
  s.not_dialed();
  CHECK_FALSE(next_of<relay_ask_msg>(s.parent, 50ms));
  s.orders(first);  // it was not heard perhaps
  s.said(first, true);
  s.not_dialed();
}

TEST_CASE("a relay goes over to whom it is ordered, and ends what was") {
  ordered_stage s;
  const auto first = s.order({2, 5});
  s.orders(first);
  s.dialed(first, s.parent);
  auto next = s.order({2, 6});
  SECTION("another") next.parent = 8;
  SECTION("another of that number") next.name = "seven";
  SECTION("elsewhere") next.host = "here";
  SECTION("at another port") next.port = 2;
  SECTION("in another run, all of them") {
    next.order = {3, 1};
    next.stripe = 0;
  }
  SECTION("in another plan, all of them") {
    next.stripes = 3;
    next.stripe = 0;
  }
  SECTION("the same, by a newer order") {
    s.orders(next);
    s.said(next, true);
    return s.not_dialed();
  }
  SECTION("nobody") {
    next.parent = next.port = 0;
    next.host.clear();
    s.orders(next);
    s.orders(next);
    s.asked(s.parent, 0);
    s.not_dialed();
    CHECK_FALSE(next_of<relay_link_msg>(s.boss, 50ms));
    return;
  }
  s.orders(next);
  s.asked(s.parent, 0);
  s.dialed(next, s.other);
  // What comes late of the plan before is nothing to this one.
  auto late = s.order({2, 4});
  s.orders(late);
  s.not_dialed();
}

TEST_CASE("a relay takes no link that it has not asked for, and says why there is none") {
  ordered_stage s;
  const auto first = s.order({2, 5});
  s.orders(first);
  REQUIRE(next_of<relay_parent_msg>(s.dials));
  s.orders(first);  // it is being dialed
  s.said(first, false);
  s.not_dialed();
  // CAF's function-based actors take one argument at least.
  const auto link = s.spawn(
      [](caf::event_based_actor*, int) -> caf::behavior { return {[](const tick&) {}}; }, 0);
  const auto ends = [&](version_ref order) {
    s.test->monitor(link);
    s.test->send(s.relay, relay_dialed{order, caf::actor_cast<relay_actor>(link), {}});
    bool ended = false;
    s.test->receive([&](const caf::down_msg&) { ended = true; }, caf::after(5s) >> [] {});
    return ended;
  };
  SECTION("by an earlier order") CHECK(ends({2, 4}));
  SECTION("for which there was one") {
    s.test->send(s.relay, relay_dialed{first.order, caf::actor_cast<relay_actor>(s.parent), {}});
    s.said(first, true);
    CHECK(ends(first.order));
  }
  SECTION("none") {
    s.test->send(s.relay, relay_dialed{first.order, {}, {errc::timeout, "nobody"}});
    const auto said = next_of<relay_link_msg>(s.boss);
    REQUIRE(said);
    CHECK_FALSE(said->up);
    CHECK(said->reason == errc::timeout);
  }
}
