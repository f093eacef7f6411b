#include "protocol/supervision_fsm.hpp"

#include <algorithm>
#include <array>
#include <utility>

namespace lockstep {

namespace act = supervision_action;

std::string_view to_string(standing s) noexcept {
  constexpr std::array<std::string_view, 6> names{"member", "attaching", "quarantined",
                                                  "dead",   "gave_up",   "detached"};
  return names[static_cast<std::size_t>(s)];
}

namespace {

/// Notes a failure: what it stands for now, and what it is remembered for.
void note(time_point now, supervision_fsm::record& r, errc reason, std::string detail) {
  r.reason = r.last_reason = reason;
  r.last_detail = detail;
  r.detail = std::move(detail);
  r.last_failed = now;
}

/// Out, and not to be tried, until all ranks of the trainer reach it.
void leave_out(time_point now, supervision_fsm::record& r) {
  r.where = standing::quarantined;
  r.next_try = now;
  note(now, r, errc::unreachable, "not every rank of the trainer reaches it");
}

}  // namespace

supervision_fsm::record* supervision_fsm::find(const participant& who) {
  const auto it = records_.find(who.id);
  return it != records_.end() && it->second.inc == who.inc ? &it->second : nullptr;
}

bool supervision_fsm::heard_lately(time_point now, const record& r) const {
  return now - r.last_heard <= std::chrono::milliseconds(settings_.receiver.lease_ms);
}

/// An attach waits for its answer, and syncs wait for the attach. So who did not answer in time has
/// to be heard first, and who failed otherwise must have been heard of within its lease.
bool supervision_fsm::would_answer(time_point now, const record& r) const {
  return !r.parted && heard_lately(now, r) && (r.reason != errc::timeout || r.heard_since);
}

/// From when on it is no use to a sync to wait for it.
time_point supervision_fsm::patience_ends(const record& r) const {
  const auto since = r.parted ? std::min(r.parted_since, r.last_heard) : r.last_heard;
  return since + std::chrono::milliseconds(settings_.receiver.lease_ms + 1);
}

supervision_fsm::actions supervision_fsm::failed(time_point now, receiver_id id, record& r,
                                                 errc reason, std::string detail) {
  actions out;
  note(now, r, reason, std::move(detail));
  r.heard_since = false;
  if (r.attempts >= settings_.supervision.attempts_max) {
    r.where = standing::gave_up;
    out.push_back(act::gave_up{id, reason, r.detail});
    return out;
  }
  // The first try follows at once, the second after one back-off, and so on, doubling.
  const auto longest = std::uint64_t{settings_.supervision.backoff_ms_max};
  const auto doublings = std::min(r.attempts, 32u);
  auto wait =
      r.attempts == 0 ? 0 : std::uint64_t{settings_.supervision.backoff_ms} << (doublings - 1);
  // Who was too slow needs time, and each try keeps a sync waiting.
  if (reason == errc::timeout && wait != 0) wait = longest;
  wait = std::min(wait, longest);
  ++r.attempts;
  r.where = standing::quarantined;
  r.next_try = now + std::chrono::milliseconds(wait);
  if (wait != 0) return out;
  return on_tick(now);
}

supervision_fsm::actions supervision_fsm::heard(time_point now, receiver_id id, record& r) {
  r.last_heard = now;
  r.heard_since = true;
  r.let_go = r.let_go && r.parted;
  // We were told that it had ended, and here it is: a lost connection, not a lost life.
  const bool ended = r.where == standing::dead || r.where == standing::gave_up;
  if (!ended || r.reason != errc::dead) return {};
  if (r.parted) {
    leave_out(now, r);
    return {};
  }
  r.where = standing::attaching;
  return {act::admit{{id, r.inc}}};
}

supervision_fsm::actions supervision_fsm::on_hello(time_point now, const hello_msg& m,
                                                   bool parted) {
  actions out;
  const auto known = records_.find(m.id);
  if (!m.inc || (known == records_.end() && records_.size() >= receivers_max)) return out;
  auto& r = records_[m.id];
  // An older life's hello that was under way for long must not put out the newer one. But lives
  // have no order: which was the older shows by which falls silent.
  const auto earlier = std::find(r.superseded.begin(), r.superseded.end(), m.inc);
  if (earlier != r.superseded.end()) {
    if (heard_lately(now, r)) return out;
    r.superseded.erase(earlier);
  }
  if (r.inc == m.inc) {
    return heard(now, m.id, r);
  }
  if (r.inc) {
    ++r.restarts;
    if (r.superseded.size() == superseded_max) r.superseded.pop_front();
    r.superseded.push_back(r.inc);
  }
  if (r.inc && r.where != standing::dead && r.where != standing::detached)
    out.push_back(act::down{{m.id, r.inc}, errc::restarted});
  // Whoever was given up gets a new chance with a new life; others keep their count of failures.
  if (r.where == standing::gave_up) r.attempts = 0;
  r.name = m.name;
  r.inc = m.inc;
  r.last_heard = now;
  r.heard_since = true;
  r.let_go = false;
  r.state = {};
  r.parted = parted;
  if (parted) {
    r.parted_since = now;
    leave_out(now, r);
    return out;
  }
  r.where = standing::attaching;
  out.push_back(act::admit{{m.id, m.inc}});
  return out;
}

supervision_fsm::actions supervision_fsm::on_parted(time_point now, const participant& who) {
  auto* r = find(who);
  if (!r || r->parted) return {};
  r->parted = true;
  r->parted_since = now;
  if (r->where != standing::member && r->where != standing::attaching) return {};
  leave_out(now, *r);
  return {act::down{who, errc::unreachable}};
}

supervision_fsm::actions supervision_fsm::on_reached(time_point now, const participant& who) {
  auto* r = find(who);
  if (!r || !std::exchange(r->parted, false)) return {};
  r->let_go = false;
  return on_tick(now);
}

supervision_fsm::actions supervision_fsm::on_pong(time_point now, const pong_msg& m) {
  auto* r = find({m.id, m.inc});
  if (!r) return {};
  r->state = m.state;
  return heard(now, m.id, *r);
}

supervision_fsm::actions supervision_fsm::on_goodbye(time_point now, const goodbye_msg& m) {
  (void)now;
  auto* r = find({m.id, m.inc});
  if (!r || r->where == standing::detached) return {};
  r->where = standing::detached;
  r->reason = errc::detached;
  r->state.ready = false;
  return {act::down{{m.id, m.inc}, errc::detached}, act::gave_up{m.id, errc::detached, {}}};
}

supervision_fsm::actions supervision_fsm::on_down(time_point now, const participant& who,
                                                  bool restartable) {
  auto* r = find(who);
  if (!r || r->where == standing::detached || r->where == standing::dead) return {};
  actions out{act::down{who, errc::dead}};
  r->state = {};
  note(now, *r, errc::dead, {});
  r->where = standing::dead;
  if (!restartable || r->restarts_in_row >= settings_.supervision.restart_max) {
    r->where = standing::gave_up;
    out.push_back(act::gave_up{who.id, errc::dead,
                               restartable ? "restarted too often" : "its process ended"});
    return out;
  }
  ++r->restarts_in_row;
  out.push_back(act::restart{who.id});
  return out;
}

supervision_fsm::actions supervision_fsm::on_admitted(time_point now, const participant& who,
                                                      admission how) {
  (void)now;
  auto* r = find(who);
  // The word of an admission that crossed the word of its end.
  const bool ended = !r || r->where == standing::dead || r->where == standing::gave_up ||
                     r->where == standing::detached;
  if (!ended) {
    r->where = standing::member;
    r->reason = errc::none;
    r->detail.clear();
    if (how == admission::reseeded) ++r->reseeds;
    if (how == admission::caught_up) ++r->catch_ups;
  }
  return {};
}

supervision_fsm::actions supervision_fsm::on_not_admitted(time_point now, const participant& who,
                                                          errc reason, std::string detail) {
  auto* r = find(who);
  if (!r || (r->where != standing::attaching && r->where != standing::member)) return {};
  return failed(now, who.id, *r, reason, std::move(detail));
}

supervision_fsm::actions supervision_fsm::on_evicted(time_point now, const participant& who,
                                                     errc reason, std::string detail) {
  auto* r = find(who);
  if (!r || (r->where != standing::attaching && r->where != standing::member)) return {};
  return failed(now, who.id, *r, reason, std::move(detail));
}

supervision_fsm::actions supervision_fsm::on_acknowledged(receiver_id id) {
  if (const auto it = records_.find(id); it != records_.end()) {
    it->second.attempts = 0;
    it->second.restarts_in_row = 0;
  }
  return {};
}

supervision_fsm::actions supervision_fsm::on_new_run(time_point now) {
  for (auto& [id, r] : records_) {
    if (r.where == standing::member || r.where == standing::attaching) {
      r.where = standing::quarantined;
      r.next_try = now;
    }
  }
  return on_tick(now);
}

supervision_fsm::actions supervision_fsm::on_tick(time_point now) {
  actions out;
  for (auto& [id, r] : records_) {
    if (r.where != standing::quarantined) continue;
    if (now >= r.next_try && would_answer(now, r)) {
      r.where = standing::attaching;
      out.push_back(act::admit{{id, r.inc}});
    } else if (!r.let_go && now >= patience_ends(r)) {
      r.let_go = true;
      out.push_back(act::silent{id});
    }
  }
  return out;
}

std::optional<time_point> supervision_fsm::deadline(time_point now) const {
  std::optional<time_point> next;
  const auto at = [&next](time_point t) { next = next ? std::min(*next, t) : t; };
  for (const auto& [id, r] : records_) {
    if (r.where != standing::quarantined) continue;
    if (would_answer(now, r)) {
      at(r.next_try);
    } else if (!r.let_go) {
      at(patience_ends(r));
    }
  }
  return next;
}

}  // namespace lockstep
