// What a rank that does not lead obeys, and from whom: said to it by hand.
#include <unistd.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <future>

#include "actors/log.hpp"
#include "actors/packed.hpp"
#include "actors/rank.hpp"
#include "actors/stage.hpp"

using namespace lockstep;

namespace {

/// A rank that owns everything, and the test as its coordinator.
struct rank_stage : stage {
  rank_stage() : rank_stage(rank_dialer()) {}
  using adjustment = std::function<void(actor_env&)>;
  /// Likewise, and it dials so, has no fan-out of its own, or something else is otherwise.
  explicit rank_stage(
      rank_dialer dial, std::uint32_t fanout = 2, const adjustment& adjust = [](actor_env&) {}) {
    auto made = std::make_shared<actor_env>(*env);
    made->options.transport.rank = 1;
    made->options.transport.ranks = 2;
    made->options.transport.fanout = fanout;
    // What others are to bring does not fall to the rank meanwhile.
    made->options.transport.relay_stall_ms = 600'000;
    made->options.transport.retry_ms = made->options.transport.retry_ms_max = 600'000;
    made->options.bucket.bytes_max = 4'096;  // several
    adjust(*made);
    env = made;
    if (!dial)
      dial = [link = caf::actor_cast<coordinator_link_actor>(test)](const rank_actor& me) {
        caf::anon_send(me, rank_dialed{link, {}});
      };
    rank = spawn(rank_behavior, env, std::move(dial));
  }

  template <class M>
  void say(M m) {
    test->send(rank, std::move(m));
  }
  void task(shard_task what, txn_ref txn, std::uint64_t label = 0) {
    say(shard_task_msg{env->cluster, what, txn, label, 7, 0, {}});
  }
  /// Its trainer seeds.
  std::future<version_ref> boot(std::uint64_t label, std::chrono::milliseconds patience = 10s) {
    boot_request m;
    m.store = std::make_shared<snapshot_store>(w.shape(), reader_of(w), label);
    m.shape = w.shape();
    m.owned = whole_model(w.shape());
    m.deadline = std::chrono::steady_clock::now() + patience;
    m.answer = std::make_shared<std::promise<version_ref>>();
    auto out = m.answer->get_future();
    say(std::move(m));
    return out;
  }
  /// Its trainer comes to a sync.
  std::shared_ptr<ticket_state> sync(std::uint64_t label) {
    auto ticket = std::make_shared<ticket_state>(10s);
    say(sync_request{label, reader_of(next_w), ticket});
    return ticket;
  }
  /// What it answers next is this, with this outcome.
  void answers(shard_task what, txn_ref txn, errc reason = errc::none) {
    const auto m = next<shard_result_msg>();
    REQUIRE(m);
    CHECK(m->what == what);
    CHECK(m->txn == txn);
    CHECK(m->reason == reason);
  }
  /// Whatever was said before has been handled, and was not answered.
  void proves(txn_ref txn) {
    task(shard_task::prove, txn);
    answers(shard_task::prove, txn);
  }
  /// In run 2, with a sync under way whose delta is encoded as {2, 1}, and proven.
  std::shared_ptr<ticket_state> encoded() {
    seeded();
    auto ticket = sync(1);
    task(shard_task::encode, {2, 1}, 1);
    answers(shard_task::encode, {2, 1});
    task(shard_task::stage, {2, 1}, 1);
    answers(shard_task::stage, {2, 1});
    return ticket;
  }
  void seeded() {
    auto seed = boot(0);
    REQUIRE(next<shard_hello_msg>());
    task(shard_task::seed, {2, 0}, 0);
    answers(shard_task::seed, {2, 0});
    CHECK(seed.get() == version_ref{2, 0});
  }
  /// Receiver 4 announces itself in this life.
  void hello(caf::scoped_actor& whose, incarnation inc = first) {
    whose->send(rank, hello_msg{env->cluster, 4, "four", inc, {}, {}});
  }
  void reaches(receiver_id id, incarnation inc, bool linked) {
    const auto m = next<shard_reach_msg>();
    REQUIRE(m);
    CHECK(m->id == id);
    CHECK(m->inc == inc);
    CHECK(m->linked == linked);
  }
  shard_ship_msg ship(txn_ref txn, incarnation inc = first) const {
    return {env->cluster, txn, 4, inc, 0, 0, false, 0};
  }
  /// What was shipped last is there, or comes from somebody else.
  bool sends() {
    REQUIRE(next_of<part_head>(engine));
    return next_of<bucket_msg>(engine, 300ms).has_value();
  }

