#include "apps/program.hpp"

namespace lockstep::test {

TEST_CASE("bench sync measures whole syncs of a real run") {
  const auto r = run_program({"bench", "sync", "--trace", tiny_rl.string(), "--receivers", "2",
                              "--syncs", "12", "--json", "--set", "log.level=off"});
  INFO(r.err);
  REQUIRE(r.status == 0);
  const auto line = json::parse(r.out);
  CHECK(line["kind"] == "sync");
  CHECK(line["receivers"] == 2);
  CHECK(line["syncs"] == 12);  // more than the run has steps: it goes back and forth
  CHECK(line["wire_bytes"] > 0);
  CHECK(line["wire_bytes"] < line["full_bytes"]);
  const auto& seconds = line["seconds"];
  for (const auto* key : {"encode", "vote", "commit", "until_tensors_are_free", "memcpy"})
    CHECK(seconds[key] > 0);
  CHECK(seconds["total"] >= seconds["until_tensors_are_free"]);
  CHECK(line["total_x_slowest"] >= 1);
}

TEST_CASE("bench sync takes made-up weights and any setting") {
  const auto of = [](const std::string& encoding) {
    const auto r =
        run_program({"bench", "sync", "--synthetic", "4MiB,0.02", "--syncs", "2", "--json", "--set",
                     "log.level=off", "--set", "sync.encoding=" + encoding});
    INFO(r.err);
    REQUIRE(r.status == 0);
    return json::parse(r.out)["wire_bytes"].get<double>();
  };
  CHECK(of("raw") > 3 * of("coded"));
}

TEST_CASE("bench codec says what it measured, one line for each coding and implementation") {
  const auto r = run_program({"bench", "codec", "--synthetic", "2MiB,0.02", "--repeats", "1",
                              "--implementation", "portable", "--json"});
  INFO(r.err);
  REQUIRE(r.status == 0);
  const auto lines = lines_of(r.out);
  REQUIRE(lines.size() == 3);
  for (const auto& text : lines) {
    const auto line = json::parse(text);
    CHECK(line["implementation"] == "portable");
    CHECK(line["threads"] == 1);
    for (const auto* key : {"density", "bytes_per_changed", "bound_bytes_per_changed",
                            "encode_gb_s", "apply_gb_s", "memcpy_gb_s"})
      CHECK(line[key] > 0);
    // All of it is this thread's: less than proving the base cannot have been needed.
    CHECK(line["base_digest_share_of_apply"] < 1);
  }
}

TEST_CASE("bench refuses what it cannot measure") {
  for (const std::string which : {"codec", "sync"}) {
    check_refusal(run_program({"bench", which}), {"--trace", "--synthetic"});
    check_refusal(run_program({"bench", which, "--synthetic", "much"}), {"much"});
    check_refusal(run_program({"bench", which, "--trace", "/nonexistent"}), {"/nonexistent"});
  }
}

}  // namespace lockstep::test
