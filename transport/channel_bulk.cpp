// The bulk side of a channel: frames in, frames out.
#include <algorithm>
#include <boost/asio/post.hpp>
#include <new>
#include <utility>

#include "transport/channel_impl.hpp"

namespace lockstep {

namespace asio = boost::asio;

namespace {

/// Memory grows by this as bytes arrive, and stays in the cache until they do.
constexpr std::size_t step_bytes = 256 << 10;

}  // namespace

// --- in

void channel_impl::read() {
  for (std::size_t turn = 0; turn < options_.turn_bytes;) {
    io_step step;
    try {
      step = header_got_ < header_.size() ? read_header() : read_payload();
    } catch (const std::bad_alloc&) {
      return finish({errc::no_memory, "no memory for a payload"});
    }
    if (finished_) return;
    turn += step.bytes;
    switch (step.status) {
      case io_status::ok:
        break;
      case io_status::want_read:
      case io_status::want_write:
        return when(step.status, &channel_impl::read);
      case io_status::end:
        return finish({errc::dead, header_got_ > 0 ? "the peer closed inside a frame"
                                                   : "the peer closed the connection"});
      case io_status::failed:
        return finish(stream_->trouble());
    }
  }
  asio::post(socket_.get_executor(), [self = shared_from_this()] {
    if (!self->finished_) self->read();
  });
}

io_step channel_impl::read_header() {
  const auto step = stream_->read_some(std::span(header_).subspan(header_got_));
  if (step.bytes == 0) return step;
  if (header_got_ == 0) {
    frame_begun_ = clock::now();
    frame_ = {};
  }
  header_got_ += step.bytes;
  if (header_got_ == header_.size() && begin_frame() && frame_.payload_bytes == 0) deliver();
  return step;
}

bool channel_impl::begin_frame() {
  auto decoded = decode_bulk_header(header_, take_bytes_max_);
  if (auto* why = std::get_if<failure>(&decoded)) {
    finish(std::move(*why));
    return false;
  }
  frame_ = std::get<bulk_header>(decoded);
  payload_got_ = 0;
  payload_ = pool_->take();
  const auto size = static_cast<std::size_t>(frame_.payload_bytes);
  if (payload_.size() > size) payload_.resize(size);
  payload_.reserve(size);
  return true;
}

io_step channel_impl::read_payload() {
  const auto size = static_cast<std::size_t>(frame_.payload_bytes);
  if (payload_got_ == payload_.size())
    payload_.resize(payload_got_ + std::min(step_bytes, size - payload_got_));
  const auto step = stream_->read_some(std::span(payload_).subspan(payload_got_));
  payload_got_ += step.bytes;
  if (payload_got_ == size) deliver();
  return step;
}

void channel_impl::deliver() {
  ++frames_received_;
  payload_bytes_received_ += frame_.payload_bytes;
  header_got_ = 0;
  on_bucket_({frame_.env, frame_.index, pool_->lend(std::exchange(payload_, {}))}, frame_.shipment);
}

// --- out

channel_impl::outgoing::outgoing(bucket_msg from, std::uint64_t shipment)
    : bucket(std::move(from)),
      header(encode_bulk_header({bucket.env, bucket.index, bucket.bytes.size(), shipment})) {}

std::span<const std::byte> channel_impl::outgoing::head() const noexcept {
  return std::span(header).subspan(std::min(sent, header.size()));
}

std::span<const std::byte> channel_impl::outgoing::body() const noexcept {
  const auto of_body = sent - std::min(sent, header.size());
  return std::span(bucket.bytes.data(), bucket.bytes.size()).subspan(of_body);
}

bool channel_impl::send(bucket_msg bucket, std::uint64_t shipment) {
  const std::uint64_t size = bucket.bytes.size();
  const std::lock_guard lock(mutex_);
  if (life_ != life::started) return false;
  failure why;
  if (size > peer_.payload_bytes_max)
    why = {errc::bad_manifest, "a payload is larger than what the peer takes"};
  else if (queue_.size() >= options_.send_queue_frames_max ||
           size > options_.send_queue_bytes_max -
                      std::min(queued_bytes_, options_.send_queue_bytes_max))
    why = {errc::no_memory, "the send queue is full"};
  if (why) {
    life_ = life::spent;
    finish_later(std::move(why));
    return false;
  }
  queue_.emplace_back(std::move(bucket), shipment);
  queued_bytes_ += size;
  if (std::exchange(writing_, true)) return true;
  asio::post(socket_.get_executor(), [self = shared_from_this()] {
    if (self->finished_) return;
    self->progress_ = clock::now();
    self->owes_progress_ = true;
    self->write();
  });
  return true;
}

/// Takes the next frame from the queue; false when there is none, and then nothing is to be done
/// until there is.
bool channel_impl::next_to_write() {
  const std::lock_guard lock(mutex_);
  if (queue_.empty()) {
    writing_ = false;
    owes_progress_ = false;
    return false;
  }
  outgoing_.emplace(std::move(queue_.front()));
  queue_.pop_front();
  return true;
}

io_step channel_impl::write_once() {
  const auto step = stream_->write_some(outgoing_->head(), outgoing_->body());
  outgoing_->sent += step.bytes;
  if (!outgoing_->done()) return step;
  const auto size = outgoing_->bucket.bytes.size();
  outgoing_.reset();
  ++frames_sent_;
  payload_bytes_sent_ += size;
  const std::lock_guard lock(mutex_);
  queued_bytes_ -= std::min<std::uint64_t>(size, queued_bytes_);
  return step;
}

void channel_impl::write() {
  for (std::size_t turn = 0; turn < options_.turn_bytes;) {
    io_step step;
    if (!outgoing_) step = stream_->flush();
    if (step.status == io_status::ok && (outgoing_ || next_to_write()))
      step = write_once();
    else if (step.status == io_status::ok)
      return;
    turn += step.bytes;
    if (step.bytes > 0) progress_ = clock::now();
    if (step.status == io_status::failed) return finish(stream_->trouble());
    if (step.status != io_status::ok) return when(step.status, &channel_impl::write);
  }
  asio::post(socket_.get_executor(), [self = shared_from_this()] {
    if (!self->finished_) self->write();
  });
}

}  // namespace lockstep
