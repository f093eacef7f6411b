#include "protocol/sync_fsm.hpp"

#include <algorithm>
#include <array>
#include <utility>

#include "protocol/deadlines.hpp"

namespace lockstep {

namespace act = sync_action;

namespace {

void remove(std::vector<participant>& from, const participant& who) {
  from.erase(std::remove(from.begin(), from.end(), who), from.end());
}

/// Refusals that say something about the receiver's state, not about the delta.
bool about_the_receiver(const outcome& o) {
  return o.status == terminal::timeout || o.status == terminal::dead ||
         o.reason == errc::wrong_base || o.reason == errc::not_serving || o.reason == errc::torn;
}

}  // namespace

std::string_view to_string(sync_phase phase) noexcept {
  constexpr std::array<std::string_view, 10> names{
      "idle",    "encoding",  "voting",        "committing", "advancing",
      "proving", "attaching", "full_encoding", "seeding",    "failed"};
  return names[static_cast<std::size_t>(phase)];
}

sync_fsm::sync_fsm(std::uint64_t cluster, std::uint64_t run, digest state, std::uint64_t label,
                   std::uint64_t model_bytes, const settings& s)
    : cluster_(cluster), settings_(s), model_bytes_(model_bytes), run_(run) {
  snapshot_ = {{run, 0}, state, label};
}

txn_ref sync_fsm::fresh_txn() {
  // Never reused, not even by a retry: a late message of one attempt must not pass for another's.
  txn_ = {run_, ++seq_};
  round_ = 0;
  down_.clear();
  return txn_;
}

std::vector<participant> sync_fsm::members() const {
  std::vector<participant> out;
  for (const auto& [id, inc] : members_) out.push_back({id, inc});
  return out;
}

sync_fsm::summary sync_fsm::summarize() const {
  return {phase_, txn_, round_, snapshot_, target_, members(), view_, {down_.begin(), down_.end()},
          votes_};
}

participant_report* sync_fsm::in_report(receiver_id id) {
  if (!report_) return nullptr;
  for (auto& p : report_->participants)
    if (p.id == id) return &p;
  return nullptr;
}

void sync_fsm::open_round(actions& out, round_kind kind, std::vector<participant> who, digest proof,
                          time_point deadline) {
  out.push_back(act::open_round{{cluster_, txn_, round_, kind, std::move(who), proof, deadline}});
  // A life that ended before the round opened will not answer it: do not wait for the deadline.
  for (const auto& p : down_) out.push_back(act::mark_down{p, errc::dead});
}

// --- choosing what to do ------------------------------------------------------------------------

void sync_fsm::next(time_point now, actions& out) {
  (void)now;
  if (phase_ != sync_phase::idle) return;
  // A sync waits for one admission, the one it found under way: a receiver that flaps must not
  // starve the trainer.
  if (wish_) {
    start_sync(out);
  } else if (!candidates_.empty()) {
    start_join(out);
  }
}

sync_fsm::actions sync_fsm::on_sync(time_point now, std::uint64_t label) {
  actions out;
  if (report_ || phase_ == sync_phase::failed) {
    sync_report refused;
    refused.label = label;
    refused.base = refused.target = snapshot_.version;
    refused.reason = report_ ? errc::busy : failed_for_;
    refused.detail = report_ ? "a sync is already in flight" : "this run of the trainer has ended";
    out.push_back(act::finish{std::move(refused)});
    return out;
  }
  report_.emplace();
  report_->label = label;
  report_->base = report_->target = snapshot_.version;
  wish_ = wish{label};
  next_wanted_ = false;
  if (phase_ == sync_phase::attaching || phase_ == sync_phase::seeding)
    out.push_back(act::hurry_round{{txn_, round_, now + hurried_}});
  next(now, out);
  return out;
}

sync_fsm::actions sync_fsm::on_next_wanted(time_point now) {
  actions out;
  next_wanted_ = true;
  finish_if_whole(now, out);
  return out;
}

void sync_fsm::start_sync(actions& out) {
  const auto label = std::exchange(wish_, std::nullopt)->label;
  fresh_txn();
  view_.clear();
  target_ = {{txn_.run, txn_.seq}, {}, label};
  phase_ = sync_phase::encoding;
  out.push_back(act::encode{txn_, snapshot_, label});
}

// --- a delta ------------------------------------------------------------------------------------

sync_fsm::actions sync_fsm::on_encoded(time_point now, txn_ref txn, const delta_size& size,
                                       const digest& target) {
  actions out;
  if (!is_current(txn, sync_phase::encoding)) return out;
  target_.state = target;
  size_ = size;
  staged_.reset();
  redo_left_ = settings_.sync.redo_max;
  view_ = members();
  for (const auto& p : view_) {
    participant_report r;
    r.id = p.id;
    report_->participants.push_back(std::move(r));
  }
  if (view_.size() < settings_.sync.members_min) {
    abort(now, out, errc::too_few_members,
          std::to_string(view_.size()) + " members, sync.members_min is " +
              std::to_string(settings_.sync.members_min),
          {});
    return out;
  }
  phase_ = sync_phase::voting;
  proof_until_ = now + proof_timeout(settings_, size_, model_bytes_);
  open_round(out, round_kind::vote, view_, {}, now + stage_timeout(settings_, size_, model_bytes_));
  out.push_back(act::ship_delta{txn_, view_, snapshot_, target_});
  return out;
}

sync_fsm::actions sync_fsm::on_delta_proven(time_point now, txn_ref txn, std::uint64_t challenge,
                                            const digest& proof) {
  actions out;
  if (!is_current(txn, sync_phase::voting) || staged_) return out;
  challenge_ = challenge;
  proof_ = proof;
  on_staged(now, out, {});
  return out;
}

sync_fsm::actions sync_fsm::on_encode_failed(time_point now, txn_ref txn, errc reason,
                                             std::string detail) {
  actions out;
  if (is_current(txn, sync_phase::encoding)) {
    abort(now, out, reason, std::move(detail), {});
  } else if (is_current(txn, sync_phase::voting) && !staged_) {
    // The others are heard to the end: what they say of themselves counts as in any abort.
    on_staged(now, out, {reason, std::move(detail)});
  }
  return out;
}

void sync_fsm::on_staged(time_point now, actions& out, std::pair<errc, std::string> result) {
  staged_ = std::move(result);
  proof_until_.reset();
  count_votes(now, out);
}

void sync_fsm::count_votes(time_point now, actions& out) {
  if (staged_ && votes_) on_votes(now, out, *std::exchange(votes_, std::nullopt));
}

std::optional<std::string> sync_fsm::suspect(const std::vector<outcome>& outcomes) const {
  if (settings_.sync.correlated_percent == 0) return std::nullopt;
  std::map<errc, std::size_t> refusals;
  for (const auto& o : outcomes)
    if (o.status == terminal::no) ++refusals[o.reason];
  for (const auto& [reason, count] : refusals) {
    // One refusal proves nothing about the delta, however small the fleet.
    if (count < 2 || count * 100 < settings_.sync.correlated_percent * outcomes.size()) continue;
    return std::to_string(count) + " of " + std::to_string(outcomes.size()) +
           " refused: " + std::string(to_string(reason));
  }
  return std::nullopt;
}

void sync_fsm::note(const outcome& o) {
  if (auto* p = in_report(o.who.id)) {
    p->status = o.status;
    p->reason = o.reason;
    p->detail = o.detail;
  }
}

void sync_fsm::evict(actions& out, const outcome& o) {
  members_.erase(o.who.id);
  remove(view_, o.who);
  if (in_report(o.who.id)) recovering_.insert(o.who.id);
  out.push_back(act::evicted{o.who, o.reason, o.detail});
}

void sync_fsm::on_votes(time_point now, actions& out, const round_result& result) {
  std::vector<outcome> outcomes = result.outcomes;
  for (auto& o : outcomes)
    if (down_.count(o.who)) o = {o.who, terminal::dead, errc::dead, "ended after it had voted"};
  const auto yes = static_cast<std::size_t>(std::count_if(
      outcomes.begin(), outcomes.end(), [](const auto& o) { return o.status == terminal::ok; }));
  for (const auto& o : outcomes) note(o);
  if (staged_->first != errc::none) {
    abort(now, out, staged_->first, staged_->second, outcomes);
  } else if (const auto why = suspect(outcomes)) {
    abort(now, out, errc::correlated_failure, *why, outcomes);
  } else if (yes < settings_.sync.members_min) {
    abort(now, out, errc::too_few_members,
          std::to_string(yes) + " voted yes, sync.members_min is " +
              std::to_string(settings_.sync.members_min),
          outcomes);
  } else {
    for (const auto& o : outcomes)
      if (o.status != terminal::ok) evict(out, o);
    commit(now, out);
  }
}

void sync_fsm::abort(time_point now, actions& out, errc reason, std::string detail,
                     const std::vector<outcome>& outcomes) {
  if (!view_.empty()) out.push_back(act::send_abort{txn_, view_});
  out.push_back(act::release{txn_});
  // Nobody has written. Who refused the delta itself is as good a member as before; whose own state
  // is in doubt attaches anew, which costs nothing where the digest still fits.
  for (const auto& o : outcomes)
    if (about_the_receiver(o)) evict(out, o);
  report_->result = sync_result::aborted;
  report_->reason = reason;
  report_->detail = std::move(detail);
  for (auto& p : report_->participants)
    if (outcomes.empty() || p.status == terminal::ok) p.status = terminal::aborted;
  after_sync(now, out);
}

void sync_fsm::commit(time_point now, actions& out) {
  phase_ = sync_phase::committing;
  round_ = 1;
  resend_left_ = settings_.sync.commit_resend_max;
  resend_at_ = now + std::chrono::milliseconds(settings_.sync.commit_resend_ms);
  // Applying moves the delta's bytes through memory and reads the model twice.
  const auto time = std::chrono::milliseconds(settings_.sync.commit_timeout_ms) +
                    scan_time(settings_, model_bytes_);
  open_round(out, round_kind::commit, view_, proof_, now + time);
  out.push_back(act::send_commit{txn_, view_, target_.state, challenge_, round_});
}

void sync_fsm::on_acks(time_point now, actions& out, const round_result& result) {
  resend_at_.reset();
  std::vector<participant> again;
  for (const auto& o : result.outcomes) {
    note(o);
    if (o.status == terminal::ok) continue;
    // A liar holds its old bytes under the new tag and would only repeat itself.
    const bool redo = o.status == terminal::nack && o.reason != errc::false_ack && redo_left_ > 0;
    if (redo) {
      again.push_back(o.who);
      if (auto* p = in_report(o.who.id)) ++p->redos;
    } else {
      evict(out, o);  // decided is decided: never rolled back, never encoded anew
    }
  }
  if (!again.empty()) {
    --redo_left_;
    ++round_;
    const auto time = std::chrono::milliseconds(settings_.sync.commit_timeout_ms) +
                      scan_time(settings_, model_bytes_) +
                      stage_timeout(settings_, size_, model_bytes_);
    open_round(out, round_kind::redo, again, proof_, now + time);
    out.push_back(act::ship_redo{txn_, again, target_, challenge_, round_});
    return;
  }
  // Acknowledged, and ended before the others had: nobody knows what its next life holds.
  for (const auto& p : down_)
    if (std::find(view_.begin(), view_.end(), p) != view_.end())
      evict(out, {p, terminal::dead, errc::dead, "ended after it had acknowledged"});
  phase_ = sync_phase::advancing;
  advance_until_ = now + advance_timeout(settings_, model_bytes_);
  out.push_back(act::conclude{txn_, view_});
}

sync_fsm::actions sync_fsm::on_advanced(time_point now, txn_ref txn) {
  actions out;
  if (!is_current(txn, sync_phase::advancing)) return out;
  advance_until_.reset();
  snapshot_ = target_;
  out.push_back(act::release{txn_});
  report_->target = snapshot_.version;
  // Judged by who is in the view, where nobody is who was not ok, and not by who is waited for: one
  // that was given up on meanwhile has failed all the same.
  report_->result = sync_result::ok;
  for (const auto& p : report_->participants) {
    if (members_.count(p.id) > 0) continue;
    report_->result = sync_result::degraded;
    if (report_->reason == errc::none)
      report_->reason = p.reason == errc::none ? errc::dead : p.reason;
  }
  after_sync(now, out);
  return out;
}

sync_fsm::actions sync_fsm::on_advance_failed(time_point now, txn_ref txn, std::string detail) {
  actions out;
  (void)now;
  if (!is_current(txn, sync_phase::advancing)) return out;
  fail(out, errc::encode_failed, detail);
  return out;
}

sync_fsm::actions sync_fsm::on_newer_run(time_point now, std::uint64_t run) {
  actions out;
  (void)now;
  if (run <= run_ || phase_ == sync_phase::failed) return out;
  fail(out, errc::fenced, "run " + std::to_string(run) + " of the trainer exists");
  return out;
}

void sync_fsm::fail(actions& out, errc reason, const std::string& detail) {
  const bool decided = phase_ == sync_phase::committing || phase_ == sync_phase::advancing;
  const bool acked = phase_ == sync_phase::advancing || round_ > 1;
  const bool over = recovering();  // only its report is waited for
  failed_for_ = reason;
  phase_ = sync_phase::failed;
  if (txn_) out.push_back(act::release{txn_});
  for (const auto& p : members()) out.push_back(act::evicted{p, reason, detail});
  members_.clear();
  // Nothing leaves this phase: what only others look at may stay as it is.
  resend_at_.reset();
  advance_until_.reset();
  proof_until_.reset();
  if (!report_) return;
  if (decided) report_->result = sync_result::degraded;
  report_->reason = reason;
  report_->detail = detail;
  for (auto& p : report_->participants) {
    if (over) continue;
    if (!decided) {
      p.status = terminal::aborted;
    } else if (!acked && p.status == terminal::ok) {
      // That was its vote: what became of the commit is not known.
      p.status = terminal::timeout;
      p.reason = reason;
    }
  }
  out.push_back(act::finish{*std::exchange(report_, std::nullopt)});
}

// --- the report ---------------------------------------------------------------------------------

void sync_fsm::after_sync(time_point now, actions& out) {
  phase_ = sync_phase::idle;
  recover_until_ = now + std::chrono::milliseconds(settings_.sync.recovery_timeout_ms) +
                   transfer_time(settings_, model_bytes_);
  finish_if_whole(now, out);
  next(now, out);
}

bool sync_fsm::recovering() const {
  return report_ && !wish_ &&
         (phase_ == sync_phase::idle || phase_ == sync_phase::proving ||
          phase_ == sync_phase::attaching || phase_ == sync_phase::full_encoding ||
          phase_ == sync_phase::seeding);
}

void sync_fsm::finish_if_whole(time_point now, actions& out) {
  if (!recovering()) return;
  // One admission may follow another without end, so the deadline counts during them too.
  const bool late = next_wanted_ || now >= recover_until_;
  if (!late && !recovering_.empty()) return;
  for (auto& p : report_->participants) {
    p.member = members_.count(p.id) > 0;
    p.version = p.member ? snapshot_.version : version_ref{};
  }
  const bool whole = std::all_of(report_->participants.begin(), report_->participants.end(),
                                 [](const auto& p) { return p.member; });
  if (report_->result == sync_result::degraded && whole) report_->result = sync_result::recovered;
  recovering_.clear();
  out.push_back(act::finish{*std::exchange(report_, std::nullopt)});
}

// --- events from outside ------------------------------------------------------------------------

sync_fsm::actions sync_fsm::on_round(time_point now, round_result result) {
  actions out;
  if (result.txn != txn_ || result.number != round_) return out;
  if (phase_ == sync_phase::voting && result.kind == round_kind::vote) {
    votes_ = std::move(result);
    count_votes(now, out);
  } else if (phase_ == sync_phase::committing &&
             (result.kind == round_kind::commit || result.kind == round_kind::redo)) {
    on_acks(now, out, result);
  } else if (phase_ == sync_phase::attaching && result.kind == round_kind::attach) {
    on_attached(now, out, result);
  } else if (phase_ == sync_phase::seeding && result.kind == round_kind::full) {
    on_seeded(now, out, result);
  }
  return out;
}

sync_fsm::actions sync_fsm::on_down(time_point now, participant who, errc reason) {
  actions out;
  (void)now;
  if (const auto it = candidates_.find(who.id); it != candidates_.end() && it->second == who.inc)
    candidates_.erase(it);
  const bool in_view = phase_ != sync_phase::idle && phase_ != sync_phase::failed &&
                       (std::find(view_.begin(), view_.end(), who) != view_.end() || lags(who));
  if (in_view && phase_ != sync_phase::advancing) {
    // The transaction under way settles it, when its round does.
    if (down_.insert(who).second) out.push_back(act::mark_down{who, reason});
  } else if (is_member(who)) {
    evict(out, {who, terminal::dead, reason, {}});
  }
  return out;
}

sync_fsm::actions sync_fsm::on_gave_up(time_point now, receiver_id id, errc reason) {
  actions out;
  candidates_.erase(id);
  recovering_.erase(id);
  if (auto* p = in_report(id); p && p->reason == errc::none) p->reason = reason;
  finish_if_whole(now, out);
  return out;
}

sync_fsm::actions sync_fsm::on_tick(time_point now) {
  actions out;
  if (resend_at_ && now >= *resend_at_) {
    resend_at_.reset();
    if (resend_left_ > 0) {
      --resend_left_;
      resend_at_ = now + std::chrono::milliseconds(settings_.sync.commit_resend_ms);
      out.push_back(act::send_commit{txn_, view_, target_.state, challenge_, round_});
    }
  }
  // Before receivers let go of the delta: those that have staged it could only refuse a commit.
  if (proof_until_ && now >= *proof_until_)
    on_staged(now, out, {errc::timeout, "the snapshot has not staged the delta in time"});
  if (advance_until_ && now >= *advance_until_)
    return on_advance_failed(now, txn_, "the snapshot did not advance within its deadline");
  finish_if_whole(now, out);
  return out;
}

std::optional<time_point> sync_fsm::deadline() const {
  // Each has phases of its own: no two are due.
  if (proof_until_) return proof_until_;
  if (resend_at_) return resend_at_;
  if (advance_until_) return advance_until_;
  if (recovering()) return recover_until_;
  return std::nullopt;
}

}  // namespace lockstep
