// Decides where the bytes of received payloads lie: in memory that earlier ones have warmed.
#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <vector>

#include "messages/payload.hpp"

namespace lockstep {

/// Buffers of payloads that nobody holds any more, up to a sum of bytes. The system's pages come
/// zeroed, and zeroing costs as much as receiving. Thread-safe.
class buffer_pool : public std::enable_shared_from_this<buffer_pool> {
 public:
  using buffer = std::vector<std::byte>;

  explicit buffer_pool(std::size_t bytes_max) : bytes_max_(bytes_max) {}

  /// A buffer of any size and content, perhaps empty.
  buffer take();
  /// Gives `bytes` to whoever holds the payload, and takes them back after the last of them, if the
  /// pool is still there then.
  payload lend(buffer bytes);
  void give(buffer bytes) noexcept;

 private:
  const std::size_t bytes_max_;
  std::mutex mutex_;  // of what follows
  std::size_t bytes_ = 0;
  std::vector<buffer> free_;
};

}  // namespace lockstep
