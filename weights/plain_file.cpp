#include "weights/plain_file.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <ftw.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <utility>
#include <vector>

#include "weights/file.hpp"
#include "weights/system_call.hpp"
#include "weights/unwritable.hpp"

namespace lockstep {

namespace fs = std::filesystem;

namespace {

constexpr std::size_t transfer_bytes_max = 1u << 30;  // Linux moves at most 0x7ffff000 in a call
constexpr std::size_t copy_bytes_max = 16u << 20;     // until the next word of it
constexpr std::size_t copy_bytes = 1u << 20;          // through memory

using copy_word = std::function<void(std::uint64_t)>;

// Copies [begin, end) of one file to the same place in another.
void copy_range(const plain_file& from, plain_file& to, std::uint64_t begin, std::uint64_t end,
                const copy_word& copied) {
  while (begin < end) {
    auto in = static_cast<off_t>(begin);
    auto out = in;
    const auto size = std::min<std::uint64_t>(end - begin, copy_bytes_max);
    const auto moved = uninterrupted(
        [&] { return ::copy_file_range(from.descriptor(), &in, to.descriptor(), &out, size, 0); });
    if (moved <= 0) break;
    begin += static_cast<std::uint64_t>(moved);
    copied(static_cast<std::uint64_t>(moved));
  }
  std::vector<std::byte> buffer(begin < end ? copy_bytes : 0);
  while (begin < end) {  // between file systems that cannot do it themselves
    const auto piece = std::span(buffer).first(std::min<std::uint64_t>(end - begin, copy_bytes));
    from.read(begin, piece);
    to.write(begin, piece);
    begin += piece.size();
    copied(piece.size());
  }
}

void copy_data(const plain_file& from, plain_file& to, const copy_word& copied) {
  const auto size = from.size();
  if (::ioctl(to.descriptor(), FICLONE, from.descriptor()) == 0) return copied(size);
  if (uninterrupted([&] { return ::ftruncate(to.descriptor(), static_cast<off_t>(size)); }) != 0)
    refuse_write(to.path(), "cannot be sized", errno);
  for (std::uint64_t at = 0; at < size;) {
    const auto data = ::lseek(from.descriptor(), static_cast<off_t>(at), SEEK_DATA);
    if (data < 0 && errno == ENXIO) return copied(size - at);  // a hole to the end
    const auto begin = data < 0 ? at : static_cast<std::uint64_t>(data);
    const auto hole = data < 0 ? -1 : ::lseek(from.descriptor(), data, SEEK_HOLE);
    const auto end = hole < 0 ? size : std::min(size, static_cast<std::uint64_t>(hole));
    if (begin > at) copied(begin - at);
    copy_range(from, to, begin, end, copied);
    at = end;
  }
}

}  // namespace

plain_file::plain_file(fs::path path, access how) : path_(std::move(path)) {
  const auto fail = how == access::read ? refuse_read : refuse_write;
  // Non-blocking, or a FIFO without a writer would hold us for ever.
  const int flags =
      (how == access::read ? O_RDONLY : O_RDWR | O_NOFOLLOW) | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;
  descriptor_ = uninterrupted([&] { return ::open(path_.c_str(), flags); });
  if (descriptor_ < 0) fail(path_, "cannot be opened", errno);
  struct stat status {};
  const int unseen = ::fstat(descriptor_, &status) != 0 ? errno : 0;
  if (unseen == 0 && S_ISREG(status.st_mode)) return;
  ::close(descriptor_);
  if (unseen != 0) fail(path_, "cannot be looked at", unseen);
  refuse(how == access::read ? errc::bad_input : errc::unwritable, path_, "is not a regular file");
}

plain_file::plain_file(plain_file&& other) noexcept
    : path_(std::move(other.path_)), descriptor_(std::exchange(other.descriptor_, -1)) {}

plain_file::~plain_file() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

std::uint64_t plain_file::size() const {
  struct stat status {};
  if (::fstat(descriptor_, &status) != 0) refuse_read(path_, "cannot be looked at", errno);
  return static_cast<std::uint64_t>(status.st_size);
}

void plain_file::read(std::uint64_t offset, std::span<std::byte> out) const {
  while (!out.empty()) {
    const auto got = uninterrupted([&] {
      return ::pread(descriptor_, out.data(), std::min(out.size(), transfer_bytes_max),
                     static_cast<off_t>(offset));
    });
    if (got < 0) refuse_read(path_, "cannot be read", errno);
    if (got == 0) refuse(errc::bad_input, path_, fmt::format("ends at byte {}", offset));
    offset += static_cast<std::uint64_t>(got);
    out = out.subspan(static_cast<std::size_t>(got));
  }
}

void plain_file::write(std::uint64_t offset, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const auto put = uninterrupted([&] {
      return ::pwrite(descriptor_, bytes.data(), std::min(bytes.size(), transfer_bytes_max),
                      static_cast<off_t>(offset));
    });
    if (put < 0) refuse_write(path_, "cannot be written", errno);
    offset += static_cast<std::uint64_t>(put);
    bytes = bytes.subspan(static_cast<std::size_t>(put));
  }
}

void plain_file::sync() {
  if (uninterrupted([&] { return ::fsync(descriptor_); }) != 0)
    refuse_write(path_, "cannot be synced", errno);
}

std::string read_small(const fs::path& path, std::size_t bytes_max) {
  const plain_file file(path, plain_file::access::read);
  const auto size = file.size();
  if (size > bytes_max)
    refuse(errc::bad_input, path, fmt::format("has {} bytes, the limit is {}", size, bytes_max));
  std::string text(static_cast<std::size_t>(size), '\0');
  file.read(0, std::as_writable_bytes(std::span(text)));
  return text;
}

void copy_whole(const fs::path& from, const fs::path& to, const copy_word& copied) {
  const plain_file source(from, plain_file::access::read);
  remove_file(to);
  const int fresh = uninterrupted([&] {
    return ::open(to.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0644);
  });
  if (fresh < 0) refuse_write(to, "cannot be made", errno);
  ::close(fresh);
  plain_file copy(to, plain_file::access::write);
  copy_data(
      source, copy, copied ? copied : [](std::uint64_t) {});
  copy.sync();
}

void remove_file(const fs::path& path) {
  if (::unlink(path.c_str()) != 0 && errno != ENOENT)
    refuse_write(path, "cannot be removed", errno);
}

void remove_directory(const fs::path& dir) {
  const auto remove = [](const char* path, const struct stat*, int, FTW*) {
    return ::remove(path) != 0 && errno != ENOENT ? -1 : 0;
  };
  constexpr int open_max = 16;
  if (::nftw(dir.c_str(), remove, open_max, FTW_DEPTH | FTW_PHYS) != 0 && errno != ENOENT)
    refuse_write(dir, "cannot be removed", errno);
}

}  // namespace lockstep
