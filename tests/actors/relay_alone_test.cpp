// What those obey who lend weights and pass buckets on, and from whom: said to them by hand.
#include <catch2/catch.hpp>

#include "actors/relay.hpp"
#include "actors/stage.hpp"
#include "actors/states.hpp"

using namespace lockstep;

TEST_CASE("a flusher stops for the end of its own transaction, and of no other") {
  stage s;
  const auto w = random_weights(small_layout(), 1);
  const auto store = std::make_shared<snapshot_store>(w.shape(), reader_of(w), 0);
  const auto source = std::make_shared<full_source>(store, 1, 2);  // a bucket for each frame
  REQUIRE(source->content().buckets.size() == 3);
  const auto flusher =
      s.spawn(flusher_behavior, receiver_id{1}, caf::actor_cast<receiver_actor>(s.test), s.env,
              std::make_shared<sent_counters>());
  const envelope env{s.env->cluster, {2, 5}, {1, 1}};
  s.test->send(flusher, ship_request{full_begin_msg{env, {}, source->content(), 0, false}, source});
  REQUIRE(s.next<full_begin_msg>());
  REQUIRE(s.next<bucket_msg>());
  for (const auto other : {txn_ref{2, 4}, txn_ref{2, 6}, txn_ref{1, 5}})
    s.test->send(flusher, stop_request{other});
  s.test->send(flusher, credit_msg{env, 1, 0});
  const auto second = s.next<bucket_msg>();
  REQUIRE(second);
  CHECK(second->index == 1);
  s.test->send(flusher, stop_request{env.txn});
  s.test->send(flusher, credit_msg{env, 1, 1});
  CHECK_FALSE(s.next<bucket_msg>(100ms));
  caf::anon_send_exit(flusher, caf::exit_reason::user_shutdown);
}

TEST_CASE("a flusher has all weights lent by who holds them, and sends what is not") {
  stage s;
  caf::scoped_actor lender(*s.rt.inside().system);
  const auto w = random_weights(small_layout(), 1);
  const auto store = std::make_shared<snapshot_store>(w.shape(), reader_of(w), 0);
  const auto source = std::make_shared<full_source>(store, 1, 2);
  REQUIRE(source->content().buckets.size() == 3);
  const auto flusher =
      s.spawn(flusher_behavior, receiver_id{1}, caf::actor_cast<receiver_actor>(s.test), s.env,
              std::make_shared<sent_counters>());
  const participant who{7, {7, 7}};
  const relay_route route{{{who.id, 2}, {std::nullopt, 1}},
                          {{who, caf::actor_cast<receiver_actor>(lender)}}};
  const envelope env{s.env->cluster, {2, 5}, {1, 1}};
  const target_info target{{2, 4}, {}, 0};
  const auto lent = [&](std::uint32_t first) {
    const auto out = next_of<relay_lend_msg>(lender, 5s);
    REQUIRE(out);
    CHECK(*out == relay_lend_msg{env.cluster, who.inc, env.txn, target.version, 1, env.inc,
                                 s.env->options.bucket.bytes_max, 3, first});
  };
  const auto ship = [&](bool catch_up, shipped_to among) {
    s.test->send(flusher, ship_request{full_begin_msg{env, target, source->content(), 0, catch_up},
                                       source, std::make_shared<const shipped_to>(among)});
    REQUIRE(s.next<full_begin_msg>());
  };
  const auto sends = [&](std::uint32_t index) {
    const auto bucket = s.next<bucket_msg>();
    REQUIRE(bucket);
    CHECK(bucket->index == index);
    s.test->send(flusher, credit_msg{env, 1, index});
  };
  SECTION("known before") {
    s.test->send(flusher, route);
    ship(false, {1, 7});
    lent(0);
    sends(1);
    CHECK_FALSE(s.next<bucket_msg>(100ms));
    SECTION("and gone then") {
      s.test->send(flusher, relay_route{});
      sends(0);
      sends(2);
    }
    SECTION("and come back: it is too late for that") {
      s.test->send(flusher, relay_route{{{std::nullopt, 1}, {std::nullopt, 1}}, {}});
      s.test->send(flusher, route);
      sends(0);
      sends(2);
    }
  }
  SECTION("known later, of what is left") {
    ship(false, {1, 7});
    s.test->send(flusher, route);
    lent(2);
    sends(0);
    sends(1);
    CHECK_FALSE(s.next<bucket_msg>(100ms));
    SECTION("of each stripe once") {
      s.test->send(flusher, relay_route{});
      sends(2);
      s.test->send(flusher, route);
      CHECK_FALSE(next_of<relay_lend_msg>(lender, 50ms));
    }
  }
  SECTION("who holds something else lends nothing") {
    s.test->send(flusher, route);
    ship(false, {1, 8});
    for (std::uint32_t i = 0; i < 3; ++i) sends(i);
  }
  SECTION("who is not reached lends nothing") {
    s.test->send(flusher, relay_route{route.from, {}});
    ship(false, {1, 7});
    for (std::uint32_t i = 0; i < 3; ++i) sends(i);
  }
  SECTION("what was missed is not lent but passed on") {
    s.test->send(flusher, route);
    ship(true, {1, 7});
    sends(1);
    CHECK_FALSE(s.next<bucket_msg>(100ms));
    CHECK_FALSE(next_of<relay_lend_msg>(lender, 50ms));
  }
  caf::anon_send_exit(flusher, caf::exit_reason::user_shutdown);
}

