// Decides how a stream of bytes is cut into messages.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <variant>
#include <vector>

#include "messages/wire.hpp"

namespace lockstep {

/// Longest control message in bytes, header and checksum included: a manifest of 170,000 buckets,
/// or the digests of 260,000 tensors. Buckets travel apart.
inline constexpr std::uint64_t control_bytes_max = 4ull << 20;

/// Cuts what arrives from one peer into messages. Holds no more than was fed, and refuses a message
/// whose header promises more than the limit before any of its body is there. Not thread-safe.
class wire_stream {
 public:
  explicit wire_stream(std::uint64_t bytes_max = control_bytes_max, const wire_limits& limits = {})
      : bytes_max_(bytes_max), limits_(limits) {}

  void feed(std::span<const std::byte> bytes);

  /// The next message that is complete, or why the stream is none; nothing until more bytes come.
  /// A stream that failed stays failed: where the next message would start is not known.
  std::optional<std::variant<wire_message, wire_failure>> next();

  /// Bytes that are held.
  std::size_t size() const noexcept { return buffer_.size() - begin_; }

 private:
  std::uint64_t bytes_max_;
  wire_limits limits_;
  std::vector<std::byte> buffer_;
  std::size_t begin_ = 0;
  std::optional<wire_failure> failed_;
};

}  // namespace lockstep
