// Who is behind is brought up by what has changed since what it holds: what each machine does for
// it, and when it does not.
#include <algorithm>
#include <catch2/catch.hpp>

#include "protocol/deadlines.hpp"
#include "protocol/receiver_fsm.hpp"
#include "protocol/sync_fsm.hpp"

using namespace lockstep;
using std::chrono::milliseconds;
namespace act = receiver_action;
namespace sact = sync_action;

namespace {

const hash128 layout{3, 3};
const incarnation me{5, 5};
const digest d0{10, 10}, d1{20, 20}, other{66, 66}, proof{7, 7};
const time_point t0 = time_point{} + milliseconds(1000);
const bucket_info bucket{100, {1, 2}};

template <class T, class List>
const T* find(const List& l) {
  for (const auto& x : l)
    if (const auto* t = std::get_if<T>(&x)) return t;
  return nullptr;
}

template <class T, class List>
std::size_t count(const List& l) {
  return static_cast<std::size_t>(std::count_if(
      l.begin(), l.end(), [](const auto& x) { return std::holds_alternative<T>(x); }));
}

const reply_msg& reply(const act::list& l) {
  const auto* r = find<act::reply>(l);
  REQUIRE(r);
  return r->message;
}

/// A receiver that serves {1, 0} with digest d0, in a fleet that stands at {1, 4} with digest d1.
struct receiver {
  settings s;
  receiver_fsm f{{9, 7, me, layout, 1000}, s};

  static envelope env(std::uint64_t seq, std::uint64_t run = 1) { return {9, {run, seq}, me}; }
  static target_info at(std::uint64_t number, digest d) { return {{1, number}, d, 42}; }
  static manifest two_buckets() { return {layout, 200, 10, {bucket, bucket}}; }

  void serve() {
    f.on_attach(t0, {env(1), at(0, d0), layout, 1});
    f.on_digest({1, 1}, d0, proof);
    REQUIRE(f.state().ready);
  }
  /// Answers that it holds `held`.
  reply_msg fall_behind(digest held = d0) {
    f.on_attach(t0, {env(5), at(4, d1), layout, 1});
    return reply(f.on_digest({1, 5}, held, other));
  }
  full_begin_msg begin(std::uint64_t seq = 6, std::uint64_t run = 1) {
    return {env(seq, run), at(4, d1), two_buckets(), 8, true};
  }
  act::list put(std::uint32_t index, std::uint64_t seq = 6) {
    return f.on_bucket(t0, env(seq), index, bucket.bytes, bucket.hash);
  }
  act::list arrive() {
    put(0);
    return put(1);
  }
  /// All is there and is being proven.
  void stage() {
    serve();
    fall_behind();
    REQUIRE(f.on_full_begin(t0, begin()).empty());
    REQUIRE(find<act::verify_slot>(arrive()));
  }
};

const participant a{1, {1, 1}}, b{2, {2, 2}}, c{3, {3, 3}};

struct sender {
  settings s;
  sync_fsm f{9, 1, d0, 0, 1000, s};
  std::uint64_t seq = 0;

  static outcome behind(const participant& p, digest held) {
    return {p, terminal::no, errc::behind, {}, held};
  }
  static outcome said(const participant& p, terminal status, errc reason = errc::none) {
    return {p, status, reason, {}};
  }
  sact::list round(round_kind kind, std::vector<outcome> o) {
    return f.on_round(t0, {{1, seq}, 0, kind, std::move(o)});
  }
  sact::list attach(const std::vector<outcome>& o) {
    f.on_admit(t0, o[0].who);
    f.on_proof(t0, {1, ++seq}, 5, proof);
    return round(round_kind::attach, o);
  }
  /// `o`, all of one admission: a sync is encoded while they come.
  sact::list together(const std::vector<outcome>& o) {
    f.on_sync(t0, 1);
    for (const auto& x : o) f.on_admit(t0, x.who);
    f.on_encode_failed(t0, {1, ++seq}, errc::bad_input, {});
    f.on_proof(t0, {1, ++seq}, 5, proof);
    return round(round_kind::attach, o);
  }
  sact::list encoded(const std::vector<digest>& known, std::uint64_t bytes = 100) {
    return f.on_full_encoded(t0, {1, ++seq}, bytes, 6, proof, known);
  }
};

using who = std::vector<participant>;

}  // namespace

// --- the receiver -------------------------------------------------------------------------------

