#include "actors/published_inbox.hpp"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <exception>
#include <utility>
#include <variant>

#include "actors/log.hpp"
#include "messages/printable.hpp"
#include "transport/address.hpp"
#include "transport/answering_port.hpp"

namespace lockstep {

namespace fs = std::filesystem;

namespace {

constexpr std::uint32_t only_round = 1;
/// An acknowledgement is far shorter.
constexpr std::uint64_t said_bytes_max = 64 << 10;

}  // namespace

reply_msg reply_of(std::uint64_t cluster, const acknowledgement& what) {
  const bool holds = what.reason == errc::none;
  return {{cluster, {what.challenge, what.version}, {0, 1}},
          0,
          only_round,
          holds ? reply_kind::ack : reply_kind::nack,
          what.reason,
          what.detail.substr(0, reply_detail_max),
          what.proof};
}

std::optional<acknowledgement> acknowledgement_in(const reply_msg& m) {
  const bool holds = m.kind == reply_kind::ack;
  if (m.round != only_round || (!holds && m.kind != reply_kind::nack) ||
      holds != (m.reason == errc::none))
    return std::nullopt;
  return acknowledgement{m.env.txn.seq, m.env.txn.run, m.reason, m.detail, m.proof};
}

struct published_inbox::impl {
  impl(const std::string& at, const settings& options, std::vector<std::string> hosts,
       fs::path where, std::shared_ptr<spdlog::logger> to)
      : cluster(cluster_id(options.cluster.name)),
        names(std::move(hosts)),
        acks(std::move(where)),
        log(std::move(to)) {
    const auto address = parse_address("address", at);
    acceptor_options o;
    o.host = address.host;
    o.port = address.port;
    o.self.cluster = cluster;
    o.self.role = node_role::trainer;
    o.self.name = std::string(to_string(node_role::trainer));
    o.self.control_bytes_max = said_bytes_max;
    o.self.program = "lockstep " LOCKSTEP_VERSION_TEXT;
    o.handshake_deadline = std::chrono::milliseconds(options.transport.handshake_timeout_ms);
    o.failures_per_minute_max = options.transport.failures_per_minute_max;
    const auto guard = std::make_shared<security>(security_of(options.transport), logging_to(log));
    guard->check_own(o.self);
    port.emplace(
        guard, std::move(o), [this](const greeting& g, const std::string&) { return why_not(g); },
        [this](const greeting& g, const wire_message& m) { return answer(g.name, m); },
        logging_to(log));
  }

  failure why_not(const greeting& g) const {
    if (g.role != node_role::receiver || g.purpose != channel_purpose::control || g.stream != 0)
      return {errc::bad_input, "only hosts that follow the stream are listened to here"};
    if (std::ranges::find(names, g.name) == names.end())
      return {errc::bad_input,
              "the stream waits for no host '" + printable(g.name) + "' (--receiver, --follower)"};
    return {};
  }

  std::optional<wire_message> answer(const std::string& name, const wire_message& m) const {
    const auto* said = std::get_if<reply_msg>(&m);
    const auto what = said ? acknowledgement_in(*said) : std::nullopt;
    if (!what || said->env.cluster != cluster) {
      log->warn("host {}: what it says is no acknowledgement", name);
      return std::nullopt;
    }
    try {
      write_acknowledgement(acks, name, *what);
    } catch (const std::exception& e) {
      log->error("what host {} acknowledges cannot be kept: {}", name, e.what());
      return std::nullopt;
    }
    return welcome_msg{cluster, what->challenge};
  }

  const std::uint64_t cluster;
  const std::vector<std::string> names;
  const fs::path acks;
  const std::shared_ptr<spdlog::logger> log;
  std::optional<answering_port> port;
};

published_inbox::published_inbox(const std::string& at, const settings& options,
                                 std::vector<std::string> names, fs::path acks,
                                 std::shared_ptr<spdlog::logger> log)
    : impl_(
          std::make_unique<impl>(at, options, std::move(names), std::move(acks), std::move(log))) {}

published_inbox::~published_inbox() = default;

std::uint16_t published_inbox::port() const noexcept {
  return impl_->port->port();
}

}  // namespace lockstep
