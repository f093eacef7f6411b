#!/usr/bin/env bash
# break_actors_test.sh ROOT: the list of breaks that is, is right; and what goes stale is found.
program=break-actors
needed=(docs/sim.md actors messages protocol sim weights)
source "$(dirname "${BASH_SOURCE[0]}")/spoilt.sh"

right
spoilt "a text that went" actors/engine.cpp 's/return tell_engine(target, all);/return tell_all(target);/' \
  "stands 0 times in its file"
spoilt "a file that went" docs/sim.md 's|^### actors/engine.cpp|### actors/machine.cpp|' \
  "there is no such file"
spoilt "another violation" sim/checker.cpp 's/and its lease has ended/and nobody renews its lease/' \
  'nobody says "I3: … is ready, and its lease has ended"'
spoilt "a note without a violation" docs/sim.md 's/^\(\* in `pause`: .*\): "I3: .*")$/\1)/' \
  "its note cannot be read"
spoilt "an observer without a break" docs/sim.md '/is called a member and is none")$/d' \
  "check_membership: no break of docs/sim.md is caught by it"
spoilt "a new observer" sim/checker_words.cpp \
  's|^// --- reports.*|void checker::check_new() { violated("I9: new"); }|' "check_new: no break"
spoilt "a promise without a break" docs/sim.md '/"model:")$/d' "no break is caught by model"
exit $failed
