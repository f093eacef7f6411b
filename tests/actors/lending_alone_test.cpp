// What those obey who send or lend buckets on the trainer's word, a flusher and a receiver, and
// from whom: said to them by hand.
#include <catch2/catch.hpp>

#include "actors/relay.hpp"
#include "actors/stage.hpp"
#include "actors/states.hpp"

using namespace lockstep;

namespace {

/// A flusher of three buckets, the test as its receiver and supervisor, and somebody who may lend.
struct flusher_stage : stage {
  explicit flusher_stage(std::uint32_t stall_ms = 600'000) {
    REQUIRE(source->content().buckets.size() == 3);
    auto made = std::make_shared<actor_env>(*env);
    made->options.transport.relay_stall_ms = stall_ms;
    made->options.sync.full_timeout_ms = 600'000;
    made->options.bucket.bytes_max = 4'096;  // takes no time
    env = made;
    flusher = spawn(flusher_behavior, receiver_id{1}, caf::actor_cast<receiver_actor>(test), env,
                    counters);
  }

  /// All weights, or what was missed, are to be shipped; nobody but these gets or holds them.
  void ship(bool catch_up, std::optional<shipped_to> among = {}) {
    test->send(flusher,
               ship_request{full_begin_msg{env_now, target, source->content(), 0, catch_up}, source,
                            among ? std::make_shared<const shipped_to>(*among) : nullptr});
    REQUIRE(next<full_begin_msg>());
  }
  void routed(const relay_route& way) { test->send(flusher, way); }
  void credit(std::uint32_t index) { test->send(flusher, credit_msg{env_now, 1, index}); }
  /// This leaves next, and is taken.
  void sends(std::uint32_t index) {
    const auto bucket = next<bucket_msg>();
    REQUIRE(bucket);
    CHECK(bucket->index == index);
    credit(index);
  }
  void sends_nothing() { CHECK_FALSE(next<bucket_msg>(100ms)); }
  void lent(std::uint32_t first) {
    const auto out = next_of<relay_lend_msg>(lender, 5s);
    REQUIRE(out);
    CHECK(*out == relay_lend_msg{env->cluster, who.inc, env_now.txn, target.version, 1, env_now.inc,
                                 env->options.bucket.bytes_max, 3, first});
  }
  void lends_nothing() { CHECK_FALSE(next_of<relay_lend_msg>(lender, 50ms)); }

  const weight_buffer w = random_weights(small_layout(), 1);
  const std::shared_ptr<snapshot_store> store =
      std::make_shared<snapshot_store>(w.shape(), reader_of(w), 0);
  /// A bucket for each frame.
  std::shared_ptr<bucket_source> source = std::make_shared<full_source>(store, 1, 2);
  const std::shared_ptr<sent_counters> counters = std::make_shared<sent_counters>();
  const participant who{7, {7, 7}};
  const target_info target{{2, 4}, {}, 0};
  envelope env_now{env->cluster, {2, 5}, {1, 1}};
  caf::scoped_actor lender{*rt.inside().system};
  /// The first of two stripes comes from there.
  const relay_route route{{{who.id, 2}, {std::nullopt, 1}},
                          {{who, caf::actor_cast<receiver_actor>(lender)}}};
  flusher_actor flusher;
};

}  // namespace

TEST_CASE("a bucket of all weights is kept while others are to ask for it, and no longer") {
  flusher_stage s;
  const auto alone = s.source->bucket(0);
  CHECK(s.source->bucket(0).data() != alone.data());
  s.source->expect(2);
  const auto first = s.source->bucket(0);
  CHECK(first == alone);
  CHECK(s.source->bucket(0).data() == first.data());
  CHECK(s.source->bucket(0).data() != first.data());
  s.source->expect(1);
  const auto of_three = s.source->bucket(1);
  for (int i = 0; i < 2; ++i) CHECK(s.source->bucket(1).data() == of_three.data());
  CHECK(s.source->bucket(1).data() != of_three.data());
}

