// Decides how bytes of a target come over a connection, and with which key.
#pragma once

#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "fuzz/scratch.hpp"
#include "transport/byte_stream.hpp"
#include "transport/security_impl.hpp"

namespace lockstep::fuzz {

/// Whoever speaks to a side of ours, and all after `broken` bytes past TLS. Owns the socket, which
/// must not block.
class peer {
 public:
  peer(int socket, std::unique_ptr<byte_stream> stream, std::size_t broken)
      : socket_(socket), broken_(broken), stream_(std::move(stream)) {}
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

  /// Takes what has come.
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

  const std::vector<std::byte>& heard() const noexcept { return heard_; }
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
  std::vector<std::byte> heard_;
};

/// What either end may know: nothing, the key, or another one.
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

  scratch files;
  std::shared_ptr<const security> clear;
  std::shared_ptr<const security> right;
  std::shared_ptr<const security> wrong;
};

}  // namespace lockstep::fuzz
