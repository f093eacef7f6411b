#!/usr/bin/env bash
# break_actors_test.sh ROOT: the list of breaks that is, is right; and what goes stale is found.
program=(break-actors --check)
needed=(scripts/broken_texts.py docs/sim.md actors messages protocol sim tests/sim/scenarios weights)
source "$(dirname "${BASH_SOURCE[0]}")/spoilt.sh"

right
spoilt "a text that went" actors/engine.cpp 's/return tell_engine(target, all);/return tell_all(target);/' \
  "stands 0 times in its file"
spoilt "a file that went" docs/sim.md 's|^### actors/engine.cpp|### actors/machine.cpp|' \
  "there is no such file"
spoilt "another violation" sim/checker_time.cpp 's/and its lease has ended/and nobody renews its lease/' \
  '0 statements of the observers are "I3: … is ready, and its lease has ended"'
spoilt "a violation that two may say" docs/sim.md 's/"I4: … is called a member and is none")$/"I4: …")/' \
  'statements of the observers are "I4: …"'
spoilt "a note without a violation" docs/sim.md 's/^\(\* in `pause`: .*\): "I3: .*")$/\1)/' \
  "its note cannot be read"
spoilt "an observer without a break" docs/sim.md '/is called a member and is none")$/d' \
  'makes it say "I4: receiver-… is called a member and is none"'
spoilt "a new observer" sim/checker_words.cpp \
  's|^// --- reports.*|void checker::check_new() { violated("I9: new"); }|' 'makes it say "I9: new"'
spoilt "a scenario that went" tests/sim/scenarios/broken-reuse-version.txt '/VIOLATION/d' \
  'makes it say "L1: after the faults had stopped'
spoilt "an excuse that went" docs/sim.md '/^\* "L1: a report came late":/d' \
  'makes it say "L1: a report came late"'
spoilt "an excuse for what is provoked" docs/sim.md \
  's/^\* "L1: a report came late"/* "I4: … is called a member and is none"/' \
  '"I4: receiver-… is called a member and is none" is provoked'
spoilt "an excuse for what nobody says" docs/sim.md 's/^\* "L1: a report came late"/* "L1: late"/' \
  '0 statements of the observers are "L1: late"'
spoilt "a promise without a break" docs/sim.md '/"model: .*)$/d' "no break is caught by model"
exit $failed