TEST_CASE("a flusher stops for the end of its own transaction, and of no other") {
  flusher_stage s;
  s.ship(false);
  REQUIRE(s.next<bucket_msg>());
  for (const auto other : {txn_ref{2, 4}, txn_ref{2, 6}, txn_ref{1, 5}})
    s.test->send(s.flusher, stop_request{other});
  s.credit(0);
  const auto second = s.next<bucket_msg>();
  REQUIRE(second);
  CHECK(second->index == 1);
  s.test->send(s.flusher, stop_request{s.env_now.txn});
  s.credit(1);
  s.sends_nothing();
}

TEST_CASE("a flusher has all weights lent by who holds them, and sends what is not") {
  flusher_stage s;
  SECTION("known before") {
    s.routed(s.route);
    s.ship(false, {{1, 7}});
    s.lent(0);
    s.sends(1);
    s.sends_nothing();
    SECTION("and gone then") {
      s.routed({});
      s.sends(0);
      s.sends(2);
    }
    SECTION("and come back: it is too late for that") {
      s.routed({{{std::nullopt, 1}, {std::nullopt, 1}}, {}});
      s.routed(s.route);
      s.sends(0);
      s.sends(2);
    }
    SECTION("and come back in another's place") {
      auto other = s.route;
      other.from[0].parent = 8;
      s.routed(other);
      s.sends(0);
      s.sends(2);
    }
    SECTION("and in another plan, for which it is too late as well") {
      auto other = s.route;
      other.from.push_back({std::nullopt, 1});
      s.routed(other);
      s.sends(0);
      s.sends(2);
      s.lends_nothing();
    }
    SECTION("until it is over") {
      s.test->send(s.flusher, stop_request{s.env_now.txn});
      s.routed({});
      s.routed(s.route);
      s.credit(0);
      s.sends_nothing();
      s.lends_nothing();
    }
    SECTION("what is shipped next is not lent for that") {
      s.routed({});
      REQUIRE(s.next<bucket_msg>());
      ++s.env_now.txn.seq;
      s.ship(true, {{1, 7}});
      s.routed(s.route);
      s.sends(0);
      s.lends_nothing();
    }
  }
  SECTION("known before, of the other stripe") {
    auto other = s.route;
    std::swap(other.from[0], other.from[1]);
    s.routed(other);
    s.ship(false, {{1, 7}});
    s.lent(0);
    s.sends(0);
    s.sends(2);
    s.sends_nothing();
    s.routed({});
    s.sends(1);
  }
  SECTION("known later, of what is left") {
    s.ship(false, {{1, 7}});
    s.routed(s.route);
    s.lent(2);
    s.sends(0);
    s.sends(1);
    s.sends_nothing();
    SECTION("of each stripe once") {
      s.routed({});
      s.sends(2);
      s.routed(s.route);
      s.lends_nothing();
    }
  }
  SECTION("known later, in place of who lends nothing") {
    s.routed({{{receiver_id{8}, 2}, {std::nullopt, 1}}, {}});
    s.ship(false, {{1, 8}});
    for (std::uint32_t i = 0; i < 3; ++i) s.sends(i);
  }
  SECTION("who holds something else lends nothing") {
    s.routed(s.route);
    s.ship(false, {{1, 8}});
    for (std::uint32_t i = 0; i < 3; ++i) s.sends(i);
  }
  SECTION("who is not reached lends nothing") {
    s.routed({s.route.from, {}});
    s.ship(false, {{1, 7}});
    for (std::uint32_t i = 0; i < 3; ++i) s.sends(i);
  }
  SECTION("what was missed is not lent but passed on") {
    s.routed(s.route);
    s.ship(true, {{1, 7}});
    s.sends(1);
    s.sends_nothing();
    s.lends_nothing();
  }
}

TEST_CASE("a flusher waits for who was to bring something, and longer for who lends it") {
  flusher_stage s(1);
  s.routed(s.route);
  const bool loan = GENERATE(false, true);
  s.ship(!loan, {{1, 7}});
  s.sends(1);
  if (loan) return s.sends_nothing();
  s.sends(0);
  s.sends(2);
  const auto said = s.next<relay_stalled>();
  REQUIRE(said);
  CHECK(said->child == 1);
  CHECK(said->parent == 7);
}

