// Decides how one process at a time is let at files that several share.
#pragma once

#include <chrono>
#include <filesystem>
#include <functional>

namespace lockstep {

/// Held by one process at a time until its owner is gone, however it ends. The file is made where
/// it is missing (its directory is not), and stays: who removed it would let two in. Movable.
class file_lock {
 public:
  /// Waits for as long as `patience` where another process has it. Throws `error{unwritable}` that
  /// names the file, `error{timeout}` when the patience is over, `error{shut_down}` if `stopping`
  /// (may be empty) says so before.
  file_lock(const std::filesystem::path& file, std::chrono::milliseconds patience,
            const std::function<bool()>& stopping = {});
  file_lock(file_lock&& other) noexcept;
  file_lock& operator=(file_lock&&) = delete;
  ~file_lock();

 private:
  int descriptor_ = -1;
};

}  // namespace lockstep
