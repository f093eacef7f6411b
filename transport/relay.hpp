// Decides how somebody else reads and writes a TLS connection in clear: through a local socket.
#pragma once

#include <boost/asio/ip/tcp.hpp>
#include <chrono>
#include <memory>

#include "transport/byte_stream.hpp"

namespace lockstep {

struct relay_parts {
  boost::asio::ip::tcp::socket socket;  ///< its executor is a strand of its own
  std::unique_ptr<byte_stream> stream;
  std::chrono::milliseconds write_deadline;  ///< for the peer to take bytes
};

/// Starts to copy, and gives the other end of the local socket, which is the caller's. Throws
/// `error(errc::dead)` when the system has none.
int release_through_relay(relay_parts parts);

}  // namespace lockstep
