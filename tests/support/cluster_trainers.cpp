#include <algorithm>

#include "tests/support/cluster.hpp"

// The trainers of a simulated cluster: sender, join, snapshot, flushers and supervision.
namespace lockstep::sim {

void cluster::boot(const weights& w) {
  auto& t = trainers_.emplace_back();
  t.index = trainers_.size() - 1;
  t.run = trainers_.size();
  t.current = t.held = w;
  t.stops_when_fenced = chance(500);
  t.ping_at = now_;
  const version_ref v{t.run, 0};
  content_[v] = w;
  t.sync.emplace(cluster_id, t.run, dig(w, 0), 0, w.size(), settings_);
  t.seen = t.sync->summarize();
  if (opt_.watch) opt_.watch->booted(t.seen);
  t.snapshot.emplace(target_info{v, dig(w, 0), 0});
  t.supervision.emplace(settings_);
  for (auto& n : nodes_) n.hello_at[t.index] = now_;
  out_.runs = static_cast<int>(trainers_.size());
}

void cluster::stream(trainer& t, const participant& who, const body& announcement) {
  to_node(who, announcement);
  auto& f = t.flushers.try_emplace(who.id, settings_.bucket.credit).first->second;
  const envelope env{cluster_id, on_wire(t, t.outgoing_txn), who.inc};
  for (const auto i : f.on_start(env, static_cast<std::uint32_t>(t.outgoing.buckets.size())))
    send_bucket(t, who, i);
}

void cluster::send_bucket(trainer& t, const participant& who, std::uint32_t index) {
  to_node(who,
          bucket_msg{
              {cluster_id, on_wire(t, t.outgoing_txn), who.inc}, index, t.outgoing.buckets[index]});
}

void cluster::encode_delta(trainer& t, const sa::encode& a) {
  if (fault(trouble_))
    return perform(t, sender_event::encoded,
                   t.sync->on_encode_failed(now_, a.txn, errc::encode_failed, "made to fail"));
  const auto state = dig(t.current, 0);
  t.target = t.current;
  t.outgoing = encode(t.target, difference(t.held, t.target));
  t.outgoing_txn = a.txn;
  if (opt_.variant == broken::reuse_version && t.last == sync_result::aborted && t.sync_txn)
    t.alias[a.txn.seq] = on_wire(t, t.sync_txn).seq;
  t.sync_txn = a.txn;
  const version_ref target{a.txn.run, a.txn.seq};
  const auto [it, fresh] = content_.emplace(on_wire(t, target), t.target);
  if (opt_.variant == broken::reuse_version) {
    it->second = t.target;  // the name moves: the checkers must notice by themselves
  } else if (!fresh) {
    violated("I6: a version was named twice");
  }
  auto predicted = t.held;
  for (const auto& p : t.outgoing.buckets) overwrite(predicted, p);
  if (!t.snapshot->on_stage(a.txn, a.base.version, {target, state, a.label}, dig(predicted, 0)))
    violated("the snapshot refused an honest encoding");
  perform(t, sender_event::encoded,
          t.sync->on_encoded(now_, a.txn, {t.outgoing.content.bytes, t.outgoing.content.changed},
                             state));
  const auto prove = [this, &t, txn = a.txn, target = t.target] {
    const auto challenge = rng_();
    if (fault(trouble_))
      return perform(t, sender_event::encoded,
                     t.sync->on_encode_failed(now_, txn, errc::torn, "made to be"));
    const auto actions = t.sync->on_delta_proven(now_, txn, challenge, dig(target, challenge));
    if (opt_.variant == broken::no_eviction) t.undecided = t.sync;
    perform(t, sender_event::encoded, actions);
  };
  // Where it is before any vote, the votes are still to be decided.
  if (opt_.variant == broken::no_eviction)
    prove();
  else
    t.jobs.push_back(prove);
}

void cluster::conclude(trainer& t, const sa::conclude& a) {
  const bool all_ok = t.join.all_ok(a.txn, a.view);
  if (opt_.watch && opt_.watch->verdict) opt_.watch->verdict(t.run, a.txn, a.view, all_ok);
  const bool ok = opt_.variant == broken::advance_at_decision || all_ok;
  if (!t.snapshot->may_advance(a.txn, ok)) {
    // Too late: the sender has stopped waiting and dropped it.
    if (t.sync->phase() == sync_phase::failed) return;
    return violated("the join does not confirm what the sender concluded");
  }
  const auto left = t.held;
  for (const auto& p : t.outgoing.buckets) overwrite(t.held, p);
  std::erase_if(t.history, [&](const auto& h) { return h.first == left || fault(100); });
  t.history.emplace_back(left, positions{});
  for (auto& h : t.history) h.second |= difference(left, t.held);
  if (t.snapshot->on_applied(a.txn, dig(t.held, 0)))
    perform(t, sender_event::advanced, t.sync->on_advanced(now_, a.txn));
  else
    violated("the snapshot is not at its target");
}

/// All that has changed since the earliest of `held` that the history knows.
positions cluster::merged(const trainer& t, const std::vector<digest>& held,
                          std::vector<digest>& known) {
  std::vector<std::pair<weights, positions>> bases;
  for (const auto& h : t.history) {
    const auto state = digest_of(h.first, 0);
    if (std::find(held.begin(), held.end(), state) == held.end()) continue;
    bases.push_back(h);
    known.push_back(state);
  }
  if (bases.empty()) return 0;
  if (opt_.variant == broken::unproven_base) {
    known = held;
    return t.history[below(t.history.size())].second;
  }
  if (opt_.variant == broken::catch_up_by_diff) return difference(bases.front().first, t.held);
  return bases.front().second;
}

void cluster::encode_full(trainer& t, const sa::encode_full& a) {
  const auto key = rng_();
  std::vector<digest> known;
  const auto where = merged(t, a.held, known);
  if (where == 0xff) known.clear();
  t.outgoing = encode(t.held, known.empty() ? positions{0xff} : where);
  t.outgoing_txn = a.txn;
  perform(
      t, sender_event::full_encoded,
      t.sync->on_full_encoded(now_, a.txn, t.outgoing.content.bytes, key, dig(t.held, key), known));
}

void cluster::on_emitted(trainer& t, const join_event& told, const join_fsm::emitted& r) {
  if (opt_.watch && opt_.watch->join) opt_.watch->join(t.run, told, r);
  if (!r) return;
  const bool acks = r->kind == round_kind::commit || r->kind == round_kind::redo;
  for (const auto& o : r->outcomes) {
    if (o.reason == errc::false_ack) ++out_.lies_caught;
    if (r->kind == round_kind::redo && o.status == terminal::ok) ++out_.redone;
  }
  if (opt_.variant == broken::no_eviction && acks &&
      std::any_of(r->outcomes.begin(), r->outcomes.end(),
                  [](const auto& o) { return o.status != terminal::ok; })) {
    // As if the vote had failed: the snapshot stays, and so does everybody.
    auto vote = *r;
    vote.kind = round_kind::vote;
    vote.number = 0;
    vote.outcomes.clear();
    for (const auto& p : t.undecided->members())
      vote.outcomes.push_back({p, terminal::no, errc::no_memory, {}});
    t.to_sync.push_back([this, &t, vote] {
      t.sync = t.undecided;
      perform(t, sender_event::round, t.sync->on_round(now_, vote), &vote);
    });
    return;
  }
  t.to_sync.push_back(
      [this, &t, r = *r] { perform(t, sender_event::round, t.sync->on_round(now_, r), &r); });
}

void cluster::watch(trainer& t, sender_event event, const sa::list& actions,
                    const round_result* result) {
  using word = sender_step::word;
  sender_step s;
  s.before = std::exchange(t.seen, t.sync->summarize());
  s.after = t.seen;
  s.event = event;
  if (result) s.result = *result;
  s.all_sent = true;
  const auto sends = [&](const std::vector<participant>& who, word::kind what) {
    for (const auto& p : who) s.sent.push_back({p, what});
  };
  for (const auto& any : actions)
    std::visit(
        overloaded{[&](const sa::send_attach& a) { sends(a.who, word::attach); },
                   [&](const sa::ship_delta& a) { sends(a.who, word::prepare); },
                   [&](const sa::ship_redo& a) { sends(a.who, word::redo); },
                   [&](const sa::ship_full& a) { sends(a.who, word::full); },
                   [&](const sa::send_commit& a) { sends(a.who, word::commit); },
                   [&](const sa::send_abort& a) { sends(a.who, word::abort); }, [](const auto&) {}},
        any);
  if (opt_.watch) opt_.watch->sender(s);
}

void cluster::perform(trainer& t, sender_event event, const sa::list& actions,
                      const round_result* result) {
  watch(t, event, actions, result);
  const auto supervise = [&](auto f) {
    t.to_supervision.push_back([this, &t, f] { perform(t, f(*t.supervision)); });
  };
  const auto env = [&](const participant& p, txn_ref txn) {
    return envelope{cluster_id, on_wire(t, txn), p.inc};
  };
  const auto wired = [&](target_info x) {
    x.version = on_wire(t, x.version);
    return x;
  };
  const auto act = overloaded{
      [&](const sa::encode& a) { t.jobs.push_back([this, &t, a] { encode_delta(t, a); }); },
      [&](const sa::prove& a) {
        t.jobs.push_back([this, &t, a] {
          const auto key = rng_();
          perform(t, sender_event::proof, t.sync->on_proof(now_, a.txn, key, dig(t.held, key)));
        });
      },
      [&](const sa::encode_full& a) { t.jobs.push_back([this, &t, a] { encode_full(t, a); }); },
      [&](const sa::open_round& a) {
        const bool blind =
            opt_.variant == broken::advance_at_decision && a.spec.kind == round_kind::commit;
        auto r = t.join.on_open(a.spec);
        if (blind) {
          r = round_result{a.spec.txn, a.spec.number, a.spec.kind, {}};
          for (const auto& p : a.spec.who) r->outcomes.push_back({p, terminal::ok, {}, {}});
        }
        on_emitted(t, a.spec, r);
      },
      [&](const sa::hurry_round& a) { t.join.on_hurry(a.what); },
      [&](const sa::send_attach& a) {
        for (const auto& p : a.who)
          to_node(p, attach_msg{env(p, a.txn), wired(a.target), sim_layout, a.challenge});
      },
      [&](const sa::ship_delta& a) {
        for (const auto& p : a.who)
          stream(t, p,
                 prepare_msg{env(p, a.txn), on_wire(t, a.base.version), a.base.state,
                             wired(a.target), t.outgoing.content});
      },
      [&](const sa::ship_redo& a) {
        for (const auto& p : a.who)
          stream(
              t, p,
              redo_msg{env(p, a.txn), wired(a.target), t.outgoing.content, a.challenge, a.round});
      },
      [&](const sa::ship_full& a) {
        for (const auto& p : a.who)
          stream(t, p,
                 full_begin_msg{env(p, a.txn), wired(a.target), t.outgoing.content, a.challenge,
                                a.catch_up});
      },
      [&](const sa::send_commit& a) {
        for (const auto& p : a.who)
          to_node(p, commit_msg{env(p, a.txn), a.target_state, a.challenge, a.round});
      },
      [&](const sa::send_abort& a) {
        aborted_.insert(a.txn);
        if (wrote_.count(a.txn) > 0) violated("I5: a sync was aborted after it had been written");
        for (const auto& p : a.who) to_node(p, abort_msg{env(p, a.txn)});
      },
      [&](const sa::conclude& a) { t.jobs.push_back([this, &t, a] { conclude(t, a); }); },
      [&](const sa::release& a) {
        for (auto& [id, f] : t.flushers) f.on_stop();
        t.snapshot->on_drop(a.txn);
      },
      [&](const sa::mark_down& a) { on_emitted(t, a.who, t.join.on_down(a.who, a.reason)); },
      [&](const sa::evicted& a) {
        supervise([this, a](auto& s) { return s.on_evicted(now_, a.who, a.reason, a.detail); });
      },
      [&](const sa::admitted& a) {
        out_.reseeds += a.how == admission::reseeded;
        out_.catch_ups += a.how == admission::caught_up;
        supervise([this, a](auto& s) { return s.on_admitted(now_, a.who, a.how); });
      },
      [&](const sa::not_admitted& a) {
        supervise(
            [this, a](auto& s) { return s.on_not_admitted(now_, a.who, a.reason, a.detail); });
      },
      [&](const sa::finish& a) { finished(t, a.report); },
  };
  for (const auto& any : actions) std::visit(act, any);
}

void cluster::perform(trainer& t, const va::list& actions) {
  const auto tell = [&](auto f) {
    t.to_sync.push_back([this, &t, f] { perform(t, sender_event::membership, f(*t.sync)); });
  };
  const auto act = overloaded{
      [&](const va::admit& a) { tell([this, a](auto& s) { return s.on_admit(now_, a.who); }); },
      [&](const va::down& a) {
        tell([this, a](auto& s) { return s.on_down(now_, a.who, a.reason); });
      },
      [&](const va::restart& a) {
        const auto inc = t.supervision->records().at(a.id).inc;
        for (auto& n : nodes_) {
          if (n.id != a.id || n.inc != inc) continue;
          if (n.alive) crash(n);
          start(n);
        }
      },
      [&](const va::gave_up& a) {
        tell([this, a](auto& s) { return s.on_gave_up(now_, a.id, a.reason); });
      },
      [&](const va::silent& a) {
        tell([this, a](auto& s) { return s.on_gave_up(now_, a.id, errc::timeout); });
      },
  };
  for (const auto& any : actions) std::visit(act, any);
}

void cluster::want_sync(trainer& t) {
  for (std::uint64_t i = 0, count = below(4); i < count; ++i)
    t.current[below(t.current.size())] = static_cast<std::uint8_t>(below(3));
  ++t.issued;
  t.open = true;
  t.issued_at = now_;
  perform(t, sender_event::sync, t.sync->on_sync(now_, static_cast<std::uint64_t>(t.issued)));
}

void cluster::finished(trainer& t, const sync_report& r) {
  if (r.reason == errc::busy) return violated("busy without a sync in flight");
  if (!t.open || r.label != static_cast<std::uint64_t>(t.issued))
    return violated("I4: a report for no sync, or a second one");
  t.open = false;
  t.last = r.result;
  ++t.reported;
  ++out_.reports;
  if (quiet_ && now_ - t.issued_at > milliseconds(60'000)) violated("L1: a report came too late");
  const bool committed = r.result != sync_result::aborted;
  out_.ok += r.result == sync_result::ok;
  out_.recovered += r.result == sync_result::recovered;
  out_.degraded += r.result == sync_result::degraded;
  out_.aborted += r.result == sync_result::aborted;
  std::set<receiver_id> seen;
  for (const auto& p : r.participants) {
    if (!seen.insert(p.id).second) violated("I4: a participant stands twice in a report");
    if (p.status == terminal::ok && !committed) violated("I4: ok in an aborted sync");
    if (p.status == terminal::ok && r.target.number == t.sync_txn.seq &&
        !proven_.count({p.id, on_wire(t, r.target)}))
      violated("I4: reported ok, but never held the target");
    if (p.status != terminal::ok && p.status != terminal::aborted && p.reason == errc::none)
      violated("I4: a failure without a reason");
    if (r.complete() && !p.member) violated("I4: complete without a member");
    if (r.result == sync_result::ok && p.status != terminal::ok)
      violated("I4: ok with a participant that was not");
    if (p.status == terminal::ok)
      t.to_supervision.push_back(
          [this, &t, id = p.id] { perform(t, t.supervision->on_acknowledged(id)); });
  }
}

}  // namespace lockstep::sim
