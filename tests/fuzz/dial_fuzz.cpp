// The bytes are what somebody says whom a process of ours dials, after three that say how
// (fuzz/connection.hpp): an answer, then frames of buckets or, on a control channel, whatever is
// passed on.
#include <fcntl.h>
#include <netinet/in.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <boost/asio/io_context.hpp>
#include <cerrno>
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "fuzz/connection.hpp"
#include "fuzz/fuzz.hpp"
#include "fuzz/peer.hpp"
#include "fuzz/plain_frames.hpp"
#include "fuzz/plain_greeting.hpp"
#include "messages/errors.hpp"
#include "transport/connector_impl.hpp"

namespace {

using namespace lockstep;
namespace asio = boost::asio;
using bytes = std::vector<std::byte>;
using fuzz::peer_kind;

constexpr const char* home = "127.0.0.1";
/// Of another machine, to which nothing is sent.
constexpr const char* elsewhere = "192.0.2.1";
/// More than any input needs: whoever comes here goes in circles.
constexpr int rounds_max = 100'000;
/// Of who is dialed by one that stays; others end with what they say, and are given the usual time.
constexpr std::chrono::milliseconds deadline{4};
/// Nobody may take longer than the deadline, and this.
constexpr std::chrono::milliseconds patience{1'500};

/// A trainer's certificate that signs itself, and whom it serves: who trusts nothing else, and a
/// server that lets anybody in.
class certificate {
 public:
  certificate() {
    EVP_PKEY* const key = EVP_EC_gen("P-256");
    X509* const shown = X509_new();
    X509_EXTENSION* const role =
        X509V3_EXT_conf_nid(nullptr, nullptr, NID_subject_alt_name, "URI:lockstep:trainer");
    fuzz::demand(key != nullptr && shown != nullptr && role != nullptr &&
                     X509_set_version(shown, X509_VERSION_3) == 1 &&
                     ASN1_TIME_set_string(X509_getm_notBefore(shown), "20000101000000Z") == 1 &&
                     ASN1_TIME_set_string(X509_getm_notAfter(shown), "21000101000000Z") == 1 &&
                     X509_set_pubkey(shown, key) == 1 && X509_add_ext(shown, role, -1) == 1 &&
                     X509_sign(shown, key, EVP_sha256()) > 0,
                 "a certificate");
    put("certificate", [&](BIO* to) { return PEM_write_bio_X509(to, shown); });
    put("key", [&](BIO* to) {
      return PEM_write_bio_PrivateKey(to, key, nullptr, nullptr, 0, nullptr, nullptr);
    });
    X509_EXTENSION_free(role);
    X509_free(shown);
    EVP_PKEY_free(key);
    security_options with;
    with.certificate_file = with.authority_file = files_.path() / "certificate";
    with.key_file = files_.path() / "key";
    trusting = std::make_shared<const security>(with);
    const auto anybody = std::make_shared<tls_context>(with);
    SSL_CTX_set_verify(anybody->get(), SSL_VERIFY_NONE, nullptr);
    open = anybody;
  }

  std::shared_ptr<const security> trusting;
  std::shared_ptr<const tls_context> open;

 private:
  template <class Write>
  void put(const char* name, Write write) {
    BIO* const text = BIO_new(BIO_s_mem());
    fuzz::demand(write(text) == 1, "text of a certificate");
    const char* begin = nullptr;
    const auto size = BIO_get_mem_data(text, &begin);
    files_.put(name, std::as_bytes(std::span(begin, static_cast<std::size_t>(size))));
    BIO_free(text);
  }

  fuzz::scratch files_;
};

/// What either side may have.
struct credentials {
  fuzz::keys keys;
  certificate papers;
};

/// How whoever is dialed behaves, and who is wanted there.
struct manner {
  peer_kind kind;
  bool certified;
  bool stays;
  bool breaks;
  bool slams;
  std::size_t chunk;  ///< bytes that come at a time
  channel_purpose purpose;
  node_role expected;
  fuzz::dial_place place;

  bool has_way_in() const { return kind == peer_kind::clear || kind == peer_kind::knows; }
  /// Only of a trainer there is proof.
  bool proves_other() const {
    return kind == peer_kind::knows && certified && expected != node_role::trainer;
  }

  std::shared_ptr<const security> guard(const credentials& all) const {
    if (kind == peer_kind::clear) return all.keys.clear;
    return kind == peer_kind::knows && certified ? all.papers.trusting : all.keys.right;
  }

  std::unique_ptr<byte_stream> stream(const credentials& all, int socket) const {
    if (kind == peer_kind::clear || kind == peer_kind::stranger) return make_clear_stream(socket);
    if (certified) return make_tls_stream(socket, all.papers.open, true);
    const auto& key = kind == peer_kind::knows ? all.keys.right : all.keys.wrong;
    return key->internals().wrap(socket, true);
  }
};

/// A port on loopback, where somebody listens or nobody does.
class port {
 public:
  explicit port(bool listens) : socket_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    fuzz::demand(socket_ >= 0, "a socket");
    sockaddr_in where{};
    where.sin_family = AF_INET;
    where.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    auto* const address = reinterpret_cast<sockaddr*>(&where);
    socklen_t size = sizeof where;
    fuzz::demand(::bind(socket_, address, size) == 0 && (!listens || ::listen(socket_, 16) == 0) &&
                     ::getsockname(socket_, address, &size) == 0,
                 "a port");
    number_ = ntohs(where.sin_port);
    ::fcntl(socket_, F_SETFL, O_NONBLOCK);
  }
  port(const port&) = delete;
  port& operator=(const port&) = delete;
  ~port() { ::close(socket_); }

  std::uint16_t number() const noexcept { return number_; }
  /// Who has come, or -1.
  int next() const { return ::accept4(socket_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK); }

 private:
  int socket_;
  std::uint16_t number_ = 0;
};

/// Whoever dials, in the thread of the target.
class dialer {
 public:
  dialer(asio::io_context& io, std::shared_ptr<const security> guard, connect_options options)
      : purpose_(options.self.purpose) {
    connect_on(io, std::move(guard), std::move(options), [this](connect_result result) {
      fuzz::demand(!judged, "a dial ends once");
      if (const auto* why = std::get_if<failure>(&result)) {
        judged = why->reason;
        fuzz::demand(judged != errc::none, "who is not taken has a reason");
        fuzz::demand_message(why->detail);
        return;
      }
      judged = errc::none;
      take(std::get<std::shared_ptr<channel>>(std::move(result)));
    });
    fuzz::demand(!judged, "who dials is told later");
  }
  dialer(const dialer&) = delete;
  dialer& operator=(const dialer&) = delete;
  ~dialer() {
    if (released_ >= 0) ::close(released_);
  }

