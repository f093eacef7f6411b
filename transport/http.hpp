// Decides how a few requests of HTTP/1.1 are answered and made: small, bounded, each with a
// deadline.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

namespace lockstep {

struct http_request {
  std::string method;  ///< "GET", "POST", …
  std::string path;    ///< as it was sent, query included
  std::string body;
};

struct http_response {
  unsigned status = 200;
  std::string body;  ///< JSON
};

/// What strangers may cost.
struct http_limits {
  std::size_t connections_max = 64;
  /// Of those, how many may come from one address, or one /64 of IPv6, loopback included: nobody
  /// holds the places of all others.
  std::size_t connections_of_one_max = 32;
  std::size_t waiting_max = 16;  ///< requests that wait for the one under way
  std::size_t header_bytes_max = 16 << 10;
  std::size_t body_bytes_max = 64 << 10;
  /// To send a request's first lines, counted from the connection or the answer before.
  std::chrono::milliseconds header_patience{5'000};
  std::chrono::milliseconds patience{30'000};  ///< to send its body, or to take an answer
};

/// Answers requests on one address until it is destroyed. Whoever connects may ask: there is
/// neither TLS nor a password here.
class http_server {
 public:
  /// Answers at once, or leaves the request to `slow`. Called on one thread, must not wait.
  using quick_handler = std::function<std::optional<http_response>(const http_request&)>;
  /// Takes as long as it takes; one request at a time, in the order of arrival, on another thread.
  using slow_handler = std::function<http_response(const http_request&)>;

  /// Listens on `host`, an address or a name of this machine, and `port` (0: a free one). What a
  /// handler throws is answered with 500. Throws `error{bad_setting}`.
  http_server(const std::string& host, std::uint16_t port, quick_handler quick, slow_handler slow,
              http_limits limits = {});
  /// Waits for the slow request that is under way; those that wait for it are not answered.
  ~http_server();
  http_server(const http_server&) = delete;
  http_server& operator=(const http_server&) = delete;

  std::uint16_t port() const noexcept;

 private:
  struct state;
  std::unique_ptr<state> state_;
};

/// Asks `http://host:port/path` and returns what is answered, of at most a MiB. `stopping` (may be
/// empty) is asked now and then whether to give up. Throws `error{unreachable}` where there is no
/// answer within `patience`, `error{shut_down}`, `error{bad_setting}` on another kind of address.
http_response http_call(const std::string& base, const http_request& what,
                        std::chrono::milliseconds patience,
                        const std::function<bool()>& stopping = {});

}  // namespace lockstep
