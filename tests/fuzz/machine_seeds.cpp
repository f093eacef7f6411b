// Decides the seeds of `receiver` and `trainer`: conversations.
#include <string>
#include <utility>
#include <vector>

#include "fuzz/conversation.hpp"
#include "fuzz/seed_files.hpp"
#include "weights/bucket_codec.hpp"
#include "weights/weight_buffer.hpp"

namespace lockstep::fuzz {

namespace fs = std::filesystem;

namespace {

/// Messages of one trainer to the receiver of fuzz/conversation.hpp.
class talk {
 public:
  talk() { attach(); }

  void attach() { say(attach_msg{next(), target(), now_.shape().fingerprint(), 77}); }

  /// The next version, and the delta to it.
  encoded_delta change() {
    auto before = now_.clone();
    for (std::size_t i = 0; i < now_.shape().count(); i += 2)
      now_.tensor(i)[now_.tensor(i).size() / 2] ^= std::byte{0x33};
    return encode_delta(now_.shape(), as_views(spans_of(before)), as_views(spans_of(now_)), 64);
  }
  void prepare(const encoded_delta& delta, digest base, version_ref from) {
    const auto env = next();
    version_ = {1, env.txn.seq};
    say(prepare_msg{env, from, base, target(), delta.content});
    buckets(delta);
  }
  void buckets(const encoded_delta& delta) {
    for (std::uint32_t i = 0; i < delta.buckets.size(); ++i)
      say(bucket_msg{env_, i, delta.buckets[i]});
  }
  void commit() { say(commit_msg{env_, state(), 78, 1}); }
  void sync() {
    const auto base = state();
    const auto from = version_;
    prepare(change(), base, from);
    commit();
  }
  void redo(const encoded_delta& delta) {
    say(redo_msg{env_, target(), delta.content, 79, 2});
    buckets(delta);
  }
  void full() {
    const auto env = next();
    version_ = {1, env.txn.seq};
    const auto views = as_views(spans_of(now_));
    const full_plan plan(now_.shape(), views, 64);
    say(full_begin_msg{env, target(), plan.content(), 80});
    for (std::uint32_t i = 0; i < plan.content().buckets.size(); ++i)
      say(bucket_msg{env, i, plan.make(i, views)});
  }
  /// Announced as it comes, but no frames.
  void full_of_nonsense() {
    const auto env = next();
    version_ = {1, env.txn.seq};
    const payload bucket(std::vector<std::byte>(40));
    const manifest content{
        now_.shape().fingerprint(), bucket.size(), 0, {{bucket.size(), hash_of(bucket)}}};
    say(full_begin_msg{env, target(), content, 80});
    say(bucket_msg{env, 0, bucket});
  }
  /// Weights that are not those of the target.
  void full_to_elsewhere() {
    const auto env = next();
    const auto views = as_views(spans_of(now_));
    const full_plan plan(now_.shape(), views, 64);
    say(full_begin_msg{env, {{1, env.txn.seq}, digest{1, 2}, 5}, plan.content(), 80});
    for (std::uint32_t i = 0; i < plan.content().buckets.size(); ++i)
      say(bucket_msg{env, i, plan.make(i, views)});
  }
  /// Announced, and nothing comes.
  void announce_full(bool catch_up, std::uint64_t layout_hi) {
    const auto env = next();
    manifest content{now_.shape().fingerprint(), 8, 0, {{8, {}}}};
    content.layout.hi ^= layout_hi;
    say(full_begin_msg{env, target(), content, 80, catch_up});
  }
  void catch_up() {
    const auto delta = change();
    version_ = {1, seq_ + 1};
    attach();
    say(full_begin_msg{next(), target(), delta.content, 80, true});
    buckets(delta);
  }
  void ping() { say(ping_msg{cluster, life, version_}); }
  void abort() { say(abort_msg{env_}); }
  void wait(std::uint32_t ms) { say(credit_msg{env_, id, ms}); }

