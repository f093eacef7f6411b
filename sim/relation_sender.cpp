// A sender's step in the model's words.
#include <algorithm>
#include <set>

#include "sim/relation.hpp"
#include "sim/relation_table.hpp"

namespace lockstep::sim {

namespace {

using summary = sync_fsm::summary;
using word = sender_step::word;

bool has(const std::vector<participant>& where, const participant& who) {
  return std::find(where.begin(), where.end(), who) != where.end();
}

/// The phase in the model. Local work before a question is asked is not seen there, and to have
/// decided to advance is to have advanced.
std::string_view phase_word(sync_phase phase) {
  switch (phase) {
    case sync_phase::voting:
      return "voting";
    case sync_phase::committing:
      return "committing";
    case sync_phase::attaching:
      return "attaching";
    case sync_phase::full_encoding:
    case sync_phase::seeding:
      return "seeding";
    case sync_phase::failed:
      return "failed";
    case sync_phase::idle:
    case sync_phase::encoding:
    case sync_phase::advancing:
    case sync_phase::proving:
      break;
  }
  return "idle";
}

version_ref snapshot_of(const summary& s) {
  return s.phase == sync_phase::advancing ? s.target.version : s.snapshot.version;
}

std::string_view sent_word(word::kind what) {
  switch (what) {
    case word::attach:
      return "attach";
    case word::full:
      return "full";
    case word::prepare:
      return "prepare";
    case word::commit:
      return "commit";
    case word::abort:
      return "abort";
    case word::redo:
      return "redo";
  }
  return "?";
}

/// What the step counts: what the join has just said, or has said of the votes while the snapshot
/// staged. To the model the votes are over when that has too.
const round_result* counted(const sender_step& step) {
  const auto& votes = step.before.votes;
  const bool spoke = step.event == sender_event::encoded || step.event == sender_event::tick;
  if (votes && spoke && step.after.phase != sync_phase::voting) return &*votes;
  const bool now = step.event == sender_event::round && step.result && !step.after.votes;
  return now && step.result->txn == step.before.txn && step.result->number == step.before.round
             ? &*step.result
             : nullptr;
}

/// The model's name of what happened; empty if it has none.
std::string_view event_word(const sender_step& step) {
  const auto before = step.before.phase;
  const auto after = step.after.phase;
  if (before == sync_phase::voting && counted(step) != nullptr) return "votes";
  switch (step.event) {
    case sender_event::encoded:
      if (before != sync_phase::encoding) return {};
      if (after == sync_phase::voting) return "sync";
      return step.sent.empty() ? "" : "too_few";
    case sender_event::proof:
      // Who takes parts is proven part by part: the last word makes the step.
      return before == sync_phase::proving && after != sync_phase::proving ? "attach" : "";
    case sender_event::round:
      if (counted(step) == nullptr) return {};
      if (before == sync_phase::committing) return "acks";
      if (before == sync_phase::attaching) return "attached";
      return before == sync_phase::seeding ? "seeded" : "";
    case sender_event::membership:
      return step.before.members == step.after.members ? "" : "down";
    default:
      return {};
  }
}

/// One participant's answer, as the model classes them.
std::string_view answer_word(const sender_step& step, std::string_view event,
                             const participant& who) {
  const auto* result = counted(step);
  if (result == nullptr || !has(step.before.view, who)) return "-";
  const bool acks = event == "acks";
  const bool down = has(step.before.down, who);
  const auto& all = result->outcomes;
  const auto it = std::find_if(all.begin(), all.end(), [&](const auto& o) { return o.who == who; });
  // Who ended is out before the snapshot advances, and not asked again before.
  const bool concluding = acks && step.after.phase != sync_phase::committing;
  if (it == all.end()) return down && concluding ? "dead" : "earlier";
  const auto& o = *it;
  if (!acks && (down || o.status == terminal::dead)) return "dead";
  if (o.status == terminal::ok) return down && concluding ? "dead" : "yes";
  // To the model a lie is a silence: neither is asked again.
  if (acks || event == "seeded")
    return o.status == terminal::nack && o.reason != errc::false_ack ? "no" : "silent";
  if (o.status != terminal::no) return "silent";
  if (event == "attached") return o.reason == errc::behind ? "no" : "silent";
  return in_doubt(o.reason) ? "doubt" : "no";
}

/// Was taken out of the view by the attach that began in this step, after all else: the model does
/// that when the attach leaves.
bool waits(const sender_step& step, const participant& who) {
  return step.after.phase == sync_phase::proving && step.after.txn != step.before.txn &&
         has(step.after.view, who);
}

std::set<participant> everybody(const sender_step& step) {
  std::set<participant> out;
  for (const auto* some :
       {&step.before.members, &step.after.members, &step.before.view, &step.after.view})
    out.insert(some->begin(), some->end());
  for (const auto& w : step.sent) out.insert(w.to);
  return out;
}

/// Whether this could not have been seen to be sent.
bool unseen(const sender_step& step, const participant& who, word::kind what) {
  const bool shipped = what == word::full || what == word::prepare || what == word::redo;
  return !step.all_sent || has(step.unreached, who) || (shipped && has(step.unshipped, who));
}

/// A commit that is repeated, and a full whose bytes took their time: the model sent them before.
bool sent_before(const sender_step& step) {
  const auto all_are = [&](word::kind what) {
    return std::all_of(step.sent.begin(), step.sent.end(),
                       [&](const word& w) { return w.what == what && has(step.after.view, w.to); });
  };
  if (step.event == sender_event::tick && step.before.phase == sync_phase::committing &&
      step.after.phase == sync_phase::committing && step.before.round == 1)
    return all_are(word::commit);
  if (step.event == sender_event::full_encoded && step.before.phase == sync_phase::full_encoding &&
      step.after.phase == sync_phase::seeding)
    return all_are(word::full) && std::ranges::all_of(step.after.view, [&](const auto& p) {
             return unseen(step, p, word::full) ||
                    std::ranges::any_of(step.sent, [&](const word& w) { return w.to == p; });
           });
  return step.sent.empty();
}

/// What holds of every step, whatever the model calls it.
std::optional<std::string> check_frame(const sender_step& step) {
  const auto& before = step.before;
  const auto& after = step.after;
  const bool advanced =
      step.event == sender_event::advanced && before.phase == sync_phase::advancing;
  if (after.snapshot != before.snapshot && !(advanced && after.snapshot == before.target))
    return "the snapshot changed without having been acknowledged";
  if (before.phase == sync_phase::advancing && after.phase != sync_phase::advancing && !advanced &&
      after.phase != sync_phase::failed)
    return "stopped advancing by itself";
  if (advanced && after.phase != sync_phase::failed && after.snapshot != before.target)
    return "was told that the snapshot advanced, and did not believe it";
  if (after.phase == sync_phase::advancing && before.phase != sync_phase::advancing &&
      before.phase != sync_phase::committing)
    return "advances what was not committed";
  const auto fresh = [](sync_phase p) {
    return p == sync_phase::encoding || p == sync_phase::proving || p == sync_phase::full_encoding;
  };
  if (after.txn < before.txn) return "the transaction's number went back";
  for (const auto& w : step.sent)
    if (w.txn && w.txn != before.txn && w.txn != after.txn) return "speaks of another transaction";
  if (fresh(after.phase) && after.phase != before.phase && after.txn == before.txn)
    return "the transaction's number was used before";
  if (!fresh(after.phase) && after.txn != before.txn && after.phase != sync_phase::voting &&
      phase_word(after.phase) != "idle")
    return "a transaction began in the middle of another";
  return std::nullopt;
}

std::optional<std::string> check_end(const sender_step& step) {
  const bool may = step.before.phase == sync_phase::failed ||
                   step.event == sender_event::advanced || step.event == sender_event::newer_run ||
                   step.event == sender_event::tick;
  if (!may) return "the run ended for no reason";
  if (!step.sent.empty()) return "a run that has ended still speaks";
  if (!step.after.members.empty()) return "a run that has ended has members";
  return std::nullopt;
}

class sender_check {
 public:
  sender_check(const sender_step& step, coverage* seen)
      : step_(step),
        seen_(seen),
        event_(event_word(step)),
        head_("sender " + std::string(event_) + " " + std::string(phase_word(step.before.phase))) {}

