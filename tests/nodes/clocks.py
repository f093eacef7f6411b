#!/usr/bin/env python3
"""Decides whether wall clocks that jump change anything in a fleet.

    clocks.py PROGRAM [--seconds S] [--seed S]

The clocks of a trainer and of one receiver jump by an hour, forth and back, each on its own. While they do every sync
is ok, and nobody stops serving but for its writes. Then the trainer is killed and comes back an hour before it began,
and an hour after: with `trainer.run_file` the fleet obeys it both times. At the end all pass the audit.

Clocks that run too fast or too slow are the simulator's: under libfaketime's no thread wakes from a wait on one.

Exit 1 where it did not hold, 77 where libfaketime is missing. Python 3.9 or later, no packages.
"""
from __future__ import annotations

import argparse
import pathlib
import sys
import tempfile
import time

import fleet
import model
from fleet import require

LIBRARIES = sorted(pathlib.Path("/usr").glob("lib*/**/faketime/libfaketimeMT.so.1"))
HOUR_S = 3600
SETTINGS = {"log.level": "warn", "receiver.lease_ms": 2000, "receiver.ping_ms": 200, "receiver.hello_ms": 200}
RECEIVERS = 3


class Clock:
    """The wall clock of one process, as an offset in a file that the library reads at each look."""

    def __init__(self, file):
        self.file = file
        self.set(0)

    def set(self, offset_s):
        # Whole at every moment: a new file, renamed.
        fresh = self.file.with_suffix(".new")
        fresh.write_text(f"{offset_s:+d}\n", encoding="ascii")
        fresh.rename(self.file)

    def words(self):
        # What deadlines go by does not jump on any system.
        return ["env", f"LD_PRELOAD={LIBRARIES[-1]}", "FAKETIME_DISABLE_SHM=1", "FAKETIME_NO_CACHE=1",
                f"FAKETIME_TIMESTAMP_FILE={self.file}", "FAKETIME_DONT_FAKE_MONOTONIC=1"]


def play(options, scratch):
    versions = model.synthetic(scratch, options.seed, mebibytes=0.5)
    clocks = {("trainer", 0): Clock(scratch / "trainer.clock"), ("receiver", 0): Clock(scratch / "receiver.clock")}

    def prefix(role, id):
        return clocks[role, id].words() if (role, id) in clocks else []

    syncs, lapses = [], []
    settled = False

    def see_sync(_, line):
        if line.get("kind") == "sync":
            syncs.append(line)

    def see_state(process, line):
        # Each delta stops a receiver's service while it is written.
        if settled and line.get("kind") == "state" and not line["ready"] and line["phase"] != "applying":
            lapses.append((process.name, line))

    def start(f, listen):
        return f.trainer(listen=listen, receivers=RECEIVERS, rounds=1_000_000, period_ms=100, on_object=see_sync)

    with fleet.Fleet(options.program, versions.base, versions.stream,
                     {**SETTINGS, "trainer.run_file": scratch / "run"}, prefix=prefix) as f:
        trainer = start(f, "127.0.0.1:0")
        address = fleet.address_of(trainer)
        receivers = [f.receiver(i, address, on_object=see_state) for i in range(RECEIVERS)]

        def whole(since):
            good = [s for s in syncs[since:] if s["result"] == "ok"]
            return len(good) >= 3 and all(r.objects and fleet.is_ready(r.objects[-1]) for r in receivers)

        fleet.wait_until("three good syncs of all", lambda: whole(0), 60)

        def run():
            return fleet.run_of(receivers[-1].objects[-1]["version"])

        runs = [run()]
        before, settled = len(syncs), True
        end = time.monotonic() + options.seconds
        jumps = 0
        while time.monotonic() < end:
            for n, clock in enumerate(clocks.values()):
                clock.set((HOUR_S, 0, -HOUR_S, 0)[(jumps + n) % 4])
            jumps += 1
            time.sleep(0.5)
        settled = False
        jumped = syncs[before:]
        require(len(jumped) >= 5, f"only {len(jumped)} syncs ended while clocks jumped")
        bad = [s for s in jumped if s["result"] != "ok"]
        require(not bad, f"a clock that jumps failed a sync: {bad[:1]}")
        require(not lapses, f"a clock that jumps took one out of service: {lapses[:1]}")

        for offset in (-HOUR_S, HOUR_S):
            trainer.kill()
            f.forget(trainer)
            clocks["trainer", 0].set(offset)
            before = len(syncs)
            trainer = start(f, address)
            fleet.wait_until(lambda: f"a trainer whose clock is off by {offset} s is obeyed: {trainer.said()}",
                             lambda since=before: whole(since), 60)
            runs.append(run())
        # Milliseconds: the file's next number, then the clock's. Else no clock jumped, and nothing was tried.
        require(runs[0] < runs[1] < runs[0] + HOUR_S * 100, f"the clock that was set back was followed: runs {runs}")
        require(runs[2] > runs[0] + HOUR_S * 900, f"the trainer did not see its clock jump: runs {runs}")
        for process in receivers:
            require(process.running(), f"{process.name} ended: {process.said()}")
        trainer.signal(fleet.signal.SIGTERM)
        code = trainer.wait(60)
        summary = trainer.find(kind="summary")
        require(code == 0 and summary and fleet.audited(summary, range(RECEIVERS)),
                f"the trainer ended with {code}: {summary}")
    print(f"{jumps} jumps of two clocks by an hour: {len(jumped)} syncs, all ok, all ready; "
          "a trainer that came back an hour early, and one an hour late, were obeyed")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("--seconds", type=float, default=8, help="for which clocks jump")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if not LIBRARIES:
        print("skipped: libfaketime is missing (Debian: faketime)")
        return fleet.SKIPPED
    with tempfile.TemporaryDirectory(prefix="lockstep-clocks-") as scratch:
        try:
            play(options, pathlib.Path(scratch))
        except (fleet.Late, fleet.Failed) as problem:
            print(f"FAILED {problem}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