  static constexpr incarnation first{1, 1}, second{2, 2};
  weight_buffer w = random_weights(small_layout(), 1);
  weight_buffer next_w = random_weights(small_layout(), 2);
  caf::scoped_actor engine{*rt.inside().system};
  rank_actor rank;
};

errc reason_of(std::future<version_ref>& seed) {
  try {
    seed.get();
  } catch (const error& e) {
    return e.code();
  }
  return errc::none;
}

errc reason_of(const std::shared_ptr<ticket_state>& ticket) {
  const auto report = ticket->wait_report(10s);
  REQUIRE(report);
  CHECK(report->result == sync_result::aborted);
  return report->reason;
}

bool is_open(const std::shared_ptr<ticket_state>& ticket) {
  return !ticket->wait_report(0ms);
}

}  // namespace

TEST_CASE("a rank obeys the coordinator of its own fleet, in the run that it holds") {
  rank_stage s;
  auto seed = s.boot(0);
  REQUIRE(s.next<shard_hello_msg>());
  s.say(shard_task_msg{s.env->cluster + 1, shard_task::seed, {9, 0}, 0, 7, 0, {}});
  s.task(shard_task::seed, {2, 0}, 0);
  s.answers(shard_task::seed, {2, 0});
  CHECK(seed.get() == version_ref{2, 0});
  const auto ticket = s.sync(1);
  s.task(shard_task::encode, {3, 1}, 1);
  s.answers(shard_task::encode, {3, 1}, errc::not_serving);
  CHECK(is_open(ticket));
  s.task(shard_task::end, {});
  CHECK(reason_of(ticket) == errc::shut_down);
  s.task(shard_task::prove, {2, 2});
  s.answers(shard_task::prove, {2, 2}, errc::not_serving);
  CHECK(reason_of(s.sync(1)) == errc::shut_down);
}

TEST_CASE("a rank tells which life of a receiver it reaches, once, and of its own fleet only") {
  rank_stage s;
  s.seeded();
  s.engine->send(s.rank, hello_msg{s.env->cluster + 1, 3, "three", s.first, {}, {}});
  s.hello(s.engine);
  s.reaches(4, s.first, true);
  s.hello(s.engine);
  s.say(goodbye_msg{s.env->cluster, 4, s.second});
  caf::scoped_actor another(*s.rt.inside().system);
  another->send(s.rank, hello_msg{s.env->cluster, 5, "five", s.first, {}, {}});
  s.reaches(5, s.first, true);
  s.say(goodbye_msg{s.env->cluster, 5, s.first});
  s.reaches(5, s.first, false);
  SECTION("another life") {
    s.hello(s.engine, s.second);
    s.reaches(4, s.first, false);
    s.reaches(4, s.second, true);
  }
  SECTION("another life, and a word of the one before that was long under way") {
    {
      caf::scoped_actor newer(*s.rt.inside().system);
      s.hello(newer, s.second);
      s.reaches(4, s.first, false);
      s.reaches(4, s.second, true);
      s.hello(s.engine);
      s.say(goodbye_msg{s.env->cluster, 5, s.second});
      another->send(s.rank, hello_msg{s.env->cluster, 5, "five", s.first, {}, {}});
      s.reaches(5, s.first, true);  // and nothing of the other
    }
    s.reaches(4, s.second, false);
    s.hello(s.engine);
    s.reaches(4, s.first, true);
  }
  SECTION("another connection of the same life") {
    s.hello(another);
    s.reaches(4, s.first, false);
    s.reaches(4, s.first, true);
  }
}

TEST_CASE("a rank takes an earlier life's word again once the later one says no more") {
  // Lives have no order: it may have been the later one's word that was long under way.
  rank_stage s({}, 0, [](actor_env& e) { e.options.receiver.lease_ms = 200; });
  s.seeded();
  s.hello(s.engine);
  s.reaches(4, s.first, true);
  caf::scoped_actor newer(*s.rt.inside().system);
  s.hello(newer, s.second);
  s.reaches(4, s.first, false);
  s.reaches(4, s.second, true);
  std::this_thread::sleep_for(300ms);
  s.hello(s.engine);
  s.reaches(4, s.second, false);
  s.reaches(4, s.first, true);
}

