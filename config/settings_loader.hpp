// Decides where settings are read from and which source wins.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "config/settings.hpp"
#include "config/settings_table.hpp"

namespace lockstep {

/// Where the value in force came from; a later kind wins over an earlier one.
struct setting_source {
  enum class kind : std::uint8_t { defaults, file, environment, command_line };

  kind from = kind::defaults;
  std::string where;  ///< "path:line", the variable's name, "--set"; empty for a default

  friend bool operator==(const setting_source&, const setting_source&) = default;
};

/// E.g. "default", "lockstep.toml:12", "environment LOCKSTEP_LOG_LEVEL", "command line".
std::string to_string(const setting_source& source);

/// One setting as it is in force. The views live as long as the program.
struct effective_setting {
  std::string_view key;
  std::string value;
  std::string_view unit;
  setting_source source;
  std::string_view help;
};

/// The system did not let a settings file be read.
class unreadable_settings : public setting_error {
 public:
  unreadable_settings(const std::string& what, int code) : setting_error(what), code_(code) {}
  /// What it said, as in `errno`; 0 where the file is refused for what it is.
  int code() const noexcept { return code_; }

 private:
  int code_;
};

/// Gathers settings from a TOML file, environment and command line in that order of precedence:
/// the file is lowest, the environment overrides it, the command line overrides both. The order
/// of the calls does not matter between kinds; within one kind the last call wins.
///
/// Every function that adds throws `setting_error` on an unknown key, a wrong type or a value out
/// of range, naming key and source; it then has changed nothing. Not thread-safe.
class settings_loader {
 public:
  settings_loader();

  /// Reads a TOML file of at most 1 MiB, e.g. "[sync]\ncommit_timeout_ms = 5000". Throws
  /// `unreadable_settings` where that cannot be read.
  void add_file(const std::filesystem::path& path);

  /// Takes the text of such a file. `file` names it in messages.
  void add_text(std::string_view text, std::string_view file);

  /// Takes the variables whose name starts with "LOCKSTEP_" from a null-terminated list of
  /// "NAME=value", such as `environ`. Null is an empty list.
  void add_environment(const char* const* variables);
  void add_environment(const std::map<std::string, std::string>& variables);

  /// Takes one "key=value" of the command line.
  void add_override(std::string_view assignment);

  /// The settings in force. Throws `setting_error` if they do not fit each other.
  settings build() const;

  /// Every setting in the order of the table.
  std::vector<effective_setting> effective() const;

  /// Whether all values and their sources are the same.
  friend bool operator==(const settings_loader&, const settings_loader&) = default;

 private:
  struct slot {
    setting_value value;
    setting_source source;

    friend bool operator==(const slot&, const slot&) = default;
  };
  using slots = std::vector<slot>;  // one for each row of the table

  /// Takes a value for `row` unless one of a winning kind is there already.
  static void put(slots& into, const setting_row& row, setting_value value,
                  const setting_source& source);

  slots slots_;
};

/// The settings as a TOML file that sets them all, each line with its source in a comment. What
/// `lockstep config` prints; reading it back gives the same values.
std::string settings_toml(const std::vector<effective_setting>& all);

}  // namespace lockstep
