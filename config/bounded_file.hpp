// Decides how a file that somebody names is read whole without trusting its length.
#pragma once

#include <cstddef>
#include <filesystem>
#include <optional>
#include <string>

namespace lockstep {

/// The bytes of a file; of one that has more than `bytes_max`, one more than these, so that it is
/// seen to be too long. Nothing where it cannot be opened or read, or is no regular file: a pipe or
/// a device is refused without waiting for it.
std::optional<std::string> read_at_most(const std::filesystem::path& path, std::size_t bytes_max);

}  // namespace lockstep
