// Decides how tests run a program as another process, and that none outlives its deadline.
#pragma once

#include <chrono>
#include <cstddef>
#include <string>
#include <vector>

namespace lockstep::test {

struct child_options {
  std::chrono::milliseconds deadline{60'000};
  /// "NAME=value"; besides, the child gets this process's environment without LOCKSTEP_*.
  std::vector<std::string> environment{};
  /// Where standard output goes instead of into `out`; empty: into `out`.
  std::string stdout_file{};
  bool close_stdout = false;  ///< start it without a standard output
  /// After so many lines of output, close the reading end (0: never).
  std::size_t close_after_lines = 0;
  /// After so many lines of output, send this signal (0: never).
  std::size_t signal_after_lines = 0;
  int signal = 0;
  bool ignore_sigpipe = false;
};

struct child_result {
  int status = -1;        ///< exit status; -1 if it ended otherwise
  int signal = 0;         ///< that ended it, or 0
  bool too_late = false;  ///< killed at the deadline
  std::string out;
  std::string err;
  std::chrono::milliseconds after_signal{0};  ///< from `signal` to its end
};

/// Runs `arguments[0]` to its end. Throws `std::runtime_error` if it cannot be started.
child_result run_child(const std::vector<std::string>& arguments,
                       const child_options& options = {});

/// The text's lines without their ends; a last line without an end counts.
std::vector<std::string> lines_of(const std::string& text);

}  // namespace lockstep::test
