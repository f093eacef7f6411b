// Decides what an embedding process owns: one actor system, its threads, log, settings, and the
// connections to other processes.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "config/settings.hpp"

namespace lockstep {

/// The runtime of one process. A trainer and receivers made on the same runtime find each other.
/// With `transport.listen` a trainer on it is found by receivers of other processes; with
/// `transport.connect` receivers on it keep to a trainer of another process.
/// Outlives everything made on it; its destructor ends all actors and waits for them.
///
/// Thread-safe.
class runtime {
 public:
  /// Throws `setting_error` if `options` are not valid, `error{unwritable}` if the log file cannot
  /// be opened, `error{bad_setting}` for credentials that cannot be used and for an address off
  /// loopback without any, `error{unreachable}` if the address cannot be listened on, and what
  /// actors/run_counter.hpp says for `trainer.run_file`.
  explicit runtime(const settings& options = {});
  /// The same with a seeded source of incarnations and challenges, for tests. `entropy` must be
  /// callable from any thread.
  runtime(const settings& options, std::function<std::uint64_t()> entropy);
  ~runtime();
  runtime(const runtime&) = delete;
  runtime& operator=(const runtime&) = delete;

  const settings& options() const noexcept;
  /// Where receivers of other processes find this one: the port of `transport.listen`, or, once it
  /// has a receiver, of `transport.relay_listen`; the one that was free if that is 0. 0 where
  /// nobody listens.
  std::uint16_t port() const noexcept;

  /// A line in this process' log.
  void log(log_level level, const std::string& line) const;

  /// Private to actors/.
  class parts;
  parts& inside() const noexcept { return *parts_; }

 private:
  std::unique_ptr<parts> parts_;
};

}  // namespace lockstep