TEST_CASE_METHOD(receiver, "catch-up: who is behind says what it holds") {
  serve();
  const auto said = fall_behind();
  CHECK(said.kind == reply_kind::need_full);
  CHECK(said.reason == errc::behind);
  CHECK(said.proof == d0);
}

TEST_CASE_METHOD(receiver, "catch-up: proven while the old version is served, then written") {
  serve();
  fall_behind();
  CHECK(f.on_full_begin(t0, begin()).empty());
  CHECK(f.state().phase == receiver_phase::serving);
  CHECK(f.state().version == version_ref{1, 0});
  CHECK(find<act::keep_bucket>(put(0)));
  const auto there = put(1);
  REQUIRE(find<act::verify_slot>(there));
  CHECK(find<act::verify_slot>(there)->base == d0);
  CHECK(find<act::verify_slot>(there)->target == d1);
  const auto proven = f.on_verified({1, 6}, errc::none, {});
  CHECK(f.state().phase == receiver_phase::applying);
  CHECK(find<act::pause>(proven));
  REQUIRE(find<act::apply_slot>(proven));
  CHECK(find<act::apply_slot>(proven)->challenge == 8);
  const auto done = f.on_applied({1, 6}, d1, proof);
  CHECK(reply(done).kind == reply_kind::full_ok);
  CHECK(reply(done).proof == proof);
  CHECK(reply(done).round == 0);
  CHECK(f.state().ready);
  CHECK(f.state().version == version_ref{1, 4});
}

TEST_CASE_METHOD(receiver, "catch-up: an empty receiver over old bytes takes it too") {
  fall_behind(other);
  CHECK(f.on_full_begin(t0, begin()).empty());
  CHECK(find<act::verify_slot>(arrive())->base == other);
  f.on_verified({1, 6}, errc::none, {});
  CHECK(reply(f.on_applied({1, 6}, d1, proof)).kind == reply_kind::full_ok);
}

TEST_CASE_METHOD(receiver, "catch-up: refused by who has not just said what it holds") {
  serve();
  std::uint64_t seq = 6;
  SECTION("attached") {}
  SECTION("obeyed another since") {
    fall_behind();
    f.on_prepare(t0, {env(6), {1, 0}, d0, at(6, d1), two_buckets()});
    seq = 7;
  }
  SECTION("of another layout") {
    CHECK(reply(f.on_attach(t0, {env(5), at(4, d1), {4, 4}, 1})).kind == reply_kind::need_full);
  }
  SECTION("still digesting") {
    f.on_attach(t0, {env(5), at(4, d1), layout, 1});
  }
  const auto l = f.on_full_begin(t0, begin(seq));
  CHECK(reply(l).kind == reply_kind::full_fail);
  CHECK(reply(l).reason == errc::wrong_base);
  CHECK_FALSE(find<act::pause>(l));
  CHECK(f.state().phase == receiver_phase::serving);
  CHECK_FALSE(f.summarize().slot);
  CHECK(f.on_digest({1, 5}, d0, proof).empty());  // its fence is past that
  // And again, as it was answered.
  CHECK(reply(f.on_full_begin(t0, begin(seq))).reason == errc::wrong_base);
}

TEST_CASE_METHOD(receiver, "catch-up: whoever is writing is torn by one, and says so") {
  stage();
  f.on_verified({1, 6}, errc::none, {});
  REQUIRE(f.state().phase == receiver_phase::applying);
  const auto l = f.on_full_begin(t0, begin(7));
  CHECK(reply(l).reason == errc::wrong_base);
  CHECK(find<act::drop_slot>(l));
  REQUIRE(find<act::publish>(l));
  CHECK(find<act::publish>(l)->state.phase == receiver_phase::torn);
}

TEST_CASE_METHOD(receiver, "catch-up: of another run than was attached in, ignored") {
  serve();
  fall_behind();
  CHECK(f.on_full_begin(t0, begin(1, 2)).empty());
  CHECK(f.ignored() == 1);
  CHECK(f.on_full_begin(t0, begin()).empty());  // the one that it was attached in goes on
  CHECK(f.summarize().slot);
}

TEST_CASE_METHOD(receiver, "catch-up: what does not lead to the target changes nothing") {
  stage();
  const auto l = f.on_verified({1, 6}, errc::wrong_target, "no");
  CHECK(reply(l).kind == reply_kind::full_fail);
  CHECK(reply(l).reason == errc::wrong_target);
  CHECK(find<act::drop_slot>(l));
  CHECK_FALSE(find<act::apply_slot>(l));
  CHECK(f.state().phase == receiver_phase::serving);
  CHECK(f.state().version == version_ref{1, 0});
}

