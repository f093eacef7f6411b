// Who is in the view, who is let in, who is put out, and what the report says of it.
#include <atomic>
#include <catch2/catch.hpp>
#include <future>
#include <optional>

#include "actors/fleet.hpp"
#include "actors/runtime_parts.hpp"
#include "tests/sim/simulation.hpp"

using namespace lockstep;

namespace {

receiver_options over(weight_buffer& memory, receiver_id id = 0) {
  receiver_options out;
  out.id = id;
  out.memory = memory_of(memory);
  return out;
}

receiver_options with_faults(std::vector<fault> faults) {
  receiver_options out;
  out.faults = std::make_shared<fault_plan>(std::move(faults));
  return out;
}

/// Fails the apply hook whenever the label is at least `from`.
receiver_options failing(std::uint64_t from) {
  receiver_options out;
  out.hooks.apply = [from](version_ref, std::uint64_t label, auto) {
    if (label >= from) throw std::runtime_error("the device is broken");
  };
  return out;
}

}  // namespace

TEST_CASE("a late receiver is seeded, one that holds the bytes is adopted without a transfer") {
  fleet f;
  f.add();
  REQUIRE(f.seed());
  REQUIRE(f.sync(1).result == sync_result::ok);

  auto& late = f.add();
  REQUIRE(f.t.wait_for_members(2, 10s));
  CHECK(same(late, f.w));
  CHECK(late.state().label == 1);
  CHECK(f.status(1).reseeds == 1);

  auto memory = f.w.clone();
  auto options = over(memory, 2);
  bool written = false;
  options.hooks.pause = [&] { written = true; };
  auto& holder = f.add(options);
  REQUIRE(f.t.wait_for_members(3, 10s));
  CHECK(f.status(2).reseeds == 0);
  CHECK_FALSE(written);
  CHECK(holder.state().ready);
  CHECK(holder.state().label == 1);

  const auto report = f.sync(2);
  CHECK(report.result == sync_result::ok);
  CHECK(report.participants.size() == 3);
  CHECK(report.reseed_bytes == 0);
  CHECK(f.all_hold(f.w));
  CHECK(same(memory, f.w));
}

TEST_CASE("a receiver writes the caller's memory, and refuses memory of another size") {
  fleet f;
  weight_buffer memory(f.w.shape());
  auto& r = f.add(over(memory, 4));
  if (!on_device()) CHECK(r.tensor(0).data() == memory.tensor(0).data());
  CHECK(r.name() == "receiver-4");
  REQUIRE(f.seed());
  CHECK(same(memory, f.w));

  const auto refused = [&](receiver_options options) -> std::optional<errc> {
    try {
      receiver(f.rt, f.w.shape(), std::move(options));
    } catch (const error& e) {
      UNSCOPED_INFO(e.what());
      return e.code();
    }
    return std::nullopt;
  };
  weight_buffer other(f.w.shape());
  auto short_by_one = over(other, 5);
  short_by_one.memory[3] = short_by_one.memory[3].first(999);
  CHECK(refused(short_by_one) == errc::wrong_layout);
  auto one_missing = over(other, 5);
  one_missing.memory.pop_back();
  CHECK(refused(one_missing) == errc::wrong_layout);
  CHECK(refused(over(other, 4)) == errc::bad_input);  // the id is taken
  CHECK_FALSE(refused(over(other, 5)));
  CHECK_FALSE(refused(over(other, 5)));  // and free again
}

TEST_CASE("nobody writes to a receiver that has detached, and it can come back") {
  fleet f;
  weight_buffer memory(f.w.shape());
  auto& r = f.add(over(memory, 1));
  f.add(receiver_options{2, "", {}, {}, nullptr});
  REQUIRE(f.seed());
  r.detach();
  r.detach();
  CHECK_FALSE(r.state().ready);
  CHECK(r.state().reason == errc::detached);
  CHECK(f.status(1).standing == "detached");
  const auto before = memory.clone();
  const auto report = f.sync(1);
  CHECK(report.result == sync_result::ok);
  CHECK(report.participants.size() == 1);
  CHECK(same(memory, before));
  CHECK_FALSE(r.state().ready);

  receiver again(f.rt, f.w.shape(), placed(over(memory, 1), f.w.shape()));
  REQUIRE(f.t.wait_for_members(2, 10s));
  CHECK(same(memory, f.w));
  CHECK(again.state().ready);
  CHECK(f.sync(2).participants.size() == 2);
  CHECK(same(memory, f.w));
}

