// The bytes are the first of a connection: a greeting or an answer; and, where they are long
// enough, the header of a bulk frame.
#include <algorithm>

#include "fuzz/fuzz.hpp"
#include "transport/bulk_frame.hpp"
#include "transport/greeting.hpp"

namespace {

using namespace lockstep;

void demand_refusal(const failure& why) {
  fuzz::demand(why.reason == errc::bad_frame || why.reason == errc::bad_checksum ||
                   why.reason == errc::wrong_version,
               "refused for what it is");
  fuzz::demand_message(why.detail);
}

/// Both decoders of a kind of frame agree on its length, and what is accepted has one form.
template <class Length, class Decode, class Encode>
void frame(std::span<const std::byte> input, Length length, Decode decode, Encode encode) {
  const fuzz::held_bytes bound(3 * input.size() + 4096);
  const auto result = decode(input);
  const auto* why = std::get_if<failure>(&result);
  if (input.size() >= greeting_header_bytes) {
    const auto bytes = length(input.first<greeting_header_bytes>());
    const auto* count = std::get_if<std::size_t>(&bytes);
    fuzz::demand(why != nullptr || (count != nullptr && *count == input.size()),
                 "as long as its first bytes say");
    fuzz::demand(count == nullptr || *count <= greeting_bytes_max, "a bounded length");
  }
  if (why != nullptr) return demand_refusal(*why);
  fuzz::demand(std::ranges::equal(encode(std::get<0>(result)), input),
               "each greeting has one form, and only that is accepted");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto input = fuzz::input_of(data, size);
  frame(input, greeting_frame_bytes, decode_greeting, encode_greeting);
  frame(input, answer_frame_bytes, decode_answer, encode_answer);
  if (size < bulk_header_bytes) return 0;
  const auto header = input.first<bulk_header_bytes>();
  constexpr std::uint64_t limit = 1 << 20;
  const fuzz::held_bytes bound(4096);
  const auto result = decode_bulk_header(header, limit);
  if (const auto* why = std::get_if<failure>(&result)) {
    if (why->reason != errc::bad_manifest) demand_refusal(*why);
    return 0;
  }
  const auto& accepted = std::get<bulk_header>(result);
  fuzz::demand(accepted.payload_bytes <= limit, "the limit is kept");
  fuzz::demand(std::ranges::equal(encode_bulk_header(accepted), header),
               "each header has one form, and only that is accepted");
  return 0;
}
