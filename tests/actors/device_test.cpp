// Receivers whose weights are in a device's memory, beside others, and what becomes of a fleet when
// a device fails. That all else is as on the host is shown by the other tests of this program,
// which run again on such receivers (LOCKSTEP_TEST_DEVICE).
#include <catch2/catch.hpp>

#include "actors/fleet.hpp"

using namespace lockstep;

namespace {

/// A receiver's options, and its device.
struct placed_there {
  std::shared_ptr<emulated_device> device = std::make_shared<emulated_device>();
  receiver_options options;

  explicit placed_there(const layout& shape) { options.device = made_on(device, shape); }
};

errc code_of(const fleet& f, receiver_options options) {
  options.id = 90;
  try {
    receiver r(const_cast<runtime&>(f.rt), f.w.shape(), std::move(options));
    return errc::none;
  } catch (const error& e) {
    return e.code();
  }
}

}  // namespace

TEST_CASE("receivers on devices and on the host are one fleet") {
  auto s = quiet();
  s.sync.encoding = GENERATE(delta_encoding::raw, delta_encoding::coded, delta_encoding::automatic);
  fleet f(s);
  placed_there first(f.w.shape()), second(f.w.shape());
  std::vector<std::string> told;
  first.options.hooks.pause = [&] { told.push_back("pause"); };
  first.options.hooks.apply = [&](version_ref, std::uint64_t, auto touched) {
    told.push_back("apply " + std::to_string(touched.size()));
  };
  first.options.hooks.resume = [&](version_ref, std::uint64_t) { told.push_back("resume"); };
  auto& r = f.add(first.options);
  f.add();
  f.add(second.options);
  REQUIRE(f.seed());
  CHECK(f.all_hold(f.w));
  for (unsigned label = 1; label <= 4; ++label) {
    CHECK(f.sync(label).result == sync_result::ok);
    CHECK(f.all_hold(f.w));
  }
  for (const auto& audit : f.t.audit()) CHECK(audit.pass);
  f.w.tensor(1)[3] ^= std::byte{1};
  CHECK(f.t.sync(5, f.w).wait().result == sync_result::ok);
  CHECK(told.size() == 18);
  CHECK(told[16] == "apply 1");
  CHECK(first.device->bytes_held() > f.w.shape().total_bytes());
  CHECK_THROWS_AS(r.tensor(0), error);
  CHECK(r.read(2).empty());
}

TEST_CASE("a receiver on a device that holds the weights is sent none of them") {
  fleet f;
  auto copy = f.w.clone();
  receiver_options options;
  options.device = lent_to(std::make_shared<emulated_device>(), memory_of(copy));
  f.add(std::move(options));
  REQUIRE(f.seed());
  CHECK(f.status(0).sent_bytes == 0);
  CHECK(f.all_hold(f.w));
}

TEST_CASE("a device that fails once costs one sync more, whatever it fails in") {
  const auto number = GENERATE(range(1u, 30u));
  const bool copies = GENERATE(false, true);
  CAPTURE(number, copies);
  fleet f;
  placed_there p(f.w.shape());
  f.add(p.options);
  f.add();
  REQUIRE(f.seed());
  REQUIRE(f.sync(1).result == sync_result::ok);
  if (copies)
    p.device->fail_copy(number);
  else
    p.device->fail_allocation(number);
  const auto report = f.sync(2);
  CAPTURE(report.result, report.detail);
  CHECK(report.complete());
  const auto& p0 = report.participants[0];
  if (number < 5) {  // while it stages
    CHECK(p0.status == terminal::no);
    CHECK(p0.reason == (copies ? errc::apply_failed : errc::no_memory));
    CHECK(p0.catch_ups == 1);
  }
  CHECK(report.participants[1].status == terminal::ok);
  p.device->fail_copy(0);
  p.device->fail_allocation(0);
  CHECK(f.all_hold(f.w));
  CHECK(f.sync(3).result == sync_result::ok);
  CHECK(f.all_hold(f.w));
}

TEST_CASE("a write that a device ends in its middle is rolled back before anything else") {
  fleet f;
  auto lent = f.w.clone();
  const auto device = std::make_shared<emulated_device>();
  receiver_options options;
  options.device = lent_to(device, memory_of(lent));
  int pauses = 0;
  bool rolled_back = false;
  auto before = f.w.clone();
  options.hooks.pause = [&] {
    // The second is that of the redo.
    if (++pauses == 2) rolled_back = same(lent, before);
  };
  options.hooks.resume = [&](version_ref, std::uint64_t) { pauses = 0; };
  f.add(std::move(options));
  f.add();
  REQUIRE(f.seed());
  REQUIRE(f.sync(1).result == sync_result::ok);
  before.copy_from(f.w);
  pauses = 1;  // it is the first time that a write of sync 2 stops the engine
  device->fail_apply(1);
  pauses = 1;
  const auto report = f.sync(2);
  CHECK(report.result == sync_result::ok);
  CHECK(report.participants[0].redos == 1);
  CHECK(report.participants[0].reseeds == 0);
  CHECK(rolled_back);
  CHECK(f.all_hold(f.w));
}

TEST_CASE("a device that never answers is given up, and the rest of the fleet goes on") {
  auto s = quiet();
  s.supervision.attempts_max = 2;
  fleet f(s);
  placed_there p(f.w.shape());
  p.options.device.patience = 50ms;
  f.add(p.options);
  auto& other = f.add();
  REQUIRE(f.seed());
  REQUIRE(f.sync(1).result == sync_result::ok);
  p.device->hang(true);
  const auto report = f.sync(2);
  CHECK(report.result == sync_result::degraded);
  CHECK_FALSE(report.participants[0].member);
  CHECK(report.participants[1].member);
  CHECK_FALSE(f.rx[0]->state().ready);
  CHECK(f.wait_standing(0, "gave_up"));
  CHECK(f.sync(3).result == sync_result::ok);
  CHECK(same(other, f.w));
  CHECK_THROWS_AS(f.rx[0]->read(0), error);
  f.rx[0]->detach();
}

TEST_CASE("memory of a device that cannot be is refused") {
  fleet f;
  placed_there p(f.w.shape());
  CHECK(code_of(f, p.options) == errc::none);
  auto both = p.options;
  auto here = f.w.clone();
  both.memory = memory_of(here);
  CHECK(code_of(f, both) == errc::wrong_layout);
  auto nowhere = p.options;
  nowhere.device.device = nullptr;
  CHECK(code_of(f, nowhere) == errc::bad_input);
  auto of_the_host = p.options;
  of_the_host.device.tensors[0] = here.tensor(0).data();
  CHECK(code_of(f, of_the_host) == errc::bad_input);
  auto less = p.options;
  less.device.tensors.pop_back();
  CHECK(code_of(f, less) == errc::wrong_layout);
  p.device->fail_allocation(2);
  CHECK(code_of(f, p.options) == errc::no_memory);
}
