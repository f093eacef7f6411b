// Decides how the program speaks with a trainer's process in turn: a connection, a question, an
// answer.
#pragma once

#include <chrono>
#include <functional>
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
  /// filled in. `told_to_stop`, if not empty, is asked again and again while this waits. Throws
  /// `error{unreachable}` or `error{timeout}` if it does not answer in time, `error{bad_input}` for
  /// an address that is none, `error{bad_setting}` as `security`, and `error{shut_down}` where it
  /// was told to.
  conversation(const settings& options, const std::string& address, greeting self,
               std::chrono::milliseconds patience, std::function<bool()> told_to_stop = {});
  conversation(const conversation&) = delete;
  conversation& operator=(const conversation&) = delete;
  ~conversation();

  /// Throws `error{unreachable}`, `error{timeout}` or `error{shut_down}`.
  void say(const wire_message& m);
  /// The next message that is more than a sign of life. Throws likewise, and `error{bad_input}` for
  /// what is none.
  wire_message hear();

 private:
  void wait(short events) const;
  void go_on() const;

  std::chrono::steady_clock::time_point until_;
  std::function<bool()> told_to_stop_;
  io_threads io_;  // carries the bytes of a protected connection
  int descriptor_ = -1;
  wire_stream in_;
};

}  // namespace lockstep
