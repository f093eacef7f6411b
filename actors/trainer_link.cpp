// A trainer that runs elsewhere: what it says goes to the receiver under this link's name, and the
// receiver's answers go back.
#include <spdlog/spdlog.h>

#include <caf/send.hpp>

#include "actors/link.hpp"

namespace lockstep {

namespace {

/// Buckets that may overtake the announcement of their shipment: the most credit that a trainer can
/// give, for the shipment under way and for one that takes its place.
constexpr std::size_t held_max = 2 * 1'024;

/// What was written last gets this long to leave; the trainer closes the link when it has it.
constexpr std::chrono::milliseconds farewell_time{300};

/// Buckets travel on other connections than their announcement and may have overtaken it: those of
/// `what` are passed on now, and what is older is forgotten.
void release(trainer_link* self, const shipment& what) {
  auto& state = self->state;
  if (what <= state.seen) return;
  state.seen = what;
  for (auto& early : std::exchange(state.held, {})) {
    const shipment of{early.bucket.env.txn, early.round};
    if (of == what)
      self->send(state.receiver, std::move(early.bucket));
    else if (of > what)
      state.held.push_back(std::move(early));
  }
}

/// Takes what a trainer says; false once the link has ended.
class hearer {
 public:
  explicit hearer(trainer_link* self) : self_(self), state_(self->state) {}

  bool operator()(wire_message& m) {
    return std::visit([this](auto& x) { return hear(x); }, m);
  }

 private:
  template <class M>
  bool pass(M& m) {
    self_->send(state_.receiver, std::move(m));
    return true;
  }
  bool hear(attach_msg& m) { return pass(m); }
  bool hear(commit_msg& m) { return pass(m); }
  bool hear(abort_msg& m) { return pass(m); }
  bool hear(ping_msg& m) { return pass(m); }
  bool hear(audit_msg& m) { return pass(m); }
  bool hear(relay_parent_msg& m) { return pass(m); }
  bool hear(relay_lend_msg& m) { return pass(m); }
  bool hear(refused_msg& m) { return pass(m); }
  bool hear(prepare_msg& m) { return begin(m); }
  bool hear(redo_msg& m) { return begin(m); }
  bool hear(full_begin_msg& m) { return begin(m); }
  bool hear(beat_msg&) { return true; }
  bool hear(welcome_msg& m) {
    self_->send(state_.receiver, welcome{m.run, caf::actor_cast<join_actor>(self_)});
    return true;
  }
  /// Only a receiver says these.
  bool hear(auto& m) {
    state_.io.end(self_, errc::bad_frame, "it says " + std::string(name_of(wire_message(m))));
    return false;
  }

  template <class M>
  bool begin(M& m) {
    const auto what = shipment_of(m);
    pass(m);
    release(self_, what);
    // Other ranks of this trainer may have begun to ship their parts.
    caf::anon_send(state_.agent, announced{what});
    return true;
  }

  trainer_link* self_;
  trainer_link_state& state_;
};

void on_bucket(trainer_link* self, bulk_bucket& m) {
  auto& state = self->state;
  const shipment of{m.bucket.env.txn, m.round};
  if (of < state.seen) return;  // it is over
  // Of what is sent again nothing leaves before its announcement: it overtook that, and would be
  // taken for what was sent first. All else the receiver itself keeps until then.
  if (of == state.seen || m.round == 0) return self->send(state.receiver, std::move(m.bucket));
  if (state.held.size() == held_max)
    return state.io.end(self, errc::bad_frame, "it sends buckets that nobody was told of");
  state.held.push_back(std::move(m));
}

template <class M>
auto say(trainer_link* self) {
  return [self](const M& m) { self->state.io.write(self, m); };
}

}  // namespace

caf::behavior trainer_link_behavior(trainer_link* self, std::shared_ptr<const actor_env> env,
                                    link_channels channels, receiver_actor receiver,
                                    caf::actor agent) {
  auto& state = self->state;
  state.receiver = std::move(receiver);
  self->monitor(agent);
  state.agent = std::move(agent);
  self->set_down_handler([self](const caf::down_msg&) {
    if (!self->state.leaving) self->quit();
  });
  state.io.open(self, std::move(channels), std::move(env));
  return {
      say<hello_msg>(self),
      say<pong_msg>(self),
      [self](const goodbye_msg& m) {
        self->state.leaving = true;
        if (self->state.io.write(self, m)) self->delayed_send(self, farewell_time, farewell{});
      },
      [self](farewell) { self->quit(); },
      say<reply_msg>(self),
      say<credit_msg>(self),
      say<audit_reply_msg>(self),
      say<relay_offer_msg>(self),
      say<relay_link_msg>(self),
      [self](const retarget& m) { self->state.receiver = m.receiver; },
      [self](const announced& m) { release(self, m.what); },
      [self](const caf::io::new_data_msg& m) {
        auto& io = self->state.io;
        // Old pings must renew no lease: the trainer may be gone or far ahead by now.
        if (io.lease_over(self))
          return io.end(self, errc::lease_expired, "what it says now may be as old as its silence");
        io.read(self, m.buf, hearer(self));
      },
      [self](const caf::io::connection_closed_msg&) {
        if (self->state.leaving) return self->quit();
        self->state.io.end(self, errc::dead, "closed from there");
      },
      [self](bulk_bucket& m) { on_bucket(self, m); },
      [self](const bulk_closed& m) { self->state.io.end(self, m.why.reason, m.why.detail); },
      [self](tick) { self->state.io.watch(self); },
  };
}

}  // namespace lockstep
