// Decides what an embedding process owns: one actor system, its threads, log and settings.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "config/settings.hpp"

namespace lockstep {

/// The runtime of one process. A trainer and receivers made on the same runtime find each other.
/// Outlives everything made on it; its destructor ends all actors and waits for them.
///
/// Thread-safe.
class runtime {
 public:
  /// Throws `setting_error` if `options` are not valid, `error{unwritable}` if the log file cannot
  /// be opened.
  explicit runtime(const settings& options = {});
  /// The same with a seeded source of incarnations and challenges, for tests. `entropy` must be
  /// callable from any thread.
  runtime(const settings& options, std::function<std::uint64_t()> entropy);
  ~runtime();
  runtime(const runtime&) = delete;
  runtime& operator=(const runtime&) = delete;

  const settings& options() const noexcept;

  /// Private to actors/.
  class parts;
  parts& inside() const noexcept { return *parts_; }

 private:
  std::unique_ptr<parts> parts_;
};

}  // namespace lockstep
