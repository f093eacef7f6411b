// Decides how much of TLS is taken from a dialer that has proven nothing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace lockstep {

/// The longest ClientHello, bytes.
inline constexpr std::size_t client_hello_bytes_max = 4 << 10;
/// All that a dialer sends before it is known: its hello, twice where another group is asked for,
/// and its certificates.
inline constexpr std::size_t handshake_bytes_max = 24 << 10;

/// Reads along with OpenSSL, which allows a ClientHello of 128 KiB and makes room for all that its
/// first four bytes promise. Messages that are encrypted, as certificates are, OpenSSL keeps within
/// `SSL_CTX_set_max_cert_list` itself. Not thread-safe.
class handshake_bound {
 public:
  /// Hears what was received next. Whether it keeps to both bounds so far.
  bool take(std::span<const char> bytes) noexcept {
    total_ += bytes.size();
    if (total_ > handshake_bytes_max) return false;
    for (const char c : bytes)
      if (!step(static_cast<std::uint8_t>(c))) return false;
    return true;
  }

 private:
  /// RFC 8446, 5.1: type, two bytes of version, two of length; 4: type, three of length. A
  /// message's header may be parted over records.
  bool step(std::uint8_t byte) noexcept {
    if (record_left_ == 0) {
      if (record_header_ == 0) in_clear_ = byte == handshake_type;
      record_length_ = (record_length_ << 8 | byte) & 0xffff;
      if (++record_header_ < 5) return true;
      record_header_ = 0;
      record_left_ = record_length_;
      return true;
    }
    --record_left_;
    if (!in_clear_) return true;
    if (message_left_ > 0) {
      --message_left_;
      return true;
    }
    message_length_ = (message_length_ << 8 | byte) & 0xff'ffff;
    if (++message_header_ < 4) return true;
    message_header_ = 0;
    message_left_ = message_length_;
    return message_left_ <= client_hello_bytes_max;
  }

  static constexpr std::uint8_t handshake_type = 22;

  std::size_t total_ = 0;
  bool in_clear_ = false;
  unsigned record_header_ = 0;  // bytes of it that are there
  std::uint32_t record_length_ = 0;
  std::uint32_t record_left_ = 0;
  unsigned message_header_ = 0;
  std::uint32_t message_length_ = 0;
  std::uint32_t message_left_ = 0;
};

}  // namespace lockstep
