#include "weights/mapped_weights.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "messages/one_line.hpp"
#include "weights/checkpoint.hpp"
#include "weights/file.hpp"
#include "weights/plain_file.hpp"
#include "weights/safetensors.hpp"
#include "weights/system_call.hpp"
#include "weights/unwritable.hpp"

namespace lockstep {

namespace fs = std::filesystem;

namespace {

/// Beside the file: which layout it is of, as a torn file cannot say that itself.
class layout_note {
 public:
  layout_note(fs::path file, const layout& shape)
      : path_(std::move(file)), text_(to_string(shape.fingerprint()) + '\n') {
    path_ += ".layout";
  }

  bool stands() const { return lockstep::stands(path_) && read_small(path_, 256) == text_; }
  void write() const {
    if (stands()) return;
    file_writer out(path_);
    out.write(text_);
    out.commit();
  }

 private:
  fs::path path_;
  std::string text_;
};

}  // namespace

mapped_weights::mapped_weights(const fs::path& file, layout shape, const tensor_reader& initial)
    : shape_(std::move(shape)), file_(file) {
  const layout_note note(file, shape_);
  if (stands(file)) {
    replaced_ = map(file);
    reused_ = replaced_.empty();
    if (!reused_ && !note.stands())
      refuse(errc::bad_input, file,
             "is none that was made here for these tensors, and is not overwritten: remove it, or "
             "choose another directory (" +
                 replaced_ + ")");
  }
  if (reused_) {
    try {
      note.write();
    } catch (const error&) {
      // The file is of use all the same; should it tear, it is refused.
    }
    return;
  }
  // Before the file: a torn one without it is taken for somebody else's.
  note.write();
  // Whoever maps it again digests what is there; mapped writes are not synced either.
  write_safetensors(file, shape_, initial, checkpoint_metadata, durability::judged_when_opened);
  if (!map(file).empty()) refuse(errc::unwritable, file, "is not what was written to it");
}

mapped_weights::mapped_weights(mapped_weights&& other) noexcept
    : shape_(std::move(other.shape_)),
      file_(std::move(other.file_)),
      device_(other.device_),
      inode_(other.inode_),
      bytes_(std::exchange(other.bytes_, {})),
      tensors_(std::move(other.tensors_)),
      replaced_(std::move(other.replaced_)),
      reused_(other.reused_) {}

mapped_weights::~mapped_weights() {
  if (!bytes_.empty()) ::munmap(bytes_.data(), bytes_.size());
}

bool mapped_weights::in_place() const noexcept {
  struct stat now {};
  if (::lstat(file_.c_str(), &now) != 0) return errno != ENOENT && errno != ENOTDIR;
  return now.st_dev == device_ && now.st_ino == inode_;
}

/// Why the file, which is there, is no whole checkpoint; empty if it is one, and mapped now.
std::string mapped_weights::map(const fs::path& file) {
  // O_NONBLOCK: a FIFO is not waited for, and is no regular file.
  const int descriptor = uninterrupted(
      [&] { return ::open(file.c_str(), O_RDWR | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW); });
  if (descriptor < 0) refuse_write(file, "cannot be opened", errno);
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
  if (size == 0) return one_line(file.native()) + ": is empty";
  if (memory == MAP_FAILED) refuse_write(file, "cannot be mapped", problem);
  const std::span bytes(static_cast<std::byte*>(memory), size);
  safetensors_header header;
  layout there;
  try {
    header = parse_safetensors(bytes, file);
    std::vector<tensor_spec> specs;
    for (const auto& t : header.tensors) specs.push_back(t.spec);
    there = layout(std::move(specs));
  } catch (const error& e) {
    ::munmap(memory, size);
    return e.what();
  }
  if (there != shape_) {
    ::munmap(memory, size);
    refuse(errc::wrong_layout, file,
           "is a checkpoint of other tensors, dtypes or shapes, and is not overwritten: remove it, "
           "or choose another directory");
  }
  for (const auto& t : header.tensors)
    tensors_.push_back(bytes.subspan(static_cast<std::size_t>(header.data_offset + t.begin),
                                     static_cast<std::size_t>(t.end - t.begin)));
  bytes_ = bytes;
  device_ = status.st_dev;
  inode_ = status.st_ino;
  return {};
}

}  // namespace lockstep