TEST_CASE("a relay lends weights to whom the trainer names, and to nobody else") {
  stage s;
  caf::scoped_actor child(*s.rt.inside().system);
  const auto me = caf::actor_cast<receiver_actor>(s.test);
  const incarnation inc{1, 1}, childs{9, 9};
  const auto cluster = s.env->cluster;
  const auto relay = s.spawn(relay_behavior, s.env, receiver_id{1}, std::string("1"), inc,
                             relay_dialer(), flusher_actor());
  const relay_lend_msg word{cluster, inc, {2, 5}, {2, 4}, 9, childs, 100, 7, 0};
  const envelope env{cluster, word.txn, childs};
  const auto asks = [&] { child->send(relay, relay_ask_msg{cluster, 9, childs, 1, 2, 1}); };
  const auto cut = [&](std::uint32_t index) {
    const auto m = s.next<relay_cut>();
    REQUIRE(m);
    CHECK(m->what.child == 9);
    CHECK(m->index == index);
  };
  const auto made = [&](std::uint32_t index, payload bytes) {
    s.test->send(relay, relay_made{9, word.txn, index, std::move(bytes)});
  };
  const auto passed_on = [&](std::uint32_t index) {
    const auto out = next_of<bucket_msg>(child, 5s);
    REQUIRE(out);
    CHECK(out->env == env);
    CHECK(out->index == index);
    child->send(relay, credit_msg{env, 9, index});
  };
  const auto nothing = [&] { CHECK_FALSE(s.next<relay_cut>(100ms)); };
  const payload some(std::vector<std::byte>(10));
  const auto begin = [&](txn_ref txn) {
    s.test->send(
        relay,
        relay_begin{{cluster, txn, inc}, std::make_shared<const std::vector<bucket_info>>(7), {}});
  };
  SECTION("nobody is named") {
    asks();
    nothing();
  }
  SECTION("another life of it is named, or one of another receiver, or one elsewhere") {
    const bool before = GENERATE(true, false);
    if (!before) asks();
    auto other = word;
    SECTION("life") other.child_inc = {9, 8};
    SECTION("receiver") other.child = 8;
    SECTION("lender") other.inc = {1, 2};
    SECTION("cluster")++ other.cluster;
    SECTION("transaction") other.txn = {};
    SECTION("more than anybody takes") other.buckets = ~std::uint32_t{0};
    s.test->send(relay, relay_lent{other, me, true});
    if (before) asks();
    nothing();
  }
  SECTION("what it is named for is over already") {
    begin({2, 6});
    asks();
    s.test->send(relay, relay_lent{word, me, true});
    nothing();
  }
  SECTION("more are named than a plan ever asks for") {
    auto other = word;
    for (other.child = 100; other.child < 100 + 4 * relay_stripes_max; ++other.child)
      s.test->send(relay, relay_lent{other, me, true});
    s.test->send(relay, relay_lent{word, me, true});
    asks();
    nothing();
  }
  SECTION("it is named before it asks, or after") {
    const bool before = GENERATE(true, false);
    if (!before) asks();
    s.test->send(relay, relay_lent{word, me, true});
    if (before) asks();
    cut(1);
    nothing();  // one is under way
    made(1, some);
    passed_on(1);
    cut(3);
    SECTION("until the weights are others") {
      made(3, {});
      child->send(relay, credit_msg{env, 9, 3});
      nothing();
    }
    SECTION("until something else begins") {
      begin({2, 6});
      made(3, some);
      CHECK_FALSE(next_of<bucket_msg>(child, 100ms));
    }
    SECTION("said twice is said once") {
      s.test->send(relay, relay_lent{word, me, true});
      made(3, some);
      passed_on(3);
      cut(5);
      nothing();
    }
  }
  SECTION("who has ended it goes on with nothing that was announced before") {
    begin({2, 4});
    asks();
    s.test->send(relay, relay_lent{word, me, true});
    cut(1);
    made(1, {});
    child->send(relay, credit_msg{env, 9, 1});
    CHECK_FALSE(next_of<bucket_msg>(child, 100ms));
    nothing();
  }
  SECTION("only from where the trainer has got to") {
    asks();
    auto later = word;
    later.first = 2;
    s.test->send(relay, relay_lent{later, me, true});
    cut(3);
  }
  SECTION("who is sent them too lends what has come") {
    asks();
    if (GENERATE(true, false)) {
      begin(word.txn);
      s.test->send(relay, relay_lent{word, me, false});
    } else {
      s.test->send(relay, relay_lent{word, me, false});
      begin(word.txn);
    }
    nothing();
    s.test->send(relay, relay_kept{word.txn, 2, {}});  // of another stripe
    s.test->send(relay, relay_kept{word.txn, 3, {}});
    cut(3);
    made(3, some);
    passed_on(3);
    // What has ended well is there for good.
    s.test->send(relay, relay_kept{word.txn, 1, {}});
    s.test->send(relay, relay_over{});
    cut(1);
    made(1, some);
    passed_on(1);
  }
  caf::anon_send_exit(relay, caf::exit_reason::user_shutdown);
}

