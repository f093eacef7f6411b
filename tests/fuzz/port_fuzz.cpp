// The bytes are whom a port of ours meets, one after the other: the first byte says whether it
// wants a key, and whether it is closed while some wait, or waits for none of them long; then of
// each peer come a byte that says whether it waits before it speaks and from which of two addresses
// it comes, two of how much it says, and that. Who waits speaks after all others, and takes up a
// place until then. What is held for them is counted in the port's one thread.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <variant>
#include <vector>

#include "fuzz/fuzz.hpp"
#include "fuzz/plain_greeting.hpp"
#include "fuzz/scratch.hpp"
#include "transport/acceptor.hpp"
#include "weights/system_call.hpp"

namespace {

using namespace lockstep;
using bytes = std::span<const std::byte>;

constexpr std::size_t peers_max = 8;
/// Who may be in the handshake at a time.
constexpr std::uint32_t places = 3;
/// And from one address.
constexpr std::uint32_t places_of_one = 2;
/// For what takes microseconds.
constexpr std::chrono::seconds patience{2};
/// Of a port that waits for nobody long.
constexpr std::chrono::milliseconds haste{10};

/// What the first byte says of the port.
constexpr unsigned port_keyed = 1;
constexpr unsigned port_closes = 2;
/// Nobody says more than what is not yet a greeting's length. These bits alone, and those of keys.
constexpr unsigned port_hasty = 4;
/// And a peer's first byte of it.
constexpr unsigned peer_waits = 1;
constexpr unsigned peer_elsewhere = 2;

/// What a port may hold for an input of `size` bytes: whoever is in the handshake and, in clear,
/// all who have entered.
constexpr std::size_t held_max(std::size_t size, bool keyed) {
  return 8 * size + (keyed ? 512 << 10 : 32 << 10);
}

/// A port, and who came through it.
class listener {
 public:
  explicit listener(security_options with,
                    std::chrono::milliseconds deadline = acceptor_options().handshake_deadline) {
    acceptor_options o;
    o.self = fuzz::listener_greeting();
    o.handshake_deadline = deadline;
    o.unauthenticated_max = places;
    o.unauthenticated_of_one_max = places_of_one;
    const auto admit = [](const greeting& who, const std::string& address) -> failure {
      fuzz::demand(address.starts_with("127.0.0.1:") || address.starts_with("127.0.0.2:"),
                   "an address is that of the peer");
      if (who.name == fuzz::unwanted_name) return {errc::fenced, "not wanted"};
      return {};
    };
    const auto take = [this](std::shared_ptr<channel> c) {
      const std::lock_guard lock(mutex_);
      entered_.push_back(std::move(c));
      changed_.notify_one();
    };
    const auto say = [](log_level, const std::string& line) { fuzz::demand_message(line); };
    port_ = std::make_unique<acceptor>(io_, std::make_shared<const security>(std::move(with)), o,
                                       admit, take, say);
  }

  /// From another address of this machine, if it says so.
  int dial(bool elsewhere) const {
    const int out = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    fuzz::demand(out >= 0, "a socket");
    const timeval limit{patience.count(), 0};
    ::setsockopt(out, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    const int later = 1;  // its port, which need not be free for all
    ::setsockopt(out, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &later, sizeof later);
    sockaddr_in own{};
    own.sin_family = AF_INET;
    own.sin_addr.s_addr = htonl(elsewhere ? INADDR_LOOPBACK + 1 : INADDR_LOOPBACK);
    fuzz::demand(::bind(out, reinterpret_cast<const sockaddr*>(&own), sizeof own) == 0,
                 "all of 127.0.0.0/8 is this machine");
    sockaddr_in where{};
    where.sin_family = AF_INET;
    where.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    where.sin_port = htons(port_->port());
    const auto reach = [&] {
      return ::connect(out, reinterpret_cast<const sockaddr*>(&where), sizeof where);
    };
    // What the search's clock interrupts goes on, and is done the next time.
    fuzz::demand(uninterrupted(reach) == 0 || errno == EISCONN,
                 "a port that listens can be reached");
    return out;
  }

  acceptor_counters counters() const { return port_->counters(); }
  void close() { port_->close(); }

  /// Who has entered since it was asked last, as soon as they are `count`.
  std::vector<std::shared_ptr<channel>> entered(std::size_t count) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, patience, [&] { return entered_.size() >= count; });
    return std::exchange(entered_, {});
  }

  /// Counts what its thread holds from here on; `counted` demands that it was never more than that.
  void count(std::size_t bound) {
    in_its_thread([&] { held_.emplace(bound); });
  }
  void counted() {
    in_its_thread([&] { held_.reset(); });
  }

