// A trainer of several processes, each with its part of the model.
#include <caf/send.hpp>
#include <catch2/catch.hpp>
#include <future>

#include "actors/ranked_fleet.hpp"
#include "actors/runtime_parts.hpp"
#include "weights/row_split.hpp"

using namespace lockstep;

TEST_CASE("every rank ships its part, and one version commits for all") {
  ranked_fleet f;
  f.add(1);
  f.add(2);
  REQUIRE(f.seed());
  REQUIRE(f.t[0]->wait_for_members(2, 20s));
  CHECK(f.all_hold());
  for (unsigned label = 1; label <= 5; ++label) {
    const auto report = f.sync(label);
    CHECK(report.result == sync_result::ok);
    CHECK(report.full_bytes == f.w.shape().total_bytes());
    CHECK(report.participants.size() == 2);
    CHECK(f.all_hold());
    CHECK(f.rx[0]->state().label == label);
  }
  const auto audits = f.t[0]->audit();
  REQUIRE(audits.size() == 2);
  CHECK(audits[0].pass);
  CHECK(audits[1].pass);
}

TEST_CASE("with several ranks too a failed apply is sent again, and a crash is reseeded") {
  ranked_fleet f;
  receiver_options o;
  const auto at = [](fault_kind kind, std::uint64_t label) {
    fault out;
    out.kind = kind;
    out.label = label;
    out.receiver = 1;
    return out;
  };
  o.faults = std::make_shared<fault_plan>(
      std::vector<fault>{at(fault_kind::apply_fail, 1), at(fault_kind::crash, 2),
                         at(fault_kind::corrupt_frame, 3), at(fault_kind::stage_fail, 4)});
  f.add(1, std::move(o));
  f.add(2);
  REQUIRE(f.seed());
  REQUIRE(f.t[0]->wait_for_members(2, 20s));
  for (unsigned label = 1; label <= 5; ++label) {
    INFO(label);
    const auto report = f.sync(label);
    CHECK(report.complete());
    CHECK(f.all_hold());
  }
  CHECK(f.t[0]->receivers()[0].reseeds >= 1);
}

TEST_CASE("every rank sends its part of what was missed, or of all weights if one has forgotten") {
  const bool forgets = GENERATE(false, true);
  ranked_fleet f;
  if (forgets) f.start(2, 0);
  f.add(1);
  REQUIRE(f.seed());
  REQUIRE(f.t[0]->wait_for_members(1, 20s));
  auto memory = f.w.clone();
  for (unsigned label = 1; label <= 3; ++label) REQUIRE(f.sync(label).complete());
  receiver_options late;
  late.memory = memory_of(memory);
  f.add(2, std::move(late));
  REQUIRE(f.t[0]->wait_for_members(2, 20s));
  CHECK(f.all_hold());
  const auto status = f.t[0]->receivers()[1];
  CHECK(status.catch_ups == (forgets ? 0 : 1));
  CHECK(status.reseeds == (forgets ? 1 : 0));
  CHECK(f.sync(4).result == sync_result::ok);
  CHECK(f.all_hold());
}

TEST_CASE("what the snapshot of a run that is over says late is nothing to the next run") {
  const auto said = GENERATE(errc::none, errc::fenced);
  CAPTURE(said);
  ranked_fleet f;
  f.add(1);
  REQUIRE(f.seed());
  REQUIRE(f.t[0]->wait_for_members(1, 20s));
  const auto first = f.sync(1);
  REQUIRE(first.result == sync_result::ok);
  REQUIRE(f.seed(1));
  REQUIRE(f.t[0]->wait_for_members(1, 20s));
  const auto rank = caf::actor_cast<caf::actor>(f.rt[1]->inside().supervisor);
  const txn_ref late{first.target.run, first.target.number + 1};
  caf::anon_send(rank, advance_result{late, said, "late"});
  CHECK(f.sync(2).result == sync_result::ok);
  CHECK(f.all_hold());
}

