#include "apps/standard_output.hpp"

#include <cerrno>
#include <cstdio>
#include <system_error>

#include "messages/errors.hpp"

namespace lockstep {

void print_out(std::string_view text) {
  const bool written = std::fwrite(text.data(), 1, text.size(), stdout) == text.size();
  if (written && std::fflush(stdout) == 0) return;
  throw error(errc::unwritable,
              "standard output cannot be written: " + std::generic_category().message(errno));
}

}  // namespace lockstep
