#!/usr/bin/env bash
# soak_sums_test.sh ROOT PROGRAM: a fault that could strike and did not is found among the sums of
# many seeds, and one that no fleet so far could meet is not missed.
set -euo pipefail
root=$1 program=$2
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
sums=$scratch/sums.jsonl

# simulate OPTIONS [CHANGE]: the summary of ten seeds, as if they had been 25,000.
simulate() {
  # shellcheck disable=SC2086
  "$program" sim --seeds 10 --receivers 4 $1 --json | tail -n 1 | python3 -c "
import json, sys
summary = json.load(sys.stdin)
for part in 'faults', 'consequences':
    summary[part] = {kind: 2500 * times for kind, times in summary[part].items()}
    summary[part] = {kind: times or 2500 * (kind != 'lent' and ('rank' not in kind or bool('$1')))
                     for kind, times in summary[part].items()}
summary['seeds'] = 25000
${2:-}
print(json.dumps(summary))" | "$root/scripts/soak_sums.py" "$sums" "$1"
}

die() {
  echo "FAILED: $1"
  exit 1
}

simulate "" || die "ranks were missed where there are none"
simulate "--ranks 2" || die "ranks that strike were missed"
rm "$sums"
output=$(simulate "--ranks 2" "summary['faults']['odd-rank'] = 999") &&
  die "a fault that was not tried was not missed"
[[ $output == *"odd-rank struck 999 times in 25000 seeds"* ]] || die "it was not named: $output"
rm "$sums"
simulate "" "summary['faults']['lose'] = 0" >"$scratch/said" && die "lost messages were not missed"
grep -q "lose struck 0 times" "$scratch/said" || die "they were not named"
echo "sums say what was not tried"
