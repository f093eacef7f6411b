// A receiver that runs elsewhere: what is said to it goes out, what it says comes in under its
// name.
#include <spdlog/spdlog.h>

#include "actors/link.hpp"

namespace lockstep {

namespace {

/// Joins of earlier runs are of no use once a newer run has greeted twice.
constexpr std::size_t joins_max = 2;

/// Takes what a receiver says; false once the link has ended.
class hearer {
 public:
  explicit hearer(receiver_link* self) : self_(self), state_(self->state) {}

  bool operator()(wire_message& m) {
    return std::visit([this](auto& x) { return hear(x); }, m);
  }

 private:
  /// A receiver speaks for itself only.
  bool is_own(receiver_id id) {
    if (id == state_.io.peer().id) return true;
    state_.io.end(self_, errc::bad_frame, "it speaks for receiver " + std::to_string(id));
    return false;
  }

  bool hear(hello_msg& m) {
    if (!is_own(m.id)) return false;
    m.name = state_.io.peer().name;  // which a certificate may have proven
    self_->send(state_.supervisor, std::move(m));
    return true;
  }
  bool hear(pong_msg& m) {
    if (!is_own(m.id)) return false;
    self_->send(state_.supervisor, std::move(m));
    return true;
  }
  bool hear(goodbye_msg& m) {
    if (!is_own(m.id)) return false;
    self_->send(state_.supervisor, std::move(m));
    self_->quit();
    return false;
  }
  bool hear(reply_msg& m) {
    if (!is_own(m.id)) return false;
    const auto join = state_.joins.find(m.env.txn.run);
    if (join != state_.joins.end()) self_->send(join->second, std::move(m));
    return true;
  }
  bool hear(credit_msg& m) {
    if (!is_own(m.id)) return false;
    if (state_.flusher) self_->send(state_.flusher, std::move(m));
    return true;
  }
  bool hear(audit_reply_msg& m) {
    if (!is_own(m.id)) return false;
    if (const auto asker = state_.auditors.take(m.challenge)) self_->send(asker, std::move(m));
    return true;
  }
  bool hear(relay_offer_msg& m) {
    if (!is_own(m.id)) return false;
    if (m.host.empty()) m.host = state_.io.peer_host();
    self_->send(state_.supervisor, std::move(m));
    return true;
  }
  bool hear(relay_link_msg& m) {
    if (!is_own(m.id)) return false;
    self_->send(state_.supervisor, std::move(m));
    return true;
  }
  bool hear(beat_msg&) { return true; }
  /// Only a trainer says these.
  bool hear(auto& m) {
    state_.io.end(self_, errc::bad_frame, "it says " + std::string(name_of(wire_message(m))));
    return false;
  }

  receiver_link* self_;
  receiver_link_state& state_;
};

template <class M>
auto say(receiver_link* self) {
  return [self](const M& m) { self->state.io.write(self, m); };
}

/// What begins a shipment comes from the flusher that its credit is for.
template <class M>
auto announce(receiver_link* self) {
  return [self](const M& m) {
    auto& state = self->state;
    state.flusher = caf::actor_cast<flusher_actor>(self->current_sender());
    if (state.io.write(self, m)) state.io.begin(shipment_of(m));
  };
}

}  // namespace

caf::behavior receiver_link_behavior(receiver_link* self, std::shared_ptr<const actor_env> env,
                                     link_channels channels, supervisor_actor supervisor) {
  auto& state = self->state;
  const auto cluster = env->cluster;
  state.supervisor = std::move(supervisor);
  self->monitor(state.supervisor);
  self->set_down_handler([self](const caf::down_msg&) { self->quit(); });
  state.io.open(self, std::move(channels), std::move(env));
  return {
      say<attach_msg>(self),
      say<commit_msg>(self),
      say<abort_msg>(self),
      say<ping_msg>(self),
      say<relay_parent_msg>(self),
      say<relay_lend_msg>(self),
      say<refused_msg>(self),
      announce<prepare_msg>(self),
      announce<redo_msg>(self),
      announce<full_begin_msg>(self),
      [self](const part_head& m) {
        self->state.flusher = caf::actor_cast<flusher_actor>(self->current_sender());
        self->state.io.begin(shipment_of(m));
      },
      [self](bucket_msg& m) {
        // It may be the first that is heard of what is shipped.
        self->state.flusher = caf::actor_cast<flusher_actor>(self->current_sender());
        self->state.io.send(self, std::move(m));
      },
      [self, cluster](const welcome& m) {
        auto& s = self->state;
        s.joins.insert_or_assign(m.run, m.join);
        while (s.joins.size() > joins_max) s.joins.erase(s.joins.begin());
        s.io.write(self, welcome_msg{cluster, m.run});
      },
      [self](const audit_msg& m) {
        self->state.auditors.note(m.challenge, caf::actor_cast<caf::actor>(self->current_sender()));
        self->state.io.write(self, m);
      },
      [self](const caf::io::new_data_msg& m) { self->state.io.read(self, m.buf, hearer(self)); },
      [self](const caf::io::connection_closed_msg&) {
        self->state.io.end(self, errc::dead, "closed from there");
      },
      [self](const bulk_bucket&) { self->state.io.end(self, errc::bad_frame, "it sends buckets"); },
      [self](const bulk_closed& m) { self->state.io.end(self, m.why.reason, m.why.detail); },
      [self](tick) { self->state.io.watch(self); },
  };
}

}  // namespace lockstep
