// What is said between a trainer and receivers, and what reports say of it.
#include <algorithm>
#include <variant>

#include "protocol/deadlines.hpp"
#include "sim/checker.hpp"

namespace lockstep::sim {

// --- words --------------------------------------------------------------------------------------

/// Whoever is left behind learns of it from pings, and whoever has no trainer loses its lease.
void checker::on_said(const trainer_process& t, endpoint to, const wire_message& m) {
  if (const auto* full = std::get_if<full_begin_msg>(&m))
    (full->catch_up ? catch_ups_ : fulls_).insert(full->env.txn);
  if (const auto* lend = std::get_if<relay_lend_msg>(&m))
    lent_.insert({to, lend->txn, lend->child_inc});
  std::visit(
      [&](const auto& question) {
        if constexpr (requires { question.env, question.challenge; }) {
          const auto& txn = question.env.txn;
          if (challenges_.emplace(question.challenge, txn).first->second != txn)
            violated("named: " + fleet_.name_of(t.where) +
                     " asks under a challenge that was answered in another transaction");
        }
      },
      m);
  if (const auto* commit = std::get_if<commit_msg>(&m))
    committed_.insert(names_.on_wire({commit->env.txn.run, commit->env.txn.seq}));
  check_ended(t, to, m);
  const auto* ping = std::get_if<ping_msg>(&m);
  if (!ping) return;
  const auto actors = fleet_.actors_of(t);
  if (!actors.supervisor || !actors.supervisor->trainer)
    return violated("I3: a lease is renewed by a trainer without a run");
  if (!actors.sender) return;
  const auto now = actors.sender->machine->snapshot().version;
  // What came about since the ping before may not have been said to the supervisor yet.
  auto& before = pinged_[{t.where, to}];
  if (before.run == now.run && before > ping->current)
    violated("I3: receivers are told of " + to_string(ping->current) + ", and the snapshot is at " +
             to_string(now));
  before = now;
}

/// Who was asked to stage something is told how that ended before it is asked for the next: by a
/// commit, an abort, or by being admitted anew.
void checker::check_ended(const trainer_process& t, endpoint to, const wire_message& m) {
  const auto ends = [&](const envelope& env) { prepared_.erase({t.where, to, env.inc}); };
  if (const auto* commit = std::get_if<commit_msg>(&m)) ends(commit->env);
  if (const auto* abort = std::get_if<abort_msg>(&m)) ends(abort->env);
  if (const auto* attach = std::get_if<attach_msg>(&m)) ends(attach->env);
  if (const auto* full = std::get_if<full_begin_msg>(&m)) ends(full->env);
  const auto* prepare = std::get_if<prepare_msg>(&m);
  if (!prepare) return;
  const auto& txn = prepare->env.txn;
  auto& asked = prepared_.emplace(std::tuple(t.where, to, prepare->env.inc), txn).first->second;
  if (asked.run == txn.run && asked != txn)
    violated("named: " + fleet_.name_of(to) + " was never told how " + to_string(asked) + " ended");
  asked = txn;
}

void checker::on_sent(endpoint from, const wire_message& m) {
  if (const auto* bucket = std::get_if<bucket_msg>(&m);
      bucket && fulls_.contains(bucket->env.txn) &&
      !lent_.contains({from, bucket->env.txn, bucket->env.inc}))
    return violated("named: " + fleet_.name_of(from) + " lends its weights to whom nobody named");
  const auto* reply = std::get_if<reply_msg>(&m);
  if (!reply) return;
  auto& r = fleet_.receivers().at(from);
  check_caught_up(r, *reply);
  const auto* s = fleet_.state_of_receiver(r);
  if (!s) return;
  const auto tag = names_.true_tag(r, s->machine->state().version);
  const bool right = tag && names(tag, r);
  const version_ref meant{reply->env.txn.run, reply->env.txn.seq};
  const bool stands = right && tag == names_.on_wire(meant);
  answers_.on_said(*reply, r.rotten && !stands ? std::nullopt : std::optional(stands));
  switch (reply->kind) {
    case reply_kind::attached:
    case reply_kind::full_ok:
    case reply_kind::ack:
      // Whatever flipped before was written over, or the proof is wrong.
      if (!right) break;
      r.proven.insert(tag);
      proven_.insert({r.id, tag, r.inc});
      r.rotten = false;
      break;
    default:
      break;
  }
}

/// Whose bytes nobody has spoilt is sent what leads from them to the target (F4).
void checker::check_caught_up(const receiver_process& r, const reply_msg& m) {
  const bool wrong = m.reason == errc::wrong_base || m.reason == errc::wrong_target;
  if (m.kind != reply_kind::full_fail || !wrong || !catch_ups_.contains(m.env.txn)) return;
  if (!r.rotten && !fleet_.failures().contains({m.env.txn, r.id}))
    violated("F4: receiver-" + std::to_string(r.id) +
             " is sent what does not lead from what it holds to the target");
}

/// A join handles a reply.
void checker::hear(const trainer_process& t, const reply_msg& m) {
  const auto* s = fleet_.actors_of(t).sender;
  if (!s) return;
  // The engine that lies is the one that no report can know of: its proof has to be found false.
  const auto failure = fleet_.failures().find({m.env.txn, m.id});
  if (m.kind == reply_kind::full_ok && failure != fleet_.failures().end() &&
      failure->second != fault_id::lie)
    violated("R15: receiver-" + std::to_string(m.id) + " was struck by " +
             to_string(failure->second) + " in a full transfer, and calls it whole");
  if (m.kind == reply_kind::ack)
    heard_.insert({t.where, m.env.inc, {m.env.txn.run, m.env.txn.seq}});
  if (m.kind == reply_kind::attached || m.kind == reply_kind::full_ok)
    heard_.insert({t.where, m.env.inc, s->machine->snapshot().version});
}

// --- reports ------------------------------------------------------------------------------------

/// The life that was asked: what a later one of the same receiver reached is no excuse.
bool checker::proved(const trainer_process& t, receiver_id id, version_ref version) const {
  if (const auto asked = asked_.find(t.where); asked != asked_.end())
    if (const auto life = asked->second.find(id); life != asked->second.end())
      return proven_.contains({id, version, life->second});
  const auto any = proven_.lower_bound({id, version, incarnation{}});
  return any != proven_.end() && std::get<0>(*any) == id && std::get<1>(*any) == version;
}

void checker::check_participant(const trainer_process& t, const sync_report& report,
                                const participant_report& p) {
  const auto txn = t.sync_txn;
  const auto who = "receiver-" + std::to_string(p.id);
  const bool committed = report.result != sync_result::aborted;
  if (p.status == terminal::ok && !committed) violated("I4: " + who + " is ok in an aborted sync");
  if (p.status != terminal::ok && p.status != terminal::aborted && p.reason == errc::none)
    violated("I4: " + who + " failed without a reason");
  if ((p.status == terminal::no || p.status == terminal::nack) && p.reason == errc::timeout)
    violated("I4: " + who + " refused, and the report calls that a silence");
  if (report.result == sync_result::ok && p.status != terminal::ok)
    violated("I4: ok, with " + who + " that was not");
  if (report.complete() && !p.member) violated("I4: complete, without " + who);
  const auto failure = fleet_.failures().find({txn, p.id});
  if (failure != fleet_.failures().end() && p.status == terminal::ok && p.redos == 0)
    violated("R15: " + who + " was struck by " + to_string(failure->second) +
             ", and the report does not say so");
  // Of a run that ended in the midst of a commit the report names the version before.
  if (p.status == terminal::ok && committed && !proved(t, p.id, names_.on_wire({txn.run, txn.seq})))
    violated("I4: " + who + " is ok and never held the target");
}

/// Every failure that is said in a sync stands in its report, once, and in no other.
void checker::check_answers(const trainer_process& t, const sync_report& report, bool by_leader) {
  const auto txn = t.sync_txn;
  if (!txn || names_.makes_up_reports()) return;
  const auto* sender = by_leader ? fleet_.actors_of(t).sender : nullptr;
  // A run that ends has no time to hear all.
  const bool whole = sender && sender->machine->phase() != sync_phase::failed;
  const auto& asked = asked_[t.where];
  for (const auto& p : report.participants) {
    const auto who = "receiver-" + std::to_string(p.id);
    if (!answers_.has_said(p, txn))
      violated("R15: " + who + " is said to have failed in " + to_string(txn) + ": " +
               std::string(to_string(p.reason)) + ", and has not said so in it");
    const auto life = asked.find(p.id);
    const bool committed = report.target != report.base;
    if (whole && life != asked.end() && !answers_.agrees(p, txn, life->second, committed))
      violated("R15: the report calls " + who + " " + std::string(to_string(p.status)) + " after " +
               std::to_string(p.redos) +
               " redos, and the join has heard: " + answers_.heard_text(txn, {p.id, life->second}));
  }
  answers_.forget(txn);
}

void checker::check_membership(const trainer_process& t, const participant_report& p) {
  if (!p.member) return;
  const auto* sender = fleet_.actors_of(t).sender;
  const auto now = sender ? sender->machine->summarize() : sync_fsm::summary{};
  const auto is_it = [&](const participant& m) { return m.id == p.id; };
  // Before the step, after it, or between: who asked once more is attached anew in the same step.
  if (std::ranges::none_of(members_[t.where], is_it) && std::ranges::none_of(now.members, is_it) &&
      !(now.phase == sync_phase::proving && std::ranges::any_of(now.view, is_it)))
    violated("I4: receiver-" + std::to_string(p.id) + " is called a member and is none");
}

/// Whether it says of the snapshot what came of it.
void checker::check_result(const trainer_process& t, const sync_report& report, bool by_leader) {
  const version_ref wanted{t.sync_txn.run, t.sync_txn.seq};
  const bool committed = report.target != report.base;
  if (committed && (!t.sync_txn || report.target != wanted))
    violated("I4: a report names a target that nobody asked for");
  if (committed && report.base != t.sync_base)
    violated("I4: a report names another base than the snapshot's");
  if (committed && report.result == sync_result::aborted)
    violated("I4: aborted, and something was committed");
  if (report.complete() && (!committed || report.participants.empty()))
    violated("I4: called " + std::string(to_string(report.result)) +
             ", and nothing was committed to anybody");
  if (report.result != sync_result::ok && report.reason == errc::none)
    violated("I4: not ok, without a reason");
  const auto* sender = by_leader ? fleet_.actors_of(t).sender : nullptr;
  // A run that cannot go on after a decision says no more than that.
  if (sender && sender->machine->phase() == sync_phase::failed) return;
  if (sender && report.result == sync_result::degraded && !committed)
    violated("I4: degraded, and nothing was committed");
  if (sender && report.base && sender->machine->snapshot().version != report.target)
    violated("I4: a report names another target than the snapshot's");
}

/// Whether it is so what a sync is said to have been called off for.
bool checker::explains(const trainer_process& t, const sync_report& aborted) const {
  const auto& options = fleet_.options();
  const auto& all = aborted.participants;
  const auto asked = asked_.find(t.where);
  const bool voted = asked != asked_.end() && !asked->second.empty();
  if (aborted.reason == errc::too_few_members) {
    const auto yes = std::ranges::count(all, terminal::aborted, &participant_report::status);
    return (voted ? static_cast<std::size_t>(yes) : all.size()) < options.sync.members_min;
  }
  if (aborted.reason == errc::correlated_failure) {
    std::map<errc, std::size_t> refusals;
    for (const auto& p : all)
      if (p.status == terminal::no) ++refusals[p.reason];
    return std::ranges::any_of(refusals, [&](const auto& r) {
      return r.second >= 2 && r.second * 100 >= options.sync.correlated_percent * all.size();
    });
  }
  // What else other ranks could not do they say themselves.
  if (!t.others.empty()) return true;
  if (aborted.reason == errc::bad_input) return t.unreadable;
  if (aborted.reason == errc::encode_failed) return t.refused;
  const auto at = staging_.find(t.where);
  if (aborted.reason != errc::timeout || at == staging_.end()) return false;
  const auto until = at->second.encoded + proof_timeout(options, 0, 0);
  if (fleet_.now() < until) return false;
  // Where receivers take parts nothing leaves, and the snapshot's word is not whole, before it has
  // carved them.
  if (std::ranges::any_of(fleet_.receivers(), [](const auto& r) { return !r.taken.empty(); }))
    return true;
  return voted && (!at->second.answered || *at->second.answered >= until);
}

/// What the report as a whole gives for a reason.
void checker::check_reason(const trainer_process& t, const sync_report& report, bool by_leader) {
  const auto* sender = by_leader ? fleet_.actors_of(t).sender : nullptr;
  // A run that ends says what for, and nothing else. One that has ended answers for no sync.
  if (!sender || sender->machine->phase() == sync_phase::failed || names_.makes_up_reports())
    return;
  const auto who = fleet_.name_of(t.where);
  const std::string why(to_string(report.reason));
  if (report.result == sync_result::aborted) {
    if (!explains(t, report))
      violated("R15: " + who + " calls a sync off and is wrong on why: " + why);
    return;
  }
  if (report.result == sync_result::ok) {
    if (report.reason != errc::none) violated("R15: " + who + " calls a sync ok, but for: " + why);
    return;
  }
  // Who had acknowledged and ended then has no reason of its own.
  const auto has = [&](const auto& p) { return p.reason == report.reason; };
  if (report.reason != errc::dead && std::ranges::none_of(report.participants, has))
    violated("R15: " + who + " says of a sync what nobody in it failed for: " + why);
}

void checker::on_sync(const trainer_process& t) {
  // A sender that is about to end may vote for a while after the report of its sync.
  asked_[t.where].clear();
}

void checker::on_report(trainer_process& t, const sync_report& report, bool by_leader) {
  if (report.label != t.label) violated("I4: a report of another sync");
  check_result(t, report, by_leader);
  check_reason(t, report, by_leader);
  // Whose actors died before they read anything does not know of it, and says that they did.
  if (t.unreadable && (report.target != report.base || report.reason == errc::none))
    violated("R15: the tensors could not be read, and the report does not say so");
  if (t.refused && (report.target != report.base || report.reason == errc::none))
    violated("R15: the snapshot could not stage the delta, and the report does not say so");
  for (const auto& p : t.others)
    if (p.ticket && p.label == report.label && p.unreadable && report.target != report.base)
      violated("R15: tensors of " + fleet_.name_of(p.where) +
               " could not be read, and something was committed");
  std::set<receiver_id> seen;
  for (const auto& p : report.participants) {
    if (!seen.insert(p.id).second) violated("I4: a participant stands twice in a report");
    check_participant(t, report, p);
    if (by_leader) check_membership(t, p);
  }
  auto& asked = asked_[t.where];
  const auto took_part = [&](const auto& life) { return seen.contains(life.first); };
  if (by_leader && !asked.empty() &&
      (asked.size() != seen.size() || !std::ranges::all_of(asked, took_part)))
    violated("I4: the report does not name who took part, and only them");
  check_answers(t, report, by_leader);
  asked.clear();
  // Its bytes are nobody's now, and whoever shows it has written what was called off (I5).
  if (report.result == sync_result::aborted && t.sync_txn)
    content_.erase(names_.on_wire({t.sync_txn.run, t.sync_txn.seq}));
  names_.on_report(t, report);
}

void checker::on_report(rank_process& p, const sync_report& report) {
  const auto who = fleet_.name_of(p.where);
  if (report.label != p.label) violated("I4: " + who + " reports another sync");
  if (report.result == sync_result::aborted) {
    if (report.target != report.base)
      violated("I4: " + who + " calls off a sync, and says that it has led on");
    if (*p.found_so && report.reason == errc::none)
      violated("R15: tensors of " + who + " could not be read, and its report does not say so");
    return;
  }
  if (report.result != sync_result::ok)
    violated("I4: " + who + " says more of a sync than it knows");
  const txn_ref sync{report.target.run, report.target.number};
  if (report.base.run != report.target.run || report.base.number >= report.target.number ||
      (sync == p.of->sync_txn && report.base != p.of->sync_base))
    violated("I4: " + who + " says of a sync that it began at " + to_string(report.base));
  if (!decided_.contains(report.target))
    violated("I4: " + who + " calls a sync ok that nobody has committed");
  const auto label = labels_.find(names_.on_wire(report.target));
  if (label == labels_.end() || label->second != p.label)
    violated("I4: " + who + " calls a sync ok, and another was committed");
  if (p.unreadable) violated("R15: tensors of " + who + " could not be read, and it calls that ok");
}

}  // namespace lockstep::sim
