// Decides in which order a channel reads, writes and ends.
#pragma once

#include <array>
#include <atomic>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "transport/buffer_pool.hpp"
#include "transport/bulk_frame.hpp"
#include "transport/byte_stream.hpp"
#include "transport/channel.hpp"

namespace lockstep {

/// What the handshake hands over. The socket's executor is a strand of its own.
struct channel_parts {
  boost::asio::ip::tcp::socket socket;
  std::unique_ptr<byte_stream> stream;
  greeting own;
  greeting peer;
  std::string peer_address;
  channel_options options;
};

class channel_impl final : public channel, public std::enable_shared_from_this<channel_impl> {
 public:
  explicit channel_impl(channel_parts parts);

  const greeting& peer() const noexcept override { return peer_; }
  const std::string& peer_address() const noexcept override { return peer_address_; }
  int release() override;
  void start(bucket_handler on_bucket, closed_handler on_closed) override;
  bool send(bucket_msg bucket, std::uint64_t shipment) override;
  std::uint64_t queued_bytes() const noexcept override;
  channel_counters counters() const noexcept override;
  void close() override;

 private:
  using clock = std::chrono::steady_clock;

  enum class life : std::uint8_t { fresh, started, spent };

  /// A frame on its way out.
  struct outgoing {
    bucket_msg bucket;
    std::array<std::byte, bulk_header_bytes> header;
    std::size_t sent = 0;  ///< of header and payload together

    outgoing(bucket_msg from, std::uint64_t shipment);
    std::span<const std::byte> head() const noexcept;
    std::span<const std::byte> body() const noexcept;
    bool done() const noexcept { return sent == header.size() + bucket.bytes.size(); }
  };

  // All that follow run on the strand.
  void begin();
  void read();
  io_step read_header();
  io_step read_payload();
  bool begin_frame();
  void deliver();
  void write();
  bool next_to_write();
  io_step write_once();
  void when(io_status wanted, void (channel_impl::*then)());
  void watch();
  std::optional<failure> overdue(clock::time_point now) const;
  void finish(failure why);

  /// Ends from any thread; `life_` is spent already.
  void finish_later(failure why);

  const greeting peer_;
  const std::string peer_address_;
  const channel_options options_;
  const std::uint64_t take_bytes_max_;  ///< largest payload from the peer

  mutable std::mutex mutex_;  // of life_, queue_, queued_bytes_, writing_
  life life_ = life::fresh;
  std::deque<outgoing> queue_;
  std::uint64_t queued_bytes_ = 0;  ///< with those of the frame on its way
  bool writing_ = false;            ///< write() runs or will

  std::atomic<std::uint64_t> frames_sent_{0};
  std::atomic<std::uint64_t> frames_received_{0};
  std::atomic<std::uint64_t> payload_bytes_sent_{0};
  std::atomic<std::uint64_t> payload_bytes_received_{0};

  // What follows belongs to the strand once started.
  boost::asio::ip::tcp::socket socket_;
  std::unique_ptr<byte_stream> stream_;
  boost::asio::steady_timer timer_;
  bucket_handler on_bucket_;
  closed_handler on_closed_;
  bool finished_ = false;

  std::shared_ptr<buffer_pool> pool_;
  std::array<std::byte, bulk_header_bytes> header_{};
  std::size_t header_got_ = 0;
  bulk_header frame_;
  std::vector<std::byte> payload_;
  std::size_t payload_got_ = 0;
  clock::time_point frame_begun_;

  std::optional<outgoing> outgoing_;
  clock::time_point progress_;  ///< when the peer last took bytes, or there began to be some
  bool owes_progress_ = false;
};

}  // namespace lockstep
