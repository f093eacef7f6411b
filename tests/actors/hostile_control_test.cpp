// Control messages that were altered before their checksum was made, or by a lying peer: beneath
// the wire's checksum only the receiver's own fences are left. docs/wire-messages.md, last table.
#include <algorithm>
#include <catch2/catch.hpp>
#include <map>
#include <random>
#include <string>

#include "actors/packed.hpp"
#include "actors/states.hpp"
#include "tests/support/bare_receiver.hpp"
#include "tests/support/wire_bytes.hpp"

using namespace lockstep;

namespace {

/// A run of one trainer whose weights are `base` as version 1.0 and `target` as 1.2 and 1.3.
struct talk {
  layout shape{{{"a", dtype::bf16, {24}}, {"b", dtype::u8, {7}}, {"c", dtype::f32, {9}}}};
  weight_buffer base{shape}, target{shape};
  encoded_delta delta;
  std::vector<payload> full;
  manifest full_content;

  talk() {
    std::mt19937_64 rng(11);
    for (std::size_t i = 0; i < shape.count(); ++i) {
      for (auto& b : base.tensor(i)) b = static_cast<std::byte>(rng());
      std::copy(base.tensor(i).begin(), base.tensor(i).end(), target.tensor(i).begin());
      for (std::size_t k = 0; k < 6; k += 2) target.tensor(i)[k] ^= std::byte{0x41};
    }
    delta = encode_delta(shape, views_of(base), views_of(target), 1);
    const full_plan plan(shape, views_of(target), 1);
    full_content = plan.content();
    for (std::size_t i = 0; i < full_content.buckets.size(); ++i)
      full.push_back(plan.make(i, views_of(target)));
    REQUIRE(delta.buckets.size() == 3);
    REQUIRE(full.size() == 3);
  }

  static envelope env(std::uint64_t seq) {
    return {bare_receiver::cluster, {1, seq}, bare_receiver::me};
  }
  digest state(const weight_buffer& w) const { return digest_of(public_digest_seed, views_of(w)); }
  target_info to(std::uint64_t number) const {
    return {{1, number}, state(number == 0 ? base : target), 40 + number};
  }

