// The bytes are one message; and what a peer sends, piece by piece.
#include <algorithm>

#include "fuzz/fuzz.hpp"
#include "messages/wire.hpp"
#include "messages/wire_stream.hpp"

namespace {

using namespace lockstep;

/// However the bytes arrive, a stream gives the messages that they are, and ends at the first that
/// is none.
void check_stream(std::span<const std::byte> input) {
  // As it grows it is there twice; and a message in two forms.
  const fuzz::held_bytes bound(6 * input.size() + 4096);
  constexpr std::uint64_t bytes_max = 4096;
  wire_stream stream(bytes_max);
  std::size_t taken = 0;
  bool failed = false;
  for (std::size_t at = 0, step = 1; at < input.size(); step = step * 3 % 1021) {
    const auto piece = input.subspan(at, std::min(step, input.size() - at));
    stream.feed(piece);
    at += piece.size();
    while (const auto next = stream.next()) {
      if (const auto* why = std::get_if<wire_failure>(&*next)) {
        fuzz::demand_message(why->detail);
        failed = true;
        break;
      }
      fuzz::demand(!failed, "a stream that failed stays failed");
      const auto form = encode_message(std::get<wire_message>(*next));
      fuzz::demand(form.size() <= bytes_max && form.size() <= at - taken &&
                       std::ranges::equal(form, input.subspan(taken, form.size())),
                   "messages come as they were sent");
      taken += form.size();
    }
  }
  fuzz::demand(stream.size() == (failed ? 0 : input.size() - taken),
               "what is no message yet is kept, and nothing of what is none");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto input = fuzz::input_of(data, size);
  check_stream(input);
  std::variant<wire_message, wire_failure> result;
  {
    const fuzz::held_bytes bound(size + 1024);
    result = decode_message(input);
  }
  if (const auto* failure = std::get_if<wire_failure>(&result)) {
    fuzz::demand(failure->reason == errc::bad_frame || failure->reason == errc::bad_checksum ||
                     failure->reason == errc::bad_manifest,
                 "refused for what it is");
    fuzz::demand_message(failure->detail);
    return 0;
  }
  const auto& message = std::get<wire_message>(result);
  fuzz::demand(name_of(message) != "unknown", "a message has a name");
  fuzz::demand(std::ranges::equal(encode_message(message), input),
               "each message has one form, and only that is accepted");
  // Limits that a reader lowers are kept to, whatever it read before.
  const auto* bucket = std::get_if<bucket_msg>(&message);
  const auto none = decode_message(input, {0, 0});
  const bool empty = bucket == nullptr || bucket->bytes.size() == 0;
  fuzz::demand(empty || std::holds_alternative<wire_failure>(none), "limits are kept");
  return 0;
}
