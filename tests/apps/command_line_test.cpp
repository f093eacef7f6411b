#include "apps/program.hpp"

namespace lockstep::test {

TEST_CASE("the options --help and --version go to standard output and exit 0") {
  for (const auto& words : {arguments{"--help"}, arguments{"-h"}, arguments{"replay", "--help"},
                            arguments{"config", "--help"}, arguments{"--version"}}) {
    const auto run = run_program(words);
    CAPTURE(words);
    CHECK(run.status == 0);
    CHECK(run.err.empty());
    CHECK_FALSE(run.out.empty());
  }
  CHECK(run_program({"--version"}).out == "lockstep " LOCKSTEP_VERSION "\n");
  const auto help = run_program({"replay", "--help"}).out;
  for (const auto* option :
       {"--base", "--stream", "--receivers", "--inject", "--out", "--json", "--config", "--set"})
    CHECK_THAT(help, Catch::Matchers::Contains(option));
}

TEST_CASE("a command line that says nothing, or nonsense, exits 2 with one line") {
  check_refusal(run_program({}), {"command", "--help"});
  check_refusal(run_program({"nonsense"}), {"nonsense"});
  check_refusal(run_program({"--nonsense"}), {"--nonsense"});
  check_refusal(run_program({"replay"}), {"--base"});
  check_refusal(run_program({"replay", "--base", "x"}), {"--stream"});
  check_refusal(run_program({"replay", "--base"}), {"--base"});
  check_refusal(replay_tiny({"--nonsense"}), {"--nonsense"});
  check_refusal(replay_tiny({"extra"}), {"extra"});
  check_refusal(replay_tiny({"--base", "again"}), {"--base"});
  check_refusal(replay_tiny({"--inject", "crash@1:0", "extra"}), {"extra"});
  check_refusal(replay_tiny({"--set", "sync.redo_max=1", "extra"}), {"extra"});
  check_refusal(run_program({"line\nbreak"}), {"line\\x0abreak"});
}

TEST_CASE("the number of receivers is a plain decimal number from 1 to 1024") {
  for (const auto* text : {"0", "-1", "1025", "4000000000", "5000000000", "99999999999999999999",
                           "1e3", "0x2", "010", "2.0", " 2", "2 ", "two", ""}) {
    CAPTURE(text);
    const temp_dir dir;
    const auto run =
        replay_tiny({std::string("--receivers=") + text, "--out", (dir / "out").string()});
    check_refusal(run, {"--receivers"});
    CHECK_FALSE(fs::exists(dir / "out"));
  }
  check_refusal(replay_tiny({"--receivers", "-1"}), {"--receivers", "-1"});
}

TEST_CASE("a fault that cannot be provoked is refused before anything runs") {
  for (const auto* text :
       {"", "x", "crash", "crash@", "crash@1", "crash@1:", "crash@:0", "@1:0", "crash@1:0:0",
        "crash@1:0 ", "crash@x:0", "crash@-1:0", "crash@1:-1", "crash@99999999999999999999:0",
        "crash@1:4294967296", "Crash@1:0", "burn@1:0", "crash:0@1"}) {
    CAPTURE(text);
    const auto run = replay_tiny({"--inject", text});
    check_refusal(run, {std::string("--inject ") + text, "KIND@VERSION:RECEIVER"});
    CHECK(run.out.empty());
  }
  check_refusal(replay_tiny({"--inject", "crash@13:0"}), {"crash@13:0", "no version 13"});
  check_refusal(replay_tiny({"--inject", "crash@0:0"}), {"crash@0:0", "no version 0"});
  check_refusal(replay_tiny({"--inject", "crash@1:4"}), {"crash@1:4", "from 0 to 3"});
  check_refusal(replay_tiny({"--inject", "crash@1:1", "--receivers", "1"}), {"crash@1:1"});
  check_refusal(replay_tiny({"--inject", "a\nb\x1b[31m"}), {"a\\x0ab\\x1b[31m"});
}

TEST_CASE("a setting that is not one is refused by name before anything is written") {
  const temp_dir dir;
  const std::vector<std::pair<std::string, std::string>> rows{
      {"nonsense", "nonsense"},
      {"nonsense=1", "nonsense"},
      {"sync.redo_max=many", "sync.redo_max"},
      {"sync.redo_max=-1", "sync.redo_max"},
      {"sync.redo_max=", "sync.redo_max"},
      {"log.level=loud", "log.level"},
      {"receiver.serve_stale=2", "receiver.serve_stale"},
      {"bucket.bytes_max=1", "bucket.bytes_max"},
      {"receiver.ping_ms=6000", "receiver.ping_ms"},
      {"a\nb=1", "a"},
      {"=1", "is not a setting"},
      {"", "=value"}};
  for (const auto& [text, named] : rows) {
    CAPTURE(text);
    check_refusal(replay_tiny({"--set", text, "--out", (dir / "out").string()}), {named});
    CHECK_FALSE(fs::exists(dir / "out"));
  }
  check_refusal(replay_tiny({"--config", (dir / "none.toml").string()}), {"none.toml"});
  check_refusal(replay_tiny({}, {.environment = {"LOCKSTEP_NONSENSE=1"}}), {"LOCKSTEP_NONSENSE"});
  put(dir / "file", "");
  check_refusal(replay_tiny({"--set", "log.file=" + (dir / "file" / "log").string(), "--out",
                             (dir / "out").string()}),
                {"file/log"});
  CHECK_FALSE(fs::exists(dir / "out"));
}

TEST_CASE("settings reach the run: too few members abort every attempt, and exit is 1") {
  // The second failure is one too many for receiver 1, and one receiver is not enough.
  const auto run = replay_tiny({"--json", "--receivers", "2", "--set", "sync.members_min=2",
                                "--set", "supervision.attempts_max=1", "--inject", "apply-fail@1:1",
                                "--inject", "apply-fail@2:1"});
  CHECK(run.status == 1);
  const auto r = parse_report(run.out);
  CHECK(r.summary["syncs"] == 2);
  CHECK(r.summary["attempts"].get<int>() > 12);
  CHECK(r.summary["audit"] == "fail");
  for (const auto& s : r.syncs)
    if (s["version"] > 2) CHECK(s["reason"] == "too_few_members");
}

TEST_CASE("a run that can never have its members is refused") {
  check_refusal(replay_tiny({"--receivers", "2", "--set", "sync.members_min=3"}),
                {"sync.members_min", "3", "2"});
}

TEST_CASE("receivers that do not attach in time make the exit status 3") {
  // Digesting 128 MB takes longer than the milliseconds allowed for it here.
  const temp_dir dir;
  const std::uint64_t bytes = 128 << 20;
  const auto header =
      with_header(R"({"w":{"dtype":"U8","shape":[134217728],"data_offsets":[0,134217728]}})");
  for (const auto* place : {"base", "stream/v1"}) {
    put(dir / place / "model.safetensors", header);
    fs::resize_file(dir / place / "model.safetensors", header.size() + bytes);
  }
  const auto run = replay(
      dir / "base", dir / "stream",
      {"--receivers", "1", "--set", "sync.attach_timeout_ms=1", "--set", "sync.full_timeout_ms=1",
       "--set", "sync.link_bytes_per_s=1000000000000", "--set", "supervision.attempts_max=1"});
  check_refusal(run, {"receiver-0"}, 3);
}

}  // namespace lockstep::test
