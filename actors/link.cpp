#include "actors/link.hpp"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <caf/io/network/multiplexer.hpp>
#include <caf/send.hpp>

#include "protocol/deadlines.hpp"

namespace lockstep {

namespace {

/// Control bytes that may wait for a peer: far more than a fleet says between two pings.
constexpr std::size_t unwritten_bytes_max = 4 * control_bytes_max;
constexpr std::size_t read_bytes = 64 << 10;
/// Messages a second of one peer, so that none fills the mailboxes behind its link. The most that
/// is ever meant are credits: ten times those of a 100 Gbit/s link and the smallest buckets.
constexpr std::uint32_t messages_per_s_max = 100'000;

}  // namespace

bool link_broker::cleanup(caf::error&& reason, caf::execution_unit* host) {
  // A connection that is closed in the round of CAF's loop in which it was opened would stay, and
  // its descriptor with it: the loop takes in what was added and removed between two rounds as one
  // change, and tells a connection only of what it took part in. So they close a round later.
  for (const auto& c : connections())
    backend().post([connection = take(c)] { connection->graceful_shutdown(); });
  auto why = reason;
  const bool ended = caf::io::broker::cleanup(std::move(reason), host);
  // CAF's brokers end with their mailbox open: what is in it would stay, and the ticks in it are
  // from the link itself, so that it would hold itself for ever.
  caf::scheduled_actor::cleanup(std::move(why), host);
  return ended;
}

void link_io::open(caf::io::broker* self, link_channels channels,
                   std::shared_ptr<const actor_env> env) {
  env_ = std::move(env);
  peer_ = channels.control->peer();
  where_ = channels.control->peer_address();
  bulk_ = std::move(channels.bulk);
  heard_ = message_began_ = self->clock().now();
  control_ = self->add_scribe(channels.control->release());
  self->configure_read(control_, caf::io::receive_policy::at_most(read_bytes));
  const auto me = caf::actor_cast<caf::actor>(self);
  for (const auto& c : bulk_)
    c->start(
        [me](bucket_msg m, std::uint64_t round) {
          caf::anon_send(me, bulk_bucket{std::move(m), round});
        },
        [me](const failure& why) { caf::anon_send(me, bulk_closed{why}); });
  watch(self);
}

link_io::~link_io() {
  for (const auto& c : bulk_) c->close();
}

bool link_io::write(caf::io::broker* self, const wire_message& m) {
  const auto bytes = encode_message(m);
  if (bytes.size() > peer_.control_bytes_max) {
    env_->log->error("{}: a {} of {} bytes is more than it takes", where_, name_of(m),
                     bytes.size());
    return true;  // lost, and its deadline says so
  }
  auto& out = self->wr_buf(control_);
  if (out.size() + bytes.size() > unwritten_bytes_max) {
    end(self, errc::timeout, "it does not take what is sent");
    return false;
  }
  self->write(control_, bytes.size(), bytes.data());
  self->flush(control_);
  return true;
}

void link_io::send(caf::io::broker* self, bucket_msg m) {
  const auto n = next_bulk_++ % bulk_.size();
  const auto round = m.env.txn == announced_.txn ? announced_.round : 0;
  if (!bulk_[n]->send(std::move(m), round)) end(self, errc::dead, "its bulk channel is closed");
}

bool link_io::floods() {
  if (heard_ - second_began_ >= std::chrono::seconds(1)) {
    second_began_ = heard_;
    said_ = 0;
  }
  return ++said_ > messages_per_s_max;
}

void link_io::end(caf::io::broker* self, errc reason, const std::string& detail) {
  env_->log->warn("the link to {} ({}) ends: {} {}", peer_.name, where_, to_string(reason), detail);
  self->quit(caf::exit_reason::remote_link_unreachable);
}

bool link_io::lease_over(caf::io::broker* self) const {
  return self->clock().now() - heard_ > std::chrono::milliseconds(env_->options.receiver.lease_ms);
}

void link_io::watch(caf::io::broker* self) {
  const std::chrono::milliseconds lease(env_->options.receiver.lease_ms);
  const auto patience = silence_max(env_->options);
  const auto now = self->clock().now();
  auto over = heard_ + patience;
  if (now >= over) return end(self, errc::lease_expired, "it is silent");
  if (in_.size() > 0) {
    // A length that was damaged on its way takes all that follows for one message.
    const auto whole = message_began_ + patience + transfer_time(env_->options, control_bytes_max);
    if (now >= whole) return end(self, errc::lease_expired, "its message does not end");
    over = std::min(over, whole);
  }
  if (!write(self, beat_msg{env_->cluster})) return;
  // The last tick comes when the silence has lasted long enough, and no part of a lease later.
  self->delayed_send(self, std::min(over, now + lease / 4 + std::chrono::milliseconds(1)) - now,
                     tick{});
}

}  // namespace lockstep
