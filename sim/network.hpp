// Decides how messages get from one simulated process to another: as bytes, over links that lose,
// repeat, delay, reorder and damage them.
#pragma once

#include <caf/actor_proxy.hpp>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "actors/interfaces.hpp"
#include "messages/wire.hpp"
#include "sim/arrivals.hpp"
#include "sim/faults.hpp"
#include "sim/scheduler.hpp"
#include "sim/trace.hpp"

namespace lockstep::sim {

/// One process; receivers first, trainers after them, and their other ranks last.
using endpoint = std::uint32_t;

/// Which actor of a process is spoken to. Resolved when a message arrives: like an address of a
/// container, it may belong to another life by then.
enum class role : std::uint8_t { supervisor, join, flusher, receiver, door, relay, doors };

struct address {
  endpoint where = 0;
  role what = role::receiver;
  receiver_id flusher_of = 0;  ///< of a flusher, and of those of all ranks (`doors`)

  friend auto operator<=>(const address&, const address&) = default;
};

/// What a network has to know of the processes on it.
class directory {
 public:
  virtual ~directory() = default;
  virtual std::string name_of(endpoint where) const = 0;
  /// Where an actor lives and what it is; nothing if it is not to be spoken to.
  virtual std::optional<address> address_of(const caf::strong_actor_ptr& actor) = 0;
  /// Who answers to an address now; nobody if its process is down.
  virtual caf::strong_actor_ptr resolve(const address& who) = 0;
  /// The trainer that receivers find when they say hello.
  virtual endpoint door() = 0;
  virtual bool is_up(endpoint where) const = 0;
  virtual bool is_still(endpoint where) const = 0;
  /// The other ranks of the trainer that this one leads.
  virtual std::vector<endpoint> others_of(endpoint trainer) const = 0;
};

/// Changes a message as it crosses, both ways; for protocols that are broken on purpose.
class translator {
 public:
  virtual ~translator() = default;
  /// False: the message is not to be sent.
  virtual bool on_send(wire_message& m, endpoint from, endpoint to) = 0;
  virtual bool on_arrival(wire_message& m, endpoint from, endpoint to) = 0;
};

class network {
 public:
  network(scheduler& on, dice& chance, trace& log, directory& who, std::uint64_t seed);
  ~network();

  /// A handle for actors of `owner` under which `target` is reached.
  caf::strong_actor_ptr handle(endpoint owner, const address& target);
  template <class Handle>
  Handle handle_as(endpoint owner, const address& target) {
    return caf::actor_cast<Handle>(handle(owner, target));
  }
  /// Says something for a process that is about to end.
  void say(endpoint from, const address& target, const wire_message& m);

  /// Handles that reach `of` break, wherever they are held, or where `owner` holds them; whoever
  /// monitors them is told. False: nobody holds one.
  bool break_handles(endpoint of, std::optional<endpoint> owner = std::nullopt);
  /// Who is at `where` now has heard of no shipment.
  void begin_life(endpoint where) { arrivals_.erase(where); }

  void cut(endpoint from, endpoint to, time_point until);
  void slow(endpoint from, endpoint to, time_point until, std::chrono::nanoseconds by);
  /// Cut off and let through in turn, each for `half`.
  void flap(endpoint from, endpoint to, time_point until, std::chrono::nanoseconds half);
  void heal();
  bool is_cut(endpoint from, endpoint to);
  /// By how much what is sent now is late.
  std::chrono::nanoseconds slowness(endpoint from, endpoint to);
  /// Trainers have several ranks, so buckets of one shipment come from several processes.
  void expect_ranks() { ranks_ = true; }
  /// No process sends or takes more than this; 0: no limit. Bulk waits for its turn, the rest does
  /// not, but takes its share.
  void set_rate(std::uint64_t bytes_per_s) { rate_ = bytes_per_s; }
  /// Bytes that a process has sent.
  std::uint64_t sent_by(endpoint from) const {
    const auto it = sent_.find(from);
    return it == sent_.end() ? 0 : it->second;
  }

