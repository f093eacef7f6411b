// What a relay obeys of whom it passes buckets on to, and of its receiver: said to it by hand.
#include "actors/relay_stage.hpp"

using namespace lockstep;

TEST_CASE("a relay lends weights to whom the trainer names, and to nobody else") {
  relay_stage s;
  SECTION("nobody is named") {
    s.asks();
    s.nothing();
  }
  SECTION("another life of it is named, or one of another receiver, or one elsewhere") {
    const bool before = GENERATE(true, false);
    if (!before) s.asks();
    auto other = s.word;
    SECTION("life") other.child_inc = {9, 8};
    SECTION("receiver") other.child = 8;
    SECTION("lender") other.inc = {1, 2};
    SECTION("cluster")++ other.cluster;
    SECTION("transaction") other.txn = {};
    SECTION("more than anybody takes") other.buckets = ~std::uint32_t{0};
    s.lend(other, true);
    if (before) s.asks();
    s.nothing();
  }
  SECTION("what it is named for is over already") {
    s.begin({2, 6});
    s.asks();
    s.lend(s.word, true);
    s.nothing();
  }
  SECTION("more are named than a plan ever asks for") {
    auto other = s.word;
    for (other.child = 100; other.child < 100 + 4 * relay_stripes_max; ++other.child)
      s.lend(other, true);
    s.lend(s.word, true);
    s.asks();
    s.nothing();
  }
  SECTION("it is named before it asks, or after") {
    const bool before = GENERATE(true, false);
    if (!before) s.asks();
    s.lend(s.word, true);
    if (before) s.asks();
    s.cut(1);
    s.nothing();  // one is under way
    s.made(1, s.some);
    s.passed_on(1);
    s.cut(3);
    SECTION("until the weights are others") {
      s.made(3, {});
      s.takes(3);
      s.ask.stripe = 0;
      s.asks();
      s.nothing();
      auto other = s.word;
      other.txn = {2, 7};
      s.lend(other, true);
      s.cut(0, other.txn);
    }
    SECTION("until something else begins") {
      s.begin({2, 6});
      s.made(3, s.some);
      s.nothing_passed_on();
    }
    SECTION("said twice is said once") {
      s.lend(s.word, true);
      s.made(3, s.some);
      s.passed_on(3);
      s.cut(5);
      s.nothing();
    }
  }
  SECTION("who has ended it goes on with nothing that was announced before") {
    s.begin({2, 4});
    s.asks();
    s.lend(s.word, true);
    s.cut(1);
    s.made(1, {});
    s.takes(1);
    s.nothing_passed_on();
    s.nothing();
  }
  SECTION("only from where the trainer has got to") {
    s.asks();
    auto later = s.word;
    later.first = 2;
    s.lend(later, true);
    s.cut(3);
  }
  SECTION("who is sent them too lends what has come") {
    s.asks();
    if (GENERATE(true, false)) {
      s.begin(s.word.txn);
      s.lend(s.word, false);
    } else {
      s.lend(s.word, false);
      s.begin(s.word.txn);
    }
    s.nothing();
    s.kept(s.word.txn, 2);  // of another stripe
    s.kept(s.word.txn, 3);
    s.cut(3);
    s.made(3, s.some);
    s.passed_on(3);
    // What has ended well is there for good.
    s.kept(s.word.txn, 1);
    s.kept(s.word.txn, 5);
    s.test->send(s.relay, relay_over{});
    for (const auto i : {1u, 5u}) {
      s.cut(i);
      s.made(i, s.some);
      s.passed_on(i);
    }
  }
}

TEST_CASE("of several loans a relay minds which one it is asked for") {
  relay_stage s;
  s.asks();
  auto other = s.word;
  SECTION("what was cut for an earlier one is nothing to the next") {
    s.lend(s.word, true);
    s.cut(1);
    other.txn = {2, 7};
    s.lend(other, true);
    s.cut(1, other.txn);
    s.made(1, s.some);
    s.made(1, {});
    s.nothing_passed_on();
    s.made(1, s.some, other.txn);
    s.passed_on(1, other.txn);
  }
  SECTION("what is lent to somebody else does not begin it anew, and is not brought here") {
    s.lend(s.word, true);
    s.cut(1);
    other.child = 8;
    s.lend(other, true);
    s.nothing();
    s.test->send(s.relay, relay_made{8, s.word.txn, 1, s.some});
    s.nothing_passed_on();
    s.made(1, s.some);
    s.passed_on(1);
  }
  SECTION("what was cut for an earlier life is nothing to the next") {
    s.lend(s.word, true);
    s.cut(1);
    s.ask.inc = {9, 10};
    s.asks();
    s.made(1, s.some);
    s.nothing_passed_on();
  }
  SECTION("what has come of another shipment is not of it") {
    s.begin({2, 4});
    s.kept({2, 4}, 1);
    s.lend(s.word, false);
    s.kept({2, 4}, 3);
    s.nothing();
  }
  SECTION("nor what the trainer sends itself") {
    other.first = 2;
    s.begin(other.txn);
    s.lend(other, false);
    s.kept(other.txn, 1);
    s.nothing();
    s.kept(other.txn, 3);
    s.cut(3);
  }
  SECTION("nor what is beyond its end") {
    other.buckets = 100'000;
    s.begin(other.txn);
    s.lend(other, false);
    s.nothing();
  }
}

