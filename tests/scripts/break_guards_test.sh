#!/usr/bin/env bash
# break_guards_test.sh ROOT: the list of guards that is, is right; and what goes stale is found.
program=(break-guards --check)
needed=(scripts/broken_texts.py docs/protocol.md docs/published.md protocol weights)
source "$(dirname "${BASH_SOURCE[0]}")/spoilt.sh"

right
spoilt "a guard that went" protocol/flusher_fsm.hpp 's/|| m.index >= buckets_.size()//' \
  "stands 0 times in its file"
spoilt "a text that stands twice now" protocol/snapshot_fsm.hpp \
  's|^  void on_drop|  void reset(txn_ref txn) { held_ = pending_->target; }\n  void on_drop|' \
  "stands 2 times in its file"
spoilt "a place that went" protocol/supervision_fsm.cpp 's/::on_parted(/::on_gone(/' \
  "\`on_parted\` is defined 0 times"
spoilt "a new guard" protocol/join_fsm.cpp 's/^  open_.reset();/  if (acked_.empty()) open_.reset();/' \
  "\`if (\` is in no guard"
spoilt "a wrong number" docs/protocol.md 's/in [0-9]* ways;/in 7 ways;/' "guards: says 7"
spoilt "a guard listed twice" docs/protocol.md 's/^\* `env_.reset();`$/&\n&/' "does the same as"
spoilt "a line that cannot be read" docs/protocol.md 's/^\* `env_.reset();`$/& gone/' \
  "cannot be read"
spoilt "a guard of another folder that went" weights/rank_proof.cpp \
  's/if (!order.numbers\[i\]) continue;//' "stands 0 times in its file"
spoilt "a wrong number of another folder" docs/published.md 's/in [0-9]* ways;/in 7 ways;/' \
  "docs/published.md: guards: says 7"
exit $failed
