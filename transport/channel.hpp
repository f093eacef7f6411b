// Decides what can be done with a connection whose two ends know each other.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "messages/to_receiver.hpp"
#include "transport/failure.hpp"
#include "transport/greeting.hpp"

namespace lockstep {

/// Deadlines and bounds of a channel.
struct channel_options {
  /// A frame that began must be whole after this and the time its bytes take at the rate below.
  std::chrono::milliseconds frame_deadline{5'000};
  std::uint64_t frame_bytes_per_s = 64 << 10;
  /// The peer must take a byte within this while there are any to send.
  std::chrono::milliseconds write_deadline{30'000};
  /// And its machine must acknowledge one within this. It is for when the network is back after a
  /// while: the kernel repeats what was lost only after as long again as it has waited already.
  std::chrono::milliseconds silence_max{30'000};
  /// Payload bytes waiting to be sent, beyond which the peer is given up.
  std::uint64_t send_queue_bytes_max = 256ull << 20;
  /// Frames waiting to be sent, likewise.
  std::size_t send_queue_frames_max = 1'024;
  /// Bytes of one channel after which the other work of its thread gets its turn; not 0.
  std::size_t turn_bytes = 4 << 20;
  /// What the kernel is asked to buffer in each direction; 0 leaves it to the kernel.
  int socket_buffer_bytes = 0;
};

/// What a channel did so far.
struct channel_counters {
  std::uint64_t frames_sent = 0;
  std::uint64_t frames_received = 0;
  std::uint64_t payload_bytes_sent = 0;
  std::uint64_t payload_bytes_received = 0;
};

/// One connection after the handshake. All members are thread-safe. A control channel is released;
/// a bulk channel is started. A channel that is destroyed before either closes; once started it
/// lives until it is closed, whoever holds it. It must be closed before its `io_threads` end, or
/// with them.
class channel {
 public:
  using bucket_handler = std::function<void(bucket_msg, std::uint64_t shipment)>;
  using closed_handler = std::function<void(const failure&)>;

  virtual ~channel() = default;

  /// What the other side said of itself; with certificates, its role and name are proven.
  virtual const greeting& peer() const noexcept = 0;
  /// "host:port".
  virtual const std::string& peer_address() const noexcept = 0;

  /// Gives a non-blocking stream socket that carries this channel's bytes in clear, and closes on
  /// exec. The caller owns it, and the channel is spent. Without TLS it is the connection itself;
  /// with TLS it is a local socket that the transport copies to and from, which ends with either
  /// side, and with the `io_threads`. The end of the peer's bytes is the end of these. Throws
  /// `error(errc::shut_down)` if the channel was closed, started or released before.
  virtual int release() = 0;

  /// Begins to receive. Neither handler is called before this, nor concurrently with each other;
  /// `on_closed` is called exactly once, last, from an `io_threads` thread. Its reason says why:
  /// `detached` after `close()`, `dead` when the peer went, `timeout` for a deadline, `bad_frame`
  /// or `bad_checksum` (peer) for what is not a frame, `bad_manifest` for a payload above the
  /// limit, `no_memory` for a full queue. Both are destroyed after that. Throws
  /// `error(errc::shut_down)` if the channel was closed, started or released before.
  virtual void start(bucket_handler on_bucket, closed_handler on_closed) = 0;

  /// Queues one bucket; `shipment` is the callers' own number, which arrives with it. The payload
  /// is shared until it is sent, and not a moment longer. False, and
  /// nothing queued, when the channel is closed or not started, when the payload is above what the
  /// peer takes, or when the queue is full; the last two close the channel.
  virtual bool send(bucket_msg bucket, std::uint64_t shipment = 0) = 0;

  /// Payload bytes that wait to be sent.
  virtual std::uint64_t queued_bytes() const noexcept = 0;
  virtual channel_counters counters() const noexcept = 0;

  /// Ends the connection. What is queued is dropped. Idempotent.
  virtual void close() = 0;
};

}  // namespace lockstep
