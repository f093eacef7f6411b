#include "apps/standard_output.hpp"

#include <cerrno>
#include <cstdio>

#include "weights/unwritable.hpp"

namespace lockstep {

void print_out(std::string_view text) {
  const bool written = std::fwrite(text.data(), 1, text.size(), stdout) == text.size();
  if (written && std::fflush(stdout) == 0) return;
  refuse_write("standard output", "cannot be written", errno);
}

}  // namespace lockstep
