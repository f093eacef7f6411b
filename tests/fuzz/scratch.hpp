// Decides how a target's bytes become files.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <system_error>

#include "fuzz/fuzz.hpp"

namespace lockstep::fuzz {

/// A directory in memory where there is one, gone with its owner.
class scratch {
 public:
  scratch() {
    std::error_code missing;
    const std::filesystem::path shared = "/dev/shm";
    const auto& parent = std::filesystem::is_directory(shared, missing)
                             ? shared
                             : std::filesystem::temp_directory_path();
    auto text = (parent / "lockstep-fuzz-XXXXXX").string();
    demand(::mkdtemp(text.data()) != nullptr, "a directory can be made");
    path_ = text;
  }
  scratch(const scratch&) = delete;
  scratch& operator=(const scratch&) = delete;
  ~scratch() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }

  const std::filesystem::path& path() const { return path_; }

  /// Makes the file anew, and the directories that it stands in.
  void put(std::string_view name, std::span<const std::byte> bytes) {
    const auto file = path_ / name;
    std::error_code problem;
    std::filesystem::create_directories(file.parent_path(), problem);
    const int descriptor = ::open(file.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    demand(descriptor >= 0, "a file can be made");
    demand(::write(descriptor, bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()),
           "a file can be written");
    ::close(descriptor);
  }

  /// For each file a byte that chooses its name, two of its length, and its contents.
  template <class Names>
  void put_all(std::span<const std::byte> rest, const Names& names) {
    while (rest.size() >= 3) {
      const auto name = std::to_integer<std::size_t>(rest[0]) % names.size();
      const auto length =
          std::to_integer<std::size_t>(rest[1]) | std::to_integer<std::size_t>(rest[2]) << 8;
      rest = rest.subspan(3);
      const auto contents = rest.first(std::min(length, rest.size()));
      put(names[name], contents);
      rest = rest.subspan(contents.size());
    }
  }

  /// Leaves the directory empty.
  void clear() {
    for (const auto& entry : std::filesystem::directory_iterator(path_))
      std::filesystem::remove_all(entry.path());
  }

 private:
  std::filesystem::path path_;
};

}  // namespace lockstep::fuzz
