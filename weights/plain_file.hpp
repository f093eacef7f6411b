// Decides how files are read and changed in place, and copied, without mapping them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>

namespace lockstep {

/// An open regular file. Movable. Thread-safe but for moves: positions are given with each call.
class plain_file {
 public:
  enum class access { read, write };  ///< write: read as well, of a file that is there

  /// Follows links only for reading. Throws `error{bad_input}` (reading) or `error{unwritable}`
  /// that names the file.
  plain_file(std::filesystem::path path, access how);
  plain_file(plain_file&& other) noexcept;
  plain_file& operator=(plain_file&&) = delete;
  ~plain_file();

  const std::filesystem::path& path() const noexcept { return path_; }
  std::uint64_t size() const;
  int descriptor() const noexcept { return descriptor_; }

  /// Fills `out` from byte `offset`. Throws `error{bad_input}` where the file ends before that.
  void read(std::uint64_t offset, std::span<std::byte> out) const;
  /// Throws `error{unwritable}`.
  void write(std::uint64_t offset, std::span<const std::byte> bytes);
  /// Makes what was written durable. Throws `error{unwritable}`.
  void sync();

 private:
  std::filesystem::path path_;
  int descriptor_ = -1;
};

/// All of a file, which must be at most `bytes_max` long. Throws `error{bad_input}`.
std::string read_small(const std::filesystem::path& path, std::size_t bytes_max);

/// Makes `to` a durable copy of `from`; whatever stood there is replaced without being written
/// through. Holes stay holes, and file systems that can share blocks do. `copied` (may be empty) is
/// told of each so many further bytes, no more than 16 MiB of them read and written; what it throws
/// goes on, and leaves what there is of the copy. Throws `error`.
void copy_whole(const std::filesystem::path& from, const std::filesystem::path& to,
                const std::function<void(std::uint64_t bytes)>& copied = {});

/// Removes a file if it is there. Throws `error{unwritable}`.
void remove_file(const std::filesystem::path& path);

/// Removes a directory if it is there, with all that is in it. Throws `error{unwritable}`.
void remove_directory(const std::filesystem::path& dir);

}  // namespace lockstep
