// `lockstep sim` as a user calls it, and the scenarios that were kept.
#include <sys/stat.h>

#include <chrono>
#include <sstream>

#include "apps/program.hpp"

namespace lockstep::test {

namespace {

const fs::path scenarios = checkout() / "tests/sim/scenarios";

child_result sim(const arguments& with) {
  arguments all{"sim"};
  all.insert(all.end(), with.begin(), with.end());
  return run_program(all);
}

arguments words_of(const std::string& line) {
  std::istringstream in(line);
  arguments out;
  for (std::string word; in >> word;) out.push_back(word);
  return out;
}

/// What a scenario says: its command, its exit status, and the log that is expected.
struct scenario {
  arguments command;
  int status = -1;
  std::string log;
};

scenario parse(const fs::path& file) {
  scenario out;
  const auto text = get(file);
  const auto end = text.find("\n---\n");
  REQUIRE(end != std::string::npos);
  for (const auto& line : lines_of(text.substr(0, end))) {
    if (line.starts_with("lockstep ")) out.command = words_of(line.substr(9));
    if (line.starts_with("exit ")) out.status = line[5] - '0';
  }
  out.log = text.substr(end + 5);
  return out;
}

json summary_of(const child_result& r) {
  INFO("stderr: " << r.err);
  const auto lines = lines_of(r.out);
  REQUIRE_FALSE(lines.empty());
  auto out = json::parse(lines.back());
  REQUIRE(out["kind"] == "summary");
  return out;
}

}  // namespace

TEST_CASE("every scenario goes as its log says, in this process's stead too") {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(scenarios))
    if (entry.path().extension() == ".txt") files.push_back(entry.path());
  CHECK(files.size() >= 10);
  for (const auto& file : files) {
    CAPTURE(file.filename().string());
    const auto wanted = parse(file);
    REQUIRE(wanted.command.size() > 2);
    const auto r = run_program(wanted.command);
    CHECK(r.status == wanted.status);
    CHECK(r.err.empty());
    CHECK(r.out == wanted.log);
  }
}

TEST_CASE("a trace is the same in another process") {
  const auto first = sim({"--seed", "7", "--trace"});
  CHECK(first.status == 0);
  CHECK(lines_of(first.out).size() > 500);
  CHECK((sim({"--seed", "7", "--trace"}).out == first.out));
  CHECK((sim({"--seed", "8", "--trace"}).out != first.out));
}

TEST_CASE("the summary says what was run") {
  const auto s = summary_of(sim({"--seeds", "30", "--json", "--syncs", "5"}));
  CHECK(s["seeds"] == 30);
  CHECK(s["violations"] == 0);
  CHECK(s["first_bad_seed"].is_null());
  CHECK(s["steps"].get<std::uint64_t>() > 5000);
  CHECK(s["faults"].size() > 24);
  CHECK(s["faults"]["lose"].get<std::uint64_t>() > 0);
  CHECK(s["consequences"]["lost-ack"].is_number_unsigned());
  CHECK(s["syncs"]["ok"].get<std::uint64_t>() > 60);
  // The same whatever the number of processes, and as one by one.
  const auto one = summary_of(sim({"--seeds", "30", "--json", "--syncs", "5", "--jobs", "1"}));
  CHECK(one == s);
  const auto later = summary_of(sim({"--seeds", "30", "--seed", "30", "--json", "--syncs", "5"}));
  CHECK(later["trace_hash"] != s["trace_hash"]);
}

