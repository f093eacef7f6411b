#include "protocol/receiver_fsm.hpp"

#include <algorithm>
#include <utility>

#include "protocol/deadlines.hpp"

namespace lockstep {

namespace act = receiver_action;

namespace {

/// Answers a full_begin.
bool seeds(receiver_fsm::slot_kind kind) {
  return kind == receiver_fsm::slot_kind::full || kind == receiver_fsm::slot_kind::catch_up;
}

}  // namespace

receiver_fsm::receiver_fsm(identity self, const settings& s) : self_(self), settings_(s) {
  why_ = errc::not_serving;
  state_.reason = why_;
  published_ = state_;
}

receiver_fsm::summary receiver_fsm::summarize() const {
  summary out;
  out.cluster = self_.cluster;
  out.id = self_.id;
  out.inc = self_.inc;
  out.phase = phase_;
  out.fence = {fence_run_, fence_seq_};
  out.tag = held_;
  if (slot_) {
    const summary::work work{slot_->env.txn, slot_->target};
    out.slot = summary::slot_view{work, slot_->kind, slot_->round, slot_->verified};
  }
  if (attaching_) out.attaching = summary::work{attaching_->env.txn, attaching_->target};
  if (last_reply_) out.answered = last_reply_->kind;
  return out;
}

// --- fences -------------------------------------------------------------------------------------

bool receiver_fsm::addressed(const envelope& env) const {
  // Transaction "none" would pass the fence of a life that has obeyed nothing yet.
  return env.cluster == self_.cluster && env.inc == self_.inc && env.txn;
}

bool receiver_fsm::newer(const envelope& env) const {
  return addressed(env) &&
         (env.txn.run > fence_run_ || (env.txn.run == fence_run_ && env.txn.seq > fence_seq_));
}

bool receiver_fsm::current(const envelope& env) const {
  return addressed(env) && env.txn == txn_ref{fence_run_, fence_seq_};
}

receiver_fsm::actions receiver_fsm::ignore() {
  ++ignored_;
  return {};
}

void receiver_fsm::raise_fence(const envelope& env) {
  fence_run_ = env.txn.run;
  fence_seq_ = env.txn.seq;
  attaching_.reset();
  last_reply_.reset();
}

// --- the slot -----------------------------------------------------------------------------------

void receiver_fsm::drop_slot(actions& out) {
  if (!slot_) return;
  slot_.reset();
  out.push_back(act::drop_slot{});
  // Whatever of it was written by now stays written.
  if (phase_ == receiver_phase::applying || phase_ == receiver_phase::reseeding)
    stop_serving(receiver_phase::torn, errc::torn);
}

void receiver_fsm::open_slot(slot_kind kind, const envelope& env, const target_info& target,
                             const manifest& content, time_point expires) {
  auto& s = slot_.emplace(slot{});
  s.kind = kind;
  s.env = env;
  s.target = target;
  s.buckets = content.buckets;
  s.have.assign(s.buckets.size(), false);
  s.expires = expires;
}

errc receiver_fsm::check_manifest(const manifest& m, std::uint64_t limit) const {
  if (m.layout != self_.layout) return errc::wrong_layout;
  if (m.buckets.size() > settings_.receiver.buckets_max) return errc::bad_manifest;
  std::uint64_t sum = 0;
  for (const auto& b : m.buckets) {
    if (b.bytes == 0 || b.bytes > settings_.bucket.bytes_max) return errc::bad_manifest;
    if (__builtin_add_overflow(sum, b.bytes, &sum)) return errc::bad_manifest;
  }
  if (sum != m.bytes) return errc::bad_manifest;
  if (m.bytes > limit) return errc::no_memory;
  return errc::none;
}

void receiver_fsm::slot_complete(actions& out) {
  const auto& s = *slot_;
  switch (s.kind) {
    case slot_kind::delta:
    case slot_kind::catch_up:
      out.push_back(act::verify_slot{s.env.txn, s.base_state, s.target.state});
      break;
    case slot_kind::redo:
      out.push_back(act::check_slot{s.env.txn});
      break;
    case slot_kind::full:
      out.push_back(act::finish_full{s.env.txn, s.target, s.challenge});
      break;
  }
}

// --- answers and readiness ----------------------------------------------------------------------

void receiver_fsm::answer(actions& out, const envelope& env, std::uint32_t round, reply_kind kind,
                          errc reason, std::string detail, digest proof) {
  if (detail.size() > reply_detail_max) detail.resize(reply_detail_max);
  last_reply_ = reply_msg{env, self_.id, round, kind, reason, std::move(detail), proof};
  out.push_back(act::reply{*last_reply_});
}

receiver_fsm::actions receiver_fsm::repeat_answer(const envelope& env, std::uint32_t round) {
  ++ignored_;
  if (!current(env) || !last_reply_) return {};
  auto again = *last_reply_;
  again.round = round;  // the same bytes prove the same, whichever round asks
  return {act::reply{std::move(again)}};
}

void receiver_fsm::refresh(actions& out) {
  left_behind_ |= fleet_.run == held_.version.run && fleet_ > held_.version;
  state_ = {false, phase_, held_.version, held_.label, errc::none};
  if (phase_ != receiver_phase::serving) {
    state_.reason = why_;
  } else if (lease_expired_ && !settings_.receiver.serve_stale) {
    state_.reason = errc::lease_expired;
  } else if (left_behind_) {
    // The fleet has moved on without us: truthfully tagged, but not what it should be.
    state_.reason = errc::behind;
  } else {
    state_.ready = true;
    if (lease_expired_) state_.reason = errc::lease_expired;
  }
  if (state_ == published_) return;
  published_ = state_;
  out.push_back(act::publish{state_});
}

void receiver_fsm::stop_serving(receiver_phase phase, errc why) {
  phase_ = phase;
  why_ = why;
  held_ = {};
}

void receiver_fsm::adopt(actions& out, const target_info& target) {
  phase_ = receiver_phase::serving;
  why_ = errc::none;
  held_ = target;
  left_behind_ = false;
  if (paused_) out.push_back(act::resume{target});
  paused_ = false;
  refresh(out);
}

void receiver_fsm::fail_write(actions& out, errc reason, std::string detail) {
  const auto kind = slot_->kind;
  const auto env = slot_->env;
  const auto round = slot_->round;
  drop_slot(out);  // torn from here on if a byte may have been written
  refresh(out);
  answer(out, env, round, seeds(kind) ? reply_kind::full_fail : reply_kind::nack, reason,
         std::move(detail));
}

// --- attach -------------------------------------------------------------------------------------

receiver_fsm::actions receiver_fsm::on_attach(time_point now, const attach_msg& m) {
  if (!newer(m.env)) return repeat_answer(m.env);
  actions out;
  // Fences first, then the digest that we attest: a commit of an older transaction that arrives
  // after the digest was taken must find nothing to apply.
  raise_fence(m.env);
  drop_slot(out);
  heard_trainer(now);
  // Who comes back after a silence is behind from here on, not only once its bytes are digested.
  fleet_ = std::max(fleet_, m.target.version);
  const bool fits = m.layout == self_.layout;
  // Nobody will bring it up to this run, and its own is over.
  if (!fits && phase_ == receiver_phase::serving && held_.version.run != m.target.version.run)
    stop_serving(receiver_phase::empty, errc::wrong_layout);
  refresh(out);
  if (!fits) {
    answer(out, m.env, 0, reply_kind::need_full, errc::wrong_layout, "layouts differ");
    return out;
  }
  attaching_ = m;
  out.push_back(act::compute_digest{m.env.txn, m.challenge});
  return out;
}

receiver_fsm::actions receiver_fsm::on_digest(txn_ref txn, const digest& state,
                                              const digest& proof) {
  if (!attaching_ || attaching_->env.txn != txn) return ignore();
  actions out;
  const auto m = *std::exchange(attaching_, std::nullopt);
  if (state == m.target.state) {
    adopt(out, m.target);
    answer(out, m.env, 0, reply_kind::attached, errc::none, {}, proof);
    return out;
  }
  // Whatever we hold, it is not what the fleet holds: behind in this run (readiness sees it from
  // `fleet_`), rotten against our own tag, or from a run that is over.
  if (phase_ == receiver_phase::serving) {
    if (state != held_.state) {
      stop_serving(receiver_phase::torn, errc::torn);
    } else if (held_.version.run != m.target.version.run) {
      stop_serving(receiver_phase::empty, errc::behind);
    }
  }
  refresh(out);
  answer(out, m.env, 0, reply_kind::need_full, errc::behind, {}, state);
  return out;
}

// --- delta --------------------------------------------------------------------------------------

receiver_fsm::actions receiver_fsm::on_prepare(time_point now, const prepare_msg& m) {
  // Only who was attached in this run may take its deltas.
  if (!newer(m.env) || m.env.txn.run != fence_run_) return repeat_answer(m.env);
  actions out;
  raise_fence(m.env);
  drop_slot(out);
  refresh(out);
  const auto refuse = [&](errc reason) { answer(out, m.env, 0, reply_kind::vote_no, reason); };
  if (phase_ != receiver_phase::serving) {
    refuse(errc::not_serving);
  } else if (held_.version != m.base || held_.state != m.base_state) {
    refuse(errc::wrong_base);
  } else if (m.target.version != version_ref{m.env.txn.run, m.env.txn.seq}) {
    refuse(errc::bad_manifest);  // a version names one content: the transaction that made it
  } else if (const auto bad = check_manifest(m.content, settings_.receiver.staged_bytes_max);
             bad != errc::none) {
    refuse(bad);
  } else {
    open_slot(slot_kind::delta, m.env, m.target, m.content,
              now + undecided_timeout(settings_, {m.content.bytes, m.content.changed},
                                      self_.model_bytes));
    slot_->base_state = m.base_state;
    if (slot_->buckets.empty()) slot_complete(out);
  }
  return out;
}

// What is there, and what was promised, no later copy undoes: it may be one that went bad.
bool receiver_fsm::awaits(const envelope& env, std::uint32_t index) const {
  return slot_ && env == slot_->env && !slot_->verified &&
         (index >= slot_->have.size() || !slot_->have[index]);
}

receiver_fsm::actions receiver_fsm::on_bucket(time_point now, const envelope& env,
                                              std::uint32_t index, std::uint64_t bytes,
                                              const hash128& hash) {
  (void)now;
  if (!slot_ || !(env == slot_->env)) return ignore();
  actions out;
  // The flusher waits for this whatever becomes of the bucket: a refusal must not wedge it.
  out.push_back(act::grant_credit{index});
  if (!awaits(env, index)) {
    ++ignored_;
    return out;
  }
  auto& s = *slot_;
  const bool fits = index < s.buckets.size() && s.buckets[index] == bucket_info{bytes, hash};
  if (!fits) {
    const auto why = "bucket " + std::to_string(index) + " is not the one announced";
    if (s.kind == slot_kind::delta) {
      drop_slot(out);
      answer(out, env, 0, reply_kind::vote_no, errc::bad_checksum, why);
    } else {
      fail_write(out, errc::bad_checksum, why);
    }
    return out;
  }
  s.have[index] = true;
  ++s.arrived;
  if (s.kind == slot_kind::full) {
    out.push_back(act::write_bucket{env.txn, index});
  } else {
    out.push_back(act::keep_bucket{index});
    if (s.arrived == s.buckets.size()) slot_complete(out);
  }
  return out;
}

receiver_fsm::actions receiver_fsm::on_verified(txn_ref txn, errc reason, std::string detail) {
  if (!slot_ || slot_->env.txn != txn || slot_->kind == slot_kind::full || slot_->verified ||
      slot_->arrived != slot_->buckets.size())
    return ignore();
  actions out;
  const auto env = slot_->env;
  if (slot_->kind == slot_kind::delta) {
    slot_->verified = reason == errc::none;
    if (!slot_->verified) drop_slot(out);
    // Our own bytes are not what our tag names: they rotted, and nobody may be served from them.
    if (reason == errc::wrong_base) stop_serving(receiver_phase::torn, errc::torn);
    refresh(out);
    answer(out, env, 0, slot_ ? reply_kind::vote_yes : reply_kind::vote_no, reason,
           std::move(detail));
  } else if (reason != errc::none) {
    // Not what we said that we hold: they rotted.
    if (reason == errc::wrong_base) stop_serving(receiver_phase::torn, errc::torn);
    fail_write(out, reason, std::move(detail));
  } else {
    slot_->verified = true;
    start_apply(out);
  }
  return out;
}

receiver_fsm::actions receiver_fsm::on_commit(time_point now, const commit_msg& m) {
  (void)now;
  if (!addressed(m.env) || m.env.txn.run != fence_run_ || m.env.txn.seq < fence_seq_)
    return ignore();
  actions out;
  const bool mine = current(m.env);
  if (mine && phase_ == receiver_phase::applying) return ignore();
  if (mine && held_.version == version_ref{m.env.txn.run, m.env.txn.seq})
    return repeat_answer(m.env, m.round);
  if (mine && slot_ && slot_->verified && slot_->target.state == m.target_state) {
    slot_->challenge = m.challenge;
    slot_->round = m.round;
    start_apply(out);
    return out;
  }
  if (mine && slot_ && slot_->kind != slot_kind::delta) return ignore();  // a redo is under way
  // A repeated question gets the answer it had: that one names the real reason.
  if (mine && last_reply_ && last_reply_->kind == reply_kind::nack)
    return repeat_answer(m.env, m.round);
  const reply_msg nack{m.env, self_.id, m.round, reply_kind::nack, errc::not_staged, {}, {}};
  out.push_back(act::reply{nack});
  return out;
}

receiver_fsm::actions receiver_fsm::on_abort(time_point now, const abort_msg& m) {
  (void)now;
  if (!current(m.env) || !slot_ || slot_->kind != slot_kind::delta ||
      phase_ == receiver_phase::applying)
    return ignore();
  actions out;
  drop_slot(out);
  return out;
}

receiver_fsm::actions receiver_fsm::on_redo(time_point now, const redo_msg& m) {
  if (!current(m.env) || (slot_ && slot_->kind == slot_kind::catch_up)) return ignore();
  if (slot_ && slot_->kind == slot_kind::redo) {
    // A duplicate, or the next round while a replayed one waits for its buckets: they are the same
    // bytes, so only the answer has to quote the round that counts.
    slot_->round = std::max(slot_->round, m.round);
    return ignore();
  }
  if (phase_ != receiver_phase::serving && phase_ != receiver_phase::torn) return ignore();
  const version_ref target{m.env.txn.run, m.env.txn.seq};
  if (held_.version == target) return repeat_answer(m.env, m.round);
  actions out;
  drop_slot(out);
  auto bad = check_manifest(m.content, settings_.receiver.staged_bytes_max);
  if (m.target.version != target) bad = errc::bad_manifest;
  if (bad != errc::none) {
    answer(out, m.env, m.round, reply_kind::nack, bad);
    return out;
  }
  open_slot(
      slot_kind::redo, m.env, m.target, m.content,
      now + undecided_timeout(settings_, {m.content.bytes, m.content.changed}, self_.model_bytes));
  slot_->challenge = m.challenge;
  slot_->round = m.round;
  if (slot_->buckets.empty()) slot_complete(out);
  return out;
}

void receiver_fsm::start_apply(actions& out) {
  // Fenced before the first byte is written: the tag is void and nobody is served.
  stop_serving(receiver_phase::applying, errc::not_serving);
  refresh(out);
  if (!paused_) out.push_back(act::pause{slot_->env.txn});
  paused_ = true;
  out.push_back(act::apply_slot{slot_->env.txn, slot_->target, slot_->challenge});
}

receiver_fsm::actions receiver_fsm::on_applied(txn_ref txn, const digest& state,
                                               const digest& proof) {
  const bool writing = phase_ == receiver_phase::applying || phase_ == receiver_phase::reseeding;
  if (!slot_ || slot_->env.txn != txn || !writing) return ignore();
  if (slot_->kind == slot_kind::full && slot_->written != slot_->buckets.size()) return ignore();
  actions out;
  if (state != slot_->target.state) {
    fail_write(out, errc::wrong_target, "the bytes written do not digest to the target");
    return out;
  }
  const auto s = *std::exchange(slot_, std::nullopt);
  out.push_back(act::drop_slot{});
  adopt(out, s.target);
  answer(out, s.env, s.round, seeds(s.kind) ? reply_kind::full_ok : reply_kind::ack, errc::none, {},
         proof);
  return out;
}

receiver_fsm::actions receiver_fsm::on_write_failed(txn_ref txn, errc reason, std::string detail) {
  const bool writing = phase_ == receiver_phase::applying || phase_ == receiver_phase::reseeding;
  if (!slot_ || slot_->env.txn != txn || !writing) return ignore();
  actions out;
  if (reason == errc::hook_failed) paused_ = false;  // the engine has not stopped: ask again
  fail_write(out, reason, std::move(detail));
  return out;
}

// --- time ---------------------------------------------------------------------------------------

receiver_fsm::actions receiver_fsm::on_start(time_point now) {
  announced_at_ = now;
  announce_at_ = now + std::chrono::milliseconds(settings_.receiver.hello_ms);
  return {act::announce{}};
}

void receiver_fsm::heard_trainer(time_point now) {
  lease_until_ = now + std::chrono::milliseconds(settings_.receiver.lease_ms);
  lease_expired_ = false;
  // Known there, and rarely to be said again: a newer trainer may stand where this one did, and the
  // older, which goes on, keeps our lease.
  if (announce_at_)
    announce_at_ = announced_at_ + std::chrono::milliseconds(settings_.receiver.lease_ms);
}

receiver_fsm::actions receiver_fsm::on_ping(time_point now, const ping_msg& m) {
  if (m.cluster != self_.cluster || m.inc != self_.inc) return ignore();
  if (m.current.run < fence_run_) {
    ++ignored_;  // a run that is over renews no lease; what we serve tells it that it is
    return {act::pong{}};
  }
  actions out;
  // What a run is over for is kept by nobody's word but its own: whom the newer run has given up,
  // it pings as well, and would have it serve the old weights for ever.
  const bool over = phase_ == receiver_phase::serving && held_.version.run < m.current.run;
  if (!over || attaching_) heard_trainer(now);
  left_behind_ |= m.current.run == held_.version.run && m.current > held_.version;
  fleet_ = std::max(fleet_, m.current);
  refresh(out);
  out.push_back(act::pong{});
  return out;
}

receiver_fsm::actions receiver_fsm::on_tick(time_point now) {
  actions out;
  if (slot_ && phase_ != receiver_phase::applying && now >= slot_->expires) {
    // The decision never came. A delta wrote nothing: we go on serving its base. A full that
    // stopped arriving leaves a mix behind.
    if (slot_->kind == slot_kind::full) {
      fail_write(out, errc::timeout, "the full transfer stopped arriving");
    } else {
      drop_slot(out);
    }
  }
  const bool fell_silent = lease_until_ && !lease_expired_ && now >= *lease_until_;
  lease_expired_ |= fell_silent;
  refresh(out);
  if (announce_at_ && (now >= *announce_at_ || fell_silent)) {
    const bool heard = lease_until_ && !lease_expired_;
    announced_at_ = now;
    announce_at_ = now + std::chrono::milliseconds(heard ? settings_.receiver.lease_ms
                                                         : settings_.receiver.hello_ms);
    out.push_back(act::announce{});
  }
  return out;
}

time_point receiver_fsm::trusted_until() const {
  if (settings_.receiver.serve_stale) return time_point::max();
  return lease_until_.value_or(time_point::max());
}

std::optional<time_point> receiver_fsm::deadline() const {
  std::optional<time_point> next;
  const auto consider = [&](time_point t) { next = next ? std::min(*next, t) : t; };
  if (slot_ && phase_ != receiver_phase::applying) consider(slot_->expires);
  if (lease_until_ && !lease_expired_) consider(*lease_until_);
  if (announce_at_) consider(*announce_at_);
  return next;
}

}  // namespace lockstep
