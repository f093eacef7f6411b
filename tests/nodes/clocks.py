#!/usr/bin/env python3
"""Decides whether wall clocks that jump, and clocks that run too fast or too slow, change anything in a fleet.

    clocks.py PROGRAM [--shim SHIM] [--seconds S] [--seed S]     SHIM: clock_shim.cpp, built

Jumps: the wall clocks of a trainer and of one receiver jump by an hour, forth and back, each on its own. While they do
every sync is ok, and nobody stops serving but for its writes. Then the trainer is killed and comes back an hour before
it began, and an hour after: with `trainer.run_file` the fleet obeys it both times. At the end all pass the audit.

Drift: all clocks of the trainer run too fast and those of one receiver too slow, by 500 ppm and by 5 %. Again every
sync is ok and nobody stops serving. Then that receiver is stopped for longer than its own clock lets its lease last:
going on it is not ready before it holds what the others do. At the end all pass the audit, and each process has told
how far its clocks went. With a clock 40 times too fast a receiver's lease ends between two words of the trainer: else
nothing would have been tried.

Exit 1 where it did not hold, 77 where a library is missing and what it is for was left out: libfaketime for jumps, SHIM
for drift. Python 3.9 or later, no packages.
"""
from __future__ import annotations

import functools
import json
import pathlib
import sys
import time

import fleet
import model
from fleet import require

LIBRARIES = sorted(pathlib.Path("/usr").glob("lib*/**/faketime/libfaketimeMT.so.1"))
HOUR_S = 3600
LEASE_S = 4
SETTINGS = {"log.level": "warn", "receiver.lease_ms": LEASE_S * 1000, "receiver.ping_ms": 200, "receiver.hello_ms": 200}
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


class Seen:
    """What a trainer and its receivers say."""

    def __init__(self):
        self.syncs, self.lapses, self.settled = [], [], False

    def sync(self, _, line):
        if line.get("kind") == "sync":
            self.syncs.append(line)

    def state(self, process, line):
        # Each delta stops a receiver's service while it is written.
        if self.settled and line.get("kind") == "state" and not line["ready"] and line["phase"] != "applying":
            self.lapses.append((process.name, line))

    def whole(self, since, receivers):
        good = [s for s in self.syncs[since:] if s["result"] == "ok"]
        return len(good) >= 3 and all(r.objects and fleet.is_ready(r.objects[-1]) for r in receivers)

    def undisturbed(self, what, tick):
        """Lets time pass, by `tick()`, until it gives False; the syncs of that time, all of them ok."""
        before, self.settled = len(self.syncs), True
        while tick():
            pass
        self.settled = False
        syncs = self.syncs[before:]
        require(len(syncs) >= 5, f"only {len(syncs)} syncs ended: {what}")
        bad = [s for s in syncs if s["result"] != "ok"]
        require(not bad, f"{what} failed a sync: {bad[:1]}")
        require(not self.lapses, f"{what} took one out of service: {self.lapses[:1]}")
        return syncs


def start(f, listen, seen):
    return f.trainer(listen=listen, receivers=RECEIVERS, rounds=1_000_000, period_ms=100, on_object=seen.sync)


def end(trainer, receivers):
    """All ran to the end and pass the audit."""
    for process in receivers:
        require(process.running(), f"{process.name} ended: {process.said()}")
    trainer.signal(fleet.signal.SIGTERM)
    code = trainer.wait(60)
    summary = trainer.find(kind="summary")
    require(code == 0 and summary and fleet.audited(summary, range(RECEIVERS)),
            f"the trainer ended with {code}: {summary}")


def jumps(options, scratch):
    versions = model.synthetic(scratch, options.seed, mebibytes=0.5)
    clocks = {("trainer", 0): Clock(scratch / "trainer.clock"), ("receiver", 0): Clock(scratch / "receiver.clock")}

    def prefix(role, id):
        return clocks[role, id].words() if (role, id) in clocks else []

    seen = Seen()
    with fleet.Fleet(options.program, versions.base, versions.stream,
                     {**SETTINGS, "trainer.run_file": scratch / "run"}, prefix=prefix) as f:
        trainer = start(f, "127.0.0.1:0", seen)
        address = fleet.address_of(trainer)
        receivers = [f.receiver(i, address, on_object=seen.state) for i in range(RECEIVERS)]
        fleet.wait_until("three good syncs of all", lambda: seen.whole(0, receivers), 60)

        def run():
            return fleet.run_of(receivers[-1].objects[-1]["version"])

        runs = [run()]
        until = time.monotonic() + options.seconds
        count = 0

        def jump():
            nonlocal count
            for n, clock in enumerate(clocks.values()):
                clock.set((HOUR_S, 0, -HOUR_S, 0)[(count + n) % 4])
            count += 1
            time.sleep(0.5)
            return time.monotonic() < until

        jumped = seen.undisturbed("a clock that jumps", jump)
        for offset in (-HOUR_S, HOUR_S):
            trainer.kill()
            f.forget(trainer)
            clocks["trainer", 0].set(offset)
            before = len(seen.syncs)
            trainer = start(f, address, seen)
            fleet.wait_until(lambda: f"a trainer whose clock is off by {offset} s is obeyed: {trainer.said()}",
                             lambda since=before: seen.whole(since, receivers), 60)
            runs.append(run())
        # Milliseconds: the file's next number, then the clock's. Else no clock jumped, and nothing was tried.
        require(runs[0] < runs[1] < runs[0] + HOUR_S * 100, f"the clock that was set back was followed: runs {runs}")
        require(runs[2] > runs[0] + HOUR_S * 900, f"the trainer did not see its clock jump: runs {runs}")
        end(trainer, receivers)
    print(f"{count} jumps of two clocks by an hour: {len(jumped)} syncs, all ok, all ready; "
          "a trainer that came back an hour early, and one an hour late, were obeyed")


