// Decides how bytes enter and leave a connected socket, in clear or under TLS, without waiting.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "transport/failure.hpp"
#include "transport/greeting.hpp"

namespace lockstep {

/// What became of one try.
enum class io_status : std::uint8_t {
  ok,          ///< some bytes went through, or all is done
  want_read,   ///< try again when the socket can be read
  want_write,  ///< try again when the socket can be written
  end,         ///< the peer sends no more
  failed       ///< the connection is of no use any more; see `byte_stream::trouble`
};

struct io_step {
  io_status status = io_status::ok;
  std::size_t bytes = 0;  ///< more than zero if and only if bytes were read or taken
};

/// Who the peer is proven to be.
struct identity {
  node_role role = node_role::receiver;
  std::string name;  ///< of a receiver
};

/// One end of a connection. Does not own the socket, which must not block. Not thread-safe.
class byte_stream {
 public:
  virtual ~byte_stream() = default;

  /// What has to happen before bytes can be read or written; `ok` when done.
  virtual io_step handshake() = 0;
  /// Reads up to `into.size()` bytes, which must not be zero.
  virtual io_step read_some(std::span<std::byte> into) = 0;
  /// Takes some of `head`, then of `body`; not both may be empty. What was taken need not be kept.
  virtual io_step write_some(std::span<const std::byte> head, std::span<const std::byte> body) = 0;
  /// `ok` when all that was taken is with the system.
  virtual io_step flush() = 0;
  /// Tells the peer that nothing follows; after a `flush`.
  virtual void finish_writes() = 0;
  /// Many bytes will pass: larger buffers pay.
  virtual void expect_bulk() = 0;
  /// Whom TLS with certificates has proven the peer to be; `untrusted` where it names no role.
  /// Nothing where nobody is checked, or a shared key is.
  virtual std::optional<identity> proven() const = 0;

  /// Whether the bytes on the socket are those that are read and written here.
  virtual bool is_plain() const noexcept = 0;
  /// Why a step failed.
  const failure& trouble() const noexcept { return trouble_; }

 protected:
  io_step fail(errc reason, std::string detail) {
    trouble_ = {reason, std::move(detail)};
    return {io_status::failed, 0};
  }

 private:
  failure trouble_;
};

/// The bytes as they are.
std::unique_ptr<byte_stream> make_clear_stream(int socket);

/// One `sendmsg` that raises no signal. Bytes, or -1 with `errno`.
std::ptrdiff_t send_gathered(int socket, std::span<const std::byte> head,
                             std::span<const std::byte> body) noexcept;

}  // namespace lockstep
