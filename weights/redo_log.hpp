// Decides how changes of a checkpoint's files are written down before they are made, so that making
// them can be repeated after any interruption.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

struct XXH3_state_s;

namespace lockstep {

class file_writer;

/// What a log must be to be believed.
struct redo_seal {
  std::uint64_t bytes = 0;
  std::string digest;  ///< XXH3-128 of all of it, 32 hexadecimal digits
};

/// Writes a log: new bytes and where they go, no old ones. Not thread-safe but for `add`.
class redo_log {
 public:
  /// Length in bytes of the longest window.
  static constexpr std::size_t window_bytes_max = std::size_t{1} << 20;

  /// Replaces `file`. Throws `error{unwritable}`.
  explicit redo_log(const std::filesystem::path& file);
  ~redo_log();

  /// Adds what turns `old`, at byte `offset` of file number `file`, into `fresh` (both as long, at
  /// most `window_bytes_max`). Returns how many bytes differ.
  std::size_t add(std::uint32_t file, std::uint64_t offset, std::span<const std::byte> old,
                  std::span<const std::byte> fresh);
  /// Makes the log durable.
  redo_seal seal();

 private:
  std::mutex mutex_;
  std::unique_ptr<file_writer> out_;
  std::unique_ptr<XXH3_state_s, void (*)(XXH3_state_s*)> hash_;
  std::uint64_t bytes_ = 0;
};

/// Whether `log` is there and is what `seal` says. Throws `error{shut_down}` soon after `stopping`
/// (may be empty) says so.
bool is_sealed(const std::filesystem::path& log, const redo_seal& seal,
               const std::function<bool()>& stopping = {});

/// Makes the changes of a sealed log in `files` and makes them durable. The result is the same
/// however much of it had been made before. Returns how many bytes were rewritten. Throws
/// `error{bad_input}` on what no redo_log can have written, `error{unwritable}`.
std::uint64_t redo(const std::filesystem::path& log,
                   const std::vector<std::filesystem::path>& files);

}  // namespace lockstep