TEST_CASE("a trainer of several ranks is run as it is asked for, and summed up as one of one") {
  const auto with = [](const arguments& more) {
    arguments all{"--seeds", "50", "--syncs", "5", "--json"};
    all.insert(all.end(), more.begin(), more.end());
    return summary_of(sim(all));
  };
  const auto one = with({}), two = with({"--ranks", "2"}), three = with({"--ranks", "3"});
  CHECK(with({"--ranks", "1"})["trace_hash"] == one["trace_hash"]);
  CHECK(with({"--ranks", "2", "--jobs", "1"})["trace_hash"] == two["trace_hash"]);
  CHECK(two["trace_hash"] != one["trace_hash"]);
  CHECK(two["trace_hash"] != three["trace_hash"]);
  for (const auto& s : {one, two, three}) {
    CHECK(s["seeds"] == 50);
    CHECK(s["violations"] == 0);
    CHECK(s["syncs"]["ok"].get<int>() > 100);
    CHECK(s["faults"].size() == one["faults"].size());
  }
  for (const std::string of_ranks : {"late-rank", "absent-rank", "odd-rank"}) {
    CAPTURE(of_ranks);
    CHECK(one["faults"][of_ranks] == 0);
    const auto often = with({"--ranks", "2", "--fault", of_ranks + "=0.2"});
    CHECK(often["faults"][of_ranks].get<int>() > 0);
    CHECK(often["violations"] == 0);
  }
  // With what else a fleet can be.
  const auto all = with(
      {"--ranks", "2", "--receivers", "6", "--parts", "3", "--fanout", "2", "--fault", "none"});
  CHECK(all["violations"] == 0);
  CHECK(all["faults"]["late-rank"] == 0);
  CHECK(all["syncs"]["ok"].get<int>() >= 50 * 7);
  const auto events = sim({"--seed", "1", "--ranks", "3", "--syncs", "1", "--events"});
  CHECK_THAT(events.out, Catch::Matchers::Contains("trainer-1/rank-2 wants sync 1"));
}

TEST_CASE("a violation is reported with the command that shows it again") {
  const auto r = sim({"--seeds", "50", "--break", "only-not-advance", "--stop", "--json",
                      "--receivers", "2", "--jobs", "1"});
  CHECK(r.status == 1);
  const auto lines = lines_of(r.out);
  REQUIRE(lines.size() == 2);
  const auto violation = json::parse(lines[0]);
  CHECK(violation["kind"] == "violation");
  CHECK(violation["what"].get<std::string>().starts_with("I"));
  const auto s = summary_of(r);
  CHECK(s["violations"].get<int>() >= 1);
  CHECK(s["first_bad_seed"] == violation["seed"]);
  auto again = words_of(violation["replay"].get<std::string>());
  REQUIRE(again.size() > 4);
  CHECK(again.front() == "lockstep");
  again.erase(again.begin());
  const auto replayed = run_program(again);
  CHECK(replayed.status == 1);
  const auto ends = violation["replay_what"].get<std::string>();
  CHECK_THAT(replayed.out, Catch::Matchers::Contains("VIOLATION " + ends));
}

TEST_CASE("every fault is listed, and described in the documentation") {
  const auto page = get(checkout() / "docs/sim.md");
  const auto r = sim({"--list-faults", "--json"});
  CHECK(r.status == 0);
  CHECK(lines_of(r.out).size() > 24);
  for (const auto& line : lines_of(r.out)) {
    const auto fault = json::parse(line);
    const auto row = "| `" + fault["name"].get<std::string>() + "` | " + fault["rate"].dump() +
                     " | " + fault["per"].get<std::string>() + " | " +
                     fault["help"].get<std::string>() + " |";
    CAPTURE(row);
    CHECK(page.find(row) != std::string::npos);
  }
  CHECK_THAT(sim({"--list-faults"}).out, Catch::Matchers::Contains("zombie-trainer"));
}

TEST_CASE("bad words to the simulator are refused in one line") {
  check_refusal(sim({"--break", "nothing"}), {"--break nothing", "serve-torn"});
  check_refusal(sim({"--fault", "lost=1"}), {"no fault is named 'lost'", "--list-faults"});
  check_refusal(sim({"--fault", "lose=2"}), {"lose must be a number from 0 to 1"});
  check_refusal(sim({"--faults", "/nowhere/rates"}), {"/nowhere/rates"});
  check_refusal(sim({"--keep", "lose"}), {"--keep lose"});
  check_refusal(sim({"--seeds", "0"}), {"--seeds"});
  check_refusal(sim({"--seeds", "010"}), {"--seeds"});
  check_refusal(sim({"--receivers", "65"}), {"--receivers"});
  check_refusal(sim({"--syncs", "x"}), {"--syncs"});
  for (const char* ranks : {"0", "5", "x", "02"})
    check_refusal(sim({"--ranks", ranks}), {"--ranks"});
  check_refusal(sim({"--ranks", "2", "--fault", "clock-jump=0.1"}),
                {"clock-jump is 0.1, the limit is 0.0125, or 0.05 with swarm=off"});
  check_refusal(sim({"--ranks", "2", "--fault", "swarm=off", "--fault", "clock-jump=0.2"}),
                {"clock-jump is 0.2, the limit is 0.05"});
  check_refusal(sim({"--ranks", "2", "--fault", "crash-trainer=0.1"}),
                {"crash-trainer is 0.1, the limit is 0.05, or 0.2 with swarm=off"});
  // What strikes nobody is not asked for.
  check_refusal(sim({"--fault", "late-rank=0.2"}), {"late-rank", "--ranks"});
  check_refusal(sim({"--fault", std::string("a\x1b[1mb=1")}), {"a\\x1b[1mb"});
  check_refusal(sim({"--jobs", "257"}), {"--jobs"});
  check_refusal(sim({"--minutes", "0"}), {"--minutes"});
  check_refusal(sim({"more"}), {"more"});
}

