// Decides what is read of a connection of HTTP/1.1 and what is said on it, whatever carries it.
// Private to transport/.
#pragma once

#include <algorithm>
#include <boost/asio/basic_stream_socket.hpp>
#include <boost/asio/post.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <cstdint>
#include <exception>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>

#include "transport/http.hpp"

namespace lockstep {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;

inline http_response http_refusal(unsigned status, const char* why) {
  return {status, R"({"success": false, "message": ")" + std::string(why) + R"("})"};
}

/// One connection of a server: reads a request, has it answered, writes that, and again. Lives as
/// long as something is under way. `Server` has `quick`, `slow`, `limits`, `sources`, `waiting`,
/// `ending`, `io` and `worker`, as http_server::state has them.
template <class Server, class Protocol>
class http_session : public std::enable_shared_from_this<http_session<Server, Protocol>> {
 public:
  /// `source`: whose connection it is.
  http_session(Server& server, asio::basic_stream_socket<Protocol> socket, std::string source)
      : server_(server),
        stream_(std::move(socket)),
        place_(server_.sources.insert(std::move(source))) {}
  ~http_session() { server_.sources.erase(place_); }

  void read() {
    parser_.emplace();
    head_ = false;
    parser_->header_limit(static_cast<std::uint32_t>(server_.limits.header_bytes_max));
    parser_->body_limit(server_.limits.body_bytes_max);
    stream_.expires_after(server_.limits.header_patience);
    http::async_read_header(
        stream_, buffer_, *parser_,
        [self = this->shared_from_this()](beast::error_code failure, std::size_t) {
          if (failure) return self->take(failure);
          self->read_body();
        });
  }

 private:
  void read_body() {
    stream_.expires_after(server_.limits.patience);
    http::async_read(stream_, buffer_, *parser_,
                     [self = this->shared_from_this()](beast::error_code failure, std::size_t) {
                       self->take(failure);
                     });
  }

  static std::string text_of(beast::string_view text) { return {text.data(), text.size()}; }

  void take(beast::error_code failure) {
    if (failure == http::error::body_limit) return write(http_refusal(413, "too long"), false);
    if (failure == http::error::header_limit) return write(http_refusal(431, "too long"), false);
    if (failure) return;  // gone, too slow, or no HTTP
    const auto& raw = parser_->get();
    keep_ = raw.keep_alive();
    head_ = raw.method() == http::verb::head;
    const auto request = std::make_shared<http_request>(
        http_request{text_of(raw.method_string()), text_of(raw.target()), raw.body()});
    if (auto answer = guarded([&] { return server_.quick(*request); }))
      return write(*answer, keep_);
    if (server_.waiting >= server_.limits.waiting_max)
      return write(http_refusal(503, "busy"), false);
    ++server_.waiting;
    stream_.expires_never();
    asio::post(server_.worker, [self = this->shared_from_this(), request] {
      auto& server = self->server_;
      const auto answer = server.ending
                              ? std::optional(http_refusal(503, "ending"))
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
      return http_refusal(500, "failed");
    }
  }

  void write(const http_response& answer, bool keep) {
    response_ = http::response<http::string_body>(static_cast<http::status>(answer.status), 11);
    response_.set(http::field::content_type, "application/json");
    response_.keep_alive(keep);
    response_.body() = answer.body;
    response_.prepare_payload();
    if (head_) response_.body().clear();  // what it would be long is said all the same
    stream_.expires_after(server_.limits.patience);
    http::async_write(
        stream_, response_,
        [self = this->shared_from_this(), keep](beast::error_code failure, std::size_t) {
          if (!failure && keep) return self->read();
          beast::error_code ignored;
          self->stream_.socket().shutdown(asio::socket_base::shutdown_send, ignored);
        });
  }

  Server& server_;
  beast::basic_stream<Protocol> stream_;
  std::multiset<std::string>::iterator place_;
  beast::flat_buffer buffer_{std::size_t{256} << 10};
  std::optional<http::request_parser<http::string_body>> parser_;
  http::response<http::string_body> response_;
  bool keep_ = false;
  bool head_ = false;  // the request wants no body
};

/// One request to a server, and its answer.
class http_exchange {
 public:
  /// `host`: what the header of that name says.
  http_exchange(const http_request& what, const std::string& host)
      : request_(http::string_to_verb(what.method), what.path, 11) {
    request_.set(http::field::host, host);
    request_.set(http::field::content_type, "application/json");
    request_.body() = what.body;
    request_.prepare_payload();
    parser_.body_limit(answer_bytes_max);
  }

  /// Calls `ended` with what went wrong, or with nothing once `answer` is there.
  template <class Stream, class Ended>
  void start(Stream& stream, Ended ended) {
    http::async_write(stream, request_, [this, &stream, ended](auto failure, std::size_t) {
      if (failure) return ended(failure);
      http::async_read_header(
          stream, buffer_, parser_, [this, &stream, ended](auto failure2, auto) {
            if (failure2) return ended(failure2);
            // The body makes room for what is promised before the parser looks at its limit.
            const auto promised = parser_.content_length();
            if (promised && *promised > answer_bytes_max)
              return ended(beast::error_code(http::error::body_limit));
            http::async_read(stream, buffer_, parser_,
                             [ended](auto failure3, std::size_t) { ended(failure3); });
          });
    });
  }

  http_response answer() const { return {parser_.get().result_int(), parser_.get().body()}; }

 private:
  /// An engine's answer is a line.
  static constexpr std::uint64_t answer_bytes_max = 256 << 10;

  http::request<http::string_body> request_;
  http::response_parser<http::string_body> parser_;
  beast::flat_buffer buffer_;
};

}  // namespace lockstep
