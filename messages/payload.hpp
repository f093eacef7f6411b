// Decides how bulk bytes travel: shared inside a process, length-checked across one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "messages/ids.hpp"

namespace lockstep {

/// Largest payload a peer may make us allocate while deserialising one message, in bytes. Settings
/// can only lower what is accepted after that.
inline constexpr std::uint64_t payload_bytes_max = 64ull << 20;

/// Immutable bytes with shared ownership. Copying copies a pointer; sending it to any number of
/// local actors copies nothing. Its `inspect` stands with the type ids, since bounding a load needs
/// CAF's error type.
class payload {
 public:
  payload() = default;
  explicit payload(std::vector<std::byte> bytes)
      : bytes_(std::make_shared<const std::vector<std::byte>>(std::move(bytes))) {}

  const std::byte* data() const noexcept { return bytes_ ? bytes_->data() : nullptr; }
  std::size_t size() const noexcept { return bytes_ ? bytes_->size() : 0; }

 private:
  std::shared_ptr<const std::vector<std::byte>> bytes_;
};

}  // namespace lockstep
