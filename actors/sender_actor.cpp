// The sender: performs what the sync machine asks for, and measures it.
#include <spdlog/spdlog.h>

#include <algorithm>
#include <set>
#include <span>

#include "actors/encoding.hpp"
#include "actors/states.hpp"
#include "protocol/deadlines.hpp"

namespace lockstep {

namespace {

namespace act = sync_action;
using pointer = sender_actor::stateful_pointer<sender_state>;

/// How long another rank may take: its trainer may come to the sync later than this one's.
std::chrono::milliseconds patience_with_ranks(const settings& s, const layout& shape) {
  return std::chrono::milliseconds(s.sync.recovery_timeout_ms) +
         2 * transfer_time(s, shape.total_bytes());
}

class performer {
 public:
  explicit performer(pointer self)
      : self_(self), state_(self->state), env_(*state_.setup.env), now_(self->clock().now()) {}

  void run(const sync_fsm::actions& list) {
    auto* const drill = env_.drill.get();
    for (const auto& action : list) {
      if (drill != nullptr) drill->pass(action, moment::before);
      std::visit([this](const auto& a) { perform(a); }, action);
      if (drill != nullptr) drill->pass(action, moment::after);
    }
  }

  /// Begins to gather what every rank of the trainer has to say, this one included, of each of
  /// these parts of the tensors, which are numbered from `first` on.
  void ask_ranks(shard_task what, txn_ref txn, std::uint64_t label, std::uint64_t challenge,
                 const std::vector<shard_mask>& parts = {shard_mask()}, std::uint32_t first = 0) {
    auto& g = state_.gathering;
    g = {what, txn, challenge,
         {},   {},  now_ + patience_with_ranks(env_.options, state_.setup.shape)};
    for (const auto& taken : parts) {
      part_shipment s;
      s.taken = taken;
      s.number = first + static_cast<std::uint32_t>(g.parts.size());
      for (const auto& rank : state_.setup.ranks)
        self_->send(rank, shard_task_msg{env_.cluster, what, txn, label, challenge, s.number,
                                         packed_part(taken)});
      g.parts.push_back(std::move(s));
    }
    g.answers.resize(g.parts.size() * (1 + state_.setup.ranks.size()));
  }

  /// What leads here from the earliest of those who are behind, from all ranks; all weights where
  /// nobody is left.
  void plan(txn_ref txn) {
    const auto challenge = env_.entropy();
    std::size_t steps = 0;
    for (const auto& l : state_.laggards) steps = std::max(steps, l.steps);
    ask_ranks(shard_task::plan, txn, steps, challenge, parts_of(state_.machine->summarize().view));
    for (const auto& s : state_.gathering.parts)
      self_->send(state_.setup.snapshot, full_request{txn, challenge, steps, {s.number, s.taken}});
  }

  /// What of the delta is of those tensors of which members take no others; false if all take all.
  bool carve(txn_ref txn) {
    auto parts = parts_of(state_.machine->members());
    std::erase(parts, shard_mask());
    if (parts.empty()) return false;
    ask_ranks(shard_task::carve, txn, 0, state_.challenge, parts, 1);
    for (const auto& s : state_.gathering.parts)
      self_->send(state_.setup.snapshot, carve_request{txn, state_.challenge, {s.number, s.taken}});
    return true;
  }

  /// What the other ranks have made for this transaction is of no use any more.
  void drop_at_ranks(txn_ref txn) {
    state_.gathering = {};
    for (const auto& rank : state_.setup.ranks)
      self_->send(rank, shard_task_msg{env_.cluster, shard_task::drop, txn, 0, 0});
  }

