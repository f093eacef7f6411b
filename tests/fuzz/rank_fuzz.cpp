// The bytes are files that the ranks of a trainer leave for each other beside a stream, for each a
// byte that chooses its name, two of its length, and its contents: rank 0's plan, and what rank 1
// has to it.
#include <algorithm>
#include <optional>

#include "fuzz/fuzz.hpp"
#include "fuzz/rank_files.hpp"
#include "fuzz/refusal.hpp"
#include "fuzz/scratch.hpp"
#include "messages/errors.hpp"
#include "weights/rank_part.hpp"

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
  const auto whole = merge_parts(staging, {*part});
  fuzz::demand(whole.shape.count() == part->tensors.size(), "the parts' tensors are all there is");
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

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static fuzz::scratch files;
  files.clear();
  files.put_all(fuzz::input_of(data, size), fuzz::rank_names);
  const fuzz::held_bytes bound(128 * size + (512 << 10));
  if (const auto plan = check_plan(files.path())) check_part(files.path(), *plan);
  rank_plan known;
  known.nonce = fuzz::rank_nonce;
  for (const bool full : {false, true}) {
    known.full = full;
    if (fs::exists(files.path() / fuzz::rank_names[1])) check_part(files.path(), known);
  }
  return 0;
}