TEST_CASE("a relay hands on what was announced, and ends the link to who brings anything else") {
  stage s;
  caf::scoped_actor parent(*s.rt.inside().system), boss(*s.rt.inside().system);
  const incarnation inc{1, 1};
  const auto cluster = s.env->cluster;
  const version_ref order{2, 1};
  const auto dial = [&](const relay_actor& me, const relay_parent_msg& m) {
    caf::anon_send(me, relay_dialed{m.order, caf::actor_cast<relay_actor>(parent), {}});
  };
  const auto relay = s.spawn(relay_behavior, s.env, receiver_id{1}, std::string("1"), inc,
                             relay_dialer(dial), flusher_actor());
  s.test->send(relay, relay_order{{cluster, inc, order, 2, 1, 7, "7", "there", 1},
                                  caf::actor_cast<supervisor_actor>(boss)});
  const auto said = [&] {
    const auto out = next_of<relay_link_msg>(boss, 5s);
    REQUIRE(out);
    return *out;
  };
  REQUIRE(said().up);
  const payload right(std::vector<std::byte>(10)), wrong(std::vector<std::byte>(10, std::byte{1}));
  auto infos = std::make_shared<std::vector<bucket_info>>(4);
  for (auto& info : *infos) info = {right.size(), hash_of(right)};
  const envelope env{cluster, {2, 5}, inc};
  s.test->send(relay, relay_begin{env, infos, {}});
  parent->send(relay, bucket_msg{env, 1, right});
  const auto taken = s.next<bucket_msg>();
  REQUIRE(taken);
  CHECK(taken->index == 1);
  SECTION("other bytes") parent->send(relay, bucket_msg{env, 3, wrong});
  SECTION("of another stripe") parent->send(relay, bucket_msg{env, 2, right});
  SECTION("of none that there is") parent->send(relay, bucket_msg{env, 5, right});
  const auto end = said();
  CHECK_FALSE(end.up);
  CHECK(end.reason == errc::bad_checksum);
  CHECK_FALSE(s.next<bucket_msg>(100ms));
  caf::anon_send_exit(relay, caf::exit_reason::user_shutdown);
}

