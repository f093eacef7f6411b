// The receiver: feeds messages to its machine and performs what it asks for on the engine's bytes.
#include <spdlog/spdlog.h>

#include <new>
#include <stdexcept>

#include "actors/packed.hpp"
#include "actors/states.hpp"
#include "messages/printable.hpp"
#include "weights/bucket_codec.hpp"

namespace lockstep {

namespace {

namespace act = receiver_action;
using pointer = receiver_actor::stateful_pointer<receiver_state>;

/// What comes of reading all weights: there may be no memory, and a device may fail.
template <class Work>
engine::failure read_weights(Work work) {
  try {
    work();
    return {};
  } catch (const std::bad_alloc&) {
    return {errc::no_memory, "out of memory"};
  } catch (const std::runtime_error& e) {
    return {errc::apply_failed, "weights cannot be read: " + printable(e.what())};
  }
}

/// Whoever ships may send another bucket.
void credit(pointer self, const caf::strong_actor_ptr& whom, const credit_msg& m) {
  if (const auto flusher = caf::actor_cast<flusher_actor>(whom)) self->send(flusher, m);
}

/// Performs a list of actions, in order; what they answer becomes further actions.
class performer {
 public:
  explicit performer(pointer self) : self_(self), state_(self->state) {}

  void run(receiver_fsm::actions list) {
    for (auto& action : list) {
      if (ended_) return;
      next_.clear();
      stop_ = false;
      auto* const drill = state_.env->drill.get();
      if (drill != nullptr) drill->pass(action, moment::before);
      std::visit([this](auto& a) { perform(a); }, action);
      if (drill != nullptr) drill->pass(action, moment::after);
      auto more = std::exchange(next_, {});
      const bool stop = stop_;
      run(std::move(more));
      if (stop) return;
    }
  }

  bool ended() const noexcept { return ended_; }

 private:
  engine& bytes() { return *state_.bytes; }
  receiver_fsm& machine() { return *state_.machine; }
  bool strikes(fault_kind kind, txn_ref txn) {
    return state_.announced.txn == txn && bytes().strikes(kind, state_.announced);
  }

  void perform(const act::pause& a) {
    if (auto failed = bytes().pause()) {
      next_ = machine().on_write_failed(a.txn, failed.reason, failed.detail);
      stop_ = true;
    }
  }
  void perform(const act::keep_bucket& a) {
    const auto& relay = state_.side.relay;
    if (relay) self_->send(relay, relay_kept{state_.bucket_env.txn, a.index, state_.arrived});
    if (state_.arrived_staged) return;
    // What is redone is staged already, and leads from whatever is there.
    const auto slot = machine().summarize().slot.value();
    if (slot.kind == receiver_fsm::slot_kind::redo)
      return bytes().keep(a.index, std::move(state_.arrived));
    const auto unsound = bytes().stage(a.index, std::move(state_.arrived),
                                       state_.env->options.receiver.staged_bytes_max);
    // The vote says it too, if all that is still to come does.
    if (unsound)
      state_.env->log->warn("{}: {} cannot be staged: {}", bytes().name(),
                            to_string(state_.bucket_env.txn), unsound.detail);
  }
  void perform(const act::drop_slot&) {
    if (state_.side.relay) self_->send(state_.side.relay, relay_over{});
    bytes().drop();
  }

  void perform(const act::verify_slot& a) {
    auto result = strikes(fault_kind::stage_fail, a.txn)
                      ? engine::failure{errc::no_memory, "staging failed on purpose"}
                      : bytes().verify(a.base, a.target);
    if (!result) state_.proven_at = self_->clock().now();
    next_ = machine().on_verified(a.txn, result.reason, std::move(result.detail));
  }
  void perform(const act::check_slot& a) {
    auto result = bytes().check();
    next_ = machine().on_verified(a.txn, result.reason, std::move(result.detail));
  }