  void set_translator(translator* t) { translator_ = t; }
  /// Called for whatever a process says, as it says it.
  void set_listener(std::function<void(endpoint from, endpoint to, const wire_message& m)> l) {
    listener_ = std::move(l);
  }
  /// Called for whatever an actor says to another process, also where its handle is broken and
  /// nobody hears it.
  void set_witness(
      std::function<void(endpoint from, const address& to, const caf::type_erased_tuple& m)> w) {
    witness_ = std::move(w);
  }

  /// A bucket of which a bit flipped before its message was sealed: only its receiver can see that.
  bool was_spoilt(const bucket_msg& m) const {
    return !spoilt_.empty() && spoilt_.contains({m.env.txn, m.index, hash_of(m.bytes)});
  }

  /// Acknowledgements that will not arrive.
  std::uint64_t lost_acks() const noexcept { return lost_acks_; }
  /// Messages on their way.
  std::size_t under_way() const noexcept { return under_way_; }
  /// A damaged message that was taken for another; empty if there was none.
  const std::string& unnoticed() const noexcept { return unnoticed_; }

 private:
  class proxy;
  friend class proxy;
  struct link {
    time_point last;       ///< when what was sent last arrives
    time_point last_bulk;  ///< likewise, of buckets, where they travel apart
    time_point cut_until;
    time_point slow_until;
    std::chrono::nanoseconds slower{0};
    time_point flaps_since, flaps_until;
    std::chrono::nanoseconds flap_half{1};
  };
  struct packet {
    endpoint from = 0;
    address to;
    std::optional<address> sender;
    std::vector<std::byte> bytes;
    std::optional<welcome> greeting;  ///< travels beside the wire form: it carries a handle
    bool damaged = false;
    std::uint64_t round = 0;  ///< of a bucket, where trainers have several ranks
    std::uint64_t number = 0;
  };
  void send(endpoint from, const address& target, const caf::strong_actor_ptr& sender,
            const caf::message& content);
  time_point leaves(endpoint from, endpoint to, std::size_t size, bool bulk);
  void ship(packet p, wire_message* m);
  void put(packet p, time_point when);
  void damage(packet& p);
  void cut_short(packet& p);
  void arrive(packet p);
  void deliver(const packet& p, wire_message& m, const caf::strong_actor_ptr& sender,
               const caf::strong_actor_ptr& target);
  void note_round(endpoint from, const address& target, const caf::message& content);
  std::vector<address> meant_by(endpoint from, const address& target);
  std::string show(const packet& p);

  scheduler& scheduler_;
  dice& dice_;
  trace& trace_;
  directory& directory_;
  translator* translator_ = nullptr;
  std::function<void(endpoint, endpoint, const wire_message&)> listener_;
  std::function<void(endpoint, const address&, const caf::type_erased_tuple&)> witness_;
  random_stream random_;
  std::map<std::pair<endpoint, address>, caf::strong_actor_ptr> handles_;
  std::map<std::pair<endpoint, endpoint>, link> links_;
  std::set<std::tuple<txn_ref, std::uint32_t, hash128>> spoilt_;
  std::uint64_t rate_ = 0;
  std::map<endpoint, time_point> out_free_;  ///< when what was to leave has left
  std::map<endpoint, time_point> in_free_;
  std::map<endpoint, std::uint64_t> sent_;
  bool ranks_ = false;
  std::map<std::pair<endpoint, address>, std::uint64_t> rounds_;  ///< of what is shipped now
  std::map<endpoint, arrivals> arrivals_;
  std::map<endpoint, endpoint> announcers_;  ///< who told a receiver of a shipment last
  std::uint64_t number_ = 0;
  std::size_t under_way_ = 0;
  std::uint64_t lost_acks_ = 0;
  std::string unnoticed_;
};

/// The message of the wire form that `content` is; nothing if it is none.
template <std::size_t I = 0>
std::optional<wire_message> wire_of(const caf::type_erased_tuple& content) {
  if constexpr (I == std::variant_size_v<wire_message>) {
    (void)content;
    return std::nullopt;
  } else {
    using type = std::variant_alternative_t<I, wire_message>;
    if (content.match_elements<type>()) return wire_message(content.get_as<type>(0));
    return wire_of<I + 1>(content);
  }
}

/// One line for people.
std::string describe(const wire_message& m);
/// What a local or remote message is, in one word or one line.
std::string describe(const caf::type_erased_tuple& content);

}  // namespace lockstep::sim
