#include "tests/support/cluster.hpp"

// The receivers of a simulated cluster and what carries messages to them.
namespace lockstep::sim {

// --- the network --------------------------------------------------------------------------------

void cluster::send(packet p) {
  if (fault(loss_)) return;
  if (fault(twice_)) net_.push_back(p);
  if (fault(20)) {
    if (old_.size() < 64) {
      old_.push_back(p);
    } else {
      old_[below(64)] = p;
    }
  }
  if (auto* b = std::get_if<bucket_msg>(&p.what); b && fault(trouble_) && b->bytes.size() > 0) {
    std::vector<std::byte> bytes(b->bytes.data(), b->bytes.data() + b->bytes.size());
    bytes[below(bytes.size())] ^= std::byte{1};
    b->bytes = payload(std::move(bytes));
  }
  net_.push_back(std::move(p));
}

void cluster::to_node(const participant& who, body what, std::size_t from) {
  for (std::size_t i = 0; i < nodes_.size(); ++i)
    if (nodes_[i].id == who.id) send({true, i, from, std::move(what)});
}

node* cluster::life(const participant& who) {
  for (auto& n : nodes_)
    if (n.id == who.id && n.inc == who.inc && n.alive) return &n;
  return nullptr;
}

version_ref cluster::on_wire(const trainer& t, version_ref v) const {
  const auto it = t.alias.find(v.number);
  return v.run == t.run && it != t.alias.end() ? version_ref{v.run, it->second} : v;
}

void cluster::deliver(packet p) {
  if (p.to_node) {
    auto& n = nodes_[p.to];
    if (n.alive) deliver_to_node(n, p);
  } else if (auto& t = trainers_[p.to]; t.alive) {
    deliver_to_trainer(t, p);
  }
}

void cluster::deliver_to_node(node& n, packet& p) {
  const auto fenced = [&](auto& m) {
    if (m.env.inc == n.inc) n.fence_run = std::max(n.fence_run, m.env.txn.run);
  };
  version_ref asked;
  if (auto* m = std::get_if<attach_msg>(&p.what)) fenced(*m), asked = m->target.version;
  if (auto* m = std::get_if<full_begin_msg>(&p.what)) fenced(*m);
  if (auto* m = std::get_if<bucket_msg>(&p.what)) credit_env_ = m->env;
  if (opt_.variant == broken::no_run_fence) {
    std::visit(
        [&](auto& m) {
          if constexpr (requires { m.env; }) {
            n.run_of[m.env.txn.seq] = m.env.txn.run;
            m.env.txn.run = 1;
          }
          if constexpr (requires { m.base; }) m.base.run = 1;
          if constexpr (requires { m.target; }) m.target.version.run = 1;
          if constexpr (requires { m.current; }) m.current.run = 1;
        },
        p.what);
  }
  auto& f = *n.fsm;
  delivered_ = &p.what;
  perform(n, std::visit(
                 overloaded{
                     [&](const attach_msg& m) {
                       const auto as_before = f;
                       const auto staged_before = n.staged;
                       auto actions = f.on_attach(now_, m);
                       if (f.ignored() != as_before.ignored()) return actions;
                       n.asked_for = asked;
                       if (opt_.variant == broken::attach_no_fence) {
                         n.before = as_before;
                         n.staged_before = staged_before;
                       }
                       return actions;
                     },
                     [&](const full_begin_msg& m) { return f.on_full_begin(now_, m); },
                     [&](const prepare_msg& m) { return f.on_prepare(now_, m); },
                     [&](const bucket_msg& m) {
                       const auto actions =
                           f.on_bucket(now_, m.env, m.index, m.bytes.size(), hash_of(m.bytes));
                       for (const auto& a : actions)
                         if (std::holds_alternative<ra::keep_bucket>(a) ||
                             std::holds_alternative<ra::write_bucket>(a))
                           n.staged[m.index] = m.bytes;
                       return actions;
                     },
                     [&](const commit_msg& m) {
                       if (n.before) {
                         auto old = *n.before;
                         auto actions = old.on_commit(now_, m);
                         for (const auto& a : actions)
                           if (std::holds_alternative<ra::apply_slot>(a)) {
                             f = old;
                             n.staged = n.staged_before;
                             n.before.reset();
                             return actions;
                           }
                       }
                       return f.on_commit(now_, m);
                     },
                     [&](const abort_msg& m) { return f.on_abort(now_, m); },
                     [&](const redo_msg& m) { return f.on_redo(now_, m); },
                     [&](const ping_msg& m) {
                       auto actions = f.on_ping(now_, m);
                       for (const auto& a : actions)
                         if (std::holds_alternative<ra::pong>(a)) {
                           n.pinged[p.from] = now_;
                           send({false, p.from, 0, pong_msg{cluster_id, n.id, n.inc, f.state()}});
                         }
                       return actions;
                     },
                     [&](const auto&) { return ra::list{}; },
                 },
                 p.what));
  delivered_ = nullptr;
}

void cluster::deliver_to_trainer(trainer& t, packet& p) {
  if (auto* h = std::get_if<hello_msg>(&p.what)) {
    perform(t, t.supervision->on_hello(now_, *h));
  } else if (auto* g = std::get_if<pong_msg>(&p.what)) {
    perform(t, t.supervision->on_pong(now_, *g));
    if (t.stops_when_fenced && g->state.version.run > t.run)
      perform(t, sender_event::newer_run, t.sync->on_newer_run(now_, g->state.version.run));
  } else if (auto* c = std::get_if<credit_msg>(&p.what)) {
    if (auto it = t.flushers.find(c->id); it != t.flushers.end())
      for (const auto i : it->second.on_credit(*c)) send_bucket(t, {c->id, c->env.inc}, i);
  } else if (auto* r = std::get_if<reply_msg>(&p.what)) {
    if (const auto it = t.alias.find(t.sync_txn.seq);
        it != t.alias.end() && it->second == r->env.txn.seq)
      r->env.txn.seq = t.sync_txn.seq;
    on_emitted(t, *r, t.join.on_reply(*r));
  }
}

// --- receivers ----------------------------------------------------------------------------------

void cluster::start(node& n) {
  n.inc =
      opt_.variant == broken::no_incarnation ? incarnation{n.id, 1} : incarnation{++lives_, rng_()};
  n.alive = true;
  n.lying = false;
  n.fsm.emplace(receiver_fsm::identity{cluster_id, n.id, n.inc, sim_layout, n.bytes.size()},
                settings_);
  n.seen = n.fsm->summarize();
  if (opt_.watch) opt_.watch->born(n.seen);
  n.served = n.fsm->state();
  n.fence_run = 0;
  n.pinged.clear();
  n.hello_at.clear();
  n.before.reset();
  for (std::size_t i = 0; i < trainers_.size(); ++i) n.hello_at[i] = now_;
}

void cluster::crash(node& n) {
  n.alive = false;
  n.jobs.clear();
  n.staged.clear();
  // The bytes may survive as they are (even half-written), rot, or be loaded from an old
  // checkpoint.
  if (const auto kind = below(3); kind == 1) {
    n.bytes[below(n.bytes.size())] = static_cast<std::uint8_t>(below(3));
  } else if (kind == 2) {
    n.bytes = content_.begin()->second;
  }
}

void cluster::watch(node& n, const ra::list& actions) {
  receiver_step s;
  s.before = std::exchange(n.seen, n.fsm->summarize());
  s.after = n.seen;
  if (delivered_) std::visit([&](const auto& m) { s.event = m; }, *delivered_);
  s.executor = !delivered_ && !ticking_;
  for (const auto& a : actions)
    if (const auto* r = std::get_if<ra::reply>(&a)) s.replies.push_back(r->message);
  if (opt_.watch) opt_.watch->receiver(s);
}

void cluster::perform(node& n, const ra::list& actions) {
  watch(n, actions);
  bool stopped = false;
  const auto queue = [&](job j) { n.jobs.push_back(std::move(j)); };
  const auto frames = [&] {
    std::vector<payload> out;
    for (const auto& [index, bytes] : n.staged) out.push_back(bytes);
    return out;
  };
  using k = job::kind;
  for (const auto& any : actions) {
    if (stopped) break;
    std::visit(overloaded{
                   [&](const ra::pause& a) {
                     if (!fault(trouble_)) return;
                     queue({k::hook_failed, a.txn, {}, {}, 0, 0, {}, false});
                     stopped = true;
                   },
                   [&](const ra::keep_bucket&) {},
                   [&](const ra::drop_slot&) { n.staged.clear(); },
                   [&](const ra::verify_slot& a) {
                     queue({k::verify, a.txn, a.base, {{}, a.target, 0}, 0, 0, frames(), false});
                   },
                   [&](const ra::check_slot& a) {
                     queue({k::check, a.txn, {}, {}, 0, 0, {}, false});
                   },
                   [&](const ra::apply_slot& a) {
                     queue({k::apply, a.txn, {}, a.target, a.challenge, 0, frames(), false});
                   },
                   [&](const ra::write_bucket& a) {
                     queue({k::write, a.txn, {}, {}, 0, a.index, {n.staged.at(a.index)}, false});
                   },
                   [&](const ra::finish_full& a) {
                     queue({k::finish, a.txn, {}, a.target, a.challenge, 0, {}, false});
                   },
                   [&](const ra::compute_digest& a) {
                     queue({k::prove, a.txn, {}, {}, a.challenge, 0, {}, false});
                   },
                   [&](const ra::resume&) {},
                   [&](const ra::publish& a) {
                     if (opt_.variant == broken::serve_torn && !a.state.ready) return;
                     n.served = a.state;
                   },
                   [&](const ra::reply& a) {
                     auto m = a.message;
                     if (opt_.variant == broken::no_run_fence)
                       m.env.txn.run = n.run_of[m.env.txn.seq];
                     if (m.reason == errc::false_ack) violated("a receiver must not accuse itself");
                     for (const auto& t : trainers_)
                       if (t.run == m.env.txn.run) send({false, t.index, 0, m});
                   },
                   [&](const ra::pong&) {},
                   [&](const ra::announce&) {},
                   [&](const ra::grant_credit& a) {
                     for (const auto& t : trainers_)
                       if (t.run == credit_env_.txn.run)
                         send({false, t.index, 0, credit_msg{credit_env_, n.id, a.index}});
                   },
               },
               any);
  }
  if (n.fsm && !stopped && opt_.variant != broken::serve_torn && !(n.served == n.fsm->state()))
    violated("readiness changed without being published");
}

void cluster::written(node& n, const job& j) {
  auto real = j.target.version;
  if (opt_.variant == broken::no_run_fence) real.run = n.tag_run = n.run_of[j.txn.seq];
  const auto it = content_.find(real);
  if (it != content_.end() && it->second == n.bytes) proven_.insert({n.id, real});
}

void cluster::step(node& n) {
  using k = job::kind;
  auto& j = n.jobs.front();
  auto& f = *n.fsm;
  const bool writes = j.what == k::apply || j.what == k::write;
  if (writes && !j.half_done) {
    j.half_done = true;
    auto real = j.txn;
    if (opt_.variant == broken::no_run_fence) real.run = n.run_of[j.txn.seq];
    if (j.what == k::apply) wrote_.insert(real);
    if (aborted_.count(real)) violated("I5: an aborted sync was written");
    if (j.what == k::apply && lies_ != 0 && fault(lies_)) {
      n.lying = true;
      j.frames.clear();  // writes nothing
      return;
    }
    if (!j.frames.empty()) overwrite(n.bytes, j.frames[0], 0, 1);
    return;
  }
  const job done = std::move(j);
  n.jobs.pop_front();
  const bool fails = fault(trouble_);
  switch (done.what) {
    case k::hook_failed:
      return perform(n, f.on_write_failed(done.txn, errc::hook_failed, "did not stop"));
    case k::check:
      return perform(n, f.on_verified(done.txn, fails ? errc::bad_frame : errc::none, {}));
    case k::verify: {
      auto trial = n.bytes;
      for (const auto& p : done.frames) overwrite(trial, p);
      auto reason = fails ? errc::no_memory : errc::none;
      if (dig(trial, 0) != done.target.state) reason = errc::wrong_target;
      if (opt_.digests && dig(n.bytes, 0) != done.base) reason = errc::wrong_base;
      return perform(n, f.on_verified(done.txn, reason, {}));
    }
    case k::prove: {
      auto state = dig(n.bytes, 0);
      const auto asked = content_.find(n.asked_for);
      if (!opt_.digests && (asked == content_.end() || asked->second != n.bytes))
        state = digest_of(n.bytes, 0);
      if (opt_.variant == broken::no_run_fence) n.tag_run = n.run_of[done.txn.seq];
      if (opt_.digests) n.lying = false;
      const auto actions = f.on_digest(done.txn, state, dig(n.bytes, done.challenge));
      const auto tag = tag_of(n);
      if (tag && content_.count(tag) && content_.at(tag) == n.bytes) proven_.insert({n.id, tag});
      return perform(n, actions);
    }
    case k::write:
      overwrite(n.bytes, done.frames[0]);
      if (fails) return perform(n, f.on_write_failed(done.txn, errc::apply_failed, "half-way"));
      return perform(n, f.on_bucket_written(done.txn, done.index));
    case k::apply:
      if (fails) return perform(n, f.on_write_failed(done.txn, errc::apply_failed, "half-way"));
      for (const auto& p : done.frames) overwrite(n.bytes, p);
      break;
    case k::finish:
      n.lying = false;
      break;
  }
  written(n, done);
  const auto state = n.lying ? done.target.state : dig(n.bytes, 0);
  perform(n, f.on_applied(done.txn, state, dig(n.bytes, done.challenge)));
}

}  // namespace lockstep::sim
