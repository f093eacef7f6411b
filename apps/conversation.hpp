// Decides how the program speaks with a trainer's process in turn: a connection, a question, an
// answer.
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "config/settings.hpp"
#include "messages/wire_stream.hpp"
#include "transport/greeting.hpp"
#include "transport/io_threads.hpp"

namespace lockstep {

/// One connection, and the time within which all that is said over it must have been said. Not
/// thread-safe.
class conversation {
 public:
  /// Dials the trainer at `address` (HOST:PORT) as `self`, of which cluster, limits and program are
  /// filled in. Throws `error{unreachable}` or `error{timeout}` if it does not answer in time,
  /// `error{bad_input}` for an address that is none, `error{bad_setting}` as `security`.
  conversation(const settings& options, const std::string& address, greeting self,
               std::chrono::milliseconds patience);
  conversation(const conversation&) = delete;
  conversation& operator=(const conversation&) = delete;
  ~conversation();

  /// Throws `error{unreachable}` or `error{timeout}`.
  void say(const wire_message& m);
  /// The next message that is more than a sign of life. Throws likewise, and `error{bad_input}` for
  /// what is none.
  wire_message hear();

 private:
  void wait(short events) const;

  std::chrono::steady_clock::time_point until_;
  io_threads io_;  // carries the bytes of a protected connection
  int descriptor_ = -1;
  wire_stream in_;
};

}  // namespace lockstep