TEST_CASE("a rank reaches nobody whose link or flusher has ended, until it is there again") {
  rank_stage s;
  s.encoded();
  SECTION("the link") {
    {
      caf::scoped_actor link(*s.rt.inside().system);
      s.hello(link);
      s.reaches(4, s.first, true);
    }
    s.reaches(4, s.first, false);
  }
  SECTION("the flusher") {
    s.hello(s.engine);
    s.reaches(4, s.first, true);
    s.say(s.ship({2, 1}));
    caf::strong_actor_ptr flusher;
    s.engine->receive([&](part_head&) { flusher = s.engine->current_sender(); });
    s.test->send_exit(caf::actor_cast<flusher_actor>(flusher), caf::exit_reason::kill);
    s.reaches(4, s.first, false);
  }
  s.hello(s.engine);
  s.reaches(4, s.first, true);
  s.say(s.ship({2, 1}));
  REQUIRE(next_of<part_head>(s.engine));
}

TEST_CASE("a rank ships what it was asked for to the life that was named, once that is linked") {
  rank_stage s;
  s.encoded();
  SECTION("that is linked") {
    s.hello(s.engine);
    auto foreign = s.ship({2, 1});
    ++foreign.cluster;
    s.say(foreign);
    s.say(s.ship({2, 9}));
    s.say(s.ship({2, 1}, s.second));
  }
  SECTION("that is not yet") {}
  s.say(s.ship({2, 1}));
  s.hello(s.engine);
  const auto head = next_of<part_head>(s.engine);
  REQUIRE(head);
  CHECK(head->env == envelope{s.env->cluster, {2, 1}, s.first});
  const auto bucket = next_of<bucket_msg>(s.engine);
  REQUIRE(bucket);
  CHECK(bucket->env == head->env);
  CHECK_FALSE(next_of<part_head>(s.engine, 100ms));
  // And not once more, to whomever it has shipped it already.
  caf::scoped_actor again(*s.rt.inside().system);
  s.hello(again);
  CHECK_FALSE(next_of<part_head>(again, 100ms));
}

TEST_CASE("a rank leaves to others what they bring, of this shipment and to this life") {
  rank_stage s;
  s.encoded();
  shard_route_msg route{s.env->cluster, 4, s.first, packed_route({{receiver_id{9}, 2}})};
  shard_among_msg among{s.env->cluster, {2, 1}, 0, packed_ids({4, 9})};
  bool linked_first = true, sends = true;
  SECTION("as it was told") {
    sends = false;
  }
  SECTION("before it is linked") {
    linked_first = false;
    sends = false;
  }
  SECTION("of another life, before it is linked") {
    linked_first = false;
    route.inc = s.second;
  }
  SECTION("of another life") {
    route.inc = s.second;
  }
  SECTION("of another fleet, the way") {
    ++route.cluster;
  }
  SECTION("of another fleet, the shipment") {
    ++among.cluster;
  }
  SECTION("of another transaction") {
    among.txn = {2, 9};
  }
  SECTION("of another round") {
    among.round = 1;
  }
  SECTION("from whom it is not shipped to") {
    among.ids = packed_ids({4, 8});
  }
  if (linked_first) s.hello(s.engine);
  if (linked_first) s.reaches(4, s.first, true);
  s.say(route);
  if (!linked_first) s.hello(s.engine);
  s.say(among);
  if (!linked_first) s.reaches(4, s.first, true);
  s.say(s.ship({2, 1}));
  CHECK(s.sends() == sends);
}

TEST_CASE("a rank without a fan-out of its own leaves nothing to others") {
  rank_stage s({}, 0);
  s.encoded();
  s.hello(s.engine);
  s.reaches(4, s.first, true);
  s.say(shard_route_msg{s.env->cluster, 4, s.first, packed_route({{receiver_id{9}, 2}})});
  s.say(shard_among_msg{s.env->cluster, {2, 1}, 0, packed_ids({4, 9})});
  s.say(s.ship({2, 1}));
  CHECK(s.sends());
}

