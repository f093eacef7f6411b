// What the supervisor answers to whoever looks on.
#include <algorithm>

#include "actors/supervisor_parts.hpp"

namespace lockstep::supervising {

static std::uint64_t milliseconds_since(time_point then, time_point now) {
  if (then == time_point{} || then >= now) return 0;
  return static_cast<std::uint64_t>(
      std::chrono::duration_cast<std::chrono::milliseconds>(now - then).count());
}

/// How much of the model it takes, if it is of the trainer's.
static void note_part(const supervisor_state& state, const supervisor_state::child& c,
                      receiver_status& s) {
  if (!state.trainer || c.model != state.trainer->boot.shape.fingerprint()) return;
  try {
    const auto& shape = state.trainer->boot.shape;
    const auto taken = part_from(c.taken, shape);
    const auto count = taken.empty() ? static_cast<std::ptrdiff_t>(shape.count())
                                     : std::ranges::count(taken, true);
    s.tensors = static_cast<std::uint32_t>(count);
    s.part_bytes = shard_layout(shape, taken).total_bytes();
  } catch (const error&) {
    // It is refused for that, and its line says so.
  }
}

static std::vector<receiver_status> statuses(const supervisor_state& state, time_point now) {
  std::vector<receiver_status> out;
  for (const auto& [id, r] : state.policy->records()) {
    receiver_status s;
    s.id = id;
    s.name = r.name;
    s.state = r.state;
    s.heard_ms = milliseconds_since(r.last_heard, now);
    s.standing = to_string(r.where);
    const auto it = state.children.find(id);
    const bool here = it != state.children.end() && it->second.bytes;
    if (here) {
      s.state = it->second.bytes->state();  // not as old as the last pong
    } else {
      // It has heard nobody since, so that its lease has ended.
      if (s.heard_ms > state.env->options.receiver.lease_ms) s.state.ready = false;
      // Nobody here can start it again, so that it is waited for no longer: it is no less dead.
      if (r.where == standing::gave_up && r.reason == errc::dead)
        s.standing = to_string(standing::dead);
    }
    if (it != state.children.end()) {
      s.sent_bytes = it->second.sent->sent;
      for (const auto& [rank, other] : state.ranks)
        if (const auto sent = other.sent.find(id); sent != other.sent.end())
          s.sent_bytes += sent->second;
      note_part(state, it->second, s);
    }
    if (const auto phase = state.phases.find(id); phase != state.phases.end())
      s.phase_ms = milliseconds_since(phase->second.since, now);
    s.member = r.where == standing::member;
    s.reason = r.reason;
    s.detail = r.detail;
    s.reseeds = r.reseeds;
    s.catch_ups = r.catch_ups;
    s.restarts = r.restarts;
    out.push_back(std::move(s));
  }
  return out;
}

/// Whom other ranks reach, and this one has never heard of: it may have been given their addresses
/// only.
static void add_unheard(const supervisor_state& state, std::vector<receiver_status>& out) {
  std::map<receiver_id, std::uint32_t> linked;  // to the lowest of the ranks
  for (const auto& [rank, r] : state.ranks)
    for (const auto& [id, inc] : r.reached)
      if (!state.policy->records().contains(id)) linked.emplace(id, rank);
  for (const auto& [id, rank] : linked) {
    receiver_status s;
    s.id = id;
    s.standing = to_string(standing::dead);
    s.reason = errc::unreachable;
    s.detail = "linked to rank " + std::to_string(rank) +
               " and not to rank 0: it is to be given the addresses of all ranks (--connect)";
    out.push_back(std::move(s));
  }
  std::ranges::sort(out, {}, &receiver_status::id);
}

static std::vector<receiver_failure> failures(const supervisor_state& state, time_point now) {
  std::vector<receiver_failure> out;
  for (const auto& [id, r] : state.policy->records()) {
    // That not every rank reached it was no failure of its own, and is over once all do: at a start
    // each comes when it comes.
    const bool over = r.last_reason == errc::unreachable && !r.parted;
    if (r.last_reason != errc::none && !over)
      out.push_back({id, r.last_reason, r.last_detail, milliseconds_since(r.last_failed, now)});
  }
  return out;
}

/// Why there is no run.
static errc why_no_run(const supervisor_state& state) {
  if (state.waiting) return errc::unreachable;  // its other ranks are
  return state.fenced ? errc::fenced : errc::shut_down;
}

static void start_audit(pointer self, std::function<void(observation)> answer) {
  auto& state = self->state;
  if (!state.trainer) {
    observation none;
    none.end.reason = why_no_run(state);
    return answer(std::move(none));
  }
  audit_setup setup{state.env, state.trainer->snapshot, {}, state.trainer->boot.shape,
                    {},        std::move(answer)};
  for (const auto& [rank, r] : state.ranks) setup.ranks.push_back(r.link);
  for (const auto& [id, r] : state.policy->records()) {
    if (r.where == standing::detached) continue;  // it is nobody's engine any more
    audit_target t{{id, r.inc}, r.name, {}, {}};
    const auto it = state.children.find(id);
    if (it != state.children.end() && it->second.receiver && it->second.life.inc == r.inc)
      t.receiver = it->second.receiver;
    if (t.receiver) {
      t.model = it->second.model;
      t.taken = it->second.taken;
    } else {
      t.why_not = "it is not to be reached: " + std::string(to_string(r.reason));
    }
    setup.targets.push_back(std::move(t));
  }
  self->spawn(auditor_behavior, std::move(setup));
}

void on_observe(pointer self, const observe_request& m) {
  if (m.what == question::audit) return start_audit(self, m.answer);
  auto& state = self->state;
  observation out;
  out.states = statuses(state, self->clock().now());
  add_unheard(state, out.states);
  for (const auto& [id, c] : state.children) {
    const auto stripes = static_cast<std::uint32_t>(c.feeds.size());
    for (std::uint32_t s = 0; s < stripes; ++s)
      if (const auto& f = c.feeds[s]; f.parent)
        out.relays.feeds.push_back({id, s, stripes, f.parent->id, f.up});
    if (const std::uint64_t bytes = c.sent->relayed; bytes != 0)
      out.relays.relayed.push_back({id, bytes});
  }
  out.failures = failures(state, self->clock().now());
  out.end.lines = static_cast<std::uint32_t>(out.states.size());
  if (state.trainer)
    out.end.fleet = state.fleet;
  else
    out.end.reason = why_no_run(state);
  m.answer(std::move(out));
}

}  // namespace lockstep::supervising
