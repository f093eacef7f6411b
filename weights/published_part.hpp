// Decides how one changed tensor of a published delta is decoded.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "weights/published.hpp"

namespace lockstep {

/// `unit` is the width of the tensor's elements. Decodes `compressed`, one part of a delta, onto
/// `old`, the base's bytes of its tensor, into `out`, which is as long as `old`. Returns why it
/// cannot, or an empty string. Checks no checksum. Writes inside `out` only, which is in no defined
/// state after a failure; holds at most five bytes for each of `out`, and as little as
/// `decompress_up_to` says.
std::string decode_part(published_encoding encoding, std::uint32_t unit,
                        std::span<const std::byte> compressed, std::span<const std::byte> old,
                        std::span<std::byte> out);

}  // namespace lockstep