TEST_CASE("rates are read from a file") {
  const temp_dir dir;
  const auto file = dir.path() / "rates";
  put(file, "# only this\nnone\nswarm = off\nlose = 0.05\n");
  const auto s = summary_of(sim({"--seeds", "10", "--json", "--faults", file.string()}));
  CHECK(s["faults"]["lose"].get<int>() > 100);
  CHECK(s["faults"]["flip"] == 0);
  CHECK(s["faults"]["crash-receiver"] == 0);
  put(file, "lose=0.1\nlose=many\n");
  check_refusal(sim({"--faults", file.string()}), {"rates:2: lose must be a number"});
  // No line, no change.
  const auto usual = summary_of(sim({"--seeds", "3", "--json"}));
  put(file, "");
  const auto empty = sim({"--seeds", "3", "--json", "--faults", file.string()});
  CHECK(empty.status == 0);
  CHECK(summary_of(empty)["trace_hash"] == usual["trace_hash"]);
}

TEST_CASE("a file of rates is read up to its limit") {
  check_refusal(sim({"--faults", "/"}),
                {"/: cannot be read as a file of fault rates: not a regular file"});
  check_refusal(sim({"--faults", "/nonexistent"}), {"fault rates: No such file or directory"});
  const temp_dir dir;
  const auto file = dir.path() / "rates";
  const std::string comments(std::size_t{1} << 20, '#');
  put(file, comments);
  CHECK(sim({"--seeds", "1", "--faults", file.string()}).status == 0);
  put(file, comments + '#');
  check_refusal(sim({"--faults", file.string()}), {"larger than the 1048576 bytes allowed"});
}

TEST_CASE("what is no file is refused, and not waited for") {
  const temp_dir dir;
  const auto fifo = (dir / "fifo").string();
  REQUIRE(::mkfifo(fifo.c_str(), 0600) == 0);
  child_options soon;
  soon.deadline = std::chrono::seconds(10);
  for (const auto& what : {fifo, std::string("/dev/zero"), std::string("/")}) {
    CAPTURE(what);
    check_refusal(run_program({"sim", "--faults", what}, soon),
                  {what + ": cannot be read as a file of fault rates"});
    check_refusal(run_program({"config", "--config", what}, soon), {what + ": cannot be read"});
  }
}

TEST_CASE("the list of faults is given without other words") {
  CHECK(sim({"--list-faults"}).status == 0);
  const std::vector<arguments> of_no_use{
      {"--seed", "1"},           {"--seeds", "2"},    {"--minutes", "1"},
      {"--receivers", "2"},      {"--syncs", "2"},    {"--ranks", "2"},
      {"--parts", "2"},          {"--fanout", "2"},   {"--link-mb-s", "10"},
      {"--faults", "f"},         {"--fault", "none"}, {"--keep", "none"},
      {"--break", "serve-torn"}, {"--jobs", "1"},     {"--stop"},
      {"--no-shrink"},           {"--trace"},         {"--events"}};
  for (const auto& more : of_no_use) {
    arguments all{"--list-faults"};
    all.insert(all.end(), more.begin(), more.end());
    check_refusal(sim(all), {"--list-faults", more.front()});
  }
}