TEST_CASE("a rank that is lost ends the run, and all seed again") {
  ranked_fleet f;
  f.add(1);
  REQUIRE(f.seed());
  REQUIRE(f.t[0]->wait_for_members(1, 20s));
  REQUIRE(f.sync(1).result == sync_result::ok);

  const auto port = f.rt[2]->port();
  f.t[2].reset();
  f.rt[2].reset();
  const auto lost = f.t[0]->sync(2, f.w).wait();
  CHECK(lost.result != sync_result::ok);
  CHECK_FALSE(f.t[0]->is_running());
  // On its old port, where its receivers look for it.
  auto s = of_rank(2, f.rt[0]->port());
  s.transport.listen = "127.0.0.1:" + std::to_string(port);
  f.rt[2] = std::make_unique<runtime>(s);
  f.t[2] = std::make_unique<trainer>(*f.rt[2], f.w.shape(), f.owned(f.w.shape(), 2));
  REQUIRE(f.seed(1));
  REQUIRE(f.t[0]->wait_for_members(1, 20s));
  CHECK(f.t[0]->receivers()[0].reseeds == 1);  // the first: now it proved what it holds
  const auto after = f.sync(2);
  INFO(to_string(after.reason) << ": " << after.detail);
  for (const auto& p : after.participants)
    UNSCOPED_INFO(p.id << " " << to_string(p.status) << " " << to_string(p.reason) << " "
                       << p.detail);
  CHECK(after.result == sync_result::ok);
  CHECK(f.all_hold());
}

static std::string why_refused(trainer& t, const weight_buffer& w, std::uint64_t label = 0) {
  try {
    t.seed(w, label);
    return "seeded";
  } catch (const refused_error& e) {
    return e.what();
  }
}

TEST_CASE("a rank that does not fit is refused, and the others wait for one that does") {
  ranked_fleet f;
  f.add(1);
  std::vector<std::future<version_ref>> fit;
  for (const std::uint32_t rank : {0u, 2u})
    fit.push_back(
        std::async(std::launch::async, [&, rank] { return f.t[rank]->seed(f.w, 0, 60s); }));
  using Catch::Contains;
  f.t[1].reset();
  f.t[1] = std::make_unique<trainer>(*f.rt[1], f.w.shape(), f.owned(f.w.shape(), 0));
  CHECK_THAT(why_refused(*f.t[1], f.w), Contains("rank 1: it owns tensor"));
  const layout other({{"w", dtype::u8, {7}}, {"x", dtype::u8, {7}}, {"y", dtype::u8, {7}}});
  f.t[1].reset();
  f.t[1] = std::make_unique<trainer>(*f.rt[1], other);
  CHECK_THAT(why_refused(*f.t[1], weight_buffer(other)), Contains("rank 1: its model is not"));
  for (auto& seeding : fit) CHECK(seeding.wait_for(0s) == std::future_status::timeout);

  f.t[1].reset();
  f.t[1] = std::make_unique<trainer>(*f.rt[1], f.w.shape(), f.owned(f.w.shape(), 1));
  const auto first = f.t[1]->seed(f.w);
  for (auto& seeding : fit) CHECK(seeding.get() == first);
  REQUIRE(f.t[0]->wait_for_members(1, 20s));
  CHECK(f.sync(1).result == sync_result::ok);
  CHECK(f.all_hold());
}

// As after a restart from another checkpoint. It ended rank 0's start, and its own without a word
// of who did not fit.
TEST_CASE("a rank that seeds another label is refused, and the others wait for one that fits") {
  ranked_fleet f;
  f.add(1);
  std::vector<std::future<version_ref>> fit;
  for (const std::uint32_t rank : {0u, 2u})
    fit.push_back(
        std::async(std::launch::async, [&, rank] { return f.t[rank]->seed(f.w, 4, 60s); }));
  for (int i = 0; i < 2; ++i)
    CHECK(why_refused(*f.t[1], f.w, 7) ==
          "rank 1: it seeds label 7, rank 0 label 4: start all "
          "ranks from the same checkpoint");
  CHECK(fit[0].wait_for(0s) == std::future_status::timeout);
  // Nor does one that takes its place displace whom all count on.
  f.t[1].reset();
  f.t[1] = std::make_unique<trainer>(*f.rt[1], f.w.shape(), f.owned(f.w.shape(), 2));
  CHECK_THAT(why_refused(*f.t[1], f.w, 4), Catch::Contains("rank 1: it owns tensor"));

  f.t[1].reset();
  f.t[1] = std::make_unique<trainer>(*f.rt[1], f.w.shape(), f.owned(f.w.shape(), 1));
  const auto first = f.t[1]->seed(f.w, 4);
  for (auto& seeding : fit) CHECK(seeding.get() == first);
  REQUIRE(f.t[0]->wait_for_members(1, 20s));
  CHECK(f.sync(5).result == sync_result::ok);
  CHECK(f.all_hold());
}

