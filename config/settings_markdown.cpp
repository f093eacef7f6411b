#include <fmt/format.h>

#include <iterator>

#include "config/settings_table.hpp"

namespace lockstep {
namespace {

constexpr std::string_view head = R"(# Settings

This page is what `lockstep config --markdown` prints; a test holds it to the table in
`config/settings_table.cpp`.

Settings are read from a TOML file, environment and command line in that order of precedence: the
file is lowest, the environment overrides it, and the command line overrides both. `lockstep config`
prints every value in force and where it came from.

| source | how `sync.commit_timeout_ms` is set |
|---|---|
| file | `commit_timeout_ms = 5000` under `[sync]` |
| environment | `LOCKSTEP_SYNC_COMMIT_TIMEOUT_MS=5000` |
| command line | `--set sync.commit_timeout_ms=5000` |

Anything else in the file, any other variable that starts with `LOCKSTEP_`, a wrong type and a value
out of range are errors that name the setting and the place. Units stand last in the names and are
never written with the value. A program that embeds Lockstep fills `lockstep::settings` itself or
uses `lockstep::settings_loader`.

All nodes of a cluster have to agree on settings of scope *cluster*; those of scope *node* are each
node's own.
)";

std::string_view section_of(const setting_row& row) {
  return row.key.substr(0, row.key.find('.'));
}

std::string default_text(const setting_row& row) {
  const auto text = to_string(default_of(row));
  return text.empty() ? "empty" : fmt::format("`{}`", text);
}

}  // namespace

std::string settings_markdown() {
  std::string page(head);
  auto out = std::back_inserter(page);
  std::string_view section;
  for (const auto& row : settings_table()) {
    if (section != section_of(row)) {
      section = section_of(row);
      fmt::format_to(out,
                     "\n## {}\n\n| setting | default | unit | allowed | scope | meaning |\n"
                     "|---|---|---|---|---|---|\n",
                     section);
    }
    fmt::format_to(out, "| `{}` | {} | {} | {} | {} | {} |\n", row.key, default_text(row), row.unit,
                   range_text(row), row.scope == setting_scope::cluster ? "cluster" : "node",
                   row.help);
  }
  return page;
}

}  // namespace lockstep
