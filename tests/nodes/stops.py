#!/usr/bin/env python3
"""Decides what a process costs that stands still for a minute, and then goes on as if nothing had been.

    stops.py PROGRAM [--seconds S] [--seed S]

Two ranks and four receivers that pass deltas on, synced all the time. One after the other each rank, and two of the
receivers, is stopped (SIGSTOP) for S seconds and told to go on. While rank 0 stands still nobody is ready for longer
than the lease, while another rank does for no longer than it takes to tell that it is gone and a lease; while a receiver does, the others are synced. What one that stood still says first is that it is not
ready. Then all are ready again, within a lease and what a reseed takes, and at the end all pass the audit.

Exit 1 where it did not hold. Python 3.9 or later, no packages.
"""
from __future__ import annotations

import sys
import time

import fleet
import model
from fleet import require

LEASE_S = 2
RECEIVERS, RANKS = 4, 2
BACK_S = 10
SLACK_S = 1  # a busy machine
SETTINGS = {"log.level": "off", "receiver.lease_ms": LEASE_S * 1000, "receiver.ping_ms": 200,
            "receiver.hello_ms": 200, "sync.stage_timeout_ms": 2000, "sync.commit_timeout_ms": 2000,
            "runtime.threads": 2}


def state_of(receiver):
    return receiver.find(kind="state") or {}


def play(options, scratch):
    versions = model.synthetic(scratch, options.seed, mebibytes=1)
    with fleet.Fleet(options.program, versions.base, versions.stream, SETTINGS,
                     secured=fleet.passing_on(2)) as f:
        ranks, doors = [], []
        for rank in range(RANKS):
            words = ["--ranks", str(RANKS), "--patience-ms", "600000"]
            if rank:
                words += ["--rank", str(rank), "--coordinator", doors[0]]
            ranks.append(f.trainer(*words, rank=rank, name=f"rank-{rank}", receivers=RECEIVERS, rounds=1_000_000,
                                   period_ms=50))
            doors.append(fleet.address_of(ranks[rank]))
        receivers = [f.receiver(id, ",".join(doors)) for id in range(RECEIVERS)]

        def whole():
            return all(state_of(r).get("ready") for r in receivers)

        def syncs():
            return ranks[0].count
        fleet.wait_until("all are ready", whole, 60)
        took = {}
        for struck in (*ranks, receivers[0], receivers[1]):
            of_trainer = struck in ranks
            others = [r for r in receivers if r is not struck]
            struck.stop()
            said = struck.count
            until = time.monotonic() + options.seconds
            if of_trainer:
                # Rank 0 renews the lease as long as it speaks. What it says of another rank it knows two leases later;
                # then that run is over, and its lease too.
                fleet.wait_until("nobody is ready without a whole trainer",
                                 lambda: not any(state_of(r).get("ready") for r in receivers),
                                 (1 if struck is ranks[0] else 3) * LEASE_S + SLACK_S)
            else:
                # Its deadlines, once each, at the sync under way and the one after.
                time.sleep(4 * LEASE_S)
            before = syncs()
            while time.monotonic() < until:
                if of_trainer:
                    early = [r.name for r in receivers if state_of(r).get("ready")]
                    require(not early, f"{early} serve while {struck.name} stands still")
                time.sleep(0.1)
            if not of_trainer:
                require(syncs() > before + options.seconds, f"{syncs() - before} syncs beside {struck.name}")
                require(all(r.running() and state_of(r).get("version") for r in others), "the others hold nothing")
            struck.go_on()
            went_on = time.monotonic()
            if not of_trainer:
                fleet.wait_until("it says something", lambda: struck.count > said, BACK_S)
                first = list(struck.objects)[said - struck.count]
                require(not first["ready"], f"its lease was over, and it said first: {first}")
            count = syncs()
            fleet.wait_until(lambda: f"all are ready, {struck.name} stood still: {[state_of(r) for r in receivers]}",
                             lambda: whole() and syncs() > count + 3, BACK_S)
            took[struck.name] = round(time.monotonic() - went_on, 2)
        ranks[0].signal(fleet.signal.SIGTERM)
        code = ranks[0].wait(60)
        summary = ranks[0].find(kind="summary")
        require(code == 0 and summary and fleet.audited(summary, range(RECEIVERS)),
                f"the trainer ended with {code}: {summary}")
        print(f"stood still for {options.seconds:g} s each, and all ready again so many seconds later: {took}")


def main():
    parser = fleet.parser_of(__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="for which each stands still")
    options = parser.parse_args()
    return fleet.verdict_on("stops", lambda scratch: play(options, scratch))


if __name__ == "__main__":
    sys.exit(main())
