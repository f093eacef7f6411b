// Ends the program as kill -9 would at a chosen system call on files, or makes the call fail:
// preloaded, it stands between the program and the C library.
//
//   CRASH_AT=N       at the N-th call that changes files, before it is made; half of a write is
//                    made first
//   CRASH_COUNT=FILE writes the number of those calls there at exit
//   CRASH_CALL=rename CRASH_NAME=END [CRASH_AFTER=1]   at a rename to a path that ends so
//   CUT_FILE=FILE CUT_WHEN=END   no end, but FILE is cut to half when a path that ends so is
//   opened;
//                    with CUT_WHOLLY=1 it is removed
//
//   READ_MS=N        each read at a position takes so long
//
//   FAULT=ENOSPC|EIO|EACCES|EINTR|SHORT FAULT_UNDER=DIR FAULT_AT=N [FAULT_STAYS=1]
//                    the N-th call on what lies below DIR that can meet this meets it, with
//                    FAULT_STAYS every later one as well; SHORT moves half of the bytes, EACCES
//                    meets what EIO does
//   FAULT_LOG=FILE   appends a line "CALL PATH" for every call that met it; without FAULT_AT for
//                    every one that could have
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <climits>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

namespace {

std::string_view setting(const char* name) {
  const char* text = std::getenv(name);
  return text ? text : "";
}

long number(const char* name) {
  return std::atol(std::string(setting(name)).c_str());
}

int open_plainly(int dir, const char* path, int flags, mode_t mode) {
  return static_cast<int>(::syscall(SYS_openat, dir, path, flags, mode));
}

void put(const std::string& file, int flags, const std::string& text) {
  const auto to = open_plainly(AT_FDCWD, file.c_str(), O_WRONLY | O_CREAT | flags, 0644);
  (void)!::syscall(SYS_write, to, text.data(), text.size());
  ::syscall(SYS_close, to);
}

/// The C library's own.
template <class Function>
Function next(const char* name) {
  return reinterpret_cast<Function>(::dlsym(RTLD_NEXT, name));
}

// --- the end ------------------------------------------------------------------------------------

std::atomic<long> changes = 0;

void end() {
  ::syscall(SYS_exit_group, 137);
}

// Whether this call is the one to end at.
bool is_last() {
  static const long at = number("CRASH_AT");
  return ++changes == at;
}

bool is_file(int fd) {
  struct stat status {};
  static const auto look = next<int (*)(int, struct stat*)>("fstat");
  return look(fd, &status) == 0 && S_ISREG(status.st_mode);
}

// --- failures -----------------------------------------------------------------------------------

enum kinds : unsigned { none = 0, enospc = 1, eio = 2, eintr = 4, shortened = 8 };

std::atomic<long> fallible = 0;

struct fault_plan {
  kinds kind = none;
  int code = 0;
  long at = number("FAULT_AT");
  bool stays = at != 0 && !setting("FAULT_STAYS").empty();
  std::string under = std::string(setting("FAULT_UNDER"));
  std::string log = std::string(setting("FAULT_LOG"));