  void perform(const act::apply_slot& a) {
    const auto write = [&](std::optional<double> share) { return bytes().apply(a.target, share); };
    if (ends_on_purpose(a.txn, write)) return;
    if (state_.env->drill && state_.env->drill->strikes(a, moment::during)) {
      bytes().apply(a.target, 0.5);
      failpoint::end_process();
    }
    finish_write(a.txn, a.challenge, write(share_struck(a.txn)));
  }
  void perform(const act::write_bucket& a) {
    const auto bucket = std::exchange(state_.arrived, {});
    const auto write = [&](std::optional<double> share) {
      return bytes().write_full(bucket, share);
    };
    if (ends_on_purpose(a.txn, write)) return;
    auto failed = write(share_struck(a.txn));
    if (failed) {
      next_ = machine().on_write_failed(a.txn, failed.reason, std::move(failed.detail));
      return;
    }
    if (state_.side.relay) self_->send(state_.side.relay, relay_kept{a.txn, a.index, {}});
    next_ = machine().on_bucket_written(a.txn, a.index);
  }
  void perform(const act::finish_full& a) {
    finish_write(a.txn, a.challenge, bytes().finish_full(a.target));
  }
  /// Half of a write that must not be the whole one, on purpose; nothing if it is not to fail.
  std::optional<double> share_struck(txn_ref txn) {
    return strikes(fault_kind::apply_fail, txn) ? bytes().share_written() : std::nullopt;
  }
  /// True: instead of the write there was a lie, or the end of this life in its middle.
  template <class Write>
  bool ends_on_purpose(txn_ref txn, Write write) {
    if (strikes(fault_kind::false_ok, txn)) {
      // Echoes the target's public digest, since the bytes that the challenge asks for are not
      // here.
      using kind = receiver_fsm::slot_kind;
      const auto slot = machine().summarize().slot.value();
      const bool seeds = slot.kind == kind::catch_up || slot.kind == kind::full;
      send_reply({{machine().self().cluster, txn, machine().self().inc},
                  machine().self().id,
                  seeds ? 0 : state_.round,
                  seeds ? reply_kind::full_ok : reply_kind::ack,
                  errc::none,
                  {},
                  slot.target.state});
      stop_ = true;
      return true;
    }
    if (!strikes(fault_kind::crash, txn)) return false;
    write(bytes().share_written());
    self_->quit(caf::make_error(caf::sec::runtime_error, "crashed on purpose"));
    ended_ = true;
    return true;
  }
  void finish_write(txn_ref txn, std::uint64_t challenge, engine::failure failed) {
    std::pair<digest, digest> now;
    if (!failed) failed = read_weights([&] { now = bytes().digests_now(challenge); });
    if (failed) {
      next_ = machine().on_write_failed(txn, failed.reason, std::move(failed.detail));
      return;
    }
    state_.proven_at = self_->clock().now();
    next_ = machine().on_applied(txn, now.first, now.second);
  }
  void perform(const act::compute_digest& a) {
    std::pair<digest, digest> now;
    if (auto failed = read_weights([&] { now = bytes().digests_now(a.challenge); })) {
      // Whoever cannot say what it holds is no receiver; its next life may.
      state_.env->log->error("{}: {}", bytes().name(), failed.detail);
      self_->quit(caf::make_error(caf::sec::runtime_error, std::move(failed.detail)));
      ended_ = true;
      return;
    }
    state_.proven_at = self_->clock().now();
    auto [held, proof] = now;
    // Its hooks have not seen the update through, in this life or the one before: even where the
    // bytes are the target's by now, it must be told of them, and a full transfer does that.
    if (bytes().stopped()) held = {~held.lane0, ~held.lane1};
    next_ = machine().on_digest(a.txn, held, proof);
  }