 private:
  envelope to(txn_ref txn, const participant& who) const { return {env_.cluster, txn, who.inc}; }
  const sender_state::route* route(const participant& who) const {
    const auto it = state_.routes.find(who);
    return it == state_.routes.end() ? nullptr : &it->second;
  }
  /// The different parts of the tensors that these take; all where none of them is there any more.
  std::vector<shard_mask> parts_of(const std::vector<participant>& who) const {
    std::set<shard_mask> out;
    for (const auto& p : who)
      if (const auto* r = route(p)) out.insert(r->taken);
    if (out.empty()) out.insert(shard_mask());
    return {out.begin(), out.end()};
  }
  /// Who may have a shipment from each other: who takes all tensors. Nothing where nobody passes
  /// anything on. The other ranks are told, before they are asked to ship.
  std::shared_ptr<const shipped_to> among(txn_ref txn, const std::vector<participant>& who,
                                          std::uint32_t round) {
    if (env_.options.transport.fanout == 0) return {};
    auto ids = std::make_shared<shipped_to>();
    for (const auto& p : who)
      if (const auto* r = route(p); r != nullptr && r->taken.empty()) ids->push_back(p.id);
    if (ids->size() < 2) return {};
    std::ranges::sort(*ids);
    for (const auto& rank : state_.setup.ranks)
      self_->send(rank, shard_among_msg{env_.cluster, txn, round, packed_ids(*ids)});
    return ids;
  }
  /// What all weights of those who take a part are: where the machine says what all weights digest
  /// to, they are told what theirs do.
  static target_info target_of(target_info all, const part_shipment& part) {
    if (!part.taken.empty()) all.state = part.state;
    return all;
  }
  /// Sends what `make(envelope, what of `from` is theirs)` returns to each of `who`.
  template <class Make>
  void send_each(txn_ref txn, const std::vector<participant>& who, const part_shipments& from,
                 Make make) {
    for (const auto& p : who) {
      const auto* r = route(p);
      const auto* s = r == nullptr ? nullptr : find(from, r->taken);
      if (s != nullptr) self_->send(r->receiver, make(to(txn, p), *s));
    }
  }
  /// Announces all buckets and ships this rank's; the other ranks ship theirs. `source(theirs)`
  /// says which. Returns how many bytes that is.
  template <class Source, class Make>
  std::uint64_t ship_each(txn_ref txn, const std::vector<participant>& who,
                          const part_shipments& from, std::uint32_t round, Source source,
                          Make make) {
    // Only deltas are staged by who passes them on, and a redo may differ from what came first.
    const bool passed_on = &from == &state_.delta && round == 0;
    const auto ids = passed_on ? among(txn, who, round) : nullptr;
    std::uint64_t bytes = 0;
    for (const auto& p : who) {
      const auto* r = route(p);
      const auto* s = r == nullptr ? nullptr : find(from, r->taken);
      if (s == nullptr || !source(*s)) continue;
      ship_request request{make(to(txn, p), *s), source(*s), r->taken.empty() ? ids : nullptr};
      bytes += std::visit(
          [](const auto& head) {
            if constexpr (requires { head.content; }) return head.content.bytes;
            return std::uint64_t{0};
          },
          request.head);
      self_->send(r->flusher, std::move(request));
      for (std::size_t i = 0; i < state_.setup.ranks.size(); ++i)
        self_->send(state_.setup.ranks[i],
                    shard_ship_msg{env_.cluster, txn, p.id, p.inc, s->firsts[i], round,
                                   &from == &state_.full, s->number});
    }
    return bytes;
  }

  void perform(const act::encode& a) {
    auto& m = state_.measures;
    m = {};
    m.started = now_;
    const auto failed = failure_of([&] {
      if (!state_.current.ticket->begin_reading())
        throw error(errc::timeout, "the trainer has stopped waiting for its tensors to be read");
      encode(a);
    });
    state_.current.ticket->tensors_read();
    state_.current.tensors = nullptr;
    if (!failed) return;
    drop_at_ranks(a.txn);
    run(state_.machine->on_encode_failed(now_, a.txn, failed->first, failed->second));
  }

