// The program: parses the command line and turns every failure into one line and an exit status.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <new>

#include "apps/commands.hpp"
#include "apps/exit_codes.hpp"
#include "lockstep/lockstep.hpp"

extern char** environ;

namespace lockstep {

void settings_options::add_to(CLI::App& command) {
  command.add_option("--config", file_, "Read settings from this TOML file")->type_name("FILE");
  command
      .add_option("--set", overrides_,
                  "Override one setting; `lockstep config` lists them all. May be repeated")
      ->type_name("KEY=VALUE");
}

settings_loader settings_options::load() const {
  settings_loader loader;
  if (!file_.empty()) loader.add_file(file_);
  loader.add_environment(environ);
  for (const auto& o : overrides_) loader.add_override(o);
  return loader;
}

}  // namespace lockstep

namespace {

int complain(const char* what, int status) {
  std::fflush(stdout);
  std::fprintf(stderr, "lockstep: %s\n", what);
  return status;
}

}  // namespace

int main(int argc, char** argv) {
  using namespace lockstep;
  CLI::App program("Keeps a fleet of inference engines in lockstep with a trainer", "lockstep");
  program.set_version_flag("--version", "lockstep " LOCKSTEP_VERSION);
  program.require_subcommand(1);
  std::function<int()> run;
  add_replay_command(program, run);
  add_config_command(program, run);
  try {
    program.parse(argc, argv);
  } catch (const CLI::Success& e) {
    return program.exit(e);  // --help, --version
  } catch (const CLI::ParseError& e) {
    return complain(e.what(), exit_bad_input);
  }
  try {
    return run();
  } catch (const error& e) {
    return complain(e.what(), exit_code_of(e.code()));
  } catch (const setting_error& e) {
    return complain(e.what(), exit_bad_input);
  } catch (const std::bad_alloc&) {
    return complain("out of memory", exit_bad_input);
  } catch (const std::exception& e) {
    return complain(e.what(), exit_check_failed);
  }
}