  /// Reads what a control channel passes on.
  void read() {
    std::array<std::byte, 4096> room{};
    while (released_ >= 0 && !passed_all_) {
      const auto got = ::recv(released_, room.data(), room.size(), MSG_DONTWAIT);
      if (got < 0 && errno == EAGAIN) break;
      passed_all_ = got <= 0;
      if (got > 0) passed.insert(passed.end(), room.begin(), room.begin() + got);
      if (passed_all_) ::close(std::exchange(released_, -1));
    }
  }

  bool over() const { return judged && (*judged != errc::none || closed || passed_all_); }

  std::optional<errc> judged;
  greeting reached;
  std::string address;
  bytes passed;
  std::vector<fuzz::delivery> delivered;
  std::optional<errc> closed;

 private:
  void take(std::shared_ptr<channel> c) {
    reached = c->peer();
    address = c->peer_address();
    if (purpose_ == channel_purpose::control) {
      released_ = c->release();
      return;
    }
    c->start(
        [this](bucket_msg b, std::uint64_t shipment) {
          fuzz::demand(!closed, "nothing comes after the end");
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

  const channel_purpose purpose_;
  int released_ = -1;
  bool passed_all_ = false;
};

/// Of whom was dialed: what it was told, how its bytes were read, and what came of them.
void check_end(const dialer& dialed, const manner& how, const fuzz::reading& plain,
               const bytes& heard) {
  const auto got = *dialed.judged;
  const auto own = encode_greeting(fuzz::dialer_greeting(how.purpose));
  if (!how.has_way_in()) {
    const auto own_name = fuzz::dialer_greeting(how.purpose).name;
    const auto name = std::as_bytes(std::span(own_name));
    fuzz::demand(got != errc::none, "nobody is taken without the key");
    return fuzz::demand(
        std::search(heard.begin(), heard.end(), name.begin(), name.end()) == heard.end(),
        "or told who dials");
  }
  if (how.proves_other()) {
    fuzz::demand(got == errc::untrusted || (how.stays && got == errc::timeout) ||
                     (how.slams && got == errc::dead),
                 "who is proven to be another is not taken, whatever it says");
    return fuzz::demand(heard.empty(), "or told who dials");
  }
  const bool late = how.stays && got == errc::timeout;
  const bool cut_off = how.slams && got == errc::dead;
  const bool broken = how.breaks && plain.verdict == errc::dead && got == errc::untrusted;
  fuzz::demand(got == plain.verdict || late || cut_off || broken,
               "an answer is judged for what it says");
  if (how.stays && !how.slams)
    fuzz::demand(got != errc::dead || plain.verdict != errc::dead, "who stays has not gone");
  fuzz::demand(heard.size() <= own.size() && std::equal(heard.begin(), heard.end(), own.begin()),
               "who dials says its greeting, and nothing else");
  if (got != errc::none) return;
  fuzz::demand(dialed.reached == plain.said, "who was reached is who it said");
  fuzz::demand(how.slams || heard == own, "and was told who dials");
  const bool whole = !how.breaks && !how.slams;
  if (how.purpose == channel_purpose::control)
    return fuzz::demand(
        dialed.passed.size() <= plain.rest.size() &&
            (!whole || dialed.passed.size() == plain.rest.size()) &&
            std::ranges::equal(dialed.passed, plain.rest.first(dialed.passed.size())),
        "what follows an answer is passed on as it is");
  auto rest = plain.rest;
  errc why = errc::none;
  const auto frames = fuzz::read_frames(rest, why);
  fuzz::demand(dialed.delivered.size() <= frames.size() &&
                   (!whole || dialed.delivered.size() == frames.size()) &&
                   std::equal(dialed.delivered.begin(), dialed.delivered.end(), frames.begin()),
               "what was sent is delivered, and nothing else");
  fuzz::demand(!whole || dialed.closed == why, "a channel ends for what came last");
}

/// Lets go of the connection so that the other side finds it broken.
void slam(int socket, std::optional<fuzz::peer>& other) {
  const linger at_once{1, 0};
  ::setsockopt(socket, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
  other.reset();
}

/// Turns `io` until what was dialed has come to its end; what was heard meanwhile.
bytes converse(asio::io_context& io, dialer& dialed, const port& listening, const credentials& all,
               std::span<const std::byte> left, const manner& how) {
  const auto broken = how.breaks ? left.size() / 2 : SIZE_MAX;
  int socket = -1;
  std::optional<fuzz::peer> other;
  bytes heard;
  const auto begun = std::chrono::steady_clock::now();
  for (int round = 0; !dialed.over(); ++round) {
    if (socket < 0 && (socket = listening.next()) >= 0)
      other.emplace(socket, how.stream(all, socket), broken);
    if (other) {
      left = left.subspan(other->say(left.first(std::min(left.size(), how.chunk))));
      if (left.empty() && (!how.stays || dialed.judged)) other->leave();
      other->hear();
      heard = other->heard();
      if (left.empty() && how.slams) slam(socket, other);
    }
    io.restart();
    io.poll();
    dialed.read();
    fuzz::demand(round < rounds_max || std::chrono::steady_clock::now() - begun < patience,
                 "a dial ends with what comes over it, or by its deadline");
  }
  if (!other) return heard;
  other->hear();
  return other->heard();
}

void dial(const credentials& all, std::span<const std::byte> input, const manner& how) {
  static const port listening(true);
  static const port deserted(false);
  connect_options options;
  options.self = fuzz::dialer_greeting(how.purpose);
  options.expected = how.expected;
  options.host = how.place == fuzz::dial_place::name        ? "localhost"
                 : how.place == fuzz::dial_place::elsewhere ? elsewhere
                                                            : home;
  options.port = (how.place == fuzz::dial_place::nobody ? deserted : listening).number();
  if (how.stays) options.deadline = deadline;
  asio::io_context io{1};
  dialer dialed(io, how.guard(all), options);
  const auto heard = converse(io, dialed, listening, all, input, how);
  // Of a name the system may still be thinking.
  if (dialed.judged != errc::none && how.place != fuzz::dial_place::name) {
    io.restart();
    io.poll();
    fuzz::demand(io.stopped(), "nothing is under way for a dial that has ended");
  }
  // Who came and was given up before that was seen is not the next one's.
  for (int late = listening.next(); late >= 0; late = listening.next()) ::close(late);
  if (how.place == fuzz::dial_place::elsewhere)
    return fuzz::demand(dialed.judged == errc::bad_setting, "nothing is said in clear elsewhere");
  if (how.place == fuzz::dial_place::nobody)
    return fuzz::demand(dialed.judged == errc::unreachable, "nobody is reached where nobody is");
  // Not every machine knows the name.
  if (how.place == fuzz::dial_place::name && dialed.judged == errc::unreachable) return;
  if (dialed.judged == errc::none)
    fuzz::demand(dialed.address == std::string(home) + ":" + std::to_string(options.port),
                 "an address is that of who was reached");
  const auto said = how.breaks ? input.first(input.size() / 2) : input;
  check_end(dialed, how, fuzz::read_answer(said, how.expected), heard);
}

fuzz::dial_place place_of(unsigned how, peer_kind kind) {
  const auto place = static_cast<fuzz::dial_place>(how >> 4);
  // With a key it would be dialed.
  if (place == fuzz::dial_place::elsewhere && kind != peer_kind::clear) return {};
  return place;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto input = fuzz::input_of(data, size);
  if (input.size() < fuzz::dial_head_bytes) return 0;
  const auto how = std::to_integer<unsigned>(input[0]);
  const auto chunk = std::to_integer<std::size_t>(input[1]);
  const auto where = std::to_integer<unsigned>(input[2]);
  const auto has = [](unsigned all, unsigned bits) { return (all & bits) == bits; };
  const auto kind = static_cast<peer_kind>(how % fuzz::peer_kinds);
  const manner as{kind,
                  has(how, fuzz::peer_certified),
                  has(how, fuzz::peer_stays),
                  kind == peer_kind::knows && has(how, fuzz::peer_breaks),
                  has(where, fuzz::dial_slams),
                  chunk == 0 ? size : chunk,
                  has(where, fuzz::dial_bulk) ? channel_purpose::bulk : channel_purpose::control,
                  has(where, fuzz::dial_receiver) ? node_role::receiver : node_role::trainer,
                  place_of(where, kind)};
  static const credentials all;
  const fuzz::held_bytes bound(8 * size + (kind == peer_kind::clear ? 96 << 10 : 1 << 20));
  dial(all, input.subspan(fuzz::dial_head_bytes), as);
  return 0;
}
