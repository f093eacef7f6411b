// The bytes are the files of a published stream: for each a byte that chooses its name, two of its
// length, and its contents.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "fuzz/fuzz.hpp"
#include "fuzz/stream_files.hpp"
#include "messages/errors.hpp"
#include "weights/checkpoint.hpp"
#include "weights/published.hpp"
#include "weights/weight_buffer.hpp"
#include "weights/weight_stream.hpp"

namespace {

using namespace lockstep;
namespace fs = std::filesystem;

/// A directory in memory where there is one, gone with its owner.
class scratch {
 public:
  scratch() {
    std::error_code missing;
    const fs::path shared = "/dev/shm";
    auto name = (fs::is_directory(shared, missing) ? shared : fs::temp_directory_path()) /
                "lockstep-fuzz-XXXXXX";
    auto text = name.string();
    fuzz::demand(::mkdtemp(text.data()) != nullptr, "a directory can be made");
    path_ = text;
  }
  scratch(const scratch&) = delete;
  scratch& operator=(const scratch&) = delete;
  ~scratch() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }

  const fs::path& path() const { return path_; }

  void put(std::size_t name, std::span<const std::byte> bytes) {
    const auto file = path_ / fuzz::stream_names[name];
    // Only what is written to: a version's directory without files is a fault of its own.
    ::mkdir(file.parent_path().c_str(), 0700);
    const int descriptor = ::open(file.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    fuzz::demand(descriptor >= 0, "a file can be made");
    fuzz::demand(
        ::write(descriptor, bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()),
        "a file can be written");
    ::close(descriptor);
    there_[name] = true;
  }

  void clear() {
    for (std::size_t i = 0; i < there_.size(); ++i)
      if (std::exchange(there_[i], false)) ::unlink((path_ / fuzz::stream_names[i]).c_str());
    for (const auto* dir : fuzz::stream_dirs) ::rmdir((path_ / dir).c_str());
  }

 private:
  fs::path path_;
  std::array<bool, fuzz::stream_names.size()> there_{};
};

std::vector<std::byte> bytes_of(const weight_buffer& weights) {
  std::vector<std::byte> all;
  for (std::size_t i = 0; i < weights.shape().count(); ++i) {
    const auto t = weights.tensor(i);
    all.insert(all.end(), t.begin(), t.end());
  }
  return all;
}

template <class Action>
bool accepted(Action action) {
  try {
    action();
    return true;
  } catch (const error& e) {
    const auto code = e.code();
    fuzz::demand(code == errc::bad_input || code == errc::wrong_layout || code == errc::wrong_base,
                 "refused for what it is");
    fuzz::demand_message(e.what());
    return false;
  }
}

void go_through(const fs::path& dir, const weight_buffer& base) {
  std::optional<weight_stream> stream;
  if (!accepted([&] { stream = weight_stream::open(dir, base.shape()); })) return;
  auto weights = base.clone();
  for (std::size_t i = 0; i < stream->versions().size(); ++i) {
    const auto before = bytes_of(weights);
    if (accepted([&] { stream->load(i, weights); })) continue;
    fuzz::demand(bytes_of(weights) == before, "a version that is refused writes nothing");
    return;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const auto source =
      checkpoint::open(fs::path(LOCKSTEP_TEST_DATA) / "published/adler32/base");
  static const auto base = [] {
    weight_buffer copy(source.shape());
    copy.copy_from(source);
    return copy;
  }();
  static scratch files;
  files.clear();
  for (auto rest = fuzz::input_of(data, size); rest.size() >= 3;) {
    const auto name = std::to_integer<std::size_t>(rest[0]) % fuzz::stream_names.size();
    const auto length =
        std::to_integer<std::size_t>(rest[1]) | std::to_integer<std::size_t>(rest[2]) << 8;
    rest = rest.subspan(3);
    const auto contents = rest.first(std::min(length, rest.size()));
    files.put(name, contents);
    rest = rest.subspan(contents.size());
  }
  const fuzz::held_bytes bound(64 * size + (512 << 10));
  go_through(files.path(), base);
  for (const auto* dir : fuzz::stream_dirs) {
    accepted([&] { checkpoint::open(files.path() / dir); });
    accepted([&] { published_delta::open(files.path() / dir, base.shape()); });
  }
  return 0;
}
