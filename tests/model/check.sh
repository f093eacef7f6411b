#!/usr/bin/env bash
# tests/model/check.sh NAME | transitions | --transitions | --list | --spin | --all: runs
# spin on the model of the sync protocol.
#   NAME    one check of the table below
#   transitions    that transitions.txt is what the model says
#   --transitions  writes transitions.txt anew
#   --list  the names of the small set and of the long one, which ctest runs
#   --spin  that spin can be run
#   --all   every check, the large ones too: minutes each, up to 6 GB of memory
# A check that must hold demands a completed search without errors; one that must fail demands an
# error of the named invariant and the trail that leads to it. MODEL_SWITCHES adds switches to a
# check, which shows that it can fail: MODEL_SWITCHES=-DSERVE_TORN tests/model/check.sh holds-two
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

# name | set | demand: holds, or the invariant that breaks | model | switches of the model | of pan
checks() {
  cat <<'TABLE'
holds-two-receivers | small | holds | protocol | -DLIM0=2
holds-redo | small | holds | protocol | -DLIM0=2 -DREDOS=1
holds-without-digests | small | holds | protocol | -DLIM0=2 -DREDOS=1 -DNODIGEST
holds-three-receivers | small | holds | protocol | -DNR=3 -DLIM0=1
holds-three-receivers-again | small | holds | protocol | -DNR=3 -DLIM0=2 -DTOGGLE -DCRASHES=1
holds-two-senders | small | holds | protocol | -DLIM0=1 -DLIM1=1 -DTOGGLE
holds-three-receivers-two-senders | long | holds | protocol | -DNR=3 -DLIM0=1 -DLIM1=1 -DTOGGLE -DCRASHES=1
holds-live-one-fault | small | holds | protocol | -DLIM0=10 -DNS=11 -DLIVE=1
advance-before-flush-perfect-network | small | I4 | seed_bug | -DADVANCE_BEFORE_FLUSH
advance-before-flush | small | I2 | protocol | -DLIM0=2 -DADVANCE_BEFORE_FLUSH
advance-before-flush-no-digests | small | I2 | protocol | -DLIM0=2 -DADVANCE_BEFORE_FLUSH -DNODIGEST
only-not-advance | small | I1 | protocol | -DLIM0=2 -DONLY_NOT_ADVANCE
only-not-advance-perfect-network | small | I4 | seed_bug | -DONLY_NOT_ADVANCE
base-version-wedges | small | holds | seed_bug | -DBASE_VERSION
full-after-failure | small | holds | seed_bug | -DFULL_AFTER_FAILURE
reuse-version | small | I3 | protocol | -DLIM0=2 -DREUSE_VERSION -DNODIGEST
reuse-version-digests-alone | small | holds | protocol | -DLIM0=2 -DREUSE_VERSION
only-not-advance-no-digests | small | I3 | protocol | -DLIM0=2 -DTOGGLE -DONLY_NOT_ADVANCE -DNODIGEST -DONLY=3
only-not-advance-digests-alone | small | holds | protocol | -DLIM0=2 -DTOGGLE -DONLY_NOT_ADVANCE -DONLY=3
no-run-fence | small | I1 | protocol | -DLIM0=2 -DLIM1=1 -DTOGGLE -DNO_RUN_FENCE
no-run-fence-no-digests | small | I1 | protocol | -DLIM0=2 -DLIM1=1 -DTOGGLE -DNO_RUN_FENCE -DNODIGEST
no-incarnation | small | I1 | protocol | -DLIM0=2 -DNO_INCARNATION
no-incarnation-no-digests | small | I1 | protocol | -DLIM0=2 -DNO_INCARNATION -DNODIGEST
attach-without-fence | small | I1 | protocol | -DLIM0=2 -DATTACH_WITHOUT_FENCE
attach-without-fence-no-digests | small | I1 | protocol | -DLIM0=2 -DATTACH_WITHOUT_FENCE -DNODIGEST
advance-at-decision | small | I2 | protocol | -DLIM0=2 -DADVANCE_AT_DECISION
advance-at-decision-no-digests | small | I2 | protocol | -DLIM0=2 -DADVANCE_AT_DECISION -DNODIGEST
serve-torn | small | I3 | protocol | -DLIM0=2 -DSERVE_TORN
serve-torn-no-digests | small | I3 | protocol | -DLIM0=2 -DSERVE_TORN -DNODIGEST
holds-catch-up | small | holds | protocol | -DLIM0=3 -DTOGGLE -DCRASHES=1
holds-catch-up-two-bases-no-digests | small | holds | protocol | -DLIM0=4 -DUNDO -DCRASHES=0 -DNODIGEST
catch-up-unproven-base | small | I3 | protocol | -DNR=1 -DLIM0=4 -DCATCH_UP_UNPROVEN_BASE -DNODIGEST
catch-up-unproven-base-digests-alone | small | holds | protocol | -DNR=1 -DLIM0=4 -DCATCH_UP_UNPROVEN_BASE
holds-three-behind | small | holds | protocol | -DNR=3 -DLIM0=2 -DTOGGLE -DCRASHES=1 -DNODIGEST -DBEHIND
holds-three-behind-undo | small | holds | protocol | -DNR=3 -DLIM0=3 -DUNDO -DCRASHES=0 -DNODIGEST -DBEHIND
three-behind-unproven-base | small | I3 | protocol | -DNR=3 -DLIM0=3 -DUNDO -DCRASHES=0 -DNODIGEST -DBEHIND -DCATCH_UP_UNPROVEN_BASE
three-behind-by-diff | small | I3 | protocol | -DNR=3 -DLIM0=3 -DUNDO -DCRASHES=0 -DNODIGEST -DBEHIND -DCATCH_UP_BY_DIFF
catch-up-by-diff | small | I3 | protocol | -DLIM0=4 -DUNDO -DCATCH_UP_BY_DIFF -DNODIGEST -DCRASHES=0
large-three-transactions | large | holds | protocol | -DLIM0=3
large-three-transactions-redo-2 | large | holds | protocol | -DLIM0=3 -DREDOS=2 -DTOGGLE
large-reseed-all | large | holds | protocol | -DLIM0=4 -DRESEED_ALL -DTOGGLE
large-catch-up-two-bases | large | holds | protocol | -DLIM0=4 -DUNDO -DCRASHES=0
large-catch-up-by-diff-digests-alone | large | holds | protocol | -DLIM0=4 -DUNDO -DCATCH_UP_BY_DIFF -DCRASHES=0
large-four-transactions | large | holds | protocol | -DLIM0=4 -DTOGGLE
large-three-receivers-redo | large | holds | protocol | -DNR=3 -DLIM0=2 -DREDOS=1 -DTOGGLE -DCRASHES=1
large-two-senders | large | holds | protocol | -DLIM0=1 -DLIM1=2 -DTOGGLE
large-two-senders-redo | large | holds | protocol | -DLIM0=1 -DLIM1=2 -DREDOS=1 -DTOGGLE -DCRASHES=1
large-liveness-two-faults | large | holds | protocol | -DLIM0=10 -DNS=11 -DLIVE=2 -DREDOS=1
large-liveness-three-faults | large | holds | protocol | -DLIM0=14 -DNS=15 -DLIVE=3 -DREDOS=1
TABLE
}