  wire_message attach(std::uint64_t seq) const {
    return attach_msg{env(seq), to(0), shape.fingerprint(), 77};
  }
  wire_message prepare(std::uint64_t seq) const {
    return prepare_msg{env(seq), {1, 0}, state(base), to(seq), delta.content};
  }
  wire_message bucket(std::uint64_t seq, std::uint32_t index) const {
    return bucket_msg{env(seq), index, delta.buckets[index]};
  }
  wire_message commit(std::uint64_t seq) const {
    return commit_msg{env(seq), state(target), 78, 1};
  }
  wire_message redo(std::uint64_t seq) const {
    return redo_msg{env(seq), to(seq), delta.content, 79, 2};
  }
  wire_message full_begin(std::uint64_t seq) const {
    return full_begin_msg{env(seq), to(2), full_content, 80};
  }
  /// What follows on having asked who holds the base whether it holds the target.
  wire_message catch_up(std::uint64_t seq) const {
    return full_begin_msg{env(seq), to(2), delta.content, 80, true};
  }
  wire_message left_behind(std::uint64_t seq) const {
    return attach_msg{env(seq), to(2), shape.fingerprint(), 77};
  }
  wire_message full_bucket(std::uint64_t seq, std::uint32_t index) const {
    return bucket_msg{env(seq), index, full[index]};
  }
  wire_message ping() const { return ping_msg{bare_receiver::cluster, bare_receiver::me, {1, 0}}; }
};

using words = std::vector<wire_message>;

/// A point in a conversation: what was said so far, and what is said after the altered message.
struct scene {
  const char* name;
  words before;
  words after;
  bool hold = false;
  bool interrupt = false;
  bool redoing = false;
};

std::vector<scene> scenes(const talk& t) {
  const words staging{t.attach(1), t.prepare(2), t.bucket(2, 0)};
  const words staged{t.attach(1), t.prepare(2), t.bucket(2, 0), t.bucket(2, 1), t.bucket(2, 2)};
  auto committed = staged;
  committed.push_back(t.commit(2));
  auto redoing = committed;
  redoing.insert(redoing.end(), {t.redo(2), t.bucket(2, 0)});
  const words reseeding{t.attach(1), t.full_begin(2), t.full_bucket(2, 0)};
  auto torn = reseeding;
  torn.push_back(bucket_msg{t.env(2), 1, t.full[0]});
  const words delta_rest{t.bucket(2, 1), t.bucket(2, 2), t.commit(2)};
  return {{"empty", {}, {}},
          {"serving", {t.attach(1)}, {}},
          {"behind", {t.attach(1), t.left_behind(2)}, {}},
          {"staging", staging, delta_rest},
          {"staged", staged, {t.commit(2)}},
          {"applying", committed, {}, true},
          {"served", committed, {}},
          {"reseeding", reseeding, {t.full_bucket(2, 1), t.full_bucket(2, 2)}},
          {"torn by a full", torn, {}},
          {"torn by a delta",
           committed,
           {t.redo(2), t.bucket(2, 0), t.bucket(2, 1), t.bucket(2, 2)},
           false,
           true},
          {"redoing", redoing, {t.bucket(2, 1), t.bucket(2, 2)}, false, true, true}};
}

/// Every message that a receiver's machine hears, and what the honest trainer says after it. Only
/// what the machine asks for is written. relay_parent, relay_lend, refused, audit and welcome never
/// come to it: its actor hands them to others, or reads. hostile_alone_test.cpp flips their bits.
std::vector<std::pair<wire_message, words>> openings(const talk& t) {
  return {{t.ping(), {}},
          {t.attach(3), {}},
          {t.prepare(3), {t.bucket(3, 0), t.bucket(3, 1), t.bucket(3, 2), t.commit(3)}},
          {t.full_begin(3), {t.full_bucket(3, 0), t.full_bucket(3, 1), t.full_bucket(3, 2)}},
          {t.catch_up(3), {t.bucket(3, 0), t.bucket(3, 1), t.bucket(3, 2)}},
          {t.bucket(2, 1), {}},
          {t.full_bucket(2, 1), {}},
          {t.commit(2), {}},
          {wire_message(abort_msg{talk::env(2)}), {}},
          {t.redo(2), {t.bucket(2, 0), t.bucket(2, 1), t.bucket(2, 2)}}};
}

/// What is not found here, or by somebody else: set to what was honestly said.
void excuse(attach_msg& m, const attach_msg& said) {
  m.target.label = said.target.label;
  m.challenge = said.challenge;
  m.target.version = said.target.version;
  m.env.txn = said.env.txn;  // a later number may be the first word of a transaction
}
void excuse(full_begin_msg& m, const full_begin_msg& said) {
  m.target.label = said.target.label;
  m.challenge = said.challenge;
  m.target.version = said.target.version;
  m.content.changed = said.content.changed;
  m.catch_up = said.catch_up;  // either way what is served is the target
}
void excuse(prepare_msg& m, const prepare_msg& said) {
  m.target.label = said.target.label;
  m.content.changed = said.content.changed;
}
void excuse(commit_msg& m, const commit_msg& said) {
  m.challenge = said.challenge;
  m.round = said.round;
}
void excuse(redo_msg& m, const redo_msg& said) {
  m.target.label = said.target.label;
  m.challenge = said.challenge;
  m.round = said.round;
  m.content.changed = said.content.changed;
}
void excuse(auto&, const auto&) {}

bool positive(reply_kind k) {
  return k == reply_kind::attached || k == reply_kind::full_ok || k == reply_kind::vote_yes ||
         k == reply_kind::ack;
}

const envelope* envelope_of(const wire_message& m) {
  return std::visit(
      [](const auto& x) -> const envelope* {
        if constexpr (requires { x.env; }) {
          return &x.env;
        } else {
          return nullptr;
        }
      },
      m);
}

/// Whether it was addressed to somebody else.
bool strange(const wire_message& m) {
  if (const auto* ping = std::get_if<ping_msg>(&m))
    return ping->cluster != bare_receiver::cluster || ping->inc != bare_receiver::me;
  const auto* env = envelope_of(m);
  return env->cluster != bare_receiver::cluster || env->inc != bare_receiver::me;
}

/// What the tag of a receiver names.
const weight_buffer* content_of(const talk& t, version_ref v) {
  if (v == version_ref{1, 0}) return &t.base;
  if (v == version_ref{1, 2} || v == version_ref{1, 3}) return &t.target;
  return nullptr;
}

/// Whether `m` is one whose word for the target's name is taken, and names `v`.
bool names(const wire_message& m, version_ref v) {
  const auto* attach = std::get_if<attach_msg>(&m);
  const auto* full = std::get_if<full_begin_msg>(&m);
  return (attach != nullptr && attach->target.version == v) ||
         (full != nullptr && full->target.version == v);
}

/// Complains if what `altered` led to, by itself or with honest buckets behind it, was answered
/// with a yes, though more was altered than is excused.
std::string good_news(const bare_receiver& r, const scene& s, const wire_message& said,
                      const wire_message& altered) {
  const auto* env = envelope_of(altered);
  for (const auto& reply : r.replies) {
    if (env == nullptr || reply.env.txn != env->txn || !positive(reply.kind)) continue;
    // An answer to transaction 2 is this message's doing only if it led to a write: it may be the
    // repetition of an earlier one, and the redo that is open already is not this one's.
    if (env->txn.seq != 3 && (r.written.empty() || s.redoing)) continue;
    const auto excused = std::visit(
        [&]<class M>(M m) {
          excuse(m, std::get<M>(said));
          return wire_message(std::move(m));
        },
        altered);
    if (excused != said) return "good news from an altered " + std::string(name_of(said));
  }
  return {};
}

/// Plays `s` with `altered` where `said` was to be said, then `then`; empty if all is well.
std::string play(const talk& t, const scene& s, const wire_message& said,
                 const wire_message& altered, const words& then) {
  bare_receiver r(t.base);
  r.interrupt = s.interrupt;
  for (const auto& m : s.before) {
    r.hold = s.hold;
    r.deliver(m);
  }
  const auto state = r.machine.state();
  r.replies.clear();
  r.written.clear();
  const auto done = r.deliver(altered);
  if (strange(altered) && (done != 0 || !(r.machine.state() == state)))
    return "obeyed what was for somebody else";

  for (const auto& m : then) r.deliver(m);
  if (auto wrong = good_news(r, s, said, altered); !wrong.empty()) return wrong;
  if (s.hold) r.release();
  for (const auto& m : s.after) r.deliver(m);

  const auto* said_env = envelope_of(said);
  for (const auto txn : r.written)
    if (txn != txn_ref{1, 2} && !(said_env != nullptr && txn == said_env->txn))
      return "wrote for " + to_string(txn);
  if (!r.memory.canaries_alive()) return "wrote out of bounds";
  if (!r.machine.state().ready) return {};
  if (!(r.memory == guarded_memory(t.base)) && !(r.memory == guarded_memory(t.target)))
    return "serves a mix";
  const auto* content = content_of(t, r.machine.state().version);
  const bool truthful = content != nullptr && r.memory == guarded_memory(*content);
  return truthful || names(altered, r.machine.state().version) ? "" : "serves under a false tag";
}

}  // namespace

