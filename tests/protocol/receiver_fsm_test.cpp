#include "protocol/receiver_fsm.hpp"

#include <algorithm>
#include <array>
#include <catch2/catch.hpp>

#include "protocol/deadlines.hpp"

using namespace lockstep;
using std::chrono::milliseconds;
namespace act = receiver_action;

namespace {

const hash128 layout{3, 3};
const incarnation me{5, 5};
const digest d0{10, 10}, d1{20, 20}, bad{66, 66}, proof{7, 7};
const time_point t0 = time_point{} + milliseconds(1000);
const bucket_info bucket{100, {1, 2}};

target_info at(std::uint64_t number, digest d, std::uint64_t run = 1) {
  return {{run, number}, d, 42};
}

manifest two_buckets() {
  return {layout, 200, 10, {bucket, bucket}};
}

template <class T>
const T* find(const act::list& l) {
  for (const auto& x : l)
    if (const auto* t = std::get_if<T>(&x)) return t;
  return nullptr;
}

const reply_msg& reply(const act::list& l) {
  const auto* r = find<act::reply>(l);
  REQUIRE(r);
  return r->message;
}

struct fixture {
  settings s;
  receiver_fsm f{{9, 7, me, layout, 1000}, s};

  static envelope env(std::uint64_t seq, std::uint64_t run = 1) { return {9, {run, seq}, me}; }
  act::list attach(std::uint64_t seq, target_info t, std::uint64_t run = 1) {
    return f.on_attach(t0, {env(seq, run), t, layout, 1});
  }
  /// Serves {1, 0}.
  void serve() {
    REQUIRE(find<act::compute_digest>(attach(1, at(0, d0))));
    CHECK(reply(f.on_digest({1, 1}, d0, proof)).kind == reply_kind::attached);
    REQUIRE(f.state().ready);
  }
  prepare_msg delta(std::uint64_t seq = 2) {
    return {env(seq), {1, 0}, d0, at(seq, d1), two_buckets()};
  }
  act::list put(std::uint32_t index, std::uint64_t seq = 2) {
    return f.on_bucket(t0, env(seq), index, bucket.bytes, bucket.hash);
  }
  void stage() {
    serve();
    CHECK(f.on_prepare(t0, delta()).empty());
    CHECK(find<act::keep_bucket>(put(0)));
    CHECK(find<act::verify_slot>(put(1)));
  }
  void vote() {
    stage();
    CHECK(reply(f.on_verified({1, 2}, errc::none, {})).kind == reply_kind::vote_yes);
  }
  act::list commit(std::uint64_t seq = 2, digest target = d1, std::uint32_t round = 1) {
    return f.on_commit(t0, {env(seq), target, 5, round});
  }
  void apply() {
    vote();
    REQUIRE(find<act::apply_slot>(commit()));
    CHECK_FALSE(f.state().ready);
    CHECK_FALSE(f.state().version);
  }
  void tear() {
    apply();
    const auto r = f.on_write_failed({1, 2}, errc::apply_failed, "half");
    CHECK(reply(r).kind == reply_kind::nack);
    CHECK(f.state().phase == receiver_phase::torn);
  }
  redo_msg redo(std::uint32_t round = 2) { return {env(2), at(2, d1), two_buckets(), 5, round}; }
  full_begin_msg full(std::uint64_t seq = 3) { return {env(seq), at(0, d0), two_buckets(), 5}; }
};

}  // namespace

TEST_CASE_METHOD(fixture, "receiver: a fresh life serves nothing") {
  CHECK_FALSE(f.state().ready);
  CHECK(f.state().phase == receiver_phase::empty);
  CHECK_FALSE(f.deadline());
  CHECK(f.trusted_until() == time_point::max());
  CHECK(f.on_prepare(t0, delta()).empty());  // not attached in this run
}

TEST_CASE_METHOD(fixture, "receiver: what is announced is known as long as it is under way") {
  CHECK(f.announced().empty());
  serve();
  CHECK(f.announced().empty());
  f.on_prepare(t0, delta());
  CHECK(std::ranges::equal(f.announced(), delta().content.buckets));
  f.on_abort(t0, {env(2)});
  CHECK(f.announced().empty());
}

TEST_CASE_METHOD(fixture, "receiver: strangers, other lives and no transaction are ignored") {
  serve();
  auto m = attach_msg{env(9), at(0, d0), layout, 1};
  const auto before = f.ignored();
  SECTION("cluster") {
    m.env.cluster = 8;
  }
  SECTION("incarnation") {
    m.env.inc = {5, 6};
  }
  SECTION("older run") {
    m.env.txn.run = 0;
  }
  SECTION("older transaction") {
    m.env.txn.seq = 0;
  }
  CHECK(f.on_attach(t0, m).empty());
  CHECK(f.ignored() == before + 1);
  receiver_fsm fresh({9, 7, me, layout, 1000}, s);
  CHECK(fresh.on_attach(t0, {{9, {0, 5}, me}, at(0, d0, 0), layout, 1}).empty());
}

TEST_CASE_METHOD(fixture, "receiver: a high number does not carry an older run over the fence") {
  attach(1, at(0, d0, 2), 2);
  f.on_digest({2, 1}, d0, proof);
  CHECK(attach(9, at(0, d1, 1), 1).empty());
  CHECK(f.on_prepare(t0, delta(9)).empty());
  CHECK(f.on_full_begin(t0, full(9)).empty());
  CHECK(f.state().ready);
}

TEST_CASE_METHOD(fixture, "receiver: another's words about our own transaction are ignored") {
  const auto bad_env = GENERATE(envelope{8, {1, 2}, me}, envelope{9, {1, 2}, {5, 6}});
  SECTION("abort") {
    vote();
    CHECK(f.on_abort(t0, {bad_env}).empty());
    CHECK(find<act::apply_slot>(commit()));
  }
  SECTION("redo") {
    tear();
    auto m = redo();
    m.env = bad_env;
    f.on_redo(t0, m);
    CHECK(put(0).empty());
  }
  SECTION("a question that was answered") {
    vote();
    auto m = delta();
    m.env = bad_env;
    CHECK(f.on_prepare(t0, m).empty());
  }
}