say() { printf '%s\n' "$*"; }
die() { say "$*" >&2; exit 1; }

# The answer to: was this search complete, and what did it find?
judge() {
  local demand="$1" log="$2" found
  grep -q '^State-vector .*errors: ' "$log" || die "pan did not finish"
  if [[ "$demand" == holds ]]; then
    grep -q 'errors: 0$' "$log" || die "an error where there must be none"
    [[ ! -e model.pml.trail ]] || die "a trail where there must be none"
    ! grep -qiE 'search depth too small|out of memory|search was incomplete|not completed' "$log" ||
      die "the search was not completed"
    return
  fi
  grep -q 'errors: 1$' "$log" || die "no error where $demand must break"
  [[ -s model.pml.trail ]] || die "an error without a trail"
  # The invariants break as "assertion violated (broken!=N)".
  found="$(sed -n 's/.*assertion violated (broken!=\([0-9]\)).*/I\1/p' "$log" | head -1)"
  [[ "$found" == "$demand" ]] || die "$demand must break, not '${found:-something else}'"
}

run_check() (
  local name="$1" line demand model switches pan_switches
  line="$(checks | awk -F'|' -v n="$name" '{ k = $1; gsub(/ /, "", k) } k == n')"
  [[ -n "$line" ]] || die "no check is named '$name'"
  IFS='|' read -r _ _ demand model switches pan_switches <<<"$line"
  demand="${demand// /}"
  model="${model// /}"
  switches="$switches ${MODEL_SWITCHES:-}"
  work="$(mktemp -d)"
  trap 'rm -rf "$work"' EXIT
  cd "$work"
  cp "$here/$model.pml" model.pml
  cp "$here/relation.pml" .
  # Words are split on purpose: these are lists of switches.
  # shellcheck disable=SC2086
  spin $switches -a model.pml >spin.log 2>&1 || { cat spin.log; die "spin failed"; }
  # Compiling costs more than a small search: those are not optimised.
  local optimise=-O1 megabytes=6000
  [[ " $(names small | tr '\n' ' ')" != *" $name "* ]] || optimise=-O0 megabytes=2000
  # shellcheck disable=SC2086
  cc $optimise -w -DSAFETY -DCOLLAPSE -DMEMLIM=$megabytes $pan_switches -o pan pan.c
  ulimit -v $(((megabytes + 48) * 1024))
  /bin/bash -c 'TIMEFORMAT="%U seconds of CPU"; time ./pan -m2000000 >pan.log' 2>time.log ||
    say "pan ended with an error"
  grep -E 'assertion violated|^State-vector|states, stored|total actual memory' pan.log || true
  tail -1 time.log
  (judge "$demand" pan.log) || { cat pan.log; exit 1; }
  say "$name: as demanded ($demand)"
)