TEST_CASE("a relay has as many buckets under way to a child as there is credit") {
  relay_stage s({}, 2);
  s.begin({2, 5});
  s.asks();
  for (const auto i : {1u, 3u, 5u}) s.kept({2, 5}, i, s.some);
  s.brought(1);
  s.brought(3);
  s.nothing_passed_on();
  s.takes(3);
  s.brought(5);
}

TEST_CASE("a relay passes on what its receiver has taken, while the shipment goes on") {
  const txn_ref txn{2, 5};
  relay_stage s;
  s.test->send(s.relay, relay_over{});  // of nothing
  SECTION("one after the other, of one stripe, and once it is asked") {
    s.begin(txn);
    s.kept(txn, 0, s.some);
    s.kept(txn, 1, s.some);
    s.asks();
    s.brought(1);
    s.kept(txn, 3, s.some);
    s.asks();  // a word may have been lost
    caf::scoped_actor another(*s.rt.inside().system);
    another->send(s.relay, credit_msg{{s.cluster, txn, s.childs}, 9, 1});
    s.nothing_passed_on();  // one is under way
    s.takes(1);
    s.passed_on(3);
    SECTION("until it is over") {
      s.test->send(s.relay, relay_over{});
      s.kept(txn, 5, s.some);  // sent again by the trainer, who sends it to all that need it
      s.nothing_passed_on();
    }
    SECTION("until another begins, with a window of its own") {
      s.kept(txn, 5, s.some);
      s.brought(5);
      s.begin({2, 6});
      s.kept(txn, 1, s.some);
      s.kept({2, 6}, 3, s.some);
      s.passed_on(3, {2, 6});
      s.nothing_passed_on();
    }
  }
  SECTION("and nothing that still waits when it is over") {
    s.begin(txn);
    s.asks();
    s.kept(txn, 1, s.some);
    s.kept(txn, 3, s.some);
    s.brought(1);
    s.test->send(s.relay, relay_over{});
    s.takes(1);
    s.nothing_passed_on();
  }
  SECTION("which nobody else begins") {
    auto e = envelope{s.cluster, txn, s.inc};
    s.announces(e);
    SECTION("of another fleet") e = {s.cluster + 1, {2, 6}, s.inc};
    SECTION("of another life") e = {s.cluster, {2, 6}, {1, 2}};
    SECTION("of an earlier transaction") e = {s.cluster, {2, 4}, s.inc};
    s.announces(e);
    s.asks();
    s.kept(txn, 1, s.some);
    s.passed_on(1);
  }
  SECTION("not what is written as it comes") {
    s.begin(txn);
    s.asks();
    s.kept(txn, 1);
    s.nothing_passed_on();
  }
  SECTION("to whom it is asked by in order") {
    s.begin(txn);
    SECTION("of another fleet")++ s.ask.cluster;
    SECTION("of another receiver") s.ask.parent = 2;
    SECTION("of a stripe that there is not") s.ask.stripe = 3;
    SECTION("of too many") s.ask.stripes = relay_stripes_max + 1;
    for (std::uint32_t i = 0; i < 7; ++i) s.kept(txn, i, s.some);
    s.asks();
    s.nothing_passed_on();
  }
  SECTION("to who has not said that it wants no more") {
    s.begin(txn);
    s.asks();
    s.ask.stripes = 0;
    s.asks();
    s.kept(txn, 1, s.some);
    s.nothing_passed_on();
  }
  SECTION("to who wants another stripe now, that one") {
    s.begin(txn);
    s.asks();
    std::uint32_t wanted = 6;
    SECTION("of as many") s.ask.stripe = 0;
    SECTION("of more") {
      s.ask.stripes = 3;
      wanted = 4;
    }
    s.asks();
    s.kept(txn, 5, s.some);
    s.kept(txn, wanted, s.some);
    s.passed_on(wanted);
    s.nothing_passed_on();
  }
  SECTION("to who begins another life, anew") {
    s.begin(txn);
    s.asks();
    s.kept(txn, 1, s.some);
    s.brought(1);
    s.ask.inc = {9, 10};
    s.asks();
    const auto out = next_of<bucket_msg>(s.child);
    REQUIRE(out);
    CHECK(out->env.inc == s.ask.inc);
  }
  SECTION("to as many as a plan may ask for") {
    s.begin(txn);
    std::vector<std::unique_ptr<caf::scoped_actor>> others;
    for (std::uint32_t i = 0; i < 4 * relay_stripes_max; ++i) {
      others.push_back(std::make_unique<caf::scoped_actor>(*s.rt.inside().system));
      s.ask.id = 100 + i;
      (*others.back())->send(s.relay, s.ask);
    }
    s.ask.id = 9;
    s.asks();
    s.kept(txn, 1, s.some);
    s.nothing_passed_on();
    CHECK(next_of<bucket_msg>(*others.back()));
    others.clear();  // whoever has ended wants nothing
    s.asks();
    s.passed_on(1);
  }
  SECTION("to one link of a receiver, the latest") {
    s.begin(txn);
    caf::scoped_actor before(*s.rt.inside().system);
    before->send(s.relay, s.ask);
    s.asks();
    s.kept(txn, 1, s.some);
    s.passed_on(1);
    CHECK_FALSE(next_of<bucket_msg>(before, 50ms));
  }
}
