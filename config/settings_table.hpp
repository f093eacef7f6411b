// Decides the one table of settings that drives parsing, validation, printing and their names.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <variant>

#include "config/settings.hpp"

namespace lockstep {

enum class setting_type : std::uint8_t { integer, boolean, text, choice };

/// Who has to agree on a value: every node of a cluster, or nobody but the node itself.
enum class setting_scope : std::uint8_t { cluster, node };

/// A value as it stands in any source. A choice is held by its name. Which alternative a row
/// holds follows from its type: integer, boolean, or string for text and choice.
using setting_value = std::variant<std::uint64_t, bool, std::string>;

/// One setting. Rows have static storage duration.
struct setting_row {
  std::string_view key;  ///< section and name, e.g. "sync.commit_timeout_ms"; unique
  setting_type type;
  setting_scope scope;
  std::variant<std::uint64_t, bool, std::string_view> initial;  ///< the default
  std::string_view unit = {};  ///< "ms", "bytes", …; empty for a plain number or word
  std::uint64_t min = 0;       ///< integer: the value, text: its length in bytes; inclusive
  std::uint64_t max = 0;
  std::span<const std::string_view> choices = {};  ///< in the order of the enumerators
  std::string_view help;                           ///< one sentence
  setting_value (*load)(const settings&);
  void (*store)(settings&, const setting_value&);  ///< the value has been checked
};

/// All settings, grouped by section in the order in which they are printed.
std::span<const setting_row> settings_table() noexcept;

/// The row named `key`, or null.
const setting_row* find_setting(std::string_view key) noexcept;

/// The environment variable of a setting, e.g. "LOCKSTEP_SYNC_COMMIT_TIMEOUT_MS".
std::string environment_name(std::string_view key);

/// The value as a person writes it after `--set key=`.
std::string to_string(const setting_value& value);

/// The row's default.
setting_value default_of(const setting_row& row);

/// What the row allows, e.g. "1 to 65535", "true or false", "failed or all".
std::string range_text(const setting_row& row);

/// The same as a phrase that names the type too, e.g. "an integer from 1 to 65535".
std::string wanted_text(const setting_row& row);

/// Checks a value against the row. Empty if it fits, else what is wrong, without the key, e.g.
/// "is 70000, must be an integer from 1 to 65535".
std::string misfit(const setting_row& row, const setting_value& value);

/// The table as the Markdown page that the repository keeps as docs/settings.md.
std::string settings_markdown();

}  // namespace lockstep