TEST_CASE("a receiver that leaves while a sync is under way does not hold it up") {
  fleet f;
  std::promise<void> applying;
  std::atomic<bool> first = true;
  receiver_options options;
  options.hooks.apply = [&](version_ref, std::uint64_t label, auto) {
    if (label == 1 && first.exchange(false)) {
      applying.set_value();
      std::this_thread::sleep_for(30ms);
      throw std::runtime_error("not now");
    }
  };
  auto& leaving = f.add(options);
  f.add();
  REQUIRE(f.seed());
  step(f.w, 1);
  const auto under_way = f.t.sync(1, f.w);
  applying.get_future().wait();
  leaving.detach();
  const auto report = under_way.wait();
  CHECK(report.total < 10s);
  CHECK(report.result == sync_result::degraded);
  CHECK_FALSE(report.participants.at(0).member);
  CHECK(report.participants.at(1).member);
  CHECK(same(*f.rx[1], f.w));
  CHECK_FALSE(leaving.state().ready);
}

TEST_CASE("a receiver does not let go of memory that is being written") {
  fleet f;
  f.rt.inside().detach_patience = 20ms;
  std::atomic<bool> writing = false;
  std::promise<void> entered;
  receiver_options options;
  options.hooks.apply = [&](version_ref, std::uint64_t label, auto) {
    if (label != 1) return;
    writing = true;
    entered.set_value();
    std::this_thread::sleep_for(200ms);
    writing = false;
  };
  auto& slow = f.add(options);
  REQUIRE(f.seed());
  step(f.w, 1);
  const auto under_way = f.t.sync(1, f.w);
  entered.get_future().wait();
  CHECK_THROWS_AS(slow.detach(), error);
  CHECK_THROWS_AS(slow.detach(), error);  // and not as if it had
  f.rx.clear();
  CHECK_FALSE(writing);
  under_way.wait();
}

TEST_CASE("waiting for ever is not waiting for nothing") {
  fleet f;
  auto& r = f.add();
  std::thread seeding([&] {
    std::this_thread::sleep_for(50ms);
    f.t.seed(f.w, 3);
  });
  CHECK(r.wait_ready(3, std::chrono::milliseconds::max()));
  seeding.join();
  CHECK(f.t.wait_for_members(1, std::chrono::milliseconds::max()));
  step(f.w, 4);
  CHECK(f.t.sync(4, f.w).wait_for(std::chrono::milliseconds::max()));
  CHECK_FALSE(r.wait_ready(9, std::chrono::milliseconds::min()));
}

TEST_CASE("tensors are not read after the trainer has stopped waiting for it") {
  SECTION("it has not begun: it never will") {
    ticket_state late(0ms);
    CHECK_FALSE(late.wait_read(1ms));
    CHECK_FALSE(late.begin_reading());
  }
  SECTION("it has begun: it is waited for") {
    ticket_state slow(0ms);
    REQUIRE(slow.begin_reading());
    std::atomic<bool> read = false;
    std::thread reader([&] {
      std::this_thread::sleep_for(50ms);
      read = true;
      slow.tensors_read();
    });
    CHECK(slow.wait_read(1ms));
    CHECK(read);
    reader.join();
  }
  SECTION("the sender asks") {
    simulation sim(1, quiet());
    const auto w = random_weights(small_layout(), 1);
    sim.boot(w);
    const auto given_up = std::make_shared<ticket_state>(0ms);
    CHECK_FALSE(given_up->wait_read(1ms));
    bool touched = false;
    const tensor_reader gone = [&](std::size_t i) {
      touched = true;
      return w.tensor(i);
    };
    const auto report = sim.wait(sim.sync(1, gone, given_up), 10s);
    REQUIRE(report);
    CHECK(report->reason == errc::timeout);
    CHECK_FALSE(touched);
  }
}

