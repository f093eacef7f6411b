// The bytes are files by which the ranks of a trainer come to what a host must prove, for each a
// byte that chooses its name, two of its length, and its contents: rank 0's order to rank 1, rank
// 1's share, and an index that says what the tensors of two ranks are.
#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "fuzz/fuzz.hpp"
#include "fuzz/proof_files.hpp"
#include "fuzz/refusal.hpp"
#include "fuzz/scratch.hpp"
#include "messages/errors.hpp"
#include "messages/ids.hpp"
#include "weights/bucket_codec.hpp"
#include "weights/checkpoint_index.hpp"
#include "weights/file.hpp"
#include "weights/rank_part.hpp"
#include "weights/rank_proof.hpp"
#include "weights/rank_publisher.hpp"
#include "weights/safetensors.hpp"
#include "weights/weight_buffer.hpp"

namespace {

using namespace lockstep;
namespace fs = std::filesystem;

constexpr std::uint32_t rank = 1;

std::optional<rank_order> order_in(const fs::path& staging) {
  return read_order(staging, fuzz::proof_nonce, rank);
}

std::optional<rank_order> check_order(const fs::path& staging) {
  auto order = order_in(staging);
  if (!order) return std::nullopt;
  std::uint32_t next = 0;
  for (const auto& n : order->numbers) {
    fuzz::demand(!n || (*n >= next && *n < file_limits{}.entry_count_max),
                 "a tensor's number is one of the whole, and above those before it");
    if (n) next = *n + 1;
  }
  return order;
}

/// Whoever gives a share counts every tensor that it is asked for, by its number in the whole, and
/// no other.
void check_share_of(const rank_order& order) {
  constexpr std::size_t tensors_max = 64;
  constexpr std::uint32_t numbers_max = 4096;
  const auto far = [](const auto& n) { return n && *n >= numbers_max; };
  if (order.numbers.size() > tensors_max || std::ranges::any_of(order.numbers, far)) return;
  std::vector<tensor_spec> specs;
  for (std::size_t i = 0; i < order.numbers.size(); ++i)
    specs.push_back({fmt::format("{:02}", i), dtype::u8, {i % 3}});
  weight_buffer own{layout(std::move(specs))};
  for (std::size_t i = 0; i < own.shape().count(); ++i)
    std::ranges::fill(own.tensor(i), static_cast<std::byte>(i + 1));
  std::vector<bool> read(own.shape().count());
  auto source = source_of(std::as_const(own));
  source.done = [&](std::size_t tensor, std::uint64_t begin, std::uint64_t end) {
    fuzz::demand(begin == 0 && end == own.shape().bytes(tensor), "a tensor is read whole");
    read[tensor] = true;
  };
  const auto share = share_of(order, source);
  fuzz::demand(std::ranges::all_of(read, [](bool r) { return r; }), "all that is read is let go");
  const auto views = views_of(std::as_const(own));
  digest sum;
  for (std::size_t i = 0; i < views.size(); ++i) {
    if (!order.numbers[i]) continue;
    tensor_views alone(*order.numbers[i] + std::size_t{1});
    alone.back() = views[i];
    const auto one = digest_of(order.challenge, alone);
    sum.lane0 += one.lane0;
    sum.lane1 += one.lane1;
  }
  fuzz::demand(share == sum, "a share is the sum of what each tensor is in the whole");
}

void check_written_again(const fs::path& staging, const rank_order& order) {
  write_order(staging, fuzz::proof_nonce, rank, order);
  fuzz::demand(order_in(staging) == order, "an order that is accepted can be written");
}

void check_share(const fs::path& file) {
  if (!fs::exists(file)) return;
  digest share;
  if (!fuzz::accepted({errc::bad_input}, [&] { share = read_share(file); })) return;
  write_share(file, share);
  fuzz::demand(read_share(file) == share, "a share that is accepted can be written");
}

void check_digests(const fs::path& dir) {
  std::string said;
  if (!has_index(dir) ||
      !fuzz::accepted({errc::bad_input}, [&] { said = metadata_in(dir, own_key::rank_targets); }))
    return;
  const auto each = rank_digests(said, 2);
  if (each.empty()) return;
  fuzz::demand(each.size() == 2 && each[0] + ',' + each[1] == said,
               "there is one digest for each rank, as it stands there");
  fuzz::demand(rank_digests(said, 1).empty() && rank_digests(said, 3).empty(),
               "what is of so many ranks is of no other number");
}

void check_cleared(const fs::path& staging) {
  const auto before = files_in(staging);
  const auto orders = std::ranges::count_if(
      before, [](const auto& file) { return file.filename().native().starts_with("order-"); });
  clear_orders(staging);
  const auto left = files_in(staging);
  fuzz::demand(before.size() == left.size() + static_cast<std::size_t>(orders) &&
                   !fs::exists(staging / fuzz::proof_names[0]),
               "orders go, and nothing else");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static fuzz::scratch staging;
  staging.clear();
  staging.put_all(fuzz::input_of(data, size), fuzz::proof_names);
  std::optional<rank_order> order;
  {
    const fuzz::held_bytes bound(32 * size + (16 << 10));
    order = check_order(staging.path());
    check_digests(staging.path());
  }
  {
    // Made whole before it is looked at, but never more than 4 KiB of it.
    const fuzz::held_bytes bound(512 << 10);
    check_share(staging.path() / (share_prefix(rank, fuzz::proof_nonce) + "t.json"));
  }
  if (order) {
    check_share_of(*order);
    check_written_again(staging.path(), *order);
  }
  check_cleared(staging.path());
  return 0;
}
