// Decides how files are opened, mapped and replaced, and how names look in a message.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "messages/errors.hpp"
#include "messages/printable.hpp"
#include "weights/durability.hpp"

namespace lockstep {

/// `text` as `printable` has it, in single quotes, for tensor names.
std::string in_quotes(std::string_view text);

/// Throws `error{code}` with the message `<file>: <what>`.
[[noreturn]] void refuse(errc code, const std::filesystem::path& file, const std::string& what);

/// Whether anything stands at `path`, a dangling link included. Throws `error{bad_input}` if that
/// cannot be found out.
bool stands(const std::filesystem::path& path);

/// Whether a directory stands at `path`, or where it leads. Throws as `stands` does.
bool leads_to_directory(const std::filesystem::path& path);

/// Makes `dir` with all that leads to it; one that is there, or a link to one, is well. Throws
/// `error{unwritable}`, which names what could not be made.
void make_directories(const std::filesystem::path& dir);

/// Paths of all that stands in a directory, ascending. Throws `error{bad_input}`.
std::vector<std::filesystem::path> files_in(const std::filesystem::path& dir);

/// A regular file, mapped read-only. Links are followed (Hugging Face caches are made of them);
/// anything that is not a regular file in the end is refused without waiting for it. Movable.
class mapped_file {
 public:
  /// Throws `error{bad_input}` that names the file.
  explicit mapped_file(std::filesystem::path path);
  mapped_file(mapped_file&& other) noexcept;
  mapped_file& operator=(mapped_file&&) = delete;
  ~mapped_file();

  std::span<const std::byte> bytes() const noexcept { return bytes_; }
  const std::filesystem::path& path() const noexcept { return path_; }

 private:
  std::filesystem::path path_;
  std::span<const std::byte> bytes_;
};

/// A file that appears whole or not at all: written as `<path>.tmp`, synced, renamed. Makes missing
/// parent directories. Every failure throws `error{unwritable}` that names the file; the temporary
/// is removed unless `commit` returned.
class file_writer {
 public:
  explicit file_writer(std::filesystem::path path);
  file_writer(const file_writer&) = delete;
  file_writer& operator=(const file_writer&) = delete;
  ~file_writer();

  void write(std::span<const std::byte> bytes);
  /// Overwrites what was written at `offset` or will be.
  void write_at(std::uint64_t offset, std::span<const std::byte> bytes);
  void write(std::string_view text) { write(std::as_bytes(std::span(text))); }
  /// Not synced, a machine that loses power may leave a torn file under the name.
  void commit(durability how = durability::synced);

 private:
  [[noreturn]] void fail(const char* step) const;

  std::filesystem::path path_;
  std::filesystem::path temporary_;
  int descriptor_ = -1;
};

/// Makes names in `dir` durable. Throws `error{unwritable}`.
void sync_directory(const std::filesystem::path& dir);

}  // namespace lockstep