  digest state() { return digest_of(public_digest_seed, as_views(spans_of(now_))); }
  version_ref version() const { return version_; }
  const std::string& text() const { return text_; }

 private:
  envelope next() { return env_ = {cluster, {1, ++seq_}, life}; }
  target_info target() { return {version_, state(), 5}; }
  void say(const wire_message& m) { text_ += text_of(encode_message(m)); }

  weight_buffer now_ = small_weights();
  version_ref version_{1, 0};
  std::uint64_t seq_ = 0;
  envelope env_;
  std::string text_;
};

void receiver_seeds(const fs::path& dir) {
  talk syncs;
  syncs.ping();
  syncs.sync();
  syncs.sync();
  put(dir / "attach-and-two-syncs", syncs.text());
  talk aborted;
  auto base = aborted.state();
  aborted.prepare(aborted.change(), base, aborted.version());
  aborted.abort();
  aborted.commit();
  aborted.wait(10'000'000);
  aborted.ping();
  put(dir / "aborted-and-late", aborted.text());
  talk full;
  full.full();
  full.sync();
  put(dir / "full-and-sync", full.text());
  talk behind;
  behind.catch_up();
  behind.sync();
  put(dir / "catch-up-and-sync", behind.text());
  talk redone;
  base = redone.state();
  const auto delta = redone.change();
  redone.prepare(delta, base, redone.version());
  redone.redo(delta);
  redone.commit();
  put(dir / "redo", redone.text());
  talk torn;
  torn.full_of_nonsense();
  torn.ping();
  torn.full();
  torn.full_to_elsewhere();
  torn.full_to_elsewhere();
  torn.full();
  put(dir / "full-of-nonsense-and-to-elsewhere", torn.text());
  talk refused;
  refused.announce_full(false, 1);
  refused.announce_full(true, 1);
  refused.announce_full(true, 0);
  refused.announce_full(false, 0);
  refused.wait(10'000'000);
  refused.wait(10'000'000);
  refused.full();
  put(dir / "announced-and-nothing-comes", refused.text());
}

void trainer_seeds(const fs::path& dir) {
  std::string all;
  const auto say = [&](const wire_message& m) { all += text_of(encode_message(m)); };
  const envelope env{cluster, {1, 2}, life};
  envelope other = env;
  other.inc = {1, 1};
  say(hello_msg{cluster, id, "r", life, {1, 2}});
  say(credit_msg{env, id, 0});
  say(reply_msg{env, id, 1, reply_kind::vote_yes, errc::none, "", {}});
  say(reply_msg{other, 8, 1, reply_kind::vote_no, errc::wrong_base, "no", {}});
  say(reply_msg{env, id, 2, reply_kind::ack, errc::none, "", {3, 4}});
  say(reply_msg{other, 8, 2, reply_kind::ack, errc::none, "", {5, 6}});
  put(dir / "rounds", all);
  all.clear();
  say(hello_msg{cluster, id, "r", {1, 9}, {1, 2}});
  say(hello_msg{cluster, id, "r", life, {1, 2}});
  say(commit_msg{env, {}, 0, 1});
  say(pong_msg{cluster, id, life, {true, receiver_phase::serving, {1, 1}, 0}});
  say(abort_msg{env});
  say(ping_msg{cluster, life, {1, 5'000}});
  say(goodbye_msg{cluster, id, life});
  put(dir / "lives", all);
}

void rare_trainer_seeds(const fs::path& dir) {
  std::string all;
  const auto say = [&](const wire_message& m) { all += text_of(encode_message(m)); };
  const auto done = [&](const std::string& name) { put(dir / name, std::exchange(all, {})); };
  envelope env{cluster, {1, 2}, life};
  envelope other = env;
  other.inc = {1, 1};
  std::uint32_t round = 1;  // the one that is open at first
  const auto both = [&](reply_kind one, const digest& proof, reply_kind two, const digest& part) {
    say(reply_msg{env, id, round, one, errc::none, "", proof});
    say(reply_msg{other, 8, round, two, errc::timeout, std::string(2'000, 'd'), part});
    ++round;
  };
  const auto opened = [&](const wire_message& m) {
    say(m);
    ++round;
  };
  const digest whole{3, 4};
  const digest part{5, 7};
  opened(attach_msg{env, {}, {}, 0});
  both(reply_kind::attached, whole, reply_kind::need_full, {});
  opened(full_begin_msg{env, {}, {}, 0});
  both(reply_kind::full_ok, whole, reply_kind::full_fail, {});
  opened(prepare_msg{env, {}, {}, {}, {}});
  both(reply_kind::vote_no, {}, reply_kind::vote_yes, {});
  opened(redo_msg{env, {}, {}, 0, 0});
  both(reply_kind::nack, {}, reply_kind::ack, part);
  opened(redo_msg{env, {}, {}, 0, 0});
  both(reply_kind::ack, whole, reply_kind::ack, part);
  both(reply_kind::ack, whole, reply_kind::ack, whole);
  done("every-round");
  round = 1;
  say(audit_msg{cluster, life, 10});
  say(audit_msg{cluster, {}, 5});
  say(ping_msg{cluster, life, {1, 20}});
  say(reply_msg{env, id, 2, reply_kind::ack, errc::none, "", whole});
  say(ping_msg{cluster, life, {1, 5'000}});
  say(redo_msg{{cluster, {1, 3}, {}}, {}, {}, 0, 0});  // asks nobody
  say(reply_msg{env, id, 4, reply_kind::ack, errc::none, "", whole});
  say(goodbye_msg{cluster, id, life});
  done("hurried-late-and-empty");
  say(hello_msg{cluster, id, "r", life, {1, 2}});
  say(goodbye_msg{cluster, id, life});
  say(goodbye_msg{cluster, id, life});
  say(goodbye_msg{cluster, 9, life});
  say(goodbye_msg{cluster, 8, {1, 1}});
  done("both-end");
  const auto fail = [&](std::uint64_t how) { say(abort_msg{{cluster, {1, how}, life}}); };
  const auto hello = [&](const std::string& name, const incarnation& inc) {
    say(hello_msg{cluster, id, name, inc, {1, 2}});
  };
  const auto reach = [&](bool linked) { say(shard_reach_msg{cluster, 1, id, life, linked, 0}); };
  const auto wait = [&](std::uint64_t ms) { say(ping_msg{cluster, life, {1, ms}}); };
  const auto pong = [&] {
    say(pong_msg{cluster, id, life, {true, receiver_phase::serving, {1, 1}, 0}});
  };
  hello("parted", life);
  reach(false);
  wait(99'000);
  reach(true);
  reach(true);
  pong();
  reach(false);
  reach(false);
  hello("parted", life);
  fail(4);
  pong();
  reach(true);
  done("parted-and-reached");
  hello("r", life);
  for (int i = 0; i < 12; ++i) {
    fail(i % 2 == 0 ? 2 : 3);
    wait(20'000);
    pong();
    wait(1);
  }
  say(commit_msg{env, {}, 0, 0});
  hello("r", {1, 9});
  done("given-up");
  hello("r", life);
  fail(3);
  fail(7);
  fail(6);
  for (int i = 0; i < 8; ++i) {
    fail(4);
    pong();
    say(commit_msg{env, {}, 0, static_cast<std::uint32_t>(i)});
  }
  fail(5);
  pong();
  fail(4);
  hello("r", life);
  for (std::uint64_t i = 1; i < 20; ++i) hello("r", {2, i});
  hello("r", {2, 18});
  wait(99'000);
  hello("r", {2, 18});
  say(hello_msg{cluster, id, "r", {}, {1, 2}});
  done("ended-and-back");
}

}  // namespace

void put_machine_seeds(const fs::path& dir) {
  receiver_seeds(dir / "receiver");
  trainer_seeds(dir / "trainer");
  rare_trainer_seeds(dir / "trainer");
}

}  // namespace lockstep::fuzz