  std::optional<std::string> run() const {
    if (const auto why = check_frame(step_)) return describe(*why);
    if (step_.after.phase == sync_phase::failed) {
      if (const auto why = check_end(step_)) return describe(*why);
      return std::nullopt;
    }
    if (step_.before.phase == sync_phase::failed) return describe("a run that has ended goes on");
    if (event_.empty()) return stutter();
    for (const auto& who : everybody(step_))
      if (const auto bad = each(who)) return bad;
    if (event_ == "votes" || event_ == "acks") return together();
    if (snapshot_of(step_.before) != snapshot_of(step_.after))
      return describe("the snapshot advanced");
    return std::nullopt;
  }

 private:
  std::optional<std::string> stutter() const {
    const bool members_stay = [&] {
      for (const auto& who : everybody(step_))
        if (has(step_.before.members, who) != has(step_.after.members, who) && !waits(step_, who))
          return false;
      return true;
    }();
    if (phase_word(step_.before.phase) == phase_word(step_.after.phase) && members_stay &&
        snapshot_of(step_.before) == snapshot_of(step_.after) && sent_before(step_))
      return std::nullopt;
    return describe("the model does nothing here");
  }

  std::optional<std::string> each(const participant& who) const {
    std::string_view sent = "-";
    for (const auto& w : step_.sent)
      if (w.to == who) sent = sent == "-" ? sent_word(w.what) : "too much";
    const bool in = has(step_.before.members, who);
    const bool stays = has(step_.after.members, who);
    const auto answer = answer_word(step_, event_, who);
    if (answer == "-" && (in == stays || (in && waits(step_, who))) && sent == "-" &&
        !demanded(who))
      return std::nullopt;
    const auto from = std::string(phase_word(step_.after.phase)) + " " + std::string(answer) +
                      (in ? " in" : " out");
    const auto to = from + (stays ? " > in " : " > out ");
    if (found_sending(to, sent, who)) return std::nullopt;
    if (waits(step_, who) && found_sending(from + " > in ", sent, who)) return std::nullopt;
    return describe("receiver " + std::to_string(who.id) + ": " + head_ + " > " + to +
                    std::string(sent) + " is not in the model");
  }
  bool found_sending(const std::string& to, std::string_view sent, const participant& who) const {
    bool any = found(to + std::string(sent));
    if (sent != "-") return any;
    for (const auto what :
         {word::attach, word::full, word::prepare, word::commit, word::abort, word::redo})
      if (may_be_silent(who, what)) any |= found(to + std::string(sent_word(what)));
    return any;
  }
  /// Whoever takes part in what begins is asked.
  bool demanded(const participant& who) const {
    return (event_ == "sync" || event_ == "attach") && has(step_.after.view, who);
  }
  /// Nothing was seen to be sent although the model sends: it was lost, or there is nobody any
  /// more, or the bytes take their time.
  bool may_be_silent(const participant& who, word::kind what) const {
    const bool later = what == word::full && step_.after.phase == sync_phase::full_encoding;
    return unseen(step_, who, what) || has(step_.before.down, who) || later;
  }

