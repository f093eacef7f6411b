#include "apps/output_directory.hpp"

#include <cerrno>
#include <cstdlib>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "weights/file.hpp"
#include "weights/unwritable.hpp"

namespace lockstep {

namespace fs = std::filesystem;

namespace {

/// Makes `dir` with all that leads to it, and takes away again what it made.
class made_for_now {
 public:
  explicit made_for_now(const fs::path& dir) {
    std::error_code failure;
    auto missing = fs::absolute(dir, failure);
    if (failure) refuse_write(dir, "cannot be looked for", failure.value());
    if (!missing.has_filename()) missing = missing.parent_path();  // "DIR/"
    for (; !fs::exists(missing, failure) && !failure; missing = missing.parent_path())
      made_.push_back(missing);
    if (failure) refuse_write(missing, "cannot be looked at", failure.value());
    try {
      make_directories(dir);
    } catch (...) {
      remove();
      throw;
    }
  }
  made_for_now(const made_for_now&) = delete;
  made_for_now& operator=(const made_for_now&) = delete;
  ~made_for_now() { remove(); }

 private:
  void remove() noexcept {
    std::error_code ignored;
    for (const auto& dir : made_) fs::remove(dir, ignored);  // innermost first
  }

  std::vector<fs::path> made_;
};

void try_to_write(const fs::path& dir) {
  auto name = (dir / ".lockstep-XXXXXX").string();
  // A directory asks for the same right as a file does, and never holds half of one.
  if (!::mkdtemp(name.data())) refuse_write(dir, "cannot be written to", errno);
  std::error_code failure;
  fs::remove(name, failure);
  if (failure) refuse_write(dir, "cannot be written to", failure.value());
}

}  // namespace

output_directory::output_directory(fs::path dir, std::uint32_t receivers) : dir_(std::move(dir)) {
  if (dir_.empty()) throw error(errc::unwritable, "--out: no directory given");
  const made_for_now made(dir_);
  try_to_write(dir_);
  for (receiver_id id = 0; id < receivers; ++id) {
    const auto file = file_of(id);
    if (!stands(file.parent_path())) continue;
    if (leads_to_directory(file)) refuse(errc::unwritable, file, "is a directory");
    try_to_write(file.parent_path());
  }
}

fs::path output_directory::file_of(receiver_id id) const {
  return dir_ / ("receiver-" + std::to_string(id)) / "model.safetensors";
}

}  // namespace lockstep