TEST_CASE("a tensor of another size than the layout's aborts the sync and names it") {
  fleet f;
  f.add();
  REQUIRE(f.seed());
  const auto before = f.w.clone();
  const auto wrong = [&](std::size_t i) {
    return i == 3 ? f.w.tensor(i).first(999) : std::span<const std::byte>(f.w.tensor(i));
  };
  const auto report = f.t.sync(1, tensor_reader(wrong)).wait();
  CHECK(report.result == sync_result::aborted);
  CHECK(report.reason == errc::wrong_layout);
  CHECK(report.detail.find("'d'") != std::string::npos);
  CHECK(report.label == 1);
  CHECK(report.target == report.base);
  CHECK(f.all_hold(before));

  const auto throwing = [](std::size_t) -> std::span<const std::byte> {
    throw std::runtime_error("no such tensor");
  };
  const auto thrown = f.t.sync(2, tensor_reader(throwing)).wait();
  CHECK(thrown.result == sync_result::aborted);
  CHECK(thrown.detail == "no such tensor");

  CHECK(f.sync(3).result == sync_result::ok);
  CHECK(f.all_hold(f.w));
  try {
    f.t.seed(tensor_reader(wrong));
    FAIL("seeded");
  } catch (const error& e) {
    CHECK(e.code() == errc::wrong_layout);
    CHECK(std::string(e.what()).find("'d'") != std::string::npos);
  }
}

TEST_CASE("a receiver of another layout is never admitted") {
  auto s = quiet();
  s.supervision.attempts_max = 2;
  fleet f(s);
  f.add();
  receiver stranger(f.rt, layout({{"a", dtype::bf16, {64, 64}}}), {9, "", {}, {}, nullptr});
  REQUIRE(f.seed());
  REQUIRE(f.wait_standing(9, "gave_up"));
  CHECK(f.status(9).reason == errc::wrong_layout);
  CHECK_FALSE(stranger.state().ready);
  const auto report = f.sync(1);
  CHECK(report.result == sync_result::ok);
  CHECK(report.participants.size() == 1);
  for (const auto b : stranger.tensor(0)) REQUIRE(b == std::byte{0});
}

TEST_CASE("too few members abort a sync") {
  auto s = quiet();
  s.sync.members_min = 2;
  fleet f(s);
  SECTION("before anything has been seeded there is no trainer's side") {
    const auto report = f.sync(1);
    CHECK(report.result == sync_result::aborted);
    CHECK(report.reason == errc::shut_down);
    CHECK(report.label == 1);
  }
  SECTION("no receiver at all") {
    f.t.seed(f.w);
    const auto report = f.sync(1);
    CHECK(report.result == sync_result::aborted);
    CHECK(report.reason == errc::too_few_members);
    CHECK(report.participants.empty());
  }
  SECTION("one where two are needed, then two") {
    f.add();
    REQUIRE(f.seed());
    const auto before = f.w.clone();
    const auto report = f.sync(1);
    CHECK(report.result == sync_result::aborted);
    CHECK(report.reason == errc::too_few_members);
    CHECK(report.participants.at(0).status == terminal::aborted);
    CHECK(report.participants.at(0).member);
    CHECK(f.all_hold(before));
    f.add();
    REQUIRE(f.t.wait_for_members(2, 10s));
    CHECK(f.sync(2).result == sync_result::ok);
    CHECK(f.all_hold(f.w));
  }
}

TEST_CASE("refusals of many for one reason abort, and nobody is evicted") {
  fleet f;
  f.add(with_faults({{fault_kind::stage_fail, 1, 0}}));
  f.add(with_faults({{fault_kind::stage_fail, 1, 1}}));
  f.add();
  REQUIRE(f.seed());
  const auto before = f.w.clone();
  const auto report = f.sync(1);
  CHECK(report.result == sync_result::aborted);
  CHECK(report.reason == errc::correlated_failure);
  CHECK(report.participants.at(0).status == terminal::no);
  CHECK(report.participants.at(1).status == terminal::no);
  CHECK(report.participants.at(2).status == terminal::aborted);
  for (const auto& p : report.participants) CHECK(p.member);
  CHECK(f.all_hold(before));
  for (const auto& s : f.t.receivers()) {
    CHECK(s.member);
    CHECK(s.reseeds == 1);
  }
  CHECK(f.t.sync(1, f.w).wait().result == sync_result::ok);
  CHECK(f.all_hold(f.w));
}

