#include "transport/opening.hpp"

#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <new>
#include <utility>

#include "transport/channel_impl.hpp"
#include "transport/security_impl.hpp"

namespace lockstep {

namespace asio = boost::asio;

namespace {

constexpr std::chrono::milliseconds linger_time{500};

}  // namespace

void opening::limit(std::chrono::milliseconds deadline, std::function<void()> then) {
  timer_.expires_after(deadline);
  timer_.async_wait([this, then = std::move(then)](boost::system::error_code failed) {
    if (!failed && !over_) then();
  });
}

failure opening::trouble(const io_step& step) const {
  if (step.status == io_status::end) return {errc::dead, "closed before the greetings were over"};
  return stream_->trouble();
}

template <class Then>
void opening::again(io_status wanted, void (opening::*step)(Then), Then then) {
  const auto kind = wanted == io_status::want_write ? asio::ip::tcp::socket::wait_write
                                                    : asio::ip::tcp::socket::wait_read;
  // An error of the socket shows when it is used.
  socket.async_wait(kind, [this, step, then = std::move(then)](boost::system::error_code) mutable {
    if (!over_) (this->*step)(std::move(then));
  });
}

void opening::secure(const security& guard, bool accepts, std::function<void(failure)> then) {
  try {
    stream_ = guard.internals().wrap(socket.native_handle(), accepts);
  } catch (const std::bad_alloc&) {
    return then({errc::no_memory, "no memory for a connection"});
  }
  step_secure(std::move(then));
}

void opening::step_secure(std::function<void(failure)> then) {
  const auto step = stream_->handshake();
  if (step.status == io_status::ok) return then({});
  if (step.status == io_status::want_read || step.status == io_status::want_write)
    return again(step.status, &opening::step_secure, std::move(then));
  then(trouble(step));
}

void opening::send(frame bytes, std::function<void(failure)> then) {
  out_ = std::move(bytes);
  sent_ = 0;
  step_send(std::move(then));
}

void opening::step_send(std::function<void(failure)> then) {
  io_step step;
  while (step.status == io_status::ok && sent_ < out_.size()) {
    step = stream_->write_some(std::span(out_).subspan(sent_), {});
    sent_ += step.bytes;
  }
  if (step.status == io_status::ok) step = stream_->flush();
  if (step.status == io_status::ok) return then({});
  if (step.status == io_status::want_read || step.status == io_status::want_write)
    return again(step.status, &opening::step_send, std::move(then));
  then(trouble(step));
}

void opening::receive(frame_length length, std::function<void(std::variant<frame, failure>)> then) {
  length_ = length;
  in_.assign(greeting_header_bytes, std::byte{0});
  got_ = 0;
  step_receive(std::move(then));
}

void opening::step_receive(std::function<void(std::variant<frame, failure>)> then) {
  for (;;) {
    const auto step = stream_->read_some(std::span(in_).subspan(got_));
    got_ += step.bytes;
    if (step.status == io_status::want_read || step.status == io_status::want_write)
      return again(step.status, &opening::step_receive, std::move(then));
    if (step.status != io_status::ok) return then(trouble(step));
    if (got_ < in_.size()) continue;
    if (in_.size() > greeting_header_bytes) return then(std::move(in_));
    const auto bytes = length_(std::span(in_).first<greeting_header_bytes>());
    if (const auto* why = std::get_if<failure>(&bytes)) return then(*why);
    in_.resize(std::get<std::size_t>(bytes));
  }
}

void opening::linger(std::function<void()> then) {
  boost::system::error_code ignored;
  socket.shutdown(asio::ip::tcp::socket::shutdown_send, ignored);
  limit(linger_time, then);
  step_linger(std::move(then));
}

void opening::step_linger(std::function<void()> then) {
  std::array<std::byte, greeting_bytes_max> scrap;
  const auto got = recv(socket.native_handle(), scrap.data(), scrap.size(), MSG_DONTWAIT);
  if (got == 0 || (got < 0 && errno != EAGAIN && errno != EWOULDBLOCK)) return then();
  again(io_status::want_read, &opening::step_linger, std::move(then));
}

void opening::close() {
  over_ = true;
  boost::system::error_code ignored;
  timer_.cancel(ignored);
  socket.close(ignored);
}

std::shared_ptr<channel> opening::to_channel(greeting own, greeting peer, std::string peer_address,
                                             const channel_options& options) {
  over_ = true;
  boost::system::error_code ignored;
  timer_.cancel(ignored);
  return std::make_shared<channel_impl>(channel_parts{std::move(socket), std::move(stream_),
                                                      std::move(own), std::move(peer),
                                                      std::move(peer_address), options});
}

failure check_identity(const security& guard, const std::optional<identity>& proven,
                       const greeting& claimed) {
  if (guard.mode() != security_mode::certificates) return {};
  if (!proven) return {errc::untrusted, "the certificate names no role"};
  if (proven->role != claimed.role)
    return {errc::untrusted, "the certificate's role is " + std::string(to_string(proven->role)) +
                                 ", not " + std::string(to_string(claimed.role))};
  if (proven->role == node_role::receiver && proven->name != claimed.name)
    return {errc::untrusted, "the certificate is that of another receiver"};
  return {};
}

}  // namespace lockstep
