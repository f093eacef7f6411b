// Decides which zstd payloads are accepted: one whole frame, never more bytes than asked for.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace lockstep {

/// Decompresses the one frame that is `compressed` into exactly all of `out`. Returns why it
/// cannot, or an empty string. Writes inside `out` only and allocates nothing that the frame could
/// size.
std::string decompress_exactly(std::span<const std::byte> compressed, std::span<std::byte> out);

/// Decompresses the one frame that is `compressed` into `out`, replacing what it holds. Returns why
/// it cannot, or an empty string. Holds at no time more than `bytes_max`, four times what really
/// arrives, or 64 bytes for each of `compressed` and 4 KiB, whichever of the last two is greater.
std::string decompress_up_to(std::span<const std::byte> compressed, std::uint64_t bytes_max,
                             std::vector<std::byte>& out);

/// One frame with its content size, at the level that publishers use (1).
std::vector<std::byte> compress(std::span<const std::byte> bytes);

}  // namespace lockstep
