// Decides how bulk bytes travel: shared inside a process, length-checked across one.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

namespace lockstep {

/// Largest payload a peer may make us allocate while decoding one message, in bytes. Settings can
/// only lower what is accepted after that.
inline constexpr std::uint64_t payload_bytes_max = 64ull << 20;

/// Immutable bytes with shared ownership. Copying copies a pointer; sending it to any number of
/// local actors copies nothing.
class payload {
 public:
  payload() = default;
  explicit payload(std::vector<std::byte> bytes)
      : bytes_(std::make_shared<const std::vector<std::byte>>(std::move(bytes))) {}
  /// Shares bytes that are owned already; nobody may write them any more.
  explicit payload(std::shared_ptr<const std::vector<std::byte>> bytes) noexcept
      : bytes_(std::move(bytes)) {}

  const std::byte* data() const noexcept { return bytes_ ? bytes_->data() : nullptr; }
  std::size_t size() const noexcept { return bytes_ ? bytes_->size() : 0; }

  /// Of the bytes.
  friend bool operator==(const payload& a, const payload& b) {
    return std::equal(a.data(), a.data() + a.size(), b.data(), b.data() + b.size());
  }

 private:
  std::shared_ptr<const std::vector<std::byte>> bytes_;
};

}  // namespace lockstep
