#include "protocol/snapshot_fsm.hpp"

#include <catch2/catch.hpp>

using namespace lockstep;

namespace {
const target_info boot{{1, 0}, {10, 10}, 0};
const target_info next{{1, 5}, {20, 20}, 1};
const txn_ref txn{1, 5};
}  // namespace

TEST_CASE("snapshot: advances from its base to a proven target after an all-ok") {
  snapshot_fsm s(boot);
  REQUIRE(s.on_stage(txn, boot.version, next, next.state));
  CHECK_FALSE(s.may_advance(txn, false));
  CHECK_FALSE(s.may_advance({1, 4}, true));
  CHECK(s.may_advance(txn, true));
  CHECK_FALSE(s.on_applied({1, 4}, next.state));
  CHECK_FALSE(s.on_applied(txn, {1, 1}));
  CHECK(s.held() == boot);
  CHECK(s.on_applied(txn, next.state));
  CHECK(s.held() == next);
  CHECK_FALSE(s.may_advance(txn, true));
  CHECK_FALSE(s.on_applied(txn, next.state));
}

TEST_CASE("snapshot: refuses a foreign base, a wrong prediction and a borrowed name") {
  snapshot_fsm s(boot);
  CHECK_FALSE(s.on_stage(txn, {1, 1}, next, next.state));
  CHECK_FALSE(s.on_stage(txn, boot.version, next, {1, 1}));
  CHECK_FALSE(s.on_stage({1, 6}, boot.version, next, next.state));
  CHECK_FALSE(s.staged());
  CHECK_FALSE(s.may_advance(txn, true));
}

TEST_CASE("snapshot: a refused or dropped delta leaves nothing pending") {
  snapshot_fsm s(boot);
  s.on_stage(txn, boot.version, next, next.state);
  s.on_drop({1, 4});
  CHECK(s.may_advance(txn, true));
  s.on_drop(txn);
  CHECK_FALSE(s.may_advance(txn, true));
  s.on_drop(txn);  // again: nothing is left to drop
  s.on_stage(txn, boot.version, next, next.state);
  s.on_stage({1, 6}, boot.version, next, next.state);
  CHECK_FALSE(s.staged());
}