TEST_CASE("a protocol is broken with fan-out and with ranks too, and shown by the same command") {
  for (const arguments& fleet : {arguments{"--fanout", "2"}, arguments{"--ranks", "2"}}) {
    arguments all{"--break", "serve-torn", "--seeds", "20", "--stop", "--json", "--jobs", "1"};
    all.insert(all.end(), fleet.begin(), fleet.end());
    const auto r = sim(all);
    CHECK(r.status == 1);
    const auto replay = json::parse(lines_of(r.out).at(0))["replay"].get<std::string>();
    CHECK_THAT(replay, Catch::Matchers::Contains(fleet[0] + " " + fleet[1]));
    auto again = words_of(replay);
    again.erase(again.begin());
    const auto replayed = run_program(again);
    CHECK(replayed.status == 1);
    CHECK_THAT(replayed.out, Catch::Matchers::Contains("VIOLATION I"));
  }
}

TEST_CASE("digests are switched off, and whoever asks for what they alone find is told") {
  const arguments broken{"--break", "off-by-one", "--seed", "0", "--json"};
  const auto promise_and_replay = [&](arguments all) {
    const auto r = sim(all);
    CHECK(r.status == 1);
    const auto line = json::parse(lines_of(r.out).at(0));
    return std::pair(line["what"].get<std::string>().substr(0, 2),
                     line["replay"].get<std::string>());
  };
  CHECK(promise_and_replay(broken).first == "L1");
  auto undigested = broken;
  undigested.push_back("--no-digests");
  const auto [promise, replay] = promise_and_replay(undigested);
  CHECK(promise == "I3");
  CHECK_THAT(replay, Catch::Matchers::Contains(" --no-digests"));
  for (const char* fault : {"lie=0.5", "rot=0.05"})
    check_refusal(sim({"--no-digests", "--seed", "0", "--fault", fault}),
                  {std::string(fault).substr(0, 3), "--no-digests"});
}

TEST_CASE("what links are measured with leaves nothing unsaid") {
  const auto measured =
      sim({"--link-mb-s", "10", "--receivers", "2", "--fanout", "1", "--seed", "3", "--json"});
  CHECK(measured.status == 0);
  CHECK(json::parse(measured.out)["receivers"] == 2);
  const std::vector<arguments> of_no_use{
      {"--seeds", "2"},    {"--minutes", "1"}, {"--syncs", "2"},          {"--faults", "/dev/null"},
      {"--fault", "none"}, {"--list-faults"},  {"--break", "serve-torn"}, {"--keep", "none"},
      {"--jobs", "1"},     {"--stop"},         {"--no-shrink"},           {"--trace"},
      {"--events"},        {"--parts", "2"},   {"--ranks", "2"},          {"--no-digests"}};
  for (const auto& more : of_no_use) {
    arguments all{"--link-mb-s", "100"};
    all.insert(all.end(), more.begin(), more.end());
    check_refusal(sim(all), {"--link-mb-s", more.front()});
  }
}

TEST_CASE("a run that is asked for much ends") {
  // More steps than one sync may take, in all.
  const auto s = summary_of(sim({"--seed", "1", "--syncs", "12000", "--fault", "none", "--json"}));
  CHECK(s["violations"] == 0);
  CHECK(s["steps"].get<std::uint64_t>() > 1'000'000);
  CHECK(s["syncs"]["ok"].get<int>() >= 12'000);
}

TEST_CASE("faults leave steps to act in") {
  const arguments none{"--seed", "1", "--jobs", "1", "--fault", "none", "--fault"};
  const auto with = [&](const arguments& more) {
    auto all = none;
    all.insert(all.end(), more.begin(), more.end());
    return sim(all);
  };
  check_refusal(with({"slow-trainer=1"}), {"faults of every step come to 1", "0.125", "swarm=off"});
  check_refusal(with({"slow-trainer=0.3", "--fault", "cut=0.3", "--fault", "swarm=off"}),
                {"faults of every step come to 0.6, the limit is 0.5"});
  CHECK(with({"slow-trainer=0.5", "--fault", "swarm=off"}).status == 0);
  CHECK(with({"slow-trainer=0.125"}).status == 0);
  CHECK(with({"lose=1"}).status == 0);
}

}  // namespace lockstep::test
