#include "apps/progress_bar.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <string>
#include <utility>

namespace lockstep {

progress_bar::progress_bar(std::size_t total)
    : total_(std::max<std::size_t>(total, 1)), terminal_(isatty(STDERR_FILENO) == 1) {}

void progress_bar::show(std::size_t done, std::string_view what) {
  if (!terminal_) return;
  constexpr std::size_t width = 30;
  const auto filled = std::min(done, total_) * width / total_;
  std::fflush(stdout);  // the lines before it stand above it
  // The cursor goes back to the start, so that a line of the log overwrites the bar.
  const auto line = fmt::format("\r\x1b[K[{}{}] {}/{} {}\r", std::string(filled, '#'),
                                std::string(width - filled, '.'), done, total_, what);
  std::fputs(line.c_str(), stderr);  // a terminal that has gone is no reason to end
  std::fflush(stderr);
  shown_ = true;
}

void progress_bar::clear() {
  if (!shown_) return;
  std::fputs("\r\x1b[K", stderr);
  std::fflush(stderr);
  shown_ = false;
}

namespace {

constexpr std::size_t hundred = 100;

}  // namespace

series_bar::series_bar(std::size_t steps)
    : steps_(std::max<std::size_t>(steps, 1)), bar_(hundred) {}

void series_bar::begin(std::size_t step, std::string what) {
  step_ = step;
  what_ = std::move(what);
  shown_ = hundred + 1;  // whatever the number is, the words are others
  show(0, 1);
}

void series_bar::show(std::uint64_t done, std::uint64_t all) {
  const auto part =
      static_cast<double>(done) / static_cast<double>(std::max<std::uint64_t>(all, 1));
  const auto at =
      static_cast<std::size_t>((static_cast<double>(step_) + part) * static_cast<double>(hundred) /
                               static_cast<double>(steps_));
  if (at != shown_) bar_.show(shown_ = at, what_);
}

}  // namespace lockstep
