#include "messages/printable.hpp"

#include "messages/one_line.hpp"

namespace lockstep {

std::string one_line(std::string_view text) {
  constexpr std::string_view digits = "0123456789abcdef";
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f) {
      out += "\\x";
      out += digits[byte >> 4];
      out += digits[byte & 15];
    } else {
      out += c;
    }
  }
  return out;
}

std::string printable(std::string_view text) {
  if (text.size() <= printable_bytes_max) return one_line(text);
  auto end = printable_bytes_max;
  // A character is shown whole or not at all.
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) --end;
  return one_line(text.substr(0, end)) + "…";
}

}  // namespace lockstep