TEST_CASE("a receiver that always fails is given up, and the report names it") {
  auto s = quiet();
  s.supervision.attempts_max = 3;
  fleet f(s);
  f.add();
  auto options = failing(1);
  options.name = "broken";
  f.add(options);
  REQUIRE(f.seed());
  const auto report = f.sync(1);
  CHECK(report.result == sync_result::degraded);
  CHECK_FALSE(report.complete());
  const auto& out = report.participants.at(1);
  CHECK(out.name == "broken");
  CHECK(out.status == terminal::nack);
  CHECK(out.reason == errc::apply_failed);
  CHECK(out.detail == "the device is broken");
  CHECK_FALSE(out.member);
  CHECK(out.version == version_ref{});
  CHECK(report.participants.at(0).status == terminal::ok);
  CHECK(report.participants.at(0).version == report.target);
  CHECK(f.status(1).standing == "gave_up");
  CHECK_FALSE(f.rx[1]->state().ready);
  // The others go on without it.
  const auto next = f.sync(2);
  CHECK(next.result == sync_result::ok);
  CHECK(next.participants.size() == 1);
  CHECK(same(*f.rx[0], f.w));
  CHECK_FALSE(f.rx[1]->state().ready);
}

TEST_CASE("a receiver that ends too often is given up") {
  auto s = quiet();
  s.supervision.restart_max = 0;
  fleet f(s);
  f.add();
  f.add(with_faults({{fault_kind::crash, 1, 1}}));
  REQUIRE(f.seed());
  const auto report = f.sync(1);
  CHECK(report.result == sync_result::degraded);
  CHECK(report.recover < 10s);  // nobody waits for what will not come
  CHECK(report.participants.at(1).status == terminal::dead);
  CHECK(f.status(1).standing == "gave_up");
  CHECK(f.status(1).restarts == 0);
  CHECK_FALSE(f.rx[1]->state().ready);
  CHECK(f.rx[1]->state().reason == errc::dead);
  // And can still leave.
  f.rx[1]->detach();
  CHECK(f.rx[1]->state().reason == errc::detached);
}

TEST_CASE("one failure reseeds one receiver, or all where the settings say so") {
  const auto scope = GENERATE(reseed_scope::failed, reseed_scope::all);
  auto s = quiet();
  s.sync.reseed = scope;
  fleet f(s);
  f.add(with_faults({{fault_kind::apply_fail, 1, 0}}));
  f.add();
  f.add();
  REQUIRE(f.seed());
  const auto report = f.sync(1);
  CHECK(report.result == sync_result::recovered);
  const bool all = scope == reseed_scope::all;
  CHECK(report.participants.at(0).reseeds == 1);
  CHECK(report.participants.at(1).reseeds == (all ? 1 : 0));
  CHECK(report.participants.at(2).reseeds == (all ? 1 : 0));
  CHECK(report.reseed_bytes > report.full_bytes * (all ? 3 : 1));
  CHECK(report.reseed_bytes < report.full_bytes * (all ? 4 : 2));
  CHECK(f.all_hold(f.w));
}

TEST_CASE("memory that rots between syncs is noticed, and never ready after that") {
  const auto receivers = GENERATE(1u, 3u);
  fleet f;
  weight_buffer memory(f.w.shape());
  auto committed = f.w.clone();
  std::atomic<bool> rotten = false, served = false;
  auto options = over(memory);
  options.hooks.readiness_changed = [&](const readiness& state) {
    // Called by the actor that writes the memory, between its writes.
    if (rotten && state.ready && !same(memory, state.label == 2 ? f.w : committed)) served = true;
  };
  f.add(options);
  while (f.rx.size() < receivers) f.add();
  REQUIRE(f.seed());
  // With so little to change, the delta does not happen to repair the damage.
  const auto change = [&](unsigned label) {
    f.w.tensor(3)[label] ^= std::byte{1};
    return f.t.sync(label, f.w).wait();
  };
  REQUIRE(change(1).result == sync_result::ok);
  committed.copy_from(f.w);
  memory.tensor(0)[77] ^= std::byte{1};
  rotten = true;
  auto report = change(2);
  CHECK(report.participants.at(0).status == terminal::no);
  CHECK(report.participants.at(0).reason == errc::wrong_base);
  if (receivers == 1) {
    CHECK(report.result == sync_result::aborted);
    CHECK(f.t.wait_for_members(1, 10s));
    report = f.t.sync(2, f.w).wait();
    CHECK(report.result == sync_result::ok);
  } else {
    CHECK(report.result == sync_result::recovered);
    CHECK(report.participants.at(0).reseeds == 1);
  }
  CHECK(f.status(0).reseeds == 2);
  CHECK_FALSE(served);
  CHECK(f.all_hold(f.w));
}