TEST_CASE(
    "a rank says once over a link that it has no fan-out of its own, however often plans change") {
  const auto file = std::filesystem::temp_directory_path() /
                    ("lockstep-rank-" + std::to_string(::getpid()) + ".log");
  std::filesystem::remove(file);
  {
    rank_stage s({}, 0, [&](actor_env& e) { e.log = make_log({log_level::warn, file.string()}); });
    s.seeded();
    s.hello(s.engine);
    s.reaches(4, s.first, true);
    for (const receiver_id parent : {9u, 8u, 9u})
      for (const receiver_id child : {4u, 5u})
        s.say(shard_route_msg{s.env->cluster, child, s.first, packed_route({{parent, 2}})});
    s.proves({2, 1});
  }
  std::ifstream in(file);
  std::string line;
  int said = 0;
  while (std::getline(in, line)) said += line.find("no transport.fanout") != std::string::npos;
  CHECK(said == 1);
  std::filesystem::remove(file);
}

TEST_CASE("a rank whose number another process has asks again for two leases, and no longer") {
  rank_stage s({}, 2, [](actor_env& e) {
    e.options.receiver.lease_ms = 300;
    e.options.transport.retry_ms = 20;
    e.options.transport.retry_ms_max = 60;
  });
  const auto began = std::chrono::steady_clock::now();
  auto seed = s.boot(0);
  int asked = 0;
  const auto refuse = [&] {
    const auto m = s.next<shard_hello_msg>(20ms);
    if (!m) return;
    ++asked;
    s.say(refused_msg{s.env->cluster, m->inc, errc::busy, "rank 1: there is one already"});
  };
  SECTION("it goes") {
    for (int i = 0; i < 500 && asked < 3; ++i) refuse();
    REQUIRE(asked == 3);
    CHECK(seed.wait_for(0s) == std::future_status::timeout);
    s.task(shard_task::seed, {2, 0}, 0);
    s.answers(shard_task::seed, {2, 0});
    CHECK(seed.get() == version_ref{2, 0});
    // Nothing is waited for any more.
    while (s.next<shard_hello_msg>(0ms)) {
    }
    CHECK_FALSE(s.next<shard_hello_msg>(200ms));
  }
  SECTION("it stays") {
    while (seed.wait_for(0s) != std::future_status::ready &&
           std::chrono::steady_clock::now() < began + 10s)
      refuse();
    CHECK(reason_of(seed) == errc::busy);
    CHECK(std::chrono::steady_clock::now() >= began + 600ms);
    CHECK(asked >= 5);
    CHECK(asked <= 40);
    CHECK_FALSE(s.next<shard_hello_msg>(200ms));
  }
  SECTION("the trainer waits no longer than it said") {
    auto brief = s.boot(0, 100ms);
    while (brief.wait_for(0s) != std::future_status::ready &&
           std::chrono::steady_clock::now() < began + 10s)
      refuse();
    std::string why;
    try {
      brief.get();
    } catch (const error& e) {
      why = e.what();
    }
    CHECK(why == "rank 0 has not seeded: rank 1: there is one already");
  }
}

TEST_CASE("a rank calls off the transaction that is named, and no other") {
  rank_stage s;
  const auto ticket = s.encoded();
  s.hello(s.engine);
  s.task(shard_task::plan, {2, 3});
  s.answers(shard_task::plan, {2, 3});
  auto full = s.ship({2, 3});
  full.full = true;
  s.task(shard_task::drop, {2, 9});
  s.say(s.ship({2, 1}));
  CHECK(s.sends());
  CHECK(is_open(ticket));
  s.say(full);
  CHECK(s.sends());
  s.task(shard_task::drop, {2, 1});
  CHECK(reason_of(ticket) == errc::none);
  CHECK(ticket->wait_report(0ms)->wire_bytes == 0);
  s.say(s.ship({2, 1}));
  s.say(full);
  const auto head = next_of<part_head>(s.engine);
  REQUIRE(head);
  CHECK(head->env.txn == txn_ref{2, 3});
  // Of a later plan nothing is shipped that only the one before had.
  s.say(shard_task_msg{s.env->cluster, shard_task::plan, {2, 4}, 0, 7, 1, {}});
  s.answers(shard_task::plan, {2, 4});
  full.txn = {2, 4};
  s.say(full);
  full.txn = {2, 3};
  s.task(shard_task::drop, {2, 3});
  s.say(full);
  CHECK_FALSE(next_of<part_head>(s.engine, 100ms));
}

