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
  using verdicts = std::vector<join_relation::verdict>;
  const auto wrong = [&](txn_ref asked, const std::vector<participant>& view, verdicts said) {
    return copy.check_verdicts(sync_action::conclude{asked, view}, said).has_value();
  };
  CHECK_FALSE(wrong({1, 4}, {a}, {{{1, 4}, true}}));
  CHECK_FALSE(wrong({1, 4}, {}, {{{1, 4}, true}}));
  CHECK(wrong({1, 4}, {a, b}, {{{1, 4}, true}}));
  CHECK(wrong({1, 5}, {a}, {{{1, 5}, true}}));
  CHECK(wrong({1, 4}, {a}, {{{1, 4}, false}}));
  CHECK(wrong({1, 4}, {a}, {}));
  // Nor anything of another transaction, or once more, or unasked.
  CHECK(wrong({1, 4}, {a}, {{{1, 5}, true}}));
  CHECK(wrong({1, 4}, {a}, {{{1, 5}, true}, {{1, 4}, true}}));
  CHECK(wrong({1, 4}, {a}, {{{1, 4}, true}, {{1, 4}, true}}));
  CHECK(copy.check_verdicts({}, {}) == std::nullopt);
  CHECK(copy.check_verdicts({}, verdicts{{{1, 4}, true}}));
}

TEST_CASE("a snapshot's step that no sender of the model may make is caught") {
  using s = snapshot_step;
  const target_info base{{1, 3}, {3, 3}, 30}, target{{1, 4}, {4, 4}, 40};
  const snapshot_fsm::pending pending{{1, 4}, target};
  const txn_ref txn{1, 4};
  const auto step = [&](s::what event, const s::standing& before, const s::standing& after,
                        const std::vector<s::answer>& said = {}) {
    const bool all_ok = event == s::verdict && after.held == target;
    return s{before, after, event, txn, base.version, target, all_ok, true, said};
  };
  const s::standing holds{base, {}}, waits{base, pending}, advanced{target, {}};
  const s stage = step(s::stage, holds, waits, {{s::stage, txn, true}});
  const s refuse = step(s::stage, holds, holds, {{s::stage, txn, false}});
  const s advance = step(s::verdict, waits, advanced, {{s::verdict, txn, true}});
  const s deny = step(s::verdict, waits, waits, {{s::verdict, txn, false}});
  const s drop = step(s::drop, waits, holds);
  const s other = step(s::other, waits, waits);
  for (const auto& real : {stage, advance, refuse, deny, drop, other})
    CHECK(check(real) == std::nullopt);
  const auto caught = [](s spoilt, auto spoil) {
    spoil(spoilt);
    return check(spoilt).has_value();
  };
  // What it keeps.
  CHECK(caught(stage, [](s& x) { x.base = {1, 2}; }));
  CHECK(caught(stage, [](s& x) { x.txn = x.said[0].txn = {1, 5}; }));
  CHECK(caught(stage, [](s& x) { x.after.staged->target.label = 41; }));
  CHECK(caught(stage, [](s& x) { x.after.staged.reset(); }));
  CHECK(caught(stage, [](s& x) { x.said[0].done = false; }));
  CHECK(caught(drop, [&](s& x) { x.after.staged = pending; }));
  CHECK(caught(drop, [](s& x) { x.txn = {1, 5}; }));
  CHECK(caught(other, [](s& x) { x.after.staged.reset(); }));
  // When it moves.
  CHECK(caught(advance, [](s& x) { x.all_ok = false; }));
  CHECK(caught(advance, [](s& x) { x.txn = x.said[0].txn = {1, 5}; }));
  CHECK(caught(advance, [](s& x) { x.before.staged.reset(); }));
  CHECK(caught(advance, [](s& x) { x.after.held.label = 41; }));
  CHECK(caught(advance, [&](s& x) { x.after.staged = pending; }));
  CHECK(caught(advance, [](s& x) { x.said[0].done = false; }));
  CHECK(caught(advance, [&](s& x) { x.after = {base, {}}; }));  // it says that it has
  for (const auto& real : {stage, refuse, deny, drop, other})
    CHECK(caught(real, [&](s& x) { x.after.held = target; }));
  for (const auto& real : {refuse, deny}) CHECK(caught(real, [](s& x) { x.said[0].done = true; }));
  // What it answers: once, what it was asked, and of no other transaction.
  for (const auto& real : {stage, advance, refuse, deny}) {
    CHECK(caught(real, [](s& x) { x.said.clear(); }));
    CHECK(caught(real, [](s& x) { x.said.push_back(x.said[0]); }));
    CHECK(caught(real, [](s& x) { ++x.said[0].txn.seq; }));
    CHECK(caught(real, [](s& x) { x.said.push_back({x.event, {1, 3}, false}); }));
    CHECK(caught(real, [](s& x) { x.said[0].to = x.event == s::stage ? s::verdict : s::stage; }));
  }
  for (const auto& real : {drop, other})
    CHECK(caught(real, [&](s& x) { x.said.push_back({s::stage, txn, false}); }));
}
