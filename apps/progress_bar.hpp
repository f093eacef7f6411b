// Decides what a person at a terminal sees of long work.
#pragma once

#include <cstddef>
#include <string_view>

namespace lockstep {

/// One line on standard error, redrawn; nothing at all if that is no terminal. Not thread-safe.
class progress_bar {
 public:
  /// `total`: steps of the whole work, at least 1.
  explicit progress_bar(std::size_t total);
  ~progress_bar() { clear(); }

  /// `done` steps are behind us, `what` is under way (a few words).
  void show(std::size_t done, std::string_view what);
  /// Takes the line away, so that something else can be printed.
  void clear();

 private:
  std::size_t total_;
  bool terminal_;
  bool shown_ = false;
};

}  // namespace lockstep
