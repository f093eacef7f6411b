#include "transport/byte_stream.hpp"

#include <sys/socket.h>
#include <sys/uio.h>

#include <array>
#include <cerrno>
#include <system_error>

namespace lockstep {

std::ptrdiff_t send_gathered(int socket, std::span<const std::byte> head,
                             std::span<const std::byte> body) noexcept {
  // The system's type has no const.
  const auto part = [](std::span<const std::byte> bytes) {
    return iovec{const_cast<std::byte*>(bytes.data()), bytes.size()};
  };
  std::array parts{part(head), part(body)};
  msghdr message{};
  message.msg_iov = parts.data();
  message.msg_iovlen = parts.size();
  std::ptrdiff_t sent = 0;
  do {
    sent = sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
  } while (sent < 0 && errno == EINTR);
  return sent;
}

namespace {

class clear_stream final : public byte_stream {
 public:
  explicit clear_stream(int socket) : socket_(socket) {}

  io_step handshake() override { return {}; }

  io_step read_some(std::span<std::byte> into) override {
    std::ptrdiff_t got = 0;
    do {
      got = recv(socket_, into.data(), into.size(), MSG_DONTWAIT);
    } while (got < 0 && errno == EINTR);
    if (got > 0) return {io_status::ok, static_cast<std::size_t>(got)};
    if (got == 0) return {io_status::end, 0};
    return trouble_of(io_status::want_read);
  }

  io_step write_some(std::span<const std::byte> head, std::span<const std::byte> body) override {
    const auto sent = send_gathered(socket_, head, body);
    if (sent >= 0) return {io_status::ok, static_cast<std::size_t>(sent)};
    return trouble_of(io_status::want_write);
  }

  io_step flush() override { return {}; }
  void finish_writes() override { shutdown(socket_, SHUT_WR); }
  void expect_bulk() override {}
  std::optional<identity> proven() const override { return {}; }
  bool is_plain() const noexcept override { return true; }

 private:
  io_step trouble_of(io_status again) {
    if (errno == EAGAIN || errno == EWOULDBLOCK) return {again, 0};
    const auto reason = errno == ETIMEDOUT ? errc::timeout : errc::dead;
    return fail(reason, std::generic_category().message(errno));
  }

  int socket_;
};

}  // namespace

std::unique_ptr<byte_stream> make_clear_stream(int socket) {
  return std::make_unique<clear_stream>(socket);
}

}  // namespace lockstep
