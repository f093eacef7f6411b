// The bytes are one message.
#include <algorithm>

#include "fuzz/fuzz.hpp"
#include "messages/wire.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace lockstep;
  const auto input = fuzz::input_of(data, size);
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