TEST_CASE("weights that rot while nobody syncs are found out, and given anew") {
  const auto every = GENERATE(50u, 0u);
  auto s = quiet();
  s.receiver.scrub_ms = every;
  fleet f(s);
  weight_buffer memory(f.w.shape());
  std::atomic<bool> rotten = false, torn = false, served = false;
  auto options = over(memory);
  options.hooks.readiness_changed = [&](const readiness& state) {
    // Called by the actor that reads and writes the memory, between the two.
    if (state.reason == errc::torn) torn = true;
    if (rotten && state.ready && !same(memory, f.w)) served = true;
    if (!state.ready || state.label != 1 || rotten.exchange(true)) return;
    memory.tensor(0)[77] ^= std::byte{1};
  };
  f.add(options);
  f.add();
  REQUIRE(f.seed());
  REQUIRE(f.sync(1).result == sync_result::ok);
  const auto mended = [&] { return f.status(0).reseeds == 2; };
  const auto until = std::chrono::steady_clock::now() + (every == 0 ? 300ms : 10s);
  while (!mended() && std::chrono::steady_clock::now() < until) std::this_thread::sleep_for(5ms);
  REQUIRE(rotten);
  CHECK(mended() == (every != 0));
  CHECK(torn == (every != 0));
  CHECK(same(memory, f.w) == (every != 0));
  CHECK_FALSE(served);
  // Whose weights are sound is left alone.
  CHECK(f.status(1).reseeds == 1);
  CHECK(f.status(1).restarts == 0);
}

TEST_CASE("seeding again starts another run, which adopts who holds the bytes") {
  fleet f;
  f.add();
  f.add();
  const auto first = f.t.seed(f.w, 5);
  REQUIRE(f.t.wait_for_members(2, 10s));
  REQUIRE(f.sync(6).result == sync_result::ok);
  const auto second = f.t.seed(f.w, 6);
  CHECK(second.run > first.run);
  CHECK(second.number == 0);
  REQUIRE(f.t.wait_for_members(2, 10s));
  for (const auto& s : f.t.receivers()) {
    CHECK(s.reseeds == 1);
    CHECK(s.state.version == second);
  }
  step(f.w, 100);
  const auto third = f.t.seed(f.w, 0);
  CHECK(third.run > second.run);
  REQUIRE(f.t.wait_for_members(2, 10s));
  for (const auto& s : f.t.receivers()) CHECK(s.reseeds == 2);
  CHECK(f.all_hold(f.w));
  CHECK(f.sync(1).result == sync_result::ok);
  CHECK(f.all_hold(f.w));
}

TEST_CASE("two runtimes of one process do not mix") {
  fleet a;
  fleet b;
  step(b.w, 9);
  a.add();
  b.add();
  b.add();
  REQUIRE(a.seed());
  REQUIRE(b.seed());
  for (unsigned v = 1; v <= 5; ++v) {
    CHECK(a.sync(v).participants.size() == 1);
    step(b.w, 50 + v);
    CHECK(b.sync(v).participants.size() == 2);
    CHECK(a.all_hold(a.w));
    CHECK(b.all_hold(b.w));
  }
}

TEST_CASE("a sync returns once the tensors are read, and waits for the one before") {
  fleet f;
  std::promise<void> let_go;
  auto gone = let_go.get_future().share();
  receiver_options options;
  options.hooks.apply = [gone](version_ref, std::uint64_t label, auto) {
    if (label == 1) gone.wait();
  };
  f.add(options);
  REQUIRE(f.seed());
  step(f.w, 1);
  const auto target = f.w.clone();
  const auto first = f.t.sync(1, f.w);
  for (std::size_t i = 0; i < f.w.shape().count(); ++i)
    for (auto& b : f.w.tensor(i)) b = std::byte{0xee};
  CHECK_FALSE(first.done());
  CHECK_FALSE(first.wait_for(20ms));
  std::thread later([&] {
    std::this_thread::sleep_for(50ms);
    let_go.set_value();
  });
  const auto second = f.t.sync(2, f.w);
  CHECK(first.done());
  later.join();
  CHECK(first.wait().result == sync_result::ok);
  CHECK(first.wait().label == 1);
  CHECK(second.wait().base == first.wait().target);
  CHECK(second.wait().result == sync_result::ok);
  CHECK(f.all_hold(f.w));
  CHECK_FALSE(same(*f.rx[0], target));

  // What was changed right after sync() had returned did not get into that version.
  f.w.copy_from(target);
  const auto third = f.t.sync(3, f.w);
  for (std::size_t i = 0; i < f.w.shape().count(); ++i)
    for (auto& b : f.w.tensor(i)) b = std::byte{0x11};
  CHECK(third.wait().result == sync_result::ok);
  CHECK(same(*f.rx[0], target));
}

