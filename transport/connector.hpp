// Decides how a process dials another and makes sure of whom it reached.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <variant>

#include "transport/channel.hpp"
#include "transport/greeting.hpp"
#include "transport/io_threads.hpp"
#include "transport/security.hpp"

namespace lockstep {

/// Whom to dial, as whom, and the bounds.
struct connect_options {
  std::string host;
  std::uint16_t port = 0;
  greeting self;
  node_role expected = node_role::trainer;    ///< the role that the other side must have
  std::chrono::milliseconds deadline{5'000};  ///< for looking up, connecting and the handshake
  channel_options channels;
};

/// A channel, or why there is none: `unreachable` (nobody listens, no such host), `timeout`,
/// `untrusted` (TLS failed, another role), `wrong_version`, `wrong_cluster`, `bad_setting` (a clear
/// connection would leave the machine), `dead` (closed without a word), or what the other side
/// refused with.
using connect_result = std::variant<std::shared_ptr<channel>, failure>;

/// Dials once. Returns at once; `done` is called exactly once from one of `io`'s threads, unless
/// these are stopped before. It must not throw. Looking up a name can keep a thread of the system
/// busy beyond the deadline; `done` is called in time all the same.
void connect(io_threads& io, std::shared_ptr<const security> guard, connect_options options,
             std::function<void(connect_result)> done);

}  // namespace lockstep