 private:
  /// Returns when it is done, after all that was to be done before.
  void in_its_thread(const std::function<void()>& task) {
    const auto done = std::make_shared<std::promise<void>>();
    io_.post([&task, done] {
      task();
      done->set_value();
    });
    done->get_future().wait();
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::shared_ptr<channel>> entered_;
  std::optional<fuzz::held_bytes> held_;  // of that thread, and of no other
  io_threads io_{1};                      // ends before what its callbacks use
  std::unique_ptr<acceptor> port_;
};

/// What is to be of all who came.
struct outcome {
  acceptor_counters counters;
  std::vector<greeting> entered;
};

std::uint64_t& count_of(acceptor_counters& all, errc verdict) {
  switch (verdict) {
    case errc::none:
      return all.accepted;
    case errc::dead:
      return all.went_away;
    case errc::fenced:
      return all.not_admitted;
    case errc::wrong_version:
      return all.wrong_version;
    case errc::wrong_cluster:
      return all.wrong_cluster;
    case errc::untrusted:
      return all.untrusted;
    default:
      return all.malformed;
  }
}

constexpr std::array members{&acceptor_counters::accepted,      &acceptor_counters::timed_out,
                             &acceptor_counters::crowded_out,   &acceptor_counters::rate_limited,
                             &acceptor_counters::went_away,     &acceptor_counters::untrusted,
                             &acceptor_counters::malformed,     &acceptor_counters::wrong_version,
                             &acceptor_counters::wrong_cluster, &acceptor_counters::not_admitted,
                             &acceptor_counters::accept_errors};

bool same(const acceptor_counters& a, const acceptor_counters& b) {
  return std::ranges::all_of(members, [&](auto m) { return a.*m == b.*m; });
}

/// What of `now` was not there `before`.
acceptor_counters since(const acceptor_counters& before, acceptor_counters now) {
  for (const auto m : members) now.*m -= before.*m;
  return now;
}

std::vector<std::byte> hear(int socket, std::size_t most) {
  std::vector<std::byte> out(most);
  std::size_t got = 0;
  while (got < most) {
    const auto now = uninterrupted([&] { return ::recv(socket, out.data() + got, most - got, 0); });
    fuzz::demand(now >= 0 || errno == ECONNRESET || errno == EPIPE,
                 "who has spoken is answered or parted from");
    if (now <= 0) break;
    got += static_cast<std::size_t>(now);
  }
  out.resize(got);
  return out;
}

/// Who is refused early is not listened to.
void send_all(int socket, bytes words) {
  while (!words.empty()) {
    const auto sent =
        uninterrupted([&] { return ::send(socket, words.data(), words.size(), MSG_NOSIGNAL); });
    if (sent <= 0) break;
    words = words.subspan(static_cast<std::size_t>(sent));
  }
  ::shutdown(socket, SHUT_WR);
}

/// One peer that speaks now, and is judged before this returns.
void speak(int socket, bytes words, outcome& all) {
  const auto plain = fuzz::read_greeting(words);
  send_all(socket, words);
  ++count_of(all.counters, plain.verdict);
  if (plain.verdict == errc::none) all.entered.push_back(plain.said);
  const auto head = hear(socket, greeting_header_bytes);
  if (plain.silent) {
    fuzz::demand(head.empty(), "who speaks something else hears nothing");
  } else {
    fuzz::demand(head.size() == greeting_header_bytes, "who is judged is told");
    const auto length = answer_frame_bytes(std::span(head).first<greeting_header_bytes>());
    auto heard = head;
    const auto more = hear(socket, std::get<std::size_t>(length) - head.size());
    heard.insert(heard.end(), more.begin(), more.end());
    const auto answer = decode_answer(heard);
    const auto* told = std::get_if<greeting_answer>(&answer);
    fuzz::demand(told != nullptr && told->verdict.reason == plain.verdict, "and what");
    if (plain.verdict != errc::none) fuzz::demand(hear(socket, 1).empty(), "and nothing else");
  }
  ::close(socket);
}

/// To a port that wants a key, which nobody here has.
void speak_past_tls(int socket, bytes words) {
  send_all(socket, words);
  fuzz::demand(hear(socket, 4096).size() < 4096, "little is said to a stranger");
  ::close(socket);
}

/// The peer at the front of `rest`, which is taken from it.
struct peer {
  bool waits = false;
  bool elsewhere = false;
  bytes words;
};

peer next_peer(bytes& rest) {
  const auto length = std::to_integer<std::size_t>(rest[1]) | std::to_integer<std::size_t>(rest[2])
                                                                  << 8;
  const auto how = std::to_integer<unsigned>(rest[0]);
  rest = rest.subspan(3);
  const peer out{(how & peer_waits) != 0, (how & peer_elsewhere) != 0,
                 rest.first(std::min(length, rest.size()))};
  rest = rest.subspan(out.words.size());
  return out;
}

/// Waits until only those who wait are in the handshake.
acceptor_counters settled(const listener& port, std::size_t waiting) {
  const auto late = std::chrono::steady_clock::now() + patience;
  for (;;) {
    const auto now = port.counters();
    if (now.unauthenticated == waiting) return now;
    fuzz::demand(std::chrono::steady_clock::now() < late, "whoever has left is forgotten");
    std::this_thread::yield();
  }
}

/// Who waits in the handshake.
class waiting_peers {
 public:
  struct one {
    int socket;
    bool elsewhere;
    bytes words;
  };

