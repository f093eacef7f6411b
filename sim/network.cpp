#include "sim/network.hpp"

#include <algorithm>
#include <caf/make_actor.hpp>
#include <caf/send.hpp>

#include "kernels/hash.hpp"

namespace lockstep::sim {

using std::chrono::microseconds;
using std::chrono::milliseconds;

/// What actors of one process hold in place of an actor of another.
class network::proxy final : public caf::actor_proxy {
 public:
  proxy(caf::actor_config& cfg, network& on, endpoint owner, const sim::address& target)
      : caf::actor_proxy(cfg), network_(on), owner_(owner), target_(target) {}

  void enqueue(caf::mailbox_element_ptr what, caf::execution_unit*) override {
    if (network_.witness_) network_.witness_(owner_, target_, what->content());
    if (broken_) return;
    const auto sender = what->sender;
    network_.send(owner_, target_, sender, what->move_content_to_message());
  }
  void kill_proxy(caf::execution_unit* host, caf::error reason) override {
    broken_ = true;
    cleanup(std::move(reason), host);
  }

 private:
  network& network_;
  endpoint owner_;
  sim::address target_;
  bool broken_ = false;
};

network::network(scheduler& on, dice& chance, trace& log, directory& who, std::uint64_t seed)
    : scheduler_(on), dice_(chance), trace_(log), directory_(who), random_(mix(seed, 0x4e7)) {}

network::~network() = default;

caf::strong_actor_ptr network::handle(endpoint owner, const address& target) {
  auto& known = handles_[{owner, target}];
  if (!known) {
    caf::actor_config cfg;
    auto& system = scheduler_.system();
    known = caf::make_actor<proxy, caf::strong_actor_ptr>(system.next_actor_id(), system.node(),
                                                          &system, cfg, *this, owner, target);
  }
  return known;
}

bool network::break_handles(endpoint of, std::optional<endpoint> owner) {
  bool any = false;
  for (auto it = handles_.begin(); it != handles_.end();) {
    if (it->first.second.where != of || (owner && it->first.first != *owner)) {
      ++it;
      continue;
    }
    any = true;
    const auto broken = std::move(it->second);
    it = handles_.erase(it);
    if (broken)
      dynamic_cast<proxy&>(*broken->get())
          .kill_proxy(nullptr, caf::exit_reason::remote_link_unreachable);
  }
  return any;
}

void network::cut(endpoint from, endpoint to, time_point until) {
  auto& l = links_[{from, to}];
  l.cut_until = std::max(l.cut_until, until);
}

void network::slow(endpoint from, endpoint to, time_point until, std::chrono::nanoseconds by) {
  auto& l = links_[{from, to}];
  const bool is_slow = l.slow_until > scheduler_.now();
  l.slow_until = std::max(l.slow_until, until);
  l.slower = is_slow ? std::max(l.slower, by) : by;
}

void network::flap(endpoint from, endpoint to, time_point until, std::chrono::nanoseconds half) {
  auto& l = links_[{from, to}];
  const auto now = scheduler_.now();
  if (l.flaps_until <= now) {
    l.flaps_since = now;
    l.flap_half = half;
  }
  l.flaps_until = std::max(l.flaps_until, until);
}

void network::heal() {
  for (auto& [who, l] : links_) l.cut_until = l.slow_until = l.flaps_until = {};
}

std::chrono::nanoseconds network::slowness(endpoint from, endpoint to) {
  const auto& l = links_[{from, to}];
  return l.slow_until > scheduler_.now() ? l.slower : std::chrono::nanoseconds(0);
}

bool network::is_cut(endpoint from, endpoint to) {
  const auto& l = links_[{from, to}];
  const auto now = scheduler_.now();
  if (l.cut_until > now) return true;
  return l.flaps_until > now && (now - l.flaps_since) / l.flap_half % 2 == 0;
}

std::string network::show(const packet& p) {
  const auto to = directory_.name_of(p.to.where);
  const auto from = directory_.name_of(p.from);
  if (p.greeting) return from + " to " + to + ": welcome " + std::to_string(p.greeting->run);
  const auto read = decode_message(p.bytes);
  const auto* m = std::get_if<wire_message>(&read);
  return from + " to " + to + ": " + (m ? describe(*m) : "damaged");
}

void network::send(endpoint from, const address& target, const caf::strong_actor_ptr& sender,
                   const caf::message& content) {
  if (!directory_.is_up(from)) return;
  packet p;
  p.from = from;
  if (sender) p.sender = directory_.address_of(sender);
  if (ranks_) note_round(from, target, content);
  const auto meant = meant_by(from, target);
  if (meant.empty()) return;
  p.to = meant.front();
  if (content.match_elements<welcome>()) {
    p.greeting = welcome{content.get_as<welcome>(0).run, join_actor{}};
    ship(std::move(p), nullptr);
    return;
  }
  auto m = wire_of(content);
  if (!m) {
    // Exits and the like: nobody ends an actor of another process.
    trace_.line(trace_level::steps, [&] {
      return directory_.name_of(from) + ": not sent to another process: " + describe(content);
    });
    return;
  }
  if (ranks_ && std::holds_alternative<bucket_msg>(*m)) p.round = rounds_[{from, target}];
  // To the other ranks the same.
  for (std::size_t i = 1; i < meant.size(); ++i) {
    auto copy = p;
    auto same = *m;
    copy.to = meant[i];
    ship(std::move(copy), &same);
  }
  ship(std::move(p), &*m);
}

/// Whom a receiver speaks to over all its links.
std::vector<address> network::meant_by(endpoint from, const address& target) {
  if (target.what != role::door && target.what != role::doors) return {target};
  const auto known = announcers_.find(from);
  if (target.what == role::doors && known == announcers_.end()) return {};
  const auto leader = target.what == role::door ? directory_.door() : known->second;
  const auto what = target.what == role::door ? role::supervisor : role::flusher;
  std::vector<address> out{{leader, what, target.flusher_of}};
  for (const auto other : directory_.others_of(leader))
    out.push_back({other, what, target.flusher_of});
  return out;
}

/// What begins a shipment says what round its buckets are of.
void network::note_round(endpoint from, const address& target, const caf::message& content) {
  auto& now = rounds_[{from, target}];
  if (content.match_elements<part_head>()) now = content.get_as<part_head>(0).round;
  if (content.match_elements<redo_msg>()) now = content.get_as<redo_msg>(0).round;
  if (content.match_elements<prepare_msg>() || content.match_elements<full_begin_msg>()) now = 0;
}

void network::say(endpoint from, const address& target, const wire_message& m) {
  for (const auto& to : meant_by(from, target)) {
    packet p;
    p.from = from;
    p.to = to;
    auto copy = m;
    ship(std::move(p), &copy);
  }
}

/// When the last byte is through both ends of the way, without the time in between.
time_point network::leaves(endpoint from, endpoint to, std::size_t size, bool bulk) {
  sent_[from] += size;
  const auto now = scheduler_.now();
  if (rate_ == 0) return now;
  const std::chrono::nanoseconds takes(size * 1'000'000'000 / rate_);
  auto& out = out_free_[from];
  auto& in = in_free_[to];
  out = std::max(out, now) + takes;
  // Bytes come in as they go out: an end that is free costs no further time.
  in = std::max(in + takes, out);
  return bulk ? in : now + takes;
}

void network::ship(packet p, wire_message* m) {
  using f = fault_id;
  p.number = ++number_;
  const auto to = p.to.where;
  const auto lost = [&](const char* why) {
    const auto* reply = m ? std::get_if<reply_msg>(m) : nullptr;
    if (reply && reply->kind == reply_kind::ack) ++lost_acks_;
    trace_.line(trace_level::steps, [&] { return show(p) + " (" + why + ")"; });
  };
  if (m) {
    if (auto* b = std::get_if<bucket_msg>(m);
        b && b->bytes.size() && dice_.strikes(f::flip_bucket)) {
      std::vector<std::byte> spoilt(b->bytes.data(), b->bytes.data() + b->bytes.size());
      const auto bit = dice_.below(f::flip_bucket, spoilt.size() * 8);
      spoilt[bit / 8] ^= static_cast<std::byte>(1u << (bit % 8));
      b->bytes = payload(std::move(spoilt));
      spoilt_.insert({b->env.txn, b->index, hash_of(b->bytes)});
    }
    if (translator_ && !translator_->on_send(*m, p.from, to)) return;
    if (listener_) listener_(p.from, to, *m);
    p.bytes = encode_message(*m);
    trace_.fold(kernels::hash_bytes({p.bytes.data(), p.bytes.size()}).lo);
  }
  if (is_cut(p.from, to)) return lost("cut off");
  if (dice_.strikes(f::lose)) return lost("lost");
  auto& l = links_[{p.from, to}];
  const bool bulk = m && std::holds_alternative<bucket_msg>(*m);
  // A tenth of a millisecond to one.
  auto arrives = leaves(p.from, to, p.bytes.size(), bulk) + microseconds(100 + random_.below(900));
  arrives += slowness(p.from, to);
  if (dice_.strikes(f::delay)) arrives += milliseconds(dice_.below(f::delay, 3'000));
  // Control travels on a connection of its own where links have limits.
  auto& last = bulk && rate_ != 0 ? l.last_bulk : l.last;
  arrives = std::max(arrives, last);
  // A bucket that overtakes its announcement is held until that comes (actors/link.hpp).
  if (bulk) arrives = std::max(arrives, l.last);
  if (dice_.strikes(f::duplicate)) put(p, arrives + milliseconds(dice_.below(f::duplicate, 100)));
  if (dice_.strikes(f::replay)) put(p, arrives + milliseconds(dice_.below(f::replay, 40'000)));
  if (m && dice_.strikes(f::flip)) damage(p);
  if (m && dice_.strikes(f::truncate)) cut_short(p);
  if (dice_.strikes(f::reorder)) {
    const auto late_max = dice_.below(f::reorder, 8) == 0 ? 5'000 : 200;
    arrives += milliseconds(dice_.below(f::reorder, static_cast<std::uint64_t>(late_max)));
  } else {
    last = arrives;
  }
  put(std::move(p), arrives);
}

void network::damage(packet& p) {
  const auto bit = dice_.below(fault_id::flip, p.bytes.size() * 8);
  p.bytes[bit / 8] ^= static_cast<std::byte>(1u << (bit % 8));
  p.damaged = true;
}

void network::cut_short(packet& p) {
  p.bytes.resize(dice_.below(fault_id::truncate, p.bytes.size()));
  p.damaged = true;
}

void network::put(packet p, time_point when) {
  ++under_way_;
  // Shared, so that the call can be copied.
  auto shared = std::make_shared<packet>(std::move(p));
  scheduler_.at(when, [this, shared] {
    --under_way_;
    arrive(std::move(*shared));
  });
}

void network::arrive(packet p) {
  const auto to = p.to.where;
  trace_.fold(p.number);
  const auto dropped = [&](const char* why) {
    trace_.line(trace_level::steps, [&] { return show(p) + " (" + why + ")"; });
  };
  if (is_cut(p.from, to)) return dropped("cut off");
  const auto target = directory_.resolve(p.to);
  if (!target) return dropped("nobody there");
  const auto sender = p.sender ? handle(to, *p.sender) : nullptr;
  const auto enqueue = [&](auto&& content) {
    target->get()->enqueue(caf::make_mailbox_element(sender, caf::make_message_id(), {},
                                                     std::forward<decltype(content)>(content)),
                           nullptr);
  };
  if (p.greeting)
    return enqueue(welcome{p.greeting->run, handle_as<join_actor>(to, {p.from, role::join, 0})});
  auto read = decode_message(p.bytes);
  if (auto* m = std::get_if<wire_message>(&read)) {
    if (p.damaged) unnoticed_ = describe(*m);
    if (translator_ && !translator_->on_arrival(*m, p.from, to)) return;
    if (ranks_ && p.to.what == role::receiver) return deliver(p, *m, sender, target);
    std::visit([&](auto& x) { enqueue(std::move(x)); }, *m);
  } else {
    dropped("damaged, refused");
  }
}

/// Buckets that come before their announcement wait for it.
void network::deliver(const packet& p, wire_message& m, const caf::strong_actor_ptr& sender,
                      const caf::strong_actor_ptr& target) {
  const auto enqueue = [&](const caf::strong_actor_ptr& from, auto&& content) {
    target->get()->enqueue(caf::make_mailbox_element(from, caf::make_message_id(), {},
                                                     std::forward<decltype(content)>(content)),
                           nullptr);
  };
  const auto take = [&](arrivals::bucket b) { enqueue(b.from, std::move(b.what.bucket)); };
  auto& told = arrivals_[p.to.where];
  if (auto* bucket = std::get_if<bucket_msg>(&m))
    return told.on_bucket({{std::move(*bucket), p.round}, sender}, take);
  std::optional<shipment> begun;
  if (const auto* x = std::get_if<prepare_msg>(&m)) begun = shipment_of(*x);
  if (const auto* x = std::get_if<redo_msg>(&m)) begun = shipment_of(*x);
  if (const auto* x = std::get_if<full_begin_msg>(&m)) begun = shipment_of(*x);
  std::visit([&](auto& x) { enqueue(sender, std::move(x)); }, m);
  if (begun && told.on_announced(*begun, take)) announcers_[p.to.where] = p.from;
}

}  // namespace lockstep::sim