class Drifting:
    """Processes whose clocks run by a factor of their own."""

    def __init__(self, shim, scratch, factors):
        self.shim, self.scratch, self.factors = shim, scratch, factors

    def log(self, role, id):
        return self.scratch / f"{role}-{id}.drift"

    def words(self, role, id):
        factor = self.factors.get((role, id))
        return ["env", f"LD_PRELOAD={self.shim}", f"CLOCK_FACTOR={factor}",
                f"CLOCK_LOG={self.log(role, id)}"] if factor else []

    def require_it_did(self, role, id):
        """Each process measures its clocks itself, when it ends."""
        line = json.loads(self.log(role, id).read_text(encoding="ascii"))
        for clock in ("steady", "system"):
            ran = line[clock] / line[clock + "_real"]
            require(abs(ran - self.factors[role, id]) < 1e-4, f"the {clock} clock of {role} {id} ran by {ran}: {line}")
        require(line["waits"] > 100 and line["early"] == 0, f"{role} {id} did not wait by its own clock: {line}")


def drift(options, scratch, by):
    versions = model.synthetic(scratch, options.seed, mebibytes=0.5)
    drifting = Drifting(options.shim, scratch, {("trainer", 0): 1 + by, ("receiver", 0): 1 - by})
    seen = Seen()
    with fleet.Fleet(options.program, versions.base, versions.stream, SETTINGS, prefix=drifting.words) as f:
        trainer = start(f, "127.0.0.1:0", seen)
        address = fleet.address_of(trainer)
        receivers = [f.receiver(i, address, on_object=seen.state) for i in range(RECEIVERS)]
        fleet.wait_until("three good syncs of all", lambda: seen.whole(0, receivers), 60)
        until = time.monotonic() + options.seconds
        syncs = seen.undisturbed(f"a drift by {by:g}", lambda: time.sleep(0.1) or time.monotonic() < until)

        struck = receivers[0]
        struck.stop()
        # Longer than it takes itself to be the last to know; the others have gone on by then.
        before, until = len(seen.syncs), time.monotonic() + LEASE_S / (1 - by) * 1.25
        fleet.wait_until("the others go on, for longer than a lease",
                         lambda: len(seen.syncs) > before + 1 and time.monotonic() > until, 30)
        held = max(s["version"] for s in seen.syncs if s["result"] != "aborted")
        said = struck.count
        struck.go_on()
        fleet.wait_until(lambda: f"ready again: {struck.said()}", lambda: struck.count > said and
                         fleet.is_ready(struck.objects[-1]) and struck.objects[-1]["label"] >= held, 60)
        since = list(struck.objects)[said - struck.count:]
        require(not since[0]["ready"], f"its lease was over, and it said first: {since[0]}")
        wrong = [line for line in since if fleet.is_ready(line) and line["label"] < held]
        require(not wrong, f"ready at less than the others' {held}: {wrong[:1]}")
        end(trainer, receivers)
        require(struck.terminate() == 0, f"{struck.name}: {struck.said()}")
    for who in drifting.factors:
        drifting.require_it_did(*who)
    print(f"clocks of a trainer and a receiver {by:.2%} too fast and too slow: {len(syncs)} syncs, all ok, all ready; "
          "stopped for longer than its lease the receiver was ready again only with what the others hold")


def far_too_fast(options, scratch):
    """The lease is over before anybody can have spoken."""
    versions = model.synthetic(scratch, options.seed, mebibytes=0.5)
    drifting = Drifting(options.shim, scratch, {("receiver", 0): 40})
    with fleet.Fleet(options.program, versions.base, versions.stream, SETTINGS, prefix=drifting.words) as f:
        address = fleet.address_of(f.trainer(receivers=1, rounds=1))
        receivers = [f.receiver(i, address) for i in range(2)]
        for r in receivers:
            r.wait_for("ready", fleet.is_ready, 60)
        receivers[0].wait_for("its lease ends", lambda o: o.get("reason") == "lease_expired", 10)
        time.sleep(LEASE_S)
        require(not any(o.get("reason") == "lease_expired" for o in receivers[1].objects), receivers[1].said())


def main():
    parser = fleet.parser_of(__doc__)
    parser.add_argument("--shim", help="the library that lets clocks drift")
    parser.add_argument("--seconds", type=float, default=8, help="for which clocks jump, and drift")
    options = parser.parse_args()
    plays = []
    if LIBRARIES:
        plays.append(jumps)
    else:
        print("skipped: jumps; libfaketime is missing (Debian: faketime)")
    if options.shim:
        plays += [far_too_fast, *(functools.partial(drift, by=by) for by in (500e-6, 0.05))]
    else:
        print("skipped: drift; there is no --shim")
    failed = fleet.verdict_on("clocks", *(functools.partial(play, options) for play in plays))
    return failed or (0 if LIBRARIES and options.shim else fleet.SKIPPED)


if __name__ == "__main__":
    sys.exit(main())
