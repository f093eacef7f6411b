#include <map>

#include "apps/program.hpp"

namespace lockstep::test {

namespace {

std::map<std::string, json> settings_of(const child_result& run) {
  INFO(run.err);
  REQUIRE(run.status == 0);
  CHECK(run.err.empty());
  std::map<std::string, json> result;
  for (const auto& line : lines_of(run.out)) {
    const auto object = json::parse(line);
    CHECK(object["kind"] == "setting");
    for (const auto* key : {"key", "value", "unit", "source", "help"})
      CHECK(object[key].is_string());
    result[object["key"].get<std::string>()] = object;
  }
  return result;
}

}  // namespace

TEST_CASE("config prints every setting, its default and its source") {
  const auto all = settings_of(run_program({"config", "--json"}));
  CHECK(all.size() > 20);
  CHECK(all.at("sync.stage_timeout_ms")["value"] == "5000");
  CHECK(all.at("sync.stage_timeout_ms")["unit"] == "ms");
  for (const auto& [key, setting] : all) {
    CHECK(setting["source"] == "default");
    CHECK_FALSE(setting["help"].get<std::string>().empty());
  }
  const auto page = run_program({"config", "--markdown"});
  CHECK(page.status == 0);
  const auto text = run_program({"config"}).out;
  for (const auto& [key, setting] : all) {
    CHECK_THAT(page.out, Catch::Matchers::Contains(key));
    CHECK_THAT(text, Catch::Matchers::Contains(key.substr(key.find('.') + 1)));
  }
}

TEST_CASE("a file is overridden by the environment, and that by the command line") {
  const temp_dir dir;
  put(dir / "a.toml", "[sync]\nredo_max = 11\nstage_timeout_ms = 12\ncommit_timeout_ms = 13\n");
  const auto all =
      settings_of(run_program({"config", "--json", "--config", (dir / "a.toml").string(), "--set",
                               "sync.commit_timeout_ms=33"},
                              {.environment = {"LOCKSTEP_SYNC_STAGE_TIMEOUT_MS=22",
                                               "LOCKSTEP_SYNC_COMMIT_TIMEOUT_MS=23"}}));
  CHECK(all.at("sync.redo_max")["value"] == "11");
  CHECK_THAT(all.at("sync.redo_max")["source"].get<std::string>(),
             Catch::Matchers::Contains("a.toml:2"));
  CHECK(all.at("sync.stage_timeout_ms")["value"] == "22");
  CHECK(all.at("sync.stage_timeout_ms")["source"] == "environment LOCKSTEP_SYNC_STAGE_TIMEOUT_MS");
  CHECK(all.at("sync.commit_timeout_ms")["value"] == "33");
  CHECK(all.at("sync.commit_timeout_ms")["source"] == "command line");
  CHECK(all.at("sync.full_timeout_ms")["source"] == "default");
}

TEST_CASE("what config prints gives the same settings when it is read back") {
  const temp_dir dir;
  const auto first = run_program({"config", "--set", "cluster.name=a \"quoted\\\" name", "--set",
                                  "sync.redo_max=7", "--set", "receiver.serve_stale=true"});
  REQUIRE(first.status == 0);
  put(dir / "back.toml", first.out);
  const auto before =
      settings_of(run_program({"config", "--json", "--set", "cluster.name=a \"quoted\\\" name",
                               "--set", "sync.redo_max=7", "--set", "receiver.serve_stale=true"}));
  const auto after =
      settings_of(run_program({"config", "--json", "--config", (dir / "back.toml").string()}));
  REQUIRE(after.size() == before.size());
  for (const auto& [key, setting] : before) CHECK(after.at(key)["value"] == setting["value"]);
}

TEST_CASE("unknown keys and wrong types are refused by name, from every source") {
  const temp_dir dir;
  const auto from_file = [&](const std::string& text) {
    put(dir / "bad.toml", text);
    return run_program({"config", "--config", (dir / "bad.toml").string()});
  };
  check_refusal(from_file("[sync]\nnonsense = 1\n"), {"bad.toml:2", "sync.nonsense"});
  check_refusal(from_file("[sync]\nredo_max = \"5\"\n"), {"bad.toml:2", "sync.redo_max"});
  check_refusal(from_file("[sync]\nredo_max = 1.5\n"), {"bad.toml:2", "sync.redo_max"});
  check_refusal(from_file("[sync]\nredo_max = -1\n"), {"bad.toml:2", "sync.redo_max"});
  check_refusal(from_file("[receiver]\nserve_stale = 1\n"), {"receiver.serve_stale"});
  check_refusal(from_file("[sync\n"), {"bad.toml:1"});
  check_refusal(from_file("[receiver]\nping_ms = 60000\n"), {"receiver.ping_ms"});
  check_refusal(run_program({"config", "--set", "sync.nonsense=1"}), {"sync.nonsense"});
  check_refusal(run_program({"config", "--set", "sync.redo_max=x"}), {"sync.redo_max"});
  check_refusal(run_program({"config"}, {.environment = {"LOCKSTEP_SYNC_REDO_MAX=x"}}),
                {"sync.redo_max"});
  check_refusal(run_program({"config"}, {.environment = {"LOCKSTEP_NONSENSE=x"}}),
                {"LOCKSTEP_NONSENSE"});
  check_refusal(run_program({"config", "--config", dir.path().string()}), {dir.path().string()});
}

}  // namespace lockstep::test
