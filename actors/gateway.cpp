#include "actors/gateway.hpp"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>

#include "actors/log.hpp"
#include "messages/printable.hpp"
#include "protocol/deadlines.hpp"

namespace lockstep {

namespace {

using std::chrono::milliseconds;

/// Links of which not every channel is there yet.
constexpr std::size_t pending_max = 256;
constexpr std::size_t pending_of_one_max = 4;
/// No link has more bulk channels.
constexpr std::uint32_t streams_max = 16;

/// A bulk channel has the patience of the link that it belongs to.
channel_options channels_of(const settings& s) {
  channel_options o;
  o.silence_max = silence_max(s);
  o.write_deadline = std::max(o.write_deadline, o.silence_max);
  return o;
}

}  // namespace

gateway::gateway(std::shared_ptr<const actor_env> env)
    : env_(std::move(env)),
      log_(logging_to(env_->log)),
      members_("transport.members", env_->options.transport.members),
      io_(env_->options.transport.threads) {
  security_ = std::make_shared<security>(security_of(env_->options.transport), log_);
}

gateway::~gateway() {
  close();
}

void gateway::close() {
  if (acceptor_) acceptor_->close();
  io_.stop();
  const std::lock_guard lock(mutex_);
  pending_.clear();
}

greeting gateway::own_greeting(node_role role) const {
  greeting g;
  g.cluster = env_->cluster;
  g.role = role;
  g.name = std::string(to_string(role));
  g.payload_bytes_max = payload_bytes_max;
  g.control_bytes_max = control_bytes_max;
  g.program = "lockstep " LOCKSTEP_VERSION_TEXT;
  return g;
}

void gateway::listen(const node_address& at, greeting as, link_handler take) {
  security_->check_own(as);
  take_ = std::move(take);
  acceptor_options o;
  o.host = at.host;
  o.port = at.port;
  o.self = std::move(as);
  o.channels = channels_of(env_->options);
  o.handshake_deadline = milliseconds(env_->options.transport.handshake_timeout_ms);
  o.failures_per_minute_max = env_->options.transport.failures_per_minute_max;
  const auto& t = env_->options.transport;
  const bool trainer = o.self.role == node_role::trainer;
  const auto admit = [this, &t, trainer](const greeting& g, const std::string&) -> failure {
    if (!trainer && g.role != node_role::receiver)
      return {errc::bad_input, "only receivers have buckets from here"};
    if (g.role == node_role::receiver && !members_.admits(g.name, g.id))
      return {errc::bad_input, fmt::format("transport.members names no '{}' with the id {}",
                                           printable(g.name), g.id)};
    // Which of several ranks does not fit is the supervisor's to say.
    if (g.role == node_role::trainer && (t.rank != 0 || g.id == 0 || t.ranks == 1))
      return {errc::bad_input, "this is a trainer itself, and no rank of it is missing"};
    if (g.purpose == channel_purpose::control &&
        (g.stream > streams_max || (g.role == node_role::receiver && g.stream == 0)))
      return {errc::bad_input, "a link of " + std::to_string(g.stream) + " bulk channels"};
    return {};
  };
  acceptor_ = std::make_unique<acceptor>(
      io_, security_, std::move(o), admit,
      [this](std::shared_ptr<channel> c) { on_channel(std::move(c)); }, log_);
  port_ = acceptor_->port();
}

/// Whoever begins links and does not complete them crowds out its own beginnings first, and then
/// the oldest: an honest link is complete within milliseconds.
void gateway::make_room(const greeting& newcomer) {
  auto oldest = pending_.end();
  auto own = pending_.end();
  std::size_t owned = 0;
  for (auto it = pending_.begin(); it != pending_.end(); ++it) {
    if (oldest == pending_.end() || it->second.since < oldest->second.since) oldest = it;
    const auto& begun = it->second.channels;
    const auto& peer = begun.control ? begun.control->peer() : begun.bulk.front()->peer();
    if (peer.role != newcomer.role || peer.id != newcomer.id || peer.name != newcomer.name)
      continue;
    ++owned;
    if (own == pending_.end() || it->second.since < own->second.since) own = it;
  }
  const bool full = pending_.size() >= pending_max;
  if (owned < pending_of_one_max && !full) return;
  if (full)
    seldom_(log_level::warn, "links begun",
            "too many links are begun and not completed: the oldest are dropped");
  pending_.erase(owned >= pending_of_one_max ? own : oldest);
}

/// A link is handed on when its control channel, which says how many bulk channels there are, and
/// these are all there. What is left of links that are not completed goes after a while.
void gateway::on_channel(std::shared_ptr<channel> c) {
  link_channels complete;
  {
    const std::lock_guard lock(mutex_);
    const auto now = std::chrono::steady_clock::now();
    const milliseconds patience(env_->options.transport.connect_timeout_ms);
    std::erase_if(pending_, [&](const auto& p) { return now - p.second.since > patience; });
    const auto link = c->peer().link;
    auto found = pending_.find(link);
    if (found == pending_.end()) {
      make_room(c->peer());
      found = pending_.emplace(link, pending{}).first;
      found->second.since = now;
    }
    auto& p = found->second;
    const auto same_peer = [&](const auto& other) {
      return !other || (other->peer().id == c->peer().id && other->peer().role == c->peer().role &&
                        other->peer().name == c->peer().name);
    };
    if (!same_peer(p.channels.control) || !std::ranges::all_of(p.channels.bulk, same_peer)) {
      return;
    }
    if (c->peer().purpose == channel_purpose::control) {
      p.streams = c->peer().stream;
      p.channels.control = std::move(c);
    } else {
      p.channels.bulk.push_back(std::move(c));
      if (p.channels.bulk.size() > streams_max) {
        pending_.erase(found);
        return;
      }
    }
    if (!p.channels.control || p.channels.bulk.size() < p.streams) return;
    complete = std::move(p.channels);
    pending_.erase(found);
  }
  take_(std::move(complete));
}

struct gateway::dialing {
  gateway* owner;
  node_address to;
  greeting self;
  node_role expected;
  std::uint32_t streams;
  link_channels channels;
  time_point deadline;
  std::function<void(link_channels, failure)> done;
};

void gateway::dial(const node_address& to, greeting self, node_role expected,
                   std::function<void(link_channels, failure)> done) {
  const auto& t = env_->options.transport;
  const auto streams = self.role == node_role::receiver ? t.streams : 0;
  self.link = {env_->entropy(), env_->entropy()};
  self.purpose = channel_purpose::control;
  self.stream = streams;
  dial_next(std::make_shared<dialing>(
      dialing{this,
              to,
              std::move(self),
              expected,
              streams,
              {},
              std::chrono::steady_clock::now() + milliseconds(t.connect_timeout_ms),
              std::move(done)}));
}

/// Channels one after the other: the control channel first, under one deadline for all.
void gateway::dial_next(std::shared_ptr<dialing> d) {
  connect_options o;
  o.host = d->to.host;
  o.port = d->to.port;
  o.self = d->self;
  o.expected = d->expected;
  o.channels = channels_of(d->owner->env_->options);
  if (d->channels.control) {
    o.self.purpose = channel_purpose::bulk;
    o.self.stream = static_cast<std::uint32_t>(d->channels.bulk.size());
  }
  o.deadline =
      std::max(milliseconds(1),
               std::chrono::ceil<milliseconds>(d->deadline - std::chrono::steady_clock::now()));
  auto& owner = *d->owner;
  connect(owner.io_, owner.security_, std::move(o), [d](connect_result result) {
    if (auto* why = std::get_if<failure>(&result)) return d->done({}, std::move(*why));
    auto& made = std::get<std::shared_ptr<channel>>(result);
    if (d->channels.control)
      d->channels.bulk.push_back(std::move(made));
    else
      d->channels.control = std::move(made);
    if (d->channels.bulk.size() < d->streams) return dial_next(d);
    d->done(std::move(d->channels), {});
  });
}

}  // namespace lockstep