TEST_CASE_METHOD(fixture, "receiver: an attach proves by digest and adopts") {
  const auto actions = attach(1, at(0, d0));
  REQUIRE(find<act::compute_digest>(actions));
  CHECK(find<act::compute_digest>(actions)->challenge == 1);
  CHECK(f.on_digest({1, 9}, d0, proof).empty());  // of another transaction
  const auto r = f.on_digest({1, 1}, d0, proof);
  CHECK(reply(r).proof == proof);
  CHECK(find<act::publish>(r)->state.ready);
  CHECK_FALSE(find<act::resume>(r));  // the engine has not been stopped
  CHECK(f.state().label == 42);
  CHECK(f.on_digest({1, 1}, d0, proof).empty());
  CHECK(reply(attach(1, at(0, d0))).kind == reply_kind::attached);  // a duplicate is answered again
}

TEST_CASE_METHOD(fixture, "receiver: an attach to other bytes asks for all of them") {
  attach(1, at(0, d0));
  CHECK(reply(f.on_digest({1, 1}, d1, proof)).kind == reply_kind::need_full);
  CHECK_FALSE(f.state().ready);
  CHECK(f.state().phase == receiver_phase::empty);  // it was told of no bytes: none are torn
  attach(2, at(0, d1));
  f.on_digest({1, 2}, d1, proof);
  REQUIRE(f.state().ready);
  SECTION("behind in this run: tagged, not ready") {
    attach(3, at(2, d0));
    f.on_digest({1, 3}, d1, proof);
    CHECK(f.state().phase == receiver_phase::serving);
    CHECK(f.state().reason == errc::behind);
    CHECK_FALSE(f.state().ready);
  }
  SECTION("not even what the tag names: torn") {
    attach(3, at(2, d0));
    f.on_digest({1, 3}, bad, proof);
    CHECK(f.state().phase == receiver_phase::torn);
  }
  SECTION("of a run that is over: empty") {
    attach(1, at(0, d0, 2), 2);
    f.on_digest({2, 1}, d1, proof);
    CHECK(f.state().phase == receiver_phase::empty);
  }
}

TEST_CASE_METHOD(fixture, "receiver: another layout is never attached") {
  const auto r = f.on_attach(t0, {env(1), at(0, d0), {4, 4}, 1});
  CHECK(reply(r).reason == errc::wrong_layout);
  CHECK(f.on_digest({1, 1}, d0, proof).empty());
}

TEST_CASE_METHOD(fixture, "receiver: an attach raises the fences before it digests") {
  vote();
  const auto actions = attach(3, at(0, d0));
  CHECK(find<act::drop_slot>(actions));
  CHECK(commit().empty());  // of the transaction before
  CHECK(put(0).empty());
  CHECK(attach(3, at(0, d0)).empty());  // a duplicate, not answered yet: nothing to repeat
  f.on_digest({1, 3}, d0, proof);
  CHECK(commit().empty());
  attach(4, at(0, d0));
  f.on_prepare(t0, delta(5));
  CHECK(f.on_digest({1, 4}, d0, proof).empty());  // superseded
}

TEST_CASE_METHOD(fixture, "receiver: a delta is staged, voted on, applied and proven") {
  vote();
  CHECK(f.state().ready);  // serves the base until the decision
  const auto actions = commit();
  REQUIRE(actions.size() == 3);
  CHECK_FALSE(std::get<act::publish>(actions[0]).state.ready);
  CHECK(std::holds_alternative<act::pause>(actions[1]));
  CHECK(std::get<act::apply_slot>(actions[2]).challenge == 5);
  CHECK(commit().empty());  // a duplicate while it is written
  const auto done = f.on_applied({1, 2}, d1, proof);
  CHECK(find<act::drop_slot>(done));
  CHECK(find<act::resume>(done));
  CHECK(reply(done).kind == reply_kind::ack);
  CHECK(reply(done).round == 1);
  CHECK(f.state().version == version_ref{1, 2});
  CHECK(reply(commit()).kind == reply_kind::ack);   // and after
  CHECK(reply(f.on_redo(t0, redo(3))).round == 3);  // quotes who asks
  CHECK(f.on_applied({1, 2}, d1, proof).empty());
}

TEST_CASE_METHOD(fixture, "receiver: the base is proven before the vote, the engine stopped anew") {
  serve();
  f.on_prepare(t0, delta());
  CHECK_FALSE(find<act::verify_slot>(put(0)));  // not all is there
  const auto full_slot = put(1);
  REQUIRE(find<act::verify_slot>(full_slot));
  CHECK(find<act::verify_slot>(full_slot)->base == d0);
  CHECK(find<act::verify_slot>(full_slot)->target == d1);
  f.on_verified({1, 2}, errc::none, {});
  CHECK(find<act::pause>(commit()));
  f.on_applied({1, 2}, d1, proof);
  f.on_prepare(t0, {env(3), {1, 2}, d1, at(3, d0), two_buckets()});
  put(0, 3), put(1, 3);
  f.on_verified({1, 3}, errc::none, {});
  CHECK(find<act::pause>(commit(3, d0)));  // it was let go in between
}

TEST_CASE_METHOD(fixture, "receiver: what was promised, no later bucket takes back") {
  vote();
  const auto r = put(7);  // not announced
  CHECK(find<act::grant_credit>(r));
  CHECK(r.size() == 1);
  CHECK(find<act::apply_slot>(commit()));
}

TEST_CASE_METHOD(fixture,
                 "receiver: a commit of what never arrived is answered, whatever goes on") {
  act::list r;
  SECTION("a write") {
    apply();
    r = commit(3);
  }
  SECTION("a redo") {
    tear();
    f.on_redo(t0, redo());
    r = commit(3);
  }
  SECTION("nothing: a write has failed") {
    tear();
    r = commit(3);
  }
  SECTION("nothing: the version is said to be held") {
    attach(1, at(3, d0));
    f.on_digest({1, 1}, d0, proof);
    r = commit(3);
  }
  CHECK(reply(r).kind == reply_kind::nack);
  CHECK(reply(r).reason == errc::not_staged);
  CHECK(reply(r).env == env(3));
}

