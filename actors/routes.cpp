// How routes and lists of receivers travel between the ranks of a trainer.
#include <algorithm>
#include <span>

#include "actors/interfaces.hpp"

namespace lockstep {

namespace {

constexpr std::size_t word_bytes = 4;
/// Of a stripe: who brings it, and how deep the receiver is.
constexpr std::size_t place_words = 2;

void append(std::vector<std::byte>& out, std::uint32_t word) {
  for (int shift = 0; shift < 32; shift += 8)
    out.push_back(static_cast<std::byte>(word >> shift & 0xff));
}

/// Nothing if the bytes are not whole words.
std::optional<std::vector<std::uint32_t>> words_of(const payload& bytes) {
  if (bytes.size() % word_bytes != 0) return std::nullopt;
  std::vector<std::uint32_t> out(bytes.size() / word_bytes);
  for (std::size_t i = 0; i < bytes.size(); ++i)
    out[i / word_bytes] |= std::to_integer<std::uint32_t>(bytes.data()[i])
                           << (8 * (i % word_bytes));
  return out;
}

}  // namespace

payload packed_route(const relay_route& route) {
  std::vector<std::byte> out;
  for (const auto& place : route.from) {
    append(out, place.parent.value_or(0));
    append(out, place.parent ? place.depth : 0);
  }
  return payload(std::move(out));
}

std::optional<relay_route> unpacked_route(const payload& bytes) {
  const auto words = words_of(bytes);
  if (!words || words->size() % place_words != 0 || words->size() / place_words > relay_stripes_max)
    return std::nullopt;
  relay_route out;
  for (std::size_t i = 0; i < words->size(); i += place_words) {
    fanout_plan::place place;
    if (const auto depth = (*words)[i + 1]; depth != 0) place = {(*words)[i], depth};
    out.from.push_back(place);
  }
  return out;
}

payload packed_ids(const shipped_to& ids) {
  std::vector<std::byte> out;
  for (const auto id : ids) append(out, id);
  return payload(std::move(out));
}

std::optional<shipped_to> unpacked_ids(const payload& bytes) {
  auto ids = words_of(bytes);
  if (!ids || std::ranges::adjacent_find(*ids, std::greater_equal()) != ids->end())
    return std::nullopt;
  return ids;
}

}  // namespace lockstep
