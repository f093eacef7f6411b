// Decides what the actors that stand for a peer in another process are made of. Private to actors/.
//
// A peer is a broker of CAF's middleman: whoever has its handle speaks to it as to the actor that
// it stands for, and what arrives from it comes from that handle. Its connections are already
// authenticated when it starts (transport/); it reads nothing but messages of messages/wire.hpp.
#pragma once

#include <caf/actor.hpp>
#include <caf/allowed_unsafe_message_type.hpp>
#include <caf/io/broker.hpp>
#include <caf/stateful_actor.hpp>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "actors/interfaces.hpp"
#include "actors/relay.hpp"
#include "messages/wire_stream.hpp"
#include "transport/channel.hpp"

namespace lockstep {

/// The connections to one peer, not yet in use.
struct link_channels {
  std::shared_ptr<channel> control;
  std::vector<std::shared_ptr<channel>> bulk;
};

/// Which announcement a bucket belongs to: of a transaction, and of a redo in it or, 0, the first.
struct shipment {
  txn_ref txn;
  std::uint64_t round = 0;

  friend auto operator<=>(const shipment&, const shipment&) = default;
};
inline shipment shipment_of(const redo_msg& m) {
  return {m.env.txn, m.round};
}
inline shipment shipment_of(const part_head& m) {
  return {m.env.txn, m.round};
}
inline shipment shipment_of(const auto& m) {
  return {m.env.txn, 0};
}

/// A bucket has come over a bulk channel.
struct bulk_bucket {
  bucket_msg bucket;
  std::uint64_t round = 0;
};
/// An announcement has come over some link of this receiver.
struct announced {
  shipment what;
};
/// A bulk channel has ended, and the link with it.
struct bulk_closed {
  failure why;
};
/// Another life of the receiver is to be spoken to.
struct retarget {
  receiver_actor receiver;
};
/// The last words have had their time.
struct farewell {};
/// What came of dialing a trainer's address.
struct dialed {
  std::size_t door = 0;
  link_channels channels;  ///< no control channel: failed
  failure why;
};

/// What every link is: a broker that gives back all it held when it ends, which CAF's do not.
class link_broker : public caf::io::broker {
 public:
  using caf::io::broker::broker;

  bool cleanup(caf::error&& reason, caf::execution_unit* host) override;
};

/// The connections of a link in use. Its owner is the broker, and nobody else calls it.
class link_io {
 public:
  link_io() = default;
  link_io(const link_io&) = delete;
  link_io& operator=(const link_io&) = delete;
  /// Closes the bulk channels; the broker closes the control connection.
  ~link_io();

  /// Takes over the control connection and starts the bulk channels, which report to `self`.
  void open(caf::io::broker* self, link_channels channels, std::shared_ptr<const actor_env> env);

  /// Sends a control message. False, and the broker quits, if the peer does not take what is sent.
  bool write(caf::io::broker* self, const wire_message& m);
  /// Sends a bucket of what was announced last, or of a transaction that is yet to be.
  void send(caf::io::broker* self, bucket_msg m);
  void begin(const shipment& s) noexcept { announced_ = s; }

  /// Takes what has arrived and calls `take(message)` for every message in it; the broker quits at
  /// the first that is none.
  template <class Take>
  void read(caf::io::broker* self, const std::vector<char>& bytes, Take take) {
    heard_ = self->clock().now();
    if (in_.size() == 0) message_began_ = heard_;
    in_.feed(std::as_bytes(std::span(bytes)));
    while (auto next = in_.next()) {
      if (auto* m = std::get_if<wire_message>(&*next)) {
        message_began_ = heard_;
        if (floods()) return end(self, errc::bad_frame, "it says more than anybody could mean");
        if (!take(*m)) return;
        continue;
      }
      return end(self, std::get<wire_failure>(*next).reason, std::get<wire_failure>(*next).detail);
    }
  }

  /// Has nothing come for so long that what comes now may have waited somewhere, and be as old?
  /// This process was stopped, or the bytes were.
  bool lease_over(caf::io::broker* self) const;

  /// Ends the link: says why in the log, and quits.
  void end(caf::io::broker* self, errc reason, const std::string& detail);

  /// Keeps ticks coming; quits if the peer has been silent, or has not come to the end of a
  /// message, for so long that its lease is long over.
  void watch(caf::io::broker* self);

  const greeting& peer() const noexcept { return peer_; }
  /// The address that its connections come from, without the port.
  std::string peer_host() const { return where_.substr(0, where_.rfind(':')); }

 private:
  /// Counts a message; true if there were too many in this second.
  bool floods();

