#include "transport/relay.hpp"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <cerrno>
#include <system_error>
#include <utility>
#include <vector>

namespace lockstep {

namespace asio = boost::asio;

namespace {

/// Lives until both directions have ended or one has failed; its pending waits hold it.
class relay : public std::enable_shared_from_this<relay> {
 public:
  relay(relay_parts parts, asio::local::stream_protocol::socket local)
      : socket_(std::move(parts.socket)),
        stream_(std::move(parts.stream)),
        near_(make_clear_stream(local.native_handle())),
        local_(std::move(local)),
        stuck_(socket_.get_executor()),
        write_deadline_(parts.write_deadline) {}

  void begin() {
    copy_in();
    copy_out();
  }

 private:
  static constexpr std::size_t buffer_bytes = 64 << 10;

  /// Bytes that were read and not yet written.
  struct hop {
    std::vector<std::byte> bytes = std::vector<std::byte>(buffer_bytes);
    std::size_t from = 0;
    std::size_t to = 0;
    bool ended = false;

    bool empty() const noexcept { return from == to; }
  };

  /// One step of a direction: writes what there is, or reads more.
  static io_step step(hop& h, byte_stream& source, byte_stream& sink, bool& at_sink) {
    at_sink = true;
    if (const auto flushed = sink.flush(); flushed.status != io_status::ok) return flushed;
    if (!h.empty()) {
      const auto written = sink.write_some(std::span(h.bytes).subspan(h.from, h.to - h.from), {});
      h.from += written.bytes;
      return written;
    }
    at_sink = false;
    const auto got = source.read_some(h.bytes);
    h.from = 0;
    h.to = got.bytes;
    return got;
  }

  // From the peer to the local socket.
  void copy_in() {
    while (open_ && !in_.ended) {
      bool at_local = false;
      const auto s = step(in_, *stream_, *near_, at_local);
      if (s.status == io_status::ok) continue;
      if (s.status == io_status::failed) return close();
      if (s.status == io_status::end) {
        in_.ended = true;
        near_->finish_writes();
        if (out_.ended) close();
        return;
      }
      if (at_local) return wait(local_, s.status, &relay::copy_in);
      return wait(socket_, s.status, &relay::copy_in);
    }
  }

  // From the local socket to the peer.
  void copy_out() {
    while (open_ && !out_.ended) {
      bool at_peer = false;
      const auto s = step(out_, *near_, *stream_, at_peer);
      if (s.status == io_status::ok) continue;
      if (s.status == io_status::failed) return close();
      if (s.status == io_status::end) {
        out_.ended = true;
        stream_->finish_writes();
        if (in_.ended || is_gone()) close();
        return;
      }
      if (!at_peer) return wait(local_, s.status, &relay::copy_out);
      expect_progress();
      return wait(socket_, s.status, &relay::copy_out);
    }
  }

  /// Whether the local socket was closed, and not only for writing.
  bool is_gone() {
    pollfd state{local_.native_handle(), 0, 0};
    return poll(&state, 1, 0) == 1 && (state.revents & (POLLHUP | POLLERR)) != 0;
  }

  void expect_progress() {
    stuck_.expires_after(write_deadline_);
    stuck_.async_wait([self = shared_from_this()](boost::system::error_code failed) {
      if (!failed) self->close();
    });
  }

  template <class Socket>
  void wait(Socket& socket, io_status wanted, void (relay::*then)()) {
    const auto kind = wanted == io_status::want_write ? Socket::wait_write : Socket::wait_read;
    socket.async_wait(kind, [self = shared_from_this(), then](boost::system::error_code) {
      if (!self->open_) return;
      if (then == &relay::copy_out) self->stuck_.cancel();
      (self.get()->*then)();
    });
  }

  void close() {
    if (!std::exchange(open_, false)) return;
    boost::system::error_code ignored;
    stuck_.cancel(ignored);
    socket_.close(ignored);
    local_.close(ignored);
  }

  asio::ip::tcp::socket socket_;
  std::unique_ptr<byte_stream> stream_;
  std::unique_ptr<byte_stream> near_;
  asio::local::stream_protocol::socket local_;
  asio::steady_timer stuck_;
  const std::chrono::milliseconds write_deadline_;
  hop in_;
  hop out_;
  bool open_ = true;
};

}  // namespace

int release_through_relay(relay_parts parts) {
  std::array<int, 2> ends{};
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends.data()) != 0)
    throw error(errc::dead, "no local socket: " + std::generic_category().message(errno));
  const auto strand = parts.socket.get_executor();
  boost::system::error_code failed;
  asio::local::stream_protocol::socket local(strand);
  local.assign(asio::local::stream_protocol(), ends[0], failed);
  if (failed) {
    ::close(ends[0]);
    ::close(ends[1]);
    throw error(errc::dead, "no local socket: " + failed.message());
  }
  const auto copies = std::make_shared<relay>(std::move(parts), std::move(local));
  asio::post(strand, [copies] { copies->begin(); });
  return ends[1];
}

}  // namespace lockstep
