// Decides how long work that is told to stop ends. Private to weights/.
#pragma once

#include <filesystem>
#include <functional>

#include "weights/file.hpp"

namespace lockstep {

/// Throws `error{shut_down}` that names `at`, which is not done with, if `stopping` (may be empty)
/// says so.
inline void heed(const std::function<bool()>& stopping, const std::filesystem::path& at) {
  if (stopping && stopping()) refuse(errc::shut_down, at, "is not gone through: told to stop");
}

}  // namespace lockstep
