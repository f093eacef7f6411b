// The part of the sync machine that brings receivers into the view: attach, and where that does not
// do, a full transfer.
#include <algorithm>
#include <utility>

#include "protocol/deadlines.hpp"
#include "protocol/sync_fsm.hpp"

namespace lockstep {

namespace act = sync_action;

sync_fsm::actions sync_fsm::on_admit(time_point now, participant who) {
  actions out;
  // Another life than the one in the view: that one has ended, whoever noticed it first.
  if (const auto it = members_.find(who.id); it != members_.end()) {
    if (it->second == who.inc) {
      out.push_back(act::admitted{who, admission::attached});
      return out;
    }
    out = on_down(now, {who.id, it->second}, errc::restarted);
  }
  candidates_[who.id] = who.inc;
  next(now, out);
  return out;
}

// A sync that waits for an admission waits no longer than it would for the same receivers' votes on
// as many bytes: who is too slow for that is too slow for the sync as well.
void sync_fsm::open_admission(time_point now, actions& out, round_kind kind, std::uint64_t bytes,
                              const digest& proof, std::chrono::milliseconds time) {
  hurried_ = std::min(time, stage_timeout(settings_, bytes, model_bytes_));
  open_round(out, kind, view_, proof, now + (wish_ ? hurried_ : time));
}

void sync_fsm::start_join(actions& out) {
  fresh_txn();
  view_.clear();
  for (const auto& [id, inc] : std::exchange(candidates_, {})) {
    view_.push_back({id, inc});
    members_.erase(id);  // its fences are about to be raised
  }
  target_ = snapshot_;
  phase_ = sync_phase::proving;
  out.push_back(act::prove{txn_});
}

sync_fsm::actions sync_fsm::on_proof(time_point now, txn_ref txn, std::uint64_t challenge,
                                     const digest& proof) {
  actions out;
  if (!is_current(txn, sync_phase::proving)) return out;
  phase_ = sync_phase::attaching;
  challenge_ = challenge;
  const auto time = std::chrono::milliseconds(settings_.sync.attach_timeout_ms) +
                    scan_time(settings_, model_bytes_);
  open_admission(now, out, round_kind::attach, 0, proof, time);
  out.push_back(act::send_attach{txn_, view_, target_, challenge_});
  return out;
}

void sync_fsm::admit(actions& out, const participant& who, admission how) {
  members_[who.id] = who.inc;
  full_next_.erase(who.id);
  if (auto* r = in_report(who.id)) {
    if (how == admission::reseeded) ++r->reseeds;
    if (how == admission::caught_up) ++r->catch_ups;
  }
  recovering_.erase(who.id);
  out.push_back(act::admitted{who, how});
}

void sync_fsm::on_attached(time_point now, actions& out, const round_result& result) {
  for (const auto& o : result.outcomes) {
    if (down_.count(o.who)) {
      out.push_back(act::not_admitted{o.who, errc::dead, {}});
    } else if (o.status == terminal::ok) {
      admit(out, o.who, admission::attached);
    } else if (o.status == terminal::no && o.reason == errc::behind) {
      behind_.push_back({o.who, o.held});
    } else {
      out.push_back(act::not_admitted{o.who, o.reason, o.detail});
    }
  }
  if (behind_.empty()) {
    end_join(now, out);
  } else {
    start_full(out, settings_.sync.reseed == reseed_scope::failed);
  }
}

bool sync_fsm::lags(const participant& who) const {
  return std::any_of(behind_.begin(), behind_.end(),
                     [&](const laggard& l) { return l.who == who; });
}

bool sync_fsm::counts_on(const participant& who) const {
  const auto candidate = candidates_.find(who.id);
  return is_member(who) || lags(who) ||
         (candidate != candidates_.end() && candidate->second == who.inc) ||
         std::find(view_.begin(), view_.end(), who) != view_.end();
}

void sync_fsm::start_full(actions& out, bool may_catch_up) {
  std::vector<digest> held;
  view_.clear();
  for (const auto& l : behind_) {
    view_.push_back(l.who);
    if (may_catch_up && !full_next_.count(l.who.id)) held.push_back(l.held);
  }
  if (settings_.sync.reseed == reseed_scope::all) {
    // Out of the view before a byte of theirs is written, like everybody who is reseeded.
    for (const auto& p : members()) {
      view_.push_back(p);
      if (in_report(p.id)) recovering_.insert(p.id);
    }
    members_.clear();
  }
  fresh_txn();
  phase_ = sync_phase::full_encoding;
  out.push_back(act::encode_full{txn_, snapshot_, std::move(held)});
}

sync_fsm::actions sync_fsm::on_full_encoded(time_point now, txn_ref txn, std::uint64_t bytes,
                                            std::uint64_t challenge, const digest& proof,
                                            const std::vector<digest>& known) {
  actions out;
  if (!is_current(txn, sync_phase::full_encoding)) return out;
  phase_ = sync_phase::seeding;
  challenge_ = challenge;
  catch_up_ = !known.empty();
  auto time = full_timeout(settings_, bytes);
  if (catch_up_) {
    // The others are given all weights afterwards.
    view_.clear();
    const auto served =
        std::stable_partition(behind_.begin(), behind_.end(), [&](const laggard& l) {
          return full_next_.count(l.who.id) > 0 ||
                 std::find(known.begin(), known.end(), l.held) == known.end();
        });
    for (auto it = served; it != behind_.end(); ++it) view_.push_back(it->who);
    behind_.erase(served, behind_.end());
    // It is proven before and after it is written.
    time += scan_time(settings_, model_bytes_);
  } else {
    behind_.clear();
  }
  open_admission(now, out, round_kind::full, bytes, proof, time);
  out.push_back(act::ship_full{txn_, view_, snapshot_, challenge_, catch_up_});
  return out;
}

/// Whom what has changed did not help, and who can still be spoken to, is given all weights at
/// once; the next time so is everybody else.
void sync_fsm::settle_catch_up(actions& out, const outcome& o) {
  full_next_.insert(o.who.id);
  if (o.status == terminal::nack && o.reason != errc::false_ack) {
    behind_.push_back({o.who, {}});
  } else {
    out.push_back(
        act::not_admitted{o.who, o.reason == errc::none ? errc::dead : o.reason, o.detail});
  }
}

void sync_fsm::on_seeded(time_point now, actions& out, const round_result& result) {
  out.push_back(act::release{txn_});
  for (const auto& o : result.outcomes) {
    if (o.status == terminal::ok && !down_.count(o.who)) {
      admit(out, o.who, catch_up_ ? admission::caught_up : admission::reseeded);
    } else if (catch_up_) {
      settle_catch_up(out, o);
    } else {
      out.push_back(
          act::not_admitted{o.who, o.reason == errc::none ? errc::dead : o.reason, o.detail});
    }
  }
  std::erase_if(behind_, [&](const laggard& l) {
    if (!down_.count(l.who)) return false;
    out.push_back(act::not_admitted{l.who, errc::dead, {}});
    return true;
  });
  if (behind_.empty()) {
    end_join(now, out);
  } else {
    start_full(out, false);
  }
}

void sync_fsm::end_join(time_point now, actions& out) {
  phase_ = sync_phase::idle;
  finish_if_whole(now, out);
  next(now, out);
}

}  // namespace lockstep