TEST_CASE("a receiver lends the weights that it serves, and no others") {
  stage s;
  caf::scoped_actor supervisor(*s.rt.inside().system);
  const weight_buffer w(small_layout());  // what its own memory begins with
  const full_plan plan(w.shape(), views_of(w), 1);
  const auto count = static_cast<std::uint32_t>(plan.content().buckets.size());
  REQUIRE(count == 3);
  const incarnation inc{1, 1};
  const auto cluster = s.env->cluster;
  const auto bytes =
      std::make_shared<engine>(receiver_id{1}, "1", w.shape(), std::vector<std::span<std::byte>>(),
                               receiver_hooks{}, std::shared_ptr<fault_source>());
  const auto receiver =
      s.spawn(receiver_behavior, s.env, bytes, inc, caf::actor_cast<supervisor_actor>(supervisor),
              relay_side{caf::actor_cast<relay_actor>(s.test), {}});
  const relay_lend_msg word{cluster, inc, {1, 3}, {1, 2}, 9, {9, 9}, 1, count, 0};
  const auto lends = [&](const relay_lend_msg& what) {
    s.test->send(receiver, what);
    const auto m = s.next<relay_lent>();
    REQUIRE(m);
    CHECK(m->what == what);
    return m->whole;
  };
  const auto makes = [&](const relay_lend_msg& what, std::uint32_t index) {
    s.test->send(receiver, relay_cut{what, index});
    const auto m = s.next<relay_made>();
    REQUIRE(m);
    CHECK(m->child == what.child);
    CHECK(m->txn == what.txn);
    CHECK(m->index == index);
    return std::move(m->bytes);
  };
  auto none = word;
  none.version = {};
  for (const auto& what : {word, none}) {
    CHECK_FALSE(lends(what));
    CHECK(makes(what, 0).size() == 0);
  }
  const auto state = digest_of(public_digest_seed, views_of(w));
  s.test->send(
      receiver,
      attach_msg{{cluster, {1, 1}, inc}, {word.version, state, 0}, w.shape().fingerprint(), 7});
  CHECK(lends(word));
  for (std::uint32_t i = 0; i < count; ++i)
    CHECK(hash_of(makes(word, i)) == plan.content().buckets[i].hash);
  CHECK(makes(word, count).size() == 0);
  auto other = word;
  SECTION("another version") other.version = {1, 1};
  SECTION("of another run") other.version = {2, 2};
  SECTION("cut into more")++ other.buckets;
  SECTION("cut otherwise") other.bucket_bytes_max = 1 << 20;
  if (!(other == word)) CHECK(makes(other, 0).size() == 0);
  other = word;
  other.inc = {1, 2};
  s.test->send(receiver, other);
  CHECK_FALSE(s.next<relay_lent>(100ms));
  // Who is sent all weights itself serves none, and lends what it has of them to who gets the same.
  s.test->send(receiver, full_begin_msg{
                             {cluster, {1, 4}, inc}, {{1, 3}, state, 0}, plan.content(), 7, false});
  REQUIRE(s.next<relay_begin>());
  CHECK(makes(word, 0).size() == 0);
  auto same = word;
  same.version = {1, 3};
  CHECK_FALSE(lends(same));
  same.txn = {1, 4};
  CHECK(makes(same, 0).size() != 0);
  same.txn = {1, 5};
  CHECK(makes(same, 0).size() == 0);
  caf::anon_send_exit(receiver, caf::exit_reason::user_shutdown);
}
