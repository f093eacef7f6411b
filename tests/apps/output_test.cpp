#include <csignal>
#include <cstdlib>

#include "apps/program.hpp"

namespace lockstep::test {

TEST_CASE("a reader that goes away ends the program by SIGPIPE, as in any pipeline") {
  const auto as_json = GENERATE(false, true);
  const auto run =
      replay_tiny(as_json ? arguments{"--json"} : arguments{}, {.close_after_lines = 1});
  CHECK_FALSE(run.too_late);
  CHECK(run.signal == SIGPIPE);
  CHECK(run.err.empty());
}

TEST_CASE("a reader that goes away while SIGPIPE is ignored is an error") {
  const auto as_json = GENERATE(false, true);
  const auto run = replay_tiny(as_json ? arguments{"--json"} : arguments{},
                               {.close_after_lines = 1, .ignore_sigpipe = true});
  CHECK_FALSE(run.too_late);
  check_refusal(run, {"standard output"});
}

TEST_CASE("output that cannot be written is an error, never a success") {
  constexpr int full_disk = 4;  // it may have room when this is tried again
  const child_options full{.stdout_file = "/dev/full"};
  check_refusal(replay_tiny({}, full), {"standard output"}, full_disk);
  check_refusal(replay_tiny({"--json"}, full), {"standard output"}, full_disk);
  check_refusal(run_program({"config"}, full), {"standard output"}, full_disk);
  check_refusal(run_program({"config", "--json"}, full), {"standard output"}, full_disk);
  check_refusal(run_program({"--version"}, full), {"standard output"}, full_disk);
  check_refusal(run_program({"replay", "--help"}, full), {"standard output"}, full_disk);
}

TEST_CASE("without a standard output nothing is printed into a file that is open instead") {
  const temp_dir dir;
  const auto log = dir / "log";
  const auto run = run_program({"replay", "--base", (tiny_rl / "base").string(), "--stream",
                                (tiny_rl / "stream").string(), "--set", "log.file=" + log.string()},
                               {.close_stdout = true});
  check_refusal(run, {"standard output"});
  CHECK(get(log).find("replaying") == std::string::npos);
}

TEST_CASE("an interrupt ends the program promptly, with a status that is not success") {
  const auto number = GENERATE(SIGINT, SIGTERM);
  // The only receiver says nothing for a minute: nothing would end by itself.
  const auto run = replay_tiny(
      {"--receivers", "1", "--inject", "no-reply@2:0", "--set", "sync.stage_timeout_ms=60000"},
      {.signal_after_lines = 3, .signal = number});
  CHECK_FALSE(run.too_late);
  CHECK(run.status != 0);
  CHECK((run.signal == number || run.status > 0));
  CHECK(run.after_signal < std::chrono::seconds(10));
}

TEST_CASE("log lines stand on standard error, before the error") {
  const temp_dir dir;
  // Version 2's bytes are damaged, which shows when it is read, after a sync with a crash.
  const auto base = small_model(1);
  make_checkpoint(dir / "base", base);
  publish_delta(dir / "stream", 1, 0, base.shape(), reader_of(base), reader_of(small_model(2)));
  publish_delta(dir / "stream", 2, 1, base.shape(), reader_of(small_model(5)),
                reader_of(small_model(3)));
  const auto run = run_program({"replay", "--base", (dir / "base").string(), "--stream",
                                (dir / "stream").string(), "--inject", "crash@1:0"});
  CHECK(run.status == 2);
  const auto lines = lines_of(run.err);
  REQUIRE(lines.size() > 1);
  CHECK_THAT(lines[0], Catch::Matchers::Contains("[warning]"));
  CHECK(lines.back().starts_with("lockstep: "));
}

TEST_CASE("a run in which all went well says nothing on standard error") {
  const auto run = run_program(
      {"replay", "--base", (tiny_rl / "base").string(), "--stream", (tiny_rl / "stream").string()});
  CHECK(run.status == 0);
  CHECK(run.err.empty());
}

TEST_CASE("a log that cannot be written is said to be lost, and stops nothing") {
  const auto run = replay_tiny(
      {"--set", "log.level=trace", "--set", "log.file=/dev/full", "--inject", "crash@1:0"});
  CHECK(run.status == 0);
  const auto lines = lines_of(run.err);
  REQUIRE_FALSE(lines.empty());
  CHECK(lines.size() <= 30);  // five, and one a second
  for (const auto& line : lines)
    CHECK_THAT(line, Catch::Matchers::StartsWith("lockstep: /dev/full: lines of the log are lost"));
}

TEST_CASE("the progress bar is drawn on a terminal only, and taken away again") {
  if (!fs::exists("/usr/bin/script")) {
    WARN("script(1) is not here: not checked");
    return;
  }
  const std::string command = (build_tree() / "lockstep").string() + " replay --base " +
                              (tiny_rl / "base").string() + " --stream " +
                              (tiny_rl / "stream").string();
  const auto run = run_child({"/usr/bin/script", "-qec", command, "/dev/null"});
  CHECK(run.status == 0);
  CHECK_THAT(run.out, Catch::Matchers::Contains("[..............................] 0/12"));
  CHECK_THAT(run.out, Catch::Matchers::Contains("12/12"));
  CHECK_THAT(run.out, Catch::Matchers::Contains("audit: pass"));
  CHECK(run.out.rfind('#') < run.out.rfind("\x1b[K"));
  const auto quiet = replay_tiny();
  CHECK(quiet.err.find('\x1b') == std::string::npos);
  CHECK(quiet.out.find('\x1b') == std::string::npos);
}

}  // namespace lockstep::test
