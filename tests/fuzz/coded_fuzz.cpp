// The bytes begin with a coded frame. Every implementation must make the same of it as a plain
// decoder does: refuse it and leave nothing behind, or give an absorbing frame and both digests.
#include <optional>
#include <stdexcept>
#include <string_view>

#include "fuzz/frame_tensors.hpp"
#include "kernels/coded.hpp"
#include "kernels/coded_table.hpp"
#include "tests/kernels/plain_coded.hpp"

namespace {

using namespace lockstep;
using namespace lockstep::kernels;
using fuzz::bytes;
using fuzz::same;

struct {
  digest_key key{42};
  std::vector<bytes> base = fuzz::make_coded_tensors();
  std::vector<tensor_view> views = fuzz::coded_views_of(base);
} world;

bytes_view view_of(const bytes& b) {
  return {b.data(), b.size()};
}

/// What was staged is a frame that leads to `target` from a mix of base and target.
void check_staged(const frame& f, const bytes& staged, const bytes& target) {
  frame made;
  std::size_t consumed = 0;
  fuzz::demand(parse_frame(view_of(staged), world.views, made, consumed) == frame_status::ok &&
                   consumed == staged.size() && made.tensor == f.tensor && made.offset == f.offset,
               "what is staged is one frame of the same range");
  bytes live = world.base[f.tensor];
  for (std::size_t i = f.offset; i < f.offset + f.range_bytes; i += 2) live[i] = target[i];
  apply_frame(made, {{live.data(), live.size()}, f.unit});
  fuzz::demand(same(live, target), "what is staged leads to the target");
}

frame_status stage(const frame& f, const std::optional<bytes>& target, std::size_t input_size) {
  const auto& base = world.base[f.tensor];
  bytes staged;
  staged_digest digest;
  frame_status status{};
  {
    // The stager's own memory, two masks of ranks for each class, and what the payload justifies.
    const fuzz::held_bytes bound((128 << 10) + 8 * base.size() + 64 * input_size);
    frame_stager stager;
    status = stager.stage(world.key, f, world.views[f.tensor], staged, digest);
    fuzz::demand((status == frame_status::ok) == target.has_value(),
                 "the stager takes what the plain decoder takes");
    if (status != frame_status::ok) {
      fuzz::demand(staged.empty() && digest.base == digest_sum{} && digest.change == digest_sum{},
                   "a refusal gives nothing");
      // Whatever stood in the stager's memory is gone.
      fuzz::demand(stager.stage(world.key, f, world.views[f.tensor], staged, digest) == status,
                   "a refusal is one the second time, too");
      return status;
    }
  }
  check_staged(f, staged, *target);
  const auto range = [&](const bytes& b) {
    return digest_range(world.key, f.tensor, f.offset, {b.data() + f.offset, f.range_bytes});
  };
  fuzz::demand(digest.base == range(base), "the base is digested");
  fuzz::demand(digest.base + digest.change == range(*target), "the target is predicted");
  return status;
}

/// The encoder's own frame, with the same classes, leads to the same target.
bytes encode_again(const frame& f, const bytes& target) {
  coded_table table;
  bytes_view bits;
  fuzz::demand(read_table(f, table, bits) == frame_status::ok, "an accepted frame has a table");
  bytes made;
  delta_encoder().encode(f.tensor, world.views[f.tensor], {view_of(target), f.unit}, f.offset,
                         table.model, encoding_choice::coded, made);
  if (made.empty()) return made;
  frame again;
  std::size_t consumed = 0;
  fuzz::demand(parse_frame(view_of(made), world.views, again, consumed) == frame_status::ok &&
                   consumed == made.size(),
               "what is encoded is accepted");
  bytes staged;
  staged_digest digest;
  frame_stager stager;
  fuzz::demand(
      stager.stage(world.key, again, world.views[f.tensor], staged, digest) == frame_status::ok,
      "what is encoded is staged");
  check_staged(again, staged, target);
  return made;
}

void check_accepted(const frame& f, std::size_t input_size) {
  const auto& base = world.base[f.tensor];
  std::optional<bytes> target;
  if (const auto range = plain_decoder(f, {base.data() + f.offset, f.range_bytes}).run()) {
    target = base;
    std::memcpy(target->data() + f.offset, range->data(), range->size());
  }
  std::optional<frame_status> first;
  std::optional<bytes> encoded;
  for (const auto which : available_implementations()) {
    const fuzz::forced implementation(which);
    const auto status = stage(f, target, input_size);
    fuzz::demand(first.value_or(status) == status, "all implementations say the same");
    first = status;
    if (!target) continue;
    auto made = encode_again(f, *target);
    fuzz::demand(!encoded || same(*encoded, made), "all implementations encode the same");
    encoded = std::move(made);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const bytes_view input{reinterpret_cast<const std::byte*>(data), size};
  frame f;
  std::size_t consumed = 0;
  frame_status status{};
  {
    const fuzz::held_bytes nothing(0);
    status = parse_frame(input, world.views, f, consumed);
  }
  fuzz::demand(to_string(status) != std::string_view("unknown"), "a status has a name");
  if (status != frame_status::ok || f.encoding != frame_encoding::coded) return 0;
  bool refused = false;
  try {
    change_of(world.key, f, world.views[f.tensor]);
  } catch (const std::invalid_argument&) {
    refused = true;
  }
  fuzz::demand(refused, "a coded frame is not applied as it is");
  check_accepted(f, size);
  return 0;
}
