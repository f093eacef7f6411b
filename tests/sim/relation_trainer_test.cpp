// What joins and snapshots may not do is caught in steps that are written down here.
#include "sim/relation_trainer.hpp"

#include <catch2/catch.hpp>

using namespace lockstep;
using namespace lockstep::sim;

TEST_CASE("a join that ends a round too soon, or says what was not acknowledged, is caught") {
  const participant a{1, {1, 1}}, b{2, {2, 2}};
  const envelope env{7, {1, 4}, a.inc};
  const round_spec spec{7, {1, 4}, 1, round_kind::commit, {a, b}, {3, 3}, {}};
  const reply_msg ack{env, 1, 1, reply_kind::ack, errc::none, {}, {3, 3}};
  join_relation told;
  told.on_open(spec);
  told.on_reply(ack);
  CHECK(told.check(nullptr) == std::nullopt);
  const round_result early{
      {1, 4}, 1, round_kind::commit, {{a, terminal::ok, {}, {}}, {b, terminal::timeout, {}, {}}}};
  auto copy = told;
  CHECK(copy.check(&early));
  copy = told;
  copy.on_tick();
  CHECK(copy.check(&early) == std::nullopt);
  CHECK(copy.check(&early));  // it is over
  CHECK(copy.check_verdict({1, 4}, {a}, true) == std::nullopt);
  CHECK(copy.check_verdict({1, 4}, {}, true) == std::nullopt);
  CHECK(copy.check_verdict({1, 4}, {a, b}, true));
  CHECK(copy.check_verdict({1, 5}, {a}, true));
  CHECK(copy.check_verdict({1, 4}, {a}, false));
  CHECK(copy.check_verdict({1, 4}, {a}, std::nullopt));
}

TEST_CASE("a snapshot's step that no sender of the model may make is caught") {
  using s = snapshot_step;
  const target_info base{{1, 3}, {3, 3}, 30}, target{{1, 4}, {4, 4}, 40};
  const snapshot_fsm::pending pending{{1, 4}, target};
  s stage{{base, {}}, {base, pending}, s::stage, {1, 4}, base.version, target, false, true, true};
  s advance{{base, pending}, {target, {}}, s::verdict, {1, 4}, {}, {}, true, true, true};
  s drop{{base, pending}, {base, {}}, s::drop, {1, 4}, {}, {}, false, false, {}};
  s other{{base, pending}, {base, pending}, s::other, {}, {}, {}, false, false, {}};
  for (const auto& step : {stage, advance, drop, other}) CHECK(check(step) == std::nullopt);
  const auto caught = [](s step, auto spoil) {
    spoil(step);
    return check(step).has_value();
  };
  // What it keeps.
  CHECK(caught(stage, [](s& x) { x.base = {1, 2}; }));
  CHECK(caught(stage, [](s& x) { x.txn = {1, 5}; }));
  CHECK(caught(stage, [](s& x) { x.after.staged->target.label = 41; }));
  CHECK(caught(stage, [](s& x) { x.after.staged.reset(); }));
  CHECK(caught(stage, [](s& x) { x.done = false; }));
  CHECK(caught(stage, [](s& x) { x.done.reset(); }));
  CHECK(caught(drop, [&](s& x) { x.after.staged = pending; }));
  CHECK(caught(drop, [](s& x) { x.txn = {1, 5}; }));
  CHECK(caught(other, [](s& x) { x.after.staged.reset(); }));
  // When it moves.
  CHECK(caught(advance, [](s& x) { x.all_ok = false; }));
  CHECK(caught(advance, [](s& x) { x.txn = {1, 5}; }));
  CHECK(caught(advance, [](s& x) { x.before.staged.reset(); }));
  CHECK(caught(advance, [](s& x) { x.after.held.label = 41; }));
  CHECK(caught(advance, [&](s& x) { x.after.staged = pending; }));
  CHECK(caught(advance, [](s& x) { x.done = false; }));
  CHECK(caught(advance, [&](s& x) { x.after = {base, {}}; }));  // it says that it has
  for (const auto& step : {stage, drop, other})
    CHECK(caught(step, [&](s& x) { x.after.held = target; }));
}
