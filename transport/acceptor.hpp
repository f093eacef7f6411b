// Decides how strangers become channels on the side that listens, and what they may cost before.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "transport/channel.hpp"
#include "transport/greeting.hpp"
#include "transport/io_threads.hpp"
#include "transport/security.hpp"

namespace lockstep {

/// Where to listen, as whom, and the bounds.
struct acceptor_options {
  std::string host = "127.0.0.1";  ///< an address, or a name of this machine
  std::uint16_t port = 0;          ///< 0: any that is free
  greeting self;                   ///< the answer; purpose, link and stream are the dialer's
  std::chrono::milliseconds handshake_deadline{5'000};
  /// Connections in the handshake. One more takes the place of the oldest from the address that has
  /// most of them, if its own has fewer by two; else it is closed.
  std::uint32_t unauthenticated_max = 64;
  /// Of those, how many may come from one address, or one /64 of IPv6, loopback included: nobody
  /// holds the places of all others.
  std::uint32_t unauthenticated_of_one_max = 32;
  /// Failed handshakes that one address may have a minute before its connections are
  /// closed at once; 0: any number. Loopback is exempt: there all share one address.
  std::uint32_t failures_per_minute_max = 120;
  /// How often it is said that others can reach what is spoken in clear, as long as they can.
  std::chrono::milliseconds warn_every{60'000};
  channel_options channels;
};

/// How connections ended up.
struct acceptor_counters {
  std::uint64_t accepted = 0;         ///< became channels
  std::uint64_t timed_out = 0;        ///< not done within the deadline
  std::uint64_t crowded_out = 0;      ///< came while too many were in it, or made way for others
  std::uint64_t rate_limited = 0;     ///< from an address that had failed too often
  std::uint64_t went_away = 0;        ///< closed from the other side
  std::uint64_t untrusted = 0;        ///< TLS failed, or the certificate has another role
  std::uint64_t malformed = 0;        ///< sent what is no greeting
  std::uint64_t wrong_version = 0;    ///< speaks another version
  std::uint64_t wrong_cluster = 0;    ///< belongs to another cluster
  std::uint64_t not_admitted = 0;     ///< refused by `admit`
  std::uint64_t accept_errors = 0;    ///< the system gave no connection, e.g. no descriptors left
  std::uint32_t unauthenticated = 0;  ///< in the handshake now
};

/// Listens from construction to `close`. Thread-safe.
class acceptor {
 public:
  struct impl;

  /// Whether this process wants the channel; anything but `none` is told to the dialer. The cluster
  /// and, with certificates, role and name have been checked. `address` is "host:port".
  using admit_handler = std::function<failure(const greeting&, const std::string& address)>;
  /// Takes a channel whose dialer has been welcomed.
  using channel_handler = std::function<void(std::shared_ptr<channel>)>;

  /// Both handlers are called from `io`'s threads, concurrently for different connections, and must
  /// not throw. `guard` is shared with other acceptors and connectors. Throws
  /// `error(errc::bad_setting)` where `security::check_host` does, and `error(errc::unreachable)`,
  /// naming the address, when it cannot be listened on.
  acceptor(io_threads& io, std::shared_ptr<const security> guard, acceptor_options options,
           admit_handler admit, channel_handler on_channel, log_function log = {});
  acceptor(const acceptor&) = delete;
  acceptor& operator=(const acceptor&) = delete;
  /// Closes.
  ~acceptor();

  /// The port that is listened on.
  std::uint16_t port() const noexcept;
  acceptor_counters counters() const;

  /// Stops listening and drops who is in the handshake; channels stay. A handler that runs may
  /// still be running when this returns. Idempotent.
  void close();

 private:
  std::shared_ptr<impl> impl_;
};

}  // namespace lockstep
