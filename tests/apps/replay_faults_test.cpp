
#include "apps/program.hpp"

namespace lockstep::test {

namespace {

struct kind_row {
  const char* kind;
  const char* status;  ///< of the receiver it strikes, where others carry the sync
  bool before_commit;  ///< strikes before anything is written: if all fail, the sync is aborted
};

constexpr kind_row kinds[] = {
    {"stage-fail", "no", true},    {"apply-fail", "nack", false}, {"crash", "dead", false},
    {"corrupt-frame", "no", true}, {"no-reply", "timeout", true}, {"false-ok", "nack", false},
};

std::string fault(const std::string& kind, std::uint64_t version, std::size_t receiver) {
  return kind + '@' + std::to_string(version) + ':' + std::to_string(receiver);
}

report run_faults(const arguments& faults, std::size_t receivers) {
  // Long enough for a slow machine, short enough for a test.
  arguments all{"--json", "--receivers", std::to_string(receivers), "--set",
                "sync.stage_timeout_ms=700"};
  for (const auto& f : faults) {
    all.push_back("--inject");
    all.push_back(f);
  }
  return passed(replay_tiny(all));
}

void check_recovered(const report& r, std::uint64_t version, std::size_t receiver,
                     const std::string& status) {
  const auto& sync = r.committed(version);
  INFO(sync);
  CHECK(sync["result"] == "recovered");
  CHECK(sync["reason"] != "none");
  const auto& struck = sync["receivers"][receiver];
  CHECK(struck["status"] == status);
  CHECK(struck["reason"] != "none");
  // Who wrote nothing lacks one delta; who did, or may have, is given all weights.
  const bool whole = struck["catch_ups"] == 1;
  CHECK(struck["reseeds"] == (whole ? 0 : 1));
  const auto bytes = sync[whole ? "catch_up_bytes" : "reseed_bytes"].get<std::uint64_t>();
  CHECK(bytes >= sync[whole ? "wire_bytes" : "full_bytes"].get<std::uint64_t>());
  if (status == "no" || status == "timeout") CHECK(whole);
  if (status == "nack" || status == "dead") CHECK_FALSE(whole);
  CHECK(struck["standing"] == "member");
  CHECK(struck["ready"] == true);
}

}  // namespace

TEST_CASE("each kind of fault at one of four receivers is recovered from and reported") {
  const auto row = GENERATE(from_range(std::begin(kinds), std::end(kinds)));
  const std::uint64_t version = GENERATE(1u, 5u, 12u);
  CAPTURE(row.kind, version);
  const auto r = run_faults({fault(row.kind, version, 2)}, 4);
  check_recovered(r, version, 2, row.status);
  CHECK(r.summary["reseeds"].get<int>() + r.summary["catch_ups"].get<int>() >= 1);
  CHECK(r.summary["receivers"][2]["restarts"] == (row.kind == std::string("crash") ? 1 : 0));
}

TEST_CASE("each kind of fault at the only receiver is recovered from") {
  const auto row = GENERATE(from_range(std::begin(kinds), std::end(kinds)));
  const std::uint64_t version = GENERATE(1u, 12u);
  CAPTURE(row.kind, version);
  const auto r = run_faults({fault(row.kind, version, 0)}, 1);
  CHECK(r.summary["syncs"] == 12);
  if (row.before_commit) {
    CHECK(r.summary["attempts"] == 13);
    CHECK(r.committed(version)["result"] == "ok");
  } else {
    check_recovered(r, version, 0, row.status);
  }
}

TEST_CASE("the same fault at all receivers at once is recovered from") {
  const auto row = GENERATE(from_range(std::begin(kinds), std::end(kinds)));
  CAPTURE(row.kind);
  const auto r =
      run_faults({fault(row.kind, 4, 0), fault(row.kind, 4, 1), fault(row.kind, 4, 2)}, 3);
  CHECK(r.summary["syncs"] == 12);
  if (row.before_commit) {
    // Nobody wrote anything; the trainer tried again.
    CHECK(r.syncs[3]["result"] == "aborted");
    CHECK(r.syncs[3]["version"] == 4);
    CHECK(r.syncs[3]["base_ref"] == r.syncs[3]["target_ref"]);
    CHECK(r.summary["attempts"].get<int>() >= 13);
  } else {
    for (std::size_t i = 0; i < 3; ++i) check_recovered(r, 4, i, row.status);
  }
}

TEST_CASE("different faults in one sync and over the run are each recovered from") {
  const auto r =
      run_faults({fault("stage-fail", 3, 0), fault("crash", 3, 1), fault("false-ok", 3, 2),
                  fault("apply-fail", 6, 3), fault("corrupt-frame", 6, 0), fault("no-reply", 9, 1),
                  fault("crash", 9, 2), fault("false-ok", 12, 0), fault("false-ok", 12, 3)},
                 4);
  check_recovered(r, 3, 0, "no");
  check_recovered(r, 3, 1, "dead");
  check_recovered(r, 3, 2, "nack");
  check_recovered(r, 6, 3, "nack");
  check_recovered(r, 6, 0, "no");
  check_recovered(r, 9, 1, "timeout");
  check_recovered(r, 9, 2, "dead");
  check_recovered(r, 12, 0, "nack");
  check_recovered(r, 12, 3, "nack");
  CHECK(r.summary["reseeds"].get<int>() + r.summary["catch_ups"].get<int>() >= 9);
}

TEST_CASE("a receiver that fails at every other version is healed each time") {
  arguments faults;
  for (std::uint64_t v = 1; v <= 12; v += 2) faults.push_back(fault("false-ok", v, 1));
  const auto r = run_faults(faults, 2);
  for (std::uint64_t v = 1; v <= 12; v += 2) check_recovered(r, v, 1, "nack");
}

TEST_CASE("a receiver that fails too often in a row is given up, and that is said") {
  arguments all{"--receivers", "2", "--set", "supervision.attempts_max=2"};
  for (std::uint64_t v = 1; v <= 3; ++v) {
    all.push_back("--inject");
    all.push_back(fault("false-ok", v, 1));
  }
  const auto text = replay_tiny(all);
  CHECK(text.status == 1);
  const auto lines = lines_of(text.out);
  REQUIRE(lines.size() == 18);
  CHECK(lines[3].ends_with("recovered; receiver-1 false_ack, reseeded"));
  CHECK(lines[4].ends_with("degraded; receiver-1 false_ack, OUT"));
  CHECK(lines[5].ends_with("ok; receiver-1 OUT"));
  CHECK(lines[16].starts_with("audit receiver-1: FAIL: tensor '"));
  CHECK(lines[17] == "audit: fail");

  all.push_back("--json");
  const auto run = replay_tiny(all);
  CHECK(run.status == 1);
  const auto r = parse_report(run.out);
  CHECK(r.committed(2)["result"] == "recovered");
  CHECK(r.committed(3)["result"] == "degraded");
  CHECK(r.committed(12)["result"] == "ok");
  CHECK(r.committed(12)["receivers"][1]["status"] == "absent");
  CHECK(r.committed(12)["receivers"][1]["standing"] == "gave_up");
  CHECK(r.committed(12)["receivers"][1]["ready"] == false);
  CHECK(r.summary["audit"] == "fail");
}

TEST_CASE("a receiver with the right bytes that is not ready fails the audit") {
  // Given up at version 2, it still holds version 1, whose bytes version 3 goes back to.
  const temp_dir dir;
  make_checkpoint(dir / "base", small_model(1));
  make_checkpoint(dir / "stream" / "v1", small_model(2));
  make_checkpoint(dir / "stream" / "v2", small_model(3));
  make_checkpoint(dir / "stream" / "v3", small_model(2));
  const auto run =
      replay(dir / "base", dir / "stream",
             {"--json", "--receivers", "2", "--set", "supervision.attempts_max=1", "--inject",
              "false-ok@1:1", "--inject", "false-ok@2:1", "--out", (dir / "out").string()});
  CHECK(run.status == 1);
  const auto r = parse_report(run.out);
  CHECK(r.summary["audit"] == "fail");
  CHECK(r.summary["receivers"][1]["audit"] == "fail");
  CHECK_THAT(r.summary["receivers"][1]["detail"].get<std::string>(),
             Catch::Matchers::StartsWith("not ready at version 3"));
  check_written(dir / "out", 2, small_model(2));
}

TEST_CASE("a fault that cannot strike, its version changing nothing, is named, and exit is 1") {
  const auto stream = vectors / "xxh3-128" / "stream";
  const auto run = replay(vectors / "xxh3-128" / "base", stream,
                          {"--json", "--receivers", "2", "--inject", "corrupt-frame@3:1"});
  CHECK(run.status == 1);
  CHECK(run.err.starts_with("lockstep: --inject corrupt-frame@3:1 never struck"));
  CHECK(lines_of(run.err).size() == 1);
  const auto r = parse_report(run.out);
  CHECK(r.summary["audit"] == "pass");
}

TEST_CASE("who stays out makes the exit status 1, and the report says who") {
  // With no attempt allowed beyond one and no time to recover, a fault cannot be healed in time.
  const auto run =
      replay_tiny({"--json", "--receivers", "2", "--inject", "crash@12:1", "--set",
                   "sync.recovery_timeout_ms=1", "--set", "supervision.restart_max=0"});
  INFO(run.out << run.err);
  CHECK(run.status == 1);
  const auto r = parse_report(run.out);
  CHECK(r.syncs.back()["result"] == "degraded");
  CHECK(r.syncs.back()["receivers"][1]["ready"] == false);
  CHECK(r.summary["audit"] == "fail");
  CHECK(r.summary["receivers"][0]["audit"] == "pass");
  CHECK(r.summary["receivers"][1]["audit"] == "fail");
  CHECK(r.summary["receivers"][1]["detail"] != "");
}

}  // namespace lockstep::test
