// What an engine's hooks see, and what becomes of an update in which they fail or lie.
#include <atomic>
#include <catch2/catch.hpp>
#include <chrono>
#include <functional>
#include <map>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>

#include "actors/fleet.hpp"

using namespace lockstep;

namespace {

/// An engine of the test's own: its memory, what its hooks were told, and how they fail.
struct test_engine {
  explicit test_engine(const layout& shape) : bytes(shape) {}

  receiver_options options(receiver_id id = 0) {
    receiver_options out;
    out.id = id;
    out.memory = memory_of(bytes);
    out.hooks.pause = [this] { told("pause", 0, on_pause); };
    out.hooks.apply = [this](version_ref, std::uint64_t label, auto tensors) {
      touched.assign(tensors.begin(), tensors.end());
      told("apply", label, on_apply);
    };
    out.hooks.resume = [this](version_ref, std::uint64_t label) {
      told("resume", label, on_resume);
    };
    out.hooks.readiness_changed = [this](const readiness& state) {
      told(state.ready ? "ready" : "not", state.label, nullptr);
    };
    return out;
  }

  void told(const std::string& what, std::uint64_t label,
            const std::function<void(std::uint64_t)>& then) {
    {
      const std::lock_guard lock(mutex);
      // Losing readiness more than once in a row is one loss.
      if (what != "not" || ready)
        events.push_back(what == "not" ? what : what + ':' + std::to_string(label));
      if (what == "not" || what == "ready") ready = what == "ready";
    }
    if (then) then(label);
  }

  std::vector<std::string> take() {
    const std::lock_guard lock(mutex);
    return std::exchange(events, {});
  }

  weight_buffer bytes;
  std::function<void(std::uint64_t label)> on_pause, on_apply, on_resume;
  std::vector<std::size_t> touched;
  std::mutex mutex;
  bool ready = true;
  std::vector<std::string> events;
};

using strings = std::vector<std::string>;

}  // namespace

TEST_CASE("hooks are called in order, and readiness frames them") {
  test_engine e(small_layout());  // outlives the receiver whose hooks it has
  fleet f;
  f.add(e.options());
  REQUIRE(f.seed(7));
  CHECK(e.take() == strings{"not", "pause:0", "apply:7", "resume:7", "ready:7"});
  CHECK(e.touched == std::vector<std::size_t>{0, 1, 2, 3});
  CHECK(same(e.bytes, f.w));

  f.w.tensor(1)[3] ^= std::byte{1};
  f.w.tensor(3)[999] ^= std::byte{1};
  CHECK(f.t.sync(8, f.w).wait().result == sync_result::ok);
  CHECK(e.take() == strings{"not", "pause:0", "apply:8", "resume:8", "ready:8"});
  CHECK(e.touched == std::vector<std::size_t>{1, 3});
  CHECK(same(e.bytes, f.w));
}

TEST_CASE("an engine that will not pause is not written to") {
  test_engine e(small_layout());  // outlives the receiver whose hooks it has
  fleet f;
  f.add(e.options());
  f.add();
  REQUIRE(f.seed());
  const auto before = f.w.clone();
  e.take();
  std::atomic<int> calls = 0, written = 0;

  SECTION("at its second call it pauses, and the same delta is applied") {
    e.on_pause = [&](std::uint64_t) {
      if (!same(e.bytes, before)) ++written;
      if (++calls == 1) throw std::runtime_error("a step is under way");
    };
    const auto report = f.sync(1);
    CHECK(report.result == sync_result::ok);
    CHECK(report.participants[0].reseeds == 0);
    CHECK(calls == 2);
    CHECK(e.take() == strings{"not", "pause:0", "pause:0", "apply:1", "resume:1", "ready:1"});
    CHECK(f.all_hold(f.w));
  }
  SECTION("if it never pauses, nothing is ever written and it is given up") {
    e.on_pause = [&](std::uint64_t) {
      ++calls;
      throw 42;  // not even an exception that has a name
    };
    const auto report = f.sync(1);
    CHECK(report.result == sync_result::degraded);
    CHECK(report.reason == errc::hook_failed);
    CHECK_FALSE(report.participants[0].member);
    CHECK(report.participants[0].reason == errc::hook_failed);
    CHECK(report.participants[1].member);
    CHECK(f.status(0).standing == "gave_up");
    CHECK(calls > 5);
    CHECK(same(e.bytes, before));
    CHECK_FALSE(f.rx[0]->state().ready);
    for (const auto& event : e.take()) CHECK((event == "not" || event == "pause:0"));
  }
  CHECK(written == 0);
}

TEST_CASE("an apply that fails once is healed by the same delta") {
  test_engine e(small_layout());  // outlives the receiver whose hooks it has
  fleet f;
  f.add(e.options());
  REQUIRE(f.seed());
  e.take();
  e.on_apply = [&, calls = 0](std::uint64_t) mutable {
    if (++calls == 1) throw std::runtime_error("out of device memory");
    if (f.rx[0]->state().ready) throw std::logic_error("ready while it is written to");
  };
  const auto report = f.sync(1);
  CHECK(report.result == sync_result::ok);
  CHECK(report.reseed_bytes == 0);
  CHECK(report.participants[0].reseeds == 0);
  CHECK(e.take() == strings{"not", "pause:0", "apply:1", "apply:1", "resume:1", "ready:1"});
  CHECK(f.all_hold(f.w));
}

