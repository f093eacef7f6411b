#include "config/settings_loader.hpp"

#include <fmt/format.h>
#include <toml++/toml.h>

#include <algorithm>
#include <charconv>
#include <iterator>
#include <optional>
#include <utility>

#include "config/bounded_file.hpp"

namespace lockstep {
namespace {

constexpr std::size_t file_bytes_max = 1 << 20;
constexpr std::string_view environment_prefix = "LOCKSTEP_";

/// What an operator wrote, cut and made safe to stand in a one-line message.
std::string shown(std::string_view text) {
  std::string out(text.substr(0, 80));
  for (char& c : out)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  return out;
}

[[noreturn]] void fail(const setting_source& source, std::string_view key,
                       std::string_view problem) {
  throw setting_error(fmt::format("{}: {} {}", to_string(source), shown(key), problem));
}

[[noreturn]] void fail_unknown(const setting_source& source, std::string_view key) {
  fail(source, key, "is not a setting");
}

const setting_row& known(const setting_source& source, std::string_view key) {
  const auto* row = find_setting(key);
  if (!row) fail_unknown(source, key);
  return *row;
}

/// The value that a source without types spells, as far as the row's type can read it; text that
/// it cannot read stays text, so that the row refuses it.
setting_value parse_text(const setting_row& row, std::string_view text) {
  if (row.type == setting_type::boolean) {
    if (text == "true") return true;
    if (text == "false") return false;
  } else if (row.type == setting_type::integer) {
    std::uint64_t number = 0;
    const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (code == std::errc() && end == text.data() + text.size()) return number;
  }
  return std::string(text);
}

/// The row that an environment variable sets, or null.
const setting_row* find_variable(const std::string& name) {
  static const auto by_name = [] {
    std::map<std::string, const setting_row*> out;
    for (const auto& row : settings_table()) out.emplace(environment_name(row.key), &row);
    return out;
  }();
  const auto at = by_name.find(name);
  return at == by_name.end() ? nullptr : at->second;
}

std::string_view type_text(const toml::node& node) {
  switch (node.type()) {
    case toml::node_type::string:
      return "a string";
    case toml::node_type::integer:
      return node.as_integer()->get() < 0 ? "negative" : "an integer";
    case toml::node_type::floating_point:
      return "a floating-point number";
    case toml::node_type::boolean:
      return "a boolean";
    case toml::node_type::array:
      return "an array";
    case toml::node_type::table:
      return "a table";
    default:
      return "a date or time";
  }
}

std::optional<setting_value> value_of(const toml::node& node) {
  if (const auto* text = node.as_string()) return setting_value(text->get());
  if (const auto* flag = node.as_boolean()) return setting_value(flag->get());
  if (const auto* number = node.as_integer(); number && number->get() >= 0)
    return setting_value(static_cast<std::uint64_t>(number->get()));
  return std::nullopt;
}

std::string contents_of(const std::filesystem::path& path) {
  try {
    return read_at_most(path, file_bytes_max);
  } catch (const unreadable& e) {
    throw unreadable_settings(fmt::format("{}: cannot be read: {}", shown(path.string()), e.what()),
                              e.code());
  }
}

toml::table parse(std::string_view text, const std::string& name) {
  if (text.size() > file_bytes_max)
    throw setting_error(fmt::format("{}: larger than the {} bytes allowed", name, file_bytes_max));
  try {
    return toml::parse(text, name);
  } catch (const toml::parse_error& e) {
    throw setting_error(
        fmt::format("{}:{}: {}", name, e.source().begin.line, shown(e.description())));
  }
}

std::string toml_text(const setting_row& row, const std::string& value) {
  if (row.type == setting_type::integer || row.type == setting_type::boolean) return value;
  std::string quoted = "\"";
  for (const char c : value) {
    if (c == '"' || c == '\\') quoted += '\\';
    quoted += c;
  }
  return quoted + '"';
}

}  // namespace

std::string to_string(const setting_source& source) {
  switch (source.from) {
    case setting_source::kind::defaults:
      return "default";
    case setting_source::kind::file:
      return source.where;
    case setting_source::kind::environment:
      return "environment " + source.where;
    case setting_source::kind::command_line:
      return "command line";
  }
  return source.where;
}

settings_loader::settings_loader() {
  for (const auto& row : settings_table()) slots_.push_back({default_of(row), {}});
}

void settings_loader::put(slots& into, const setting_row& row, setting_value value,
                          const setting_source& source) {
  if (const auto problem = misfit(row, value); !problem.empty()) fail(source, row.key, problem);
  auto& slot = into[static_cast<std::size_t>(&row - settings_table().data())];
  if (slot.source.from <= source.from) slot = {std::move(value), source};
}

void settings_loader::add_file(const std::filesystem::path& path) {
  add_text(contents_of(path), path.string());
}

void settings_loader::add_text(std::string_view text, std::string_view file) {
  const auto name = shown(file);
  const auto root = parse(text, name);
  auto next = slots_;
  const auto at = [&](const toml::source_region& region) {
    return setting_source{setting_source::kind::file,
                          fmt::format("{}:{}", name, region.begin.line)};
  };
  const auto is_section = [](std::string_view word) {
    return std::ranges::any_of(settings_table(), [&](const setting_row& row) {
      return row.key.substr(0, row.key.find('.')) == word;
    });
  };
  for (const auto& [section, content] : root) {
    if (!is_section(section.str())) fail_unknown(at(section.source()), section.str());
    const auto* entries = content.as_table();
    if (!entries)
      fail(at(section.source()), section.str(),
           fmt::format("is {}, must be a table", type_text(content)));
    for (const auto& [entry, node] : *entries) {
      const auto source = at(entry.source());
      const auto& row = known(source, fmt::format("{}.{}", section.str(), entry.str()));
      auto value = value_of(node);
      if (!value)
        fail(source, row.key, fmt::format("is {}, must be {}", type_text(node), wanted_text(row)));
      put(next, row, std::move(*value), source);
    }
  }
  slots_ = std::move(next);
}

void settings_loader::add_environment(const char* const* variables) {
  std::map<std::string, std::string> found;
  for (; variables && *variables; ++variables) {
    const std::string_view line = *variables;
    const auto equals = line.find('=');
    if (!line.starts_with(environment_prefix) || equals == std::string_view::npos) continue;
    found.emplace(line.substr(0, equals), line.substr(equals + 1));
  }
  add_environment(found);
}

void settings_loader::add_environment(const std::map<std::string, std::string>& variables) {
  auto next = slots_;
  for (const auto& variable : variables) {
    const auto& name = variable.first;
    if (!name.starts_with(environment_prefix)) continue;
    const auto* row = find_variable(name);
    const setting_source source{setting_source::kind::environment, shown(name)};
    if (!row) fail_unknown(source, name);
    put(next, *row, parse_text(*row, variable.second), source);
  }
  slots_ = std::move(next);
}

void settings_loader::add_override(std::string_view assignment) {
  const setting_source source{setting_source::kind::command_line, "--set"};
  const auto equals = assignment.find('=');
  if (equals == std::string_view::npos) fail(source, assignment, "has no \"=value\"");
  const auto& row = known(source, assignment.substr(0, equals));
  put(slots_, row, parse_text(row, assignment.substr(equals + 1)), source);
}

settings settings_loader::build() const {
  settings result;
  for (std::size_t i = 0; i < slots_.size(); ++i)
    settings_table()[i].store(result, slots_[i].value);
  validate(result);
  return result;
}

std::vector<effective_setting> settings_loader::effective() const {
  std::vector<effective_setting> all;
  for (std::size_t i = 0; i < slots_.size(); ++i) {
    const auto& row = settings_table()[i];
    all.push_back({row.key, to_string(slots_[i].value), row.unit, slots_[i].source, row.help});
  }
  return all;
}

std::string settings_toml(const std::vector<effective_setting>& all) {
  std::string text;
  auto out = std::back_inserter(text);
  std::string_view section;
  for (const auto& entry : all) {
    const auto* row = find_setting(entry.key);
    if (!row) continue;
    const auto dot = entry.key.find('.');
    if (section != entry.key.substr(0, dot)) {
      fmt::format_to(out, "{}[{}]\n", section.empty() ? "" : "\n", entry.key.substr(0, dot));
      section = entry.key.substr(0, dot);
    }
    const auto line =
        fmt::format("{} = {}", entry.key.substr(dot + 1), toml_text(*row, entry.value));
    fmt::format_to(out, "{:<34}# {}{}{}\n", line, entry.unit, entry.unit.empty() ? "" : ", ",
                   to_string(entry.source));
  }
  return text;
}

}  // namespace lockstep