TEST_CASE("a start without all ranks ends when its time is over, and names whom it lacks") {
  ranked_fleet f;
  auto second = std::async(std::launch::async, [&] {
    try {
      f.t[2]->seed(f.w, 0, 20s);
      return std::string();
    } catch (const error& e) {
      return std::string(e.what());
    }
  });
  const auto began = std::chrono::steady_clock::now();
  try {
    f.t[0]->seed(f.w, 0, 200ms);
    FAIL("seeded");
  } catch (const error& e) {
    CHECK(e.code() == errc::timeout);
    CHECK(std::string(e.what()) == "no word of rank 1");
  }
  CHECK(std::chrono::steady_clock::now() - began < 10s);
  f.t[2]->stop();
  CHECK(second.get() == "the trainer has left");
}

TEST_CASE("a start ends with the name of the rank that was refused and did not come again") {
  ranked_fleet f;
  std::vector<std::future<std::string>> fit;
  for (const std::uint32_t rank : {0u, 2u})
    fit.push_back(std::async(std::launch::async, [&, rank] {
      try {
        f.t[rank]->seed(f.w, 4, rank == 0 ? 4s * slowness : 60s);
        return std::string("seeded");
      } catch (const error& e) {
        return std::string(e.what());
      }
    }));
  CHECK_THAT(why_refused(*f.t[1], f.w, 7), Catch::Contains("it seeds label 7"));
  CHECK(fit[0].get() == "no word of rank 1");
  f.t[2]->stop();  // it may have seeded its part by then
}

TEST_CASE("labels that differ are refused") {
  ranked_fleet f;
  REQUIRE(f.seed());
  auto late = std::async(std::launch::async, [&] { return f.t[1]->sync(7, f.w).wait(); });
  auto other = std::async(std::launch::async, [&] { return f.t[2]->sync(1, f.w).wait(); });
  const auto report = f.t[0]->sync(1, f.w).wait();
  CHECK(report.result == sync_result::aborted);
  CHECK(late.get().result == sync_result::aborted);
  CHECK(other.get().result == sync_result::aborted);
}

TEST_CASE("a rank that does not come to the sync aborts it, and the next one succeeds") {
  ranked_fleet f;
  f.add(1);
  REQUIRE(f.seed());
  REQUIRE(f.t[0]->wait_for_members(1, 20s));
  step(f.w, 1);
  auto second = std::async(std::launch::async, [&] { return f.t[2]->sync(1, f.w).wait(); });
  const auto report = f.t[0]->sync(1, f.w).wait();
  CHECK(report.result == sync_result::aborted);
  CHECK(report.reason == errc::timeout);
  CHECK(second.get().result == sync_result::aborted);
  CHECK(f.sync(2).result == sync_result::ok);
  CHECK(f.all_hold());
}

TEST_CASE("when a rank is lost the others hear of it at once, also in the midst of a sync") {
  ranked_fleet f;
  REQUIRE(f.seed());
  auto waits = std::async(std::launch::async, [&] { return f.t[1]->sync(1, f.w).wait(); });
  std::this_thread::sleep_for(50ms);
  f.t[2].reset();
  f.rt[2].reset();
  REQUIRE(waits.wait_for(2s) == std::future_status::ready);
  CHECK(waits.get().reason == errc::shut_down);
  CHECK(f.t[1]->ended_by() == errc::shut_down);
}

TEST_CASE("a rank hears that the trainer has left, and that no run follows") {
  ranked_fleet f;
  REQUIRE(f.seed());
  f.t[0]->stop();
  for (int i = 0; i < 1000 && f.t[1]->is_running(); ++i) std::this_thread::sleep_for(2ms);
  CHECK(f.t[1]->ended_by() == errc::detached);
  CHECK(f.t[1]->sync(1, f.w).wait().reason == errc::shut_down);
}

