#include <catch2/catch.hpp>

#include "actors/fleet.hpp"

using namespace lockstep;

TEST_CASE("a trainer's weights reach every receiver, bit for bit") {
  settings s;
  s.log.level = log_level::off;
  runtime rt(s);
  auto w = random_weights(small_layout(), 1);
  trainer t(rt, small_layout());
  receiver a(rt, small_layout(), {0, "", {}, {}, nullptr});
  receiver b(rt, small_layout(), {1, "", {}, {}, nullptr});
  CHECK_FALSE(a.state().ready);
  t.seed(w);
  REQUIRE(t.wait_for_members(2, 10s));
  CHECK(same(a, w));
  for (unsigned v = 1; v <= 5; ++v) {
    step(w, v);
    const auto report = t.sync(v, w).wait();
    CHECK(report.result == sync_result::ok);
    CHECK(report.participants.size() == 2);
    CHECK(same(a, w));
    CHECK(same(b, w));
    CHECK(a.state().ready);
    CHECK(a.state().label == v);
  }
}

TEST_CASE("every fault on purpose is recovered from within the sync") {
  const auto kind = GENERATE(fault_kind::stage_fail, fault_kind::apply_fail, fault_kind::crash,
                             fault_kind::corrupt_frame, fault_kind::no_reply, fault_kind::false_ok);
  const auto receivers = GENERATE(1u, 3u);
  CAPTURE(to_string(kind), receivers);
  settings s;
  s.sync.stage_timeout_ms = 300;
  s.log.level = log_level::off;
  runtime rt(s);
  auto w = random_weights(small_layout(), 1);
  auto plan = std::make_shared<fault_plan>(std::vector<fault>{{kind, 2, 0}});
  trainer t(rt, small_layout());
  std::vector<std::unique_ptr<receiver>> rx;
  for (unsigned i = 0; i < receivers; ++i)
    rx.push_back(
        std::make_unique<receiver>(rt, small_layout(), receiver_options{i, "", {}, {}, plan}));
  t.seed(w);
  REQUIRE(t.wait_for_members(receivers, 10s));
  for (unsigned v = 1; v <= 4; ++v) {
    step(w, v);
    auto report = t.sync(v, w).wait();
    if (report.result == sync_result::aborted) {
      CHECK(receivers == 1);
      report = t.sync(v, w).wait();
    } else if (v == 2) {
      CHECK(report.result == sync_result::recovered);
      CHECK(report.participants[0].status != terminal::ok);
      CHECK(report.participants[0].reseeds == 1);
      CHECK(report.participants[0].member);
    }
    CHECK(report.complete());
    for (const auto& r : rx) {
      CHECK(same(*r, w));
      CHECK(r->state().ready);
    }
  }
  CHECK(plan->left().empty());
}
