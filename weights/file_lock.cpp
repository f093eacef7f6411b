#include "weights/file_lock.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <thread>
#include <utility>

#include "weights/file.hpp"
#include "weights/system_call.hpp"
#include "weights/unwritable.hpp"

namespace lockstep {

namespace {

constexpr std::chrono::milliseconds pause(20);

}  // namespace

file_lock::file_lock(const std::filesystem::path& file, std::chrono::milliseconds patience,
                     const std::function<bool()>& stopping) {
  descriptor_ = uninterrupted([&] {
    return ::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0666);
  });
  if (descriptor_ < 0) refuse_write(file, "cannot be opened", errno);
  const auto until = std::chrono::steady_clock::now() + patience;
  while (::flock(descriptor_, LOCK_EX | LOCK_NB) != 0) {
    const auto code = errno;
    const bool held = code == EWOULDBLOCK || code == EINTR;
    const bool stop = held && stopping && stopping();
    if (held && !stop && std::chrono::steady_clock::now() < until) {
      std::this_thread::sleep_for(pause);
      continue;
    }
    ::close(std::exchange(descriptor_, -1));
    if (!held) refuse_write(file, "cannot be locked", code);
    if (stop) refuse(errc::shut_down, file, "is not waited for any more");
    refuse(errc::timeout, file,
           fmt::format("is held by another process for more than {} ms", patience.count()));
  }
}

file_lock::file_lock(file_lock&& other) noexcept
    : descriptor_(std::exchange(other.descriptor_, -1)) {}

file_lock::~file_lock() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

}  // namespace lockstep
