// The bytes are what a peer sends to a port of ours, after two that say how (fuzz/connection.hpp):
// a greeting, then frames of buckets or, on a control channel, whatever is passed on, which comes
// back as it is.
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <cerrno>
#include <chrono>
#include <memory>
#include <optional>
#include <utility>
#include <variant>
#include <vector>

#include "fuzz/connection.hpp"
#include "fuzz/fuzz.hpp"
#include "fuzz/peer.hpp"
#include "fuzz/plain_frames.hpp"
#include "fuzz/plain_greeting.hpp"
#include "messages/errors.hpp"
#include "transport/acceptor.hpp"
#include "transport/arrival.hpp"

namespace {

using namespace lockstep;
namespace asio = boost::asio;
using bytes = std::vector<std::byte>;

/// Of who listens, so that not all that is said fits in what the system keeps of it.
constexpr int little_bytes = 4'608;
/// Bytes after which others have their turn.
constexpr std::size_t turn_bytes = 1'024;
/// More than any input needs: whoever comes here goes in circles.
constexpr int rounds_max = 100'000;
/// Of who stays; others end with what they say, and are given the usual time.
constexpr std::chrono::milliseconds deadline{4};
/// Nobody may take longer than the deadline, and this.
constexpr std::chrono::milliseconds patience{1'500};

/// How a peer behaves.
struct manner {
  fuzz::peer_kind kind;
  bool stays;
  bool breaks;
  bool deaf;
  std::size_t chunk;  ///< bytes that come at a time
};

/// Whoever listens, in one thread.
struct listener : std::enable_shared_from_this<listener> {
  listener(std::shared_ptr<const security> with, const manner& how) : guard(std::move(with)) {
    options.self = fuzz::listener_greeting();
    options.channels.turn_bytes = turn_bytes;
    if (how.deaf) options.channels.write_deadline = deadline;
    if (!how.stays) return;
    options.handshake_deadline = deadline;
    options.channels.frame_deadline = deadline;
    options.channels.frame_bytes_per_s = 1 << 30;
  }
  listener(const listener&) = delete;
  listener& operator=(const listener&) = delete;
  ~listener() {
    if (released >= 0) ::close(released);
  }

  failure admit(const greeting& who, const std::string& address) const {
    fuzz::demand(address == "peer", "an address is passed on");
    if (who.name == fuzz::unwanted_name) return {errc::fenced, "not wanted"};
    return {};
  }

  void ended(const arrival<listener>*, const failure& why, bool not_admitted, const std::string&) {
    fuzz::demand(!judged, "an arrival ends once");
    judged = why.reason;
    if (why) fuzz::demand_message(why.detail);
    fuzz::demand(not_admitted == (why.reason == errc::fenced), "who is not admitted is counted");
  }

  void on_channel(std::shared_ptr<channel> c) {
    fuzz::demand(judged == errc::none && !entered, "who is welcome enters once");
    entered = c->peer();
    if (entered->purpose == channel_purpose::control) {
      released = c->release();
      if (entered->name == fuzz::brief_name) hang_up();
      return;
    }
    open = c;
    c->start(
        [this](bucket_msg b, std::uint64_t shipment) {
          fuzz::demand(!closed, "nothing comes after the end");
          fuzz::demand(b.bytes.size() <= fuzz::connection_payload_max, "a payload within limits");
          // A copy, so that its room is there for the next one.
          const auto* const from = b.bytes.data();
          delivered.push_back(
              {{b.env, b.index, payload(bytes(from, from + b.bytes.size()))}, shipment});
        },
        [this](const failure& why) {
          fuzz::demand(!closed, "a channel ends once");
          fuzz::demand_message(why.detail);
          closed = why.reason;
        });
  }

  /// Reads what a control channel passes on, and says it again.
  void pass_on() {
    std::array<std::byte, 4096> room{};
    while (released >= 0 && !passed_all) {
      const auto got = ::recv(released, room.data(), room.size(), MSG_DONTWAIT);
      if (got < 0 && errno == EAGAIN) break;
      passed_all = got <= 0;
      if (got > 0) passed.insert(passed.end(), room.begin(), room.begin() + got);
    }
    while (released >= 0 && !said_all) {
      const auto rest = std::span(passed).subspan(said);
      const auto sent = ::send(released, rest.data(), rest.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
      if (sent < 0 && errno == EAGAIN) break;
      if (sent > 0) said += static_cast<std::size_t>(sent);
      if (sent >= 0 && said < passed.size()) continue;
      said_all = sent < 0 || passed_all;
      if (said_all) ::shutdown(released, SHUT_WR);
      break;
    }
  }

  /// As an engine that ends.
  void hang_up() {
    ::close(std::exchange(released, -1));
    passed_all = said_all = true;
  }

  bool is_control() const { return entered && entered->purpose == channel_purpose::control; }

  bool over() const {
    return judged && (*judged != errc::none || closed || (passed_all && said_all));
  }

  const std::shared_ptr<const security> guard;
  acceptor_options options;
  std::optional<errc> judged;
  std::optional<greeting> entered;
  std::shared_ptr<channel> open;
  int released = -1;
  std::vector<fuzz::delivery> delivered;
  std::optional<errc> closed;
  bytes passed;
  std::size_t said = 0;  ///< of `passed`, and taken
  bool passed_all = false;
  bool said_all = false;
};

/// What the peer was told is the verdict, and nothing else but `echo`, or some of it.
void check_answer(std::span<const std::byte> heard, const fuzz::reading& plain,
                  std::span<const std::byte> echo, bool whole) {
  if (plain.silent) return fuzz::demand(heard.empty(), "who speaks something else hears nothing");
  fuzz::demand(heard.size() > greeting_header_bytes, "who is judged is told");
  const auto length = answer_frame_bytes(heard.first<greeting_header_bytes>());
  const auto size = std::min(heard.size(), std::get<std::size_t>(length));
  const auto again = heard.subspan(size);
  fuzz::demand(again.size() <= echo.size() && (!whole || again.size() == echo.size()) &&
                   std::ranges::equal(again, echo.first(again.size())),
               "what the listener says is heard, and nothing else");
  const auto answer = decode_answer(heard.first(size));
  const auto* told = std::get_if<greeting_answer>(&answer);
  fuzz::demand(told != nullptr && told->verdict.reason == plain.verdict, "and what");
  fuzz::demand(told->self.cluster == fuzz::connection_cluster, "and by whom");
}

/// Of a peer that stayed: what its deadline ended has come to nothing, or to some of it.
void check_late(const listener& home, const fuzz::reading& plain) {
  if (home.judged == errc::timeout)
    return fuzz::demand(!home.entered, "who is late does not enter");
  auto rest = plain.rest;
  errc why = errc::none;
  const auto frames = fuzz::read_frames(rest, why);
  fuzz::demand(home.delivered.size() <= frames.size() &&
                   std::equal(home.delivered.begin(), home.delivered.end(), frames.begin()),
               "what was delivered was sent");
  if (home.closed == errc::detached)
    fuzz::demand(why == errc::dead && home.delivered == frames, "a channel that waits is closed");
  // A frame may also have been whole too late, on a busy machine.
  if (home.closed == errc::timeout && home.delivered == frames)
    fuzz::demand(why != errc::dead || !rest.empty(), "idle between frames is no reason to close");
}

void check_end(const listener& home, const fuzz::reading& plain, bool whole) {
  fuzz::demand(home.judged == plain.verdict, "a greeting is judged for what it says");
  fuzz::demand(home.entered.has_value() == (plain.verdict == errc::none),
               "who is welcome enters, and nobody else");
  if (!home.entered) return;
  fuzz::demand(*home.entered == plain.said, "a peer is who it said");
  if (home.is_control())
    return fuzz::demand(home.passed.size() <= plain.rest.size() &&
                            (!whole || home.passed.size() == plain.rest.size()) &&
                            std::ranges::equal(home.passed, plain.rest.first(home.passed.size())),
                        "what follows a greeting is passed on as it is");
  auto rest = plain.rest;
  errc why = errc::none;
  fuzz::demand(home.delivered == fuzz::read_frames(rest, why),
               "what was sent is delivered, and nothing else");
  fuzz::demand(home.closed == why, "a channel ends for what came last");
}

/// Of a peer that broke TLS after its greeting.
void check_broken(const listener& home) {
  fuzz::demand(home.judged == errc::none && home.entered, "what was said before that counts");
  fuzz::demand(home.passed.empty() && home.delivered.empty(), "and nothing after it");
  fuzz::demand(home.is_control() || home.closed == errc::untrusted || home.closed == errc::dead,
               "a channel ends for it");
}

void talk(const fuzz::keys& known, std::span<const std::byte> input, const manner& how) {
  using fuzz::peer_kind;
  const auto plain = fuzz::read_greeting(input);
  const bool breaks = how.breaks && how.kind == peer_kind::knows && plain.verdict == errc::none;
  std::array<int, 2> ends{};
  fuzz::demand(
      ::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends.data()) == 0,
      "two sockets");
  ::setsockopt(ends[1], SOL_SOCKET, SO_SNDBUF, &little_bytes, sizeof little_bytes);
  asio::io_context io{1};
  const auto* key = how.kind == peer_kind::knows     ? known.right.get()
                    : how.kind == peer_kind::guesses ? known.wrong.get()
                                                     : nullptr;
  fuzz::peer other(
      ends[0], key != nullptr ? key->internals().wrap(ends[0], false) : make_clear_stream(ends[0]),
      breaks ? input.size() - plain.rest.size() : SIZE_MAX);
  const auto home =
      std::make_shared<listener>(how.kind == peer_kind::clear ? known.clear : known.right, how);
  asio::ip::tcp::socket socket(io);
  socket.assign(asio::ip::tcp::v4(), ends[1]);
  std::make_shared<arrival<listener>>(home, std::move(socket), "peer")->run();
  auto left = input;
  const auto begun = std::chrono::steady_clock::now();
  const auto waited = [&] { return std::chrono::steady_clock::now() - begun; };
  int settled = 0;  // rounds since all was said
  for (int round = 0; !home->over() || (home->is_control() && !other.ended()); ++round) {
    left = left.subspan(other.say(left.first(std::min(left.size(), how.chunk))));
    // Of a control channel nobody keeps the time here.
    if (left.empty() && (!how.stays || home->is_control())) other.leave();
    // On a busy machine the time may be over before what was said last has been looked at.
    settled = left.empty() ? settled + 1 : 0;
    if (settled > 2 && home->open && how.stays && waited() > 5 * deadline) home->open->close();
    io.restart();
    io.poll();
    home->pass_on();
    if (!how.deaf || home->over() || waited() > 5 * deadline) other.hear();
    fuzz::demand(round < rounds_max || waited() < patience,
                 "a connection ends with what comes over it, or by its deadline");
  }
  other.hear();
  home->open.reset();
  if (how.kind == peer_kind::stranger || how.kind == peer_kind::guesses) {
    fuzz::demand(*home->judged != errc::none && !home->entered, "nobody enters without the key");
    return;
  }
  if (how.stays && (home->judged == errc::timeout || home->closed)) return check_late(*home, plain);
  // A relay gives up who does not listen.
  const bool brief = home->entered && home->entered->name == fuzz::brief_name;
  const bool whole = !brief && !breaks && !(how.deaf && how.kind == peer_kind::knows);
  if (breaks)
    check_broken(*home);
  else
    check_end(*home, plain, whole);
  check_answer(other.heard(), plain, home->passed, whole);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto input = fuzz::input_of(data, size);
  if (input.size() < fuzz::connection_head_bytes) return 0;
  const auto how = std::to_integer<unsigned>(input[0]);
  const auto has = [how](unsigned bits) { return (how & bits) == bits; };
  const auto chunk = std::to_integer<std::size_t>(input[1]);
  const manner as{static_cast<fuzz::peer_kind>(how % fuzz::peer_kinds), has(fuzz::peer_stays),
                  has(fuzz::peer_breaks), has(fuzz::peer_deaf), chunk == 0 ? size : chunk};
  static const fuzz::keys known;
  const bool tls = as.kind != fuzz::peer_kind::clear;
  const fuzz::held_bytes bound(8 * size + (tls ? 1 << 20 : 96 << 10));
  talk(known, input.subspan(fuzz::connection_head_bytes), as);
  return 0;
}