  fault_plan() {
    const auto name = setting("FAULT");
    if (name == "ENOSPC") kind = enospc, code = ENOSPC;
    if (name == "EIO") kind = eio, code = EIO;
    if (name == "EACCES") kind = eio, code = EACCES;
    if (name == "EINTR") kind = eintr, code = EINTR;
    if (name == "SHORT") kind = shortened;
  }
};

std::string path_of(int fd) {
  std::array<char, PATH_MAX> buffer;
  const auto link = "/proc/self/fd/" + std::to_string(fd);
  const auto size = ::syscall(SYS_readlinkat, AT_FDCWD, link.c_str(), buffer.data(), buffer.size());
  return {buffer.data(), size > 0 ? static_cast<std::size_t>(size) : 0};
}

std::string path_of(int dir, const char* path) {
  if (path == nullptr) return {};
  return dir == AT_FDCWD || path[0] == '/' ? path : path_of(dir) + '/' + path;
}

/// Whether this call, which can meet `possible`, is one to meet it; sets `errno` then.
template <class... Where>
bool meets(const char* call, unsigned possible, Where... where) {
  static const fault_plan plan;
  if (plan.kind == none || (plan.kind & possible) == 0) return false;
  const int before = errno;
  const auto path = path_of(where...);
  errno = before;
  if (!path.starts_with(plan.under)) return false;
  const auto now = ++fallible;
  const bool struck = now == plan.at || (plan.stays && now > plan.at);
  if (!plan.log.empty() && (struck || plan.at == 0))
    put(plan.log, O_APPEND, std::string(call) + ' ' + path + '\n');
  errno = struck ? plan.code : before;
  return struck;
}

/// The same for one that moves bytes: `size` may become half, and -1 is a failure.
bool moves(const char* call, unsigned possible, size_t& size, int fd) {
  static const bool halves = setting("FAULT") == "SHORT";
  if (halves && size < 2) return true;
  if (!meets(call, possible, fd)) return true;
  if (!halves) return false;
  size /= 2;
  return true;
}

__attribute__((destructor)) void report() {
  if (const auto file = std::string(setting("CRASH_COUNT")); !file.empty())
    put(file, O_TRUNC, std::to_string(changes));
}

void cut_a_file(std::string_view opened) {
  const auto file = std::string(setting("CUT_FILE"));
  struct stat status {};
  static const auto look = next<int (*)(const char*, struct stat*)>("stat");
  if (file.empty() || !opened.ends_with(setting("CUT_WHEN")) || look(file.c_str(), &status) != 0)
    return;
  if (setting("CUT_WHOLLY").empty())
    (void)!::syscall(SYS_truncate, file.c_str(), status.st_size / 2);
  else
    (void)!::syscall(SYS_unlinkat, AT_FDCWD, file.c_str(), 0);
}

int open_as(int dir, const char* path, int flags, mode_t mode) {
  cut_a_file(path);
  const bool changes_files = (flags & (O_CREAT | O_TRUNC)) != 0;
  if (changes_files && is_last()) end();
  const bool writes = changes_files || (flags & O_ACCMODE) != O_RDONLY;
  unsigned possible = eio;
  if (changes_files) possible |= enospc;
  if ((flags & O_DIRECTORY) == 0) possible |= eintr;  // lists of directories are the C++ library's
  if (meets(writes ? "open-to-write" : "open", possible, dir, path)) return -1;
  return open_plainly(dir, path, flags, mode);
}

}  // namespace

