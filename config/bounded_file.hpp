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
  using std::runtime_error::runtime_error;
};

/// The bytes of a file. Throws `unreadable` where it cannot be opened or read, has more than
/// `bytes_max`, or is no regular file: a pipe or a device is refused without waiting for it.
std::string read_at_most(const std::filesystem::path& path, std::size_t bytes_max);

}  // namespace lockstep
