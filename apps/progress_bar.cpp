#include "apps/progress_bar.hpp"

#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <string>

namespace lockstep {

progress_bar::progress_bar(std::size_t total)
    : total_(std::max<std::size_t>(total, 1)), terminal_(isatty(STDERR_FILENO) == 1) {}

void progress_bar::show(std::size_t done, std::string_view what) {
  if (!terminal_) return;
  constexpr std::size_t width = 30;
  const auto filled = std::min(done, total_) * width / total_;
  std::fflush(stdout);  // the lines before it stand above it
  // The cursor goes back to the start, so that a line of the log overwrites the bar.
  fmt::print(stderr, "\r\x1b[K[{}{}] {}/{} {}\r", std::string(filled, '#'),
             std::string(width - filled, '.'), done, total_, what);
  std::fflush(stderr);
  shown_ = true;
}

void progress_bar::clear() {
  if (!shown_) return;
  fmt::print(stderr, "\r\x1b[K");
  std::fflush(stderr);
  shown_ = false;
}

}  // namespace lockstep
