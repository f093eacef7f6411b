// The sender: performs what the sync machine asks for, and measures it.
#include <spdlog/spdlog.h>

#include <exception>

#include "actors/states.hpp"
#include "weights/file.hpp"

namespace lockstep {

namespace {

namespace act = sync_action;
using pointer = sender_actor::stateful_pointer<sender_state>;

/// The trainer's tensors as the kernels see them. Throws `error{wrong_layout}` naming the tensor
/// whose size is not the layout's.
tensor_views views_of(const layout& shape, const tensor_reader& tensors) {
  tensor_views out;
  for (std::size_t i = 0; i < shape.count(); ++i) {
    const auto bytes = tensors(i);
    if (bytes.size() != shape.bytes(i))
      throw error(errc::wrong_layout, "tensor '" + shape[i].name + "' has " +
                                          std::to_string(bytes.size()) + " bytes, not " +
                                          std::to_string(shape.bytes(i)));
    out.push_back({{bytes.data(), bytes.size()}, unit_bytes(shape[i].type)});
  }
  return out;
}

class performer {
 public:
  explicit performer(pointer self)
      : self_(self), state_(self->state), env_(*state_.setup.env), now_(self->clock().now()) {}

  void run(const sync_fsm::actions& list) {
    for (const auto& action : list) std::visit([this](const auto& a) { perform(a); }, action);
  }

 private:
  envelope to(txn_ref txn, const participant& who) const { return {env_.cluster, txn, who.inc}; }
  const sender_state::route* route(const participant& who) const {
    const auto it = state_.routes.find(who);
    return it == state_.routes.end() ? nullptr : &it->second;
  }
  /// Sends what `make(envelope)` returns to each of `who`.
  template <class Make>
  void send_each(txn_ref txn, const std::vector<participant>& who, Make make) {
    for (const auto& p : who)
      if (const auto* r = route(p)) self_->send(r->receiver, make(to(txn, p)));
  }
  template <class Make>
  void ship_each(txn_ref txn, const std::vector<participant>& who,
                 const std::shared_ptr<bucket_source>& source, Make make) {
    for (const auto& p : who)
      if (const auto* r = route(p)) self_->send(r->flusher, ship_request{make(to(txn, p)), source});
  }

  void perform(const act::encode& a) {
    auto& m = state_.measures;
    m = {};
    m.started = now_;
    auto failed = std::optional<std::pair<errc, std::string>>{};
    try {
      if (!state_.current.ticket->begin_reading())
        throw error(errc::timeout, "the trainer has stopped waiting for its tensors to be read");
      encode(a);
    } catch (const error& e) {
      failed.emplace(e.code(), printable(e.what()));
    } catch (const std::bad_alloc&) {
      failed.emplace(errc::no_memory, "out of memory while encoding");
    } catch (const std::exception& e) {
      failed.emplace(errc::encode_failed, printable(e.what()));
    } catch (...) {  // the tensor reader is the embedding program's
      failed.emplace(errc::encode_failed, "an exception of an unknown type");
    }
    state_.current.ticket->tensors_read();
    state_.current.tensors = nullptr;
    if (failed) run(state_.machine->on_encode_failed(now_, a.txn, failed->first, failed->second));
  }

  void encode(const act::encode& a) {
    const auto& store = *state_.setup.store;
    const auto target = views_of(store.shape(), state_.current.tensors);
    state_.delta = std::make_shared<delta_source>(store.read([&](const tensor_views& base) {
      return encode_delta(store.shape(), base, target, env_.options.bucket.bytes_max);
    }));
    state_.measures.wire_bytes = state_.delta->content().bytes;
    state_.measures.changed = state_.delta->content().changed;
    state_.target_state = digest_of(public_digest_seed, target);
    state_.challenge = env_.entropy();
    const target_info to{{a.txn.run, a.txn.seq}, state_.target_state, a.label};
    self_->send(state_.setup.snapshot,
                stage_request{a.txn, a.base.version, to, state_.delta, state_.challenge});
  }

