// Decides which commands the program has. Each adds its options and, if chosen, runs.
#pragma once

#include <functional>
#include <optional>

#include "config/settings_loader.hpp"

namespace CLI {
class App;
}

namespace lockstep {

/// Options that every command takes: `--config FILE` and `--set KEY=VALUE`.
class settings_options {
 public:
  void add_to(CLI::App& command);
  /// File, environment and command line. Throws `setting_error`.
  settings_loader load() const;
  /// What they come to; `insecure`: with the command's word that connections may be in clear.
  settings build(bool insecure) const;

 private:
  std::string file_;
  std::vector<std::string> overrides_;
};

/// Sets `run` to what must be called if the command was chosen; it returns the exit status.
void add_bench_command(CLI::App& program, std::function<int()>& run);
void add_config_command(CLI::App& program, std::function<int()>& run);
void add_pull_command(CLI::App& program, std::function<int()>& run);
void add_publish_command(CLI::App& program, std::function<int()>& run);
void add_convert_command(CLI::App& program, std::function<int()>& run);
void add_fold_command(CLI::App& program, std::function<int()>& run);
void add_verify_command(CLI::App& program, std::function<int()>& run);
void add_inspect_command(CLI::App& program, std::function<int()>& run);
void add_diff_command(CLI::App& program, std::function<int()>& run);
void add_serve_pull_command(CLI::App& program, std::function<int()>& run);
void add_replay_command(CLI::App& program, std::function<int()>& run);
void add_trainer_command(CLI::App& program, std::function<int()>& run);
void add_receiver_command(CLI::App& program, std::function<int()>& run);
void add_status_command(CLI::App& program, std::function<int()>& run);
void add_audit_command(CLI::App& program, std::function<int()>& run);
void add_sim_command(CLI::App& program, std::function<int()>& run);

}  // namespace lockstep