  /// Whether there is no place for one more from there.
  bool crowd_out(bool elsewhere) const {
    return all_.size() == places ||
           std::ranges::count(all_, elsewhere, &one::elsewhere) == places_of_one;
  }
  void add(const one& who) { all_.push_back(who); }
  const std::vector<one>& all() const noexcept { return all_; }

 private:
  std::vector<one> all_;
};

/// At a port that waits for nobody long. To one that wants a key nobody says anything.
void meet_hastily(listener& port, bool keyed, bytes rest) {
  const auto before = port.counters();
  const auto since_then = std::chrono::steady_clock::now();
  waiting_peers waiting;
  for (std::size_t i = 0; i < peers_max && rest.size() >= 3; ++i) {
    const auto who = next_peer(rest);
    if (waiting.crowd_out(who.elsewhere)) continue;  // or would be, but for the clock
    const auto begun = who.words.first(
        std::min<std::size_t>(keyed ? 0 : greeting_header_bytes - 1, who.words.size()));
    const int socket = port.dial(who.elsewhere);
    uninterrupted([&] { return ::send(socket, begun.data(), begun.size(), MSG_NOSIGNAL); });
    waiting.add({socket, who.elsewhere, begun});
  }
  for (const auto& who : waiting.all()) {
    fuzz::demand(hear(who.socket, 1).empty(), "who does not speak in time hears nothing");
    fuzz::demand(std::chrono::steady_clock::now() - since_then >= haste, "and has the time");
    ::close(who.socket);
  }
  acceptor_counters all;
  all.timed_out = waiting.all().size();
  fuzz::demand(same(since(before, settled(port, 0)), all), "and is counted for that");
}

void meet(listener& port, bool keyed, bool closes, bytes rest) {
  const auto before = port.counters();
  outcome all;
  waiting_peers waiting;
  std::uint64_t spoke = 0;
  const auto speak_to = [&](int socket, bytes words) {
    ++spoke;
    if (keyed)
      speak_past_tls(socket, words);
    else
      speak(socket, words, all);
  };
  for (std::size_t i = 0; i < peers_max && rest.size() >= 3; ++i) {
    const auto who = next_peer(rest);
    const int socket = port.dial(who.elsewhere);
    if (waiting.crowd_out(who.elsewhere)) {
      ++all.counters.crowded_out;
      fuzz::demand(hear(socket, 1).empty(), "who comes while too many wait is parted from");
      ::close(socket);
    } else if (who.waits) {
      waiting.add({socket, who.elsewhere, who.words});
    } else {
      speak_to(socket, who.words);
      settled(port, waiting.all().size());  // who is refused keeps its place for a moment
    }
  }
  if (closes) port.close();
  for (const auto& [socket, elsewhere, words] : waiting.all()) {
    if (!closes) {
      speak_to(socket, words);
      continue;
    }
    fuzz::demand(hear(socket, 1).empty(), "who waits at a port that closes is parted from");
    ::close(socket);
  }
  const auto now = since(before, settled(port, 0));
  const auto entered = port.entered(all.entered.size());
  fuzz::demand(
      std::ranges::equal(entered, all.entered, {}, [](const auto& c) { return c->peer(); }),
      "who is welcome enters, in turn, and is who it said");
  if (keyed)
    return fuzz::demand(now.untrusted + now.went_away + now.malformed == spoke &&
                            now.crowded_out == all.counters.crowded_out && now.accepted == 0,
                        "nobody enters without the key, and everybody is counted");
  fuzz::demand(same(now, all.counters), "everybody is counted for what came of it");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const auto key = [] {
    static fuzz::scratch files;
    const std::string fives(64, '5');
    files.put("key", std::as_bytes(std::span(fives)));
    security_options with;
    with.shared_key_file = files.path() / "key";
    return with;
  }();
  static listener clear{security_options()};
  static listener keyed{key};
  const auto input = fuzz::input_of(data, size);
  if (input.empty()) return 0;
  const auto how = std::to_integer<unsigned>(input[0]);
  const bool wants_key = (how & port_keyed) != 0;
  const bool hastens = (how & ~port_keyed) == port_hasty;
  const bool closes = (how & port_closes) != 0;
  std::optional<listener> brief;
  if (hastens) brief.emplace(wants_key ? key : security_options(), haste);
  if (closes) brief.emplace(wants_key ? key : security_options());
  auto& port = brief ? *brief : wants_key ? keyed : clear;
  port.count(held_max(size, wants_key));
  if (hastens)
    meet_hastily(port, wants_key, input.subspan(1));
  else
    meet(port, wants_key, closes, input.subspan(1));
  port.counted();
  return 0;
}
