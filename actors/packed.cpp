#include "actors/packed.hpp"

#include <algorithm>
#include <cstdint>
#include <functional>
#include <utility>

#include "messages/relays.hpp"

namespace lockstep {

namespace {

/// Of a stripe: who brings it, and how deep the receiver is.
constexpr std::size_t place_words = 2;

template <class Word>
void append(std::vector<std::byte>& out, Word word) {
  for (std::size_t i = 0; i < sizeof word; ++i)
    out.push_back(static_cast<std::byte>(word >> (8 * i) & 0xff));
}

/// Nothing if the bytes are not whole words.
template <class Word>
std::optional<std::vector<Word>> words_of(const payload& bytes) {
  if (bytes.size() % sizeof(Word) != 0) return std::nullopt;
  std::vector<Word> out(bytes.size() / sizeof(Word));
  for (std::size_t i = 0; i < bytes.size(); ++i)
    out[i / sizeof(Word)] |= std::to_integer<Word>(bytes.data()[i]) << (8 * (i % sizeof(Word)));
  return out;
}

}  // namespace

payload packed_route(const std::vector<fanout_plan::place>& from) {
  std::vector<std::byte> out;
  for (const auto& place : from) {
    append(out, place.parent.value_or(0));
    append(out, place.parent ? place.depth : 0);
  }
  return payload(std::move(out));
}

std::optional<std::vector<fanout_plan::place>> unpacked_route(const payload& bytes) {
  const auto words = words_of<std::uint32_t>(bytes);
  if (!words || words->size() % place_words != 0 || words->size() / place_words > relay_stripes_max)
    return std::nullopt;
  std::vector<fanout_plan::place> out;
  for (std::size_t i = 0; i < words->size(); i += place_words) {
    fanout_plan::place place;
    if (const auto depth = (*words)[i + 1]; depth != 0) place = {(*words)[i], depth};
    out.push_back(place);
  }
  return out;
}

payload packed_ids(const std::vector<receiver_id>& ids) {
  std::vector<std::byte> out;
  for (const auto id : ids) append(out, id);
  return payload(std::move(out));
}

std::optional<std::vector<receiver_id>> unpacked_ids(const payload& bytes) {
  auto ids = words_of<receiver_id>(bytes);
  if (!ids || std::ranges::adjacent_find(*ids, std::greater_equal()) != ids->end())
    return std::nullopt;
  return ids;
}

payload packed_digests(const std::vector<digest>& digests) {
  std::vector<std::byte> out;
  out.reserve(digests.size() * packed_digest_bytes);
  for (const auto& d : digests)
    for (const auto lane : {d.lane0, d.lane1}) append(out, lane);
  return payload(std::move(out));
}

std::optional<std::vector<digest>> unpacked_digests(const payload& bytes) {
  if (bytes.size() % packed_digest_bytes != 0) return std::nullopt;
  const auto lanes = *words_of<std::uint64_t>(bytes);
  std::vector<digest> out(lanes.size() / 2);
  for (std::size_t i = 0; i < out.size(); ++i) out[i] = {lanes[2 * i], lanes[2 * i + 1]};
  return out;
}

}  // namespace lockstep