TEST_CASE_METHOD(receiver, "catch-up: bytes that are not what was said have rotted") {
  stage();
  const auto l = f.on_verified({1, 6}, errc::wrong_base, "no");
  CHECK(reply(l).kind == reply_kind::full_fail);
  CHECK(f.state().phase == receiver_phase::torn);
  CHECK_FALSE(f.state().version);
}

TEST_CASE_METHOD(receiver, "catch-up: a bucket that was not announced ends it unwritten") {
  serve();
  fall_behind();
  f.on_full_begin(t0, begin());
  const auto l = f.on_bucket(t0, env(6), 0, 99, bucket.hash);
  CHECK(reply(l).kind == reply_kind::full_fail);
  CHECK(reply(l).reason == errc::bad_checksum);
  CHECK(f.state().phase == receiver_phase::serving);
}

TEST_CASE_METHOD(receiver, "catch-up: one that stops arriving is forgotten, and its tag stands") {
  s.sync.link_bytes_per_s = 100;  // so that reading all weights takes a second
  f = receiver_fsm({9, 7, me, layout, 1000}, s);
  serve();
  fall_behind();
  f.on_full_begin(t0, begin());
  put(0);
  REQUIRE(scan_time(s, 1000) == std::chrono::seconds(1));
  const auto late = t0 + 2 * (full_timeout(s, 200) + scan_time(s, 1000));
  f.on_tick(late - milliseconds(1));
  CHECK(f.summarize().slot);
  CHECK(find<act::drop_slot>(f.on_tick(late)));
  CHECK(f.state().phase == receiver_phase::serving);
}

TEST_CASE_METHOD(receiver, "catch-up: torn by a write that fails") {
  stage();
  f.on_verified({1, 6}, errc::none, {});
  SECTION("said so") {
    CHECK(reply(f.on_write_failed({1, 6}, errc::apply_failed, "half")).kind ==
          reply_kind::full_fail);
  }
  SECTION("found so") {
    CHECK(reply(f.on_applied({1, 6}, other, proof)).reason == errc::wrong_target);
  }
  CHECK(f.state().phase == receiver_phase::torn);
}

TEST_CASE_METHOD(receiver, "catch-up: bound by what may be staged, and by the layout") {
  serve();
  fall_behind();
  auto m = begin();
  SECTION("too much") {
    s.receiver.staged_bytes_max = 199;
    f = receiver_fsm({9, 7, me, layout, 1000}, s);
    serve();
    fall_behind();
    CHECK(reply(f.on_full_begin(t0, m)).reason == errc::no_memory);
  }
  SECTION("another layout, though the digests be equal") {
    m.content.layout = {4, 4};
    CHECK(reply(f.on_full_begin(t0, m)).reason == errc::wrong_layout);
  }
  CHECK(f.state().phase == receiver_phase::serving);
}

TEST_CASE_METHOD(receiver, "catch-up: commit, abort and redo of its number change nothing") {
  stage();
  CHECK(f.on_commit(t0, {env(6), d1, 5, 1}).empty());
  CHECK(f.on_abort(t0, {env(6)}).empty());
  CHECK(f.on_redo(t0, {env(6), {{1, 6}, d1, 1}, two_buckets(), 5, 2}).empty());
  CHECK(find<act::apply_slot>(f.on_verified({1, 6}, errc::none, {})));
}

TEST_CASE_METHOD(receiver, "catch-up: nothing at all may be what is missing") {
  serve();
  fall_behind();
  auto m = begin();
  m.content = {layout, 0, 0, {}};
  CHECK(find<act::verify_slot>(f.on_full_begin(t0, m)));
}

// --- the join -----------------------------------------------------------------------------------

TEST_CASE("catch-up: the join hands on what is held") {
  join_fsm j;
  j.on_open({9, {1, 5}, 0, round_kind::attach, {a}, proof, t0});
  const auto r =
      j.on_reply({{9, {1, 5}, a.inc}, a.id, 0, reply_kind::need_full, errc::behind, {}, d0});
  REQUIRE(r);
  CHECK(r->outcomes[0].status == terminal::no);
  CHECK(r->outcomes[0].held == d0);
}

// --- the sender ---------------------------------------------------------------------------------

