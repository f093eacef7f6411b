// The bytes are messages, one after the other: those of receivers and ranks, and what the trainer's
// machines make of them; those that a trainer sends stand for what its own side does meanwhile:
// rounds are opened and hurried, lives end, time passes.
#include <algorithm>
#include <map>
#include <set>

#include "fuzz/conversation.hpp"
#include "fuzz/fuzz.hpp"
#include "protocol/flusher_fsm.hpp"
#include "protocol/join_fsm.hpp"
#include "protocol/supervision_fsm.hpp"

namespace {

using namespace lockstep;

constexpr std::uint32_t buckets = 10;
constexpr std::uint32_t credit = 3;

/// What a participant can answer to a round.
struct answers {
  reply_kind yes;
  reply_kind no;
};

answers to(round_kind kind) {
  switch (kind) {
    case round_kind::attach:
      return {reply_kind::attached, reply_kind::need_full};
    case round_kind::full:
      return {reply_kind::full_ok, reply_kind::full_fail};
    case round_kind::vote:
      return {reply_kind::vote_yes, reply_kind::vote_no};
    case round_kind::commit:
    case round_kind::redo:
      break;
  }
  return {reply_kind::ack, reply_kind::nack};
}

class trainer {
 public:
  trainer() {
    flusher_.on_start(env_, buckets);
    open(round_kind::vote, env_);
  }

  void hear(const wire_message& m) {
    std::visit([this](const auto& x) { take(x); }, m);
    if (const auto due = supervision_.deadline(now_); due && *due <= now_)
      bounded(supervision_.on_tick(now_));
    for (const auto& [id, record] : supervision_.records())
      fuzz::demand(record.superseded.size() <= supervision_fsm::superseded_max,
                   "lives that are remembered are bounded");
    fuzz::demand(join_.deadline().has_value() == opened_, "a round has a deadline until it ends");
  }

 private:
  /// A round of the transaction that `env` names, among two receivers; addressed to nobody, among
  /// none.
  void open(round_kind kind, const envelope& env) {
    if (env.txn != spec_.txn) acked_.clear();
    spec_ = {fuzz::cluster,
             env.txn,
             spec_.number + 1,
             kind,
             {{fuzz::id, fuzz::life}, {8, {1, 1}}},
             digest{3, 4},
             now_ + std::chrono::seconds(1),
             {{{8, {1, 1}}, digest{5, 7}}}};
    if (!env.inc) spec_.who.clear();
    answers_.clear();
    opened_ = true;
    if (const auto result = join_.on_open(spec_)) {
      fuzz::demand(spec_.who.empty(), "a round waits for whom it asks");
      end(*result, terminal::timeout);
    }
  }

  /// `silent`: what became of who has not answered.
  void end(const round_result& result, terminal silent) {
    opened_ = false;
    fuzz::demand(result.txn == spec_.txn && result.number == spec_.number &&
                     result.kind == spec_.kind && result.outcomes.size() == spec_.who.size(),
                 "a result is that of the round");
    for (std::size_t i = 0; i < spec_.who.size(); ++i) {
      const auto& outcome = result.outcomes[i];
      const auto answer = answers_.find(spec_.who[i]);
      fuzz::demand(outcome.who == spec_.who[i], "everybody has a status");
      fuzz::demand(outcome.detail.size() <= reply_detail_max, "details are bounded");
      if (answer == answers_.end())
        fuzz::demand(outcome.status == silent, "who does not answer is not taken to agree");
      else
        fuzz::demand((outcome.status == terminal::ok) == answer->second,
                     "an ok is what was answered");
    }
  }

