// What a join counts, and what a snapshot does, in the model's words.
#include "sim/relation_trainer.hpp"

#include <algorithm>
#include <utility>

#include "sim/relation_table.hpp"

namespace lockstep::sim {

namespace {

std::string_view word_of(round_kind kind) {
  switch (kind) {
    case round_kind::attach:
      return "attach";
    case round_kind::full:
      return "full";
    case round_kind::vote:
      return "vote";
    case round_kind::commit:
      return "commit";
    case round_kind::redo:
      return "redo";
  }
  return "?";
}

/// The model knows no liars: who says yes without the proof of it has said no, and is found out.
bool lies(const round_spec& spec, const reply_msg& m) {
  if (spec.kind == round_kind::vote) return false;
  const auto part = spec.part_proofs.find({m.id, m.env.inc});
  return m.proof != (part == spec.part_proofs.end() ? spec.proof : part->second);
}

/// A terminal status as the model counts it.
std::string_view counted(round_kind of, const outcome& o) {
  switch (o.status) {
    case terminal::ok:
      return "yes";
    case terminal::no:
      return of == round_kind::vote && in_doubt(o.reason) ? "doubt" : "no";
    case terminal::nack:
      return o.reason == errc::false_ack ? "lie" : "no";
    case terminal::dead:
      return "dead";
    case terminal::timeout:
      return "";
    default:
      return "?";
  }
}

std::string name_of(const round_spec& spec) {
  return "join, " + to_string(spec.txn) + ", round " + std::to_string(spec.number) + " (" +
         std::string(word_of(spec.kind)) + "): ";
}

}  // namespace

bool join_relation::round::complete() const {
  return std::ranges::none_of(heard, [](const auto word) { return word.empty(); });
}

void join_relation::on_open(const round_spec& spec) {
  if (acked_txn_ != spec.txn) acked_.clear();
  acked_txn_ = spec.txn;
  const auto n = spec.who.size();
  round_ = round{spec, std::vector<std::string_view>(n), std::vector<digest>(n)};
}

/// Whose answer it is to the round under way, as the model tells them apart.
std::string_view join_relation::whose(const reply_msg& m) const {
  if (!round_) return "other";
  const auto& spec = round_->spec;
  if (m.env.cluster != spec.cluster || m.env.txn != spec.txn || m.round != spec.number ||
      !answers_to(spec.kind, m.kind))
    return "other";
  const auto it = std::ranges::find(spec.who, participant{m.id, m.env.inc});
  if (it == spec.who.end()) return "stranger";
  const auto index = static_cast<std::size_t>(it - spec.who.begin());
  return round_->heard[index].empty() ? "asked" : "answered";
}

void join_relation::on_reply(const reply_msg& m, coverage* seen) {
  const auto of = whose(m);
  if (of != "asked" && seen == nullptr) return;
  const auto head = "join " + std::string(round_ ? word_of(round_->spec.kind) : "none") + " " +
                    std::string(of) + " " + (of == "other" ? "any" : reply_word(m));
  if (of != "asked") {
    if (allowed(head, "-")) seen->insert(head + " > -");
    return;
  }
  const participant who{m.id, m.env.inc};
  auto& spec = round_->spec;
  const auto index = static_cast<std::size_t>(std::ranges::find(spec.who, who) - spec.who.begin());
  auto& heard = round_->heard[index];
  const auto line = transitions().find(head);
  heard = line == transitions().end() ? "?" : std::string_view(line->second.front());
  if (heard == "yes" && lies(spec, m)) {
    heard = "lie";
    return;
  }
  if (seen && line != transitions().end()) seen->insert(head + " > " + std::string(heard));
  if (m.kind == reply_kind::need_full) round_->held[index] = m.proof;
  if (m.kind == reply_kind::ack) acked_.push_back(who);
}

void join_relation::on_down(const participant& who) {
  if (!round_) return;
  const auto it = std::ranges::find(round_->spec.who, who);
  if (it == round_->spec.who.end()) return;
  auto& heard = round_->heard[static_cast<std::size_t>(it - round_->spec.who.begin())];
  if (heard.empty()) heard = "dead";
}

void join_relation::on(const join_event& m, coverage* seen) {
  if (const auto* spec = std::get_if<round_spec>(&m)) on_open(*spec);
  if (const auto* reply = std::get_if<reply_msg>(&m)) on_reply(*reply, seen);
  if (const auto* who = std::get_if<participant>(&m)) on_down(*who);
  if (std::holds_alternative<std::monostate>(m)) on_tick();
}

std::optional<std::string> join_relation::check(const round_result* said) {
  const bool may_end = std::exchange(ticked_, false);
  if (said == nullptr) {
    if (!round_ || !round_->complete()) return std::nullopt;
    return name_of(round_->spec) + "everybody has answered, and it does not say so";
  }
  if (!round_) return "join, " + to_string(said->txn) + ": ends a round that is not under way";
  const auto over = std::move(*round_);
  round_.reset();
  const auto wrong = [&](const std::string& why) { return name_of(over.spec) + why; };
  if (!over.complete() && !may_end) return wrong("ends before everybody has answered");
  if (said->txn != over.spec.txn || said->number != over.spec.number ||
      said->kind != over.spec.kind || said->outcomes.size() != over.spec.who.size())
    return wrong("says how another round ended");
  for (std::size_t i = 0; i < said->outcomes.size(); ++i) {
    const auto& o = said->outcomes[i];
    const auto of = [&](const std::string& why) {
      return wrong("receiver " + std::to_string(over.spec.who[i].id) + why);
    };
    if (o.who != over.spec.who[i]) return of(" is left out");
    const auto word = counted(over.spec.kind, o);
    if (word != over.heard[i])
      return of(" is said to be " + std::string(to_string(o.status)) + ", which to the model is '" +
                std::string(word) + "' and not '" + std::string(over.heard[i]) + "'");
    if (over.spec.kind == round_kind::attach && word == "no" && o.held != over.held[i])
      return of(" is said to hold what it does not");
  }
  return std::nullopt;
}

std::optional<std::string> join_relation::check_verdicts(
    const std::optional<sync_action::conclude>& asked, std::span<const verdict> said) const {
  // It answers as it is asked, so no word of another transaction is only late.
  for (const auto& v : said)
    if (!asked || v.txn != asked->txn)
      return "join, " + to_string(v.txn) + ": says who has acknowledged, and was not asked";
  if (!asked) return std::nullopt;
  const auto& view = asked->view;
  const bool all =
      view.empty() || (asked->txn == acked_txn_ && std::ranges::all_of(view, [&](auto& p) {
                         return std::ranges::find(acked_, p) != acked_.end();
                       }));
  const auto name = "join, " + to_string(asked->txn) + ": ";
  if (!all) return name + "is asked whether those acknowledged who did not";
  if (said.empty()) return name + "does not say whether everybody has acknowledged";
  if (said.size() > 1) return name + "says more than once whether everybody has acknowledged";
  if (!said.front().all_ok) return name + "denies what everybody in the view has acknowledged";
  return std::nullopt;
}

std::optional<std::string> check(const snapshot_step& step) {
  using s = snapshot_step;
  const auto& before = step.before;
  const auto& after = step.after;
  const auto wrong = [&](const char* why) {
    return "snapshot, " + to_string(step.txn) + ": " + why;
  };
  const bool stays = after.held == before.held;
  const bool staged = before.staged && before.staged->txn == step.txn;
  const auto same = [](const auto& a, const auto& b) {
    return a.has_value() == b.has_value() && (!a || (a->txn == b->txn && a->target == b->target));
  };
  const bool asked = step.event == s::verdict || step.event == s::stage;
  // It answers as it is asked: none of another transaction, or of what it was asked before, is
  // late.
  for (const auto& a : step.said)
    if (!asked || a.to != step.event || a.txn != step.txn)
      return "snapshot, " + to_string(a.txn) + ": answers what it was not asked";
  if (step.said.size() > 1) return wrong("answers more than once");
  const bool done = !step.said.empty() && step.said.front().done;
  if (step.event == s::verdict && staged && step.all_ok && !stays) {
    if (step.heard && !done) return wrong("does not say that it has advanced");
    if (after.held != before.staged->target) return wrong("is not what was staged");
    if (after.staged) return wrong("keeps staged what it has become");
    return std::nullopt;
  }
  if (asked && step.heard && step.said.empty()) return wrong("does not answer");
  if (!stays) return wrong("changed without having been acknowledged");
  if (step.event == s::verdict && done) return wrong("says that it has advanced");
  if (step.event == s::stage) {
    const bool fits = step.base == before.held.version &&
                      step.target.version == version_ref{step.txn.run, step.txn.seq};
    if (step.heard && done != after.staged.has_value())
      return wrong("does not say whether it has staged");
    if (!after.staged) return std::nullopt;  // refused
    if (!fits || !same(after.staged, std::optional(snapshot_fsm::pending{step.txn, step.target})))
      return wrong("has staged what nobody led to");
    return std::nullopt;
  }
  if (step.event == s::drop && staged) {
    if (after.staged) return wrong("keeps what is over");
    return std::nullopt;
  }
  // What could not be written is lost with the run.
  if (!same(after.staged, before.staged)) return wrong("what is staged has changed by itself");
  return std::nullopt;
}

}  // namespace lockstep::sim
