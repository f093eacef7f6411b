// Decides how text of any kind stays on one line of a log or a message.
#pragma once

#include <string>
#include <string_view>

namespace lockstep {

/// `text`, whole, with control characters as `\x0a`.
std::string one_line(std::string_view text);

}  // namespace lockstep
