#include "config/bounded_file.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>

namespace lockstep {

namespace {

/// Memory grows by this as bytes are read.
constexpr std::size_t step_bytes = 16 << 10;

// Non-blocking, or a FIFO without a writer would hold us for ever.
int open_to_read(const std::filesystem::path& path) {
  int fd = -1;
  do {
    fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  } while (fd < 0 && errno == EINTR);
  return fd;
}

[[noreturn]] void fail() {
  const int code = errno;
  throw unreadable(std::system_category().message(code), code);
}

}  // namespace

std::string read_at_most(const std::filesystem::path& path, std::size_t bytes_max) {
  const struct descriptor {
    int fd;
    ~descriptor() {
      if (fd >= 0) ::close(fd);
    }
  } file{open_to_read(path)};
  struct stat status {};
  if (file.fd < 0 || ::fstat(file.fd, &status) != 0) fail();
  if (!S_ISREG(status.st_mode)) throw unreadable("not a regular file");
  std::string text;
  for (;;) {
    const auto size = text.size();
    text.resize(std::min(size + step_bytes, bytes_max + 1));
    ssize_t got = 0;
    do {
      got = ::read(file.fd, text.data() + size, text.size() - size);
    } while (got < 0 && errno == EINTR);
    if (got < 0) fail();
    text.resize(size + static_cast<std::size_t>(got));
    if (text.size() > bytes_max)
      throw unreadable("larger than the " + std::to_string(bytes_max) + " bytes allowed");
    if (got == 0) return text;
  }
}

}  // namespace lockstep
