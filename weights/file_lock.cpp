#include "weights/file_lock.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <thread>
#include <utility>

#include "messages/one_line.hpp"
#include "messages/transient.hpp"
#include "weights/file.hpp"
#include "weights/system_call.hpp"
#include "weights/unwritable.hpp"

namespace lockstep {

namespace {

constexpr std::chrono::milliseconds pause(20);
// For who only looks whether it is held, which takes a moment (`is_locked`).
constexpr std::chrono::milliseconds look_patience(1000);

// Whether those who have the lock share it: nobody works under it.
bool is_only_looked_at(int descriptor) {
  if (::flock(descriptor, LOCK_SH | LOCK_NB) != 0) return false;
  ::flock(descriptor, LOCK_UN);
  return true;
}

}  // namespace

file_lock::file_lock(const std::filesystem::path& file, std::chrono::milliseconds patience,
                     const std::function<bool()>& stopping)
    : file_(file) {
  const auto begun = std::chrono::steady_clock::now();
  for (;;) {
    if (descriptor_ < 0)
      descriptor_ = uninterrupted([&] {
        return ::open(file_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0666);
      });
    if (descriptor_ < 0) refuse_write(file_, "cannot be opened", errno);
    const auto code = ::flock(descriptor_, LOCK_EX | LOCK_NB) == 0 ? 0 : errno;
    if (code == 0 && is_in_place()) return;
    // Whoever comes next would lock the file that stands there now, beside us.
    if (code == 0) close();
    const bool held = code == 0 || code == EWOULDBLOCK || code == EINTR;
    const bool stop = held && stopping && stopping();
    const auto waited = std::chrono::steady_clock::now() - begun;
    const bool wait = waited < patience ||
                      (code != 0 && waited < look_patience && is_only_looked_at(descriptor_));
    if (held && !stop && wait) {
      if (code != 0) std::this_thread::sleep_for(pause);
      continue;
    }
    close();
    if (!held) refuse_write(file_, "cannot be locked", code);
    if (stop) refuse(errc::shut_down, file_, "is not waited for any more");
    refuse(errc::timeout, file_,
           fmt::format("is held by another process for more than {} ms", patience.count()));
  }
}

file_lock::file_lock(file_lock&& other) noexcept
    : file_(std::move(other.file_)), descriptor_(std::exchange(other.descriptor_, -1)) {}

file_lock::~file_lock() {
  close();
}

void file_lock::close() noexcept {
  if (descriptor_ >= 0) ::close(std::exchange(descriptor_, -1));
}

bool file_lock::is_in_place() const {
  struct stat ours {};
  struct stat there {};
  return ::fstat(descriptor_, &ours) == 0 && ::lstat(file_.c_str(), &there) == 0 &&
         ours.st_dev == there.st_dev && ours.st_ino == there.st_ino;
}

void file_lock::require_in_place() const {
  if (is_in_place()) return;
  throw try_again_error(errc::unwritable,
                        one_line(file_.native()) +
                            ": was removed or replaced while it was held: somebody else may be at "
                            "work there; try again, and leave it alone");
}

bool is_locked(const std::filesystem::path& file) {
  const int descriptor = uninterrupted(
      [&] { return ::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK); });
  if (descriptor < 0 && errno == ENOENT) return false;
  if (descriptor < 0) refuse_write(file, "cannot be opened", errno);
  const bool free = ::flock(descriptor, LOCK_SH | LOCK_NB) == 0;
  const auto code = errno;
  ::close(descriptor);
  if (!free && code != EWOULDBLOCK) refuse_write(file, "cannot be locked", code);
  return !free;
}

}  // namespace lockstep
