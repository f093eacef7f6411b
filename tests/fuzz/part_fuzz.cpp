// The first byte says how the rest is to be taken: as one compressed part of a published delta, or
// as what is compressed to be one.
#include <zstd.h>

#include <vector>

#include "fuzz/fuzz.hpp"
#include "weights/compressed.hpp"
#include "weights/part_stream.hpp"
#include "weights/published_part.hpp"

namespace {

using namespace lockstep;

/// What zstd needs to decompress anything in one call, and a message.
constexpr std::size_t context_bytes = 256 << 10;

constexpr std::size_t old_bytes[] = {0, 1, 300, 70'000};

std::uint32_t number_at(const std::vector<std::byte>& bytes, std::size_t at) {
  std::uint32_t value = 0;
  for (std::size_t i = 0; i < 4; ++i)
    value |= std::to_integer<std::uint32_t>(bytes.at(at + i)) << (8 * i);
  return value;
}

/// What the part must have made of `old`, written without the reader's shortcuts.
std::vector<std::byte> expected(published_encoding encoding, std::span<const std::byte> compressed,
                                const std::vector<std::byte>& old) {
  std::vector<std::byte> payload(old.size() * 5 + 4);
  const auto got =
      ZSTD_decompress(payload.data(), payload.size(), compressed.data(), compressed.size());
  fuzz::demand(!ZSTD_isError(got), "an accepted part decompresses");
  payload.resize(got);
  auto result = old;
  if (encoding == published_encoding::xored) {
    for (std::size_t i = 0; i < old.size(); ++i) result[i] ^= payload.at(i);
    return result;
  }
  const std::size_t count = number_at(payload, 0);
  fuzz::demand(payload.size() == 4 + 5 * count, "an accepted part has a byte for each position");
  for (std::size_t i = 0; i < count; ++i) {
    const auto position = number_at(payload, 4 + 4 * i);
    fuzz::demand(i == 0 || number_at(payload, 4 * i) < position, "accepted positions ascend");
    result.at(position) = payload[4 + 4 * count + i];
  }
  return result;
}

/// Who guesses how much room is needed accepts what who has all of it accepts.
void check_room(std::span<const std::byte> compressed, std::size_t bytes_max) {
  std::vector<std::byte> guessed;
  std::vector<std::byte> all(bytes_max);
  const bool one =
      ZSTD_findFrameCompressedSize(compressed.data(), compressed.size()) == compressed.size();
  const auto got = ZSTD_decompress(all.data(), all.size(), compressed.data(), compressed.size());
  const bool whole = one && !ZSTD_isError(got);
  fuzz::demand(decompress_up_to(compressed, bytes_max, guessed).empty() == whole,
               "what is accepted does not depend on a guess");
  if (whole) all.resize(got);
  fuzz::demand(!whole || guessed == all, "all of it arrives");
}

/// Window by window a part gives what it gives in one piece, or is refused there too. A window is
/// longer than these tensors, so there is one.
void check_stream(published_encoding encoding, std::span<const std::byte> compressed,
                  const std::vector<std::byte>& old, bool accepted,
                  const std::vector<std::byte>& expected) {
  part_stream stream(encoding, compressed, old.size(), 1, 20);
  std::vector<std::byte> out(old.size());
  auto problem = old.empty() ? std::string() : stream.next(old, out);
  if (problem.empty()) problem = stream.finish();
  if (problem.empty())
    fuzz::demand(accepted && out == expected, "a stream gives what the whole part does");
  else
    fuzz::demand_message(problem);
}

/// Frames are refused or decoded, in bounds: the sanitizers look on.
void decode_frames(std::span<const std::byte> frames, const std::vector<std::byte>& old) {
  std::vector<std::byte> out(old.size());
  const auto problem = decode_part(published_encoding::coded, 1, frames, old, out);
  if (!problem.empty()) fuzz::demand_message(problem);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const auto encoding =
      (data[0] & 1) != 0 ? published_encoding::overwrite : published_encoding::xored;
  std::vector<std::byte> old(old_bytes[(data[0] >> 1) & 3]);
  for (std::size_t i = 0; i < old.size(); ++i) old[i] = static_cast<std::byte>(i * 7);
  auto compressed = fuzz::input_of(data, size).subspan(1);
  std::vector<std::byte> made;
  if ((data[0] & 8) != 0) {
    made = compress(compressed);
    compressed = made;
  }
  std::vector<std::byte> out(old.size());
  std::string problem;
  {
    const fuzz::held_bytes bound(5 * old.size() + context_bytes);
    problem = decode_part(encoding, 1, compressed, old, out);
  }
  check_room(compressed, old.size() * 5 + 4);
  check_stream(encoding, compressed, old, problem.empty(), out);
  decode_frames(compressed, old);
  if (problem.empty())
    fuzz::demand(out == expected(encoding, compressed, old), "a part gives what it says");
  else
    fuzz::demand_message(problem);
  return 0;
}
