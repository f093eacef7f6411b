// Decides what tests of receivers that have buckets from each other stand on: settings that are
// quick to notice, and a road between two processes that does what is wrong with some networks.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <functional>
#include <thread>
#include <vector>

#include "actors/fleet.hpp"
#include "actors/forgery.hpp"

namespace lockstep {

/// Longer than anybody is slow, wherever this runs: whoever is for longer passes nothing on for a
/// minute, which is longer than these tests wait.
#if defined(__SANITIZE_THREAD__)
inline constexpr std::uint32_t stall_ms = 12'000;
#else
inline constexpr std::uint32_t stall_ms = 2'000;
#endif

inline settings listening(std::uint32_t fanout) {
  auto s = quiet();
  s.transport.listen = "127.0.0.1:0";
  s.transport.fanout = fanout;
  s.transport.relay_stall_ms = stall_ms;
  s.transport.relay_backoff_ms = 60'000;
  s.sync.link_bytes_per_s = 1'000'000'000;
  s.bucket.bytes_max = (1 << 20) + (256 << 10);
  s.receiver.lease_ms = 10'000;  // longer than anybody is silent, likewise
  s.receiver.ping_ms = 50;
  s.receiver.hello_ms = 100;
  // So that none is evicted where all of this is slow.
  s.sync.stage_timeout_ms = 60'000;
  s.sync.commit_timeout_ms = 60'000;
  return s;
}

inline settings connecting(std::uint16_t port) {
  auto s = listening(0);
  s.transport.listen.clear();
  s.transport.connect = "127.0.0.1:" + std::to_string(port);
  s.transport.relay_listen = "127.0.0.1:0";
  s.transport.retry_ms = 20;
  s.transport.retry_ms_max = 50;
  return s;
}

inline bool eventually(const std::function<bool()>& what,
                       std::chrono::milliseconds patience = 10s) {
  const auto until = std::chrono::steady_clock::now() + patience;
  while (!what()) {
    if (std::chrono::steady_clock::now() >= until) return false;
    std::this_thread::sleep_for(2ms);
  }
  return true;
}

/// Stands between a receiver and those that have buckets from it, and does what is wrong with some
/// networks and some relays.
class bad_road {
 public:
  enum class way { good, lies, forges, stands_still };

  bad_road() {
    listener_ = ::socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in at = loopback(0);
    ::bind(listener_, reinterpret_cast<sockaddr*>(&at), sizeof at);
    ::listen(listener_, 64);
    socklen_t size = sizeof at;
    ::getsockname(listener_, reinterpret_cast<sockaddr*>(&at), &size);
    port = ntohs(at.sin_port);
    threads_.emplace_back([this] { accept_all(); });
  }
  ~bad_road() {
    over_ = true;
    for (std::size_t i = 0; i < threads_.size(); ++i) threads_[i].join();
    ::close(listener_);
  }

  std::uint16_t port = 0;
  std::atomic<std::uint16_t> leads_to = 0;
  std::atomic<way> now = way::good;
  std::atomic<std::uint64_t> bytes_down = 0;  ///< from the receiver to others
  std::atomic<std::uint64_t> forged = 0;      ///< buckets

 private:
  static sockaddr_in loopback(std::uint16_t port) {
    sockaddr_in at{};
    at.sin_family = AF_INET;
    at.sin_port = htons(port);
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return at;
  }
  static bool readable(int from) {
    pollfd p{from, POLLIN, 0};
    return ::poll(&p, 1, 10) > 0;
  }

  void accept_all() {
    std::vector<std::thread> pumps;
    while (!over_) {
      if (!readable(listener_)) continue;
      if (leads_to == 0) continue;  // it will be told in a moment
      const auto child = ::accept(listener_, nullptr, nullptr);
      const auto parent = ::socket(AF_INET, SOCK_STREAM, 0);
      const auto at = loopback(leads_to);
      ::connect(parent, reinterpret_cast<const sockaddr*>(&at), sizeof at);
      pumps.emplace_back([this, child, parent] { pump(child, parent); });
    }
    for (auto& p : pumps) p.join();
  }

  void pump(int child, int parent) {
    std::vector<std::byte> buffer(64 << 10);
    forgery down;
    std::uint64_t passed = 0;
    for (bool open = true; open && !over_;) {
      std::array<pollfd, 2> p{{{child, POLLIN, 0}, {parent, POLLIN, 0}}};
      ::poll(p.data(), 2, 10);
      for (int i = 0; i < 2 && open; ++i) {
        if (now == way::stands_still || p[static_cast<std::size_t>(i)].revents == 0) continue;
        const auto count = ::read(i == 0 ? child : parent, buffer.data(), buffer.size());
        if (count <= 0) open = false;
        const auto size = static_cast<std::uint64_t>(std::max<ssize_t>(count, 0));
        if (i == 1) bytes_down += size;
        if (i == 1) passed += size;
        std::vector<std::byte> onward(buffer.begin(), buffer.begin() + std::max<ssize_t>(count, 0));
        if (i == 1) {
          const auto before = down.forged;
          onward = down.pass(onward, now == way::forges);
          forged += down.forged - before;
          // Past the greetings: of a payload.
          if (now == way::lies && passed > 100'000 && !onward.empty())
            onward.back() ^= std::byte{1};
        }
        for (std::uint64_t done = 0; open && done < onward.size();) {
          const auto put = ::send(i == 0 ? parent : child, onward.data() + done,
                                  onward.size() - done, MSG_NOSIGNAL);
          if (put <= 0) open = false;
          done += static_cast<std::uint64_t>(std::max<ssize_t>(put, 0));
        }
      }
    }
    ::close(child);
    ::close(parent);
  }

  int listener_ = -1;
  std::atomic<bool> over_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace lockstep