  void perform(const act::resume& a) {
    std::string complaint;
    bytes().resume(a.target, complaint);
    if (!complaint.empty())
      state_.env->log->error("{}: resume hook failed: {}", bytes().name(), complaint);
  }
  void perform(const act::publish& a) {
    state_.env->log->debug("{}: {} {}, ready {}", bytes().name(), to_string(a.state.phase),
                           to_string(a.state.version), a.state.ready);
    if (auto failed = bytes().publish(a.state))
      state_.env->log->error("{}: readiness hook failed: {}", bytes().name(), failed.detail);
  }
  void perform(act::reply& a) { send_reply(std::move(a.message)); }
  void send_reply(reply_msg m) {
    if (strikes(fault_kind::no_reply, m.env.txn)) return;
    if (m.reason != errc::none && m.kind != reply_kind::need_full)
      state_.env->log->warn("{}: {} {}: {} {}", bytes().name(), to_string(m.env.txn),
                            to_string(m.kind), to_string(m.reason), m.detail);
    if (state_.join) self_->send(state_.join, std::move(m));
  }
  void perform(const act::pong&) {
    // To whoever asked: an older trainer learns from it that a newer one is there.
    const auto& me = machine().self();
    const auto asker = caf::actor_cast<supervisor_actor>(self_->current_sender());
    if (asker) self_->send(asker, pong_msg{me.cluster, me.id, me.inc, machine().state()});
  }
  void perform(const act::announce&) {
    const auto& me = machine().self();
    self_->send(state_.supervisor, hello_msg{me.cluster, me.id, bytes().name(), me.inc,
                                             bytes().model(), packed_part(bytes().taken())});
    if (state_.side.offer) self_->send(state_.supervisor, *state_.side.offer);
  }
  void perform(const act::grant_credit& a) {
    if (!state_.arrived_staged)
      credit(self_, state_.arrived_from, {state_.bucket_env, machine().self().id, a.index});
  }

