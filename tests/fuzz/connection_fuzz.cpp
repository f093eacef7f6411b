// The bytes are what a peer sends to a port of ours, after two that say how (fuzz/connection.hpp):
// a greeting, then frames of buckets or, on a control channel, whatever is passed on, which comes
// back as it is.
#include <sys/socket.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "fuzz/connection.hpp"
#include "fuzz/fuzz.hpp"
#include "fuzz/plain_greeting.hpp"
#include "fuzz/scratch.hpp"
#include "messages/errors.hpp"
#include "transport/acceptor.hpp"
#include "transport/arrival.hpp"
#include "transport/bulk_frame.hpp"
#include "transport/security_impl.hpp"

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

/// A bucket as it came, or must come.
struct delivery {
  bucket_msg bucket;
  std::uint64_t shipment = 0;

  bool operator==(const delivery&) const = default;
};

template <class T>
T number_at(std::span<const std::byte> from, std::size_t at) {
  T out{};
  std::memcpy(&out, from.data() + at, sizeof out);
  return out;
}

/// The frames at the front of `rest`, which are taken from it, and why there are no more.
std::vector<delivery> read_frames(std::span<const std::byte>& rest, errc& why) {
  constexpr std::size_t checked = bulk_header_bytes - 8;
  std::vector<delivery> out;
  for (;;) {
    why = errc::dead;
    if (rest.size() < bulk_header_bytes) return out;
    why = errc::bad_frame;
    if (std::memcmp(rest.data(), "LKB", 3) != 0) return out;
    why = errc::wrong_version;
    if (rest[3] != std::byte{1}) return out;
    why = errc::bad_checksum;
    if (number_at<std::uint64_t>(rest, checked) != XXH3_64bits(rest.data(), checked)) return out;
    const auto size = number_at<std::uint64_t>(rest, 8);
    why = errc::bad_manifest;
    if (size > fuzz::connection_payload_max) return out;
    why = errc::dead;
    if (size > rest.size() - bulk_header_bytes) return out;
    const auto body = rest.subspan(bulk_header_bytes, size);
    const auto u64 = [&](std::size_t at) { return number_at<std::uint64_t>(rest, at); };
    out.push_back({{{u64(16), {u64(24), u64(32)}, {u64(40), u64(48)}},
                    number_at<std::uint32_t>(rest, 4),
                    payload(bytes(body.begin(), body.end()))},
                   u64(56)});
    rest = rest.subspan(bulk_header_bytes + size);
  }
}

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
  std::vector<delivery> delivered;
  std::optional<errc> closed;
  bytes passed;
  std::size_t said = 0;  ///< of `passed`, and taken
  bool passed_all = false;
  bool said_all = false;
};

/// Whoever speaks: bytes as they are, or under TLS with a key, and all after `broken` of them past
/// it.
class peer {
 public:
  peer(int socket, const security* key, std::size_t broken) : socket_(socket), broken_(broken) {
    if (key != nullptr)
      stream_ = key->internals().wrap(socket_, false);
    else
      stream_ = make_clear_stream(socket_);
  }
  peer(const peer&) = delete;
  peer& operator=(const peer&) = delete;
  ~peer() { ::close(socket_); }

  /// Sends some of `more`, which comes after what was sent; returns how much was taken.
  std::size_t say(std::span<const std::byte> more) {
    if (failed_) return more.size();  // to nobody
    if (!ready_) {
      const auto step = stream_->handshake();
      failed_ = step.status == io_status::failed || step.status == io_status::end;
      ready_ = step.status == io_status::ok;
    }
    if (!ready_ || more.empty()) return 0;
    if (said_ == broken_) return say_past_tls(more);
    const auto step = stream_->write_some(more.first(std::min(more.size(), broken_ - said_)), {});
    failed_ = step.status == io_status::failed;
    said_ += step.bytes;
    return failed_ ? more.size() : step.bytes;
  }

  /// Says that nothing follows, once it can say anything.
  void leave() {
    if (left_ || !(ready_ || failed_)) return;
    left_ = true;
    if (ready_ && !failed_ && said_ != broken_ && stream_->flush().status == io_status::ok)
      stream_->finish_writes();
    else
      ::shutdown(socket_, SHUT_WR);
  }

  void hear() {
    std::array<std::byte, 4096> room{};
    while (ready_ && !ended_) {
      const auto step = stream_->read_some(room);
      if (step.status == io_status::end || step.status == io_status::failed) ended_ = true;
      if (step.status != io_status::ok) break;
      heard_.insert(heard_.end(), room.begin(),
                    room.begin() + static_cast<std::ptrdiff_t>(step.bytes));
    }
    // Who is parted from leaves.
    if (ended_ || failed_) leave();
  }

  const bytes& heard() const noexcept { return heard_; }
  bool ended() const noexcept { return ended_; }

 private:
  std::size_t say_past_tls(std::span<const std::byte> more) {
    if (stream_->flush().status != io_status::ok) return 0;
    const auto sent = ::send(socket_, more.data(), more.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent >= 0) return static_cast<std::size_t>(sent);
    failed_ = errno != EAGAIN;
    return failed_ ? more.size() : 0;
  }

  int socket_;
  std::size_t broken_;
  std::size_t said_ = 0;
  std::unique_ptr<byte_stream> stream_;
  bool ready_ = false;
  bool failed_ = false;
  bool ended_ = false;
  bool left_ = false;
  bytes heard_;
};

struct keys {
  keys() {
    const std::string fives(64, '5');
    const std::string sixes(64, '6');
    files.put("key", std::as_bytes(std::span(fives)));
    files.put("other", std::as_bytes(std::span(sixes)));
    security_options with;
    clear = std::make_shared<const security>(with);
    with.shared_key_file = files.path() / "key";
    right = std::make_shared<const security>(with);
    with.shared_key_file = files.path() / "other";
    wrong = std::make_shared<const security>(with);
  }

  fuzz::scratch files;
  std::shared_ptr<const security> clear;
  std::shared_ptr<const security> right;
  std::shared_ptr<const security> wrong;
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
  const auto frames = read_frames(rest, why);
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
  fuzz::demand(home.delivered == read_frames(rest, why),
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

void talk(const keys& known, std::span<const std::byte> input, const manner& how) {
  using fuzz::peer_kind;
  const auto plain = fuzz::read_greeting(input);
  const bool breaks = how.breaks && how.kind == peer_kind::knows && plain.verdict == errc::none;
  std::array<int, 2> ends{};
  fuzz::demand(
      ::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends.data()) == 0,
      "two sockets");
  ::setsockopt(ends[1], SOL_SOCKET, SO_SNDBUF, &little_bytes, sizeof little_bytes);
  asio::io_context io{1};
  peer other(ends[0],
             how.kind == peer_kind::knows     ? known.right.get()
             : how.kind == peer_kind::guesses ? known.wrong.get()
                                              : nullptr,
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
  static const keys known;
  const bool tls = as.kind != fuzz::peer_kind::clear;
  const fuzz::held_bytes bound(8 * size + (tls ? 1 << 20 : 96 << 10));
  talk(known, input.subspan(fuzz::connection_head_bytes), as);
  return 0;
}
