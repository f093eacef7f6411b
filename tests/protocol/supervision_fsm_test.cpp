#include "protocol/supervision_fsm.hpp"

#include <catch2/catch.hpp>

using namespace lockstep;
using std::chrono::milliseconds;
namespace act = supervision_action;

namespace {

const incarnation one{1, 1}, two{2, 2};
const participant a1{7, one}, a2{7, two};
const time_point t0 = time_point{} + milliseconds(10'000);

hello_msg hello(incarnation inc, receiver_id id = 7) {
  return {1, id, "a", inc, {}};
}

template <class T>
const T* find(const act::list& l) {
  for (const auto& x : l)
    if (const auto* t = std::get_if<T>(&x)) return t;
  return nullptr;
}

struct fixture {
  settings s;
  supervision_fsm f{s};
  const supervision_fsm::record& rec() { return f.records().at(7); }
  void member() {
    f.on_hello(t0, hello(one));
    f.on_admitted(t0, a1, admission::attached);
  }
};

}  // namespace

TEST_CASE_METHOD(fixture, "supervision: a new life is admitted, a repeated hello is not") {
  const auto first = f.on_hello(t0, hello(one));
  const auto* admit = find<act::admit>(first);
  REQUIRE(admit);
  CHECK(first.size() == 1);  // it ends nobody
  CHECK(rec().where == standing::attaching);
  CHECK(f.on_hello(t0, hello(one)).empty());
  CHECK(f.on_hello(t0, hello({}, 8)).empty());  // no identity
  CHECK(f.records().size() == 1);
}

TEST_CASE_METHOD(fixture, "supervision: a newer life ends the older one, never the reverse") {
  member();
  auto renamed = hello(two);
  renamed.name = "another host";
  const auto actions = f.on_hello(t0, renamed);
  CHECK(rec().name == "another host");  // who may take its place is told by this
  REQUIRE(find<act::down>(actions));
  CHECK(find<act::down>(actions)->who == a1);
  CHECK(find<act::down>(actions)->reason == errc::restarted);
  CHECK(std::holds_alternative<act::admit>(actions.back()));
  CHECK(rec().restarts == 1);
  CHECK(f.on_hello(t0, hello(one)).empty());  // was under way for long
  CHECK(rec().inc == two);
  for (std::uint64_t i = 100; i < 200; ++i) f.on_hello(t0, hello({i, i}));
  CHECK(rec().superseded.size() == supervision_fsm::superseded_max);
}

TEST_CASE_METHOD(fixture,
                 "supervision: the late hello of a dead life puts the living out for a while") {
  // Life one had ended before life two began, and nobody had heard of it: its hello came last.
  f.on_hello(t0, hello(two));
  f.on_admitted(t0, {7, two}, admission::attached);
  const auto late = f.on_hello(t0, hello(one));
  CHECK(find<act::down>(late)->who == participant{7, two});
  CHECK(find<act::admit>(late)->who == participant{7, one});
  const auto lease = milliseconds(s.receiver.lease_ms);
  CHECK(f.on_hello(t0 + lease, hello(two)).empty());
  const auto back = f.on_hello(t0 + lease + milliseconds(1), hello(two));
  CHECK(find<act::admit>(back)->who == participant{7, two});
  CHECK(rec().inc == two);
  // And the dead one does not do it again while the living is heard.
  CHECK(f.on_hello(t0 + lease + milliseconds(2), hello(one)).empty());
}

TEST_CASE_METHOD(fixture, "supervision: the end of a life is told once, not again by the next") {
  member();
  REQUIRE(find<act::down>(f.on_down(t0, a1, true)));
  const auto actions = f.on_hello(t0, hello(two));
  CHECK_FALSE(find<act::down>(actions));
  CHECK(find<act::admit>(actions));
}

TEST_CASE_METHOD(fixture,
                 "supervision: what one life said is not told of the next, nor of an end") {
  member();
  const readiness ready{true, receiver_phase::serving, {1, 3}, 42, errc::none};
  f.on_pong(t0, {1, 7, one, ready});
  REQUIRE(rec().state == ready);
  SECTION("a new life") {
    f.on_hello(t0, hello(two));
    CHECK(rec().state == readiness{});
  }
  SECTION("its end") {
    f.on_down(t0, a1, true);
    CHECK(rec().state == readiness{});
  }
  SECTION("it left: what it holds is known, but it serves nobody") {
    f.on_goodbye(t0, {1, 7, one});
    CHECK_FALSE(rec().state.ready);
  }
}

TEST_CASE_METHOD(fixture, "supervision: peers cannot fill the memory") {
  for (std::uint32_t id = 0; id < supervision_fsm::receivers_max + 10; ++id)
    f.on_hello(t0, hello(one, id));
  CHECK(f.records().size() == supervision_fsm::receivers_max);
  CHECK_FALSE(f.on_hello(t0, hello(two, 3)).empty());
}

TEST_CASE_METHOD(fixture, "supervision: failures back off, doubling, up to a limit") {
  s.supervision.attempts_max = 4;
  s.supervision.backoff_ms_max = 150;
  f = supervision_fsm(s);
  member();
  CHECK(find<act::admit>(f.on_evicted(t0, a1, errc::wrong_base, {})));  // the first try: at once
  CHECK(f.on_not_admitted(t0, a1, errc::wrong_base, {}).empty());
  CHECK(f.deadline(t0) == t0 + milliseconds(100));
  CHECK(f.on_tick(t0 + milliseconds(99)).empty());
  CHECK(find<act::admit>(f.on_tick(t0 + milliseconds(100))));
  CHECK(f.on_not_admitted(t0, a1, errc::wrong_base, {}).empty());
  CHECK(f.deadline(t0) == t0 + milliseconds(150));
  CHECK(f.on_not_admitted(t0, a1, errc::wrong_base, {}).empty());  // it was not asked for
  CHECK(rec().attempts == 3);
  f.on_tick(t0 + milliseconds(150));
  f.on_not_admitted(t0, a1, errc::wrong_base, {});
  f.on_tick(t0 + milliseconds(150));
  const auto last = f.on_not_admitted(t0, a1, errc::apply_failed, "why");
  REQUIRE(find<act::gave_up>(last));
  CHECK(find<act::gave_up>(last)->reason == errc::apply_failed);
  CHECK(rec().where == standing::gave_up);
  CHECK_FALSE(f.deadline(t0));
  CHECK(f.on_hello(t0, hello(one)).empty());  // the same life stays out
  CHECK(find<act::admit>(f.on_hello(t0, hello(two))));
  CHECK(rec().attempts == 0);
}

TEST_CASE_METHOD(fixture, "supervision: who was too slow twice waits the longest at once") {
  const auto longest = milliseconds(s.supervision.backoff_ms_max);
  member();
  f.on_pong(t0, {1, 7, one, {}});
  f.on_evicted(t0, a1, errc::timeout, {});
  f.on_pong(t0, {1, 7, one, {}});  // heard since: the first try follows
  CHECK(find<act::admit>(f.on_tick(t0)));
  f.on_not_admitted(t0, a1, errc::timeout, {});
  CHECK(rec().next_try == t0 + longest);
}

TEST_CASE_METHOD(fixture, "supervision: however often it fails, the wait stays the longest") {
  s.supervision.attempts_max = 200;
  f = supervision_fsm(s);
  member();
  const auto longest = milliseconds(s.supervision.backoff_ms_max);
  auto now = t0;
  for (int i = 0; i < 100; ++i) {
    f.on_pong(now, {1, 7, one, {}});
    f.on_tick(now);
    f.on_not_admitted(now, a1, errc::wrong_base, {});
    if (i >= 20) {
      REQUIRE(rec().next_try == now + longest);
    }
    now += longest;
  }
}

TEST_CASE_METHOD(fixture, "supervision: only an acknowledged sync starts the count anew") {
  member();
  f.on_evicted(t0, a1, errc::wrong_base, "why");
  CHECK(rec().reason == errc::wrong_base);
  f.on_admitted(t0, a1, admission::reseeded);
  CHECK(rec().attempts == 1);
  CHECK(rec().reseeds == 1);
  CHECK(rec().catch_ups == 0);
  f.on_admitted(t0, a1, admission::caught_up);
  CHECK(rec().reseeds == 1);
  CHECK(rec().catch_ups == 1);
  CHECK(rec().reason == errc::none);  // it is a member: nothing is wrong with it
  CHECK(rec().detail.empty());
  f.on_acknowledged(7);
  CHECK(rec().attempts == 0);
  f.on_acknowledged(99);
}

TEST_CASE_METHOD(fixture, "supervision: a new life inherits the count of failures") {
  // Or one that fails, ends and comes back would be reseeded for ever.
  member();
  f.on_evicted(t0, a1, errc::wrong_base, {});
  f.on_hello(t0, hello(two));
  CHECK(rec().attempts == 1);
}

TEST_CASE_METHOD(fixture, "supervision: a failure counts whatever the admission has come to") {
  f.on_hello(t0, hello(one));
  SECTION("a member that was to be seeded again, with all, and failed") {
    f.on_admitted(t0, a1, admission::attached);
    f.on_not_admitted(t0, a1, errc::wrong_base, {});
  }
  SECTION("evicted, while it is asked to be admitted anew") {
    f.on_evicted(t0, a1, errc::wrong_base, {});
  }
  CHECK(rec().attempts == 1);
  CHECK(rec().reason == errc::wrong_base);
}

TEST_CASE_METHOD(fixture, "supervision: the next try is that of whoever is due first") {
  const participant b1{8, one};
  for (const auto& p : {a1, b1}) f.on_hello(t0, hello(one, p.id));
  const bool swapped = GENERATE(false, true);
  const auto& soon = swapped ? b1 : a1;
  const auto& late = swapped ? a1 : b1;
  for (int i = 0; i < 2; ++i) f.on_not_admitted(t0, soon, errc::wrong_base, {});
  for (int i = 0; i < 2; ++i) f.on_not_admitted(t0 + milliseconds(1), late, errc::wrong_base, {});
  CHECK(f.deadline(t0) == t0 + milliseconds(s.supervision.backoff_ms));
}

TEST_CASE_METHOD(fixture, "supervision: a silent life is not tried until it is heard again") {
  member();
  const auto late = t0 + milliseconds(s.receiver.lease_ms + 1);
  CHECK_FALSE(find<act::admit>(f.on_evicted(late, a1, errc::wrong_base, {})));
  CHECK(rec().where == standing::quarantined);
  CHECK_FALSE(f.deadline(late));
  CHECK(f.on_tick(late).empty());
  f.on_pong(late, {1, 7, two, {}});  // not that life
  CHECK_FALSE(f.deadline(late));
  f.on_pong(late, {1, 7, one, {}});
  REQUIRE(f.deadline(late));
  CHECK(find<act::admit>(f.on_tick(late)));
}

TEST_CASE_METHOD(fixture, "supervision: who did not answer is heard before it is tried") {
  member();
  const auto failed = t0 + milliseconds(10);  // well within its lease
  CHECK(f.on_evicted(failed, a1, errc::timeout, {}).empty());
  CHECK(f.on_tick(failed + milliseconds(1)).empty());
  f.on_pong(failed + milliseconds(2), {1, 7, one, {}});
  CHECK(f.deadline(failed + milliseconds(2)) <= failed + milliseconds(2));
  CHECK(find<act::admit>(f.on_tick(failed + milliseconds(2))));
}

TEST_CASE_METHOD(fixture, "supervision: no sync waits for the silent longer than for their lease") {
  member();
  const auto over = t0 + milliseconds(s.receiver.lease_ms + 1);
  f.on_evicted(t0 + milliseconds(10), a1, errc::timeout, {});
  REQUIRE(f.deadline(t0 + milliseconds(10)) == over);
  CHECK(f.on_tick(over - milliseconds(1)).empty());
  const auto told = f.on_tick(over);
  REQUIRE(find<act::silent>(told));
  CHECK(find<act::silent>(told)->id == 7);
  CHECK(f.on_tick(over + milliseconds(1)).empty());  // told once
  CHECK_FALSE(f.deadline(over + milliseconds(1)));
  // It is heard, tried, fails, and falls silent again.
  f.on_pong(over + milliseconds(2), {1, 7, one, {}});
  CHECK(find<act::admit>(f.on_tick(over + milliseconds(2))));
  f.on_not_admitted(over + milliseconds(3), a1, errc::timeout, {});
  CHECK(find<act::silent>(f.on_tick(over + milliseconds(3 + s.receiver.lease_ms))));
}

TEST_CASE_METHOD(fixture, "supervision: an ended life is restarted so often, then given up") {
  s.supervision.restart_max = 1;
  f = supervision_fsm(s);
  member();
  CHECK(f.on_down(t0, a2, true).empty());
  const auto first = f.on_down(t0, a1, true);
  CHECK(find<act::down>(first));
  CHECK(find<act::restart>(first));
  CHECK(f.on_down(t0, a1, true).empty());
  f.on_hello(t0, hello(two));
  CHECK_FALSE(find<act::down>(f.on_hello(t0, hello(two))));
  SECTION("in a row") {
    const auto second = f.on_down(t0, a2, true);
    REQUIRE(find<act::gave_up>(second));
    CHECK(find<act::gave_up>(second)->detail == "restarted too often");
    CHECK_FALSE(find<act::restart>(second));
  }
  SECTION("with a sync that it acknowledged in between, the row is broken") {
    f.on_acknowledged(7);
    CHECK(find<act::restart>(f.on_down(t0, a2, true)));
  }
}

TEST_CASE_METHOD(fixture, "supervision: what cannot be restarted is given up at once") {
  member();
  const auto out = f.on_down(t0, a1, false);
  REQUIRE(find<act::gave_up>(out));
  CHECK(find<act::gave_up>(out)->detail == "its process ended");
  CHECK(rec().reason == errc::dead);
}

TEST_CASE_METHOD(fixture, "supervision: what a receiver failed for last is remembered") {
  member();
  CHECK(rec().last_reason == errc::none);
  f.on_evicted(t0 + milliseconds(1), a1, errc::apply_failed, "no disk");
  f.on_admitted(t0 + milliseconds(2), a1, admission::reseeded);
  CHECK(rec().reason == errc::none);
  CHECK(rec().last_reason == errc::apply_failed);
  CHECK(rec().last_detail == "no disk");
  CHECK(rec().last_failed == t0 + milliseconds(1));
  f.on_goodbye(t0 + milliseconds(3), {1, 7, one});
  CHECK(rec().last_reason == errc::apply_failed);  // leaving is no failure
  f.on_hello(t0 + milliseconds(4), hello(two));
  f.on_down(t0 + milliseconds(5), a2, true);
  CHECK(rec().last_reason == errc::dead);
  CHECK(rec().last_detail.empty());
  CHECK(rec().last_failed == t0 + milliseconds(5));
}

TEST_CASE_METHOD(fixture, "supervision: a life declared dead that speaks again is admitted") {
  member();
  f.on_down(t0, a1, GENERATE(false, true));  // given up, or to be restarted
  SECTION("by a hello") {
    CHECK(find<act::admit>(f.on_hello(t0, hello(one))));
  }
  SECTION("by a pong") {
    CHECK(find<act::admit>(f.on_pong(t0, {1, 7, one, {}})));
  }
  CHECK(rec().where == standing::attaching);
  CHECK(f.on_pong(t0, {1, 7, one, {}}).empty());  // once
}

TEST_CASE_METHOD(fixture, "supervision: word of an admission does not revive who has ended") {
  f.on_hello(t0, hello(one));
  SECTION("dead") {
    f.on_down(t0, a1, true);
  }
  SECTION("given up") {
    f.on_down(t0, a1, false);
  }
  SECTION("detached") {
    f.on_goodbye(t0, {1, 7, one});
  }
  const auto where = rec().where;
  f.on_admitted(t0, a1, admission::attached);
  CHECK(rec().where == where);
  CHECK(f.on_evicted(t0, a1, errc::wrong_base, {}).empty());
  CHECK(rec().where == where);
}

TEST_CASE_METHOD(fixture, "supervision: who left on purpose stays away") {
  member();
  CHECK(f.on_goodbye(t0, {1, 7, two}).empty());
  const auto actions = f.on_goodbye(t0, {1, 7, one});
  CHECK(find<act::down>(actions));
  CHECK(find<act::gave_up>(actions));
  CHECK(f.on_goodbye(t0, {1, 7, one}).empty());
  CHECK(f.on_down(t0, a1, true).empty());
  CHECK(f.on_pong(t0, {1, 7, one, {}}).empty());
  CHECK(rec().where == standing::detached);
  CHECK(rec().reason == errc::detached);
  CHECK_FALSE(find<act::down>(f.on_hello(t0, hello(two))));
}

TEST_CASE_METHOD(fixture, "supervision: words about another life change nothing") {
  member();
  f.on_admitted(t0, {99, one}, admission::reseeded);
  CHECK(f.on_down(t0, {99, one}, true).empty());
  CHECK(f.records().size() == 1);
  f.on_admitted(t0, a2, admission::reseeded);
  CHECK(f.on_not_admitted(t0, a2, errc::wrong_base, {}).empty());
  CHECK(f.on_evicted(t0, a2, errc::wrong_base, {}).empty());
  CHECK(rec().where == standing::member);
  CHECK(rec().reseeds == 0);
}

TEST_CASE_METHOD(fixture, "supervision: a new run asks for everybody, given-up ones excepted") {
  member();
  f.on_hello(t0, hello(one, 8));
  f.on_down(t0, {8, one}, false);
  f.on_hello(t0, hello(one, 9));
  f.on_evicted(t0, a1, errc::wrong_base, {});
  f.on_not_admitted(t0, a1, errc::wrong_base, {});
  f.on_hello(t0, hello(two));
  REQUIRE(rec().next_try > t0);  // of the life before, in the run before
  f.on_admitted(t0, {9, one}, admission::attached);
  REQUIRE(f.records().at(9).where == standing::member);
  REQUIRE(rec().where == standing::attaching);
  const auto actions = f.on_new_run(t0);
  CHECK(actions.size() == 2);
  CHECK(f.records().at(8).where == standing::gave_up);
  for (int i = 0; i < 6; ++i) CHECK_FALSE(to_string(static_cast<standing>(i)).empty());
}

TEST_CASE_METHOD(fixture, "supervision: whom a rank does not reach is out, and no try is counted") {
  const auto lease = milliseconds(s.receiver.lease_ms);
  member();
  const auto out = f.on_parted(t0, a1);
  REQUIRE(find<act::down>(out));
  CHECK(find<act::down>(out)->reason == errc::unreachable);
  // It may be on its way to that rank: syncs wait for it as for who is silent.
  CHECK_FALSE(find<act::gave_up>(out));
  CHECK(rec().where == standing::quarantined);
  CHECK(rec().reason == errc::unreachable);
  CHECK(rec().attempts == 0);
  CHECK(f.on_parted(t0 + milliseconds(1), a1).empty());
  CHECK(f.deadline(t0) == t0 + lease + milliseconds(1));
  CHECK(f.on_tick(t0 + lease).empty());
  f.on_pong(t0 + lease, {1, 7, one, {}});
  CHECK(find<act::silent>(f.on_tick(t0 + lease + milliseconds(1))));
  // It is heard, but that is not what is missing.
  CHECK(f.on_pong(t0 + 2 * lease, {1, 7, one, {}}).empty());
  CHECK(f.on_hello(t0 + 2 * lease, hello(one)).empty());
  CHECK(f.on_tick(t0 + 2 * lease).empty());
  CHECK_FALSE(f.deadline(t0 + 2 * lease));
  const auto back = f.on_reached(t0 + 2 * lease, a1);
  REQUIRE(find<act::admit>(back));
  CHECK(rec().where == standing::attaching);
  CHECK(f.on_reached(t0 + 2 * lease, a1).empty());
  CHECK(f.on_reached(t0 + 2 * lease, a2).empty());
}

TEST_CASE_METHOD(fixture, "supervision: a life that not all ranks reach yet waits for them") {
  CHECK(f.on_hello(t0, hello(one), true).empty());
  CHECK(rec().where == standing::quarantined);
  CHECK(rec().reason == errc::unreachable);
  const auto lease = milliseconds(s.receiver.lease_ms);
  CHECK(f.deadline(t0) == t0 + lease + milliseconds(1));
  CHECK(f.on_tick(t0 + lease).empty());
  CHECK(find<act::admit>(f.on_reached(t0, a1)));
  // One that failed for good is not brought back by that.
  s.supervision.attempts_max = 1;
  supervision_fsm strict(s);
  strict.on_hello(t0, hello(one));
  strict.on_not_admitted(t0, a1, errc::wrong_layout, {});
  strict.on_not_admitted(t0, a1, errc::wrong_layout, {});
  REQUIRE(strict.records().at(7).where == standing::gave_up);
  CHECK(strict.on_parted(t0, a1).empty());
  CHECK(strict.on_reached(t0, a1).empty());
  CHECK(strict.records().at(7).where == standing::gave_up);
}

TEST_CASE_METHOD(fixture, "supervision: who failed and is parted keeps its wait") {
  member();
  f.on_evicted(t0, a1, errc::wrong_base, {});
  f.on_not_admitted(t0, a1, errc::wrong_base, {});
  const auto next = rec().next_try;
  REQUIRE(next > t0);
  CHECK(f.on_parted(t0, a1).empty());
  CHECK(f.on_tick(next).empty());
  CHECK(f.on_reached(t0, a1).empty());
  CHECK(find<act::admit>(f.on_tick(next)));
}

TEST_CASE_METHOD(fixture, "supervision: who was lost and is heard again waits for the ranks too") {
  member();
  f.on_down(t0, a1, false);
  CHECK(f.on_parted(t0, a1).empty());
  CHECK(f.on_pong(t0, {1, 7, one, {}}).empty());
  CHECK(rec().reason == errc::unreachable);
  CHECK(find<act::admit>(f.on_reached(t0, a1)));
}

TEST_CASE_METHOD(fixture, "supervision: a life that came back is not taken for a superseded one") {
  member();
  f.on_hello(t0, hello(two));
  const auto later = t0 + milliseconds(s.receiver.lease_ms + 1);
  REQUIRE(find<act::admit>(f.on_hello(later, hello(one))));
  f.on_down(later, a1, false);
  CHECK(find<act::admit>(f.on_hello(later, hello(one))));
}

TEST_CASE_METHOD(fixture,
                 "supervision: a new life has not failed to answer, whatever the old did") {
  member();
  f.on_evicted(t0, a1, errc::timeout, {});
  REQUIRE(find<act::admit>(f.on_hello(t0, hello(two))));
  const auto out = f.on_new_run(t0);
  REQUIRE(find<act::admit>(out));
  CHECK(find<act::admit>(out)->who == a2);
}

TEST_CASE_METHOD(fixture,
                 "supervision: a new life is waited for, though the old was not any more") {
  const auto lease = milliseconds(s.receiver.lease_ms + 1);
  member();
  f.on_evicted(t0, a1, errc::timeout, {});
  REQUIRE(find<act::silent>(f.on_tick(t0 + lease)));
  f.on_hello(t0 + lease, hello(two));
  f.on_admitted(t0 + lease, a2, admission::attached);
  f.on_evicted(t0 + lease, a2, errc::timeout, {});
  CHECK(f.deadline(t0 + lease) == t0 + 2 * lease);
  CHECK(find<act::silent>(f.on_tick(t0 + 2 * lease)));
}

TEST_CASE_METHOD(fixture, "supervision: who is reached again is waited for again") {
  const auto lease = milliseconds(s.receiver.lease_ms + 1);
  member();
  f.on_parted(t0, a1);
  const auto then = t0 + lease;
  f.on_pong(then, {1, 7, one, {}});
  REQUIRE(find<act::silent>(f.on_tick(then)));
  REQUIRE(find<act::admit>(f.on_reached(then, a1)));
  f.on_admitted(then, a1, admission::attached);
  f.on_evicted(then, a1, errc::timeout, {});
  CHECK(f.on_tick(then + lease - milliseconds(1)).empty());
  CHECK(find<act::silent>(f.on_tick(then + lease)));
}

TEST_CASE_METHOD(fixture, "supervision: who is parted while it is admitted is out as well") {
  f.on_hello(t0, hello(one));
  CHECK(f.on_parted(t0, a2).empty());  // another life
  const auto out = f.on_parted(t0, a1);
  REQUIRE(find<act::down>(out));
  CHECK(find<act::down>(out)->who == a1);
  CHECK(rec().where == standing::quarantined);
}

TEST_CASE_METHOD(fixture, "supervision: who is parted was not heard for longer still, perhaps") {
  const auto lease = milliseconds(s.receiver.lease_ms + 1);
  member();
  f.on_parted(t0 + lease / 2, a1);
  CHECK(f.deadline(t0 + lease / 2) == t0 + lease);
  CHECK(find<act::silent>(f.on_tick(t0 + lease)));
}

TEST_CASE_METHOD(fixture,
                 "supervision: who is reached is tried at once, whatever the life before") {
  member();
  f.on_evicted(t0, a1, errc::wrong_base, {});
  f.on_not_admitted(t0, a1, errc::wrong_base, {});
  REQUIRE(rec().next_try > t0);
  f.on_hello(t0, hello(two));
  f.on_parted(t0, a2);
  CHECK(find<act::admit>(f.on_reached(t0, a2)));
}

TEST_CASE("supervision: the first try follows at once, however long the back-off") {
  settings s;
  s.supervision.backoff_ms = 101;
  supervision_fsm f(s);
  f.on_hello(t0, hello(one));
  CHECK(find<act::admit>(f.on_not_admitted(t0, a1, errc::wrong_base, {})));
}
