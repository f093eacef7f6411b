#include "transport/http.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/thread_pool.hpp>
#include <set>
#include <thread>
#include <utility>

#include "messages/errors.hpp"
#include "transport/http_address.hpp"
#include "transport/http_session.hpp"
#include "transport/sockets.hpp"

namespace lockstep {

using asio::ip::tcp;

namespace {

/// What is waited after the system gave no connection.
constexpr std::chrono::milliseconds accept_pause{100};

}  // namespace

struct http_server::state {
  state(quick_handler q, slow_handler s, http_limits l)
      : quick(std::move(q)), slow(std::move(s)), limits(l) {}

  void accept();
  void take(tcp::socket socket);

  quick_handler quick;
  slow_handler slow;
  http_limits limits;
  // Before `io`, whose end takes the last connections with it.
  std::multiset<std::string> sources;  // whose they are; on the io thread alone,
                                       // like all that is not slow
  std::atomic<std::size_t> waiting = 0;
  std::atomic<bool> ending = false;
  asio::io_context io{1};
  tcp::acceptor acceptor{io};
  asio::steady_timer pause{io};
  asio::thread_pool worker{1};
  std::thread thread;
};

void http_server::state::accept() {
  acceptor.async_accept([this](beast::error_code failure, tcp::socket socket) {
    if (failure == asio::error::operation_aborted) return;
    if (!failure) {
      take(std::move(socket));
      return accept();
    }
    // Most often there are no descriptors left, and none will be at once.
    pause.expires_after(accept_pause);
    pause.async_wait([this](beast::error_code stopped) {
      if (!stopped) accept();
    });
  });
}

void http_server::state::take(tcp::socket socket) {
  beast::error_code gone;
  const auto end = socket.remote_endpoint(gone);
  if (gone) return;
  auto source = source_of(end.address());
  if (sources.size() >= limits.connections_max ||
      sources.count(source) >= limits.connections_of_one_max)
    return;
  std::make_shared<http_session<state, tcp>>(*this, std::move(socket), std::move(source))->read();
}

http_server::http_server(const std::string& host, std::uint16_t port, quick_handler quick,
                         slow_handler slow, http_limits limits)
    : state_(std::make_unique<state>(std::move(quick), std::move(slow), limits)) {
  try {
    beast::error_code unknown;
    const auto at = listening_end(state_->io, host, port, unknown);
    if (unknown) throw boost::system::system_error(unknown);
    state_->acceptor.open(at.protocol());
    state_->acceptor.set_option(tcp::acceptor::reuse_address(true));
    state_->acceptor.bind(at);
    state_->acceptor.listen();
  } catch (const boost::system::system_error& e) {
    throw error(errc::bad_setting,
                fmt::format("{}:{} cannot be listened on: {}", host, port, e.code().message()));
  }
  state_->accept();
  state_->thread = std::thread([this] { state_->io.run(); });
}

http_server::~http_server() {
  state_->ending = true;
  state_->worker.join();
  state_->io.stop();
  state_->thread.join();
}

std::uint16_t http_server::port() const noexcept {
  boost::system::error_code ignored;
  return state_->acceptor.local_endpoint(ignored).port();
}

http_response http_call(const std::string& given, const http_request& what,
                        std::chrono::milliseconds patience, const std::function<bool()>& stopping) {
  const auto address = parse_http_address(given);
  const auto url = "http://" + address.authority + what.path;
  asio::io_context io;
  beast::tcp_stream stream(io);
  tcp::resolver resolver(io);
  http_exchange exchange(what, address.authority);
  beast::error_code failure = asio::error::timed_out;
  bool done = false;
  const auto ended = [&](beast::error_code why) {
    failure = why;
    done = true;
  };
  resolver.async_resolve(address.host, address.port, [&](auto why, auto found) {
    if (why) return ended(why);
    stream.async_connect(found, [&](auto why2, const auto&) {
      if (why2) return ended(why2);
      exchange.start(stream, ended);
    });
  });
  // All of it, however slowly it trickles.
  const auto until = std::chrono::steady_clock::now() + patience;
  constexpr std::chrono::milliseconds slice(50);
  while (!io.stopped() && std::chrono::steady_clock::now() < until) {
    io.run_until(std::min(until, std::chrono::steady_clock::now() + slice));
    if (!done && stopping && stopping())
      throw error(errc::shut_down, fmt::format("{} is not waited for", url));
  }
  if (!done || failure)
    throw error(errc::unreachable, fmt::format("{} does not answer: {}", url, failure.message()));
  return exchange.answer();
}

}  // namespace lockstep
