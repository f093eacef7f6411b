#include "transport/http.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/thread_pool.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <charconv>
#include <thread>
#include <utility>

#include "messages/errors.hpp"

namespace lockstep {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using asio::ip::tcp;

namespace {

using raw_request = http::request<http::string_body>;
using raw_response = http::response<http::string_body>;

constexpr std::size_t answer_bytes_max = 1 << 20;

std::string text_of(beast::string_view text) {
  return {text.data(), text.size()};
}

http_response refusal(unsigned status, const char* why) {
  return {status, fmt::format(R"({{"success": false, "message": "{}"}})", why)};
}

}  // namespace

struct http_server::state {
  state(quick_handler q, slow_handler s, http_limits l)
      : quick(std::move(q)), slow(std::move(s)), limits(l) {}

  void accept();

  quick_handler quick;
  slow_handler slow;
  http_limits limits;
  // Before `io`, whose end takes the last connections with it.
  std::size_t connections = 0;  // on the io thread alone, like all that is not slow
  std::atomic<std::size_t> waiting = 0;
  std::atomic<bool> ending = false;
  asio::io_context io{1};
  tcp::acceptor acceptor{io};
  asio::thread_pool worker{1};
  std::thread thread;
};

namespace {

// One connection: reads a request, has it answered, writes that, and again.
template <class State>
class session : public std::enable_shared_from_this<session<State>> {
 public:
  session(State& server, tcp::socket socket) : server_(server), stream_(std::move(socket)) {
    ++server_.connections;
  }
  ~session() { --server_.connections; }

  void read() {
    parser_.emplace();
    parser_->header_limit(static_cast<std::uint32_t>(server_.limits.header_bytes_max));
    parser_->body_limit(server_.limits.body_bytes_max);
    stream_.expires_after(server_.limits.patience);
    http::async_read(stream_, buffer_, *parser_,
                     [self = this->shared_from_this()](beast::error_code failure, std::size_t) {
                       self->take(failure);
                     });
  }

 private:
  void take(beast::error_code failure) {
    if (failure == http::error::body_limit) return write(refusal(413, "too long"), false);
    if (failure == http::error::header_limit) return write(refusal(431, "too long"), false);
    if (failure) return;  // gone, too slow, or no HTTP
    const auto& raw = parser_->get();
    keep_ = raw.keep_alive();
    const auto request = std::make_shared<http_request>(
        http_request{text_of(raw.method_string()), text_of(raw.target()), raw.body()});
    if (auto answer = guarded([&] { return server_.quick(*request); }))
      return write(*answer, keep_);
    if (server_.waiting >= server_.limits.waiting_max) return write(refusal(503, "busy"), false);
    ++server_.waiting;
    stream_.expires_never();
    asio::post(server_.worker, [self = this->shared_from_this(), request] {
      auto& server = self->server_;
      const auto answer = server.ending
                              ? std::optional(refusal(503, "ending"))
                              : self->guarded([&] { return std::optional(server.slow(*request)); });
      --server.waiting;
      asio::post(server.io, [self, answer] { self->write(*answer, self->keep_); });
    });
  }

  template <class Work>
  std::optional<http_response> guarded(Work work) {
    try {
      return work();
    } catch (const std::exception&) {  // its text may hold anything
      return refusal(500, "failed");
    }
  }

  void write(const http_response& answer, bool keep) {
    response_ = raw_response(static_cast<http::status>(answer.status), 11);
    response_.set(http::field::content_type, "application/json");
    response_.keep_alive(keep);
    response_.body() = answer.body;
    response_.prepare_payload();
    stream_.expires_after(server_.limits.patience);
    http::async_write(
        stream_, response_,
        [self = this->shared_from_this(), keep](beast::error_code failure, std::size_t) {
          if (!failure && keep) return self->read();
          beast::error_code ignored;
          self->stream_.socket().shutdown(tcp::socket::shutdown_send, ignored);
        });
  }

  State& server_;
  beast::tcp_stream stream_;
  beast::flat_buffer buffer_{std::size_t{256} << 10};
  std::optional<http::request_parser<http::string_body>> parser_;
  raw_response response_;
  bool keep_ = false;
};

}  // namespace

void http_server::state::accept() {
  acceptor.async_accept([this](beast::error_code failure, tcp::socket socket) {
    if (failure == asio::error::operation_aborted) return;
    if (!failure && connections < limits.connections_max)
      std::make_shared<session<state>>(*this, std::move(socket))->read();
    accept();
  });
}

http_server::http_server(const std::string& host, std::uint16_t port, quick_handler quick,
                         slow_handler slow, http_limits limits)
    : state_(std::make_unique<state>(std::move(quick), std::move(slow), limits)) {
  try {
    const tcp::endpoint at(asio::ip::make_address(host), port);
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

http_address parse_http_address(const std::string& base) {
  constexpr std::string_view scheme = "http://";
  constexpr std::string_view name_letters =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_";
  constexpr std::string_view ipv6_letters = "0123456789abcdefABCDEF:.";
  const auto refused = [&] {
    return error(errc::bad_setting, fmt::format("'{}' is not http://HOST:PORT", base));
  };
  const auto colon = base.rfind(':');
  if (!base.starts_with(scheme) || colon <= scheme.size()) throw refused();
  http_address out{base.substr(scheme.size(), colon - scheme.size()), base.substr(colon + 1)};
  const bool bracketed = out.host.size() > 2 && out.host.front() == '[' && out.host.back() == ']';
  if (bracketed) out.host = out.host.substr(1, out.host.size() - 2);
  const auto letters = bracketed ? ipv6_letters : name_letters;
  if (out.host.find_first_not_of(letters) != std::string::npos) throw refused();
  std::uint16_t port = 0;
  const auto* end = out.port.data() + out.port.size();
  const auto [rest, problem] = std::from_chars(out.port.data(), end, port);
  if (problem != std::errc() || rest != end || port == 0) throw refused();
  return out;
}

http_response http_call(const std::string& base, const http_request& what,
                        std::chrono::milliseconds patience, const std::function<bool()>& stopping) {
  const auto address = parse_http_address(base);
  asio::io_context io;
  beast::tcp_stream stream(io);
  tcp::resolver resolver(io);
  raw_request request(http::string_to_verb(what.method), what.path, 11);
  request.set(http::field::host, base.substr(base.rfind('/') + 1));
  request.set(http::field::content_type, "application/json");
  request.body() = what.body;
  request.prepare_payload();
  http::response_parser<http::string_body> parser;
  parser.body_limit(answer_bytes_max);
  beast::flat_buffer buffer;
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
      http::async_write(stream, request, [&](auto why3, std::size_t) {
        if (why3) return ended(why3);
        http::async_read(stream, buffer, parser, [&](auto why4, std::size_t) { ended(why4); });
      });
    });
  });
  // All of it, however slowly it trickles.
  const auto until = std::chrono::steady_clock::now() + patience;
  constexpr std::chrono::milliseconds slice(50);
  while (!io.stopped() && std::chrono::steady_clock::now() < until) {
    io.run_until(std::min(until, std::chrono::steady_clock::now() + slice));
    if (!done && stopping && stopping())
      throw error(errc::shut_down, fmt::format("{}{} is not waited for", base, what.path));
  }
  if (!done || failure)
    throw error(errc::unreachable,
                fmt::format("{}{} does not answer: {}", base, what.path, failure.message()));
  return {parser.get().result_int(), parser.get().body()};
}

}  // namespace lockstep
