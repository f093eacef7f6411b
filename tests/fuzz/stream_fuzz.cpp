// The bytes are the files of a published stream: for each a byte that chooses its name, two of its
// length, and its contents.
#include <algorithm>
#include <filesystem>
#include <optional>
#include <utility>
#include <vector>

#include "fuzz/fuzz.hpp"
#include "fuzz/refusal.hpp"
#include "fuzz/scratch.hpp"
#include "fuzz/stream_files.hpp"
#include "messages/errors.hpp"
#include "support/places.hpp"
#include "weights/byte_source.hpp"
#include "weights/checkpoint.hpp"
#include "weights/checkpoint_index.hpp"
#include "weights/part_stream.hpp"
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

/// What a host takes of a delta, window by window from its files, is what a reader takes of it
/// whole.
void check_parts(const published_delta& delta, const weight_buffer& base) {
  auto whole = base.clone();
  const bool applied = accepted([&] { delta.apply(whole); });
  bool all = true;
  for (std::size_t i = 0; i < delta.count(); ++i) {
    const auto t = delta.tensor(i);
    const auto old = base.tensor(t);
    std::vector<std::byte> fresh(old.size());
    std::string problem;
    if (!accepted([&] {
          part_stream part(delta.encoding(), delta.compressed(i), old.size(),
                           unit_bytes(base.shape()[t].type), 20);
          if (!old.empty()) problem = part.next(old, fresh);  // of these tensors a window has room
          if (problem.empty()) problem = part.finish();
        }))
      return;
    if (!problem.empty()) fuzz::demand_message(problem);
    all = all && problem.empty() && published_digest(delta.checksum(), fresh) == delta.digest(i);
    fuzz::demand(
        !applied || !problem.empty() || std::ranges::equal(fresh, std::as_const(whole).tensor(t)),
        "window by window is as in one piece");
  }
  fuzz::demand(applied || !all, "what is refused whole is refused window by window");
}

/// What one rank may have is what all of them may have together, or no tensor in some file.
void check_ranks(const fs::path& dir) {
  std::optional<checkpoint> all;
  std::optional<checkpoint> one;
  const bool plain = accepted([&] { checkpoint::open(dir); });
  accepted([&] { all = checkpoint::open_ranks(dir); });
  accepted([&] { one = checkpoint::open_rank(dir); });
  fuzz::demand(all || !plain, "a checkpoint is one whoever wrote it");
  if (!one) return fuzz::demand(!all, "what many may have one may have");
  if (!all)
    return fuzz::demand(one->shape().count() == 0 && (one->file_count() > 0 || has_index(dir)),
                        "one may have no tensor, but not no file");
  fuzz::demand(one->shape() == all->shape(), "and it is the same");
  for (std::size_t i = 0; i < all->shape().count(); ++i)
    fuzz::demand(std::ranges::equal(one->tensor(i), all->tensor(i)), "to the byte");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const auto source = checkpoint::open(test::test_data() / "published/adler32/base");
  static const auto base = [] {
    weight_buffer copy(source.shape());
    copy.copy_from(source);
    return copy;
  }();
  static fuzz::scratch files;
  files.clear();
  files.put_all(fuzz::input_of(data, size), fuzz::stream_names);
  std::vector<published_delta> deltas;
  {
    const fuzz::held_bytes bound(64 * size + (512 << 10));
    go_through(files.path(), base);
    for (const auto* dir : fuzz::stream_dirs) {
      check_ranks(files.path() / dir);
      accepted([&] { deltas.push_back(published_delta::open(files.path() / dir, base.shape())); });
    }
  }
  // Beside it two windows of what is compressed.
  const fuzz::held_bytes bound(64 * size + (4 << 20));
  for (const auto& delta : deltas) check_parts(delta, base);
  return 0;
}
