// The bytes are the files of a published stream: for each a byte that chooses its name, two of its
// length, and its contents.
#include <filesystem>
#include <optional>
#include <vector>

#include "fuzz/fuzz.hpp"
#include "fuzz/refusal.hpp"
#include "fuzz/scratch.hpp"
#include "fuzz/stream_files.hpp"
#include "messages/errors.hpp"
#include "weights/checkpoint.hpp"
#include "weights/published.hpp"
#include "weights/weight_buffer.hpp"
#include "weights/weight_stream.hpp"

namespace {

using namespace lockstep;
namespace fs = std::filesystem;

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
  return fuzz::accepted({errc::bad_input, errc::wrong_layout, errc::wrong_base}, action);
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
  static fuzz::scratch files;
  files.clear();
  files.put_all(fuzz::input_of(data, size), fuzz::stream_names);
  const fuzz::held_bytes bound(64 * size + (512 << 10));
  go_through(files.path(), base);
  for (const auto* dir : fuzz::stream_dirs) {
    accepted([&] { checkpoint::open(files.path() / dir); });
    accepted([&] { published_delta::open(files.path() / dir, base.shape()); });
  }
  return 0;
}
