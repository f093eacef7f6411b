#include "weights/file.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <system_error>
#include <utility>

#include "messages/one_line.hpp"
#include "weights/system_call.hpp"
#include "weights/unwritable.hpp"

namespace lockstep {

namespace fs = std::filesystem;

namespace {

// Linux transfers at most 0x7ffff000 bytes a call anyway.
constexpr std::size_t write_bytes_max = 1u << 30;

}  // namespace

std::string in_quotes(std::string_view text) {
  return "'" + printable(text) + "'";
}

void refuse(errc code, const fs::path& file, const std::string& what) {
  // A path is never cut: the end is what tells files apart.
  throw error(code, one_line(file.native()) + ": " + what);
}

bool stands(const fs::path& path) {
  std::error_code failure;
  const auto status = fs::symlink_status(path, failure);
  if (status.type() == fs::file_type::not_found) return false;
  if (failure) refuse_read(path, "cannot be looked at", failure.value());
  return true;
}

bool leads_to_directory(const fs::path& path) {
  std::error_code failure;
  const auto type = fs::status(path, failure).type();
  if (type == fs::file_type::none) refuse_read(path, "cannot be looked at", failure.value());
  return type == fs::file_type::directory;
}

// Not std::filesystem's: where it cannot look at what leads there it goes on, and says of what it
// tries to make in it that there is no such directory.
void make_directories(const fs::path& dir) {
  const auto made = [&] { return ::mkdir(dir.c_str(), 0777) == 0; };
  if (made()) return;
  if (errno == ENOENT && dir.has_relative_path()) {
    make_directories(dir.has_filename() ? dir.parent_path() : dir.parent_path().parent_path());
    if (made()) return;
  }
  // Who may not write there is told that, by some systems, of what is there as well.
  const auto why = errno;
  struct stat status {};
  if (why != EEXIST && why != EROFS && why != EACCES && why != EPERM)
    refuse_write(dir, "cannot be made", why);
  if (::stat(dir.c_str(), &status) != 0)
    refuse_write(dir, "cannot be made", why == EEXIST ? errno : why);
  if (!S_ISDIR(status.st_mode)) refuse_write(dir, "cannot be made", ENOTDIR);
}

// The standard library's iterator ends the process where there is no memory for a name.
std::vector<fs::path> files_in(const fs::path& dir) {
  struct closer {
    void operator()(DIR* list) const { ::closedir(list); }
  };
  const std::unique_ptr<DIR, closer> list(::opendir(dir.c_str()));
  if (!list) refuse_read(dir, "cannot be listed", errno);
  std::vector<fs::path> out;
  for (;;) {
    errno = 0;
    const auto* entry = ::readdir(list.get());
    if (entry == nullptr) break;
    const std::string_view name = entry->d_name;
    if (name != "." && name != "..") out.push_back(dir / name);
  }
  if (errno != 0) refuse_read(dir, "cannot be listed", errno);
  std::sort(out.begin(), out.end());
  return out;
}

mapped_file::mapped_file(fs::path path) : path_(std::move(path)) {
  // Non-blocking, or a FIFO without a writer would hold us for ever.
  const int descriptor = uninterrupted(
      [&] { return ::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY); });
  if (descriptor < 0) refuse_read(path_, "cannot be opened", errno);
  struct stat status {};
  const int unseen = ::fstat(descriptor, &status) != 0 ? errno : 0;
  if (unseen != 0 || !S_ISREG(status.st_mode)) {
    ::close(descriptor);
    if (unseen != 0) refuse_read(path_, "cannot be looked at", unseen);
    refuse(errc::bad_input, path_, "is not a regular file");
  }
  const auto size = static_cast<std::size_t>(status.st_size);
  void* memory = nullptr;
  if (size > 0) memory = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, descriptor, 0);
  const int failure = errno;
  ::close(descriptor);
  if (memory == MAP_FAILED) refuse_read(path_, "cannot be mapped", failure);
  bytes_ = {static_cast<const std::byte*>(memory), size};
}

mapped_file::mapped_file(mapped_file&& other) noexcept
    : path_(std::move(other.path_)), bytes_(std::exchange(other.bytes_, {})) {}

mapped_file::~mapped_file() {
  if (!bytes_.empty()) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

file_writer::file_writer(fs::path path) : path_(std::move(path)), temporary_(path_) {
  temporary_ += ".tmp";
  if (path_.has_parent_path()) make_directories(path_.parent_path());
  // Whatever stands there, a link or a FIFO perhaps, is somebody's leftover: never written through.
  if (::unlink(temporary_.c_str()) != 0 && errno != ENOENT) fail("begun");
  descriptor_ = uninterrupted([&] {
    return ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0644);
  });
  if (descriptor_ < 0) fail("opened");
}

file_writer::~file_writer() {
  if (descriptor_ < 0) return;
  ::close(descriptor_);
  ::unlink(temporary_.c_str());
}

void file_writer::fail(const char* step) const {
  refuse_write(path_, std::string("cannot be ") + step, errno);
}

void file_writer::write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const auto written = uninterrupted([&] {
      return ::write(descriptor_, bytes.data(), std::min(bytes.size(), write_bytes_max));
    });
    if (written < 0) fail("written");
    bytes = bytes.subspan(static_cast<std::size_t>(written));
  }
}

void file_writer::write_at(std::uint64_t offset, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const auto written = uninterrupted([&] {
      return ::pwrite(descriptor_, bytes.data(), std::min(bytes.size(), write_bytes_max),
                      static_cast<off_t>(offset));
    });
    if (written < 0) fail("written");
    offset += static_cast<std::uint64_t>(written);
    bytes = bytes.subspan(static_cast<std::size_t>(written));
  }
}

void file_writer::commit(durability how) {
  const bool synced = how == durability::synced;
  if (synced && uninterrupted([&] { return ::fsync(descriptor_); }) != 0) fail("synced");
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) fail("renamed into place");
  ::close(std::exchange(descriptor_, -1));
  if (synced) sync_directory(path_.has_parent_path() ? path_.parent_path() : fs::path("."));
}

void sync_directory(const fs::path& dir) {
  const int descriptor =
      uninterrupted([&] { return ::open(dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC); });
  if (descriptor < 0) refuse_write(dir, "cannot be opened", errno);
  const int result = uninterrupted([&] { return ::fsync(descriptor); });
  const int code = errno;
  ::close(descriptor);
  // Some network file systems cannot sync a directory and say so with EINVAL; nothing more can be
  // done on them.
  if (result != 0 && code != EINVAL) refuse_write(dir, "cannot be synced", code);
}

}  // namespace lockstep
