// The bytes begin with a frame. What is accepted must do the same in every implementation, by every
// way to the same result; what is not must change nothing.
#include <algorithm>
#include <optional>
#include <stdexcept>

#include "fuzz/frame_tensors.hpp"

namespace {

using namespace lockstep;
using namespace lockstep::kernels;
using fuzz::bytes;
using fuzz::same;

/// Ranges that are longer are tried in one implementation only, for speed.
constexpr std::size_t compared_bytes_max = 128 << 10;

struct {
  digest_key key{42};
  std::vector<bytes> base = fuzz::make_tensors();
  std::vector<bytes> live = base;
  std::vector<tensor_view> views = fuzz::views_of(live);
} world;

bytes_view range_of(const frame& f, const bytes& tensor) {
  return {tensor.data() + f.offset, f.range_bytes};
}

tensor_view view_of(const bytes& tensor, std::uint32_t unit) {
  return {{tensor.data(), tensor.size()}, unit};
}

void apply(const frame& f, bytes& tensor) {
  apply_frame(f, {{tensor.data(), tensor.size()}, f.unit});
}

/// `f`, accepted, takes its tensor from its base to `target`.
void check_result(const frame& f, const bytes& target) {
  const auto& base = world.base[f.tensor];
  auto& live = world.live[f.tensor];
  const auto change = change_of(world.key, f, world.views[f.tensor]);
  const auto before = digest_range(world.key, f.tensor, f.offset, range_of(f, base));
  const auto after = digest_range(world.key, f.tensor, f.offset, range_of(f, target));
  fuzz::demand(before + change == after, "the digest that is predicted is the result's");
  apply(f, live);
  fuzz::demand(same(live, target), "apply writes what the frame says, and nothing else");
  apply(f, live);
  fuzz::demand(same(live, target), "a frame can be applied twice");
  fuzz::demand(change_of(world.key, f, world.views[f.tensor]) == digest_sum{},
               "a frame that is applied changes nothing more");
  // Torn half-way: every other byte is the base's.
  for (std::size_t i = f.offset; i < f.offset + f.range_bytes; i += 2) live[i] = base[i];
  apply(f, live);
  fuzz::demand(same(live, target), "a frame heals a mix of base and target");
}

/// The encoder's own frame from base to target, which may be another one than `f`, leads there too.
bytes check_encoder(const frame& f, const bytes& target) {
  bytes made;
  const auto changed = encode_delta(f.tensor, view_of(world.base[f.tensor], f.unit),
                                    view_of(target, f.unit), f.offset, made);
  fuzz::demand(made.empty() == (changed == 0), "no change has no frame");
  if (made.empty()) return made;
  frame again;
  std::size_t consumed = 0;
  fuzz::demand(
      parse_frame({made.data(), made.size()}, world.views, again, consumed) == frame_status::ok &&
          consumed == made.size(),
      "what is encoded is accepted");
  fuzz::demand(
      f.encoding == frame_encoding::full || made.size() <= frame_header_bytes + f.payload.size,
      "no raw frame is shorter than the encoder's");
  auto& live = world.live[f.tensor];
  live = world.base[f.tensor];
  apply(again, live);
  fuzz::demand(same(live, target), "what is encoded leads to the target");
  return made;
}

void check_accepted(const frame& f) {
  if (f.encoding == frame_encoding::coded) return;  // the target `coded`
  auto& live = world.live[f.tensor];
  bytes target = world.base[f.tensor];
  fuzz::apply_plainly(f, target);
  std::optional<bytes> encoded;
  for (const auto which : available_implementations()) {
    if (f.range_bytes > compared_bytes_max && which != active_implementation()) continue;
    const fuzz::forced implementation(which);
    check_result(f, target);
    auto made = check_encoder(f, target);
    fuzz::demand(!encoded || same(*encoded, made), "all implementations encode the same");
    encoded = std::move(made);
    live = world.base[f.tensor];
  }
}

/// The header's fields as they stand, whether or not they are a frame's: whoever hands on one that
/// was never accepted gets an exception, and no write outside its range.
void check_unproven(bytes_view data) {
  frame f;
  const auto get = [&](std::size_t at, auto value) {
    std::memcpy(&value, data.data + at, sizeof value);
    return value;
  };
  f.encoding = static_cast<frame_encoding>(get(field::encoding, std::uint8_t{}));
  f.unit = get(field::unit, std::uint8_t{});
  f.tensor = get(field::tensor, std::uint32_t{});
  f.count = get(field::count, std::uint32_t{}) & 0xffffff;
  // What a reader sets from the tensor may be anything, too.
  f.offset = (get(field::range, std::uint32_t{}) & 0xffffff) * std::uint64_t{frame_span_bytes_max};
  f.range_bytes = get(field::payload_bytes, std::uint32_t{});
  f.payload = {data.data + frame_header_bytes, data.size - frame_header_bytes};
  const auto tensor = f.tensor % world.live.size();
  auto& live = world.live[tensor];
  const tensor_span span{{live.data(), live.size()}, fuzz::tensor_shapes[tensor].unit};
  try {
    change_of(world.key, f, span);
  } catch (const std::invalid_argument&) {
  }
  fuzz::demand(same(live, world.base[tensor]), "a prediction writes nothing");
  try {
    apply_frame(f, span);
  } catch (const std::invalid_argument&) {
  }
  const auto& base = world.base[tensor];
  if (same(live, base)) return;
  fuzz::demand(f.offset < live.size() && f.range_bytes <= live.size() - f.offset,
               "who writes knows its range");
  std::memcpy(live.data() + f.offset, base.data() + f.offset, f.range_bytes);
  fuzz::demand(same(live, base), "nothing is written outside the range");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const bytes_view input{reinterpret_cast<const std::byte*>(data), size};
  frame f;
  std::size_t consumed = SIZE_MAX;
  frame_status status{};
  {
    const fuzz::held_bytes nothing(0);
    status = parse_frame(input, world.views, f, consumed);
  }
  fuzz::demand(to_string(status) != std::string_view("unknown"), "a status has a name");
  if (status == frame_status::ok) {
    fuzz::demand(f.tensor < world.views.size() &&
                     f.payload.data == input.data + frame_header_bytes &&
                     consumed == frame_header_bytes + f.payload.size && consumed <= size,
                 "an accepted frame lies in its bytes");
    check_accepted(f);
  } else {
    fuzz::demand(consumed == SIZE_MAX && f.payload.data == nullptr, "a refusal sets nothing");
  }
  if (size >= frame_header_bytes) check_unproven(input);
  return 0;
}
