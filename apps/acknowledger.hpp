// Decides how a host says what became of a version to a trainer's process that it reaches.
#pragma once

#include <chrono>
#include <functional>
#include <optional>
#include <string>

#include "config/settings.hpp"
#include "weights/acknowledgement.hpp"

namespace lockstep {

/// Says the newest of what it is to say, over a connection of its own, until it was heard. Not
/// thread-safe.
class acknowledger {
 public:
  /// To the process at `address` (HOST:PORT), as the host `name`. Throws `error{bad_setting}` where
  /// that cannot be: an address that is none or may not be reached so, another's certificate.
  acknowledger(settings options, std::string address, std::string name);

  /// What is to be said now, instead of anything before.
  void owe(const acknowledgement& what) { owed_ = what; }
  /// Says what is owed, if anything, within `patience`. Throws as `conversation`; it is owed still.
  void deliver(std::chrono::milliseconds patience, const std::function<bool()>& told_to_stop);

 private:
  settings options_;
  std::string address_;
  std::string name_;
  std::optional<acknowledgement> owed_;
};

}  // namespace lockstep