TEST_CASE("a second process of the same rank is sent away, and the first goes on") {
  ranked_fleet f;
  f.add(1);
  REQUIRE(f.seed());
  REQUIRE(f.t[0]->wait_for_members(1, 20s));
  runtime twin(of_rank(1, f.rt[0]->port()));
  trainer other(twin, f.w.shape(), f.owned(f.w.shape(), 1));
  const auto its_own = f.w.clone();
  auto seeding = std::async(std::launch::async, [&] {
    try {
      other.seed(its_own);
      return errc::none;
    } catch (const error& e) {
      return e.code();
    }
  });
  unsigned label = 0;
  while (seeding.wait_for(10ms) != std::future_status::ready && label < 2'000)
    CHECK(f.sync(++label).result == sync_result::ok);
  CHECK(seeding.get() == errc::busy);
  CHECK(f.sync(++label).result == sync_result::ok);
}

TEST_CASE("whoever waits for other ranks can be told to stop") {
  runtime alone(of_rank(0, 0));
  const auto w = random_weights(model(), 1);
  trainer t(alone, w.shape());
  auto seeding = std::async(std::launch::async, [&] {
    try {
      t.seed(w);
      return errc::none;
    } catch (const error& e) {
      return e.code();
    }
  });
  std::this_thread::sleep_for(50ms);
  t.stop();
  REQUIRE(seeding.wait_for(2s) == std::future_status::ready);
  CHECK(seeding.get() == errc::shut_down);
}

TEST_CASE("under another name nobody takes a receiver's place at a rank that does not lead") {
  ranked_fleet f;
  f.add(1);
  REQUIRE(f.seed());
  REQUIRE(f.t[0]->wait_for_members(1, 20s));
  auto s = f.of_receivers();
  s.transport.connect = "127.0.0.1:" + std::to_string(f.rt[1]->port());
  runtime elsewhere(s);
  receiver_options o;
  o.id = 1;
  o.name = "evil";
  receiver evil(elsewhere, f.w.shape(), std::move(o));
  std::this_thread::sleep_for(200ms);
  for (unsigned label = 1; label <= 5; ++label) CHECK(f.sync(label).result == sync_result::ok);
  CHECK(f.all_hold());
}

TEST_CASE("whom one rank does not reach is out through no fault of its own, until it is reached") {
  ranked_fleet f;
  f.add(1);
  auto strict = of_rank(0, 0);
  strict.supervision.attempts_max = 1;
  strict.sync.full_timeout_ms = 300 * slowness;
  strict.transport.listen = "127.0.0.1:" + std::to_string(f.rt[0]->port());
  f.t[0].reset();
  f.rt[0].reset();
  f.rt[0] = std::make_unique<runtime>(strict);
  f.t[0] = std::make_unique<trainer>(*f.rt[0], f.w.shape(), f.owned(f.w.shape(), 0));
  REQUIRE(f.seed());
  REQUIRE(f.t[0]->wait_for_members(1, 20s));
  // The second receiver's way to rank 2 leads nowhere yet.
  bad_road road;
  auto s = f.of_receivers();
  const auto direct = std::to_string(f.rt[2]->port());
  s.transport.connect.replace(s.transport.connect.rfind(direct), direct.size(),
                              std::to_string(road.port));
  runtime there(s);
  receiver_options o;
  o.id = 2;
  receiver second(there, f.w.shape(), std::move(o));
  const auto standing_of = [&] {
    for (const auto& r : f.t[0]->receivers())
      if (r.id == 2) return std::pair(r.standing, r.reason);
    return std::pair(std::string(), errc::none);
  };
  REQUIRE(eventually([&] { return standing_of().first == "quarantined"; }));
  CHECK(standing_of().second == errc::unreachable);
  // Long enough for every try that there is.
  for (unsigned label = 1; label <= 20; ++label) {
    const auto report = f.sync(label);
    CHECK(report.result == sync_result::ok);
    CHECK(report.total.count() < 0.3 * slowness);
    std::this_thread::sleep_for(50ms * slowness);
  }
  CHECK(standing_of().second == errc::unreachable);
  road.leads_to = f.rt[2]->port();
  REQUIRE(f.t[0]->wait_for_members(2, 20s));
  CHECK(f.sync(21).result == sync_result::ok);
  CHECK(same(second, f.w));
  CHECK(f.all_hold());
}

TEST_CASE("with several ranks receivers take parts: of one rank's tensors, of others', of all") {
  ranked_fleet f;
  const tensor_names of_one{"a", "d"}, of_two{"b", "c", "f"};
  f.add_part(1, of_one);
  f.add_part(2, of_two);
  f.add(3);
  REQUIRE(f.seed());
  REQUIRE(f.t[0]->wait_for_members(3, 20s));
  const auto all_hold = [&] {
    return holds_part(*f.rx[0], f.w, of_one) && holds_part(*f.rx[1], f.w, of_two) &&
           same(*f.rx[2], f.w) && f.rx[2]->state().ready;
  };
  CHECK(all_hold());
  for (unsigned label = 1; label <= 5; ++label) {
    INFO(label);
    const auto report = f.sync(label);
    CHECK(report.result == sync_result::ok);
    CHECK(report.participants.size() == 3);
    // Of nine tensors of about one size five go to parts.
    CHECK(report.sent_bytes > report.wire_bytes * 14 / 10);
    CHECK(report.sent_bytes < report.wire_bytes * 17 / 10);
    CHECK(all_hold());
  }
  // What is in nobody's part but the whole's, and in only one: no frame at all for the others.
  for (auto& b : f.w.tensor(8)) b ^= std::byte{1};
  for (auto& b : f.w.tensor(3)) b ^= std::byte{1};
  CHECK(f.all([&](trainer& x) { return x.sync(6, f.w).wait(); }).result == sync_result::ok);
  CHECK(all_hold());
  for (const auto& audit : f.t[0]->audit()) CHECK(audit.pass);
  const auto status = f.t[0]->receivers();
  CHECK(status[0].tensors == 2);
  CHECK(status[1].tensors == 3);
  CHECK(status[2].tensors == 9);
}

TEST_CASE("with several ranks too whoever takes a part fails and is healed like others") {
  ranked_fleet f;
  const tensor_names tensors{"a", "b", "e"};
  const auto at = [](fault_kind kind, std::uint64_t label) {
    fault out;
    out.kind = kind;
    out.label = label;
    out.receiver = 1;
    return out;
  };
  receiver_options o;
  o.faults = std::make_shared<fault_plan>(std::vector<fault>{
      at(fault_kind::apply_fail, 1), at(fault_kind::crash, 2), at(fault_kind::corrupt_frame, 3),
      at(fault_kind::stage_fail, 4), at(fault_kind::false_ok, 5)});
  f.add_part(1, tensors, std::move(o));
  f.add(2);
  REQUIRE(f.seed());
  REQUIRE(f.t[0]->wait_for_members(2, 20s));
  for (unsigned label = 1; label <= 6; ++label) {
    INFO(label);
    const auto report = f.sync(label);
    CHECK(report.complete());
    if (label == 5) CHECK(report.participants[0].reason == errc::false_ack);
    CHECK(holds_part(*f.rx[0], f.w, tensors));
    CHECK(same(*f.rx[1], f.w));
  }
  CHECK(f.t[0]->receivers()[0].reseeds >= 1);
}

TEST_CASE("with several ranks one who takes a part and was away is sent what its part has missed") {
  const bool forgets = GENERATE(false, true);
  ranked_fleet f;
  if (forgets) f.start(2, 0);
  const tensor_names tensors{"b", "c"};
  auto memory = f.w.clone();
  const auto lent = [&] {
    receiver_options o;
    o.memory.resize(memory.shape().count());
    o.memory[1] = memory.tensor(1);
    o.memory[2] = memory.tensor(2);
    return o;
  };
  f.add(1);
  f.add_part(2, tensors, lent());
  REQUIRE(f.seed());
  REQUIRE(f.t[0]->wait_for_members(2, 20s));
  REQUIRE(f.sync(1).result == sync_result::ok);
  const auto before = f.t[0]->receivers()[1];
  f.rx.pop_back();
  f.there.pop_back();
  for (unsigned label = 2; label <= 4; ++label) REQUIRE(f.sync(label).complete());
  f.add_part(2, tensors, lent());
  REQUIRE(f.t[0]->wait_for_members(2, 20s));
  CHECK(holds_part(*f.rx[1], f.w, tensors));
  const auto status = f.t[0]->receivers()[1];
  CHECK(status.catch_ups - before.catch_ups == (forgets ? 0 : 1));
  CHECK(status.reseeds - before.reseeds == (forgets ? 1 : 0));
  CHECK(f.sync(5).result == sync_result::ok);
  CHECK(holds_part(*f.rx[1], f.w, tensors));
  CHECK(same(*f.rx[0], f.w));
}

TEST_CASE("what all ranks send to a receiver is counted in its status") {
  ranked_fleet f;
  f.add(1);
  REQUIRE(f.seed());
  REQUIRE(f.t[0]->wait_for_members(1, 20s));
  // Its memory was empty: it was sent all weights, a third by each rank.
  const auto model_bytes = f.w.shape().total_bytes();
  const auto counted = [&] { return f.t[0]->receivers().at(0).sent_bytes; };
  const auto reaches = [&](std::uint64_t bytes) {
    const auto until = std::chrono::steady_clock::now() + 20s;
    while (counted() < bytes && std::chrono::steady_clock::now() < until)
      std::this_thread::sleep_for(20ms);
    return counted() >= bytes;
  };
  CHECK(reaches(model_bytes));
  const auto before = counted();
  CHECK(before < model_bytes * 11 / 10);
  const auto report = f.sync(1);
  REQUIRE(report.wire_bytes > 0);
  CHECK(reaches(before + report.wire_bytes));
}

TEST_CASE("ranks that hold rows of every tensor bring whole tensors up to date") {
  const auto whole = model();
  const row_split split(whole, ranks);
  ranked_fleet f(split.shape(),
                 [&](const layout&, std::uint32_t rank) { return split.share(rank, ranks); });
  weight_buffer engine(whole);
  std::vector<std::span<std::byte>> memory;
  for (std::size_t i = 0; i < whole.count(); ++i) memory.push_back(engine.tensor(i));
  receiver_options o;
  o.memory = split.memory(memory);
  f.add(1, std::move(o));
  // A tensor-parallel engine: the last rows of one tensor, all of another.
  const tensor_names part{"b@2/3", "e@0/3", "e@1/3", "e@2/3"};
  f.add_part(2, part);
  REQUIRE(f.seed());
  REQUIRE(f.t[0]->wait_for_members(2, 20s));
  for (unsigned label = 1; label <= 4; ++label) {
    const auto report = f.sync(label);
    CHECK(report.result == sync_result::ok);
    const auto target = split.reader(reader_of(engine));
    for (std::size_t i = 0; i < split.shape().count(); ++i) {
      CAPTURE(split.shape()[i].name);
      CHECK(std::ranges::equal(target(i), f.w.tensor(i)));
    }
    CHECK(holds_part(*f.rx[1], f.w, part));
  }
  engine.tensor(4)[engine.tensor(4).size() - 1] ^= std::byte{1};
  const auto audits = f.t[0]->audit();
  REQUIRE(audits.size() == 2);
  CHECK_FALSE(audits[0].pass);
  CHECK(audits[0].why_not.find("e@2/3") != std::string::npos);
  CHECK(audits[1].pass);
}

TEST_CASE("who splits tensors otherwise than the trainer is not admitted") {
  const row_split split(model(), ranks);
  ranked_fleet f(split.shape(),
                 [&](const layout&, std::uint32_t rank) { return split.share(rank, ranks); });
  REQUIRE(f.seed());
  runtime on(f.of_receivers());
  receiver_options o;
  o.id = 3;
  receiver unlike(on, model(), std::move(o));
  const auto until = std::chrono::steady_clock::now() + 20s;
  const auto known = [&] {
    const auto all = f.t[0]->receivers();
    return std::ranges::any_of(
        all, [](const auto& r) { return r.id == 3 && r.reason == errc::wrong_layout; });
  };
  while (!known() && std::chrono::steady_clock::now() < until) std::this_thread::sleep_for(20ms);
  CHECK(known());
  CHECK_FALSE(unlike.state().ready);
}
