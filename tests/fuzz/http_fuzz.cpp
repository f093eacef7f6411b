// The bytes are what comes over a connection of HTTP: to a server, and to whoever waits for an
// answer; and where that one is to be found.
#include <algorithm>
#include <boost/asio/io_context.hpp>
#include <boost/asio/local/connect_pair.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <cctype>
#include <charconv>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "fuzz/fuzz.hpp"
#include "fuzz/refusal.hpp"
#include "messages/errors.hpp"
#include "transport/http.hpp"
#include "transport/http_address.hpp"
#include "transport/http_session.hpp"

namespace {

using namespace lockstep;
using local = asio::local::stream_protocol;

/// More than any input needs: whoever comes here goes in circles.
constexpr int rounds_max = 100'000;

/// The other end of a connection: has sent `input` and says nothing more.
class peer {
 public:
  peer(asio::io_context& io, std::string_view input) : own_(io), other_(io) {
    asio::local::connect_pair(own_, other_);
    demand_written(asio::write(own_, asio::buffer(input)) == input.size());
    own_.shutdown(local::socket::shutdown_send);
    own_.non_blocking(true);
  }

  local::socket take_other() { return std::move(other_); }

  void hear() {
    beast::error_code nothing;
    while (!nothing) {
      const auto n = own_.read_some(asio::buffer(room_), nothing);
      heard_.append(room_.data(), n);
    }
  }
  const std::string& heard() const { return heard_; }

 private:
  static void demand_written(bool all) { fuzz::demand(all, "an input fits into a socket"); }

  local::socket own_;
  local::socket other_;
  std::array<char, 4096> room_{};
  std::string heard_;
};

/// What http_session asks of a server, in one thread. The limits are low, so that they are reached.
struct server {
  explicit server(std::string_view sent) : input(sent) {
    limits.header_bytes_max = 512;
    limits.body_bytes_max = 1024;
    limits.waiting_max = 1;
  }

  std::optional<http_response> quick(const http_request& r) {
    ++handled;
    heads.push_back(r.method == "HEAD");
    fuzz::demand(!r.method.empty() && input.find(r.method) != input.npos, "the method was sent");
    fuzz::demand(!r.path.empty() && input.find(r.path) != input.npos, "the path was sent");
    fuzz::demand(r.method.size() + r.path.size() <= limits.header_bytes_max, "a bounded header");
    fuzz::demand(r.body.size() <= limits.body_bytes_max, "a bounded body");
    if (r.path == "/fails") throw std::runtime_error("two\nlines");
    if (r.path == "/quick") return http_response{200, "{}"};
    return std::nullopt;
  }
  http_response slow(const http_request& r) {
    if (r.path == "/fails-slowly") throw std::runtime_error("\"");
    return {400, r.body};
  }

  std::string_view input;
  http_limits limits;
  std::size_t handled = 0;
  std::vector<bool> heads;
  std::multiset<std::string> sources;
  std::size_t waiting = 0;
  bool ending = false;
  asio::io_context io{1};
  asio::io_context worker{1};
};

std::size_t run(asio::io_context& io) {
  io.restart();
  return io.poll();
}

/// How many whole answers `text` is, and nothing else. `heads`: which of them have no body.
std::size_t answers_in(std::string_view text, const std::vector<bool>& heads) {
  std::size_t count = 0;
  for (; !text.empty(); ++count) {
    constexpr std::string_view length_is = "Content-Length: ";
    const auto head = text.substr(0, text.find("\r\n\r\n"));
    const auto at = head.find(length_is);
    fuzz::demand(head.starts_with("HTTP/1.1 ") && head.size() < text.size() && at != head.npos,
                 "an answer begins like one");
    std::size_t length = 0;
    std::from_chars(head.data() + at + length_is.size(), head.data() + head.size(), length);
    text.remove_prefix(head.size() + 4);
    if (count < heads.size() && heads[count]) length = 0;
    fuzz::demand(length <= text.size(), "an answer is whole");
    text.remove_prefix(length);
  }
  return count;
}

void serve(std::string_view input) {
  server s(input);
  peer client(s.io, input);
  std::make_shared<http_session<server, local>>(s, client.take_other(), "")->read();
  for (int round = 0; !s.sources.empty(); ++round) {
    run(s.io);
    run(s.worker);
    client.hear();
    fuzz::demand(round < rounds_max, "a connection ends with what comes over it");
  }
  client.hear();
  fuzz::demand(s.waiting == 0, "nobody is waited for");
  const auto answers = answers_in(client.heard(), s.heads);
  fuzz::demand(answers == s.handled || answers == s.handled + 1,
               "every request has its answer, and the last may be refused unread");
}

void ask(std::string_view input) {
  asio::io_context io{1};
  peer other(io, input);
  beast::basic_stream<local> stream(other.take_other());
  http_exchange exchange({"POST", "/path", "{}"}, "host");
  std::optional<beast::error_code> ended;
  exchange.start(stream, [&](beast::error_code why) { ended = why; });
  for (int round = 0; !ended; ++round) {
    run(io);
    fuzz::demand(round < rounds_max, "an exchange ends with the connection");
  }
  if (*ended) return;
  const auto answer = exchange.answer();
  fuzz::demand(answer.status < 1000, "a status has three digits");
  fuzz::demand(answer.body.size() <= input.size(), "a body was sent");
}

void find(const std::string& input) {
  http_address out;
  if (!fuzz::accepted({errc::bad_setting}, [&] { out = parse_http_address(input); })) return;
  fuzz::demand(!out.host.empty() && input.find(out.host) != input.npos, "a host was named");
  fuzz::demand("http://" + out.authority == input || "http://" + out.authority + "/" == input,
               "what requests repeat is what was given");
  fuzz::demand(std::ranges::all_of(out.port, [](char c) { return c >= '0' && c <= '9'; }) &&
                   std::stoul(out.port) >= 1 && std::stoul(out.port) <= 65'535,
               "a port is a number");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string input(reinterpret_cast<const char*>(data), size);
  // Answers are many and short: each request of 18 bytes is answered with a hundred.
  const fuzz::held_bytes bound(16 * size + (512 << 10));
  serve(input);
  ask(input);
  find(input);
  return 0;
}