  pointer self_;
  receiver_state& state_;
  receiver_fsm::actions next_;
  bool stop_ = false;   ///< the rest of this list must not be performed
  bool ended_ = false;  ///< this life is over
};

/// When the bytes that are served are to be digested again, if nobody asks for it before.
std::optional<time_point> scrub_due(const receiver_state& state) {
  const auto every = state.env->options.receiver.scrub_ms;
  if (every == 0 || state.machine->state().phase != receiver_phase::serving) return std::nullopt;
  return state.proven_at + std::chrono::milliseconds(every);
}

void arm(pointer self) {
  auto& state = self->state;
  const auto due = {state.machine->deadline(), scrub_due(state)};
  for (const auto& at : due) state.timer.arm(self, at);
}

/// False: this life is over.
bool perform(pointer self, receiver_fsm::actions actions) {
  // First: what is published next may be that the trainer was heard again.
  self->state.bytes->trust_until(self->state.machine->trusted_until());
  performer all(self);
  all.run(std::move(actions));
  arm(self);
  return !all.ended();
}

/// Memory rots, and weights that no sync reads again are served for as long as nobody trains. What
/// is no more what its tag names ends this life: the next one attaches with what is there, and is
/// given all of it. False if it has.
bool scrub(pointer self) {
  auto& state = self->state;
  const auto held = state.machine->summarize();
  state.proven_at = self->clock().now();
  // Whatever is under way digests them itself.
  if (held.slot || held.attaching) return true;
  std::pair<digest, digest> now;
  auto failed = read_weights([&] { now = state.bytes->digests_now(0); });
  if (!failed && now.first != held.tag.state)
    failed = {errc::torn, "the weights held are no more those of " + to_string(held.tag.version)};
  if (!failed) return true;
  state.env->log->error("{}: {}", state.bytes->name(), failed.detail);
  state.bytes->publish({false, receiver_phase::torn, {}, 0, errc::torn});
  self->quit(caf::make_error(caf::sec::runtime_error, std::move(failed.detail)));
  return false;
}

/// A payload whose first byte differs in one bit.
payload corrupted(const payload& bucket) {
  std::vector<std::byte> bytes(bucket.data(), bucket.data() + bucket.size());
  if (!bytes.empty()) bytes.front() ^= std::byte{1};
  return payload(std::move(bytes));
}

// --- buckets that nobody has announced ----------------------------------------------------------

/// Of a transaction that the machine has not heard of, and that it would take.
bool is_ahead(const receiver_state& state, const envelope& env) {
  const auto& me = state.machine->self();
  return env.cluster == me.cluster && env.inc == me.inc &&
         env.txn > state.machine->summarize().fence;
}

/// Whoever serves can stage what leads from there, whatever that will be called.
bool may_stage(const receiver_state& state, txn_ref txn) {
  const auto now = state.machine->summarize();
  return now.phase == receiver_phase::serving && txn.run == now.fence.run && !now.slot &&
         !now.attaching;
}

void take_ahead(pointer self, const bucket_msg& m) {
  auto& state = self->state;
  const auto from = self->current_sender();
  if (state.ahead.take(m, from, may_stage(state, m.env.txn), state.env->options, *state.bytes))
    credit(self, from, {m.env, state.machine->self().id, m.index});
}

/// Before the machine hears of `env`; `content`: of a delta.
void make_way(receiver_state& state, const envelope& env, const manifest* content) {
  if (is_ahead(state, env)) state.ahead.make_way(env, content, *state.bytes);
}

/// False: this life is over.
bool on_bucket(pointer self, const envelope& env, std::uint32_t index, const payload& bytes,
               caf::strong_actor_ptr from, bool staged) {
  auto& s = self->state;
  const bool spoil = index == 0 && env.txn == s.announced.txn &&
                     s.bytes->strikes(fault_kind::corrupt_frame, s.announced);
  s.arrived = spoil ? corrupted(bytes) : bytes;
  s.bucket_env = env;
  s.arrived_from = std::move(from);
  s.arrived_staged = staged;
  const auto all = s.machine->announced();
  const auto hash = index < all.size() ? hash_like(all[index].hash, s.arrived) : hash128{};
  const bool goes_on =
      perform(self, s.machine->on_bucket(self->clock().now(), env, index, s.arrived.size(), hash));
  s.arrived = {};
  s.arrived_from = {};
  s.arrived_staged = false;
  return goes_on;
}

/// What was announced just now may be here.
void take_up(pointer self, const envelope& env) {
  auto& state = self->state;
  if (!state.ahead.is_of(env)) return;
  const auto slot = state.machine->summarize().slot;
  if (!slot || slot->txn != env.txn) return state.ahead.forget(*state.bytes);  // refused
  for (auto& [index, b] : state.ahead.release())
    if (!on_bucket(self, env, index, b.bytes, std::move(b.from), b.staged)) return;
}

/// An older one that comes late takes nothing's place.
void announce(receiver_state& state, const transfer_ref& what) {
  if (what.txn >= state.announced.txn) state.announced = what;
}

/// Others may bring buckets of this from now on.
template <class M>
void tell_relay(pointer self, M& m) {
  if (!self->state.side.relay) return;
  using list = const std::vector<bucket_info>;
  self->send(self->state.side.relay,
             relay_begin{m.env, std::make_shared<list>(std::move(m.content.buckets)),
                         caf::actor_cast<flusher_actor>(self->current_sender())});
}

/// Serves exactly this version.
bool holds(const receiver_state& state, version_ref version) {
  return version && state.machine->state().version == version;
}

/// The relay may pass these weights on.
void lend(pointer self, relay_lend_msg& m) {
  const auto& s = self->state;
  if (!s.side.relay || m.inc != s.machine->self().inc || !s.bytes->taken().empty()) return;
  const bool whole = holds(s, m.version);
  self->send(s.side.relay, relay_lent{std::move(m), receiver_actor(self), whole});
}

/// A bucket of weights that are lent, as they are now: whoever gets it holds it against the
/// trainer's word.
void cut(pointer self, const relay_cut& m) {
  const auto& s = self->state;
  const auto& what = m.what;
  const auto slot = s.machine->summarize().slot;
  const bool held = holds(s, what.version) ||
                    (slot && slot->kind == receiver_fsm::slot_kind::full && slot->txn == what.txn);
  relay_made made{what.child, what.txn, m.index, {}};
  if (held) made.bytes = s.bytes->cut(what.bucket_bytes_max, what.buckets, m.index);
  self->send(s.side.relay, std::move(made));
}

/// A trainer has no use for this engine. Who serves has another one, and that stands.
void on_refused(pointer self, refused_msg& m) {
  auto& s = self->state;
  const auto& me = s.machine->self();
  if (m.cluster != me.cluster || m.inc != me.inc) return;
  if (m.reason == errc::restarted) {  // its place may be free again
    if (!std::exchange(s.said_twin, true))
      s.env->log->warn("{}: not listened to for now: {}", s.bytes->name(), m.detail);
    return;
  }
  if (s.machine->state().ready) return;
  s.env->log->error("{}: refused by the trainer: {} {}", s.bytes->name(), to_string(m.reason),
                    m.detail);
  s.bytes->refuse({m.reason, std::move(m.detail)});
}

/// Nothing that is decided depends on it, and nothing is written: the bytes as they are now.
void answer_audit(pointer self, const audit_msg& m) {
  const auto& machine = *self->state.machine;
  const auto& me = machine.self();
  if (m.cluster != me.cluster || m.inc != me.inc) return;
  audit_reply_msg reply{me.cluster, me.id, me.inc, m.challenge, machine.state().version, {}};
  const auto failed = read_weights([&] {
    if (!reply.version) return;
    reply.digests = packed_digests(self->state.bytes->digests_under(m.challenge));
  });
  if (failed)  // the auditor is told of a receiver that does not answer
    return self->state.env->log->error("{}: {}", self->state.bytes->name(), failed.detail);
  if (const auto asker = caf::actor_cast<auditor_actor>(self->current_sender()))
    self->send(asker, std::move(reply));
}

}  // namespace

receiver_actor::behavior_type receiver_behavior(pointer self, std::shared_ptr<const actor_env> env,
                                                std::shared_ptr<engine> bytes, incarnation inc,
                                                supervisor_actor supervisor, relay_side side) {
  auto& state = self->state;
  const receiver_fsm::identity me{env->cluster, bytes->id(), inc, bytes->shape().fingerprint(),
                                  bytes->shape().total_bytes()};
  state.machine.emplace(me, env->options);
  bytes->drop();
  bytes->publish(state.machine->state());
  state.env = std::move(env);
  state.bytes = std::move(bytes);
  state.supervisor = std::move(supervisor);
  state.side = std::move(side);
  perform(self, state.machine->on_start(self->clock().now()));
  const auto now = [self] { return self->clock().now(); };
  return {
      [self, now](const attach_msg& m) {
        make_way(self->state, m.env, nullptr);
        perform(self, self->state.machine->on_attach(now(), m));
      },
      [self, now](prepare_msg& m) {
        const auto what = m.env;
        announce(self->state, {m.env.txn, m.target.label});
        make_way(self->state, what, &m.content);
        perform(self, self->state.machine->on_prepare(now(), m));
        tell_relay(self, m);
        take_up(self, what);
      },
      [self, now](const redo_msg& m) {
        auto& s = self->state;
        s.round = m.round;
        // What is redone is kept where nothing else is staged.
        const auto held = s.machine->summarize();
        if (m.env.txn == held.fence &&
            held.tag.version != version_ref{m.env.txn.run, m.env.txn.seq})
          s.ahead.forget(*s.bytes);
        perform(self, s.machine->on_redo(now(), m));
      },
      [self, now](full_begin_msg& m) {
        const auto what = m.env;
        announce(self->state, {m.env.txn, m.target.label, !m.catch_up});
        make_way(self->state, what, nullptr);
        perform(self, self->state.machine->on_full_begin(now(), m));
        tell_relay(self, m);
        take_up(self, what);
      },
      [self](const bucket_msg& m) {
        if (is_ahead(self->state, m.env)) return take_ahead(self, m);
        on_bucket(self, m.env, m.index, m.bytes, self->current_sender(), false);
      },
      [self, now](const commit_msg& m) {
        self->state.round = m.round;
        perform(self, self->state.machine->on_commit(now(), m));
      },
      [self, now](const abort_msg& m) { perform(self, self->state.machine->on_abort(now(), m)); },
      [self, now](const ping_msg& m) { perform(self, self->state.machine->on_ping(now(), m)); },
      [self](const welcome& m) {
        // A trainer whose run is over may still greet: answers go to the newest.
        auto& s = self->state;
        if (m.run < s.join_run) return;
        s.join_run = m.run;
        s.join = m.join;
      },
      [](const part_head&) {},
      [self](const audit_msg& m) { answer_audit(self, m); },
      [self](relay_parent_msg& m) {
        const auto from = caf::actor_cast<supervisor_actor>(self->current_sender());
        if (self->state.side.relay && from)
          self->send(self->state.side.relay, relay_order{std::move(m), from});
      },
      [self](relay_lend_msg& m) { lend(self, m); },
      [self](refused_msg& m) { on_refused(self, m); },
      [self](const relay_cut& m) { cut(self, m); },
      [self, now](const tick&) {
        auto& s = self->state;
        s.timer.fired();
        const auto due = scrub_due(s);
        if (due && now() >= *due && !scrub(self)) return;
        perform(self, s.machine->on_tick(now()));
        // Nobody announces it any more.
        if (s.machine->state().reason == errc::lease_expired) s.ahead.forget(*s.bytes);
      },
  };
}

}  // namespace lockstep