TEST_CASE_METHOD(fixture, "receiver: a delta is refused with its reason, and nothing is written") {
  serve();
  auto m = delta();
  auto why = errc::none;
  SECTION("base version") {
    m.base = {1, 1}, why = errc::wrong_base;
  }
  SECTION("base bytes") {
    m.base_state = d1, why = errc::wrong_base;
  }
  SECTION("borrowed name") {
    m.target.version = {1, 7}, why = errc::bad_manifest;
  }
  SECTION("layout") {
    m.content.layout = {1, 1}, why = errc::wrong_layout;
  }
  SECTION("sum") {
    m.content.bytes = 199, why = errc::bad_manifest;
  }
  SECTION("empty bucket") {
    m.content.buckets[0].bytes = 0, m.content.bytes = 100, why = errc::bad_manifest;
  }
  SECTION("bucket too large") {
    m.content.buckets[0].bytes = s.bucket.bytes_max + 1;
    m.content.bytes = s.bucket.bytes_max + 101, why = errc::bad_manifest;
  }
  const auto r = f.on_prepare(t0, m);
  CHECK(reply(r).kind == reply_kind::vote_no);
  CHECK(reply(r).reason == why);
  CHECK(put(0).empty());
  CHECK(f.state().ready);
  CHECK(reply(f.on_prepare(t0, m)).reason == why);
}

TEST_CASE("receiver: what is staged has a limit in bytes and in buckets") {
  settings s;
  s.receiver.staged_bytes_max = 199;
  s.receiver.buckets_max = 2;
  s.bucket.bytes_max = ~0ull;
  receiver_fsm f({9, 7, me, layout, 1000}, s);
  f.on_attach(t0, {fixture::env(1), at(0, d0), layout, 1});
  f.on_digest({1, 1}, d0, proof);
  prepare_msg m{fixture::env(2), {1, 0}, d0, at(2, d1), two_buckets()};
  CHECK(reply(f.on_prepare(t0, m)).reason == errc::no_memory);
  m.env = fixture::env(3), m.target = at(3, d1);
  m.content.buckets = {bucket, bucket, bucket}, m.content.bytes = 300;
  CHECK(reply(f.on_prepare(t0, m)).reason == errc::bad_manifest);
  m.env = fixture::env(4), m.target = at(4, d1);
  m.content.buckets = {{~0ull, {}}, {2, {}}}, m.content.bytes = 1;  // the sum wraps
  CHECK(reply(f.on_prepare(t0, m)).reason == errc::bad_manifest);
  full_begin_msg all{fixture::env(5), at(0, d0), two_buckets(), 5};
  all.content.buckets = {{full_bytes_limit(1000) + 1, {}}};
  all.content.bytes = full_bytes_limit(1000) + 1;
  CHECK(reply(f.on_full_begin(t0, all)).reason == errc::no_memory);
  CHECK(f.state().ready);
  // As much as may be is taken.
  m.env = fixture::env(6), m.target = at(6, d1);
  m.content.buckets = {{99, {}}, {100, {}}}, m.content.bytes = 199;
  CHECK(f.on_prepare(t0, m).empty());
  all.env = fixture::env(7), all.content.buckets[0].bytes = --all.content.bytes;
  CHECK(find<act::pause>(f.on_full_begin(t0, all)));
}

TEST_CASE_METHOD(fixture, "receiver: a delta of another run, or to who serves nothing") {
  attach(1, at(0, d0));
  f.on_digest({1, 1}, d1, proof);
  CHECK(reply(f.on_prepare(t0, delta())).reason == errc::not_serving);
  auto m = delta(9);
  m.env.txn.run = 2;
  CHECK(f.on_prepare(t0, m).empty());
}

TEST_CASE_METHOD(fixture, "receiver: buckets are those announced, each once") {
  serve();
  f.on_prepare(t0, delta());
  CHECK(f.on_bucket(t0, env(3), 0, bucket.bytes, bucket.hash).empty());
  const auto first = put(1);
  CHECK(find<act::grant_credit>(first)->index == 1);
  const auto again = put(1);
  CHECK(find<act::grant_credit>(again));
  CHECK_FALSE(find<act::keep_bucket>(again));
  CHECK_FALSE(find<act::verify_slot>(again));
  CHECK(f.on_verified({1, 2}, errc::none, {}).empty());  // not complete
  act::list refusal;
  SECTION("index") {
    refusal = put(2);
  }
  SECTION("hash") {
    refusal = f.on_bucket(t0, env(2), 0, bucket.bytes, {9, 9});
  }
  SECTION("size") {
    refusal = f.on_bucket(t0, env(2), 0, 99, bucket.hash);
  }
  CHECK(reply(refusal).kind == reply_kind::vote_no);
  CHECK(reply(refusal).reason == errc::bad_checksum);
  CHECK(find<act::drop_slot>(refusal));
  CHECK(put(0).empty());
  CHECK(f.state().ready);
}

TEST_CASE_METHOD(fixture, "receiver: a bad copy of a bucket that is there undoes nothing") {
  // It did: a vote was taken back by whatever came late and had gone bad on its way.
  const auto bad_copy = [&](std::uint32_t index, std::uint64_t seq = 2) {
    const auto r = f.on_bucket(t0, env(seq), index, 99, {9, 9});
    CHECK(find<act::grant_credit>(r));
    CHECK(r.size() == 1);
  };
  SECTION("before the vote") {
    stage();
    bad_copy(0);
    CHECK(reply(f.on_verified({1, 2}, errc::none, {})).kind == reply_kind::vote_yes);
  }
  SECTION("after the vote, and of no bucket at all") {
    vote();
    bad_copy(1);
    bad_copy(7);
    CHECK(find<act::apply_slot>(commit()));
  }
  SECTION("of a full") {
    serve();
    f.on_full_begin(t0, full());
    put(0, 3);
    bad_copy(0, 3);
    CHECK(f.state().phase == receiver_phase::reseeding);
  }
}

TEST_CASE_METHOD(fixture, "receiver: a failed check is a no; rotten bytes are not served on") {
  stage();
  CHECK(f.on_verified({1, 1}, errc::none, {}).empty());
  SECTION("bad frames") {
    CHECK(reply(f.on_verified({1, 2}, errc::bad_frame, "x")).reason == errc::bad_frame);
    CHECK(f.state().ready);
  }
  SECTION("wrong base") {
    CHECK(reply(f.on_verified({1, 2}, errc::wrong_base, "x")).kind == reply_kind::vote_no);
    CHECK(f.state().phase == receiver_phase::torn);
  }
  CHECK(reply(commit()).reason == errc::not_staged);
}

TEST_CASE_METHOD(fixture, "receiver: an empty delta needs no bucket") {
  serve();
  auto m = delta();
  m.content.buckets.clear(), m.content.bytes = 0;
  CHECK(find<act::verify_slot>(f.on_prepare(t0, m)));
}

