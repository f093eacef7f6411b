#include "weights/mapped_weights.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "weights/checkpoint.hpp"
#include "weights/file.hpp"
#include "weights/safetensors.hpp"
#include "weights/system_call.hpp"
#include "weights/unwritable.hpp"

namespace lockstep {

namespace fs = std::filesystem;

mapped_weights::mapped_weights(const fs::path& file, layout shape, const tensor_reader& initial)
    : shape_(std::move(shape)), file_(file) {
  reused_ = stands(file) && map(file);
  if (reused_) return;
  // Whoever maps it again digests what is there; mapped writes are not synced either.
  write_safetensors(file, shape_, initial, checkpoint_metadata, durability::judged_when_opened);
  if (!map(file)) refuse(errc::unwritable, file, "is not what was written to it");
}

mapped_weights::mapped_weights(mapped_weights&& other) noexcept
    : shape_(std::move(other.shape_)),
      file_(std::move(other.file_)),
      device_(other.device_),
      inode_(other.inode_),
      bytes_(std::exchange(other.bytes_, {})),
      tensors_(std::move(other.tensors_)),
      reused_(other.reused_) {}

mapped_weights::~mapped_weights() {
  if (!bytes_.empty()) ::munmap(bytes_.data(), bytes_.size());
}

bool mapped_weights::in_place() const noexcept {
  struct stat now {};
  if (::lstat(file_.c_str(), &now) != 0) return errno != ENOENT && errno != ENOTDIR;
  return now.st_dev == device_ && now.st_ino == inode_;
}

/// False if the file is no safetensors file of this layout.
bool mapped_weights::map(const fs::path& file) {
  // O_NONBLOCK: a FIFO is not waited for, and is no regular file.
  const int descriptor = uninterrupted(
      [&] { return ::open(file.c_str(), O_RDWR | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW); });
  if (descriptor < 0) {
    if (errno == ENOENT) return false;
    refuse_write(file, "cannot be opened", errno);
  }
  struct stat status {};
  const int unseen = ::fstat(descriptor, &status) != 0 ? errno : 0;
  const bool regular = unseen == 0 && S_ISREG(status.st_mode);
  const auto size = regular ? static_cast<std::size_t>(status.st_size) : 0;
  void* memory = size == 0
                     ? MAP_FAILED
                     : ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
  const int problem = errno;
  ::close(descriptor);
  if (unseen != 0) refuse_write(file, "cannot be looked at", unseen);
  if (!regular) refuse(errc::unwritable, file, "is not a regular file");
  if (size == 0) return false;
  if (memory == MAP_FAILED) refuse_write(file, "cannot be mapped", problem);
  const std::span bytes(static_cast<std::byte*>(memory), size);
  try {
    const auto header = parse_safetensors(bytes, file);
    std::vector<tensor_spec> specs;
    for (const auto& t : header.tensors) specs.push_back(t.spec);
    if (layout(std::move(specs)) == shape_) {
      for (const auto& t : header.tensors)
        tensors_.push_back(bytes.subspan(static_cast<std::size_t>(header.data_offset + t.begin),
                                         static_cast<std::size_t>(t.end - t.begin)));
      bytes_ = bytes;
      device_ = status.st_dev;
      inode_ = status.st_ino;
      return true;
    }
  } catch (const error&) {
    // Torn, or something else: it is replaced.
  }
  ::munmap(memory, size);
  return false;
}

}  // namespace lockstep
