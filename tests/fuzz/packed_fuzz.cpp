// The first byte is how many tensors a model has; the others are what a message carries packed.
#include <algorithm>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "actors/packed.hpp"
#include "fuzz/fuzz.hpp"
#include "messages/errors.hpp"
#include "messages/layout.hpp"
#include "messages/relays.hpp"
#include "weights/shard.hpp"

namespace {

using namespace lockstep;

/// The bytes as numbers of this machine, which are those that travel; nothing if they are not
/// whole.
template <class T>
std::optional<std::vector<T>> numbers_in(const payload& bytes) {
  if (bytes.size() % sizeof(T) != 0) return std::nullopt;
  std::vector<T> out(bytes.size() / sizeof(T));
  if (!out.empty()) std::memcpy(out.data(), bytes.data(), bytes.size());
  return out;
}

template <class T>
bool ascend(const std::vector<T>& numbers) {
  for (std::size_t i = 1; i < numbers.size(); ++i)
    if (numbers[i - 1] >= numbers[i]) return false;
  return true;
}

void check_route(const payload& bytes) {
  const auto route = unpacked_route(bytes);
  const auto plain = numbers_in<std::uint32_t>(bytes);
  const bool right = plain && plain->size() % 2 == 0 && plain->size() <= 2 * relay_stripes_max;
  fuzz::demand(route.has_value() == right, "a route has a parent and a depth for each stripe");
  if (!route) return;
  auto again = *plain;
  for (std::size_t s = 0; s < route->size(); ++s) {
    const auto& place = (*route)[s];
    const auto parent = (*plain)[2 * s];
    const auto depth = (*plain)[2 * s + 1];
    const fanout_plan::place trainer;
    fuzz::demand(depth == 0 ? place == trainer : place == fanout_plan::place{parent, depth},
                 "a stripe is brought by whom the bytes name");
    if (depth == 0) again[2 * s] = 0;
  }
  fuzz::demand(numbers_in<std::uint32_t>(packed_route(*route)) == again,
               "a route that was accepted travels on as it is");
}

void check_lists(const payload& bytes) {
  const auto ids = unpacked_ids(bytes);
  const auto plain = numbers_in<receiver_id>(bytes);
  fuzz::demand(ids.has_value() == (plain && ascend(*plain)) && (!ids || *ids == *plain),
               "receivers ascend");
  fuzz::demand(!ids || packed_ids(*ids) == bytes, "and travel on as they are");
  const auto digests = unpacked_digests(bytes);
  fuzz::demand(digests.has_value() == (bytes.size() % packed_digest_bytes == 0),
               "digests are whole");
  fuzz::demand(!digests || packed_digests(*digests) == bytes, "and travel on as they are");
}

/// Every third tensor has no bytes.
layout model_of(std::size_t tensors) {
  std::vector<tensor_spec> specs;
  for (std::size_t i = 0; i < tensors; ++i)
    specs.push_back({"t" + std::to_string(1'000 + i), dtype::u8, {i % 3}});
  return layout(std::move(specs));
}

void check_mask(const payload& bytes, std::size_t tensors) {
  const auto mask = unpacked_mask(bytes, tensors);
  const auto plain = numbers_in<std::uint32_t>(bytes);
  const bool right = plain && ascend(*plain) && (plain->empty() || plain->back() < tensors);
  fuzz::demand(mask.has_value() == right, "a mask names tensors that there are, ascending");
  if (!mask) return;
  fuzz::demand(mask->size() == tensors && packed_mask(*mask) == bytes, "and travels on as it is");
}

void check_part(const payload& bytes, const layout& model) {
  shard_mask part;
  try {
    part = part_from(bytes, model);
  } catch (const error& e) {
    fuzz::demand(e.code() == errc::wrong_layout, "a part is refused for what it is");
    return fuzz::demand_message(e.what());
  }
  fuzz::demand(packed_part(part) == bytes, "a part has one spelling");
  if (part.empty()) return;
  std::uint64_t held = 0;
  for (std::size_t i = 0; i < model.count(); ++i) held += part.at(i) ? model.bytes(i) : 0;
  fuzz::demand(held > 0 && std::ranges::count(part, false) > 0, "and is some of the model");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  auto input = fuzz::input_of(data, size);
  if (input.empty()) return 0;
  const auto model = model_of(std::to_integer<std::size_t>(input[0]));
  input = input.subspan(1);
  const payload bytes(std::vector<std::byte>(input.begin(), input.end()));
  const fuzz::held_bytes bound(8 * size + (4 << 10));
  check_route(bytes);
  check_lists(bytes);
  check_mask(bytes, model.count());
  check_part(bytes, model);
  return 0;
}
