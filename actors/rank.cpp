#include "actors/rank.hpp"

#include <spdlog/spdlog.h>

#include <caf/send.hpp>

#include "actors/encoding.hpp"
#include "actors/packed.hpp"
#include "actors/patience.hpp"
#include "actors/rank_parts.hpp"
#include "actors/refused_error.hpp"
#include "actors/states.hpp"
#include "messages/printable.hpp"

namespace lockstep {

using namespace ranking;

namespace {

using std::chrono::milliseconds;

// --- the coordinator's link ---------------------------------------------------------------------

void arm(pointer self) {
  auto& state = self->state;
  if (!state.coordinator && !state.dialing) state.timer.arm(self, state.next_try);
  if (state.boot) state.timer.arm(self, state.boot->deadline);
  if (state.coordinator) state.timer.arm(self, state.next_count);
  if (state.coordinator && state.hello && state.twin) state.timer.arm(self, state.twin->next_hello);
}

void dial(pointer self) {
  self->state.dialing = true;
  self->state.dial(rank_actor(self));
}

/// What the trainer's start waits for will not come.
template <class Error>
void refuse_boot(pointer self, Error why) {
  const auto boot = std::exchange(self->state.boot, std::nullopt);
  if (boot) boot->answer->set_exception(std::make_exception_ptr(std::move(why)));
}

void on_dialed(pointer self, rank_dialed& m) {
  auto& state = self->state;
  const auto& t = state.env->options.transport;
  state.dialing = false;
  if (!m.link) {
    const bool foreign = m.why.reason == errc::wrong_cluster;
    if (foreign)
      m.why.detail += ", not to '" + printable(state.env->options.cluster.name) +
                      "': cluster.name has to be rank 0's";
    state.no_link = std::string(to_string(m.why.reason)) + ' ' + m.why.detail;
    // Whoever is there knows what this is, and has no place for it.
    if (foreign || m.why.reason == errc::bad_input)
      refuse_boot(self, refused_error(m.why.reason, m.why.detail));
    state.next_try = self->clock().now() + wait_after(state.failures++, t.retry_ms, t.retry_ms_max);
    if (std::exchange(state.last_failure, m.why.reason) != m.why.reason)
      state.env->log->warn("no link to the coordinator: {}", state.no_link);
    return arm(self);
  }
  state.failures = 0;
  state.last_failure = errc::none;
  state.no_link.clear();
  state.said_no_fanout = false;
  state.coordinator = std::move(m.link);
  self->monitor(state.coordinator);
  introduce(self);
  arm(self);
}

void on_down(pointer self, const caf::down_msg& m) {
  auto& state = self->state;
  if (state.coordinator && state.coordinator.address() == m.source) {
    state.coordinator = nullptr;
    state.twin.reset();
    state.next_try = self->clock().now() + milliseconds(state.env->options.transport.retry_ms);
    end_run(self, errc::unreachable, "the coordinator is gone");
    return arm(self);
  }
  if (state.snapshot && state.snapshot.address() == m.source) {
    state.snapshot = nullptr;
    // The coordinator must not count on this rank any more.
    if (state.coordinator) self->send_exit(state.coordinator, caf::exit_reason::kill);
    return end_run(self, errc::dead, "the snapshot has ended");
  }
  // Without its flusher a receiver gets nothing from here: it is linked anew when it announces
  // itself, and nobody counts on it until then.
  for (auto& [id, r] : state.receivers)
    if ((r.receiver && r.receiver.address() == m.source) ||
        (r.flusher && r.flusher.address() == m.source))
      return unreach(self, id, r);
}

// --- the trainer of this rank -------------------------------------------------------------------

void on_boot(pointer self, boot_request& m) {
  auto& state = self->state;
  if (!state.hello) {
    state.hello = {state.env->cluster,
                   state.env->options.transport.rank,
                   state.env->options.transport.ranks,
                   state.inc,
                   m.shape.fingerprint(),
                   packed_mask(m.owned)};
    introduce(self);
  }
  refuse_boot(self, error(errc::busy, "another start has taken its place"));
  state.boot = std::move(m);
  arm(self);
  if (state.waiting && state.waiting->what == shard_task::seed)
    seed(self, *std::exchange(state.waiting, std::nullopt));
}

/// Whether another process of this number may be one that only seems to live: its link ends within
/// two leases then, and until they are over this rank introduces itself again and again.
bool may_take_place(pointer self, const refused_msg& m) {
  auto& state = self->state;
  const auto& o = state.env->options;
  const auto now = self->clock().now();
  if (!state.twin) {
    state.twin = {now, 0, {}};
    state.env->log->warn("refused by the coordinator for now: {}", m.detail);
  }
  if (now >= state.twin->since + 2 * milliseconds(o.receiver.lease_ms)) return false;
  state.no_link = m.detail;
  state.twin->next_hello =
      now + wait_after(state.twin->refusals++, o.transport.retry_ms, o.transport.retry_ms_max);
  arm(self);
  return true;
}

/// As it is, this rank is of no use to the coordinator: the trainer is told so. It introduces
/// itself anew if it is seeded again, perhaps with something else.
void on_refused(pointer self, const refused_msg& m) {
  auto& state = self->state;
  if (m.cluster != state.env->cluster || m.inc != state.inc) return;
  if (m.reason == errc::busy && may_take_place(self, m)) return;
  state.env->log->error("refused by the coordinator: {} {}", to_string(m.reason), m.detail);
  state.hello.reset();
  state.waiting.reset();
  refuse_boot(self, refused_error(m.reason, m.detail));
}

void on_sync(pointer self, sync_request& m) {
  auto& state = self->state;
  if (!state.snapshot) {
    sync_report refused;
    refused.label = m.label;
    refused.reason = errc::shut_down;
    refused.detail = "the coordinator has no run: seed again";
    return m.ticket->finish(std::move(refused));
  }
  finish_sync(self, sync_result::aborted, errc::busy, "another sync has taken its place");
  state.current = std::move(m);
  if (state.waiting && state.waiting->what == shard_task::encode)
    encode(self, *std::exchange(state.waiting, std::nullopt));
}

}  // namespace

rank_actor::behavior_type rank_behavior(pointer self, std::shared_ptr<const actor_env> env,
                                        rank_dialer dial_coordinator) {
  auto& state = self->state;
  state.inc = {env->entropy(), env->entropy()};
  state.env = std::move(env);
  state.dial = std::move(dial_coordinator);
  self->set_down_handler([self](const caf::down_msg& m) { on_down(self, m); });
  self->set_exit_handler([self](const caf::exit_msg& m) {
    end_run(self, errc::shut_down, "the runtime is ending");
    for (auto& [id, r] : self->state.receivers) unreach(self, id, r);
    self->quit(m.reason);
  });
  dial(self);
  return {
      [self](boot_request& m) { on_boot(self, m); },
      [self](sync_request& m) { on_sync(self, m); },
      // The coordinator's trainer says when nobody is waited for any more.
      [](const hurry_request&) {},
      [self](const end_request&) {
        refuse_boot(self, error(errc::shut_down, "the trainer has left"));
        end_run(self, errc::shut_down, "the trainer has left");
      },
      [self](const shard_task_msg& m) { on_task(self, m); },
      [self](const shard_ship_msg& m) { on_ship(self, m); },
      [self](const shard_route_msg& m) { on_route(self, m); },
      [self](const shard_among_msg& m) { on_among(self, m); },
      [self](const refused_msg& m) { on_refused(self, m); },
      [self](const relay_stalled& m) {
        const auto& s = self->state;
        if (s.coordinator)
          self->send(s.coordinator, shard_stalled_msg{s.env->cluster, s.env->options.transport.rank,
                                                      m.child, m.parent});
      },
      [self](const stage_result& m) {
        auto& s = self->state;
        if (m.txn != s.encoded || !s.delta) return;
        auto out = result_of(self, shard_task::stage, m.txn, s.challenge);
        out.reason = m.reason;
        out.detail = m.detail;
        if (m.reason != errc::none) s.refused = {m.txn, m.reason, m.detail};
        out.proof = m.proof;
        say(self, std::move(out));
      },
      [self](carve_result& m) {
        auto& s = self->state;
        if (m.txn != s.encoded || !s.delta) return;
        auto out = result_of(self, shard_task::carve, m.txn, m.challenge);
        out.part = m.part;
        out.reason = m.reason;
        out.detail = std::move(m.detail);
        out.base = m.base;
        out.state = m.state;
        out.proof = m.proof;
        if (m.delta) out.content = m.delta->content();
        s.carved[m.part] = std::move(m.delta);
        say(self, std::move(out));
      },
      [self](const prove_result& m) {
        auto out = result_of(self, shard_task::prove, m.txn, m.challenge);
        out.part = m.part;
        out.state = m.state;
        out.proof = m.proof;
        say(self, std::move(out));
      },
      [self](const full_result& m) {
        auto& s = self->state;
        if (s.planned != m.txn) s.full.clear();
        s.planned = m.txn;
        s.full[m.part] = m.source;
        auto out = result_of(self, shard_task::plan, m.txn, m.challenge);
        out.part = m.part;
        out.state = m.state;
        out.proof = m.proof;
        if (m.source) {
          out.content = m.source->content();
        } else {
          out.reason = errc::wrong_base;
          out.detail = "it does not remember so many steps";
        }
        say(self, std::move(out));
      },
      [self](const advance_result& m) { on_advanced(self, m); },
      [self](const digests_result& m) {
        auto out =
            result_of(self, shard_task::digests, {m.version.run, m.version.number}, m.challenge);
        out.digests = packed_digests(m.tensors);
        say(self, std::move(out));
      },
      [](const drained_notice&) {},
      [self](const hello_msg& m) { on_hello(self, m); },
      [](const pong_msg&) {},
      [](const relay_offer_msg&) {},
      [self](const goodbye_msg& m) {
        const auto r = self->state.receivers.find(m.id);
        if (r == self->state.receivers.end() || r->second.inc != m.inc) return;
        unreach(self, m.id, r->second);
        self->state.receivers.erase(r);
      },
      [self](const observe_request& m) {
        observation mine;  // of receivers the coordinator knows
        mine.end.fleet = self->state.held;
        mine.end.reason = self->state.snapshot ? errc::none : self->state.ended_by;
        m.answer(std::move(mine));
      },
      [self](rank_dialed& m) { on_dialed(self, m); },
      [self](const tick&) {
        auto& s = self->state;
        s.timer.fired();
        const auto now = self->clock().now();
        if (s.boot && s.boot->deadline <= now)
          refuse_boot(self, error(errc::timeout, "rank 0 has not seeded" +
                                                     (s.no_link.empty() ? "" : ": " + s.no_link)));
        if (!s.coordinator && !s.dialing && s.next_try <= now) dial(self);
        if (s.coordinator && s.hello && s.twin && s.twin->next_hello <= now) {
          s.twin->next_hello = now + milliseconds(s.env->options.transport.retry_ms_max);
          introduce(self);
        }
        tell_counts(self);
        arm(self);
      },
  };
}

}  // namespace lockstep