  std::shared_ptr<const actor_env> env_;
  greeting peer_;
  std::string where_;
  caf::io::connection_handle control_;
  std::vector<std::shared_ptr<channel>> bulk_;
  std::size_t next_bulk_ = 0;
  shipment announced_;
  wire_stream in_;
  time_point heard_;
  time_point message_began_;  ///< when the first bytes of what is held came, at the latest
  time_point second_began_;
  std::uint32_t said_ = 0;  ///< in this second
};

/// Who waits for the answer to which challenge. Bounded: the oldest are forgotten, and run into
/// their deadlines.
class asked_by {
 public:
  void note(std::uint64_t challenge, caf::actor asker) {
    waiting_.push_back({challenge, std::move(asker)});
    if (waiting_.size() > waiting_max) waiting_.pop_front();
  }
  /// Whose it is; nobody's if it was not asked, or answered before.
  caf::actor take(std::uint64_t challenge) {
    for (auto it = waiting_.begin(); it != waiting_.end(); ++it) {
      if (it->first != challenge) continue;
      auto asker = std::move(it->second);
      waiting_.erase(it);
      return asker;
    }
    return {};
  }

 private:
  static constexpr std::size_t waiting_max = 64;
  std::deque<std::pair<std::uint64_t, caf::actor>> waiting_;
};

/// Stands for a receiver of another process at the trainer's.
struct receiver_link_state {
  static inline const char* name = "receiver_link";
  supervisor_actor supervisor;
  link_io io;
  flusher_actor flusher;                      ///< whose shipment is under way
  std::map<std::uint64_t, join_actor> joins;  ///< by run
  asked_by auditors;
};
using receiver_link = caf::stateful_actor<receiver_link_state, link_broker>;
caf::behavior receiver_link_behavior(receiver_link* self, std::shared_ptr<const actor_env> env,
                                     link_channels channels, supervisor_actor supervisor);

/// Stands for a trainer of another process at the receiver's: its supervisor, join and flushers.
struct trainer_link_state {
  static inline const char* name = "trainer_link";
  receiver_actor receiver;
  link_io io;
  caf::actor agent;
  shipment seen;                  ///< announced last, over this link or another
  std::vector<bulk_bucket> held;  ///< came before the announcement that they belong to
  bool leaving = false;           ///< the receiver has said goodbye
};
using trainer_link = caf::stateful_actor<trainer_link_state, link_broker>;
caf::behavior trainer_link_behavior(trainer_link* self, std::shared_ptr<const actor_env> env,
                                    link_channels channels, receiver_actor receiver,
                                    caf::actor agent);

/// Stands for another receiver, which passes buckets on to this one.
struct parent_link_state {
  static inline const char* name = "parent_link";
  relay_actor relay;
  link_io io;
};
using parent_link = caf::stateful_actor<parent_link_state, link_broker>;
caf::behavior parent_link_behavior(parent_link* self, std::shared_ptr<const actor_env> env,
                                   link_channels channels, relay_actor relay);

/// Stands for another receiver, which this one passes buckets on to.
struct child_link_state {
  static inline const char* name = "child_link";
  relay_actor relay;
  link_io io;
};
using child_link = caf::stateful_actor<child_link_state, link_broker>;
/// Ends at once if `relay` is nobody.
caf::behavior child_link_behavior(child_link* self, std::shared_ptr<const actor_env> env,
                                  link_channels channels, relay_actor relay);

/// Stands for another rank at the coordinator's.
struct rank_link_state {
  static inline const char* name = "rank_link";
  supervisor_actor supervisor;
  caf::actor asker;  ///< who gave the last task but audits
  asked_by auditors;
  link_io io;
};
using rank_link = caf::stateful_actor<rank_link_state, link_broker>;
caf::behavior rank_link_behavior(rank_link* self, std::shared_ptr<const actor_env> env,
                                 link_channels channels, supervisor_actor supervisor);

/// Stands for the coordinator at another rank's.
struct coordinator_link_state {
  static inline const char* name = "coordinator_link";
  caf::actor rank;
  link_io io;
};
using coordinator_link = caf::stateful_actor<coordinator_link_state, link_broker>;
caf::behavior coordinator_link_behavior(coordinator_link* self,
                                        std::shared_ptr<const actor_env> env,
                                        link_channels channels, caf::actor rank);

/// Stands for somebody who only looks on.
struct observer_link_state {
  static inline const char* name = "observer_link";
  observer_link_state();
  ~observer_link_state();
  supervisor_actor supervisor;
  link_io io;
  bool asked = false;  ///< one question at a time
};
using observer_link = caf::stateful_actor<observer_link_state, link_broker>;
caf::behavior observer_link_behavior(observer_link* self, std::shared_ptr<const actor_env> env,
                                     link_channels channels, supervisor_actor supervisor);

}  // namespace lockstep

CAF_ALLOW_UNSAFE_MESSAGE_TYPE(lockstep::bulk_bucket)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(lockstep::bulk_closed)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(lockstep::announced)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(lockstep::retarget)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(lockstep::farewell)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(lockstep::dialed)
