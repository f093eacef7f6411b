#include "options.hpp"

#include <CLI/CLI.hpp>
#include <string>

namespace embedded_rl {

std::optional<options> parse_options(int argc, char** argv, int& exit_code) {
  options out;
  bool no_sync = false;
  std::string expect;
  CLI::App app(
      "Trains a policy whose rollouts are played by inference engines with the weights that "
      "Lockstep sent them.\nExit status: 0 all checks passed, 1 one failed, 2 bad usage.");
  app.add_option("--receivers", out.receivers, "Inference engines")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  app.add_option("--steps", out.steps, "Optimiser steps, each followed by a sync")
      ->check(CLI::Range(1, 100'000))
      ->capture_default_str();
  app.add_option("--seed", out.seed, "Where all chance comes from")->capture_default_str();
  const auto no_sync_flag =
      app.add_flag("--no-sync", no_sync, "Train on, and leave the engines where they started");
  const auto fail = app.add_option("--fail", out.fail_at,
                                   "Step in whose sync engine 0 fails half-way through the write");
  fail->check(CLI::Range(1, 100'000))->excludes(no_sync_flag);
  app.add_option("--expect", expect, "Fail unless this is what the engines' return does")
      ->check(CLI::IsMember({"rise", "flat"}));
  app.add_flag("--json", out.json, "Print one JSON object a line");
  try {
    app.parse(argc, argv);
    if (out.fail_at > out.steps) throw CLI::ValidationError("--fail", "is after the last step");
  } catch (const CLI::ParseError& e) {
    exit_code = app.exit(e) == 0 ? 0 : 2;
    return std::nullopt;
  }
  out.sync = !no_sync;
  if (!expect.empty()) out.expect = expect == "rise" ? expectation::rise : expectation::flat;
  return out;
}

}  // namespace embedded_rl
