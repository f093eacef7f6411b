// Decides what a person at a terminal sees of long work.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
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

/// The same in hundredths, for a series of steps each of which takes a while. Not thread-safe.
class series_bar {
 public:
  /// `steps`: at least 1.
  explicit series_bar(std::size_t steps);

  /// `step` of them are behind us, `what` is under way.
  void begin(std::size_t step, std::string what);
  /// How far that is.
  void show(std::uint64_t done, std::uint64_t all);
  void clear() { bar_.clear(); }

 private:
  std::size_t steps_;
  std::size_t step_ = 0;
  std::size_t shown_ = 0;
  std::string what_;
  progress_bar bar_;
};

}  // namespace lockstep
