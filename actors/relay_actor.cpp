// The relay: has stripes from other receivers, holds what they bring against the trainer's word,
// and passes on what its receiver has taken.
#include <spdlog/spdlog.h>

#include <algorithm>

#include "actors/relay.hpp"
#include "weights/bucket_codec.hpp"

namespace lockstep {

namespace {

using pointer = relay_actor::stateful_pointer<relay_state>;
using feed = relay_state::feed;
using child = relay_state::child;

/// Others that buckets are passed on to. A plan gives one receiver as many as there are stripes and
/// one more; two plans may overlap.
constexpr std::size_t children_max = 4 * relay_stripes_max;

void send_buckets(pointer self, const child& c, const std::vector<std::uint32_t>& indices) {
  if (c.borrows) {
    const auto& lent = self->state.lent.at(c.id);
    for (const auto i : indices) self->send(lent.receiver, relay_cut{lent.what, i});
    return;
  }
  const auto& s = *self->state.now;
  const envelope env{s.what.env.cluster, s.what.env.txn, c.inc};
  for (const auto i : indices) self->send(c.link, bucket_msg{env, i, s.kept[i]});
}

// --- up: from whom stripes come -----------------------------------------------------------------

void report(pointer self, const feed& f) {
  const auto& s = self->state;
  if (f.order.host.empty() || !s.boss) return;
  self->send(s.boss, relay_link_msg{s.env->cluster, s.id, s.inc, f.order.order, f.order.stripe,
                                    static_cast<bool>(f.link), f.reason});
}

void ask(pointer self, const feed& f) {
  const auto& s = self->state;
  self->send(f.link, relay_ask_msg{s.env->cluster, s.id, s.inc, f.order.parent, f.order.stripes,
                                   f.order.stripe});
}

void close(pointer self, feed& f, errc reason) {
  auto& s = self->state;
  f.reason = reason;
  f.dialing = false;
  if (!f.link) return;
  self->send(f.link, relay_ask_msg{s.env->cluster, s.id, s.inc, f.order.parent, 0, 0});
  self->demonitor(f.link.address());
  self->send_exit(f.link, caf::exit_reason::user_shutdown);
  f.link = nullptr;
}

bool same_parent(const relay_parent_msg& a, const relay_parent_msg& b) {
  return a.parent == b.parent && a.name == b.name && a.host == b.host && a.port == b.port;
}

void on_order(pointer self, const relay_order& m) {
  auto& s = self->state;
  const auto& what = m.what;
  const bool sound = what.cluster == s.env->cluster && what.inc == s.inc &&
                     what.stripes <= relay_stripes_max && what.stripe < what.stripes;
  if (!sound || what.order.run < s.run) return;
  if (what.order.run > s.run || (what.stripes != s.feeds.size() && what.order > s.newest)) {
    for (auto& f : s.feeds) close(self, f, errc::none);
    s.feeds.assign(what.stripes, {});
    s.run = what.order.run;
  }
  if (what.stripes != s.feeds.size()) return;  // of a plan that is over
  s.newest = std::max(s.newest, what.order);
  s.boss = m.from;
  auto& f = s.feeds[what.stripe];
  if (what.order < f.order.order) return;
  if (what.order == f.order.order) return report(self, f);
  const bool stays = (f.link || f.dialing) && same_parent(f.order, what);
  if (!stays) close(self, f, errc::none);
  // What is being dialed is that of the order before.
  const bool dials = !what.host.empty() && !f.link;
  f.order = what;
  if (dials) {
    f.dialing = true;
    s.dial(relay_actor(self), what);
  }
  if (f.link) report(self, f);
}

void on_dialed(pointer self, const relay_dialed& m) {
  auto& s = self->state;
  const auto it = std::ranges::find_if(
      s.feeds, [&](const feed& f) { return f.dialing && f.order.order == m.order; });
  if (it == s.feeds.end()) {
    if (m.link) self->send_exit(m.link, caf::exit_reason::user_shutdown);
    return;
  }
  auto& f = *it;
  f.dialing = false;
  if (!m.link) {
    f.reason = m.why.reason == errc::none ? errc::unreachable : m.why.reason;
    s.env->log->warn("{}: no link to '{}' at {}:{}: {} {}", s.who, f.order.name, f.order.host,
                     f.order.port, to_string(f.reason), m.why.detail);
    return report(self, f);
  }
  f.link = m.link;
  f.reason = errc::none;
  self->monitor(f.link);
  s.env->log->info("{}: has stripe {} of {} from '{}'", s.who, f.order.stripe, f.order.stripes,
                   f.order.name);
  ask(self, f);
  report(self, f);
}

// --- in: what parents bring ---------------------------------------------------------------------

/// A parent's bucket is held against what the trainer has announced.
void take(pointer self, const relay_actor& from, bucket_msg& m) {
  auto& s = self->state;
  auto& now = *s.now;
  const auto it = std::ranges::find_if(s.feeds, [&](const feed& f) { return f.link == from; });
  if (it == s.feeds.end() || now.over) return;
  auto& f = *it;
  const auto& all = *now.what.buckets;
  const bool ours = m.index < all.size() && m.index % f.order.stripes == f.order.stripe;
  const auto is = [&](bucket_hash how) {
    return all[m.index] == bucket_info{m.bytes.size(), hash_of(m.bytes, how)};
  };
  // A hash that whoever wants to makes other bytes for proves nothing of what a stranger brings,
  // and says nothing against who does: a rank without a fan-out of its own sends such.
  if (ours && is(bucket_hash::xxh3)) return self->send(from, credit_msg{m.env, s.id, m.index});
  if (!ours || !is(bucket_hash::sha256)) {
    s.env->log->error("{}: bucket {} of {} from '{}' is not the one announced", s.who, m.index,
                      to_string(m.env.txn), f.order.name);
    close(self, f, errc::bad_checksum);
    return report(self, f);
  }
  if (now.taken[m.index])  // the trainer was faster
    return self->send(from, credit_msg{m.env, s.id, m.index});
  now.from[m.index] = from;
  self->send(now.receiver, std::move(m));
}

void on_bucket(pointer self, bucket_msg& m) {
  auto& s = self->state;
  const auto from = caf::actor_cast<relay_actor>(self->current_sender());
  if (!from || m.env.cluster != s.env->cluster || m.env.inc != s.inc) return;
  if (s.now && m.env.txn == s.now->what.env.txn) return take(self, from, m);
  if (s.now && m.env.txn < s.now->what.env.txn) return;  // it is over
  // More than honest parents have under way is dropped: the trainer sends it when it is missed.
  if (s.early.size() < std::size_t{s.env->options.bucket.credit} * s.feeds.size())
    s.early.push_back({std::move(m), from});
}

// --- down: whom they are passed on to -----------------------------------------------------------

/// Passes on those buckets of a shipment that are there.
template <class Is>
void begin(pointer self, child& c, txn_ref txn, std::uint32_t count, Is is_there) {
  c.machine.on_start({self->state.env->cluster, txn, c.inc}, count, std::vector<bool>(count, true));
  std::vector<std::uint32_t> there;
  for (auto i = c.stripe; i < count; i += c.stripes)
    if (is_there(i)) there.push_back(i);
  send_buckets(self, c, c.machine.on_ours(there));
}

/// Passes on what is there of the shipment that the child gets.
void begin(pointer self, child& c) {
  const auto& s = self->state;
  const auto& now = s.now;
  c.machine = flusher_fsm(s.env->options.bucket.credit);
  const auto lent = s.lent.find(c.id);
  c.borrows = lent != s.lent.end() && lent->second.what.child_inc == c.inc;
  if (c.borrows) {
    const auto& what = lent->second.what;
    const bool shared = now && now->what.env.txn == what.txn;
    begin(self, c, what.txn, what.buckets, [&](std::uint32_t i) {
      return i >= what.first &&
             (lent->second.whole || (shared && i < now->taken.size() && now->taken[i]));
    });
  } else if (now && !now->over) {
    begin(self, c, now->what.env.txn, static_cast<std::uint32_t>(now->kept.size()),
          [&](std::uint32_t i) { return now->kept[i].size() != 0; });
  }
}

/// What a child borrows comes from the receiver, one bucket at a time.
void on_made(pointer self, relay_made& m) {
  auto& s = self->state;
  const auto it = std::ranges::find_if(
      s.children, [&](const child& c) { return c.borrows && c.id == m.child; });
  if (it == s.children.end() || s.lent.at(m.child).what.txn != m.txn) return;
  if (m.bytes.size() != 0)
    return self->send(it->link,
                      bucket_msg{{s.env->cluster, m.txn, it->inc}, m.index, std::move(m.bytes)});
  // The trainer sends what does not come.
  s.env->log->warn("{}: lends nothing more of {} to receiver {}: it holds other weights", s.who,
                   to_string(m.txn), m.child);
  it->borrows = false;
  it->machine.on_stop();
  s.lent.erase(m.child);
}

/// The trainer's word that somebody may have the receiver's weights: who has it not gets none.
void on_lent(pointer self, relay_lent& m) {
  auto& s = self->state;
  const auto& what = m.what;
  if (what.cluster != s.env->cluster || what.inc != s.inc || !what.txn ||
      what.buckets > s.env->options.receiver.buckets_max ||
      (s.now && what.txn < s.now->what.env.txn))
    return;
  const auto known = s.lent.find(what.child);
  if (known != s.lent.end() && what.txn <= known->second.what.txn) return;
  if (known == s.lent.end() && s.lent.size() == children_max)
    return s.env->log->error("{}: more want its weights than it lends them to", s.who);
  const auto id = what.child;
  s.env->log->info("{}: lends {} to receiver {}", s.who, to_string(what.version), id);
  s.lent.insert_or_assign(id, std::move(m));
  for (auto& c : s.children)
    if (c.id == id) begin(self, c);
}

void forget(pointer self, const caf::actor_addr& link) {
  std::erase_if(self->state.children, [&](const child& c) {
    if (c.link.address() != link) return false;
    self->demonitor(link);
    return true;
  });
}

void on_ask(pointer self, const relay_ask_msg& m) {
  auto& s = self->state;
  const auto from = caf::actor_cast<relay_actor>(self->current_sender());
  if (!from || m.cluster != s.env->cluster || m.parent != s.id) return;
  if (m.stripes == 0) return forget(self, from.address());
  if (m.stripes > relay_stripes_max || m.stripe >= m.stripes) return;
  for (const auto& c : s.children)
    if (c.link == from && c.inc == m.inc && c.stripes == m.stripes && c.stripe == m.stripe) return;
  // One link of a receiver: an older one leads nowhere.
  for (auto i = s.children.size(); i-- > 0;)
    if (s.children[i].id == m.id || s.children[i].link == from)
      forget(self, caf::actor_addr(s.children[i].link.address()));
  if (s.children.size() == children_max)
    return s.env->log->error("{}: more want buckets than it passes any on to", s.who);
  self->monitor(from);
  s.children.push_back({from, m.id, m.inc, m.stripes, m.stripe, flusher_fsm(1)});
  s.env->log->info("{}: passes stripe {} of {} on to receiver {}", s.who, m.stripe, m.stripes,
                   m.id);
  begin(self, s.children.back());
}

// --- the receiver -------------------------------------------------------------------------------

void on_begin(pointer self, relay_begin& m) {
  auto& s = self->state;
  const auto txn = m.env.txn;
  if (m.env.cluster != s.env->cluster || m.env.inc != s.inc || !txn ||
      (s.now && txn <= s.now->what.env.txn))
    return;
  s.now =
      relay_state::shipment{std::move(m), caf::actor_cast<receiver_actor>(self->current_sender())};
  auto& now = *s.now;
  now.taken.resize(now.what.buckets->size());
  now.kept.resize(now.what.buckets->size());
  now.from.resize(now.what.buckets->size());
  std::erase_if(s.lent, [&](const auto& lent) { return lent.second.what.txn < txn; });
  for (auto& c : s.children) begin(self, c);
  for (auto& early : std::exchange(s.early, {})) {
    if (early.bucket.env.txn == txn)
      take(self, early.from, early.bucket);
    else if (early.bucket.env.txn > txn)
      s.early.push_back(std::move(early));
  }
}

/// Whether what was taken is of what the child borrows.
bool is_of(const relay_kept& kept, const relay_lend_msg& lent) {
  return kept.txn == lent.txn && kept.index >= lent.first;
}

void on_kept(pointer self, relay_kept& m) {
  auto& now = self->state.now;
  if (!now || now->over || m.txn != now->what.env.txn || m.index >= now->kept.size()) return;
  now->taken[m.index] = true;
  now->kept[m.index] = std::move(m.bytes);
  const bool is_staged = now->kept[m.index].size() != 0;
  for (auto& c : self->state.children) {
    if (m.index % c.stripes != c.stripe) continue;
    if (c.borrows ? !is_of(m, self->state.lent.at(c.id).what) : !is_staged) continue;
    send_buckets(self, c, c.machine.on_ours({&m.index, 1}));
  }
}

void on_over(pointer self) {
  auto& s = self->state;
  if (!s.now) return;
  s.now->over = true;
  s.now->kept.assign(s.now->kept.size(), {});
  s.now->from.assign(s.now->from.size(), {});
}

void on_credit(pointer self, const credit_msg& m) {
  auto& s = self->state;
  const auto from = self->current_sender();
  if (!from) return;
  if (s.now && s.now->receiver.address() == from->address()) {
    if (!(m.env == s.now->what.env) || m.index >= s.now->from.size()) return;
    if (const auto& parent = s.now->from[m.index]) self->send(parent, m);
    self->send(s.ranks ? s.ranks : s.now->what.announcer, m);
    return;
  }
  for (auto& c : s.children)
    if (c.link.address() == from->address() && (c.borrows || (s.now && !s.now->over)))
      send_buckets(self, c, c.machine.on_credit(m));
}

void on_down(pointer self, const caf::down_msg& m) {
  auto& s = self->state;
  for (auto& f : s.feeds) {
    if (!f.link || f.link.address() != m.source) continue;
    f.link = nullptr;
    f.reason = errc::dead;
    report(self, f);
  }
  forget(self, m.source);
}

void arm(pointer self) {
  const auto wait = std::chrono::milliseconds(self->state.env->options.receiver.lease_ms) / 2;
  self->state.timer.arm(self, self->clock().now() + wait);
}

}  // namespace

relay_actor::behavior_type relay_behavior(pointer self, std::shared_ptr<const actor_env> env,
                                          receiver_id id, std::string who, incarnation inc,
                                          relay_dialer dial, flusher_actor ranks) {
  auto& state = self->state;
  state.env = std::move(env);
  state.id = id;
  state.who = std::move(who);
  state.inc = inc;
  state.dial = std::move(dial);
  state.ranks = std::move(ranks);
  self->set_down_handler([self](const caf::down_msg& m) { on_down(self, m); });
  self->set_exit_handler([self](const caf::exit_msg& m) {
    for (auto& f : self->state.feeds) close(self, f, errc::none);
    self->quit(m.reason);
  });
  arm(self);
  return {
      [self](relay_begin& m) { on_begin(self, m); },
      [self](relay_kept& m) { on_kept(self, m); },
      [self](const relay_over&) { on_over(self); },
      [self](relay_lent& m) { on_lent(self, m); },
      [self](relay_made& m) { on_made(self, m); },
      [self](const relay_order& m) { on_order(self, m); },
      [self](const relay_dialed& m) { on_dialed(self, m); },
      [self](bucket_msg& m) { on_bucket(self, m); },
      [self](const relay_ask_msg& m) { on_ask(self, m); },
      [self](const credit_msg& m) { on_credit(self, m); },
      [self](const tick&) {
        self->state.timer.fired();
        for (const auto& f : self->state.feeds)
          if (f.link) ask(self, f);
        arm(self);
      },
  };
}

}  // namespace lockstep
