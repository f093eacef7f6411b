// The bytes are files that the ranks of a trainer leave for each other beside a stream, for each a
// byte that chooses its name, two of its length, and its contents: rank 0's plan or refusal, and
// what rank 1 has to it.
#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "fuzz/fuzz.hpp"
#include "fuzz/rank_files.hpp"
#include "fuzz/refusal.hpp"
#include "fuzz/scratch.hpp"
#include "messages/errors.hpp"
#include "weights/file.hpp"
#include "weights/rank_part.hpp"
#include "weights/safetensors.hpp"
#include "weights/stream_owner.hpp"

namespace {

using namespace lockstep;
namespace fs = std::filesystem;

template <class Action>
bool accepted(Action action) {
  return fuzz::accepted({errc::bad_input, errc::wrong_layout}, action);
}

bool same(const rank_plan& a, const rank_plan& b) {
  return a.nonce == b.nonce && a.version == b.version && a.base_version == b.base_version &&
         a.run == b.run && a.full == b.full && a.encoding == b.encoding &&
         a.checksum == b.checksum && a.ranks == b.ranks;
}

std::optional<rank_plan> check_plan(const fs::path& staging) {
  std::optional<rank_plan> plan;
  if (!accepted([&] { plan = read_plan(staging); }) || !plan) return std::nullopt;
  write_plan(staging, *plan);
  const auto again = read_plan(staging);
  fuzz::demand(again && same(*again, *plan), "a plan that is accepted can be written");
  return plan;
}

bool same(const rank_part& a, const rank_part& b) {
  const auto tensor = [](const rank_tensor& x, const rank_tensor& y) {
    return x.spec == y.spec && x.base == y.base && x.target == y.target;
  };
  const auto shard = [](const rank_shard& x, const rank_shard& y) {
    return x.file == y.file && x.tensors == y.tensors;
  };
  return a.plan == b.plan && a.rank == b.rank && std::ranges::equal(a.tensors, b.tensors, tensor) &&
         std::ranges::equal(a.shards, b.shards, shard);
}

/// Rank 0 takes a shard over without the tensors that another rank has as well.
void check_copy(const fs::path& from, const fs::path& to, const rank_shard& shard) {
  std::vector<std::string> kept;
  for (std::size_t i = 0; i < shard.tensors.size(); i += 2) kept.push_back(shard.tensors[i]);
  copy_tensors(from, to, kept);
  const safetensors_file all(from);
  const safetensors_file some(to);
  fuzz::demand(some.count() == kept.size(), "as many tensors as are kept");
  auto metadata = all.metadata();
  for (const auto& name : shard.tensors)
    if (!std::ranges::binary_search(kept, name)) metadata.erase(name);
  fuzz::demand(some.metadata() == metadata, "what is said of tensors goes with them");
  for (std::size_t i = 0; i < all.count(); ++i) {
    if (!std::ranges::binary_search(kept, all.spec(i).name)) continue;
    std::size_t at = 0;
    while (at < some.count() && !(some.spec(at) == all.spec(i))) ++at;
    fuzz::demand(at < some.count() && std::ranges::equal(some.bytes(at), all.bytes(i)),
                 "a tensor that is kept is what it was");
  }
  fs::remove(to);
}

/// The version after a version has its tensors, and no others.
void check_same(const fs::path& dir, const layout& shape) {
  require_same(dir, shape, shape);
  if (shape.count() == 0) return;
  auto specs = shape.tensors();
  specs.back().shape.push_back(1);
  const layout reshaped(specs);
  specs.pop_back();
  const layout fewer(std::move(specs));
  const auto differ = [&](const layout& before, const layout& now) {
    return !fuzz::accepted({errc::wrong_layout}, [&] { require_same(dir, before, now); });
  };
  fuzz::demand(differ(shape, reshaped), "another shape is another tensor");
  fuzz::demand(differ(shape, fewer) && differ(fewer, shape), "a tensor does not come or go");
}

void check_part(const fs::path& staging, const rank_plan& plan) {
  const auto file = staging / fuzz::rank_names[1];
  constexpr std::uint32_t rank = 1;
  std::optional<rank_part> part;
  if (!accepted([&] { part = read_part(file, plan, rank); })) return;
  const auto prefix = rank_prefix(rank, plan.nonce);
  for (const auto& shard : part->shards)
    fuzz::demand(shard.file.starts_with(prefix) && shard.file.find('/') == shard.file.npos &&
                     fs::is_regular_file(staging / shard.file),
                 "a shard is a file of this rank");
  for (const auto& shard : part->shards)
    check_copy(staging / shard.file, staging / "copy.safetensors", shard);
  const auto whole = merge_parts(staging, {*part});
  fuzz::demand(whole.shape.count() == part->tensors.size(), "the parts' tensors are all there is");
  check_same(staging, whole.shape);
  auto twin = *part;
  twin.rank = rank + 1;
  const auto both = merge_parts(staging, {*part, twin});
  fuzz::demand(both.shape == whole.shape && both.repeated[1].size() == part->tensors.size(),
               "what two ranks have alike is there once");
  if (!twin.tensors.empty()) {
    twin.tensors.back().target += '0';
    fuzz::demand(!accepted([&] {
      merge_parts(staging, {*part, twin});
    }),
                 "a tensor that two ranks have otherwise is refused");
  }
  (void)base_digest(*part);
  (void)target_digest(*part);
  write_part(file, *part);
  fuzz::demand(same(read_part(file, plan, rank), *part), "a part that is accepted can be written");
}

/// A refusal is for whoever still takes part, and goes with the last of their files.
void check_refusal(const fs::path& staging) {
  if (const auto heard = read_refusal(staging)) {
    write_refusal(staging, *heard);
    const auto again = read_refusal(staging);
    fuzz::demand(again && again->plan == heard->plan && again->why == heard->why,
                 "a refusal that is accepted can be written");
    fuzz::demand(!read_plan(staging), "a refusal takes its plan's place");
  }
  const auto files = files_in(staging);
  const auto alone = std::ranges::all_of(
      files, [](const auto& file) { return file.filename() == fuzz::rank_names.back(); });
  clear_refusal(staging);
  if (alone)
    fuzz::demand(!fs::exists(staging), "a refusal that nobody waits for goes");
  else
    fuzz::demand(files_in(staging) == files, "and with whoever does nothing goes");
}

/// What comes in the place of all that stood there.
void check_begun(const fs::path& stream, const rank_plan& plan) {
  begin_staging(stream, plan);
  const auto begun = read_plan(rank_staging(stream));
  fuzz::demand(begun && same(*begun, plan), "a plan that is begun can be read");
  fuzz::demand(files_in(rank_staging(stream)).size() == 1 && files_in(stream).size() == 1,
               "and stands there alone");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const auto names = [] {
    std::vector<std::string> out;
    for (const auto* name : fuzz::rank_names) out.push_back(rank_staging({}) / name);
    return out;
  }();
  static fuzz::scratch stream;
  stream.clear();
  stream.put_all(fuzz::input_of(data, size), names);
  const auto staging = rank_staging(stream.path());
  if (!fs::exists(staging)) return 0;
  const fuzz::held_bytes bound(128 * size + (512 << 10));
  const auto plan = check_plan(staging);
  if (plan) check_part(staging, *plan);
  rank_plan known;
  known.nonce = fuzz::rank_nonce;
  for (const bool full : {false, true}) {
    known.full = full;
    if (fs::exists(staging / fuzz::rank_names[1])) check_part(staging, known);
  }
  check_refusal(staging);
  if (plan) check_begun(stream.path(), *plan);
  return 0;
}