TEST_CASE("the unaltered conversation reaches every phase and succeeds") {
  const talk t;
  const auto phase_after = [&](const scene& s) {
    bare_receiver r(t.base);
    r.hold = s.hold;
    r.interrupt = s.interrupt;
    for (const auto& m : s.before) r.deliver(m);
    return r.machine.state().phase;
  };
  const std::vector<receiver_phase> phases{
      receiver_phase::empty,   receiver_phase::serving,   receiver_phase::serving,
      receiver_phase::serving, receiver_phase::serving,   receiver_phase::applying,
      receiver_phase::serving, receiver_phase::reseeding, receiver_phase::torn,
      receiver_phase::torn,    receiver_phase::torn};
  const auto all = scenes(t);
  REQUIRE(all.size() == phases.size());
  for (std::size_t i = 0; i < all.size(); ++i) {
    INFO(all[i].name);
    CHECK(phase_after(all[i]) == phases[i]);
  }
  for (const char* name : {"staging", "staged", "reseeding", "torn by a delta", "redoing"}) {
    const auto s = *std::find_if(all.begin(), all.end(),
                                 [&](const scene& x) { return std::string(name) == x.name; });
    bare_receiver r(t.base);
    r.interrupt = s.interrupt;
    for (const auto& m : s.before) r.deliver(m);
    for (const auto& m : s.after) r.deliver(m);
    INFO(name);
    CHECK(r.machine.state().ready);
    CHECK(r.machine.state().version == version_ref{1, 2});
    CHECK(r.memory == guarded_memory(t.target));
  }
}

