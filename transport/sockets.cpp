#include "transport/sockets.hpp"

#include <fcntl.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

namespace lockstep {

namespace {

// Half a minute without a sign of life, whether or not anything is to be sent.
constexpr int idle_s = 10;
constexpr int probe_s = 5;
constexpr int probes = 4;
constexpr int unacknowledged_ms = 30'000;

void set(int fd, int level, int name, int value) noexcept {
  (void)setsockopt(fd, level, name, &value, sizeof value);
}

}  // namespace

std::string text_of(const boost::asio::ip::tcp::endpoint& end) {
  boost::system::error_code ignored;
  const auto host = end.address().to_string(ignored);
  return (end.address().is_v6() ? "[" + host + "]" : host) + ":" + std::to_string(end.port());
}

void close_on_exec(int fd) noexcept {
  (void)fcntl(fd, F_SETFD, FD_CLOEXEC);
}

void prepare_socket(boost::asio::ip::tcp::socket& socket, int buffer_bytes) noexcept {
  boost::system::error_code ignored;
  socket.native_non_blocking(true, ignored);
  const int fd = socket.native_handle();
  close_on_exec(fd);
  set(fd, IPPROTO_TCP, TCP_NODELAY, 1);
  set(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
  set(fd, IPPROTO_TCP, TCP_KEEPIDLE, idle_s);
  set(fd, IPPROTO_TCP, TCP_KEEPINTVL, probe_s);
  set(fd, IPPROTO_TCP, TCP_KEEPCNT, probes);
  set(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, unacknowledged_ms);
  if (buffer_bytes > 0) {
    set(fd, SOL_SOCKET, SO_SNDBUF, buffer_bytes);
    set(fd, SOL_SOCKET, SO_RCVBUF, buffer_bytes);
  }
}

}  // namespace lockstep