TEST_CASE("what a rank was asked before its trainer came waits for it, until it is called off") {
  rank_stage s;
  s.seeded();
  s.task(shard_task::encode, {2, 1}, 1);
  SECTION("another is called off") {
    s.task(shard_task::drop, {2, 9});
    // A seed is none of its business either.
    auto seed = s.boot(1);
    s.sync(1);
    s.answers(shard_task::encode, {2, 1});
    s.proves({2, 2});
    CHECK(seed.wait_for(0s) == std::future_status::timeout);
  }
  SECTION("it is") {
    s.task(shard_task::drop, {2, 1});
    const auto late = s.sync(5);
    s.proves({2, 2});
    CHECK(is_open(late));
  }
  SECTION("the run ends") {
    s.task(shard_task::end, {});
    auto seed = s.boot(0);
    s.task(shard_task::seed, {3, 0}, 0);
    s.answers(shard_task::seed, {3, 0});
    s.sync(1);
    s.proves({3, 1});
  }
}

TEST_CASE("a rank remembers what was called off to the next that succeeds, and in its run only") {
  rank_stage s;
  s.seeded();
  s.task(shard_task::encode, {2, 1}, 5);
  s.task(shard_task::drop, {2, 1});
  std::uint64_t run = 2;
  SECTION("one has") {
    s.sync(1);
    s.task(shard_task::encode, {2, 2}, 1);
    s.answers(shard_task::encode, {2, 2});
    s.task(shard_task::stage, {2, 2}, 1);
    s.answers(shard_task::stage, {2, 2});
    s.task(shard_task::advance, {2, 2});
    s.answers(shard_task::advance, {2, 2});
  }
  SECTION("the run is over") {
    s.task(shard_task::end, {});
    auto seed = s.boot(0);
    s.task(shard_task::seed, {++run, 0}, 0);
    s.answers(shard_task::seed, {run, 0});
  }
  SECTION("none has succeeded yet") {
    s.task(shard_task::encode, {2, 3}, 6);
    CHECK(reason_of(s.sync(5)) == errc::timeout);
    s.sync(6);
    return s.answers(shard_task::encode, {2, 3});
  }
  const auto odd = s.sync(5);
  s.task(shard_task::encode, {run, 3}, 6);
  s.answers(shard_task::encode, {run, 3}, errc::bad_input);
}

TEST_CASE("a seed that comes before its trainer is no sync's, and ends the sync under way") {
  rank_stage s;
  const auto ticket = s.encoded();
  s.task(shard_task::seed, {3, 0}, 0);
  CHECK(reason_of(ticket) == errc::shut_down);
  CHECK(reason_of(s.sync(1)) == errc::shut_down);
  auto seed = s.boot(0);
  s.answers(shard_task::seed, {3, 0});
  CHECK(seed.get() == version_ref{3, 0});
  // The snapshot of the run before has nothing more to say, and nothing of it is left to ship.
  s.say(advance_result{{2, 1}, errc::none, {}});
  s.proves({3, 1});
  s.hello(s.engine);
  s.say(s.ship({2, 1}));
  CHECK_FALSE(next_of<part_head>(s.engine, 100ms));
}

TEST_CASE("what a rank ships ends with the run, and so does its word on what it holds") {
  rank_stage s;
  s.encoded();
  s.hello(s.engine);
  auto what = s.ship({2, 1});
  SECTION("a delta") {}
  SECTION("all weights") {
    s.task(shard_task::plan, {2, 3});
    s.answers(shard_task::plan, {2, 3});
    what.txn = {2, 3};
    what.full = true;
  }
  s.say(what);
  caf::strong_actor_ptr flusher;
  s.engine->receive([&](part_head&) { flusher = s.engine->current_sender(); });
  REQUIRE(next_of<bucket_msg>(s.engine));
  s.task(shard_task::end, {});
  s.say(advance_result{{2, 1}, errc::none, {}});
  s.task(shard_task::prove, {2, 4});
  s.answers(shard_task::prove, {2, 4}, errc::not_serving);
  s.engine->send(caf::actor_cast<flusher_actor>(flusher),
                 credit_msg{{s.env->cluster, what.txn, s.first}, 4, 0});
  CHECK_FALSE(next_of<bucket_msg>(s.engine, 100ms));
}

TEST_CASE("a seed that waits for its trainer is not taken for a sync") {
  rank_stage s;
  s.seeded();
  s.task(shard_task::seed, {3, 0}, 0);
  const auto ticket = s.sync(1);
  auto seed = s.boot(0);
  s.answers(shard_task::seed, {3, 0});
  CHECK(seed.get() == version_ref{3, 0});
  CHECK(reason_of(ticket) == errc::shut_down);
}