TEST_CASE("the next sync does not wait for who failed in the one before") {
  auto s = quiet();
  s.supervision.attempts_max = 1000;
  s.supervision.backoff_ms = s.supervision.backoff_ms_max = 20;
  s.sync.recovery_timeout_ms = 600'000;
  fleet f(s);
  f.add();
  f.add(failing(1));
  REQUIRE(f.seed());
  step(f.w, 1);
  const auto began = std::chrono::steady_clock::now();
  const auto first = f.t.sync(1, f.w);
  CHECK_FALSE(first.wait_for(300ms));  // it is tried again and again
  step(f.w, 2);
  const auto second = f.t.sync(2, f.w);
  REQUIRE(first.done());
  const auto r = first.wait();
  CHECK(r.result == sync_result::degraded);
  CHECK(r.participants.at(0).member);
  CHECK_FALSE(r.participants.at(1).member);
  CHECK(r.participants.at(1).reason == errc::apply_failed);
  CHECK(second.wait().result == sync_result::ok);
  CHECK(std::chrono::steady_clock::now() - began < 60s);
  CHECK(same(*f.rx[0], f.w));
}

TEST_CASE("three hundred syncs with eight receivers") {
  fleet f;
  for (unsigned i = 0; i < 8; ++i) f.add();
  REQUIRE(f.seed());
  for (unsigned v = 1; v <= 300; ++v) {
    step(f.w, v);
    const auto report = f.t.sync(v, f.w).wait();
    REQUIRE(report.result == sync_result::ok);
    REQUIRE(report.participants.size() == 8);
    REQUIRE(f.all_hold(f.w));
  }
}

TEST_CASE("a runtime has one trainer, and receivers hear when it is gone") {
  auto s = quiet();
  s.receiver.lease_ms = 200;
  s.receiver.ping_ms = 20;
  runtime rt(s);
  const auto w = random_weights(small_layout(), 1);
  receiver r(rt, small_layout(), {0, "", {}, {}, nullptr});
  {
    trainer t(rt, small_layout());
    CHECK_THROWS_AS(trainer(rt, small_layout()), error);
    t.seed(w);
    REQUIRE(t.wait_for_members(1, 10s));
    std::this_thread::sleep_for(400ms);
    CHECK(r.state().ready);  // the lease is renewed
  }
  const auto until = std::chrono::steady_clock::now() + 10s;
  while (r.state().ready && std::chrono::steady_clock::now() < until)
    std::this_thread::sleep_for(5ms);
  CHECK(r.state().reason == errc::lease_expired);
  // The next trainer finds the bytes where they are.
  trainer again(rt, small_layout());
  again.seed(w);
  REQUIRE(again.wait_for_members(1, 10s));
  CHECK(r.state().ready);
  CHECK(again.receivers().at(0).reseeds == 1);
}

TEST_CASE("everything ends in time, in whatever order and whatever is under way") {
  const auto order = GENERATE(range(0, 5));
  CAPTURE(order);
  const auto started = std::chrono::steady_clock::now();
  {
    std::optional<ticket> under_way;
    auto rt = std::make_unique<runtime>(quiet());
    auto w = random_weights(small_layout(), 1);
    auto t = std::make_unique<trainer>(*rt, small_layout());
    std::vector<std::unique_ptr<receiver>> rx;
    for (unsigned i = 0; i < 3; ++i)
      rx.push_back(std::make_unique<receiver>(*rt, small_layout(),
                                              receiver_options{i, "", {}, {}, nullptr}));
    if (order != 0) t->seed(w);
    if (order >= 2) {
      REQUIRE(t->wait_for_members(3, 10s));
      step(w, 1);
      under_way = t->sync(1, w);
    }
    if (order == 3) t.reset();  // the trainer first, or the receivers while it syncs
    rx.erase(rx.begin());
    if (order == 4) rx.clear();
    t.reset();
    rx.clear();
    rt.reset();
    // The ticket outlives them all, and has its report.
    if (under_way) CHECK(under_way->wait_for(5s));
  }
  CHECK(std::chrono::steady_clock::now() - started < 10s);
}