TEST_CASE_METHOD(sender, "catch-up: who holds what is remembered is sent what has changed") {
  constexpr std::uint64_t model = 1'000'000'000;
  f = sync_fsm(9, 1, d0, 0, model, s);
  const auto l = attach({behind(a, d1)});
  REQUIRE(find<sact::encode_full>(l));
  CHECK(find<sact::encode_full>(l)->held == std::vector<digest>{d1});
  const auto shipped = encoded({d1});
  CHECK(find<sact::ship_full>(shipped)->catch_up);
  CHECK(find<sact::ship_full>(shipped)->who == who{a});
  CHECK(find<sact::open_round>(shipped)->spec.deadline ==
        t0 + full_timeout(s, 100) + scan_time(s, model));
  const auto done = round(round_kind::full, {said(a, terminal::ok)});
  CHECK(find<sact::release>(done));
  CHECK(find<sact::admitted>(done)->how == admission::caught_up);
  CHECK(f.is_member(a));
  CHECK(f.phase() == sync_phase::idle);
}

TEST_CASE_METHOD(sender, "catch-up: who holds something else is given all weights") {
  attach({behind(a, d1)});
  const auto shipped = encoded({});
  CHECK_FALSE(find<sact::ship_full>(shipped)->catch_up);
  SECTION("and proves them") {
    const auto done = round(round_kind::full, {said(a, terminal::ok)});
    CHECK(find<sact::admitted>(done)->how == admission::reseeded);
  }
  SECTION("and is not given them again at once") {
    const auto done = round(round_kind::full, {said(a, terminal::nack, errc::apply_failed)});
    CHECK(find<sact::not_admitted>(done)->reason == errc::apply_failed);
    CHECK(f.phase() == sync_phase::idle);
  }
}

TEST_CASE_METHOD(sender, "catch-up: one broadcast of what has changed, then one of all weights") {
  const auto l = together({behind(a, d1), behind(b, other), behind(c, d1)});
  REQUIRE(find<sact::encode_full>(l));
  CHECK(find<sact::encode_full>(l)->held.size() == 3);
  CHECK(find<sact::ship_full>(encoded({d1}))->who == who{a, c});
  const auto then = round(round_kind::full, {said(a, terminal::ok), said(c, terminal::ok)});
  CHECK(count<sact::admitted>(then) == 2);
  REQUIRE(find<sact::encode_full>(then));
  CHECK(find<sact::encode_full>(then)->txn.seq == seq + 1);
  CHECK(find<sact::encode_full>(then)->held.empty());
  const auto shipped = encoded({}, 1000);
  CHECK(find<sact::ship_full>(shipped)->who == who{b});
  CHECK_FALSE(find<sact::ship_full>(shipped)->catch_up);
  const auto done = round(round_kind::full, {said(b, terminal::ok)});
  CHECK(find<sact::admitted>(done)->how == admission::reseeded);
  CHECK_FALSE(find<sact::encode_full>(done));
  CHECK(f.members().size() == 3);
}

TEST_CASE_METHOD(sender, "catch-up: whom it did not help is given all weights at once") {
  attach({behind(a, d1)});
  encoded({d1});
  const auto l = round(round_kind::full, {said(a, terminal::nack, errc::wrong_target)});
  CHECK_FALSE(find<sact::not_admitted>(l));
  REQUIRE(find<sact::encode_full>(l));
  CHECK(find<sact::encode_full>(l)->held.empty());
  CHECK(find<sact::ship_full>(encoded({}))->who == who{a});
}

TEST_CASE_METHOD(sender, "catch-up: who fell silent or lied is given all weights next time") {
  const auto how =
      GENERATE(said(a, terminal::timeout, errc::timeout), said(a, terminal::nack, errc::false_ack),
               said(a, terminal::dead, errc::dead));
  attach({behind(a, d1)});
  encoded({d1});
  const auto l = round(round_kind::full, {how});
  CHECK(find<sact::not_admitted>(l)->reason == how.reason);
  CHECK_FALSE(find<sact::encode_full>(l));
  CHECK(find<sact::encode_full>(attach({behind(a, d1)}))->held.empty());
  encoded({});
  round(round_kind::full, {said(a, terminal::ok)});
  // That made it as good as any.
  f.on_down(t0, a, errc::dead);
  CHECK(find<sact::encode_full>(attach({behind(a, d1)}))->held.size() == 1);
}

