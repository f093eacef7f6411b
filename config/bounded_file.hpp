// Decides how a file that somebody names is read whole without trusting its length.
#pragma once

#include <cstddef>
#include <filesystem>
#include <stdexcept>
#include <string>

namespace lockstep {

/// Why a file was not read: "No such file or directory", "not a regular file", "larger than …".
class unreadable : public std::runtime_error {
 public:
  explicit unreadable(const std::string& what, int code = 0)
      : std::runtime_error(what), code_(code) {}
  /// What the system said, as in `errno`; 0 where it did not refuse.
  int code() const noexcept { return code_; }

 private:
  int code_;
};

/// The bytes of a file. Throws `unreadable` where it cannot be opened or read, has more than
/// `bytes_max`, or is no regular file: a pipe or a device is refused without waiting for it.
std::string read_at_most(const std::filesystem::path& path, std::size_t bytes_max);

}  // namespace lockstep
