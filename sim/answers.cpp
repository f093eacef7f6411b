#include "sim/answers.hpp"

#include <algorithm>

#include "sim/relation_table.hpp"

namespace lockstep::sim {

namespace {

bool counts(round_kind round) {
  return round == round_kind::vote || round == round_kind::commit || round == round_kind::redo;
}

}  // namespace

void answers::on_said(const reply_msg& m, std::optional<bool> right) {
  if (m.kind == reply_kind::vote_no || m.kind == reply_kind::nack || m.kind == reply_kind::ack)
    said_[{m.env.txn, m.id}].insert({m.env.inc, m.round, m.kind, m.reason, right});
}

void answers::on_opened(caf::actor_id join, const round_spec& round) {
  open_[join] = round;
}

void answers::on_hurried(caf::actor_id join, const round_hurry& h) {
  const auto it = open_.find(join);
  if (it == open_.end()) return;
  auto& round = it->second;
  if (round.txn == h.txn && round.number == h.number)
    round.deadline = std::min(round.deadline, h.deadline);
}

void answers::on_heard(caf::actor_id join, const reply_msg& m, time_point now) {
  const auto it = open_.find(join);
  if (it == open_.end()) return;
  const auto& round = it->second;
  if (round.txn == m.env.txn && round.number == m.round && answers_to(round.kind, m.kind))
    note(join, {m.id, m.env.inc}, {m.kind, m.reason}, now);
}

void answers::on_down(caf::actor_id join, const participant& who, time_point now) {
  note(join, who, {}, now);
}

bool answers::ended_early(const round_result& m, time_point now) const {
  const auto is_silent = [](const outcome& o) { return o.status == terminal::timeout; };
  if (std::ranges::none_of(m.outcomes, is_silent)) return false;
  return std::ranges::any_of(open_, [&](const auto& join) {
    const auto& round = join.second;
    return round.txn == m.txn && round.number == m.number && round.kind == m.kind &&
           now < round.deadline;
  });
}

void answers::note(caf::actor_id join, const participant& who, heard what, time_point now) {
  const auto it = open_.find(join);
  if (it == open_.end()) return;
  const auto& round = it->second;
  if (!counts(round.kind) || std::ranges::count(round.who, who) == 0) return;
  what.late = now >= round.deadline;
  heard_.try_emplace({round.txn, who, round.number}, what);
}

const answers::heard* answers::find(txn_ref txn, const participant& who,
                                    std::uint32_t round) const {
  const auto it = heard_.find({txn, who, round});
  return it == heard_.end() ? nullptr : &it->second;
}

std::optional<bool> answers::is_right(txn_ref txn, const participant& who,
                                      std::uint32_t round) const {
  std::optional<bool> out;
  const auto all = said_.find({txn, who.id});
  if (all == said_.end()) return out;
  for (const auto& s : all->second) {
    if (s.life != who.inc || s.round != round || s.kind != reply_kind::ack) continue;
    if (!s.right || (out && *out != *s.right)) return std::nullopt;
    out = s.right;
  }
  return out;
}

/// Whether its status is what was heard in that round.
bool answers::fits(const participant_report& p, txn_ref txn, const participant& who,
                   std::uint32_t round) const {
  const auto* h = find(txn, who, round);
  if (!h || (h->late && p.status == terminal::timeout)) return p.status == terminal::timeout;
  if (!h->kind) return p.status == terminal::dead;
  if (*h->kind != reply_kind::ack) {
    const auto failed = *h->kind == reply_kind::vote_no ? terminal::no : terminal::nack;
    return p.status == failed && p.reason == h->reason;
  }
  const bool false_ack = p.status == terminal::nack && p.reason == errc::false_ack;
  const auto right = is_right(txn, who, round);
  return right.value_or(!false_ack) ? p.status == terminal::ok : false_ack;
}

bool answers::agrees(const participant_report& p, txn_ref txn, const incarnation& life,
                     bool committed) const {
  const participant who{p.id, life};
  const auto* vote = find(txn, who, 0);
  const bool may_go_on = vote && vote->kind == reply_kind::vote_yes;
  if (p.redos == 0) {
    // One that has ended when the votes are counted has, whatever it voted.
    if (vote && vote->kind && p.status == terminal::dead && !find(txn, who, 1)) return true;
    if (!may_go_on || (vote->late && p.status == terminal::timeout)) return fits(p, txn, who, 0);
  }
  if (!may_go_on) return false;
  if (!committed) return p.status == terminal::aborted && p.redos == 0;
  for (std::uint32_t round = 1; round <= p.redos; ++round) {
    const auto* h = find(txn, who, round);
    if (!h || h->kind != reply_kind::nack) return false;
  }
  return fits(p, txn, who, p.redos + 1);
}

bool answers::has_said(const participant_report& p, txn_ref txn) const {
  std::set<std::uint32_t> nacked;
  bool status = p.status != terminal::no && p.status != terminal::nack;
  if (const auto all = said_.find({txn, p.id}); all != said_.end()) {
    for (const auto& s : all->second) {
      if (s.kind == reply_kind::nack) nacked.insert(s.round);
      if (s.kind == reply_kind::ack)
        status |= p.reason == errc::false_ack && !s.right.value_or(false);
      else
        status |= s.reason == p.reason &&
                  p.status == (s.kind == reply_kind::nack ? terminal::nack : terminal::no);
    }
  }
  return status && p.redos <= nacked.size();
}

std::string answers::heard_text(txn_ref txn, const participant& who) const {
  std::string out;
  for (auto it = heard_.lower_bound({txn, who, 0}); it != heard_.end(); ++it) {
    if (std::get<0>(it->first) != txn || std::get<1>(it->first) != who) break;
    const auto& h = it->second;
    if (!out.empty()) out += ", ";
    out += h.kind ? std::string(to_string(*h.kind)) : "its end";
    if (h.reason != errc::none) out += " (" + std::string(to_string(h.reason)) + ")";
  }
  return out.empty() ? "nothing" : out;
}

void answers::forget(txn_ref txn) {
  const auto of_run = [](txn_ref t) { return txn_ref{t.run, 0}; };
  heard_.erase(heard_.lower_bound({of_run(txn), {}, 0}),
               heard_.lower_bound({txn_ref{txn.run, txn.seq + 1}, {}, 0}));
  said_.erase(said_.lower_bound({of_run(txn), 0}),
              said_.lower_bound({txn_ref{txn.run, txn.seq + 1}, 0}));
}

}  // namespace lockstep::sim
