#include <CLI/CLI.hpp>
#include <memory>
#include <nlohmann/json.hpp>

#include "apps/commands.hpp"
#include "apps/exit_codes.hpp"
#include "apps/json_line.hpp"
#include "apps/standard_output.hpp"

namespace lockstep {

namespace {

struct config_options {
  settings_options settings;
  bool json = false;
  bool markdown = false;
};

void print_json(const std::vector<effective_setting>& all) {
  for (const auto& s : all) {
    const nlohmann::ordered_json line{{"kind", "setting"},
                                      {"key", s.key},
                                      {"value", s.value},
                                      {"unit", s.unit},
                                      {"source", to_string(s.source)},
                                      {"help", s.help}};
    print_out(json_line(line));
  }
}

int run_config(const config_options& o) {
  if (o.markdown) {
    print_out(settings_markdown());
    return exit_ok;
  }
  const auto loader = o.settings.load();
  (void)loader.build();  // what does not fit together must not be printed as in force
  if (o.json) {
    print_json(loader.effective());
  } else {
    print_out(settings_toml(loader.effective()));
  }
  return exit_ok;
}

}  // namespace

void add_config_command(CLI::App& program, std::function<int()>& run) {
  auto* command =
      program.add_subcommand("config", "Print every setting in force and where it came from");
  const auto options = std::make_shared<config_options>();
  options->settings.add_to(*command);
  command->add_flag("--json", options->json, "One JSON object a line");
  command->add_flag("--markdown", options->markdown, "The reference page of all settings");
  command->callback([options, &run] { run = [options] { return run_config(*options); }; });
}

}  // namespace lockstep