TEST_CASE_METHOD(sender, "catch-up: whoever failed in it has no share in the others'") {
  attach({behind(a, d1)});
  encoded({d1});
  round(round_kind::full, {said(a, terminal::timeout, errc::timeout)});
  const auto l = together({behind(a, d1), behind(b, d1)});
  CHECK(find<sact::encode_full>(l)->held.size() == 1);
  CHECK(find<sact::ship_full>(encoded({d1}))->who == who{b});
  round(round_kind::full, {said(b, terminal::ok)});
  CHECK(find<sact::ship_full>(encoded({}))->who == who{a});
}

TEST_CASE_METHOD(sender, "catch-up: who ends meanwhile is waited for no more") {
  together({behind(a, d1), behind(b, other)});
  encoded({d1});
  SECTION("the one that catches up") {
    CHECK(find<sact::mark_down>(f.on_down(t0, a, errc::dead)));
    const auto l = round(round_kind::full, {said(a, terminal::nack, errc::wrong_base)});
    CHECK(find<sact::not_admitted>(l)->who == a);
    CHECK(find<sact::ship_full>(encoded({}))->who == who{b});
  }
  SECTION("the one that had caught up") {
    f.on_down(t0, a, errc::dead);
    const auto l = round(round_kind::full, {said(a, terminal::ok)});
    CHECK(find<sact::not_admitted>(l)->who == a);
    CHECK(find<sact::not_admitted>(l)->reason == errc::dead);
    CHECK_FALSE(f.is_member(a));
  }
  SECTION("the one that is to follow") {
    f.on_down(t0, b, errc::dead);
    const auto l = round(round_kind::full, {said(a, terminal::ok)});
    CHECK(find<sact::not_admitted>(l)->who == b);
    CHECK_FALSE(find<sact::encode_full>(l));
    CHECK(f.phase() == sync_phase::idle);
  }
}

TEST_CASE_METHOD(sender, "catch-up: reseed = all gives all weights to all") {
  s.sync.reseed = reseed_scope::all;
  f = sync_fsm(9, 1, d0, 0, 1000, s);
  attach({said(b, terminal::ok)});
  const auto l = attach({behind(a, d1)});
  CHECK(find<sact::encode_full>(l)->held.empty());
  CHECK(find<sact::ship_full>(encoded({}))->who == who{a, b});
}

TEST_CASE_METHOD(sender, "catch-up: the report counts it apart") {
  attach({said(a, terminal::ok)});
  attach({said(b, terminal::ok)});
  f.on_sync(t0, 1);
  f.on_encoded(t0, {1, ++seq}, 100, d1);
  f.on_delta_proven(t0, {1, seq}, 6, proof);
  round(round_kind::vote, {said(a, terminal::ok), said(b, terminal::timeout, errc::timeout)});
  f.on_round(t0, {{1, seq}, 1, round_kind::commit, {said(a, terminal::ok)}});
  f.on_advanced(t0, {1, seq});
  attach({behind(b, d0)});
  encoded({d0});
  const auto l = round(round_kind::full, {said(b, terminal::ok)});
  REQUIRE(find<sact::finish>(l));
  const auto& r = find<sact::finish>(l)->report;
  CHECK(r.result == sync_result::recovered);
  CHECK(r.participants[1].catch_ups == 1);
  CHECK(r.participants[1].reseeds == 0);
}

TEST_CASE_METHOD(sender,
                 "catch-up: counted on is who is a member, or may become one, in this life") {
  const participant again{1, {9, 9}};
  CHECK_FALSE(f.counts_on(a));
  SECTION("a member") {
    attach({said(a, terminal::ok)});
    attach({said(b, terminal::ok)});  // the view is another's now
    REQUIRE(f.is_member(a));
    CHECK(f.counts_on(a));
  }
  SECTION("waits to be asked") {
    f.on_sync(t0, 1);
    f.on_admit(t0, a);
    CHECK(f.counts_on(a));
  }
  SECTION("is being asked") {
    f.on_admit(t0, a);
    CHECK(f.counts_on(a));
    CHECK_FALSE(f.is_member(a));
  }
  SECTION("is behind, while others are caught up") {
    together({behind(a, d0), behind(b, d1)});
    encoded({d1});
    CHECK(f.counts_on(a));
    CHECK(f.counts_on(b));
  }
  CHECK_FALSE(f.counts_on(again));
  CHECK_FALSE(f.counts_on(c));
}