  void take(const hello_msg& m) { bounded(supervision_.on_hello(now_, m, m.name == "parted")); }
  void take(const pong_msg& m) { bounded(supervision_.on_pong(now_, m)); }
  void take(const goodbye_msg& m) {
    bounded(supervision_.on_goodbye(now_, m));
    lose({m.id, m.inc});
  }
  void take(const shard_reach_msg& m) {
    const participant who{m.id, m.inc};
    bounded(m.linked ? supervision_.on_reached(now_, who) : supervision_.on_parted(now_, who));
  }
  void take(const credit_msg& m) {
    const auto more = flusher_.on_credit(m);
    fuzz::demand(more.size() <= 1, "a credit is for one bucket");
    fuzz::demand(more.empty() || more[0] < buckets, "buckets that are sent exist");
  }
  void take(const reply_msg& m) {
    const participant from{m.id, m.env.inc};
    const bool asked = opened_ && m.env.cluster == spec_.cluster && m.env.txn == spec_.txn &&
                       m.round == spec_.number && std::ranges::count(spec_.who, from) == 1;
    const auto may = to(spec_.kind);
    const auto part = spec_.part_proofs.find(from);
    const auto& proof = part == spec_.part_proofs.end() ? spec_.proof : part->second;
    const bool yes = m.kind == may.yes && (spec_.kind == round_kind::vote || m.proof == proof);
    // The first answer stands.
    const bool first =
        asked && (m.kind == may.yes || m.kind == may.no) && answers_.try_emplace(from, yes).second;
    if (first && yes && may.yes == reply_kind::ack) acked_.insert(from);
    const auto ignored = join_.ignored();
    const auto result = join_.on_reply(m);
    fuzz::demand((join_.ignored() == ignored) == first, "what is not used is counted");
    for (const auto& p : spec_.who)
      fuzz::demand(join_.all_ok(spec_.txn, {p}) == acked_.contains(p), "an ack is a proven one");
    fuzz::demand(result.has_value() == (first && answers_.size() == spec_.who.size()),
                 "the last answer settles a round");
    if (!result) return;
    const auto kind = spec_.kind;
    end(*result, terminal::timeout);
    open(kind == round_kind::commit ? round_kind::vote : round_kind::commit, env_of(spec_));
  }

  /// From here on what the trainer sends: each opens the round that it asks.
  void take(const attach_msg& m) { open(round_kind::attach, m.env); }
  void take(const full_begin_msg& m) { open(round_kind::full, m.env); }
  void take(const prepare_msg& m) { open(round_kind::vote, m.env); }
  void take(const redo_msg& m) { open(round_kind::redo, m.env); }
  /// A round's answers are wanted earlier.
  void take(const audit_msg& m) {
    const bool other = m.inc != fuzz::life;
    const auto before = join_.deadline();
    join_.on_hurry({spec_.txn, spec_.number + (other ? 1 : 0),
                    now_ + std::chrono::milliseconds(m.challenge % 100'000)});
    fuzz::demand(join_.deadline().has_value() == before.has_value() &&
                     (!before || *join_.deadline() <= *before),
                 "a round is hurried, never prolonged");
    fuzz::demand(!other || join_.deadline() == before, "another round is not hurried");
  }
  /// Time passes.
  void take(const ping_msg& m) {
    now_ += std::chrono::milliseconds(m.current.number % 100'000);
    const auto due = join_.deadline();
    const auto result = join_.on_tick(now_);
    fuzz::demand(result.has_value() == (due && *due <= now_), "a round ends at its deadline");
    if (!result) return;
    end(*result, terminal::timeout);
    open(round_kind::commit, env_of(spec_));
  }
  /// A receiver has failed, or ended, or not.
  void take(const abort_msg& m) {
    const participant who{fuzz::id, m.env.inc};
    switch (m.env.txn.seq % 8) {
      case 3:
        return bounded(supervision_.on_not_admitted(now_, who, errc::wrong_base, "other"));
      case 4:
      case 5:
        bounded(supervision_.on_down(now_, who, m.env.txn.seq % 2 == 0));
        return lose(who);
      case 6:
        return bounded(supervision_.on_acknowledged(who.id));
      case 7:
        return bounded(supervision_.on_new_run(now_));
      default:
        bounded(supervision_.on_evicted(now_, who, errc::timeout, {}));
    }
  }
  void take(const commit_msg& m) {
    bounded(
        supervision_.on_admitted(now_, {fuzz::id, m.env.inc}, static_cast<admission>(m.round % 3)));
  }
  void take(const auto&) {}

  void lose(const participant& who) {
    const bool asked = opened_ && std::ranges::count(spec_.who, who) == 1;
    const bool first = asked && !answers_.contains(who);
    const auto result = join_.on_down(who, errc::dead);
    fuzz::demand(!result || first, "an answer stands when its sender ends");
    if (first) answers_.emplace(who, false);
    if (!result) return;
    end(*result, terminal::dead);
    open(round_kind::commit, env_of(spec_));
  }

  static envelope env_of(const round_spec& spec) { return {spec.cluster, spec.txn, fuzz::life}; }

  static void bounded(const supervision_fsm::actions& list) {
    fuzz::demand(list.size() <= supervision_fsm::receivers_max, "actions are bounded");
  }

  envelope env_{fuzz::cluster, {1, 2}, fuzz::life};
  time_point now_{};
  supervision_fsm supervision_{{}};
  join_fsm join_;
  flusher_fsm flusher_{credit};
  round_spec spec_;
  bool opened_ = false;
  std::map<participant, bool> answers_;
  std::set<participant> acked_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  auto rest = fuzz::input_of(data, size);
  const fuzz::held_bytes bound(32 * size + (32 << 10));
  trainer one;
  while (const auto message = fuzz::next_message(rest)) one.hear(*message);
  return 0;
}
