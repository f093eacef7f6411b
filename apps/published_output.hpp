// Decides what is printed of a version that hosts follow through a directory.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "messages/report.hpp"

namespace lockstep {

/// What a report does not say.
struct followed_version {
  std::string kind;                 ///< of the JSON line
  std::string word;                 ///< that the line for people begins with, before the number
  std::uint64_t held = 0;           ///< the version that the next one starts from
  std::vector<std::string> absent;  ///< hosts that are out
};

/// One line on standard output: for people, or a JSON object.
void print_followed(const sync_report& report, const followed_version& about, bool json);

}  // namespace lockstep