TEST_CASE_METHOD(fixture, "receiver: only what was voted on is committed") {
  SECTION("before the check has ended") {
    stage();
    CHECK(reply(commit()).reason == errc::not_staged);
  }
  SECTION("towards another target") {
    vote();
    CHECK(reply(commit(2, bad)).reason == errc::not_staged);
  }
  SECTION("of a transaction that never arrived") {
    vote();
    const auto r = commit(3);
    CHECK(reply(r).reason == errc::not_staged);
    CHECK(reply(r).env.txn.seq == 3);
  }
  SECTION("of an older transaction or another run") {
    vote();
    CHECK(commit(1).empty());
    CHECK(f.on_commit(t0, {env(2, 2), d1, 5, 1}).empty());
    CHECK(f.on_commit(t0, {{8, {1, 2}, me}, d1, 5, 1}).empty());
    CHECK(f.on_commit(t0, {{9, {1, 2}, {}}, d1, 5, 1}).empty());
  }
  CHECK(f.state().ready);
  CHECK_FALSE(find<act::apply_slot>(f.on_verified({1, 2}, errc::none, {})));
}

TEST_CASE_METHOD(fixture, "receiver: an abort drops what is staged, of that delta only") {
  vote();
  CHECK(f.on_abort(t0, {env(1)}).empty());
  CHECK(find<act::drop_slot>(f.on_abort(t0, {env(2)})));
  CHECK(f.on_abort(t0, {env(2)}).empty());
  CHECK(f.state().ready);
  CHECK(reply(commit()).reason == errc::not_staged);
}

TEST_CASE_METHOD(fixture, "receiver: an abort stops neither a write nor a redo nor a full") {
  SECTION("write") {
    apply();
    CHECK(f.on_abort(t0, {env(2)}).empty());
    CHECK(f.state().phase == receiver_phase::applying);
  }
  SECTION("redo") {
    tear();
    f.on_redo(t0, redo());
    CHECK(f.on_abort(t0, {env(2)}).empty());
    CHECK(find<act::keep_bucket>(put(0)));
  }
  SECTION("full") {
    f.on_full_begin(t0, full());
    CHECK(f.on_abort(t0, {env(3)}).empty());
    CHECK(find<act::write_bucket>(put(0, 3)));
  }
}

TEST_CASE_METHOD(fixture, "receiver: writes that miss the target leave it torn") {
  apply();
  CHECK(f.on_applied({1, 9}, d1, proof).empty());
  const auto r = f.on_applied({1, 2}, bad, proof);
  CHECK(reply(r).reason == errc::wrong_target);
  CHECK(f.state().phase == receiver_phase::torn);
  CHECK_FALSE(find<act::resume>(r));
}

TEST_CASE_METHOD(fixture, "receiver: answers of an executor nobody asked are ignored") {
  serve();
  CHECK(f.on_verified({1, 1}, errc::none, {}).empty());
  CHECK(f.on_applied({1, 1}, d0, proof).empty());
  CHECK(f.on_write_failed({1, 1}, errc::apply_failed, {}).empty());
  CHECK(f.on_bucket_written({1, 1}, 0).empty());
  f.on_prepare(t0, delta());
  put(0), put(1);
  f.on_verified({1, 2}, errc::none, {});
  CHECK(f.on_applied({1, 2}, d1, proof).empty());
  CHECK(f.on_write_failed({1, 2}, errc::apply_failed, {}).empty());
  CHECK(f.on_verified({1, 2}, errc::bad_frame, {}).empty());
  CHECK(f.on_bucket_written({1, 2}, 0).empty());
  CHECK(f.state().ready);
  commit();
  CHECK(f.on_write_failed({1, 9}, errc::apply_failed, {}).empty());
  CHECK(f.state().phase == receiver_phase::applying);
}

TEST_CASE_METHOD(fixture, "receiver: a repeated commit after a failure names the real reason") {
  tear();
  CHECK(reply(commit()).reason == errc::apply_failed);
}

TEST_CASE_METHOD(fixture, "receiver: a redo heals a torn apply") {
  tear();
  CHECK(f.on_redo(t0, redo()).empty());
  CHECK(f.on_redo(t0, redo()).empty());  // a duplicate
  CHECK(commit().empty());               // of the round before
  put(0);
  CHECK(find<act::check_slot>(put(1)));
  const auto actions = f.on_verified({1, 2}, errc::none, {});
  CHECK(find<act::apply_slot>(actions));
  CHECK_FALSE(find<act::pause>(actions));  // the engine still stands still
  CHECK(f.on_verified({1, 2}, errc::bad_frame, {}).empty());
  const auto done = f.on_applied({1, 2}, d1, proof);
  CHECK(reply(done).round == 2);
  CHECK(reply(done).kind == reply_kind::ack);
  CHECK(find<act::resume>(done));
}

TEST_CASE_METHOD(fixture, "receiver: a redo takes the place of what was staged") {
  stage();
  REQUIRE(reply(commit()).reason == errc::not_staged);  // came before the check had ended
  auto m = redo();
  SECTION("with buckets") {
    CHECK(find<act::drop_slot>(f.on_redo(t0, m)));
    CHECK(find<act::keep_bucket>(put(0)));
    CHECK(find<act::check_slot>(put(1)));
  }
  SECTION("without") {
    m.content.buckets.clear(), m.content.bytes = 0;
    CHECK(find<act::check_slot>(f.on_redo(t0, m)));
  }
  f.on_verified({1, 2}, errc::none, {});
  CHECK(reply(f.on_applied({1, 2}, d1, proof)).round == 2);
  CHECK(put(0).empty());  // nothing is left that buckets could be of
}

TEST_CASE_METHOD(fixture, "receiver: a later round of a redo is answered as such") {
  tear();
  f.on_redo(t0, redo(2));
  f.on_redo(t0, redo(3));
  f.on_redo(t0, redo(2));
  put(0), put(1);
  f.on_verified({1, 2}, errc::none, {});
  CHECK(reply(f.on_applied({1, 2}, d1, proof)).round == 3);
}

