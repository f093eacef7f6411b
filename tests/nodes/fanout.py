#!/usr/bin/env python3
"""Decides what each rank of a trainer sends where receivers pass deltas on, and how long that takes.

    fanout.py PROGRAM [--receivers N] [--degree N] [--seed S] [--mbit N]

The processes stand in network namespaces of their own. First two ranks: the kernel counts what
leaves each, headers and control included. From one sync to another some way on, a rank may send 1.1
times the degree times what its own part of the deltas is; without fan-out it is once for each
receiver.

Then one trainer, and of each node all that it sends goes through one link of `--mbit`, which is the
limit: from the delta's leaving to the last acknowledgement it may take 1.5 times as long for all
receivers as for one. That the link is the limit shows by two that both have everything from the
trainer.

The last line is one JSON object. Exit 1 where a rank sent more or it took longer, 77 where
namespaces are not permitted.
"""
from __future__ import annotations

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import fleet
import model
from chaos import SETTINGS
from network import Network

PORT = 7117
RANKS = 2
BUCKET_BYTES_MAX = 1310720  # the least that there may be
# By then all links are made.
FIRST, LAST = 6, 16
# Long enough between syncs that counters and reports are of the same ones.
PERIOD_MS = 150
PATIENCE_S = 90
# A bucket comes to who is last once it has gone through all before: of many buckets that is little.
NARROW_MEBIBYTES = 64


def sent(network, name):
    """Bytes that have left a node."""
    counter = [*network.inside(name), "cat", "/sys/class/net/eth0/statistics/tx_bytes"]
    return int(subprocess.run(counter, stdout=subprocess.PIPE, check=True, timeout=20).stdout)


def measured(options, versions, network):
    """For each rank: what its part of the deltas was, and what it sent."""
    hosts = network.addresses
    relays = fleet.passing_on(options.degree, lambda id: hosts[f"r{id}"])
    syncs = []  # the leader's word of each

    def on_object(_, line):
        if line.get("kind") == "sync":
            syncs.append(line)

    def after(count):
        fleet.wait_until(lambda: f"{count} syncs: {syncs[-1:]}", lambda: len(syncs) >= count,
                         PATIENCE_S)
        return len(syncs), [sent(network, f"t{rank}") for rank in range(RANKS)]

    with fleet.Fleet(
            options.program, versions.base, versions.stream,
            # Nobody stands still here, however busy the machine is: who seemed to would be sent to directly.
            {**SETTINGS, "bucket.bytes_max": BUCKET_BYTES_MAX, "transport.relay_stall_ms": 20_000},
            prefix=lambda role, id: network.inside(f"r{id}" if role == "receiver" else f"t{id}"),
            secured=lambda role, id: {"transport.insecure": True, **relays(role, id)}) as f:
        for rank in range(RANKS):
            words = ["--ranks", str(RANKS)]
            if rank > 0:
                words += ["--rank", str(rank), "--coordinator", f"{hosts['t0']}:{PORT}"]
            fleet.address_of(f.trainer(
                *words, listen=f"{hosts[f't{rank}']}:{PORT}", rank=rank, name=f"rank-{rank}",
                receivers=options.receivers, rounds=1_000_000, period_ms=PERIOD_MS,
                on_object=on_object if rank == 0 else None))
        doors = ",".join(f"{hosts[f't{rank}']}:{PORT}" for rank in range(RANKS))
        for id in range(options.receivers):
            f.receiver(id, doors)
        first, before = after(FIRST)
        last, then = after(LAST)
    for line in syncs[first:last]:
        fleet.require(line["result"] == "ok", f"a sync was not ok: {line}")
    part = sum(line["wire_bytes"] for line in syncs[first:last]) / RANKS
    return [{"rank": rank, "part": round(part), "sent": then[rank] - before[rank],
             "times": round((then[rank] - before[rank]) / part, 3)} for rank in range(RANKS)]


def seconds_of(options, versions, receivers, degree, count=1):
    """What a sync takes on narrow links once it is encoded, the median of so many."""
    names = ["t0"] + [f"r{i}" for i in range(receivers)]
    with Network(names) as network:
        hosts = network.addresses
        relays = fleet.passing_on(degree, lambda id: hosts[f"r{id}"])
        syncs = []

        def on_object(_, line):
            if line.get("kind") == "sync":
                syncs.append(line)
        patience = {f"sync.{d}_timeout_ms": 60_000 for d in ("stage", "commit", "attach", "full", "recovery")}
        with fleet.Fleet(
                options.program, versions.base, versions.stream,
                {**SETTINGS, **patience, "bucket.bytes_max": BUCKET_BYTES_MAX, "transport.relay_stall_ms": 20_000,
                 "receiver.lease_ms": 20_000},
                prefix=lambda role, id: network.inside(f"r{id}" if role == "receiver" else "t0"),
                secured=lambda role, id: {"transport.insecure": True, **relays(role, id)}) as f:
            at = fleet.address_of(f.trainer(listen=f"{hosts['t0']}:{PORT}", receivers=receivers, rounds=1_000,
                                            period_ms=200, on_object=on_object))
            for id in range(receivers):
                f.receiver(id, at)

            def after(count):
                fleet.wait_until(lambda: f"{count} syncs: {syncs[-1:]}", lambda: len(syncs) >= count, PATIENCE_S)
            # By then all links are made.
            after(FIRST)
            for name in names:
                network.narrow(name, options.mbit)
            after(len(syncs) + 1)  # began before
            first = len(syncs)
            after(first + count)
        counted = syncs[first:first + count]
        for line in counted:
            fleet.require(line["result"] == "ok" and len(line["receivers"]) == receivers, f"not ok: {line}")
        return sorted(line["seconds"]["total"] - line["seconds"]["encode"] for line in counted)[count // 2]


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("program")
    parser.add_argument("--receivers", type=int, default=8)
    parser.add_argument("--degree", type=int, default=2, help="0: nobody passes anything on")
    parser.add_argument("--mebibytes", type=float, default=16)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--mbit", type=float, default=120, help="0: no narrow links are tried")
    options = parser.parse_args(arguments)
    why_not = Network.why_not()
    if why_not:
        print(f"skipped: {why_not}")
        return fleet.SKIPPED
    with tempfile.TemporaryDirectory(prefix="lockstep-fanout-") as scratch:
        versions = model.alike(pathlib.Path(scratch), options.seed, options.mebibytes)
        names = ([f"t{rank}" for rank in range(RANKS)] +
                 [f"r{i}" for i in range(options.receivers)])
        with Network(names) as network:
            found = measured(options, versions, network)
        took = {}
        if options.mbit and options.degree:
            versions = model.alike(pathlib.Path(scratch) / "more", options.seed, NARROW_MEBIBYTES)
            took = {"one": seconds_of(options, versions, 1, 0),
                    "two": seconds_of(options, versions, 2, 0),
                    "all": seconds_of(options, versions, options.receivers, options.degree, count=3)}
    # Whoever has everything from the trainer is a fleet of that degree.
    bound = 1.1 * (options.degree or options.receivers)
    fine = all(rank["times"] <= bound for rank in found)
    if took:
        limited = took["two"] > 1.8 * took["one"]
        fine = fine and limited and took["all"] <= 1.5 * took["one"]
    print(json.dumps({"kind": "fanout", "receivers": options.receivers, "degree": options.degree,
                      "ranks": found, "bound": round(bound, 2),
                      "seconds": {who: round(s, 2) for who, s in took.items()},
                      "times": round(took["all"] / took["one"], 2) if took else None,
                      "pass": fine}), flush=True)
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
