// The auditor: compares every receiver's bytes with the snapshot's, tensor by tensor, at a version
// that both hold.
#include <algorithm>
#include <functional>
#include <map>

#include "actors/encoding.hpp"
#include "actors/packed.hpp"
#include "actors/states.hpp"
#include "protocol/deadlines.hpp"

namespace lockstep {

/// Between two rounds: who was in the midst of a sync is asked again.
constexpr std::chrono::milliseconds round_pause{100};

namespace {

using pointer = auditor_actor::stateful_pointer<auditor_state>;

void begin_round(pointer self) {
  auto& state = self->state;
  const auto& env = *state.setup.env;
  state.challenge = env.entropy();
  state.held.reset();
  state.parts = state.setup.ranks.size();
  state.others.assign(state.setup.shape.count(), {});
  state.versions.clear();
  self->send(state.setup.snapshot, digests_request{state.challenge});
  for (const auto& rank : state.setup.ranks)
    self->send(rank, shard_task_msg{env.cluster, shard_task::digests, {}, 0, state.challenge});
  for (auto& [id, o] : state.open) {
    o.reply.reset();
    self->send(o.target.receiver, audit_msg{env.cluster, o.target.who.inc, state.challenge});
  }
}

/// All parts of the snapshot have come, and are of one version: a rank advances after the first.
bool is_whole(const auditor_state& state) {
  return state.held && state.parts == 0 &&
         std::ranges::all_of(state.versions, [&](auto v) { return v == state.held->version; });
}

/// Whoever is left was not compared: for what is in `lost`, or what it lacks. What is lost is the
/// run, and where nobody has failed by then that is all there is to say.
void finish(pointer self, const std::string& lost = {}) {
  auto& state = self->state;
  const bool cut_short = !lost.empty() && std::ranges::all_of(state.done, &receiver_audit::pass);
  for (auto& [id, o] : state.open) {
    auto why = std::string("it does not answer");
    if (!lost.empty())
      why = lost;
    else if (o.reply && !o.reply->version)
      why = "it holds no version";
    else if (o.reply && state.parts > 0)
      why = "a rank of the trainer does not answer";
    else if (o.reply && state.held && !is_whole(state))
      why = "the ranks of the trainer held different versions whenever they were asked";
    else if (o.reply && state.held)
      why = "it held " + to_string(o.reply->version) + " while the snapshot held " +
            to_string(state.held->version);
    else if (o.reply)
      why = "the snapshot does not answer";
    state.done.push_back(
        {id, o.target.name, o.reply ? o.reply->version : version_ref{}, false, std::move(why)});
  }
  std::ranges::sort(state.done, {}, &receiver_audit::id);
  observation out;
  out.audits = std::move(state.done);
  out.end.lines = static_cast<std::uint32_t>(out.audits.size());
  if (state.held) out.end.fleet = state.held->version;
  if (cut_short) out.end.reason = errc::shut_down;
  state.setup.answer(std::move(out));
  self->quit();
}

/// Empty if all tensors that `of` takes are the same.
std::string difference(const layout& shape, std::vector<digest> held, const audit_target& of,
                       const audit_reply_msg& reply) {
  try {
    if (of.taken.size() != 0 && of.model != shape.fingerprint()) return "it is of another model";
    const auto taken = part_from(of.taken, shape);
    for (std::size_t i = 0; i < taken.size(); ++i)
      if (!taken[i]) held[i] = {};  // what has no bytes
  } catch (const error& e) {
    return e.what();
  }
  const auto digests = unpacked_digests(reply.digests);
  if (!digests || digests->size() != held.size()) return "it answers for another number of tensors";
  const auto at = std::ranges::mismatch(held, *digests).in1 - held.begin();
  if (at == std::ssize(held)) return {};
  return "tensor '" + shape[static_cast<std::size_t>(at)].name + "' differs";
}

/// Compares who can be compared; ends when nobody is left, or begins anew.
void compare(pointer self) {
  auto& state = self->state;
  if (!is_whole(state)) return;
  // A tensor that a rank does not own digests to nothing there.
  auto whole = state.held->tensors;
  std::ranges::transform(whole, state.others, whole.begin(), std::plus());
  for (auto it = state.open.begin(); it != state.open.end();) {
    const auto& o = it->second;
    if (!o.reply || !o.reply->version || o.reply->version != state.held->version) {
      ++it;
      continue;
    }
    auto why = difference(state.setup.shape, whole, o.target, *o.reply);
    const bool pass = why.empty();
    state.done.push_back({it->first, o.target.name, o.reply->version, pass, std::move(why)});
    it = state.open.erase(it);
  }
  if (state.open.empty()) finish(self);
}

void on_tick(pointer self) {
  auto& state = self->state;
  const auto now = self->clock().now();
  if (now >= state.deadline) return finish(self);
  // Not while somebody is still digesting: it would start over and never end.
  const bool answered =
      state.held && state.parts == 0 &&
      std::ranges::all_of(state.open, [](const auto& o) { return o.second.reply.has_value(); });
  if (answered) begin_round(self);
  self->delayed_send(self, round_pause, tick{});
}

/// Who has gone is not waited for: it answers nobody any more, and back it comes by another link.
void on_down(pointer self, const caf::down_msg& m) {
  auto& state = self->state;
  const auto is = [&](const auto& handle) { return handle.address() == m.source; };
  if (is(state.setup.snapshot)) return finish(self, "the snapshot is gone");
  if (std::ranges::any_of(state.setup.ranks, is))
    return finish(self, "a rank of the trainer is gone");
  const auto it =
      std::ranges::find_if(state.open, [&](const auto& o) { return is(o.second.target.receiver); });
  if (it == state.open.end()) return;
  state.done.push_back({it->first,
                        it->second.target.name,
                        {},
                        false,
                        "it is gone: its process or its connection has ended"});
  state.open.erase(it);
  if (state.open.empty()) finish(self);
}

}  // namespace

auditor_actor::behavior_type auditor_behavior(pointer self, audit_setup setup) {
  auto& state = self->state;
  const auto& options = setup.env->options;
  state.deadline = self->clock().now() + std::chrono::milliseconds(options.sync.commit_timeout_ms) +
                   2 * transfer_time(options, setup.shape.total_bytes());
  for (auto& t : setup.targets) {
    const auto id = t.who.id;
    if (t.receiver)
      state.open.emplace(id, auditor_state::open_target{std::move(t), {}});
    else
      state.done.push_back({id, std::move(t.name), {}, false, std::move(t.why_not)});
  }
  state.setup = std::move(setup);
  self->set_down_handler([self](const caf::down_msg& m) { on_down(self, m); });
  self->monitor(state.setup.snapshot);
  for (const auto& rank : state.setup.ranks) self->monitor(rank);
  for (const auto& [id, o] : state.open) self->monitor(o.target.receiver);
  begin_round(self);
  self->delayed_send(self, round_pause, tick{});
  return {
      [self](digests_result& m) {
        if (m.challenge != self->state.challenge) return;
        self->state.held = std::move(m);
        compare(self);
      },
      [self](const shard_result_msg& m) {
        auto& s = self->state;
        const auto digests = unpacked_digests(m.digests);
        if (m.challenge != s.challenge || s.parts == 0 || !digests ||
            digests->size() != s.others.size())
          return;
        std::ranges::transform(s.others, *digests, s.others.begin(), std::plus());
        s.versions.push_back({m.txn.run, m.txn.seq});
        --s.parts;
        compare(self);
      },
      [self](audit_reply_msg& m) {
        auto& s = self->state;
        const auto it = s.open.find(m.id);
        if (m.challenge != s.challenge || it == s.open.end() || it->second.target.who.inc != m.inc)
          return;
        it->second.reply = std::move(m);
        compare(self);
      },
      [self](const tick&) { on_tick(self); },
  };
}

}  // namespace lockstep
