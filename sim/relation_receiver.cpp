// A receiver's step in the model's words.
#include <algorithm>
#include <array>

#include "sim/relation.hpp"
#include "sim/relation_table.hpp"

namespace lockstep::sim {

namespace {

using summary = receiver_fsm::summary;
using slot_kind = receiver_fsm::slot_kind;

/// The transaction that a step is about.
struct subject {
  txn_ref txn;
  version_ref target;
};

/// A message as the model knows it.
struct question {
  std::string_view name;  ///< empty: the model has no such message
  subject about;
  envelope env;
  bool addressed = false;
  std::uint32_t round = 0;
  /// What the receiver may do by itself in the same step.
  std::vector<std::string_view> by_itself;
};

std::string_view fence_word(const summary& s, txn_ref txn) {
  if (txn.run != s.fence.run) return txn.run > s.fence.run ? "newrun" : "oldrun";
  if (txn.seq == s.fence.seq) return "current";
  return txn.seq > s.fence.seq ? "ahead" : "behind";
}

std::string_view phase_word(receiver_phase phase) {
  switch (phase) {
    case receiver_phase::serving:
      return "serving";
    case receiver_phase::applying:
    case receiver_phase::reseeding:
      return "writing";
    case receiver_phase::empty:
    case receiver_phase::torn:
      break;
  }
  return "out";
}

std::string_view slot_word(const summary& s, txn_ref txn) {
  if (!s.slot) return "none";
  if (s.slot->txn != txn) return "other";
  if (s.slot->kind == slot_kind::full) return "full";
  if (s.slot->kind == slot_kind::redo) return "redo";
  return s.slot->staged ? "staged" : "arriving";
}

std::string_view tag_word(const summary& s, const subject& x) {
  if (!s.tag.version) return "none";
  if (s.tag.version.run != x.txn.run) return "alien";
  return s.tag.version == x.target ? "target" : "kin";
}

/// "current serving none kin none": what the receiver is to the transaction.
std::string state_words(const summary& s, const subject& x) {
  std::string out;
  const std::string_view attach = !s.attaching                ? "none"
                                  : s.attaching->txn == x.txn ? "mine"
                                                              : "other";
  for (const auto word :
       {fence_word(s, x.txn), phase_word(s.phase), slot_word(s, x.txn), tag_word(s, x), attach})
    (out += out.empty() ? "" : " ") += word;
  return out;
}

/// The same to whoever looks through the model's eyes, and more.
bool same_state(const summary& a, const summary& b) {
  auto x = a, y = b;
  if (x.slot && y.slot) x.slot->round = y.slot->round = 0;
  x.answered = y.answered = std::nullopt;
  return x == y;
}

/// What of `after` the words do not say: that nothing but what they name has changed.
std::optional<std::string> check_rest(const receiver_step& step, const question& q) {
  const auto& before = step.before;
  const auto& after = step.after;
  if (after.cluster != before.cluster || after.id != before.id || after.inc != before.inc)
    return "became somebody else";
  if (after.fence != before.fence && after.fence != q.about.txn) return "the fence went elsewhere";
  if (after.tag != before.tag && after.tag.version && after.tag.version != q.about.target)
    return "the tag names what nobody led to";
  if (after.slot && after.slot->txn != q.about.txn && after.slot != before.slot)
    return "another transaction's slot has changed";
  if (after.attaching && after.attaching->txn != q.about.txn && after.attaching != before.attaching)
    return "another transaction's attach has changed";
  if ((after.phase == receiver_phase::serving) != static_cast<bool>(after.tag.version))
    return "a tag without serving, or serving without one";
  if (before.slot && after.slot && before.slot->txn == after.slot->txn &&
      before.slot->round != after.slot->round &&
      after.slot->round != std::max(before.slot->round, q.round))
    return "the slot answers in a round that nobody asked";
  return std::nullopt;
}

std::optional<std::string> check_replies(const receiver_step& step, const question& q) {
  for (const auto& m : step.replies) {
    if (m.id != step.before.id || m.env != q.env) return "an answer in another's name";
    const bool ack = m.kind == reply_kind::ack || m.kind == reply_kind::nack;
    const auto slot = step.before.slot ? step.before.slot->round : 0;
    const auto round = !ack ? 0 : q.name.empty() ? slot : q.round;
    const bool repeated = q.name == "prepare" || q.name == "attach" || q.name == "full";
    if (m.round != round && !(repeated && m.round == 0)) return "an answer in another round";
  }
  return std::nullopt;
}

envelope own(const summary& s, txn_ref txn) {
  return {s.cluster, txn, s.inc};
}

/// No message: time, or an answer of the executor, about whatever is under way.
question no_question(const summary& before, bool executor) {
  question q;
  q.about = {before.fence, {}};
  if (executor) {
    q.by_itself = {"digest", "staged", "checked", "proven", "written"};
  } else {
    q.by_itself = {"expired", "written"};
  }
  if (before.attaching) q.about = {before.attaching->txn, before.attaching->target.version};
  if (before.slot) q.about = {before.slot->txn, before.slot->target.version};
  q.env = own(before, q.about.txn);
  q.addressed = true;
  return q;
}

struct asker {
  const summary& before;

  question about(std::string_view name, const envelope& env, version_ref target,
                 std::vector<std::string_view> by_itself, std::uint32_t round = 0) const {
    const bool addressed = env.cluster == before.cluster && env.inc == before.inc && env.txn;
    return {name, {env.txn, target}, env, addressed, round, std::move(by_itself)};
  }
  static version_ref made_by(const envelope& env) { return {env.txn.run, env.txn.seq}; }

