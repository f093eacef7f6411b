// Decides how the sockets of connections are set, and how their ends are written.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <cstdint>
#include <string>

#include "transport/channel.hpp"

namespace lockstep {

/// "host:port", or "[host]:port".
std::string text_of(const boost::asio::ip::tcp::endpoint& end);

/// Without the guise of IPv6 that one of IPv4 has on a port that takes both.
boost::asio::ip::address unmapped(const boost::asio::ip::address& address);
/// Whose an address is: its own, or of IPv6, where one machine may have a whole /64, that
/// network's.
std::string source_of(const boost::asio::ip::address& address);

/// Where to listen on `host`, an address or a name of this machine; sets `failed` where that is
/// none.
boost::asio::ip::tcp::endpoint listening_end(boost::asio::io_context& io, const std::string& host,
                                             std::uint16_t port, boost::system::error_code& failed);

/// Does not survive `exec`.
void close_on_exec(int fd) noexcept;

/// Makes a connected socket non-blocking, prompt, and mortal: a peer whose machine acknowledges
/// nothing for `options.silence_max` is noticed, whether or not anything is to be sent. A peer that
/// takes no byte for as long, though its machine is there, is taken for one. What the system does
/// not know is left out.
void prepare_socket(boost::asio::ip::tcp::socket& socket, const channel_options& options) noexcept;

}  // namespace lockstep
