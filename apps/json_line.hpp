// Decides how an object becomes a line of output.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace lockstep {

/// One line. Bytes that are no UTF-8, of a file's name, become U+FFFD instead of an exception.
template <class Json>
std::string json_line(const Json& object) {
  return object.dump(-1, ' ', false, Json::error_handler_t::replace) + '\n';
}

}  // namespace lockstep
