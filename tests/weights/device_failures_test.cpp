// What becomes of weights in a device's memory whose device fails: of each allocation, each copy,
// a launch, and one that never answers. Nothing that was not proven is written, and what is left
// keeps nothing from succeeding later.
#include <catch2/catch.hpp>
#include <functional>

#include "tests/weights/there.hpp"

using namespace lockstep;

namespace {

struct failing {
  explicit failing(const transition& t, const layout& shape = small)
      : device(std::make_shared<emulated_device>()),
        there(device, t.base),
        m(shape, there.lent()) {}

  std::shared_ptr<emulated_device> device;
  weights_there there;
  device_memory m;
};

/// What comes of `work`, thrown or returned.
template <class Work>
std::string outcome(Work work) {
  try {
    return said(work());
  } catch (const std::bad_alloc&) {
    return "bad_alloc";
  } catch (const device_error& e) {
    return std::string("device_error: ") + e.what();
  }
}

/// Proves the delta with each call of a kind failing in turn, as `fail` has it, until none does:
/// each comes out as `reason`, nothing is written, and it can be tried again. Then writes it.
void each_fails_once(failing& f, const transition& t, void (emulated_device::*fail)(std::uint64_t),
                     const std::string& reason) {
  int failures = 0;
  for (std::uint64_t number = 1;; ++number) {
    REQUIRE(number < 1'000);
    (f.device.get()->*fail)(number);
    const auto what = outcome([&] { return prove(f.m, t); });
    (f.device.get()->*fail)(0);
    if (what == "ok") break;
    INFO("call " << number);
    CHECK(what == reason);
    CHECK(f.there.hold(t.base));
    CHECK(said(apply(f.m)) != "ok");
    f.m.forget();
    ++failures;
  }
  CHECK(failures > 5);
  CHECK(said(apply(f.m)) == "ok");
  CHECK(f.there.hold(t.target));
}

}  // namespace

TEST_CASE(
    "a device that has no memory for a stage is no reason to write, and it can be tried again") {
  for (const auto choice : choices) {
    const transition t(small, choice, 20, 600);
    failing f(t);
    const auto held = f.device->bytes_held();
    each_fails_once(f, t, &emulated_device::fail_allocation, "bad_alloc");
    f.m.forget();
    // All is given back but what is kept to be used again.
    CHECK(f.device->bytes_held() < held + 100'000);
    CHECK(f.device->bytes_kept() == 0);
    const auto after = f.device->bytes_held();
    f.there.set(t.base);
    for (int i = 0; i < 3; ++i) {
      CHECK(said(prove(f.m, t)) == "ok");
      f.m.forget();
      CHECK(f.device->bytes_held() == after);
    }
  }
}

TEST_CASE("a copy that a device does not make is no reason to write, and it can be tried again") {
  for (const auto choice : choices) {
    const transition t(small, choice, 20, 600);
    failing f(t);
    each_fails_once(f, t, &emulated_device::fail_copy,
                    "apply_failed: nothing was copied, on purpose");
  }
}

TEST_CASE("a write that a device ends in its middle is rolled back, and can be repeated") {
  for (const auto choice : choices) {
    const transition t(small, choice, 20, 600);
    failing f(t);
    REQUIRE(said(prove(f.m, t)) == "ok");
    int failures = 0;
    for (std::uint64_t number = 1;; ++number) {
      REQUIRE(number < 1'000);
      f.device->fail_apply(number);
      const auto what = said(apply(f.m));
      f.device->fail_apply(0);
      if (what == "ok") break;
      CHECK(what == "apply_failed: nothing was launched, on purpose; rolled back");
      CHECK(f.there.hold(t.base));
      ++failures;
    }
    CHECK(failures >= 2);
    CHECK(f.there.hold(t.target));
  }
}

TEST_CASE("a part of a delta on a device is torn, and the same or a redo makes it whole") {
  for (const auto choice : choices) {
    const transition t(small, choice, 20, 600);
    failing f(t);
    REQUIRE(said(prove(f.m, t)) == "ok");
    std::vector<std::size_t> touched;
    CHECK(said(f.m.apply_share(0.5, touched)) == "ok");
    CHECK_FALSE(f.there.hold(t.base));
    CHECK_FALSE(f.there.hold(t.target));
    if (choice == kernels::encoding_choice::raw) {
      f.m.forget();
      for (std::uint32_t i = 0; i < t.buckets.size(); ++i) f.m.keep(i, t.buckets[i]);
      CHECK(f.m.staged_bytes() > 0);
      CHECK(said(apply(f.m)) != "ok");  // not checked yet
      CHECK(said(f.m.check()) == "ok");
      CHECK(said(f.m.check()) == "ok");
    }
    CHECK(said(apply(f.m)) == "ok");
    CHECK(f.there.hold(t.target));
  }
}

TEST_CASE("a redo with frames that a base is needed for is refused by a device") {
  const transition t(small, kernels::encoding_choice::coded);
  failing f(t);
  for (std::uint32_t i = 0; i < t.buckets.size(); ++i) f.m.keep(i, t.buckets[i]);
  CHECK(said(f.m.check()).find("bad_encoding") != std::string::npos);
  CHECK(said(f.m.check()) != "ok");
  CHECK(said(apply(f.m)) != "ok");
  CHECK(f.there.hold(t.base));
}

TEST_CASE("what a device stages has a limit, also where a few bytes stand for many") {
  const transition t(small, kernels::encoding_choice::coded, 10);
  failing f(t);
  REQUIRE(said(prove(f.m, t)) == "ok");
  const auto needed = f.m.staged_bytes();
  std::uint64_t sent = 0;
  for (const auto& bucket : t.buckets) sent += bucket.size();
  CHECK(needed > sent);
  f.m.forget();
  CHECK(said(prove(f.m, t, needed)) == "ok");
  f.m.forget();
  CHECK(said(prove(f.m, t, needed - 1)) ==
        "bad_manifest: bucket 0, staged, it is larger than may be held");
  CHECK(f.m.staged_bytes() == 0);
  f.m.forget();
}

TEST_CASE("a device that never answers is lost after its patience, and given the undo alone") {
  const transition t(small, kernels::encoding_choice::coded);
  const auto device = std::make_shared<emulated_device>();
  weights_there there(device, t.base);
  auto lent = there.lent();
  lent.patience = 20ms;
  device_memory m(small, lent);
  REQUIRE(said(prove(m, t)) == "ok");
  device->hang(true);
  CHECK(said(apply(m)) ==
        "apply_failed: the device has not done its work for 20 ms; the undo stands behind it");
  const auto given = device->enqueued_on(there.engine()).writes;
  device->hang(false);
  CHECK(there.hold(t.base));  // when both have been done
  // It may go on at any time: what it was lent stays lent.
  const auto held = device->bytes_held();
  CHECK(said(apply(m)).find("did not answer before") != std::string::npos);
  CHECK_THROWS_AS(m.state(), device_error);
  m.forget();
  CHECK(device->bytes_held() == held);
  CHECK(device->enqueued_on(there.engine()).writes == given);
}

TEST_CASE("what a device copies late is not written where the caller's memory was") {
  const transition t(small, kernels::encoding_choice::raw);
  auto w = t.base.clone();
  const auto device = std::make_shared<emulated_device>();
  std::vector<std::span<std::byte>> memory;
  for (std::size_t i = 0; i < small.count(); ++i) memory.push_back(w.tensor(i));
  auto lent = lent_to(device, memory);
  lent.patience = 20ms;
  device_memory m(small, lent);
  std::vector<std::byte> out(t.base.tensor(0).size());
  device->hang(true);
  CHECK_THROWS_AS(m.read(0, out), device_error);
  // The emulated device has copied by now, as another one may at any time.
  CHECK(std::ranges::count(out, std::byte{0}) == std::ptrdiff_t(out.size()));
  device->hang(false);
}

TEST_CASE("what hangs in an engine's stream is waited for by the next receiver over its weights") {
  const transition t(small, kernels::encoding_choice::coded);
  const auto device = std::make_shared<emulated_device>();
  const weights_there there(device, t.base);
  auto lent = there.lent();
  lent.patience = 20ms;
  device_memory first(small, lent);
  REQUIRE(said(prove(first, t)) == "ok");
  device->hang(true);
  REQUIRE(said(apply(first)) != "ok");
  // While it hangs there is none: its weights may change at any time.
  try {
    device_memory second(small, lent);
    FAIL("taken");
  } catch (const error& e) {
    CHECK(e.code() == errc::bad_input);
    CHECK(e.what() == std::string("the device has not done its work for 20 ms"));
  }
  device->hang(false);
  device_memory third(small, lent);
  CHECK(third.state() == t.base_state);
  CHECK(said(prove(third, t)) == "ok");
}

TEST_CASE("what a device may still read is not freed, whatever became of the write") {
  for (const auto choice : choices) {
    const transition t(small, choice, 20, 600);
    const auto whole = full_cut(views_of(t.target), no_limit).make(0, views_of(t.target));
    std::vector<std::size_t> touched;
    const std::function<failure(device_memory&)> writes[] = {
        [&](auto& m) { return m.apply(touched); },
        [&](auto& m) { return m.apply_share(0.5, touched); },
        [&](auto& m) { return m.write(whole, touched); }};
    for (const auto& write : writes) {
      failing f(t);
      REQUIRE(said(prove(f.m, t)) == "ok");
      // Nobody can say when what was enqueued is done.
      f.device->deny_marks(f.there.engine());
      CHECK(said(write(f.m)).find("apply_failed: no mark was set") == 0);
      const auto held = f.device->bytes_held();
      f.m.forget();
      CHECK(f.device->bytes_held() == held);
      f.device->deny_marks(nullptr);
      CHECK(said(apply(f.m)).find("did not answer before") != std::string::npos);
      CHECK(f.device->bytes_held() == held);
    }
  }
}

TEST_CASE("a write that failed is waited for before what it reads is freed") {
  const transition t(small, kernels::encoding_choice::coded, 20, 600);
  failing f(t);
  const auto held = f.device->bytes_held();
  REQUIRE(said(prove(f.m, t)) == "ok");
  f.device->fail_apply(2);
  std::vector<std::size_t> touched;
  CHECK(said(f.m.apply_share(1, touched)) == "apply_failed: nothing was launched, on purpose");
  f.m.forget();
  CHECK(f.device->bytes_held() < held + 100'000);
  CHECK(said(prove(f.m, t)).substr(0, 10) == "wrong_base");
}

TEST_CASE("memory that is not a layout's, or not of its device, is refused") {
  const auto w = some_weights(small, 1);
  const auto device = std::make_shared<emulated_device>();
  const weights_there there(device, w);
  const auto code = [&](device_weights lent) {
    try {
      device_memory m(small, std::move(lent));
      return errc::none;
    } catch (const error& e) {
      return e.code();
    }
  };
  CHECK(code(there.lent()) == errc::none);
  auto lent = there.lent();
  lent.tensors.pop_back();
  CHECK(code(lent) == errc::wrong_layout);
  lent = there.lent();
  lent.tensors[0] = nullptr;
  CHECK(code(lent) == errc::wrong_layout);
  lent = there.lent();
  lent.tensors[2] = nullptr;  // which has no bytes
  CHECK(code(lent) == errc::none);
  auto here = some_weights(small, 2);
  lent.tensors[0] = here.tensor(0).data();
  CHECK(code(lent) == errc::bad_input);
  // Nor is a stream that nobody can wait for, or that of another device.
  device->deny_marks(there.engine());
  CHECK(code(there.lent()) == errc::bad_input);
  device->deny_marks(nullptr);
  emulated_device another;
  lent = there.lent();
  lent.stream = engine_stream(another);
  CHECK(code(lent) == errc::bad_input);
  device->fail_allocation(1);
  CHECK(code(there.lent()) == errc::no_memory);
  const auto held = device->bytes_held();
  device->fail_allocation(3);
  CHECK(code(there.lent()) == errc::no_memory);
  CHECK(device->bytes_held() == held);
}