  void perform(const act::prove& a) {
    self_->send(state_.setup.snapshot, prove_request{a.txn, env_.entropy()});
  }
  void perform(const act::encode_full& a) {
    self_->send(state_.setup.snapshot, full_request{a.txn, env_.entropy()});
  }
  void perform(const act::open_round& a) {
    if (a.spec.kind == round_kind::commit) state_.measures.voted = now_;
    self_->send(state_.setup.join, a.spec);
  }
  void perform(const act::send_attach& a) {
    const auto layout_print = state_.setup.store->shape().fingerprint();
    send_each(a.txn, a.who, [&](const envelope& env) {
      return attach_msg{env, a.target, layout_print, a.challenge};
    });
  }
  void perform(const act::ship_delta& a) {
    state_.measures.sent_bytes += state_.measures.wire_bytes * a.who.size();
    ship_each(a.txn, a.who, state_.delta, [&](const envelope& env) {
      return prepare_msg{env, a.base.version, a.base.state, a.target, state_.delta->content()};
    });
  }
  void perform(const act::ship_redo& a) {
    state_.measures.sent_bytes += state_.measures.wire_bytes * a.who.size();
    ship_each(a.txn, a.who, state_.delta, [&](const envelope& env) {
      return redo_msg{env, a.target, state_.delta->content(), a.challenge, a.round};
    });
  }
  void perform(const act::ship_full& a) {
    const auto& content = state_.full->content();
    state_.measures.reseed_bytes += content.bytes * a.who.size();
    ship_each(a.txn, a.who, state_.full, [&](const envelope& env) {
      return full_begin_msg{env, a.target, content, a.challenge};
    });
  }
  void perform(const act::send_commit& a) {
    send_each(a.txn, a.who, [&](const envelope& env) {
      return commit_msg{env, a.target_state, a.challenge, a.round};
    });
  }
  void perform(const act::send_abort& a) {
    state_.measures.voted = now_;
    send_each(a.txn, a.who, [](const envelope& env) { return abort_msg{env}; });
  }
  void perform(const act::conclude& a) {
    state_.measures.committed = now_;
    self_->send(state_.setup.join, conclude_request{a.txn, a.view});
  }
  void perform(const act::release& a) {
    for (const auto& [who, r] : state_.routes) self_->send(r.flusher, stop_request{a.txn});
    self_->send(state_.setup.snapshot, drop_request{a.txn});
    state_.delta.reset();
    state_.full.reset();
  }
  void perform(const act::mark_down& a) {
    self_->send(state_.setup.join, down_notice{a.who, a.reason});
  }
  void perform(const act::evicted& a) { self_->send(state_.setup.supervisor, a); }
  void perform(const act::admitted& a) { self_->send(state_.setup.supervisor, a); }
  void perform(const act::not_admitted& a) { self_->send(state_.setup.supervisor, a); }

  void perform(const act::finish& a) {
    auto report = a.report;
    complete(report);
    const auto level =
        report.result == sync_result::ok ? spdlog::level::debug : spdlog::level::warn;
    env_.log->log(level, "sync {} ({} -> {}): {} {} {}", report.label, to_string(report.base),
                  to_string(report.target), to_string(report.result), to_string(report.reason),
                  report.detail);
    const auto ticket = std::exchange(state_.current, {}).ticket;
    ticket->finish(std::move(report));
  }

  void complete(sync_report& r) const {
    using seconds = sync_report::seconds;
    const auto& m = state_.measures;
    const auto& shape = state_.setup.store->shape();
    r.full_bytes = shape.total_bytes();
    for (std::size_t i = 0; i < shape.count(); ++i)
      r.elements += shape.bytes(i) / unit_bytes(shape[i].type);
    r.wire_bytes = m.wire_bytes;
    r.sent_bytes = m.sent_bytes;
    r.reseed_bytes = m.reseed_bytes;
    r.changed = m.changed;
    const auto between = [](time_point from, time_point until) {
      return until > from && from != time_point{} ? seconds(until - from) : seconds(0);
    };
    r.encode = between(m.started, m.encoded);
    r.ship = between(m.encoded, m.shipped);
    r.vote = between(std::max(m.encoded, m.shipped), m.voted);
    r.commit = between(m.voted, m.committed);
    if (r.result != sync_result::ok) r.recover = between(m.committed, now_);
    r.total = between(m.started, now_);
    for (auto& p : r.participants)
      for (const auto& [who, known] : state_.routes)
        if (who.id == p.id) p.name = known.name;
  }

