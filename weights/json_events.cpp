#include "weights/json_events.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "weights/file.hpp"

namespace lockstep {

bool json_events::parse_error(std::size_t position, const std::string&,
                              const nlohmann::detail::exception&) {
  // The library's own text quotes the whole offending token, which a hostile file makes 100 MB
  // long.
  refuse(errc::bad_input, path_, fmt::format("is not valid JSON at byte {} of its text", position));
}

bool json_events::unexpected(std::string_view what) {
  refuse(errc::bad_input, path_, fmt::format("has an unexpected {} in its JSON", what));
}

void parse_json(std::span<const std::byte> text, json_events& events) {
  // The library takes a NUL for the end of the text and would not look at what follows.
  if (std::find(text.begin(), text.end(), std::byte{0}) != text.end())
    refuse(errc::bad_input, events.path(), "has a NUL byte in its JSON");
  const auto* begin = reinterpret_cast<const char*>(text.data());
  nlohmann::json::sax_parse(begin, begin + text.size(), &events);
}

}  // namespace lockstep
