// The bytes are what a peer sends to a port of ours, after two that say how (fuzz/connection.hpp):
// a greeting, then frames of buckets or, on a control channel, whatever is passed on.
#include <sys/socket.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <chrono>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "fuzz/connection.hpp"
#include "fuzz/fuzz.hpp"
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

/// What a plain reading of all that a peer says comes to.
struct reading {
  errc verdict = errc::none;  ///< of the greeting
  bool silent = false;        ///< and it is not told
  greeting said;
  std::span<const std::byte> rest;  ///< what follows the greeting
};

template <class T>
T number_at(std::span<const std::byte> from, std::size_t at) {
  T out{};
  std::memcpy(&out, from.data() + at, sizeof out);
  return out;
}

reading read_greeting(std::span<const std::byte> all) {
  reading out;
  const auto refused = [&](errc why, bool silent) {
    out.verdict = why;
    out.silent = silent;
    return out;
  };
  if (all.size() < greeting_header_bytes) return refused(errc::dead, true);
  const auto length = greeting_frame_bytes(all.first<greeting_header_bytes>());
  if (const auto* why = std::get_if<failure>(&length))
    return refused(why->reason, why->reason == errc::bad_frame);
  const auto size = std::get<std::size_t>(length);
  if (size > all.size()) return refused(errc::dead, true);
  auto said = decode_greeting(all.first(size));
  if (const auto* why = std::get_if<failure>(&said))
    return refused(why->reason, why->reason != errc::wrong_version);
  out.said = std::get<greeting>(std::move(said));
  out.rest = all.subspan(size);
  if (out.said.cluster != fuzz::connection_cluster) return refused(errc::wrong_cluster, false);
  if (out.said.name == fuzz::unwanted_name) return refused(errc::fenced, false);
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

/// Whoever listens, in one thread.
struct listener : std::enable_shared_from_this<listener> {
  listener(std::shared_ptr<const security> with, bool hurries) : guard(std::move(with)) {
    options.self = fuzz::listener_greeting();
    if (!hurries) return;
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

  /// Reads what a control channel passes on.
  bool pass_on() {
    std::array<std::byte, 4096> room{};
    bool any = false;
    while (released >= 0) {
      const auto got = ::recv(released, room.data(), room.size(), MSG_DONTWAIT);
      if (got <= 0) {
        passed_all = passed_all || got == 0;
        break;
      }
      passed.insert(passed.end(), room.begin(), room.begin() + got);
      any = true;
    }
    return any;
  }

  bool over() const {
    return judged && (*judged != errc::none || closed || (released >= 0 && passed_all));
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
  bool passed_all = false;
};

/// Whoever speaks: bytes as they are, or under TLS with a key.
class peer {
 public:
  peer(int socket, const security* key) : socket_(socket) {
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
    const auto step = stream_->write_some(more, {});
    failed_ = step.status == io_status::failed;
    return failed_ ? more.size() : step.bytes;
  }

  /// Says that nothing follows, once it can say anything.
  void leave() {
    if (left_ || !(ready_ || failed_)) return;
    left_ = true;
    if (ready_ && !failed_ && stream_->flush().status == io_status::ok)
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

 private:
  int socket_;
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

/// What the peer was told is the verdict, and nothing else.
void check_answer(const bytes& heard, const reading& plain) {
  if (plain.silent) return fuzz::demand(heard.empty(), "who speaks something else hears nothing");
  fuzz::demand(heard.size() > greeting_header_bytes, "who is judged is told");
  const auto answer = decode_answer(heard);
  const auto* told = std::get_if<greeting_answer>(&answer);
  fuzz::demand(told != nullptr && told->verdict.reason == plain.verdict, "and what");
  fuzz::demand(told->self.cluster == fuzz::connection_cluster, "and by whom");
}

/// Of a peer that stayed: what its deadline ended has come to nothing, or to some of it.
void check_late(const listener& home, const reading& plain) {
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
  if (home.closed == errc::timeout)
    fuzz::demand(why != errc::dead || !rest.empty(), "idle between frames is no reason to close");
}

void check_end(const listener& home, const reading& plain) {
  fuzz::demand(home.judged == plain.verdict, "a greeting is judged for what it says");
  fuzz::demand(home.entered.has_value() == (plain.verdict == errc::none),
               "who is welcome enters, and nobody else");
  if (!home.entered) return;
  fuzz::demand(*home.entered == plain.said, "a peer is who it said");
  if (home.released >= 0)
    return fuzz::demand(std::ranges::equal(home.passed, plain.rest),
                        "what follows a greeting is passed on as it is");
  auto rest = plain.rest;
  errc why = errc::none;
  fuzz::demand(home.delivered == read_frames(rest, why),
               "what was sent is delivered, and nothing else");
  fuzz::demand(home.closed == why, "a channel ends for what came last");
}

void talk(const keys& known, std::span<const std::byte> input, fuzz::peer_kind kind, bool stays,
          std::size_t chunk) {
  using fuzz::peer_kind;
  std::array<int, 2> ends{};
  fuzz::demand(
      ::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends.data()) == 0,
      "two sockets");
  asio::io_context io{1};
  peer other(ends[0], kind == peer_kind::knows     ? known.right.get()
                      : kind == peer_kind::guesses ? known.wrong.get()
                                                   : nullptr);
  const auto home =
      std::make_shared<listener>(kind == peer_kind::clear ? known.clear : known.right, stays);
  asio::ip::tcp::socket socket(io);
  socket.assign(asio::ip::tcp::v4(), ends[1]);
  std::make_shared<arrival<listener>>(home, std::move(socket), "peer")->run();
  auto left = input;
  const auto begun = std::chrono::steady_clock::now();
  const auto waited = [&] { return std::chrono::steady_clock::now() - begun; };
  for (int round = 0; !home->over(); ++round) {
    left = left.subspan(other.say(left.first(std::min(left.size(), chunk))));
    // Of a control channel nobody keeps the time here.
    if (left.empty() && (!stays || home->released >= 0)) other.leave();
    if (left.empty() && home->open && stays && waited() > 5 * deadline) home->open->close();
    io.restart();
    io.poll();
    home->pass_on();
    other.hear();
    fuzz::demand(round < rounds_max || waited() < patience,
                 "a connection ends with what comes over it, or by its deadline");
  }
  other.hear();
  home->open.reset();
  if (kind == peer_kind::stranger || kind == peer_kind::guesses) {
    fuzz::demand(*home->judged != errc::none && !home->entered, "nobody enters without the key");
    return;
  }
  const auto plain = read_greeting(input);
  if (stays && (home->judged == errc::timeout || home->closed)) return check_late(*home, plain);
  check_end(*home, plain);
  check_answer(other.heard(), plain);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto input = fuzz::input_of(data, size);
  if (input.size() < fuzz::connection_head_bytes) return 0;
  const auto how = std::to_integer<unsigned>(input[0]);
  const auto chunk = std::to_integer<std::size_t>(input[1]);
  const auto kind = static_cast<fuzz::peer_kind>(how % fuzz::peer_kinds);
  static const keys known;
  const bool tls = kind != fuzz::peer_kind::clear;
  const fuzz::held_bytes bound(8 * size + (tls ? 1 << 20 : 96 << 10));
  talk(known, input.subspan(fuzz::connection_head_bytes), kind,
       (how & fuzz::peer_stays) == fuzz::peer_stays, chunk == 0 ? size : chunk);
  return 0;
}