TEST_CASE_METHOD(fixture, "receiver: a redo that is refused before it writes tears nothing") {
  vote();
  f.on_tick(t0 + 3 * stage_timeout(s, 200, 1000));  // what was staged has expired
  REQUIRE(reply(commit()).reason == errc::not_staged);
  auto m = redo();
  SECTION("manifest") {
    m.content.bytes = 1;
    CHECK(reply(f.on_redo(t0, m)).reason == errc::bad_manifest);
  }
  SECTION("name") {
    m.target.version = {1, 7};
    CHECK(reply(f.on_redo(t0, m)).reason == errc::bad_manifest);
  }
  SECTION("bucket") {
    f.on_redo(t0, m);
    CHECK(reply(put(5)).reason == errc::bad_checksum);
  }
  SECTION("frames") {
    f.on_redo(t0, m);
    put(0), put(1);
    CHECK(reply(f.on_verified({1, 2}, errc::bad_frame, {})).reason == errc::bad_frame);
  }
  CHECK(f.state().phase == receiver_phase::serving);
  CHECK(f.state().version == version_ref{1, 0});
}

TEST_CASE_METHOD(fixture, "receiver: a redo of another transaction, or to who is empty") {
  vote();
  auto m = redo();
  m.env = env(3);
  CHECK(f.on_redo(t0, m).empty());
  receiver_fsm fresh({9, 7, me, layout, 1000}, s);
  fresh.on_attach(t0, {env(2), at(0, d0), layout, 1});
  CHECK(fresh.on_redo(t0, redo()).empty());
  CHECK(fresh.on_bucket(t0, env(2), 0, bucket.bytes, bucket.hash).empty());
}

TEST_CASE_METHOD(fixture, "receiver: an engine that did not stop is asked again") {
  vote();
  commit();
  f.on_write_failed({1, 2}, errc::hook_failed, "busy");
  f.on_redo(t0, redo());
  put(0), put(1);
  CHECK(find<act::pause>(f.on_verified({1, 2}, errc::none, {})));
}

TEST_CASE_METHOD(fixture, "receiver: a full is written as it arrives, behind the fence") {
  serve();
  const auto begin = f.on_full_begin(t0, full());
  CHECK_FALSE(find<act::publish>(begin)->state.ready);
  CHECK(find<act::pause>(begin));
  CHECK(find<act::write_bucket>(put(0, 3)));
  CHECK(f.on_bucket_written({1, 3}, 1).empty());  // has not arrived
  CHECK(f.on_bucket_written({1, 3}, 9).empty());
  CHECK(f.on_bucket_written({1, 2}, 0).empty());
  CHECK(f.on_bucket_written({1, 3}, 0).empty());
  CHECK(f.on_bucket_written({1, 3}, 0).empty());  // twice
  put(1, 3);
  CHECK(f.on_applied({1, 3}, d0, proof).empty());  // not all is written
  CHECK(f.on_verified({1, 3}, errc::none, {}).empty());
  CHECK(find<act::finish_full>(f.on_bucket_written({1, 3}, 1)));
  const auto done = f.on_applied({1, 3}, d0, proof);
  CHECK(reply(done).kind == reply_kind::full_ok);
  CHECK(find<act::resume>(done));
  CHECK(f.state().ready);
  CHECK(reply(f.on_full_begin(t0, full())).kind == reply_kind::full_ok);
}

TEST_CASE_METHOD(fixture, "receiver: a full voids the tag, and stops an engine once") {
  SECTION("of who serves") {
    serve();
    CHECK(find<act::pause>(f.on_full_begin(t0, full())));
  }
  SECTION("of who is torn: the engine still stands still") {
    tear();
    CHECK_FALSE(find<act::pause>(f.on_full_begin(t0, full())));
  }
  CHECK_FALSE(f.state().version);
  CHECK(f.state().phase == receiver_phase::reseeding);
  CHECK(f.state().reason == errc::not_serving);
}

TEST_CASE_METHOD(fixture, "receiver: a full of nothing is complete at once") {
  auto m = full();
  m.content.buckets.clear(), m.content.bytes = 0;
  CHECK(find<act::finish_full>(f.on_full_begin(t0, m)));
}

TEST_CASE_METHOD(fixture, "receiver: only a full's own writes are counted towards it") {
  SECTION("not those of another transaction") {
    f.on_full_begin(t0, full());
    put(0, 3), put(1, 3);
    CHECK(f.on_bucket_written({1, 2}, 0).empty());
    CHECK(f.on_bucket_written({1, 3}, 0).empty());
  }
  SECTION("not those of what has not arrived") {
    f.on_full_begin(t0, full());
    put(0, 3);
    CHECK(f.on_bucket_written({1, 3}, 1).empty());
    CHECK(f.on_bucket_written({1, 3}, ~0u).empty());
    put(1, 3);
    CHECK(f.on_bucket_written({1, 3}, 0).empty());
  }
  SECTION("nor of a delta, which is not written as it arrives") {
    stage();
    CHECK(f.on_bucket_written({1, 2}, 0).empty());
    CHECK(f.on_bucket_written({1, 2}, 1).empty());
  }
}

TEST_CASE_METHOD(fixture, "receiver: a full that fails or stops arriving leaves it torn") {
  serve();
  f.on_full_begin(t0, full());
  act::list r;
  SECTION("a bad bucket") {
    r = put(7, 3);
  }
  SECTION("a failed write") {
    put(0, 3);
    r = f.on_write_failed({1, 3}, errc::apply_failed, {});
  }
  SECTION("silence") {
    const auto until = t0 + 2 * full_timeout(s, 200);
    CHECK(f.deadline() <= until);
    r = f.on_tick(until);
  }
  CHECK(reply(r).kind == reply_kind::full_fail);
  CHECK(f.state().phase == receiver_phase::torn);
}

TEST_CASE_METHOD(fixture, "receiver: whatever supersedes a write leaves it torn, and says so") {
  SECTION("attach, during an apply") {
    apply();
    CHECK(find<act::publish>(attach(3, at(0, d0)))->state.phase == receiver_phase::torn);
    CHECK(f.on_applied({1, 2}, d1, proof).empty());
  }
  SECTION("delta, during a full") {
    f.on_full_begin(t0, full());
    attach(4, at(0, d0));
    const auto r = f.on_prepare(t0, delta(5));
    CHECK(reply(r).reason == errc::not_serving);
  }
  SECTION("delta, during an apply") {
    apply();
    CHECK(find<act::publish>(f.on_prepare(t0, delta(3)))->state.phase == receiver_phase::torn);
  }
  SECTION("a full that is refused, during a full") {
    f.on_full_begin(t0, full());
    auto m = full(4);
    m.content.bytes = 1;
    CHECK(find<act::publish>(f.on_full_begin(t0, m))->state.phase == receiver_phase::torn);
  }
  CHECK(f.state().phase == receiver_phase::torn);
}

