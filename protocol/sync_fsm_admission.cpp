// The part of the sync machine that brings receivers into the view: attach, and where that does not
// do, a full transfer.
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
      out.push_back(act::admitted{who, false});
      return out;
    }
    out = on_down(now, {who.id, it->second}, errc::restarted);
  }
  candidates_[who.id] = who.inc;
  next(now, out);
  return out;
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
  open_round(out, round_kind::attach, view_, proof, now + time);
  out.push_back(act::send_attach{txn_, view_, target_, challenge_});
  return out;
}

void sync_fsm::admit(actions& out, const participant& who, bool reseeded) {
  members_[who.id] = who.inc;
  if (auto* r = in_report(who.id); r && reseeded) ++r->reseeds;
  recovering_.erase(who.id);
  out.push_back(act::admitted{who, reseeded});
}

void sync_fsm::on_attached(time_point now, actions& out, const round_result& result) {
  std::vector<participant> behind;
  for (const auto& o : result.outcomes) {
    if (down_.count(o.who)) {
      out.push_back(act::not_admitted{o.who, errc::dead, {}});
    } else if (o.status == terminal::ok) {
      admit(out, o.who, false);
    } else if (o.status == terminal::no && o.reason == errc::behind) {
      behind.push_back(o.who);
    } else {
      out.push_back(act::not_admitted{o.who, o.reason, o.detail});
    }
  }
  if (behind.empty()) {
    end_join(now, out);
  } else {
    start_full(out, std::move(behind));
  }
}

void sync_fsm::start_full(actions& out, std::vector<participant> who) {
  if (settings_.sync.reseed == reseed_scope::all) {
    // Out of the view before a byte of theirs is written, like everybody who is reseeded.
    for (const auto& p : members()) {
      who.push_back(p);
      if (in_report(p.id)) recovering_.insert(p.id);
    }
    members_.clear();
  }
  fresh_txn();
  view_ = std::move(who);
  phase_ = sync_phase::full_encoding;
  out.push_back(act::encode_full{txn_, snapshot_});
}

sync_fsm::actions sync_fsm::on_full_encoded(time_point now, txn_ref txn, std::uint64_t bytes,
                                            std::uint64_t challenge, const digest& proof) {
  actions out;
  if (!is_current(txn, sync_phase::full_encoding)) return out;
  phase_ = sync_phase::seeding;
  challenge_ = challenge;
  open_round(out, round_kind::full, view_, proof, now + full_timeout(settings_, bytes));
  out.push_back(act::ship_full{txn_, view_, snapshot_, challenge_});
  return out;
}

void sync_fsm::on_seeded(time_point now, actions& out, const round_result& result) {
  out.push_back(act::release{txn_});
  for (const auto& o : result.outcomes) {
    if (o.status == terminal::ok && !down_.count(o.who)) {
      admit(out, o.who, true);
    } else {
      out.push_back(
          act::not_admitted{o.who, o.reason == errc::none ? errc::dead : o.reason, o.detail});
    }
  }
  end_join(now, out);
}

void sync_fsm::end_join(time_point now, actions& out) {
  phase_ = sync_phase::idle;
  finish_if_whole(now, out);
  next(now, out);
}

}  // namespace lockstep