TEST_CASE("a control message altered beneath the checksum writes nothing it should not") {
  const talk t;
  std::size_t played = 0;
  for (const auto& s : scenes(t))
    for (const auto& opening : openings(t)) {
      const auto& said = opening.first;
      played += for_each_altered(said, [&](const wire_message& altered, std::size_t bit) {
        const auto wrong = play(t, s, said, altered, opening.second);
        if (!wrong.empty())
          FAIL_CHECK(s.name << ", " << name_of(said) << ", bit " << bit << ": " << wrong);
      });
    }
  CHECK(played > 50'000);
}

TEST_CASE("an altered attach or full is believed its target's name, and nothing else") {
  // What docs/wire-messages.md says is not found here: if this fails, the document is out of date.
  const talk t;
  bare_receiver r(t.base);
  auto m = std::get<attach_msg>(t.attach(1));
  m.target.version.number = 5;
  r.deliver(m);
  CHECK(r.machine.state().ready);
  CHECK(r.machine.state().version == version_ref{1, 5});
  r.deliver(t.prepare(2));
  CHECK(r.replies.back().reason == errc::wrong_base);
}

TEST_CASE("what travels packed inside of a message is read whole, or not at all") {
  const layout shape({{"a", dtype::u8, {3}}, {"b", dtype::u8, {0}}, {"c", dtype::u8, {1}}});
  std::mt19937_64 rng(5);
  const auto same = [](const payload& a, const payload& b) {
    return a.size() == b.size() && std::equal(a.data(), a.data() + a.size(), b.data());
  };
  std::map<std::string, int> read;
  for (int i = 0; i < 50'000; ++i) {
    // Mostly small numbers, of any length up to more than a route may have.
    std::vector<std::byte> bytes(i % 7 == 0 ? rng() % 160 : rng() % 40);
    for (std::size_t k = 0; k < bytes.size(); ++k)
      if (k % 4 == 0 || rng() % 8 == 0) bytes[k] = static_cast<std::byte>(rng() % 6);
    const payload packed(std::move(bytes));
    CAPTURE(i, packed.size());
    if (const auto route = unpacked_route(packed)) {
      ++read["route"];
      CHECK(route->size() <= relay_stripes_max);
      CHECK(route->size() * 8 == packed.size());
      const auto again = unpacked_route(packed_route(*route));
      REQUIRE(again);
      for (std::size_t k = 0; k < route->size(); ++k) {
        CHECK((*again)[k].parent == (*route)[k].parent);
        CHECK((*again)[k].depth == (*route)[k].depth);
      }
    }
    if (const auto ids = unpacked_ids(packed)) {
      ++read["ids"];
      CHECK(std::ranges::is_sorted(*ids));
      CHECK(same(packed_ids(*ids), packed));
    }
    if (const auto digests = unpacked_digests(packed)) {
      ++read["digests"];
      CHECK(same(packed_digests(*digests), packed));
    }
    if (const auto mask = unpacked_mask(packed, 6)) {
      ++read["mask"];
      CHECK(mask->size() == 6);
      CHECK(same(packed_mask(*mask), packed));
    }
    try {
      const auto part = part_from(packed, shape);
      ++read["part"];
      if (!part.empty()) CHECK(same(packed_part(part), packed));
    } catch (const error& e) {
      CHECK(e.code() == errc::wrong_layout);
    }
  }
  for (const auto* kind : {"route", "ids", "digests", "mask", "part"}) {
    CAPTURE(kind);
    CHECK(read[kind] > 100);
  }
}
