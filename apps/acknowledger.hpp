// Decides how a host says what became of a version to those who wait for it.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>

#include "apps/commands.hpp"
#include "config/settings.hpp"
#include "weights/acknowledgement.hpp"

namespace lockstep {

/// Who says it, and where: `--name`, `--acks`, `--connect` and what belongs to that.
struct acknowledger_options {
  std::string name;     ///< of the host; empty: nobody says anything
  std::string acks;     ///< directory; empty: `acknowledgements_of` the stream
  std::string connect;  ///< HOST:PORT of the process that is told instead, if not empty
  std::uint32_t connect_ms = 10'000;
  bool insecure = false;
  settings_options settings;

  void add_to(CLI::App& command);
};

/// Says the newest of what it is to say, in a file or over a connection of its own, until it was
/// heard. Not thread-safe.
class acknowledger {
 public:
  /// Borrows `options`. Throws `error{bad_setting}` where what they say cannot be: an address that
  /// is none or may not be reached so, another's certificate.
  explicit acknowledger(const acknowledger_options& options);

  /// What is to be said now of a version of `stream`, instead of anything before.
  void owe(const acknowledgement& what, const std::filesystem::path& stream);
  bool owes() const noexcept { return owed_.has_value(); }
  /// Says what is owed, if anything, within `--connect-ms`. Throws as `conversation` and
  /// `write_acknowledgement`; it is owed still.
  void deliver(const std::function<bool()>& told_to_stop);

 private:
  void write() const;
  void tell(const std::function<bool()>& told_to_stop) const;

  const acknowledger_options& options_;
  settings settings_;
  std::optional<acknowledgement> owed_;
  std::filesystem::path stream_;
};

}  // namespace lockstep
