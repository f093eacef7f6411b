#!/usr/bin/env python3
"""Decides what the simulations of `scripts/soak` come to, of this and of all runs before.

    soak_sums.py SUMMARIES

SUMMARIES holds the last line of `lockstep sim --json` for each simulation, a line each. Prints the
sums as one line for people. Exit 1 where more than 20,000 seeds have met a fault less than 1,000
times: whatever strikes so rarely is not being tried.
"""
import collections
import json
import sys

SEEDS_ENOUGH, STRIKES_MIN = 20_000, 1_000


def main(name):
    seeds = steps = violations = 0
    syncs, faults = collections.Counter(), collections.Counter()
    with open(name, encoding="utf-8") as lines:
        for line in map(json.loads, lines):
            seeds += line["seeds"]
            steps += line["steps"]
            violations += line["violations"]
            syncs.update(line["syncs"])
            faults.update(line["faults"])
            faults.update(line["consequences"])
    if not seeds:
        print(f"{name}: nothing was simulated")
        return 1
    # What faults lead to counts as they do.
    rarest = min(faults, key=faults.get)
    print(f"simulated so far: {seeds} seeds, {violations} violations, {sum(syncs.values())} syncs, "
          f"{sum(faults.values())} faults and consequences of {len(faults)} kinds, the rarest, {rarest}, "
          f"{faults[rarest]} times; {steps} steps")
    return int(seeds > SEEDS_ENOUGH and faults[rarest] < STRIKES_MIN)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1]))