TEST_CASE("a flusher gives a receiver the time to stage what it has of other stripes") {
  flusher_stage s(1);
  encoded_delta delta{s.source->content(), {}};
  for (std::uint32_t i = 0; i < 3; ++i) delta.buckets.push_back(s.source->bucket(i));
  const bool large = GENERATE(false, true);
  s.source = std::make_shared<delta_source>(delta, std::uint64_t{1} << (large ? 50 : 1));
  s.routed(s.route);
  s.ship(true, {{1, 7}});
  s.sends(1);
  if (large) return s.sends_nothing();
  s.sends(0);
  s.sends(2);
  CHECK(s.next<relay_stalled>());
}

TEST_CASE("a flusher waits for nobody to bring what is no longer shipped") {
  flusher_stage s(1'500);
  auto route = s.route;
  std::swap(route.from[0], route.from[1]);
  s.routed(route);
  s.ship(true, {{1, 7}});
  SECTION("something else is") s.ship(true);
  SECTION("the bytes are others by now") {
    REQUIRE(s.next<bucket_msg>());
    s.store->write(s.store->take_over(), 1, [](const tensor_spans&) {});
    s.credit(0);
  }
  CHECK_FALSE(s.next<relay_stalled>(2'500ms));
}

TEST_CASE("a flusher counts what others have brought of this shipment, also before it began") {
  flusher_stage s;
  s.routed(s.route);
  const auto bytes = s.source->content().buckets[0].bytes;
  const bool early = GENERATE(false, true);
  if (early) s.credit(0);
  s.ship(true, {{1, 7}});
  s.sends(1);
  auto other = s.env_now;
  SECTION("of another life") other.inc = {1, 2};
  SECTION("of an earlier transaction")-- other.txn.seq;
  SECTION("of another fleet")++ other.cluster;
  s.test->send(s.flusher, credit_msg{other, 1, 2});
  if (!early) s.credit(0);
  s.routed({});
  s.sends(2);
  s.sends_nothing();
  CHECK(s.counters->relayed == bytes);
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
  const auto receiver_of = [&](const shard_mask& taken) {
    auto bytes = std::make_shared<engine>(
        receiver_id{1}, "1", w.shape(), std::vector<std::span<std::byte>>(), receiver_hooks{},
        std::shared_ptr<fault_source>(), taken,
        on_device() ? made_on(std::make_shared<emulated_device>(), w.shape()) : device_weights());
    return s.spawn(receiver_behavior, s.env, std::move(bytes), inc,
                   caf::actor_cast<supervisor_actor>(supervisor),
                   relay_side{caf::actor_cast<relay_actor>(s.test), {}});
  };
  const auto receiver = receiver_of({});
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
  // Who is sent all weights itself serves none, and lends what it has of them to who gets the same;
  // not so who is sent a delta.
  auto same = word;
  const auto some = makes(word, 0);
  for (const bool delta : {true, false}) {
    same.txn = {1, delta ? 4u : 5u};
    same.version = {1, 4};
    const envelope to{cluster, same.txn, inc};
    const target_info target{same.version, state, 0};
    if (delta)
      s.test->send(receiver, prepare_msg{to, word.version, state, target, plan.content()});
    else
      s.test->send(receiver, full_begin_msg{to, target, plan.content(), 7, false});
    REQUIRE(s.next<relay_begin>());
    if (!delta) CHECK(s.next<relay_over>());
    // What is staged is passed on, what is written is among the weights.
    s.test->send(receiver, bucket_msg{to, 0, some});
    const auto kept = s.next<relay_kept>();
    REQUIRE(kept);
    CHECK(kept->txn == same.txn);
    CHECK((kept->bytes.size() != 0) == delta);
    CHECK((makes(word, 0).size() != 0) == delta);
    CHECK_FALSE(lends(same));
    CHECK((makes(same, 0).size() != 0) != delta);
  }
  ++same.txn.seq;
  CHECK(makes(same, 0).size() == 0);
  // A part is cut otherwise than all.
  const auto parts = receiver_of({true, false, false, false});
  s.test->send(parts, word);
  CHECK_FALSE(s.next<relay_lent>(100ms));
}
