// What the sender does when the sync machine says so.
#include <spdlog/spdlog.h>

#include <algorithm>
#include <caf/send.hpp>
#include <tuple>

#include "actors/encoding.hpp"
#include "actors/packed.hpp"
#include "actors/sender_parts.hpp"
#include "weights/workers.hpp"

namespace lockstep::sending {

namespace act = sync_action;

namespace {

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

 private:
  envelope to(txn_ref txn, const participant& who) const { return {env_.cluster, txn, who.inc}; }
  const sender_state::route* route(const participant& who) const {
    const auto it = state_.routes.find(who);
    return it == state_.routes.end() ? nullptr : &it->second;
  }
  /// Who of these may have a shipment from each other: who takes all tensors. Nothing where nobody
  /// passes anything on.
  std::shared_ptr<shipped_to> among(const std::vector<participant>& who) const {
    if (env_.options.transport.fanout == 0) return {};
    auto ids = std::make_shared<shipped_to>();
    for (const auto& p : who)
      if (const auto* r = route(p); r != nullptr && r->taken.empty()) ids->push_back(p.id);
    if (ids->size() < 2) return {};
    std::ranges::sort(*ids);
    ids->erase(std::unique(ids->begin(), ids->end()), ids->end());
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
  /// Announces all buckets and ships this rank's; the other ranks ship theirs. `source(whom,
  /// theirs)` says which. Returns how many bytes that is.
  template <class Source, class Make>
  std::uint64_t ship_each(txn_ref txn, const std::vector<participant>& who,
                          const part_shipments& from, std::uint32_t round,
                          const std::shared_ptr<const shipped_to>& ids, Source source, Make make) {
    struct taker {
      participant who;
      sender_state::route* route;
      const part_shipment* part;
      std::shared_ptr<bucket_source> buckets;
    };
    std::vector<taker> takers;
    for (const auto& p : who) {
      const auto it = state_.routes.find(p);
      if (it == state_.routes.end()) continue;
      const auto* s = find(from, it->second.taken);
      auto buckets = s == nullptr ? nullptr : source(p, *s);
      if (buckets) takers.push_back({p, &it->second, s, std::move(buckets)});
    }
    // Before the first of them asks for a bucket.
    for (const auto& t : takers) t.buckets->expect(1);
    std::uint64_t bytes = 0;
    for (const auto& [p, r, s, buckets] : takers) {
      // Of one of several ranks the source is its own part.
      const auto& content = state_.setup.ranks.empty() ? buckets->content() : s->content;
      ship_request request{make(to(txn, p), *s, content), buckets,
                           r->taken.empty() ? ids : nullptr};
      bytes += content.bytes;
      // What leaves ahead may have begun to when it began to be encoded.
      const auto since = r->ahead == txn ? state_.measures.started : now_;
      if (!request.among) r->rate.shipped(since, txn, content.bytes, &from == &state_.full);
      self_->send(r->flusher, std::move(request));
      for (std::size_t i = 0; i < state_.setup.ranks.size(); ++i)
        self_->send(state_.setup.ranks[i],
                    shard_ship_msg{env_.cluster, txn, p.id, p.inc, s->firsts[i], round,
                                   &from == &state_.full, s->number});
    }
    return bytes;
  }

  /// Ships what is encoded while the rest is, to who will be announced just that: to nobody where
  /// others pass it on or ship parts of their own. Nor to who is in this process, and would take
  /// the cores from what the trainer waits for.
  bucket_sink ship_ahead_to(txn_ref txn) {
    if (env_.options.transport.fanout != 0 || !state_.setup.ranks.empty()) return {};
    const bool raw = all_take_raw(state_);
    std::vector<std::pair<flusher_actor, envelope>> takers;
    for (const auto& p : state_.machine->members()) {
      const auto it = state_.routes.find(p);
      if (it == state_.routes.end()) continue;
      auto& r = it->second;
      if (!r.elsewhere || !r.taken.empty() || (!raw && takes_raw(state_, p))) continue;
      r.ahead = txn;
      takers.emplace_back(r.flusher, to(txn, p));
    }
    if (takers.empty()) return {};
    auto source = std::make_shared<growing_source>(state_.setup.shape.total_bytes());
    return [takers = std::move(takers), source = std::move(source)](const payload& bucket) {
      const auto count = source->add(bucket);
      for (const auto& [flusher, env] : takers)
        caf::anon_send(flusher, ship_ahead{env, source, count});
    };
  }

  void perform(const act::encode& a) {
    auto& m = state_.measures;
    m = {};
    m.started = now_;
    encode_result out{a.txn, env_.entropy(), errc::none, {}, {}, nullptr};
    // The other ranks meanwhile do the same.
    ask_ranks(self_, shard_task::encode, a.txn, a.label, out.challenge);
    const auto failed = failure_of([&] {
      if (!state_.current.ticket->begin_reading())
        throw error(errc::timeout, "the trainer has stopped waiting for its tensors to be read");
      // What is coded is there in the raw form too, once the snapshot has staged it.
      const auto choice =
          all_take_raw(state_) ? kernels::encoding_choice::raw : kernels::encoding_choice::coded;
      auto made = encode_against(*state_.setup.store, state_.current.tensors, choice,
                                 form_of(env_.options), ship_ahead_to(a.txn));
      out.state = made.state;
      out.delta = std::move(made.delta);
    });
    state_.current.ticket->tensors_read();
    state_.current.tensors = nullptr;
    // The others are waited for all the same: whose trainer comes a moment later comes to this
    // sync, and would take the next one for it.
    if (failed) std::tie(out.reason, out.detail) = *failed;
    self_->send(self_, std::move(out));
  }

  void perform(const act::prove& a) {
    const auto challenge = env_.entropy();
    ask_ranks(self_, shard_task::prove, a.txn, 0, challenge,
              parts_of(state_, state_.machine->summarize().view));
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
    for (const auto& taken : parts_of(state_, state_.machine->summarize().view)) {
      if (taken.empty())
        look(state_.states, taken);
      else
        look(state_.known[taken].before, taken);
    }
    plan(self_, a.txn);
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
    const auto ids = among(a.who);
    // The other ranks are told before they are asked to ship.
    for (const auto& rank : state_.setup.ranks)
      if (ids) self_->send(rank, shard_among_msg{env_.cluster, a.txn, 0, packed_ids(*ids)});
    state_.measures.sent_bytes += ship_each(
        a.txn, a.who, state_.delta, 0, ids,
        [this](const participant& p, const part_shipment& s) -> std::shared_ptr<bucket_source> {
          // Where all take it, it is what was encoded.
          if (s.absorbing && takes_raw(state_, p)) return s.absorbing;
          return s.source;
        },
        [&](const envelope& env, const part_shipment& s, const manifest& content) {
          return prepare_msg{env, a.base.version, s.taken.empty() ? a.base.state : s.base,
                             target_of(a.target, s), content};
        });
  }
  void perform(const act::ship_redo& a) {
    // Nobody passes it on: it may differ from what was staged. Who is torn cannot read what is
    // coded against the base: where several ranks have coded nobody comes here.
    state_.measures.sent_bytes += ship_each(
        a.txn, a.who, state_.delta, a.round, nullptr,
        [this](const participant&, const part_shipment& s) -> std::shared_ptr<bucket_source> {
          if (s.absorbing && state_.setup.ranks.empty()) return s.absorbing;
          return s.source;
        },
        [&](const envelope& env, const part_shipment& s, const manifest& content) {
          return redo_msg{env, target_of(a.target, s), content, a.challenge, a.round};
        });
  }
  void perform(const act::ship_full& a) {
    // All weights come also from who holds them; what somebody has missed, from who has missed it
    // too and stages it. Of several ranks nobody but they know how their parts are cut.
    auto others = a.who;
    if (!a.catch_up)
      for (const auto& p : state_.machine->members()) others.push_back(p);
    const auto ids = state_.setup.ranks.empty() ? among(others) : nullptr;
    auto& m = state_.measures;
    (a.catch_up ? m.catch_up_bytes : m.reseed_bytes) += ship_each(
        a.txn, a.who, state_.full, 0, ids,
        [](const participant&, const part_shipment& s) { return s.source; },
        [&](const envelope& env, const part_shipment& s, const manifest& content) {
          return full_begin_msg{env, target_of(a.target, s), content, a.challenge, a.catch_up};
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
    drop_at_ranks(self_, a.txn);
    state_.encoded = {};
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
    log(report);
    const auto ticket = std::exchange(state_.current, {}).ticket;
    ticket->finish(std::move(report));
  }

  /// A trainer that tries again and again, while there are no members for example, says so at
  /// times.
  void log(const sync_report& r) {
    if (r.result != sync_result::aborted)
      state_.aborts.forget();
    else if (!state_.aborts.is_due(std::string(to_string(r.reason)) + ' ' + r.detail, now_))
      return;
    const auto level = r.result == sync_result::ok ? spdlog::level::debug : spdlog::level::warn;
    env_.log->log(level, "sync {} ({} -> {}): {} {} {}", r.label, to_string(r.base),
                  to_string(r.target), to_string(r.result), to_string(r.reason), r.detail);
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

}  // namespace

bool takes_raw(const sender_state& state, const participant& who) {
  const auto& options = state.setup.env->options;
  // Whoever passes a delta on passes on what it was sent; other ranks write their parts alike.
  if (options.sync.encoding != delta_encoding::automatic || !state.setup.ranks.empty() ||
      options.transport.fanout != 0)
    return false;
  const auto r = state.routes.find(who);
  // Coding takes about 25 ns of both ends' time a change, on all cores, and saves 3 bytes
  // (docs/codec.md).
  const auto sooner = static_cast<double>(options.sync.raw_bytes_per_s) * workers();
  return r != state.routes.end() && r->second.rate.bytes_per_s() > sooner;
}

bool all_take_raw(const sender_state& state) {
  const auto members = state.machine->members();
  return state.setup.env->options.sync.encoding == delta_encoding::raw ||
         (!members.empty() &&
          std::ranges::all_of(members, [&](const auto& p) { return takes_raw(state, p); }));
}

void perform(pointer self, const sync_fsm::actions& actions) {
  performer(self).run(actions);
  if (self->state.machine->phase() == sync_phase::failed) {
    // The supervisor starts the trainer's side anew, as another run, if the snapshot is whole.
    self->quit(caf::make_error(caf::sec::runtime_error, "the run cannot go on"));
    return;
  }
  auto due = self->state.machine->deadline();
  const auto& g = self->state.gathering;
  if (g.deadline != time_point::max() && !g.parts.empty() && (!due || g.deadline < *due))
    due = g.deadline;
  self->state.timer.arm(self, due);
}

}  // namespace lockstep::sending