  question operator()(const attach_msg& m) const {
    return about("attach", m.env, m.target.version, {"digest"});
  }
  question operator()(const full_begin_msg& m) const {
    if (!m.catch_up) return about("full", m.env, m.target.version, {"written"});
    // Only who has just said what it holds takes it up.
    const bool fits = before.answered == reply_kind::need_full;
    return about(fits ? "catch-up" : "catch-up-misfit", m.env, m.target.version,
                 {"proven", "written"});
  }
  question operator()(const prepare_msg& m) const {
    const bool fits = before.phase == receiver_phase::serving &&
                      before.tag.version.run == m.env.txn.run && before.tag.version == m.base &&
                      before.tag.state == m.base_state;
    return about(fits ? "prepare" : "prepare-misfit", m.env, m.target.version, {"staged"});
  }
  question operator()(const bucket_msg& m) const {
    const bool mine = before.slot && before.slot->txn == m.env.txn;
    return about("", m.env, mine ? before.slot->target.version : version_ref{},
                 {"staged", "checked", "proven", "written"});
  }
  question operator()(const commit_msg& m) const {
    const bool misfit = slot_word(before, m.env.txn) == "staged" &&
                        before.slot->target.state != m.target_state &&
                        before.phase == receiver_phase::serving;
    return about(misfit ? "commit-misfit" : "commit", m.env, made_by(m.env), {"written"}, m.round);
  }
  question operator()(const abort_msg& m) const {
    return about("abort", m.env, made_by(m.env), {});
  }
  question operator()(const redo_msg& m) const {
    return about("redo", m.env, made_by(m.env), {"checked", "written"}, m.round);
  }
  /// Nothing that the model knows.
  template <class Other>
  question operator()(const Other&) const {
    auto q = no_question(before, false);
    q.addressed = false;
    return q;
  }
};

/// Follows the model from one state, through what the receiver may do by itself, to `goal`.
class search {
 public:
  search(const receiver_step& step, const question& q, coverage* seen)
      : step_(step), q_(q), goal_(state_words(step.after, q.about)), seen_(seen) {}

  bool found() const {
    const auto from = state_words(step_.before, q_.about);
    return q_.name.empty() ? go_on(from, 0, 3) : follow(q_.name, from, 0, 3);
  }

 private:
  bool follow(std::string_view event, const std::string& from, std::size_t said, int depth) const {
    const auto head = "receiver " + std::string(event) + " " + from;
    const auto it = transitions().find(head);
    if (it == transitions().end()) return false;
    for (const std::string_view to : it->second) {
      const auto space = to.rfind(' ');
      const auto reply = to.substr(space + 1);
      auto next = said;
      if (reply != "-") {
        if (said < step_.replies.size() && reply_word(step_.replies[said]) == reply) {
          ++next;
        } else if (!step_.mute) {
          continue;
        }
      }
      const std::string state(to.substr(0, space));
      if ((state == goal_ && next == step_.replies.size()) || go_on(state, next, depth - 1)) {
        if (seen_) seen_->insert(head + " > " + std::string(to));
        return true;
      }
    }
    return false;
  }
  bool go_on(const std::string& from, std::size_t said, int depth) const {
    if (depth == 0) return false;
    for (const auto event : q_.by_itself)
      if (follow(event, from, said, depth)) return true;
    return false;
  }

  const receiver_step& step_;
  const question& q_;
  std::string goal_;
  coverage* seen_;
};

/// The model would have obeyed. An empty receiver has nothing to redo; to the model it is a torn
/// one that the message has not reached.
bool must_obey(const receiver_step& step, const question& q) {
  if (q.name.empty() || !q.addressed || step.mute) return false;
  if (q.name == "redo" && step.before.phase == receiver_phase::empty) return false;
  return transitions().count("receiver " + std::string(q.name) + " " +
                             state_words(step.before, q.about)) > 0;
}

bool repeats(const receiver_step& step, const question& q) {
  const bool asked = q.name == "attach" || q.name == "full" || q.name.starts_with("catch-up") ||
                     q.name.starts_with("prepare");
  return asked && q.addressed && q.env.txn == step.before.fence && step.replies.size() == 1 &&
         step.before.answered == step.replies[0].kind;
}

std::string describe(const receiver_step& step, const question& q, std::string_view why) {
  std::string out = "receiver " + std::to_string(step.before.id) + ", ";
  out += step.event ? std::string(name_of(*step.event)) : step.executor ? "executor" : "tick";
  out += " " + to_string(q.about.txn) + ": " + state_words(step.before, q.about) + " > " +
         state_words(step.after, q.about);
  for (const auto& m : step.replies) out += " " + reply_word(m);
  return out + ": " + std::string(why);
}

}  // namespace

std::optional<std::string> check(const receiver_step& step, coverage* seen) {
  const auto q = step.event ? std::visit(asker{step.before}, *step.event)
                            : no_question(step.before, step.executor);
  if (const auto why = check_rest(step, q)) return describe(step, q, *why);
  if (const auto why = check_replies(step, q)) return describe(step, q, *why);
  if (same_state(step.before, step.after) &&
      (step.replies.empty() ? !must_obey(step, q) : repeats(step, q)))
    return std::nullopt;
  if (!q.addressed) return describe(step, q, "obeyed what was not for it");
  if (search(step, q, seen).found()) return std::nullopt;
  return describe(step, q, "the model has no such transition");
}

std::optional<std::string> check_start(const summary& born) {
  const subject any{{1, 1}, {}};
  if (!born.attaching && !born.answered && allowed("receiver start", state_words(born, any)))
    return std::nullopt;
  return "receiver " + std::to_string(born.id) + ": a life begins as " + state_words(born, any);
}

}  // namespace lockstep::sim