TEST_CASE("a rank dials one coordinator at a time, and not at once again") {
  std::atomic<int> dialed = 0;
  const bool fails = GENERATE(false, true);
  rank_stage s([&](const rank_actor& me) {
    ++dialed;
    if (fails) caf::anon_send(me, rank_dialed{{}, {errc::unreachable, "nobody"}});
  });
  auto seed = s.boot(0, 50ms);  // its end is a moment at which the rank looks at everything
  CHECK(reason_of(seed) == errc::timeout);
  std::this_thread::sleep_for(50ms);
  CHECK(dialed == 1);
}

TEST_CASE("a rank's trainer waits for one start and one sync, and no longer than it said") {
  rank_stage s;
  auto first = s.boot(0), second = s.boot(0, 50ms);
  CHECK(reason_of(first) == errc::busy);
  CHECK(reason_of(second) == errc::timeout);
  auto third = s.boot(5);
  const auto hello = s.next<shard_hello_msg>();
  REQUIRE(hello);
  s.task(shard_task::seed, {2, 0}, 0);
  s.answers(shard_task::seed, {2, 0}, errc::bad_input);
  CHECK(third.wait_for(0ms) == std::future_status::timeout);
  s.say(refused_msg{s.env->cluster, hello->inc, errc::bad_input, "it seeds another label"});
  CHECK(reason_of(third) == errc::bad_input);
  auto fourth = s.boot(0);
  REQUIRE(s.next<shard_hello_msg>());
  s.task(shard_task::seed, {2, 1}, 0);
  s.answers(shard_task::seed, {2, 1});
  CHECK(fourth.get() == version_ref{2, 0});
  const auto earlier = s.sync(1), later = s.sync(2);
  CHECK(reason_of(earlier) == errc::busy);
  s.task(shard_task::encode, {2, 2}, 2);
  s.answers(shard_task::encode, {2, 2});
  CHECK(is_open(later));
}

TEST_CASE("a rank proves what it has encoded, as often as it is asked, and nothing else") {
  rank_stage s;
  s.seeded();
  s.task(shard_task::stage, {2, 1}, 1);
  s.answers(shard_task::stage, {2, 1}, errc::not_serving);
  const auto ticket = s.sync(1);
  s.task(shard_task::encode, {2, 1}, 1);
  s.answers(shard_task::encode, {2, 1});
  s.task(shard_task::stage, {2, 2}, 1);
  s.answers(shard_task::stage, {2, 2}, errc::not_serving);
  CHECK(is_open(ticket));
  for (int i = 0; i < 2; ++i) {
    s.task(shard_task::stage, {2, 1}, 1);
    s.answers(shard_task::stage, {2, 1});
  }
  s.task(shard_task::advance, {2, 1});
  s.answers(shard_task::advance, {2, 1});
  const auto report = ticket->wait_report(10s);
  REQUIRE(report);
  CHECK(report->result == sync_result::ok);
}

TEST_CASE("a rank believes its snapshot of the transaction under way, and of no other") {
  rank_stage s;
  const auto ticket = s.encoded();
  s.say(stage_result{{2, 9}, errc::none, {}, {}, nullptr});
  s.say(carve_result{{2, 9}, 7, 3, errc::none, {}, {}, {}, {}, nullptr, nullptr});
  s.proves({2, 2});
  SECTION("another advances") {
    s.say(advance_result{{2, 9}, errc::none, {}});
    s.answers(shard_task::advance, {2, 9});
    s.proves({2, 2});
    CHECK(is_open(ticket));
  }
  SECTION("it advances") {
    s.task(shard_task::advance, {2, 1});
    s.answers(shard_task::advance, {2, 1});
    const auto report = ticket->wait_report(10s);
    REQUIRE(report);
    CHECK(report->result == sync_result::ok);
    CHECK(report->target == version_ref{2, 1});
    // What it said of it before comes late: there is no delta any more.
    s.say(stage_result{{2, 1}, errc::none, {}, {}, nullptr});
    s.say(carve_result{{2, 1}, 7, 3, errc::none, {}, {}, {}, {}, nullptr, nullptr});
    s.proves({2, 2});
  }
  SECTION("it does not") {
    s.say(advance_result{{2, 1}, errc::wrong_base, "no"});
    s.answers(shard_task::advance, {2, 1}, errc::wrong_base);
    CHECK(reason_of(ticket) == errc::wrong_base);
    CHECK(reason_of(s.sync(2)) == errc::shut_down);
  }
}