  std::optional<std::string> together() const {
    const bool some =
        std::any_of(step_.before.view.begin(), step_.before.view.end(),
                    [&](const auto& p) { return has(step_.after.members, p) || waits(step_, p); });
    const bool same = snapshot_of(step_.before) == snapshot_of(step_.after);
    const auto to = std::string(phase_word(step_.after.phase)) + (same ? " same" : " advanced") +
                    (some ? " some" : " nobody");
    if (found(to)) return std::nullopt;
    return describe(head_ + " > " + to + " is not in the model");
  }

  bool found(const std::string& to) const {
    if (!allowed(head_, to)) return false;
    if (seen_) seen_->insert(head_ + " > " + to);
    return true;
  }

  std::string describe(std::string_view why) const {
    return "sender, " + to_string(step_.before.txn) + ", " +
           std::string(to_string(step_.before.phase)) + " > " +
           std::string(to_string(step_.after.phase)) + ": " + std::string(why);
  }

  const sender_step& step_;
  coverage* seen_;
  std::string_view event_;
  std::string head_;
};

}  // namespace

std::optional<std::string> check(const sender_step& step, coverage* seen) {
  return sender_check(step, seen).run();
}

std::optional<std::string> check_start(const summary& booted) {
  if (booted.phase == sync_phase::idle && booted.members.empty() && !booted.txn &&
      booted.snapshot.version.number == 0)
    return std::nullopt;
  return "sender: a run begins with members, or in the middle of something";
}

}  // namespace lockstep::sim