# The configurations that together take every transition of the model: everything that anybody might
# say to one receiver, in one run, in two and in the second; and real senders, with every redo, reseed
# and crash.
relations() {
  cat <<'TABLE'
-DFREE -DNR=1 -DLIM0=2 -DREDOS=1
-DFREE -DNR=1 -DLIM0=1 -DLIM1=1 -DREDOS=1
-DFREE -DNR=1 -DLIM0=0 -DLIM1=3 -DREDOS=1
-DLIM0=1 -DREDOS=2 -DCRASHES=1
-DLIM0=3 -DRESEED_ALL -DCRASHES=0
-DLIM0=3 -DCRASHES=1
-DLIM0=4 -DCRASHES=1
TABLE
}

transitions() (
  echo "# Every transition of tests/model/protocol.pml that an observer of the real actors can see, as"
  echo "# explained there. Made by \`tests/model/check.sh --transitions\`; sim/relation.cpp reads it."
  work="$(mktemp -d)"
  trap 'rm -rf "$work"' EXIT
  cd "$work"
  cp "$here/protocol.pml" model.pml
  cp "$here/relation.pml" .
  while read -r switches; do
    # shellcheck disable=SC2086
    spin -DRELATION -DTOGGLE $switches ${MODEL_SWITCHES:-} -a model.pml >spin.log 2>&1 || { cat spin.log >&2; die "spin failed"; }
    cc -O0 -w -DSAFETY -DCOLLAPSE -DMEMLIM=2000 -o pan pan.c
    ./pan -m2000000 >pan.log || { cat pan.log >&2; die "pan failed"; }
    (judge holds pan.log) || { cat pan.log >&2; exit 1; }
    sed -n 's/^relation: //p' pan.log
  done < <(relations) | LC_ALL=C sort -u
)

check_transitions() {
  transitions | diff -u "$here/transitions.txt" - || die "transitions.txt is not what the model says"
  say "transitions: as in transitions.txt"
}

check_spin() {
  command -v spin >/dev/null || die "the model of the protocol is not checked: there is no spin. scripts/setup installs it"
  spin -V
}

names() { checks | awk -F'|' -v set="$1" 'NF { k = $1; s = $2; gsub(/ /, "", k); gsub(/ /, "", s) } NF && (set == "" || s == set) { print k }'; }

case "${1:-}" in
  --list)
    names small
    names long
    echo transitions
    ;;
  --transitions)
    made="$(transitions)"
    printf '%s\n' "$made" >"$here/transitions.txt"
    ;;
  --spin) check_spin ;;
  transitions) check_transitions ;;
  --all)
    failed=0
    for name in $(names ""); do
      say "--- $name"
      run_check "$name" || failed=1
    done
    exit "$failed"
    ;;
  "" | -*) die "usage: tests/model/check.sh NAME | transitions | --transitions | --list | --spin | --all" ;;
  *) run_check "$1" ;;
esac
