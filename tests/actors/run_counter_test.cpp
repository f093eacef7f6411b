// Numbers of runs that outlive a process, its machine and its clock.
#include "actors/run_counter.hpp"

#include <sys/file.h>
#include <sys/stat.h>

#include <catch2/catch.hpp>
#include <mutex>
#include <set>
#include <thread>

#include "actors/fleet.hpp"
#include "weights/file_lock.hpp"
#include "weights/test_files.hpp"

using namespace lockstep;
using lockstep::test::check_refused;
using lockstep::test::get;
using lockstep::test::put;
using lockstep::test::temp_dir;

namespace {

constexpr std::uint64_t tomorrow = 4'102'444'800'000;  // a clock of the year 2100

settings counted_in(const std::filesystem::path& file) {
  auto s = quiet();
  s.trainer.run_file = file.string();
  return s;
}

std::uint64_t run_of_a_process(const settings& s) {
  runtime rt(s);
  trainer t(rt, small_layout());
  return t.seed(weight_buffer(small_layout())).run;
}

}  // namespace

TEST_CASE("a run's number is the clock's, and later than any before") {
  const temp_dir dir;
  const auto file = dir / "run";
  CHECK(run_counter(file).take(1'000) == 1'000);
  CHECK(run_counter(file).take(2'000) == 2'000);
  const run_counter counter(file);
  CHECK(counter.take(1'500) == 2'001);  // the clock went back
  CHECK(counter.take(1) == 2'002);
  CHECK(counter.take(2'002) == 2'003);
  CHECK(counter.take(3'000, 10) == 3'000);
  CHECK(counter.take(3'000, 10) == 3'010);
  CHECK(counter.take(1) == 3'020);
  CHECK_FALSE(std::filesystem::exists(dir / "run.tmp"));
}

TEST_CASE("a trainer whose clock went back is a later run all the same") {
  const temp_dir dir;
  run_counter(dir / "run").take(tomorrow);
  auto s = counted_in(dir / "run");
  s.supervision.restart_max = 0;
  CHECK(run_of_a_process(s) == tomorrow + 1);
  CHECK(run_of_a_process(s) == tomorrow + 2);
  CHECK(run_of_a_process(quiet()) < tomorrow);
}

TEST_CASE("each seed of one process is numbered by the file") {
  const temp_dir dir;
  run_counter(dir / "run").take(tomorrow);
  auto s = counted_in(dir / "run");
  s.supervision.restart_max = 3;
  runtime rt(s);
  trainer t(rt, small_layout());
  const weight_buffer weights(small_layout());
  CHECK(t.seed(weights).run == tomorrow + 1);
  // Somebody else starts meanwhile. The numbers between are those under which the runtime goes on
  // by itself, each time that its trainer's side dies.
  CHECK(run_counter(dir / "run").take(1) == tomorrow + 5);
  CHECK(t.seed(weights).run == tomorrow + 6);
}

TEST_CASE("trainers that share a file take turns, and no number twice") {
  const temp_dir dir;
  std::mutex mutex;
  std::set<std::uint64_t> taken;
  std::vector<std::thread> trainers;
  for (int i = 0; i < 4; ++i)
    trainers.emplace_back([&] {
      for (int n = 0; n < 10; ++n) {
        const auto number = run_counter(dir / "run").take(7);
        const std::lock_guard lock(mutex);
        taken.insert(number);
      }
    });
  for (auto& t : trainers) t.join();
  CHECK(taken.size() == 40);
  CHECK(*taken.rbegin() == 46);
}

TEST_CASE("who holds the lock for ever is not waited for for ever") {
  const temp_dir dir;
  const file_lock held(dir / "run.lock", std::chrono::milliseconds(0));
  check_refused([&] { run_counter counter(dir / "run"); }, errc::timeout, {"run.lock", "5000 ms"});
}

TEST_CASE("a file of runs that is not as it was written is refused by name") {
  const temp_dir dir;
  const auto file = dir / "run";
  run_counter(file).take(1'764'340'000'000);
  const auto good = get(file);
  CHECK(good.starts_with("lockstep run 1764340000000 "));
  const auto refused = [&](const std::string& bytes) {
    put(file, bytes);
    INFO(bytes);
    check_refused([&] { run_counter counter(file); }, errc::bad_input, {file.string()});
    CHECK(get(file) == bytes);
  };
  for (std::size_t n = 0; n < good.size(); ++n) refused(good.substr(0, n));
  for (std::size_t n = 0; n < 8 * good.size(); ++n) {
    auto flipped = good;
    flipped[n / 8] = static_cast<char>(flipped[n / 8] ^ (1 << n % 8));
    refused(flipped);
  }
  refused(good + good);
  refused(std::string(256, '\0'));
  refused(std::string(1 << 20, '9'));
  refused("1764340000000\n");
  put(file, good);
  CHECK(run_counter(file).take(1) == 1'764'340'000'001);
}

TEST_CASE("what is no file of runs is neither waited for nor replaced") {
  const temp_dir dir;
  const auto refused = [&](errc code) {
    check_refused([&] { run_counter counter(dir / "run"); }, code, {(dir / "run").string()});
    std::filesystem::remove(dir / "run");
  };
  REQUIRE(::mkfifo((dir / "run").c_str(), 0600) == 0);
  refused(errc::bad_input);
  std::filesystem::create_directory(dir / "run");
  refused(errc::bad_input);
  std::filesystem::create_symlink(dir / "nowhere", dir / "run");
  refused(errc::bad_input);
  // The disk that it should be on is not there: better no run than one of the clock alone.
  check_refused([&] { run_counter counter(dir / "missing" / "run"); }, errc::unwritable,
                {(dir / "missing" / "run").string()});
  CHECK_FALSE(std::filesystem::exists(dir / "missing"));
}

TEST_CASE("the last number of all is not passed") {
  const temp_dir dir;
  const run_counter counter(dir / "run");
  constexpr auto last = UINT64_MAX / 2;
  CHECK(counter.take(last) == last);
  check_refused([&] { counter.take(1); }, errc::bad_input, {(dir / "run").string()});
  check_refused([&] { counter.take(UINT64_MAX); }, errc::bad_input, {(dir / "run").string()});
  const run_counter other(dir / "other");
  check_refused([&] { other.take(last - 1, 3); }, errc::bad_input, {(dir / "other").string()});
  CHECK(other.take(last - 1, 2) == last - 1);
}

TEST_CASE("what a killed process left beside the file is nobody's number") {
  const temp_dir dir;
  run_counter(dir / "run").take(10);
  put(dir / "run.tmp", "lockstep run 99");
  CHECK(run_counter(dir / "run").take(1) == 11);
  CHECK_FALSE(std::filesystem::exists(dir / "run.tmp"));
}

TEST_CASE("a process that cannot number its runs does not start") {
  const temp_dir dir;
  put(dir / "run", "not a number");
  check_refused([&] { runtime rt(counted_in(dir / "run")); }, errc::bad_input,
                {(dir / "run").string()});
  check_refused([] { runtime rt(counted_in("/proc/self/run")); }, errc::unwritable,
                {"/proc/self/run"});
  // A receiver numbers nothing, though it be given the same settings.
  auto s = counted_in(dir / "run");
  s.transport.connect = "127.0.0.1:1";
  CHECK_NOTHROW(runtime(s));
}
