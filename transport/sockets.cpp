#include "transport/sockets.hpp"

#include <fcntl.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <algorithm>
#include <climits>
#include <cstdint>

namespace lockstep {

namespace {

/// Where nothing is to be sent the kernel asks, in whole seconds: first after half of the time.
constexpr int probes = 4;

void set(int fd, int level, int name, int value) noexcept {
  (void)setsockopt(fd, level, name, &value, sizeof value);
}

}  // namespace

std::string text_of(const boost::asio::ip::tcp::endpoint& end) {
  boost::system::error_code ignored;
  const auto host = end.address().to_string(ignored);
  return (end.address().is_v6() ? "[" + host + "]" : host) + ":" + std::to_string(end.port());
}

boost::asio::ip::address unmapped(const boost::asio::ip::address& address) {
  if (!address.is_v6() || !address.to_v6().is_v4_mapped()) return address;
  return boost::asio::ip::make_address_v4(boost::asio::ip::v4_mapped, address.to_v6());
}

std::string source_of(const boost::asio::ip::address& address) {
  const auto its = unmapped(address);
  if (its.is_v4()) return its.to_string();
  auto network = its.to_v6().to_bytes();
  std::fill(network.begin() + 8, network.end(), 0);
  return boost::asio::ip::address_v6(network).to_string() + "/64";
}

boost::asio::ip::tcp::endpoint listening_end(boost::asio::io_context& io, const std::string& host,
                                             std::uint16_t port,
                                             boost::system::error_code& failed) {
  using boost::asio::ip::tcp;
  const auto address = boost::asio::ip::make_address(host, failed);
  if (!failed) return {address, port};
  const auto found =
      tcp::resolver(io).resolve(host, std::to_string(port), tcp::resolver::passive, failed);
  if (!failed && found.empty()) failed = boost::asio::error::host_not_found;
  return failed ? tcp::endpoint() : found.begin()->endpoint();
}

void close_on_exec(int fd) noexcept {
  (void)fcntl(fd, F_SETFD, FD_CLOEXEC);
}

void prepare_socket(boost::asio::ip::tcp::socket& socket, const channel_options& options) noexcept {
  boost::system::error_code ignored;
  socket.native_non_blocking(true, ignored);
  const int fd = socket.native_handle();
  close_on_exec(fd);
  set(fd, IPPROTO_TCP, TCP_NODELAY, 1);
  set(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
  const auto silence = std::clamp<std::int64_t>(options.silence_max.count(), 1, INT_MAX);
  const auto seconds = [silence](int share) {
    // The most that the kernel takes is 32,767.
    return static_cast<int>(std::clamp<std::int64_t>(silence / 1'000 / share, 1, 30'000));
  };
  set(fd, IPPROTO_TCP, TCP_KEEPIDLE, seconds(2));
  set(fd, IPPROTO_TCP, TCP_KEEPINTVL, seconds(2 * probes));
  set(fd, IPPROTO_TCP, TCP_KEEPCNT, probes);
  set(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, static_cast<int>(silence));
  if (options.socket_buffer_bytes > 0) {
    set(fd, SOL_SOCKET, SO_SNDBUF, options.socket_buffer_bytes);
    set(fd, SOL_SOCKET, SO_RCVBUF, options.socket_buffer_bytes);
  }
}

}  // namespace lockstep
