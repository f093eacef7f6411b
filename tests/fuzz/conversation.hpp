// Decides who hears the messages of the targets `receiver` and `trainer`, and how they are cut up.
#pragma once

#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "messages/layout.hpp"
#include "messages/wire.hpp"
#include "weights/bucket_codec.hpp"
#include "weights/weight_buffer.hpp"

namespace lockstep::fuzz {

inline constexpr std::uint64_t cluster = 9;
inline constexpr receiver_id id = 7;
inline constexpr incarnation life{5, 6};

inline layout small_layout() {
  return layout({{"a", dtype::bf16, {40}}, {"b", dtype::f32, {3, 5}}, {"c", dtype::u8, {7}}});
}

inline weight_buffer small_weights() {
  weight_buffer weights(small_layout());
  std::uint8_t next = 0;
  for (std::size_t i = 0; i < weights.shape().count(); ++i)
    for (auto& b : weights.tensor(i)) b = static_cast<std::byte>(next++);
  return weights;
}

inline tensor_spans spans_of(weight_buffer& weights) {
  tensor_spans spans;
  for (std::size_t i = 0; i < weights.shape().count(); ++i) {
    const auto t = weights.tensor(i);
    spans.push_back({{t.data(), t.size()}, unit_bytes(weights.shape()[i].type)});
  }
  return spans;
}

/// Takes the next message from the front of `rest`, as far as its announced length can be followed.
inline std::optional<wire_message> next_message(std::span<const std::byte>& rest) {
  constexpr auto around = wire_header_bytes + wire_checksum_bytes;
  while (rest.size() >= around) {
    std::uint64_t body = 0;
    for (std::size_t i = 8; i-- > 0;)
      body = body << 8 | std::to_integer<std::uint64_t>(rest[8 + i]);
    if (body > rest.size() - around) return std::nullopt;
    const auto whole = rest.first(around + static_cast<std::size_t>(body));
    rest = rest.subspan(whole.size());
    auto result = decode_message(whole);
    if (auto* message = std::get_if<wire_message>(&result)) return std::move(*message);
  }
  return std::nullopt;
}

}  // namespace lockstep::fuzz
