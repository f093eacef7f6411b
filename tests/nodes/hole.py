#!/usr/bin/env python3
"""Decides whether a receiver is back soon after a black hole, in which its connections slept.

    hole.py PROGRAM [--seconds S] [--only KIND] [--seed S]

Two receivers in networks of their own. For some seconds what goes to and from one of them is
swallowed: long frames only ("long"), so that it can be heard and gets no weights, or all of them
("all"). What the kernel sends again by then comes after as long as the hole has lasted. The hole
ends long before the next of these, and the receiver has to be ready at the fleet's version again
within BACK_S. The other one is not held up.

Exit 1 where it did not hold, 77 where namespaces are not permitted. Python 3.9 or later, no packages.
"""
from __future__ import annotations

import functools
import sys
import time

import fleet
import model
from chaos import SETTINGS
from fleet import require
from network import Network

PORT = 7117
# It is tried for as long as it takes: given up is another matter.
HOLE = {**SETTINGS, "supervision.attempts_max": 1000}
# A silent connection ends within two leases; dialing, an attempt's pause, a reseed; and a busy machine.
BACK_S = 2 * SETTINGS["receiver.lease_ms"] / 1000 + 2
KINDS = {"long": {"longest": 1400}, "all": {"longest": 1}}


def play(options, kind, sky, scratch):
    with Network(["t", "r0", "r1"], seed=options.seed) as network:
        strike(options, kind, sky, scratch, network)


def strike(options, kind, sky, scratch, network):
    versions = model.synthetic(scratch, options.seed, mebibytes=0.5)
    syncs = []
    with fleet.Fleet(options.program, versions.base, versions.stream,
                     {**HOLE, **fleet.shared_key(scratch)},
                     prefix=lambda role, id: network.inside(f"r{id}" if role == "receiver" else "t")) as f:
        # Rare syncs: the hole begins between two of them, so that no frame is cut by it.
        trainer = f.trainer(listen=f"{network.addresses['t']}:{PORT}", receivers=2, rounds=1_000_000,
                            period_ms=500, on_object=lambda _, o: syncs.append(o)
                            if o.get("kind") == "sync" else None)
        address = fleet.address_of(trainer)
        others = [f.receiver(i, address) for i in range(2)]
        struck = others.pop(0)

        def follows(process):
            line = process.objects[-1] if process.objects else {}
            return fleet.is_ready(line) and syncs and line["label"] >= syncs[-1]["version"] - 1

        def count():
            return len(syncs)

        fleet.wait_until("five syncs of both", lambda: count() >= 5 and follows(struck), 60)
        fleet.wait_until("a sync ends", lambda before=count(): count() > before, 20)
        time.sleep(0.2)
        for way in (("t", ("r0",)), ("r0", ("t",))):
            network.worsen(*way, **sky)
        before = count()
        time.sleep(options.seconds)
        require(count() > before + 2, f"the other one was held up: {count() - before} syncs")
        require(not follows(struck), "the hole let everything through")
        for way in ("t", "r0"):
            network.better(way)
        began = time.monotonic()
        try:
            fleet.wait_until(lambda: f"back after a hole ({kind}) of {options.seconds:g} s: "
                             f"{struck.objects[-1]}", lambda: follows(struck), options.patience)
        finally:
            print(f"{kind}: back {time.monotonic() - began:.1f} s after a hole of {options.seconds:g} s",
                  flush=True)
        for process in [struck, *others]:
            require(process.running(), f"{process.name} ended: {process.said()}")


def main():
    parser = fleet.parser_of(__doc__)
    # The kernel tries again 0.2, 0.6, 1.4, 3, 6.2, 12.6 and 25.4 s after what was lost first, which
    # is sent at most half a second after the beginning.
    parser.add_argument("--seconds", type=float, default=15, help="of the hole")
    parser.add_argument("--patience", type=float, default=BACK_S, help="seconds after it")
    parser.add_argument("--only", choices=list(KINDS))
    options = parser.parse_args()
    why_not = Network.why_not()
    if why_not:
        print(f"skipped: {why_not}")
        return fleet.SKIPPED
    return fleet.verdict_on("hole", *(functools.partial(play, options, kind, sky) for kind, sky in KINDS.items()
                                      if options.only in (None, kind)))


if __name__ == "__main__":
    sys.exit(main())
