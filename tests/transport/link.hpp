// Decides how tests of the transport dial an acceptor of theirs, and what they wait for.
#pragma once

#include <netinet/in.h>
#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "transport/acceptor.hpp"
#include "transport/connector.hpp"
#include "transport/io_threads.hpp"

namespace lockstep::test {

using namespace std::chrono_literals;

/// Nothing in these tests takes longer.
inline constexpr std::chrono::seconds patience{20};

/// What one thread puts in and another waits for.
template <class T>
class inbox {
 public:
  void put(T value) {
    const std::lock_guard lock(mutex_);
    values_.push_back(std::move(value));
    changed_.notify_all();
  }

  T get() {
    std::unique_lock lock(mutex_);
    if (!changed_.wait_for(lock, patience, [this] { return !values_.empty(); }))
      throw std::runtime_error("waited in vain");
    T value = std::move(values_.front());
    values_.pop_front();
    return value;
  }

  std::size_t size() {
    const std::lock_guard lock(mutex_);
    return values_.size();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<T> values_;
};

/// Waits until `holds`; false if it never does.
inline bool eventually(const std::function<bool()>& holds,
                       std::chrono::milliseconds within = patience) {
  const auto end = std::chrono::steady_clock::now() + within;
  while (!holds()) {
    if (std::chrono::steady_clock::now() > end) return false;
    usleep(2'000);
  }
  return true;
}

/// Bulk channel with what it received.
struct bulk {
  explicit bulk(std::shared_ptr<channel> of) : to(std::move(of)) {
    to->start([b = buckets](bucket_msg m, std::uint64_t) { b->put(std::move(m)); },
              [e = ends](const failure& why) { e->put(why); });
  }
  bulk(bulk&&) = default;
  bulk(const bulk&) = delete;
  bulk& operator=(const bulk&) = delete;
  ~bulk() {
    if (to) to->close();
  }

  bucket_msg next() const { return buckets->get(); }
  failure end() const { return ends->get(); }

  std::shared_ptr<channel> to;
  std::shared_ptr<inbox<bucket_msg>> buckets = std::make_shared<inbox<bucket_msg>>();
  std::shared_ptr<inbox<failure>> ends = std::make_shared<inbox<failure>>();
};

inline greeting trainer_greeting() {
  greeting g;
  g.cluster = 7;
  g.role = node_role::trainer;
  g.name = "trainer";
  g.payload_bytes_max = 8 << 20;
  g.control_bytes_max = 64 << 10;
  g.program = "tests 1";
  return g;
}

inline greeting receiver_greeting(channel_purpose purpose = channel_purpose::bulk) {
  greeting g;
  g.cluster = 7;
  g.role = node_role::receiver;
  g.purpose = purpose;
  g.id = 3;
  g.name = "r0";
  g.link = {1, 2};
  g.stream = 1;
  g.payload_bytes_max = 8 << 20;
  g.control_bytes_max = 64 << 10;
  g.program = "tests 1";
  return g;
}

inline std::shared_ptr<const security> clear() {
  return std::make_shared<const security>(security_options{});
}

/// What came of dialing.
inline connect_result dialed(io_threads& io, std::shared_ptr<const security> guard,
                             connect_options o) {
  const auto result = std::make_shared<inbox<connect_result>>();
  connect(io, std::move(guard), std::move(o),
          [result](connect_result r) { result->put(std::move(r)); });
  return result->get();
}

/// A trainer that listens, and dialers of all kinds.
struct station {
  io_threads trainer_io{1};
  io_threads dialer_io{1};
  inbox<std::shared_ptr<channel>> arrived;
  inbox<std::string> lines;
  std::function<failure(const greeting&)> admit = [](const greeting&) { return failure{}; };
  std::unique_ptr<acceptor> door;

  explicit station(std::shared_ptr<const security> guard = clear(), acceptor_options options = {}) {
    if (options.self == greeting{}) options.self = trainer_greeting();
    door = std::make_unique<acceptor>(
        trainer_io, std::move(guard), std::move(options),
        [this](const greeting& g, const std::string&) { return admit(g); },
        [this](std::shared_ptr<channel> c) { arrived.put(std::move(c)); },
        [this](log_level, const std::string& line) { lines.put(line); });
  }
  station(const station&) = delete;
  station& operator=(const station&) = delete;
  ~station() {
    door.reset();
    trainer_io.stop();
    dialer_io.stop();
  }

  connect_result dial(std::shared_ptr<const security> guard = clear(),
                      greeting self = receiver_greeting(), channel_options channels = {}) {
    connect_options o;
    o.host = "127.0.0.1";
    o.port = door->port();
    o.self = std::move(self);
    o.channels = channels;
    return dial_with(std::move(guard), std::move(o));
  }

  connect_result dial_with(std::shared_ptr<const security> guard, connect_options o) {
    return dialed(dialer_io, std::move(guard), std::move(o));
  }

  /// Both ends of a channel: the dialer's, then the acceptor's.
  std::pair<std::shared_ptr<channel>, std::shared_ptr<channel>> link(
      std::shared_ptr<const security> guard = clear(), greeting self = receiver_greeting(),
      channel_options channels = {}) {
    auto result = dial(std::move(guard), std::move(self), channels);
    if (const auto* why = std::get_if<failure>(&result)) throw std::runtime_error(why->detail);
    return {std::get<std::shared_ptr<channel>>(std::move(result)), arrived.get()};
  }
};

/// The failure of a dial that must not succeed.
inline failure refusal_of(const connect_result& result) {
  const auto* why = std::get_if<failure>(&result);
  return why != nullptr ? *why : failure{errc::none, "it was welcome"};
}

/// Certificates and keys in a directory of their own, made once for each program.
class credentials {
 public:
  static const credentials& of_tests() {
    static const credentials c;
    return c;
  }

  std::filesystem::path dir() const { return dir_; }
  security_options certificates(const std::string& who, const std::string& authority = "ca") const;
  security_options shared_key(const std::string& name = "key") const {
    security_options o;
    o.shared_key_file = dir_ / name;
    return o;
  }
  std::shared_ptr<const security> guard(const std::string& who,
                                        const std::string& authority = "ca") const {
    return std::make_shared<const security>(certificates(who, authority));
  }
  std::shared_ptr<const security> key_guard(const std::string& name = "key") const {
    return std::make_shared<const security>(shared_key(name));
  }

 private:
  credentials();
  credentials(const credentials&) = delete;
  credentials& operator=(const credentials&) = delete;
  ~credentials();

  std::filesystem::path dir_;
};

/// A file with this text that only its owner may use, or also others.
void write_file(const std::filesystem::path& file, const std::string& text, bool secret = true);

/// `size` bytes that differ from place to place.
payload some_bytes(std::size_t size, std::uint64_t seed = 1);
bucket_msg some_bucket(std::size_t size, std::uint32_t index = 0);

/// A plain TCP connection to the port, from that address of loopback; the caller's.
int plain_socket(std::uint16_t port, std::uint32_t from = INADDR_LOOPBACK);
/// Writes all, in time.
bool write_all(int fd, std::span<const std::byte> bytes);
/// Reads exactly so many; fewer at the end of the stream or of patience.
std::vector<std::byte> read_exactly(int fd, std::size_t bytes,
                                    std::chrono::milliseconds within = patience);
/// Reads until the peer closes; how long that took.
std::chrono::milliseconds time_to_close(int fd);
/// Resident bytes of this process; 0 under sanitizers, which keep what was freed.
std::size_t resident_bytes();

}  // namespace lockstep::test
