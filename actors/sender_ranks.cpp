// What the sender gathers from the ranks of the trainer, this one included, for each part of the
// tensors that receivers take: asked at once, and added up to what all of them say.
#include <spdlog/spdlog.h>

#include <algorithm>
#include <set>
#include <span>

#include "actors/encoding.hpp"
#include "actors/sender_parts.hpp"
#include "protocol/deadlines.hpp"

namespace lockstep::sending {

namespace {

/// How long another rank may take: its trainer may come to the sync later than this one's.
std::chrono::milliseconds patience_with_ranks(const settings& s, const layout& shape) {
  return std::chrono::milliseconds(s.sync.recovery_timeout_ms) +
         2 * transfer_time(s, shape.total_bytes());
}

/// Of the model, where all of it is taken; another layout takes some milliseconds to make.
hash128 fingerprint_of(const layout& shape, const shard_mask& taken) {
  return taken.empty() ? shape.fingerprint() : shard_layout(shape, taken).fingerprint();
}

/// What all ranks have said of a part, as one. Which of them failed, and why, if one did.
const shard_result_msg* add_up(const sender_state& state, part_shipment& part,
                               std::span<const shard_result_msg> ranks) {
  std::vector<manifest> contents;
  std::size_t first = 0;
  const shard_result_msg* bad = nullptr;
  for (const auto& r : ranks) {
    part.base = part.base + r.base;
    part.state = part.state + r.state;
    part.proof = part.proof + r.proof;
    if (!contents.empty()) part.firsts.push_back(static_cast<std::uint32_t>(first));
    first += r.content.buckets.size();
    contents.push_back(r.content);
    if (r.reason != errc::none && bad == nullptr) bad = &r;
  }
  part.content = merged(contents, fingerprint_of(state.setup.shape, part.taken));
  return bad;
}

/// Whether all ranks know what has changed of a part, and that is less than all of it.
bool worth_it(const sender_state& state, const part_shipment& part, const shard_result_msg* bad) {
  return (bad == nullptr || bad->reason != errc::wrong_base) &&
         part.content.bytes < shard_layout(state.setup.shape, part.taken).total_bytes() &&
         part.content.bytes <= state.setup.env->options.receiver.staged_bytes_max;
}

/// What who takes all tensors has to prove. Where nobody was asked to who does, nobody can.
digest proof_of_all(const sender_state& state, const part_shipments& from) {
  if (const auto* all = find(from, {})) return all->proof;
  return {state.setup.env->entropy(), state.setup.env->entropy()};
}

/// The delta is there for everybody: it leaves.
void ship(pointer self, txn_ref txn) {
  auto& s = self->state;
  const auto now = self->clock().now();
  s.measures.encoded = now;
  const auto& all = s.delta.front();
  s.measures.wire_bytes = all.content.bytes;
  s.measures.changed = all.content.changed;
  // Some may be sent the longer form.
  auto bytes = all.content.bytes;
  for (const auto& [who, route] : s.routes)
    if (all.absorbing && takes_raw(s, who)) bytes = std::max(bytes, all.absorbing->content().bytes);
  perform(self, s.machine->on_encoded(now, txn, {bytes, all.content.changed}, all.state));
}

/// Whether somebody is to have the delta in a form that is there only once the snapshot has staged
/// it: its part, or raw where others have it coded.
bool needs_staged(const sender_state& state) {
  const bool mixed = !all_take_raw(state);
  const auto members = state.machine->members();
  return std::ranges::any_of(members, [&](const auto& p) {
    const auto r = state.routes.find(p);
    const bool takes_part = r != state.routes.end() && !r->second.taken.empty();
    return takes_part || (mixed && takes_raw(state, p));
  });
}

/// All ranks have encoded. The snapshots stage while receivers do, where receivers can already.
void encoded(pointer self, txn_ref txn) {
  auto& s = self->state;
  if (!needs_staged(s)) ship(self, txn);
  if (!s.machine->awaits_proof_of(txn)) return;  // there is nobody to ship it to
  const auto label = s.current.label;
  s.challenge = s.setup.env->entropy();
  ask_ranks(self, shard_task::stage, txn, label, s.challenge);
  self->send(s.setup.snapshot, stage_request{txn,
                                             s.machine->snapshot().version,
                                             {{txn.run, txn.seq}, s.encoded.state, label},
                                             std::exchange(s.encoded.delta, nullptr),
                                             s.challenge});
  s.timer.arm(self, s.gathering.deadline);
}

/// Asks for what of the delta is of those tensors of which members take no others; false if all
/// take all.
bool carve(pointer self, txn_ref txn) {
  auto& state = self->state;
  auto parts = parts_of(state, state.machine->members());
  std::erase(parts, shard_mask());
  if (parts.empty()) return false;
  ask_ranks(self, shard_task::carve, txn, 0, state.challenge, parts, 1);
  for (const auto& s : state.gathering.parts)
    self->send(state.setup.snapshot, carve_request{txn, state.challenge, {s.number, s.taken}});
  return true;
}

/// All snapshots have proven the delta, and what is taken of it.
void proven(pointer self, txn_ref txn) {
  auto& s = self->state;
  const auto now = self->clock().now();
  if (s.machine->phase() == sync_phase::encoding) ship(self, txn);
  // With nobody left to ship it to it is over.
  if (!s.delta.empty())
    perform(self, s.machine->on_delta_proven(now, txn, s.challenge, s.delta.front().proof));
}

/// All have answered: goes on with the sum of what they said.
void gathered(pointer self) {
  auto& s = self->state;
  const auto now = self->clock().now();
  auto g = std::exchange(s.gathering, {});
  const auto ranks = g.answers.size() / g.parts.size();
  const shard_result_msg* bad = nullptr;
  auto worst = s.laggards.end();  // who is better off with all weights
  for (std::size_t i = 0; i < g.parts.size(); ++i) {
    auto& part = g.parts[i];
    const auto* failed = add_up(s, part, std::span(g.answers).subspan(i * ranks, ranks));
    if (g.what == shard_task::plan && !s.laggards.empty()) {
      if (failed != nullptr && failed->reason == errc::wrong_base) part.source.reset();
      if (!worth_it(s, part, failed))
        for (auto it = s.laggards.begin(); it != s.laggards.end(); ++it)
          if (it->taken == part.taken && (worst == s.laggards.end() || it->steps > worst->steps))
            worst = it;
      if (failed != nullptr && failed->reason == errc::wrong_base) continue;
    }
    if (bad == nullptr) bad = failed;
  }
  std::string detail;
  if (bad != nullptr) {
    const auto rank = static_cast<std::size_t>(bad - g.answers.data()) % ranks;
    detail = rank == 0 ? bad->detail : "rank " + std::to_string(rank) + ": " + bad->detail;
  }
  const bool of_delta =
      g.what == shard_task::encode || g.what == shard_task::stage || g.what == shard_task::carve;
  if (of_delta && bad != nullptr)
    return perform(self, s.machine->on_encode_failed(now, g.txn, bad->reason, detail));
  if (g.what == shard_task::encode) {
    s.delta = std::move(g.parts);
    return encoded(self, g.txn);
  }
  if (g.what == shard_task::stage) {
    s.delta.front().proof = g.parts.front().proof;
    s.delta.front().absorbing = std::move(g.parts.front().absorbing);
    if (s.machine->phase() == sync_phase::encoding && carve(self, g.txn))
      return s.timer.arm(self, s.gathering.deadline);
    return proven(self, g.txn);
  }
  if (g.what == shard_task::carve) {
    std::ranges::move(g.parts, std::back_inserter(s.delta));
    return proven(self, g.txn);
  }
  if (g.what == shard_task::advance)
    return advanced(self, {g.txn, bad != nullptr ? bad->reason : errc::none, detail});
  if (worst != s.laggards.end()) {
    // Not for who was away longest; perhaps for the others.
    s.laggards.erase(worst);
    plan(self, g.txn);
    return s.timer.arm(self, s.gathering.deadline);
  }
  if (bad != nullptr) {
    // What a rank holds is not known: nobody can be admitted from it.
    s.setup.env->log->critical("a rank cannot {}: {}", to_string(g.what), detail);
    return self->quit(caf::make_error(caf::sec::runtime_error, "a rank cannot go on"));
  }
  for (const auto& part : g.parts)
    if (!part.taken.empty()) s.known[part.taken].now = part.state;
  if (g.what == shard_task::prove) {
    s.held = std::move(g.parts);
    return perform(self, s.machine->on_proof(now, g.txn, g.challenge, proof_of_all(s, s.held)));
  }
  s.full = std::move(g.parts);
  std::uint64_t bytes = 0;
  for (const auto& part : s.full) bytes = std::max(bytes, part.content.bytes);
  std::vector<digest> known;
  for (const auto& l : s.laggards) known.push_back(l.held);
  perform(self, s.machine->on_full_encoded(now, g.txn, bytes, g.challenge, proof_of_all(s, s.full),
                                           known));
}

}  // namespace

void ask_ranks(pointer self, shard_task what, txn_ref txn, std::uint64_t label,
               std::uint64_t challenge, const std::vector<shard_mask>& parts, std::uint32_t first) {
  auto& state = self->state;
  const auto& env = *state.setup.env;
  auto& g = state.gathering;
  if (what == shard_task::encode) state.heard.clear();
  // The sender encodes itself, and hears nothing meanwhile.
  const bool untimed = what == shard_task::encode && state.setup.ranks.empty();
  g = {what, txn, challenge, {}, {}, time_point::max()};
  if (!untimed)
    g.deadline = self->clock().now() + patience_with_ranks(env.options, state.setup.shape);
  for (const auto& taken : parts) {
    part_shipment s;
    s.taken = taken;
    s.number = first + static_cast<std::uint32_t>(g.parts.size());
    for (const auto& rank : state.setup.ranks)
      self->send(rank, shard_task_msg{env.cluster, what, txn, label, challenge, s.number,
                                      packed_part(taken)});
    g.parts.push_back(std::move(s));
  }
  g.answers.resize(g.parts.size() * (1 + state.setup.ranks.size()));
}

void plan(pointer self, txn_ref txn) {
  auto& state = self->state;
  const auto challenge = state.setup.env->entropy();
  std::size_t steps = 0;
  for (const auto& l : state.laggards) steps = std::max(steps, l.steps);
  ask_ranks(self, shard_task::plan, txn, steps, challenge,
            parts_of(state, state.machine->summarize().view));
  for (const auto& s : state.gathering.parts)
    self->send(state.setup.snapshot, full_request{txn, challenge, steps, {s.number, s.taken}});
}

void drop_at_ranks(pointer self, txn_ref txn) {
  auto& state = self->state;
  state.gathering = {};
  for (std::size_t i = 0; i < state.setup.ranks.size(); ++i)
    self->send(state.setup.ranks[i], shard_task_msg{state.setup.env->cluster, shard_task::drop, txn,
                                                    state.heard.contains(i + 1) ? 1U : 0U, 0});
}

std::vector<shard_mask> parts_of(const sender_state& state, const std::vector<participant>& who) {
  std::set<shard_mask> out;
  for (const auto& p : who)
    if (const auto r = state.routes.find(p); r != state.routes.end()) out.insert(r->second.taken);
  if (out.empty()) out.insert(shard_mask());
  return {out.begin(), out.end()};
}

void add_answer(pointer self, std::size_t rank, shard_result_msg m) {
  auto& g = self->state.gathering;
  if (m.what != g.what || m.txn != g.txn || g.parts.empty()) return;
  const auto ranks = g.answers.size() / g.parts.size();
  const auto part = m.part - g.parts.front().number;
  if (rank >= ranks || part >= g.parts.size()) return;
  auto& answer = g.answers[part * ranks + rank];
  if (answer.rank != 0) return;
  m.rank = static_cast<std::uint32_t>(rank) + 1;  // marks that it is there
  if (g.what == shard_task::encode) self->state.heard.insert(rank);
  answer = std::move(m);
  if (std::ranges::all_of(g.answers, [](const auto& p) { return p.rank != 0; })) gathered(self);
}

void add_mine(pointer self, shard_result_msg m, std::shared_ptr<bucket_source> source,
              std::shared_ptr<delta_source> absorbing) {
  auto& g = self->state.gathering;
  if (m.what != g.what || m.txn != g.txn || m.challenge != g.challenge) return;
  for (auto& part : g.parts) {
    if (part.number != m.part) continue;
    if (source) m.content = source->content();
    part.source = std::move(source);
    part.absorbing = std::move(absorbing);
    return add_answer(self, 0, std::move(m));
  }
}

void give_up_ranks(pointer self) {
  auto& g = self->state.gathering;
  if (g.parts.empty() || self->clock().now() < g.deadline) return;
  const auto ranks = g.answers.size() / g.parts.size();
  for (std::size_t i = 0; i < g.answers.size(); ++i) {
    auto& p = g.answers[i];
    if (p.rank != 0) continue;
    p.rank = 1;
    p.reason = errc::timeout;
    p.detail = i % ranks == 0 ? "the snapshot does not answer" : "it does not answer";
  }
  gathered(self);
}

}  // namespace lockstep::sending