extern "C" {

ssize_t read(int fd, void* data, size_t size) {
  if (!moves("read", eio | eintr | shortened, size, fd)) return -1;
  return ::syscall(SYS_read, fd, data, size);
}

ssize_t pread(int fd, void* data, size_t size, off_t offset) {
  static const long delay_ms = number("READ_MS");
  if (delay_ms > 0) ::usleep(static_cast<useconds_t>(delay_ms) * 1000);
  if (!moves("read", eio | eintr | shortened, size, fd)) return -1;
  return ::syscall(SYS_pread64, fd, data, size, offset);
}
ssize_t pread64(int fd, void* data, size_t size, off64_t offset) {
  return pread(fd, data, size, offset);
}

ssize_t write(int fd, const void* data, size_t size) {
  if (is_file(fd) && is_last()) {
    (void)!::syscall(SYS_write, fd, data, size / 2);
    end();
  }
  if (!moves("write", enospc | eio | eintr | shortened, size, fd)) return -1;
  return ::syscall(SYS_write, fd, data, size);
}

ssize_t pwrite(int fd, const void* data, size_t size, off_t offset) {
  if (is_last()) {
    (void)!::syscall(SYS_pwrite64, fd, data, size / 2, offset);
    end();
  }
  if (!moves("write", enospc | eio | eintr | shortened, size, fd)) return -1;
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
  if (!moves("copy_file_range", enospc | eio | shortened, size, out)) return -1;
  return ::syscall(SYS_copy_file_range, in, in_at, out, out_at, size, flags);
}

int ftruncate(int fd, off_t size) noexcept {
  if (is_last()) end();
  if (meets("ftruncate", enospc | eio | eintr, fd)) return -1;
  return static_cast<int>(::syscall(SYS_ftruncate, fd, size));
}

int fsync(int fd) {
  if (is_last()) end();
  if (meets("fsync", enospc | eio | eintr, fd)) return -1;
  return static_cast<int>(::syscall(SYS_fsync, fd));
}

int rename(const char* from, const char* to) noexcept {
  const bool named =
      setting("CRASH_CALL") == "rename" && std::string_view(to).ends_with(setting("CRASH_NAME"));
  if ((named && setting("CRASH_AFTER").empty()) || is_last()) end();
  if (meets("rename", enospc | eio, AT_FDCWD, to)) return -1;
  const auto result = ::syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
  if (named) end();
  return static_cast<int>(result);
}

int unlinkat(int dir, const char* path, int flags) noexcept {
  if (is_last()) end();
  if (meets("unlink", eio, dir, path)) return -1;
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
  if (meets("mkdir", enospc | eio, AT_FDCWD, path)) return -1;
  return static_cast<int>(::syscall(SYS_mkdirat, AT_FDCWD, path, mode));
}

int open(const char* path, int flags, ...) {
  va_list more;
  va_start(more, flags);
  const mode_t mode = va_arg(more, mode_t);
  va_end(more);
  return open_as(AT_FDCWD, path, flags, mode);
}
int open64(const char* path, int flags, ...) {
  va_list more;
  va_start(more, flags);
  const mode_t mode = va_arg(more, mode_t);
  va_end(more);
  return open_as(AT_FDCWD, path, flags, mode);
}
int openat(int dir, const char* path, int flags, ...) {
  va_list more;
  va_start(more, flags);
  const mode_t mode = va_arg(more, mode_t);
  va_end(more);
  return open_as(dir, path, flags, mode);
}

FILE* fopen(const char* path, const char* mode) {
  static const auto open_stream = next<FILE* (*)(const char*, const char*)>("fopen");
  const bool reads = std::string_view(mode).starts_with('r');
  const auto possible = reads ? eio | eintr : eio | eintr | enospc;
  if (meets(reads ? "open" : "open-to-write", possible, AT_FDCWD, path)) return nullptr;
  return open_stream(path, mode);
}

int flock(int fd, int operation) noexcept {
  if (meets("flock", eio | eintr, fd)) return -1;
  return static_cast<int>(::syscall(SYS_flock, fd, operation));
}

DIR* opendir(const char* path) {
  static const auto list = next<DIR* (*)(const char*)>("opendir");
  return meets("open", eio, AT_FDCWD, path) ? nullptr : list(path);
}
struct dirent* readdir(DIR* dir) {
  static const auto list = next<struct dirent* (*)(DIR*)>("readdir");
  return meets("readdir", eio, ::dirfd(dir)) ? nullptr : list(dir);
}

void* mmap(void* at, size_t size, int protection, int flags, int fd, off_t offset) noexcept {
  static const auto map = next<void* (*)(void*, size_t, int, int, int, off_t)>("mmap");
  if (fd >= 0 && meets("mmap", eio, fd)) return MAP_FAILED;
  return map(at, size, protection, flags, fd, offset);
}

int stat(const char* path, struct stat* status) noexcept {
  static const auto look = next<int (*)(const char*, struct stat*)>("stat");
  return meets("stat", eio, AT_FDCWD, path) ? -1 : look(path, status);
}
int lstat(const char* path, struct stat* status) noexcept {
  static const auto look = next<int (*)(const char*, struct stat*)>("lstat");
  return meets("stat", eio, AT_FDCWD, path) ? -1 : look(path, status);
}
int fstat(int fd, struct stat* status) noexcept {
  static const auto look = next<int (*)(int, struct stat*)>("fstat");
  return meets("stat", eio, fd) ? -1 : look(fd, status);
}

}  // extern "C"
