// Decides how one process at a time is let at files that several share.
#pragma once

#include <chrono>
#include <filesystem>
#include <functional>

namespace lockstep {

/// Held by one process at a time until its owner is gone, however it ends. The file is made where
/// it is missing (its directory is not), and stays: who removes it lets two in. Movable.
class file_lock {
 public:
  /// Waits for as long as `patience` where another process has it, and at least a second for those
  /// who only look (`is_locked`); what is held on return is the file that stands there then. Throws
  /// `error{unwritable}` that names the file, `error{timeout}` when the patience is over,
  /// `error{shut_down}` if `stopping` (may be empty) says so before.
  file_lock(const std::filesystem::path& file, std::chrono::milliseconds patience,
            const std::function<bool()>& stopping = {});
  file_lock(file_lock&& other) noexcept;
  file_lock& operator=(file_lock&&) = delete;
  ~file_lock();

  /// Throws the `try_again_error` among `error{unwritable}` if the file was removed or replaced
  /// since: another process may hold the one that stands there.
  void require_in_place() const;

 private:
  bool is_in_place() const;
  void close() noexcept;

  std::filesystem::path file_;
  int descriptor_ = -1;
};

/// Whether another process has the lock `file` now; false where there is none. Makes nothing, and
/// has it for no longer than it takes to ask. Throws `error{unwritable}`.
bool is_locked(const std::filesystem::path& file);

}  // namespace lockstep
