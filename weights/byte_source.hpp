// Decides how compressed bytes are read that need not be in memory: once, from the front, a piece
// at a time. Private to weights/ and the program.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace lockstep {

class plain_file;

/// Bytes in memory, or a range of a file. Files are read and not mapped: one that somebody cuts
/// short under way is then an error and no signal. Movable; not thread-safe.
class byte_source {
 public:
  /// `bytes` must outlive this.
  byte_source(std::span<const std::byte> bytes) : piece_(bytes) {}
  /// Bytes [offset, offset + size) of `file`, which must outlive this.
  byte_source(const plain_file& file, std::uint64_t offset, std::uint64_t size)
      : file_(&file), offset_(offset), unread_(size) {}
  byte_source(byte_source&&) noexcept = default;
  byte_source& operator=(byte_source&&) noexcept = default;

  /// Another one that has yet to read what this one has yet to.
  byte_source twin() const;

  /// How many bytes are left.
  std::uint64_t left() const noexcept { return piece_.size() + unread_; }
  /// What comes next: at least `least` bytes, or all that are left. Valid until the next call.
  /// Throws `error{bad_input}` if the file ends before that.
  std::span<const std::byte> peek(std::size_t least);
  /// Goes past `count` bytes, of those that were seen last; they stay valid.
  void skip(std::size_t count) { piece_ = piece_.subspan(count); }

 private:
  const plain_file* file_ = nullptr;
  std::uint64_t offset_ = 0;  // in the file, of the first byte that was not read
  std::uint64_t unread_ = 0;
  std::vector<std::byte> buffer_;
  std::span<const std::byte> piece_;  // of the buffer, or all there is
};

}  // namespace lockstep