TEST_CASE("an engine is not ready with bytes that its hook has not taken up") {
  // Every apply of the delta fails in the hook, after the bytes have been written: they are the
  // target's, and still it must not be adopted for that.
  test_engine e(small_layout());  // outlives the receiver whose hooks it has
  fleet f;
  f.add(e.options());
  REQUIRE(f.seed());
  e.take();
  const int failures = 1 + static_cast<int>(f.rt.options().sync.redo_max);
  std::atomic<int> calls = 0;
  e.on_apply = [&](std::uint64_t) {
    if (++calls <= failures) throw std::runtime_error("out of device memory");
  };
  const auto report = f.sync(1);
  CHECK(report.result == sync_result::recovered);
  CHECK(report.participants[0].reseeds == 1);
  CHECK(calls == failures + 1);
  CHECK(e.take() == strings{"not", "pause:0", "apply:1", "apply:1", "apply:1", "apply:1",
                            "resume:1", "ready:1"});
  CHECK(f.all_hold(f.w));
}

TEST_CASE("a hook that writes to the weights is caught by the proof") {
  test_engine e(small_layout());  // outlives the receiver whose hooks it has
  fleet f;
  f.add(e.options());
  REQUIRE(f.seed());
  std::atomic<int> lies = 0;
  e.on_apply = [&](std::uint64_t) {
    if (++lies == 1) e.bytes.tensor(0)[5] ^= std::byte{4};
  };
  f.w.tensor(3)[5] ^= std::byte{1};  // the delta does not cover what the hook spoils
  const auto report = f.t.sync(1, f.w).wait();
  CHECK(report.result == sync_result::recovered);
  CHECK(report.reason == errc::wrong_target);
  CHECK(report.participants[0].status == terminal::nack);
  CHECK(report.participants[0].reason == errc::wrong_target);
  CHECK(report.participants[0].reseeds == 1);
  CHECK(f.all_hold(f.w));
}

TEST_CASE("a resume hook that throws is only logged") {
  test_engine e(small_layout());  // outlives the receiver whose hooks it has
  fleet f;
  e.on_resume = [](std::uint64_t) { throw std::runtime_error("no"); };
  f.add(e.options());
  REQUIRE(f.seed());
  CHECK(f.sync(1).result == sync_result::ok);
  CHECK(f.all_hold(f.w));
}

TEST_CASE("pause and resume alternate over every fault, a restart included") {
  const auto kind = GENERATE(fault_kind::apply_fail, fault_kind::crash, fault_kind::false_ok);
  CAPTURE(to_string(kind));
  test_engine e(small_layout());  // outlives the receiver whose hooks it has
  fleet f;
  auto options = e.options();
  const auto plan = std::make_shared<fault_plan>(std::vector<fault>{{kind, 2, 0}});
  options.faults = plan;
  f.add(options);
  REQUIRE(f.seed());
  for (unsigned v = 1; v <= 3; ++v) REQUIRE(f.sync(v).complete());
  CHECK(plan->left().empty());
  bool paused = false;
  int times = 0;
  for (const auto& event : e.take()) {
    if (event.rfind("apply", 0) == 0) CHECK(paused);
    if (event.rfind("ready", 0) == 0) CHECK_FALSE(paused);
    if (event.rfind("pause", 0) != 0 && event.rfind("resume", 0) != 0) continue;
    CHECK(paused == (event[0] == 'r'));
    paused = event[0] == 'p';
    ++times;
  }
  CHECK_FALSE(paused);
  CHECK(times == 8);
}

TEST_CASE("whenever a receiver is ready, its bytes are those of a committed version") {
  // The reader looks only while the engine is not paused, as an engine would.
  constexpr unsigned versions = 24;
  fleet f;
  std::mutex gate;
  bool paused = true;
  std::map<std::uint64_t, weight_buffer> content;
  auto options = receiver_options{};
  options.hooks.pause = [&] {
    const std::lock_guard lock(gate);
    paused = true;
  };
  options.hooks.resume = [&](version_ref, std::uint64_t) {
    const std::lock_guard lock(gate);
    paused = false;
  };
  std::vector<fault> faults;
  constexpr fault_kind kinds[] = {fault_kind::apply_fail, fault_kind::crash,
                                  fault_kind::corrupt_frame, fault_kind::false_ok,
                                  fault_kind::stage_fail};
  for (unsigned v = 2; v < versions; v += 2) faults.push_back({kinds[v / 2 % 5], v, 0});
  const auto plan = std::make_shared<fault_plan>(faults);
  options.faults = plan;
  auto& r = f.add(options);
  f.add();
  content.emplace(0, f.w.clone());
  REQUIRE(f.seed());

  std::atomic<bool> stop = false;
  std::atomic<int> looked = 0;
  int ready_while_paused = 0, wrong = 0;
  std::thread reader([&] {
    while (!stop) {
      {
        const std::lock_guard lock(gate);
        const auto state = r.state();
        if (paused) {
          ready_while_paused += state.ready ? 1 : 0;
        } else if (state.ready) {
          const auto known = content.find(state.label);
          wrong += known == content.end() || !same(r, known->second) ? 1 : 0;
          ++looked;
        }
      }
      std::this_thread::yield();
    }
  });
  for (unsigned v = 1; v <= versions; ++v) {
    step(f.w, v);
    {
      const std::lock_guard lock(gate);
      content.emplace(v, f.w.clone());
    }
    const auto report = f.t.sync(v, f.w).wait();
    if (!report.complete()) UNSCOPED_INFO(v << ": " << report.detail);
    CHECK(report.complete());
    // A reader that the machine gives no time looks at nothing: each version waits for a look.
    const int before = looked;
    const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(10);
    while (looked == before && std::chrono::steady_clock::now() < until) std::this_thread::yield();
    CHECK(looked > before);
  }
  stop = true;
  reader.join();
  CHECK(plan->left().empty());
  CHECK(ready_while_paused == 0);
  CHECK(wrong == 0);
}
