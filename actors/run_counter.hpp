// Decides which numbers a trainer's runs have had that processes before this one may have used.
#pragma once

#include <cstdint>
#include <filesystem>

namespace lockstep {

/// The last number that a run was given, in a file that outlives the process and its machine: so
/// that a clock that was set back makes no number twice. The number is durable before anybody
/// hears of it; what is killed meanwhile costs a number at most.
///
/// Several processes may share the file. They take turns for the moment in which a number is
/// taken, and whoever comes later has the later number: a trainer that is started while another
/// still runs, or hangs, takes its place, and receivers fence the older. Thread-safe.
class run_counter {
 public:
  /// Looks at the file, which may be missing; its directory may not. Beside it a lock is kept,
  /// `<file>.lock`. Throws `error{bad_input}` that names the file for anything but what `take`
  /// writes, `error{unwritable}` and, where another process holds the lock for 5 s,
  /// `error{timeout}`.
  explicit run_counter(std::filesystem::path file);

  /// The first of `count` numbers in a row, 1 or more, that nobody had from this file; `at_least`
  /// or more. Throws as above.
  std::uint64_t take(std::uint64_t at_least, std::uint64_t count = 1) const;

 private:
  std::uint64_t last() const;

  std::filesystem::path file_;
  std::filesystem::path lock_file_;
};

}  // namespace lockstep
