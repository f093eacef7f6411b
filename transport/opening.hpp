// Decides how a connection gets from the socket to the first frames, step by step, either side.
#pragma once

#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <variant>
#include <vector>

#include "transport/byte_stream.hpp"
#include "transport/channel.hpp"
#include "transport/security.hpp"

namespace lockstep {

/// The steps before a channel. Each calls `then` once, on the socket's strand, unless the opening
/// was closed before; what `then` holds has to keep the opening alive. All members are for the
/// strand alone.
class opening {
 public:
  using frame = std::vector<std::byte>;
  using frame_length =
      std::variant<std::size_t, failure> (*)(std::span<const std::byte, greeting_header_bytes>);

  /// The socket's executor is a strand of its own.
  explicit opening(boost::asio::ip::tcp::socket connection)
      : socket(std::move(connection)), timer_(socket.get_executor()) {}

  /// Calls `then` when the time is up.
  void limit(std::chrono::milliseconds deadline, std::function<void()> then);
  /// Does what has to come before bytes; the socket is connected. No failure in `then`: done.
  void secure(const security& guard, bool accepts, std::function<void(failure)> then);
  void send(frame bytes, std::function<void(failure)> then);
  /// Reads one frame and nothing behind it.
  void receive(frame_length length, std::function<void(std::variant<frame, failure>)> then);
  /// Whom the peer is proven to be, if that matters; see `byte_stream::proven`.
  std::optional<identity> proven() const { return stream_->proven(); }

  /// Sends no more, and waits a little until the peer closes: what it said and nobody read would
  /// otherwise undo what was sent to it last. Nothing of it is kept.
  void linger(std::function<void()> then);
  void close();
  /// Ends the opening, with everything that the other side has been promised.
  std::shared_ptr<channel> to_channel(greeting own, greeting peer, std::string peer_address,
                                      const channel_options& options);

  boost::asio::ip::tcp::socket socket;

 private:
  void step_secure(std::function<void(failure)> then);
  void step_send(std::function<void(failure)> then);
  void step_receive(std::function<void(std::variant<frame, failure>)> then);
  template <class Then>
  void again(io_status wanted, void (opening::*step)(Then), Then then);
  void step_linger(std::function<void()> then);
  failure trouble(const io_step& step) const;

  boost::asio::steady_timer timer_;
  std::unique_ptr<byte_stream> stream_;
  bool over_ = false;
  frame out_;
  std::size_t sent_ = 0;
  frame in_;
  std::size_t got_ = 0;
  frame_length length_ = nullptr;
};

/// Why the proven identity does not allow what the greeting claims; no failure if it does, or if
/// nothing had to be proven.
failure check_identity(const security& guard, const std::optional<identity>& proven,
                       const greeting& claimed);

}  // namespace lockstep
