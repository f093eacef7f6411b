// Decides which numbers the command line takes.
#pragma once

#include <charconv>
#include <cstdint>
#include <functional>
#include <string>

namespace lockstep {

/// A check for CLI11 that takes plain decimal numbers of a range: left alone it would take "010"
/// for eight.
inline std::function<std::string(const std::string&)> plain_number(std::uint64_t min,
                                                                   std::uint64_t max) {
  return [=](const std::string& text) -> std::string {
    std::uint64_t number = 0;
    const auto* end = text.data() + text.size();
    const auto [rest, failed] = std::from_chars(text.data(), end, number);
    const bool plain = failed == std::errc{} && rest == end && (text[0] != '0' || text == "0");
    if (plain && min <= number && number <= max) return {};
    return "'" + text + "' is not a number from " + std::to_string(min) + " to " +
           std::to_string(max);
  };
}

}  // namespace lockstep
