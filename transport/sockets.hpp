// Decides how the sockets of connections are set, and how their ends are written.
#pragma once

#include <boost/asio/ip/tcp.hpp>
#include <string>

namespace lockstep {

/// "host:port", or "[host]:port".
std::string text_of(const boost::asio::ip::tcp::endpoint& end);

/// Does not survive `exec`.
void close_on_exec(int fd) noexcept;

/// Makes a connected socket non-blocking, prompt, and mortal: a peer that is gone without a word is
/// noticed. `buffer_bytes` of 0 leaves the buffers to the system. What the system does not know is
/// left out.
void prepare_socket(boost::asio::ip::tcp::socket& socket, int buffer_bytes) noexcept;

}  // namespace lockstep
