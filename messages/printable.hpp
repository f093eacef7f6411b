// Decides how what others wrote looks in a message of ours.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace lockstep {

inline constexpr std::size_t printable_bytes_max = 200;

/// `text` fit for a one-line message: control characters as `\x0a`, cut after
/// `printable_bytes_max`.
std::string printable(std::string_view text);

}  // namespace lockstep