  pointer self_;
  sender_state& state_;
  const actor_env& env_;
  time_point now_;
};

void perform(pointer self, const sync_fsm::actions& actions) {
  performer(self).run(actions);
  if (self->state.machine->phase() == sync_phase::failed) {
    // The supervisor starts the trainer's side anew, as another run, if the snapshot is whole.
    self->quit(caf::make_error(caf::sec::runtime_error, "the run cannot go on"));
    return;
  }
  self->state.timer.arm(self, self->state.machine->deadline());
}

void on_sync(pointer self, sync_request& m) {
  auto& state = self->state;
  if (state.current.ticket) {
    // The embedding interface waits for one sync before it starts the next.
    sync_report refused;
    refused.label = m.label;
    refused.base = refused.target = state.machine->snapshot().version;
    refused.reason = errc::busy;
    m.ticket->finish(std::move(refused));
    return;
  }
  const auto label = m.label;
  state.current = std::move(m);
  state.measures = {};  // a refusal measures nothing
  perform(self, state.machine->on_sync(self->clock().now(), label));
}

void on_advanced(pointer self, const advance_result& m) {
  auto& state = self->state;
  const auto now = self->clock().now();
  if (m.reason != errc::none) {
    state.setup.env->log->critical("the snapshot cannot advance: {}", m.detail);
    perform(self, state.machine->on_advance_failed(now, m.txn, m.detail));
    return;
  }
  auto actions = state.machine->on_advanced(now, m.txn);
  // Sent before the report is handed over, so that whoever is behind hears of it soon: until that
  // ping arrives it still shows its old version, truthfully tagged.
  fleet_notice fleet{state.machine->snapshot().version, {}};
  for (const auto& p : state.machine->members()) fleet.acknowledged.push_back(p.id);
  self->send(state.setup.supervisor, std::move(fleet));
  perform(self, actions);
}

}  // namespace

sender_actor::behavior_type sender_behavior(pointer self, sender_setup setup) {
  auto& state = self->state;
  const auto& shape = setup.store->shape();
  state.machine.emplace(setup.env->cluster, setup.run, setup.held.state, setup.held.label,
                        shape.total_bytes(), setup.env->options);
  state.setup = std::move(setup);
  const auto now = [self] { return self->clock().now(); };
  return {
      [self](sync_request& m) { on_sync(self, m); },
      [self, now](stage_result& m) {
        auto& s = self->state;
        s.measures.encoded = now();
        if (m.reason != errc::none) {
          perform(self, s.machine->on_encode_failed(now(), m.txn, m.reason, std::move(m.detail)));
          return;
        }
        perform(self, s.machine->on_encoded(now(), m.txn, s.measures.wire_bytes, s.target_state,
                                            s.challenge, m.proof));
      },
      [self, now](const prove_result& m) {
        perform(self, self->state.machine->on_proof(now(), m.txn, m.challenge, m.proof));
      },
      [self, now](const full_result& m) {
        self->state.full = m.source;
        perform(self, self->state.machine->on_full_encoded(now(), m.txn, m.source->content().bytes,
                                                           m.challenge, m.proof));
      },
      [self](const advance_result& m) { on_advanced(self, m); },
      [self, now](round_result& m) {
        perform(self, self->state.machine->on_round(now(), std::move(m)));
      },
      [self, now](const drained_notice&) {
        // Later streams are redos and full transfers: part of the commit and the recovery.
        if (self->state.machine->phase() == sync_phase::voting)
          self->state.measures.shipped = now();
      },
      [self, now](const admit_request& m) {
        auto& s = self->state;
        // One life of a receiver at a time: routes to older ones lead nowhere.
        for (auto it = s.routes.begin(); it != s.routes.end();)
          it = it->first.id == m.who.id && it->first != m.who ? s.routes.erase(it) : std::next(it);
        s.routes[m.who] = {m.name, m.receiver, m.flusher};
        perform(self, s.machine->on_admit(now(), m.who));
      },
      [self, now](const down_notice& m) {
        perform(self, self->state.machine->on_down(now(), m.who, m.reason));
      },
      [self, now](const gave_up_notice& m) {
        perform(self, self->state.machine->on_gave_up(now(), m.id, m.reason));
      },
      [self, now](const newer_run_notice& m) {
        perform(self, self->state.machine->on_newer_run(now(), m.run));
      },
      [self, now](const tick&) {
        self->state.timer.fired();
        perform(self, self->state.machine->on_tick(now()));
      },
  };
}

}  // namespace lockstep
