// Ends the program as kill -9 would, at a chosen system call that changes files: preloaded, it
// stands between the program and the C library.
//
//   CRASH_AT=N       at the N-th of those calls, before it is made; half of a write is made first
//   CRASH_COUNT=FILE writes the number of calls there at exit
//   CRASH_CALL=rename CRASH_NAME=END [CRASH_AFTER=1]   at a rename to a path that ends so
//   CUT_FILE=FILE CUT_WHEN=END   no end, but FILE is cut to half when a path that ends so is opened
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

namespace {

std::atomic<long> calls = 0;

std::string_view setting(const char* name) {
  const char* text = std::getenv(name);
  return text ? text : "";
}

void end() {
  ::syscall(SYS_exit_group, 137);
}

// Whether this call is the one to end at.
bool is_last() {
  static const long at = std::atol(std::string(setting("CRASH_AT")).c_str());
  return ++calls == at;
}

bool is_file(int fd) {
  struct stat status {};
  return ::fstat(fd, &status) == 0 && S_ISREG(status.st_mode);
}

int open_as(const char* path, int flags, mode_t mode) {
  const auto cut = std::string(setting("CUT_FILE"));
  struct stat status {};
  if (!cut.empty() && std::string_view(path).ends_with(setting("CUT_WHEN")) &&
      ::stat(cut.c_str(), &status) == 0)
    (void)!::syscall(SYS_truncate, cut.c_str(), status.st_size / 2);
  if ((flags & (O_CREAT | O_TRUNC)) != 0 && is_last()) end();
  return static_cast<int>(::syscall(SYS_openat, AT_FDCWD, path, flags, mode));
}

__attribute__((destructor)) void report() {
  const auto file = std::string(setting("CRASH_COUNT"));
  if (file.empty()) return;
  const auto text = std::to_string(calls);
  const auto to = ::syscall(SYS_openat, AT_FDCWD, file.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
  (void)!::syscall(SYS_write, to, text.data(), text.size());
}

}  // namespace

extern "C" {

ssize_t write(int fd, const void* data, size_t size) {
  if (is_file(fd) && is_last()) {
    (void)!::syscall(SYS_write, fd, data, size / 2);
    end();
  }
  return ::syscall(SYS_write, fd, data, size);
}

ssize_t pwrite(int fd, const void* data, size_t size, off_t offset) {
  if (is_last()) {
    (void)!::syscall(SYS_pwrite64, fd, data, size / 2, offset);
    end();
  }
  return ::syscall(SYS_pwrite64, fd, data, size, offset);
}
ssize_t pwrite64(int fd, const void* data, size_t size, off64_t offset) {
  return pwrite(fd, data, size, offset);
}

ssize_t copy_file_range(int in, off64_t* in_at, int out, off64_t* out_at, size_t size,
                        unsigned flags) {
  if (is_last()) {
    (void)!::syscall(SYS_copy_file_range, in, in_at, out, out_at, size / 2, flags);
    end();
  }
  return ::syscall(SYS_copy_file_range, in, in_at, out, out_at, size, flags);
}

int ftruncate(int fd, off_t size) noexcept {
  if (is_last()) end();
  return static_cast<int>(::syscall(SYS_ftruncate, fd, size));
}

int fsync(int fd) {
  if (is_last()) end();
  return static_cast<int>(::syscall(SYS_fsync, fd));
}

int rename(const char* from, const char* to) noexcept {
  const bool named =
      setting("CRASH_CALL") == "rename" && std::string_view(to).ends_with(setting("CRASH_NAME"));
  if ((named && setting("CRASH_AFTER").empty()) || is_last()) end();
  const auto result = ::syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
  if (named) end();
  return static_cast<int>(result);
}

int unlinkat(int dir, const char* path, int flags) noexcept {
  if (is_last()) end();
  return static_cast<int>(::syscall(SYS_unlinkat, dir, path, flags));
}
int unlink(const char* path) noexcept {
  return unlinkat(AT_FDCWD, path, 0);
}
int remove(const char* path) noexcept {
  const int result = unlinkat(AT_FDCWD, path, 0);
  return result != 0 && errno == EISDIR ? unlinkat(AT_FDCWD, path, AT_REMOVEDIR) : result;
}

int mkdir(const char* path, mode_t mode) noexcept {
  if (is_last()) end();
  return static_cast<int>(::syscall(SYS_mkdirat, AT_FDCWD, path, mode));
}

int open(const char* path, int flags, ...) {
  va_list more;
  va_start(more, flags);
  const mode_t mode = va_arg(more, mode_t);
  va_end(more);
  return open_as(path, flags, mode);
}
int open64(const char* path, int flags, ...) {
  va_list more;
  va_start(more, flags);
  const mode_t mode = va_arg(more, mode_t);
  va_end(more);
  return open_as(path, flags, mode);
}

}  // extern "C"