TEST_CASE_METHOD(fixture, "receiver: a staged delta expires, and its base is served on") {
  vote();
  const auto until = t0 + 2 * stage_timeout(s, 200, 1000);
  CHECK(f.on_tick(until - milliseconds(1)).size() <= 1);  // at most the lease
  CHECK(find<act::drop_slot>(f.on_tick(until)));
  CHECK(f.state().phase == receiver_phase::serving);
}

TEST_CASE("receiver: a delta of many changes is kept as long as its votes may take") {
  const settings s;
  const std::uint64_t model = 8'000'000'000;
  receiver_fsm f({9, 7, {1, 1}, {}, model}, s);
  f.on_attach(t0, {{9, {1, 1}, {1, 1}}, {{1, 0}, {}, 0}, {}, 5});
  f.on_digest({1, 1}, {}, {});
  prepare_msg m{{9, {1, 2}, {1, 1}}, {1, 0}, {}, {{1, 2}, {}, 0}, {}};
  m.content.changed = 1'000'000'000;
  m.content.bytes = 100;
  m.content.buckets = {{100, {}}};
  CHECK(f.on_prepare(t0, m).empty());
  REQUIRE(f.summarize().slot);
  const auto until = t0 + 2 * stage_timeout(s, {100, 1'000'000'000}, model);
  f.on_tick(until - milliseconds(1));
  CHECK(f.summarize().slot);
  f.on_tick(until);
  CHECK_FALSE(f.summarize().slot);
}

TEST_CASE_METHOD(fixture,
                 "receiver: what was announced is waited for as long as the document says") {
  // In seconds: all weights take 10 over a link, 1 to be read, and a delta takes 2.
  s.sync.link_bytes_per_s = 100;
  s.sync.stage_timeout_ms = 1'000;
  s.sync.full_timeout_ms = 3'000;
  f = receiver_fsm({9, 7, me, layout, 1000}, s);
  auto wait = std::chrono::seconds(2 * (1 + 2 + 1));
  SECTION("a delta") {
    serve();
    f.on_prepare(t0, delta());
  }
  SECTION("a redo") {
    tear();
    f.on_redo(t0, redo());
  }
  SECTION("all weights") {
    wait = std::chrono::seconds(2 * (3 + 2));
    serve();
    f.on_full_begin(t0, full());
  }
  f.on_tick(t0 + wait - milliseconds(1));
  CHECK(f.summarize().slot);
  CHECK(find<act::drop_slot>(f.on_tick(t0 + wait)));
}

TEST_CASE_METHOD(fixture, "receiver: a write does not expire") {
  apply();
  f.on_tick(t0 + 10 * stage_timeout(s, 200, 1000));
  CHECK(f.state().phase == receiver_phase::applying);
  CHECK_FALSE(f.deadline());
}

TEST_CASE_METHOD(fixture, "receiver: without the trainer's word the lease ends") {
  const auto lease = milliseconds(s.receiver.lease_ms);
  serve();
  CHECK(f.deadline() == t0 + lease);
  CHECK(f.trusted_until() == t0 + lease);
  CHECK(f.on_tick(t0 + lease - milliseconds(1)).empty());
  CHECK(find<act::publish>(f.on_tick(t0 + lease))->state.reason == errc::lease_expired);
  CHECK_FALSE(f.deadline());
  const auto before = f.ignored();
  CHECK(f.on_ping(t0 + lease, {8, me, {1, 0}}).empty());
  CHECK(f.on_ping(t0 + lease, {9, {}, {1, 0}}).empty());
  // Of a run that is over: it is told what is served, and renews nothing.
  const auto zombie = f.on_ping(t0 + lease, {9, me, {0, 0}});
  CHECK(zombie.size() == 1);
  CHECK(find<act::pong>(zombie));
  CHECK(f.state().reason == errc::lease_expired);
  CHECK(f.ignored() == before + 3);
  const auto r = f.on_ping(t0 + lease, {9, me, {1, 0}});
  CHECK(find<act::pong>(r));
  CHECK(f.state().ready);
  f.on_tick(t0 + 2 * lease);
  attach(9, at(0, d0));
  CHECK(f.state().ready);  // an attach is the trainer's word too
}

TEST_CASE_METHOD(fixture, "receiver: announces itself until a trainer is heard, and rarely then") {
  const auto again = milliseconds(s.receiver.hello_ms), lease = milliseconds(s.receiver.lease_ms);
  CHECK(f.on_tick(t0).empty());  // not before it begins
  CHECK(find<act::announce>(f.on_start(t0)));
  CHECK(f.deadline() == t0 + again);
  CHECK(f.on_tick(t0 + again - milliseconds(1)).empty());
  CHECK(find<act::announce>(f.on_tick(t0 + again)));
  CHECK(f.deadline() == t0 + 2 * again);
  CHECK(find<act::announce>(f.on_tick(t0 + 2 * again)));
  const auto heard = t0 + 2 * again + milliseconds(1);
  f.on_ping(heard, {9, me, {1, 0}});
  // To whom it may concern: this trainer knows us, a newer one may not.
  const auto said = t0 + 2 * again;
  CHECK(f.deadline() == said + lease);
  CHECK_FALSE(find<act::announce>(f.on_tick(said + lease - milliseconds(1))));
  f.on_ping(said + lease - milliseconds(1), {9, me, {1, 0}});
  CHECK(find<act::announce>(f.on_tick(said + lease)));
  // And when it falls silent: at once, and often.
  const auto silent = said + 2 * lease - milliseconds(1);
  CHECK(f.deadline() == silent);
  CHECK(find<act::announce>(f.on_tick(silent)));
  CHECK(f.deadline() == silent + again);
  CHECK(f.on_tick(silent + milliseconds(1)).empty());
}

TEST_CASE_METHOD(fixture,
                 "receiver: a trainer that is heard at once was announced to at the start") {
  f.on_start(t0);
  f.on_ping(t0 + milliseconds(1), {9, me, {1, 0}});
  CHECK_FALSE(find<act::announce>(f.on_tick(t0 + milliseconds(2))));
  // Sooner than the lease ends, which began with the ping.
  CHECK(f.deadline() == t0 + milliseconds(s.receiver.lease_ms));
}

TEST_CASE_METHOD(fixture, "receiver: a lease that has ended stays so until a trainer is heard") {
  serve();
  const auto over = t0 + milliseconds(s.receiver.lease_ms);
  for (int tick = 0; tick < 3; ++tick) {
    f.on_tick(over + milliseconds(tick));
    CHECK(f.state().reason == errc::lease_expired);
  }
  f.on_ping(over + milliseconds(3), {9, me, {1, 0}});
  CHECK(f.state().ready);
}

TEST_CASE_METHOD(fixture, "receiver: observers see what it is asked and what it answered") {
  CHECK_FALSE(f.summarize().attaching);
  CHECK_FALSE(f.summarize().answered);
  attach(1, at(0, d0));
  REQUIRE(f.summarize().attaching);
  CHECK(f.summarize().attaching->txn == txn_ref{1, 1});
  f.on_digest({1, 1}, d0, proof);
  CHECK_FALSE(f.summarize().attaching);
  CHECK(f.summarize().answered == reply_kind::attached);
}

TEST_CASE("receiver: may be told to serve on without a lease") {
  settings s;
  s.receiver.serve_stale = true;
  receiver_fsm f({9, 7, me, layout, 1000}, s);
  f.on_attach(t0, {fixture::env(1), at(0, d0), layout, 1});
  f.on_digest({1, 1}, d0, proof);
  CHECK(f.state().reason == errc::none);
  CHECK(f.trusted_until() == time_point::max());
  const auto over = t0 + 2 * milliseconds(s.receiver.lease_ms);
  const auto all = f.on_tick(over);
  const auto* const told = find<act::publish>(all);
  REQUIRE(told);
  CHECK(told->state.ready);
  CHECK(told->state.reason == errc::lease_expired);  // whoever it serves can see it
  // Not where it knows better than its lease does.
  CHECK(find<act::publish>(f.on_ping(over, {9, me, {1, 0}}))->state.reason == errc::none);
  f.on_ping(over, {9, me, {1, 1}});
  CHECK_FALSE(f.state().ready);
  f.on_tick(over + 2 * milliseconds(s.receiver.lease_ms));
  CHECK_FALSE(f.state().ready);
  CHECK(f.state().reason == errc::behind);
}

TEST_CASE_METHOD(fixture, "receiver: who was left behind by the fleet is not ready") {
  serve();
  f.on_ping(t0, {9, me, {2, 9}});  // another run decides nothing
  CHECK(f.state().ready);
  receiver_fsm g({9, 7, me, layout, 1000}, s);
  g.on_attach(t0, {env(1), at(0, d0), layout, 1});
  g.on_digest({1, 1}, d0, proof);
  CHECK(find<act::publish>(g.on_ping(t0, {9, me, {1, 4}}))->state.reason == errc::behind);
  g.on_ping(t0, {9, me, {1, 0}});  // late
  CHECK_FALSE(g.state().ready);
}

// It was ready with what the fleet had left, for as long as it took to digest its bytes.
TEST_CASE_METHOD(fixture,
                 "receiver: an attach after a silence makes nobody ready who may be behind") {
  serve();
  f.on_tick(t0 + milliseconds(s.receiver.lease_ms));
  REQUIRE(f.state().reason == errc::lease_expired);
  const auto later = GENERATE(d0, d1);
  attach(5, at(4, later));
  CHECK_FALSE(f.state().ready);
  CHECK(f.state().reason == errc::behind);
  f.on_digest({1, 5}, later, proof);
  CHECK(f.state().ready);
  CHECK(f.state().version == version_ref{1, 4});
}

TEST_CASE_METHOD(fixture, "receiver: a later run's pings keep no tag of the run before it alive") {
  const milliseconds lease(s.receiver.lease_ms);
  serve();
  const auto pinged = [&](time_point at, version_ref current) {
    f.on_ping(at, {9, me, current});
    f.on_tick(at);
    return f.state().ready;
  };
  SECTION("who is not brought to it is ready for a lease, and no longer") {
    CHECK(pinged(t0 + lease / 2, {2, 0}));
    CHECK_FALSE(pinged(t0 + lease, {2, 1}));
    CHECK(f.state().reason == errc::lease_expired);
    CHECK_FALSE(pinged(t0 + 2 * lease, {2, 2}));
  }
  SECTION("its own run's do") {
    CHECK(pinged(t0 + lease / 2, f.state().version));
    CHECK(pinged(t0 + lease, f.state().version));
  }
  SECTION("so do the later run's while it looks whether it holds what that has") {
    f.on_ping(t0 + lease / 2, {9, me, {2, 0}});
    f.on_attach(t0 + lease / 2, {env(1, 2), at(0, d0, 2), layout, 1});
    CHECK(pinged(t0 + lease, {2, 0}));
    CHECK(pinged(t0 + 2 * lease - milliseconds(1), {2, 0}));
    f.on_digest({2, 1}, d0, proof);
    CHECK(pinged(t0 + 3 * lease - milliseconds(2), {2, 0}));
  }
}

TEST_CASE_METHOD(fixture, "receiver: who holds nothing hears of a trainer by any run's pings") {
  const milliseconds lease(s.receiver.lease_ms);
  f.on_start(t0);
  f.on_ping(t0, {9, me, {1, 0}});
  // Announces itself no more often than once a lease.
  std::size_t hellos = 0;
  for (auto at = t0; at < t0 + 4 * lease; at += lease / 8) {
    f.on_ping(at, {9, me, {2, 0}});
    if (find<act::announce>(f.on_tick(at))) ++hellos;
  }
  CHECK(hellos <= 5);
}

TEST_CASE_METHOD(fixture, "receiver: who was left behind stays so when a new run is heard of") {
  serve();
  SECTION("first behind, then the new run") {
    f.on_ping(t0, {9, me, {1, 4}});
    REQUIRE(f.state().reason == errc::behind);
    f.on_ping(t0, {9, me, {2, 0}});
  }
  SECTION("first the new run, then a late word of the old one") {
    f.on_ping(t0, {9, me, {2, 0}});
    REQUIRE(f.state().ready);
    f.on_ping(t0, {9, me, {1, 4}});
  }
  CHECK_FALSE(f.state().ready);
  CHECK(f.state().reason == errc::behind);
  // Until it is proven to hold what the fleet holds.
  attach(1, at(0, d0, 2), 2);
  f.on_digest({2, 1}, d0, proof);
  CHECK(f.state().ready);
}

TEST_CASE_METHOD(fixture,
                 "receiver: another layout's run does not let the last run's tag be served") {
  serve();
  SECTION("of the same run: its tag stands") {
    f.on_attach(t0, {env(5), at(0, d0), {4, 4}, 1});
    CHECK(f.state().ready);
  }
  SECTION("nor do torn bytes become none") {
    f.on_full_begin(t0, full());
    f.on_write_failed({1, 3}, errc::apply_failed, {});
    f.on_attach(t0, {env(1, 2), at(0, d0, 2), {4, 4}, 1});
    CHECK(f.state().phase == receiver_phase::torn);
  }
  SECTION("but a run of our layout leaves it served until the digest is known") {
    CHECK_FALSE(find<act::publish>(attach(1, at(0, d0, 2), 2)));
    CHECK(f.state().ready);
  }
  SECTION("of a newer one: it is over") {
    const auto said = f.on_attach(t0, {env(1, 2), at(0, d0, 2), {4, 4}, 1});
    CHECK(reply(said).reason == errc::wrong_layout);
    CHECK_FALSE(f.state().ready);
    CHECK(f.state().phase == receiver_phase::empty);
    CHECK(f.state().reason == errc::wrong_layout);
  }
}

TEST_CASE_METHOD(fixture, "receiver: who is brought to what the fleet has left is still behind") {
  // A late attach or full of the time when the fleet held that.
  serve();
  f.on_ping(t0, {9, me, {1, 4}});
  REQUIRE(f.state().reason == errc::behind);
  SECTION("attach") {
    attach(3, at(0, d0));
    CHECK(reply(f.on_digest({1, 3}, d0, proof)).kind == reply_kind::attached);
  }
  SECTION("full") {
    f.on_full_begin(t0, full());
    put(0, 3), put(1, 3);
    f.on_bucket_written({1, 3}, 0), f.on_bucket_written({1, 3}, 1);
    CHECK(reply(f.on_applied({1, 3}, d0, proof)).kind == reply_kind::full_ok);
  }
  CHECK_FALSE(f.state().ready);
  CHECK(f.state().reason == errc::behind);
}

TEST_CASE_METHOD(fixture, "receiver: what was heard of the fleet, a late attach does not undo") {
  f.on_ping(t0, {9, me, {1, 6}});
  f.on_ping(t0, {9, me, {1, 0}});  // late, too
  attach(2, at(0, d1));
  REQUIRE(reply(f.on_digest({1, 2}, bad, proof)).kind == reply_kind::need_full);
  f.on_full_begin(t0, full());
  put(0, 3), put(1, 3);
  f.on_bucket_written({1, 3}, 0), f.on_bucket_written({1, 3}, 1);
  CHECK(reply(f.on_applied({1, 3}, d0, proof)).kind == reply_kind::full_ok);
  CHECK(f.state().reason == errc::behind);
}

TEST_CASE("receiver: its deadline is the first of all that it waits for") {
  settings s;
  s.sync.full_timeout_ms = 10;
  s.receiver.hello_ms = GENERATE(1u, 100'000u);
  s.receiver.lease_ms = GENERATE(1u, 100'000u);
  receiver_fsm f({9, 7, me, layout, 1000}, s);
  f.on_full_begin(t0, {fixture::env(1), at(0, d0), two_buckets(), 5});
  f.on_ping(t0, {9, me, {1, 0}});
  f.on_start(t0);
  const std::array all{t0 + 2 * full_timeout(s, 200), t0 + milliseconds(s.receiver.lease_ms),
                       t0 + milliseconds(s.receiver.hello_ms)};
  CHECK(f.deadline() == *std::min_element(all.begin(), all.end()));
}

TEST_CASE("receiver: no deadline is beyond what the clock can say") {
  settings slow;
  slow.sync.link_bytes_per_s = 1;
  const std::uint64_t model = 1ull << 60;
  receiver_fsm f({9, 7, me, layout, model}, slow);
  manifest content{layout, 0, 0, {}};
  for (int i = 0; i < 2'000; ++i) content.buckets.push_back({4ull << 20, {1, 2}});
  content.bytes = 2'000 * (4ull << 20);
  f.on_full_begin(t0, {{9, {1, 2}, me}, at(0, d0), content, 5});
  REQUIRE(f.deadline());
  CHECK(*f.deadline() > t0 + std::chrono::hours(24 * 30));
  const auto longest = transfer_time(slow, ~std::uint64_t{0});
  CHECK(longest >= transfer_time(slow, model));
  CHECK(t0 + 4 * longest > t0 + longest);
}

TEST_CASE_METHOD(fixture, "receiver: answers are bounded") {
  const std::size_t said = GENERATE(reply_detail_max - 1, reply_detail_max, reply_detail_max + 1);
  stage();
  CHECK(reply(f.on_verified({1, 2}, errc::bad_frame, std::string(said, 'x'))).detail.size() ==
        std::min(said, reply_detail_max));
}

TEST_CASE_METHOD(fixture, "receiver: a prepare that is old or repeated changes nothing") {
  serve();
  attach(4, at(0, d0));
  f.on_digest({1, 4}, d0, proof);
  CHECK(f.on_prepare(t0, delta(3)).empty());
  CHECK(commit(3).empty());  // the fence has not sunk
  f.on_prepare(t0, delta(5));
  put(0, 5), put(1, 5);
  f.on_verified({1, 5}, errc::none, {});
  const auto again = f.on_prepare(t0, delta(5));
  CHECK(reply(again).kind == reply_kind::vote_yes);
  CHECK_FALSE(find<act::drop_slot>(again));
  CHECK(find<act::apply_slot>(commit(5)));
}

TEST_CASE_METHOD(fixture, "receiver: awaits what it will take or refuse, and nothing else") {
  serve();
  CHECK_FALSE(f.awaits(env(2), 0));
  f.on_prepare(t0, delta());
  CHECK(f.awaits(env(2), 0));
  CHECK(f.awaits(env(2), 77));  // to be refused
  CHECK_FALSE(f.awaits(env(3), 0));
  put(0);
  CHECK_FALSE(f.awaits(env(2), 0));
  put(1);
  CHECK(f.awaits(env(2), 77));
  f.on_verified({1, 2}, errc::none, {});
  CHECK_FALSE(f.awaits(env(2), 77));
}
