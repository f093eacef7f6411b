// The snapshot: participant number zero. Decodes the same wire bytes as every receiver, and
// advances on the join's all-ok and on nothing else.
#include <algorithm>
#include <exception>

#include "actors/encoding.hpp"
#include "actors/states.hpp"
#include "protocol/deadlines.hpp"

namespace lockstep {

namespace {

using pointer = snapshot_actor::stateful_pointer<snapshot_state>;

stage_result stage(snapshot_state& state, const settings& s, const stage_request& m) {
  stage_result out{m.txn, errc::none, {}, {}, nullptr};
  const auto refuse = [&out](errc reason, std::string detail) {
    out.reason = reason;
    out.detail = std::move(detail);
  };
  state.store->read([&](const tensor_views& tensors) {
    const auto& held = state.machine->held();
    const auto& shape = state.store->shape();
    auto staged = m.delta->buckets();
    staged_states states;
    auto bad = stage_buckets(public_digest_seed, staged, tensors,
                             full_bytes_limit(shape.total_bytes()), states, m.challenge);
    if (bad ? digest_of(public_digest_seed, tensors) != held.state : states.base != held.state)
      return refuse(errc::torn, "the snapshot's own bytes have changed: seed again");
    if (bad) return refuse(errc::encode_failed, bad->detail);
    if (!state.machine->on_stage(m.txn, m.base, m.target, states.target))
      return refuse(errc::encode_failed,
                    "the encoded delta does not lead from the snapshot to the trainer's weights");
    out.proof = states.other_target;
    out.absorbing = std::make_shared<delta_source>(repacked(shape, staged, tensors, form_of(s)),
                                                   shape.total_bytes());
  });
  if (out.reason != errc::none) return out;
  state.encoded = m.delta;
  state.pending = out.absorbing;
  return out;
}

/// What of the staged delta is of some tensors, under the rules that hold for all of it: it has
/// been decoded and leads to the trainer's weights, and so does each part of it.
carve_result carve(const snapshot_state& state, const settings& s, const carve_request& m) {
  carve_result out{m.txn, m.challenge, m.part.number, errc::none, {}, {}, {}, {}, nullptr, nullptr};
  const auto& staged = state.machine->staged();
  if (!staged || staged->txn != m.txn || !state.pending)
    throw error(errc::encode_failed, "there is no such delta to take a part of");
  const auto part = shard_layout(state.store->shape(), m.part.taken);
  state.store->read([&](const tensor_views& tensors) {
    const auto held = part_of(tensors, m.part.taken);
    const auto of = [&](const delta_source& delta) {
      return std::make_shared<delta_source>(carved(part, delta.buckets(), tensors, form_of(s)),
                                            part.total_bytes());
    };
    out.delta = of(*state.encoded);
    out.absorbing = of(*state.pending);
    const auto [base, under_challenge] = digest_pair(public_digest_seed, m.challenge, held);
    out.base = base;
    out.state = predict(public_digest_seed, base, out.absorbing->buckets(), held);
    out.proof = predict(m.challenge, under_challenge, out.absorbing->buckets(), held);
  });
  return out;
}

/// Where the delta changes the snapshot; nothing if nobody wants to know, or there is no memory.
std::optional<change_marks> marks_of(const snapshot_store& store, const delta_source& delta) {
  return store.read([&](const tensor_views& tensors) -> std::optional<change_marks> {
    if (!store.history().remembers()) return std::nullopt;
    try {
      return marks_of(delta.buckets(), tensors);
    } catch (const std::bad_alloc&) {
      return std::nullopt;
    }
  });
}

advance_result advance(snapshot_state& state, const join_verdict& m) {
  if (!state.machine->may_advance(m.txn, m.all_ok))
    return {m.txn, errc::encode_failed, "the join did not say all ok for what is pending"};
  const auto delta = std::exchange(state.pending, nullptr);
  state.encoded.reset();
  const auto label = state.machine->staged()->target.label;
  const auto left = state.machine->held().state;
  auto marks = std::exchange(state.marks, std::nullopt);
  // What is thrown in here leaves the store torn: no later run may start from it.
  state.store->write(state.owner_mark, label, [&](const tensor_spans& tensors) {
    std::vector<std::size_t> touched;
    if (auto bad = apply_buckets(delta->buckets(), tensors, touched))
      throw error(bad->reason, bad->detail);
    if (!state.machine->on_applied(m.txn, digest_of(public_digest_seed, as_views(tensors))))
      throw error(errc::wrong_target, "the snapshot does not digest to its target: seed again");
    auto& history = state.store->history();
    marks ? history.record(left, std::move(*marks)) : history.forget();
  });
  return {m.txn, errc::none, {}};
}

/// What has changed in the last `steps`; nothing if that is not known, or is more than all weights
/// would be.
std::shared_ptr<bucket_source> plan_catch_up(const snapshot_store& store, const settings& s,
                                             std::size_t steps, const shard_mask& taken) {
  try {
    const auto shape = shard_layout(store.shape(), taken);
    const auto bytes_max =
        std::min(full_bytes_limit(shape.total_bytes()), s.receiver.staged_bytes_max);
    auto delta = store.read([&](const tensor_views& tensors) {
      return store.history().merged(steps, shape, part_of(tensors, taken), form_of(s), bytes_max);
    });
    if (delta) return std::make_shared<delta_source>(std::move(*delta), shape.total_bytes());
  } catch (const std::bad_alloc&) {
    // All weights take no memory: they are cut one bucket at a time.
  }
  return nullptr;
}

/// What is held of these tensors digests to this; under the public key only where that is a part of
/// all: what all of it digests to is known.
prove_result prove(const snapshot_state& state, const prove_request& m) {
  prove_result out{m.txn, m.challenge, m.part.number, {}, {}};
  state.store->read([&](const tensor_views& tensors) {
    if (m.part.taken.empty())
      out.proof = digest_of(m.challenge, tensors);
    else
      std::tie(out.state, out.proof) =
          digest_pair(public_digest_seed, m.challenge, part_of(tensors, m.part.taken));
  });
  return out;
}

full_result plan(const snapshot_state& state, const settings& s, const full_request& m) {
  const auto held = prove(state, {m.txn, m.challenge, m.part});
  full_result out{m.txn, m.challenge, m.part.number, held.state, held.proof, nullptr};
  if (m.steps != 0)
    out.source = plan_catch_up(*state.store, s, m.steps, m.part.taken);
  else
    out.source = std::make_shared<full_source>(state.store, form_of(s),
                                               std::size_t{s.bucket.credit} * 2, m.part.taken);
  return out;
}

/// What `work` returns; what it throws becomes the reason in `out`.
template <class Result, class Work>
Result guarded(Result out, Work work) {
  try {
    out = work();
  } catch (const std::bad_alloc&) {
    out.reason = errc::no_memory;
    out.detail = "out of memory";
  } catch (const std::exception& e) {
    out.reason = errc::encode_failed;
    out.detail = e.what();
  }
  return out;
}

}  // namespace

snapshot_actor::behavior_type snapshot_behavior(pointer self, std::shared_ptr<const actor_env> env,
                                                std::shared_ptr<snapshot_store> store,
                                                target_info held, std::uint64_t owner_mark) {
  self->state.store = std::move(store);
  self->state.owner_mark = owner_mark;
  self->state.machine.emplace(held);
  return {
      [self, env](const stage_request& m) {
        auto& state = self->state;
        if (env->drill) env->drill->pass("snapshot.stage", moment::before);
        state.owner = caf::actor_cast<sender_actor>(self->current_sender());
        self->send(state.owner, guarded(stage_result{m.txn, errc::none, {}, {}, nullptr},
                                        [&] { return stage(state, env->options, m); }));
        // While receivers stage: nobody waits for this.
        if (state.pending) state.marks = marks_of(*state.store, *state.pending);
        if (env->drill) env->drill->pass("snapshot.stage", moment::after);
      },
      [self, env](const carve_request& m) {
        carve_result none;
        none.txn = m.txn;
        none.challenge = m.challenge;
        none.part = m.part.number;
        self->send(caf::actor_cast<sender_actor>(self->current_sender()),
                   guarded(std::move(none), [&] { return carve(self->state, env->options, m); }));
      },
      [self](const prove_request& m) {
        self->send(caf::actor_cast<sender_actor>(self->current_sender()), prove(self->state, m));
      },
      [self, env](const full_request& m) {
        self->send(caf::actor_cast<sender_actor>(self->current_sender()),
                   plan(self->state, env->options, m));
      },
      [self, env](const join_verdict& m) {
        auto& state = self->state;
        if (env->drill) env->drill->pass("snapshot.advance", moment::before);
        self->send(state.owner, guarded(advance_result{m.txn, errc::none, {}},
                                        [&] { return advance(state, m); }));
        if (env->drill) env->drill->pass("snapshot.advance", moment::after);
      },
      [self](const drop_request& m) {
        self->state.machine->on_drop(m.txn);
        if (self->state.machine->staged()) return;
        self->state.encoded.reset();
        self->state.pending.reset();
        self->state.marks.reset();
      },
      [self](const digests_request& m) {
        const auto& state = self->state;
        const auto asker = caf::actor_cast<auditor_actor>(self->current_sender());
        self->send(asker, digests_result{m.challenge, state.machine->held().version,
                                         state.store->read([&](const tensor_views& tensors) {
                                           return digests_of(m.challenge, tensors);
                                         })});
      },
  };
}

}  // namespace lockstep
