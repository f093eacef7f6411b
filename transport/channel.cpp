#include "transport/channel.hpp"

#include <algorithm>
#include <boost/asio/post.hpp>
#include <new>
#include <utility>

#include "transport/channel_impl.hpp"
#include "transport/relay.hpp"

namespace lockstep {

namespace asio = boost::asio;

namespace {

/// What a channel keeps of received buffers for those to come.
constexpr std::size_t pool_bytes_max = 32 << 20;

/// How often deadlines are looked at.
std::chrono::milliseconds tick_of(const channel_options& options) {
  using namespace std::chrono_literals;
  return std::clamp(std::min(options.frame_deadline, options.write_deadline) / 8,
                    std::chrono::milliseconds(5ms), std::chrono::milliseconds(250ms));
}

}  // namespace

channel_impl::channel_impl(channel_parts parts)
    : peer_(std::move(parts.peer)),
      peer_address_(std::move(parts.peer_address)),
      options_(parts.options),
      take_bytes_max_(std::min(parts.own.payload_bytes_max, payload_bytes_max)),
      socket_(std::move(parts.socket)),
      stream_(std::move(parts.stream)),
      timer_(socket_.get_executor()),
      pool_(std::make_shared<buffer_pool>(pool_bytes_max)) {}

int channel_impl::release() {
  const std::lock_guard lock(mutex_);
  if (std::exchange(life_, life::spent) != life::fresh)
    throw error(errc::shut_down, "the channel was closed or used before");
  if (stream_->is_plain()) {
    boost::system::error_code failed;
    const int fd = socket_.release(failed);
    if (failed) throw error(errc::dead, failed.message());
    return fd;
  }
  return release_through_relay({std::move(socket_), std::move(stream_), options_.write_deadline});
}

void channel_impl::start(bucket_handler on_bucket, closed_handler on_closed) {
  const std::lock_guard lock(mutex_);
  if (life_ != life::fresh) throw error(errc::shut_down, "the channel was closed or used before");
  on_bucket_ = std::move(on_bucket);
  on_closed_ = std::move(on_closed);
  asio::post(socket_.get_executor(), [self = shared_from_this()] { self->begin(); });
  life_ = life::started;
}

void channel_impl::begin() {
  if (finished_) return;
  try {
    stream_->expect_bulk();
  } catch (const std::bad_alloc&) {
    return finish({errc::no_memory, "no memory for a channel"});
  }
  watch();
  read();
}

void channel_impl::close() {
  const std::lock_guard lock(mutex_);
  const auto before = std::exchange(life_, life::spent);
  if (before == life::started) finish_later({errc::detached, "closed on this side"});
  if (before != life::fresh) return;
  boost::system::error_code ignored;
  socket_.close(ignored);
}

void channel_impl::finish_later(failure why) {
  asio::post(socket_.get_executor(), [self = shared_from_this(), why = std::move(why)]() mutable {
    self->finish(std::move(why));
  });
}

void channel_impl::finish(failure why) {
  if (std::exchange(finished_, true)) return;
  std::deque<outgoing> dropped;
  {
    const std::lock_guard lock(mutex_);
    life_ = life::spent;
    dropped.swap(queue_);
    queued_bytes_ = 0;
  }
  outgoing_.reset();
  payload_ = {};
  boost::system::error_code ignored;
  timer_.cancel(ignored);
  socket_.close(ignored);
  on_bucket_ = nullptr;
  if (const auto on_closed = std::exchange(on_closed_, nullptr)) on_closed(why);
}

std::uint64_t channel_impl::queued_bytes() const noexcept {
  const std::lock_guard lock(mutex_);
  return queued_bytes_;
}

channel_counters channel_impl::counters() const noexcept {
  return {frames_sent_, frames_received_, payload_bytes_sent_, payload_bytes_received_};
}

void channel_impl::when(io_status wanted, void (channel_impl::*then)()) {
  const auto kind = wanted == io_status::want_write ? asio::ip::tcp::socket::wait_write
                                                    : asio::ip::tcp::socket::wait_read;
  // An error of the socket shows when it is used.
  socket_.async_wait(kind, [self = shared_from_this(), then](boost::system::error_code) {
    if (!self->finished_) (self.get()->*then)();
  });
}

// Looks at the deadlines now and then, which costs less than a timer for every frame.
void channel_impl::watch() {
  const auto tick = tick_of(options_);
  timer_.expires_after(tick);
  timer_.async_wait([self = shared_from_this(), due = clock::now() + tick,
                     tick](boost::system::error_code failed) {
    if (failed || self->finished_) return;
    const auto now = clock::now();
    // While this process was stopped nobody could have kept a deadline.
    if (now - due > 2 * tick) {
      self->frame_begun_ += now - due;
      self->progress_ += now - due;
    }
    if (auto late = self->overdue(now))
      self->finish(std::move(*late));
    else
      self->watch();
  });
}

std::optional<failure> channel_impl::overdue(clock::time_point now) const {
  if (header_got_ > 0) {
    const auto bytes = header_.size() + frame_.payload_bytes;
    const auto allowed =
        options_.frame_deadline +
        std::chrono::milliseconds(bytes * 1'000 /
                                  std::max<std::uint64_t>(options_.frame_bytes_per_s, 1));
    if (now - frame_begun_ > allowed)
      return failure{errc::timeout, "a frame that began was not whole in time"};
  }
  if (owes_progress_ && now - progress_ > options_.write_deadline)
    return failure{errc::timeout, "the peer took no byte for too long"};
  return {};
}

}  // namespace lockstep
