#!/usr/bin/env python3
"""Decides what the simulations of `scripts/soak` come to, of this and of all runs before.

    soak_sums.py SUMS            prints the sums as one line for people
    soak_sums.py SUMS OPTIONS    adds a summary first: the last line of `lockstep sim OPTIONS --json`, on
                                 standard input

SUMS holds a JSON object a line. Exit 1 where more than 20,000 seeds of fleets that can meet a fault have
met it less than 1,000 times: whatever strikes so rarely is not being tried.
"""
import collections
import json
import sys

SEEDS_ENOUGH, STRIKES_MIN = 20_000, 1_000
RANK_FAULTS = {"late-rank", "absent-rank", "odd-rank"}


def can_meet(options, kind):
    """Whether fleets that are simulated with these options can be struck so."""
    if kind in RANK_FAULTS:
        return "--ranks" in options
    if kind == "lent":  # of several ranks nobody lends the weights
        return "--fanout" in options and "--ranks" not in options
    return True


def add(name, options):
    summary = json.loads(sys.stdin.read())
    with open(name, "a", encoding="utf-8") as sums:
        sums.write(json.dumps({"options": options, "summary": summary}) + "\n")


def print_sums(name):
    seeds = steps = violations = 0
    syncs, struck, tried = collections.Counter(), collections.Counter(), collections.Counter()
    with open(name, encoding="utf-8") as lines:
        for line in map(json.loads, lines):
            summary = line["summary"]
            seeds += summary["seeds"]
            steps += summary["steps"]
            violations += summary["violations"]
            syncs.update(summary["syncs"])
            # What faults lead to counts as they do.
            for kind, times in {**summary["faults"], **summary["consequences"]}.items():
                if can_meet(line["options"], kind):
                    struck[kind] += times
                    tried[kind] += summary["seeds"]
    if not seeds:
        print(f"{name}: nothing was simulated")
        return 1
    rarest = min(struck, key=struck.get)
    print(f"simulated so far: {seeds} seeds, {violations} violations, {sum(syncs.values())} syncs, "
          f"{sum(struck.values())} faults and consequences of {len(struck)} kinds, the rarest, {rarest}, "
          f"{struck[rarest]} times; {steps} steps")
    rare = [kind for kind in struck if tried[kind] > SEEDS_ENOUGH and struck[kind] < STRIKES_MIN]
    for kind in rare:
        print(f"{kind} struck {struck[kind]} times in {tried[kind]} seeds, which is no trial")
    return int(bool(rare))


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    if len(sys.argv) == 3:
        add(*sys.argv[1:])
    sys.exit(print_sums(sys.argv[1]))
