// The program: parses the command line and turns every failure into one line and an exit status.
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <exception>
#include <filesystem>
#include <new>
#include <sstream>
#include <string_view>

#include "apps/commands.hpp"
#include "apps/exit_codes.hpp"
#include "apps/standard_output.hpp"
#include "lockstep/lockstep.hpp"
#include "weights/unwritable.hpp"

extern char** environ;

namespace lockstep {

void settings_options::add_to(CLI::App& command) {
  command.add_option("--config", file_, "Read settings from this TOML file")->type_name("FILE");
  command
      .add_option("--set", overrides_,
                  "Override one setting; `lockstep config` lists them all. May be repeated")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(false);
}

settings_loader settings_options::load() const {
  settings_loader loader;
  if (!file_.empty()) loader.add_file(file_);
  loader.add_environment(environ);
  for (const auto& o : overrides_) loader.add_override(o);
  return loader;
}

settings settings_options::build(bool insecure) const {
  auto out = load().build();
  if (insecure) out.transport.insecure = true;
  return out;
}

}  // namespace lockstep

namespace {

using namespace lockstep;

int complain(std::string_view what, int status) {
  print_error(what);
  return status;
}

/// Else the next file to be opened would take the place of a closed standard stream, and what is
/// printed would go into it. Nothing can be written to what stands there now.
void occupy_standard_streams() {
  for (int stream = STDIN_FILENO; stream <= STDERR_FILENO; ++stream)
    if (::fcntl(stream, F_GETFD) < 0) (void)::open("/dev/null", O_RDONLY);
}

/// A pull holds every shard of several deltas open, which may be more than the usual thousand.
void allow_open_files() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  (void)::setrlimit(RLIMIT_NOFILE, &limit);
}

/// --help and --version.
int print_and_exit(const CLI::App& program, const CLI::Success& what) {
  std::ostringstream text;
  program.exit(what, text, text);
  print_out(text.str());
  return exit_ok;
}

std::function<int()> parse(int argc, char** argv) {
  CLI::App program("Keeps a fleet of inference engines in lockstep with a trainer", "lockstep");
  program.set_version_flag("--version", "lockstep " LOCKSTEP_VERSION);
  program.require_subcommand(0, 1);  // none: below, with a better word for it
  std::function<int()> run;
  add_replay_command(program, run);
  add_trainer_command(program, run);
  add_receiver_command(program, run);
  add_status_command(program, run);
  add_audit_command(program, run);
  add_sim_command(program, run);
  add_bench_command(program, run);
  add_pull_command(program, run);
  add_publish_command(program, run);
  add_convert_command(program, run);
  add_fold_command(program, run);
  add_serve_pull_command(program, run);
  add_verify_command(program, run);
  add_inspect_command(program, run);
  add_diff_command(program, run);
  add_config_command(program, run);
  try {
    program.parse(argc, argv);
  } catch (const CLI::Success& e) {
    return [status = print_and_exit(program, e)] { return status; };
  } catch (const CLI::ParseError& e) {
    throw error(errc::bad_input, e.what());
  }
  if (!run) throw error(errc::bad_input, "a command is missing; see lockstep --help");
  return run;
}

/// A mapped file, a checkpoint or a receiver's, was cut short under us: its bytes are gone.
void on_bus_error(int) {
  constexpr char line[] =
      "lockstep: a file was cut short while it was in use, or its disk failed\n";
  (void)!::write(STDERR_FILENO, line, sizeof(line) - 1);
  ::_exit(exit_try_again);
}

}  // namespace

int main(int argc, char** argv) {
  occupy_standard_streams();
  allow_open_files();
  ::signal(SIGBUS, on_bus_error);
  try {
    return parse(argc, argv)();
  } catch (const error& e) {
    return complain(e.what(), exit_code_of(e));
  } catch (const unreadable_settings& e) {
    return complain(e.what(), exit_code_of_system(e.code()));
  } catch (const setting_error& e) {
    return complain(e.what(), exit_bad_input);
  } catch (const std::filesystem::filesystem_error& e) {
    return complain(e.what(), exit_code_of_system(e.code().value()));
  } catch (const std::system_error& e) {  // a thread that cannot be started, above all
    return complain(e.what(), exit_code_of_system(e.code().value()));
  } catch (const std::bad_alloc&) {
    return complain("out of memory", exit_try_again);
  } catch (const std::exception& e) {
    return complain(e.what(), exit_check_failed);
  }
}