  void encode(const act::encode& a) {
    const auto challenge = env_.entropy();
    // The other ranks meanwhile do the same.
    ask_ranks(shard_task::encode, a.txn, a.label, challenge);
    auto made = encode_against(*state_.setup.store, state_.current.tensors, env_.options);
    state_.challenge = challenge;
    auto& mine = state_.gathering.answers.front();
    mine.content = made.delta->content();
    mine.state = made.state;
    state_.gathering.parts.front().source = made.delta;
    self_->send(state_.setup.snapshot, stage_request{a.txn,
                                                     a.base.version,
                                                     {{a.txn.run, a.txn.seq}, made.state, a.label},
                                                     std::move(made.delta),
                                                     challenge});
  }

  void perform(const act::prove& a) {
    const auto challenge = env_.entropy();
    ask_ranks(shard_task::prove, a.txn, 0, challenge, parts_of(state_.machine->summarize().view));
    for (const auto& s : state_.gathering.parts)
      self_->send(state_.setup.snapshot, prove_request{a.txn, challenge, {s.number, s.taken}});
  }
  void perform(const act::encode_full& a) {
    state_.laggards.clear();
    const auto look = [&](const auto& known, const shard_mask& taken) {
      for (const auto& held : a.held)
        if (const auto it = std::find(known.rbegin(), known.rend(), held); it != known.rend())
          state_.laggards.push_back(
              {static_cast<std::size_t>(it - known.rbegin()) + 1, taken, held});
    };
    for (const auto& taken : parts_of(state_.machine->summarize().view)) {
      if (taken.empty())
        look(state_.states, taken);
      else
        look(state_.known[taken].before, taken);
    }
    plan(a.txn);
  }
  void perform(const act::open_round& a) {
    if (a.spec.kind == round_kind::commit) state_.measures.voted = now_;
    auto spec = a.spec;
    const auto& theirs = spec.kind == round_kind::attach ? state_.held
                         : spec.kind == round_kind::full ? state_.full
                                                         : state_.delta;
    for (const auto& p : spec.who) {
      const auto* r = route(p);
      const auto* s = r == nullptr ? nullptr : find(theirs, r->taken);
      if (s != nullptr && !s->taken.empty()) spec.part_proofs[p] = s->proof;
    }
    self_->send(state_.setup.join, std::move(spec));
  }
  void perform(const act::hurry_round& a) { self_->send(state_.setup.join, a.what); }
  void perform(const act::send_attach& a) {
    send_each(a.txn, a.who, state_.held, [&](const envelope& env, const part_shipment& s) {
      return attach_msg{env, target_of(a.target, s), s.content.layout, a.challenge};
    });
  }
  void perform(const act::ship_delta& a) {
    state_.measures.sent_bytes += ship_each(
        a.txn, a.who, state_.delta, 0, [](const part_shipment& s) { return s.source; },
        [&](const envelope& env, const part_shipment& s) {
          return prepare_msg{env, a.base.version, s.taken.empty() ? a.base.state : s.base,
                             target_of(a.target, s), s.content};
        });
  }
  void perform(const act::ship_redo& a) {
    // Who is torn cannot read what is coded against the base. With several ranks nobody comes here.
    const auto source = [this](const part_shipment& s) -> std::shared_ptr<bucket_source> {
      if (s.absorbing && state_.setup.ranks.empty()) return s.absorbing;
      return s.source;
    };
    state_.measures.sent_bytes += ship_each(
        a.txn, a.who, state_.delta, a.round, source,
        [&](const envelope& env, const part_shipment& s) {
          const auto& content = state_.setup.ranks.empty() ? source(s)->content() : s.content;
          return redo_msg{env, target_of(a.target, s), content, a.challenge, a.round};
        });
  }
  void perform(const act::ship_full& a) {
    auto& m = state_.measures;
    (a.catch_up ? m.catch_up_bytes : m.reseed_bytes) += ship_each(
        a.txn, a.who, state_.full, 0, [](const part_shipment& s) { return s.source; },
        [&](const envelope& env, const part_shipment& s) {
          return full_begin_msg{env, target_of(a.target, s), s.content, a.challenge, a.catch_up};
        });
  }
  void perform(const act::send_commit& a) {
    send_each(a.txn, a.who, state_.delta, [&](const envelope& env, const part_shipment& s) {
      return commit_msg{env, s.taken.empty() ? a.target_state : s.state, a.challenge, a.round};
    });
  }
  void perform(const act::send_abort& a) {
    state_.measures.voted = now_;
    for (const auto& p : a.who)
      if (const auto* r = route(p)) self_->send(r->receiver, abort_msg{to(a.txn, p)});
  }
  void perform(const act::conclude& a) {
    state_.measures.committed = now_;
    self_->send(state_.setup.join, conclude_request{a.txn, a.view});
  }
  void perform(const act::release& a) {
    for (const auto& [who, r] : state_.routes) self_->send(r.flusher, stop_request{a.txn});
    self_->send(state_.setup.snapshot, drop_request{a.txn});
    drop_at_ranks(a.txn);
    state_.delta.clear();
    state_.full.clear();
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
    const auto& shape = state_.setup.shape;
    r.full_bytes = shape.total_bytes();
    for (std::size_t i = 0; i < shape.count(); ++i)
      r.elements += shape.bytes(i) / unit_bytes(shape[i].type);
    r.wire_bytes = m.wire_bytes;
    r.sent_bytes = m.sent_bytes;
    r.reseed_bytes = m.reseed_bytes;
    r.catch_up_bytes = m.catch_up_bytes;
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

void advanced(pointer self, const advance_result& m);

void perform(pointer self, const sync_fsm::actions& actions) {
  performer(self).run(actions);
  if (self->state.machine->phase() == sync_phase::failed) {
    // The supervisor starts the trainer's side anew, as another run, if the snapshot is whole.
    self->quit(caf::make_error(caf::sec::runtime_error, "the run cannot go on"));
    return;
  }
  auto due = self->state.machine->deadline();
  const auto& g = self->state.gathering;
  // This rank's own work has no deadline, others' has.
  if (g.answers.size() > g.parts.size() && (!due || g.deadline < *due)) due = g.deadline;
  self->state.timer.arm(self, due);
}

// --- the ranks of the trainer -------------------------------------------------------------------

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
  part.content = merged(contents, shard_layout(state.setup.shape, part.taken).fingerprint());
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

/// The delta is there for everybody, or for nobody.
void encoded(pointer self, txn_ref txn) {
  auto& s = self->state;
  const auto now = self->clock().now();
  s.measures.encoded = now;
  const auto& all = s.delta.front();
  s.measures.wire_bytes = all.content.bytes;
  s.measures.changed = all.content.changed;
  perform(self,
          s.machine->on_encoded(now, txn, all.content.bytes, all.state, s.challenge, all.proof));
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
  if (g.what == shard_task::encode || g.what == shard_task::carve) {
    if (bad != nullptr) {
      performer(self).drop_at_ranks(g.txn);
      return perform(self, s.machine->on_encode_failed(now, g.txn, bad->reason, detail));
    }
    if (g.what == shard_task::encode) s.delta.clear();
    std::ranges::move(g.parts, std::back_inserter(s.delta));
    if (g.what == shard_task::encode && performer(self).carve(g.txn))
      return s.timer.arm(self, s.gathering.deadline);
    return encoded(self, g.txn);
  }
  if (g.what == shard_task::advance)
    return advanced(self, {g.txn, bad != nullptr ? bad->reason : errc::none, detail});
  if (worst != s.laggards.end()) {
    // Not for who was away longest; perhaps for the others.
    s.laggards.erase(worst);
    performer(self).plan(g.txn);
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

/// One rank has answered.
void add_part(pointer self, std::size_t rank, shard_result_msg m) {
  auto& g = self->state.gathering;
  if (m.what != g.what || m.txn != g.txn || g.parts.empty()) return;
  const auto ranks = g.answers.size() / g.parts.size();
  const auto part = m.part - g.parts.front().number;
  if (rank >= ranks || part >= g.parts.size()) return;
  auto& answer = g.answers[part * ranks + rank];
  if (answer.rank != 0) return;
  m.rank = static_cast<std::uint32_t>(rank) + 1;  // marks that it is there
  answer = std::move(m);
  if (std::ranges::all_of(g.answers, [](const auto& p) { return p.rank != 0; })) gathered(self);
}

/// This rank's answer to a question about a part; it has what to ship of it.
void add_mine(pointer self, shard_result_msg m, std::shared_ptr<bucket_source> source,
              std::shared_ptr<delta_source> absorbing) {
  auto& g = self->state.gathering;
  if (m.what != g.what || m.txn != g.txn || m.challenge != g.challenge) return;
  for (auto& part : g.parts) {
    if (part.number != m.part) continue;
    if (source) m.content = source->content();
    part.source = std::move(source);
    part.absorbing = std::move(absorbing);
    return add_part(self, 0, std::move(m));
  }
}

/// Somebody has not answered in time.
void give_up_ranks(pointer self) {
  auto& g = self->state.gathering;
  if (g.answers.size() <= g.parts.size() || self->clock().now() < g.deadline) return;
  for (auto& p : g.answers) {
    if (p.rank != 0) continue;
    p.rank = 1;
    p.reason = errc::timeout;
    p.detail = "it does not answer";
  }
  gathered(self);
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

/// What the snapshot was until now.
void remember(sender_state& state, const digest& left) {
  const bool remembers = state.setup.env->options.sync.history_percent != 0;
  const auto add = [&](auto& to, const auto& what) {
    if (!remembers) return;
    to.push_back(what);
    if (to.size() > change_history::steps_max) to.pop_front();
  };
  add(state.states, left);
  for (auto& [taken, part] : state.known) {
    add(part.before, part.now);
    const auto* moved = find(state.delta, taken);
    part.now = moved == nullptr ? std::nullopt : std::optional(moved->state);
  }
}

/// Notes that somebody takes these tensors. Throws `error{bad_manifest}` if that is one part too
/// many.
void note_part(sender_state& state, const shard_mask& taken) {
  if (taken.empty() || state.known.contains(taken)) return;
  if (state.known.size() >= receiver_parts_max) {
    std::set<shard_mask> used;
    for (const auto& [who, r] : state.routes)
      if (state.machine->counts_on(who)) used.insert(r.taken);
    std::erase_if(state.known, [&](const auto& part) { return !used.contains(part.first); });
  }
  if (state.known.size() >= receiver_parts_max)
    throw error(errc::bad_manifest, "its part would be one more than the " +
                                        std::to_string(receiver_parts_max) + " that there may be");
  state.known[taken].before.resize(state.states.size());
}

void on_admit(pointer self, const admit_request& m) {
  auto& s = self->state;
  // One life of a receiver at a time: routes to older ones lead nowhere.
  std::erase_if(s.routes,
                [&](const auto& r) { return r.first.id == m.who.id && r.first != m.who; });
  shard_mask taken;
  try {
    if (m.taken.size() != 0 && m.layout != s.setup.shape.fingerprint())
      throw error(errc::wrong_layout, "its part is one of another model");
    taken = part_from(m.taken, s.setup.shape);
    note_part(s, taken);
  } catch (const error& e) {
    return self->send(s.setup.supervisor, act::not_admitted{m.who, e.code(), e.what()});
  }
  s.routes[m.who] = {m.name, m.receiver, m.flusher, std::move(taken)};
  perform(self, s.machine->on_admit(self->clock().now(), m.who));
}

void advanced(pointer self, const advance_result& m) {
  auto& state = self->state;
  const auto now = self->clock().now();
  if (m.reason != errc::none) {
    state.setup.env->log->critical("the snapshot cannot advance: {}", m.detail);
    perform(self, state.machine->on_advance_failed(now, m.txn, m.detail));
    return;
  }
  const auto left = state.machine->snapshot();
  auto actions = state.machine->on_advanced(now, m.txn);
  if (state.machine->snapshot() != left) remember(state, left.state);
  // Sent before the report is handed over, so that whoever is behind hears of it soon: until that
  // ping arrives it still shows its old version, truthfully tagged.
  fleet_notice fleet{state.machine->snapshot().version, {}};
  for (const auto& p : state.machine->members()) fleet.acknowledged.push_back(p.id);
  self->send(state.setup.supervisor, std::move(fleet));
  perform(self, actions);
}

/// This rank's snapshot has advanced, or cannot; the others follow before anybody is told.
void on_advanced(pointer self, advance_result& m) {
  auto& state = self->state;
  if (state.setup.ranks.empty() || m.reason != errc::none) return advanced(self, m);
  performer(self).ask_ranks(shard_task::advance, m.txn, 0, 0);
  shard_result_msg mine;
  mine.what = shard_task::advance;
  mine.txn = m.txn;
  add_part(self, 0, std::move(mine));
  state.timer.arm(self, state.gathering.deadline);
}

/// What is the same in all answers of the snapshot.
template <class Result>
shard_result_msg answer_of(shard_task what, const Result& m) {
  shard_result_msg out;
  out.what = what;
  out.txn = m.txn;
  out.challenge = m.challenge;
  out.part = m.part;
  out.proof = m.proof;
  return out;
}

}  // namespace

sender_actor::behavior_type sender_behavior(pointer self, sender_setup setup) {
  auto& state = self->state;
  auto options = setup.env->options;
  // A redo has to be absorbing, and what of a coded delta is so is not announced between ranks.
  if (!setup.ranks.empty() && options.sync.encoding == delta_encoding::coded)
    options.sync.redo_max = 0;
  state.machine.emplace(setup.env->cluster, setup.run, setup.held.state, setup.held.label,
                        setup.shape.total_bytes(), options);
  state.setup = std::move(setup);
  // The run before this one may have left what it remembers, where one rank's part is the model.
  if (state.setup.ranks.empty())
    state.setup.store->read([&](const auto&) {
      for (const auto& held : state.setup.store->history().states()) state.states.push_back(held);
    });
  const auto now = [self] { return self->clock().now(); };
  return {
      [self](sync_request& m) { on_sync(self, m); },
      [self](stage_result& m) {
        auto& g = self->state.gathering;
        if (g.what != shard_task::encode || g.txn != m.txn || g.parts.empty()) return;
        auto mine = g.answers.front();
        mine.what = g.what;
        mine.txn = m.txn;
        mine.challenge = g.challenge;
        mine.reason = m.reason;
        mine.detail = std::move(m.detail);
        mine.proof = m.proof;
        add_mine(self, std::move(mine), g.parts.front().source, std::move(m.absorbing));
      },
      [self](carve_result& m) {
        auto mine = answer_of(shard_task::carve, m);
        mine.reason = m.reason;
        mine.detail = std::move(m.detail);
        mine.base = m.base;
        mine.state = m.state;
        add_mine(self, std::move(mine), std::move(m.delta), std::move(m.absorbing));
      },
      [self](const prove_result& m) {
        auto mine = answer_of(shard_task::prove, m);
        mine.state = m.state;
        add_mine(self, std::move(mine), nullptr, nullptr);
      },
      [self](const full_result& m) {
        auto mine = answer_of(shard_task::plan, m);
        mine.state = m.state;
        if (!m.source) mine.reason = errc::wrong_base;
        add_mine(self, std::move(mine), m.source, nullptr);
      },
      [self](shard_result_msg& m) {
        const auto from = m.rank;
        if (m.challenge != self->state.gathering.challenge || from == 0) return;
        m.rank = 0;
        add_part(self, from, std::move(m));
      },
      [self](advance_result& m) { on_advanced(self, m); },
      [self, now](round_result& m) {
        perform(self, self->state.machine->on_round(now(), std::move(m)));
      },
      [self, now](const drained_notice&) {
        // Later streams are redos and full transfers: part of the commit and the recovery.
        if (self->state.machine->phase() == sync_phase::voting)
          self->state.measures.shipped = now();
      },
      [self](const admit_request& m) { on_admit(self, m); },
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
        give_up_ranks(self);
        perform(self, self->state.machine->on_tick(now()));
      },
  };
}

}  // namespace lockstep
