#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <fstream>

#include "apps/program.hpp"

namespace lockstep::test {

namespace {

const std::vector<std::string> results{"ok", "recovered", "degraded", "aborted"};

bool is_count(const json& value) {
  return value.is_number_unsigned();
}

bool is_one_of(const json& value, const std::vector<std::string>& names) {
  return value.is_string() &&
         std::find(names.begin(), names.end(), value.get<std::string>()) != names.end();
}

void check_keys(const json& object, const std::vector<std::string>& keys) {
  REQUIRE(object.is_object());
  for (const auto& key : keys) {
    INFO("key: " << key << " in " << object);
    REQUIRE(object.contains(key));
  }
  CHECK(object.size() == keys.size());
}

void check_sync(const json& s) {
  check_keys(s, {"kind", "version", "base", "result", "reason", "detail", "base_ref", "target_ref",
                 "elements", "changed", "changed_percent", "full_bytes", "wire_bytes", "sent_bytes",
                 "reseed_bytes", "catch_up_bytes", "seconds", "receivers"});
  for (const auto* key : {"version", "base", "elements", "changed", "full_bytes", "wire_bytes",
                          "sent_bytes", "reseed_bytes", "catch_up_bytes"})
    CHECK(is_count(s[key]));
  for (const auto* key : {"reason", "detail", "base_ref", "target_ref"}) CHECK(s[key].is_string());
  CHECK(is_one_of(s["result"], results));
  CHECK(s["changed_percent"].is_number());
  CHECK(s["changed"].get<std::uint64_t>() <= s["elements"].get<std::uint64_t>());
  check_keys(s["seconds"], {"encode", "ship", "vote", "commit", "recover", "total"});
  for (const auto& value : s["seconds"]) {
    CHECK(value.is_number());
    CHECK(value.get<double>() >= 0);
  }
  REQUIRE(s["receivers"].is_array());
  std::uint64_t next = 0;
  for (const auto& r : s["receivers"]) {
    check_keys(r, {"id", "name", "state", "ready", "version", "standing", "status", "reason",
                   "detail", "redos", "reseeds", "catch_ups"});
    CHECK(r["id"] == next++);
    for (const auto* key : {"version", "reseeds", "catch_ups"}) CHECK(is_count(r[key]));
    CHECK(r["ready"].is_boolean());
    CHECK(is_one_of(r["state"], {"empty", "serving", "applying", "reseeding", "torn"}));
    CHECK(is_one_of(r["status"], {"ok", "no", "nack", "timeout", "dead", "aborted", "absent"}));
    CHECK(is_one_of(r["standing"],
                    {"member", "attaching", "quarantined", "gave_up", "dead", "detached"}));
    for (const auto* key : {"name", "reason", "detail"}) CHECK(r[key].is_string());
    // A ready receiver stands at a committed version: this one or, if it was called off, the base.
    if (r["ready"].get<bool>())
      CHECK(r["version"] == (s["result"] == "aborted" ? s["base"] : s["version"]));
  }
}

void check_summary(const report& r) {
  const auto& s = r.summary;
  check_keys(s, {"kind", "syncs", "attempts", "reseeds", "catch_ups", "wire_bytes", "full_bytes",
                 "sent_bytes", "reseed_bytes", "catch_up_bytes", "seconds", "receivers", "audit"});
  CHECK(is_one_of(s["audit"], {"pass", "fail"}));
  CHECK(s["seconds"].is_number());
  std::uint64_t committed = 0, wire = 0, full = 0, sent = 0, reseeded = 0, reseeds = 0;
  std::uint64_t caught_up = 0, catch_ups = 0;
  for (const auto& sync : r.syncs) {
    sent += sync["sent_bytes"].get<std::uint64_t>();
    reseeded += sync["reseed_bytes"].get<std::uint64_t>();
    caught_up += sync["catch_up_bytes"].get<std::uint64_t>();
    if (sync["result"] == "aborted") continue;
    ++committed;
    wire += sync["wire_bytes"].get<std::uint64_t>();
    full += sync["full_bytes"].get<std::uint64_t>();
    for (const auto& receiver : sync["receivers"]) {
      reseeds += receiver["reseeds"].get<std::uint64_t>();
      catch_ups += receiver["catch_ups"].get<std::uint64_t>();
    }
  }
  CHECK(s["attempts"] == r.syncs.size());
  CHECK(s["syncs"] == committed);
  CHECK(s["wire_bytes"] == wire);
  CHECK(s["full_bytes"] == full);
  CHECK(s["sent_bytes"] == sent);
  CHECK(s["reseed_bytes"] == reseeded);
  CHECK(s["catch_up_bytes"] == caught_up);
  CHECK(s["reseeds"] == reseeds);
  CHECK(s["catch_ups"] == catch_ups);
  std::uint64_t of_receivers = 0;
  for (const auto& receiver : s["receivers"]) {
    check_keys(receiver, {"id", "name", "audit", "detail", "reseeds", "catch_ups", "restarts"});
    CHECK(is_one_of(receiver["audit"], {"pass", "fail"}));
    CHECK(receiver["detail"].is_string());
    CHECK(is_count(receiver["restarts"]));
    of_receivers += receiver["reseeds"].get<std::uint64_t>();
  }
  CHECK(s["reseeds"] == of_receivers);
}

}  // namespace

report parse_report(const std::string& out) {
  report result;
  for (const auto& line : lines_of(out)) {
    INFO("line: " << line);
    const auto object = json::parse(line, nullptr, false);
    REQUIRE(object.is_object());
    REQUIRE(result.summary.is_null());  // nothing comes after it
    if (object["kind"] == "summary") {
      result.summary = object;
    } else {
      REQUIRE(object["kind"] == "sync");
      check_sync(object);
      result.syncs.push_back(object);
    }
  }
  REQUIRE(result.summary.is_object());
  check_summary(result);
  return result;
}

namespace {

/// Every version once and in order, all receivers ok.
void check_plain(const report& r, std::size_t versions, std::size_t receivers) {
  REQUIRE(r.syncs.size() == versions);
  for (std::size_t i = 0; i < versions; ++i) {
    const auto& s = r.syncs[i];
    CHECK(s["version"] == i + 1);
    CHECK(s["base"] == i);
    CHECK(s["result"] == "ok");
    CHECK(s["reason"] == "none");
    CHECK(s["reseed_bytes"] == 0);
    REQUIRE(s["receivers"].size() == receivers);
    for (const auto& receiver : s["receivers"]) {
      CHECK(receiver["status"] == "ok");
      CHECK(receiver["ready"] == true);
      CHECK(receiver["version"] == i + 1);
    }
    if (i > 0) CHECK(s["base_ref"] == r.syncs[i - 1]["target_ref"]);
  }
  CHECK(r.summary["reseeds"] == 0);
}

weight_buffer last_of(const fs::path& base, const fs::path& stream) {
  auto weights = in_memory(checkpoint::open(base));
  for (std::uint64_t v = 1; fs::exists(published_dir(stream, v)); ++v)
    published_delta::open(published_dir(stream, v), weights.shape()).apply(weights);
  return weights;
}

}  // namespace

TEST_CASE("a real run reaches every receiver, and the files are the expected ones") {
  const auto receivers = GENERATE(std::size_t{1}, std::size_t{2}, std::size_t{4});
  const temp_dir dir;
  const auto run = replay_tiny(
      {"--json", "--receivers", std::to_string(receivers), "--out", (dir / "out").string()});
  const auto r = passed(run);
  check_plain(r, 12, receivers);
  CHECK(r.summary["receivers"].size() == receivers);
  // 2.6 MB of weights of which about one in eighty changes.
  CHECK(r.summary["full_bytes"] == 12 * r.syncs[0]["full_bytes"].get<std::uint64_t>());
  CHECK(r.summary["wire_bytes"].get<double>() < 0.05 * r.summary["full_bytes"].get<double>());

  std::ifstream in(tiny_rl / "expected.json");
  const auto expected = json::parse(in);
  CHECK(expected["final_version"] == 12);
  const auto base = checkpoint::open(tiny_rl / "base");
  REQUIRE(expected["xxh3_128"].size() == base.shape().count());
  for (std::size_t i = 0; i < receivers; ++i) {
    const auto written = checkpoint::open(out_file(dir / "out", i));
    REQUIRE(written.shape() == base.shape());
    for (std::size_t t = 0; t < written.shape().count(); ++t) {
      const auto bytes = written.tensor(t);
      XXH128_canonical_t canonical;
      XXH128_canonicalFromHash(&canonical, XXH3_128bits(bytes.data(), bytes.size()));
      std::string hex;
      for (const auto byte : canonical.digest) hex += fmt::format("{:02x}", byte);
      CHECK(expected["xxh3_128"][written.shape()[t].name] == hex);
    }
  }
  CHECK_FALSE(fs::exists(out_file(dir / "out", receivers)));
}

TEST_CASE("for people: a line for each sync, a verdict for each receiver, exit 0") {
  const auto run = replay_tiny({"--receivers", "2"});
  INFO(run.out << run.err);
  CHECK(run.status == 0);
  CHECK(run.err.empty());
  const auto lines = lines_of(run.out);
  REQUIRE(lines.size() == 2 + 12 + 1 + 3);
  for (const auto* column :
       {"version", "changed", "full", "wire", "diff+encode", "ship", "vote", "commit", "result"})
    CHECK_THAT(lines[1], Catch::Matchers::Contains(column));
  for (std::size_t i = 0; i < 12; ++i) {
    CHECK(std::stoul(lines[2 + i]) == i + 1);
    CHECK(lines[2 + i].ends_with("  ok"));
  }
  CHECK(lines[14].starts_with("12 syncs in "));
  CHECK(lines[15] == "audit receiver-0: pass");
  CHECK(lines[16] == "audit receiver-1: pass");
  CHECK(lines[17] == "audit: pass");
}

TEST_CASE("full checkpoints give what the published stream of the same versions gives") {
  const temp_dir dir;
  auto weights = in_memory(checkpoint::open(tiny_rl / "base"));
  for (std::uint64_t v = 1; v <= 12; ++v) {
    published_delta::open(published_dir(tiny_rl / "stream", v), weights.shape()).apply(weights);
    make_checkpoint(dir / "stream" / ("step-" + std::to_string(v)), weights);
  }
  const auto full = passed(replay(tiny_rl / "base", dir / "stream",
                                  {"--json", "--receivers", "2", "--out", (dir / "out").string()}));
  const auto published = passed(replay_tiny({"--json", "--receivers", "2"}));
  check_plain(full, 12, 2);
  check_written(dir / "out", 2, weights);
  REQUIRE(full.syncs.size() == published.syncs.size());
  for (std::size_t i = 0; i < full.syncs.size(); ++i)
    for (const auto* key : {"version", "changed", "wire_bytes", "full_bytes", "elements"})
      CHECK(full.syncs[i][key] == published.syncs[i][key]);
}

TEST_CASE("a full version in the midst of deltas starts the chain afresh") {
  const temp_dir dir;
  const auto base = small_model(1), second = small_model(2), third = small_model(3);
  make_checkpoint(dir / "base", base);
  publish_delta(dir / "stream", 1, 0, base.shape(), reader_of(base), reader_of(small_model(9)));
  publish_full(dir / "stream", 2, second.shape(), reader_of(second));
  publish_delta(dir / "stream", 3, 2, third.shape(), reader_of(second), reader_of(third));
  const auto r = passed(replay(dir / "base", dir / "stream",
                               {"--json", "--receivers", "2", "--out", (dir / "out").string()}));
  check_plain(r, 3, 2);
  check_written(dir / "out", 2, third);
}

TEST_CASE("golden streams of both checksums arrive, a version without any change included") {
  const auto format = GENERATE("adler32", "xxh3-128");
  const temp_dir dir;
  const auto stream = vectors / format / "stream";
  const auto r = passed(replay(vectors / format / "base", stream,
                               {"--json", "--receivers", "2", "--out", (dir / "out").string()}));
  check_plain(r, 3, 2);
  CHECK(r.syncs[2]["changed"] == 0);
  CHECK(r.syncs[2]["wire_bytes"] == 0);
  check_written(dir / "out", 2, checkpoint::open(vectors / format / "expect_v2"));
  check_written(dir / "out", 2, last_of(vectors / format / "base", stream));
}

TEST_CASE(
    "the directory of --out is written over what an earlier run left there, and its parents are "
    "made") {
  const temp_dir dir;
  const auto base = small_model(1), target = small_model(2);
  make_checkpoint(dir / "base", base);
  make_checkpoint(dir / "stream" / "v1", target);
  const auto out = dir / "a" / "b" / "out";
  put(out_file(out, 0), "old");
  put(out / "keep", "mine");
  CHECK(replay(dir / "base", dir / "stream", {"--out", out.string() + "/"}).status == 0);
  check_written(out, 4, target);
  CHECK(get(out / "keep") == "mine");
  std::size_t entries = 0;
  for (const auto& entry : fs::recursive_directory_iterator(dir / "a")) {
    (void)entry;
    ++entries;
  }
  CHECK(entries == 2 + 1 + 2 * 4);  // b, out; keep; four directories with a file each: no litter
}

}  // namespace lockstep::test
