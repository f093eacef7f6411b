#!/usr/bin/env python3
"""Decides whether a fleet heals whatever step of whatever actor a process is killed at.

    failpoints.py PROGRAM [--points REGEX] [--times N] [--receivers N] [--heal-seconds S] [--seed S]

The program lists its points (`drill.kill_at`). One after the other, a receiver, the trainer or its
second rank is started with one of them, ends there as by kill -9, comes back without it, and has to
be whole again; every `ready` is held against the bytes meanwhile. What a point needs to be reached
(a torn file, a receiver that dies or stands still, an audit) is done to the fleet. A point that is
not reached fails the run; those of NOT_TRIED are left out. As `chaos.py` otherwise.
"""
from __future__ import annotations

import argparse
import json
import pathlib
import random
import re
import signal
import subprocess
import sys
import tempfile
import time

import chaos
import fleet
import model

# Steps that no fault from outside surely leads to; tests of the machines and the simulator do.
NOT_TRIED = {
    "receiver.check_slot": "a redo, after a write that failed and left its process alive",
    "sync.ship_redo": "likewise",
    "supervision.restart": "receivers in the trainer's own process",
    "rank.end": "a start that the coordinator gives up, or a run that ends under a living rank",
}
# How long a process may take to come to its point, undisturbed and after each disturbance.
REACH_S = 1.2
PARTNER = 100  # an id that no member has
TRIES = 3  # some steps are taken only where two things fall together
# How long all receivers stand still: longer than a sync waits for their votes.
STAND_S = 2.5


def points_of(program, base):
    """What the program says that there is, when it is told a point that there is not."""
    told = subprocess.run([program, "trainer", "--base", base, "--listen", "127.0.0.1:0"],
                          capture_output=True, text=True, timeout=20,
                          env=fleet.environment({"drill.kill_at": "?"}))
    _, _, listed = told.stderr.partition("of these points: ")
    return listed.split()


class Sweep(chaos.Chaos):
    def __init__(self, options, versions, scratch, settings):
        super().__init__(options, versions, scratch, settings)
        self.reached, self.unreached = [], []
        self.armed = []  # receivers that are to end at a point of their own
        self.whole_times = []
        self.rng = random.Random(options.seed)

    def look_for(self, seconds, condition):
        """Like `wait_until`, with an eye on everybody else; False when the time is over."""
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                return False
            self.tick()
            time.sleep(0.01)
        return True

    def whole(self, what):
        """All are ready and members again, in time."""
        began = time.monotonic()
        if not self.look_for(self.options.heal_seconds, self.all_ready):
            self.watch.violation(f"not whole {self.options.heal_seconds} s after {what}: "
                                 f"{[m.line for m in self.members]}; {self.trainer.said()[-400:]}")
            return
        self.whole_times.append(time.monotonic() - began)

    def died(self, process, point, tries):
        """Whether it died at that point. If not, and no try is left, the point is not reached."""
        reached = not process.running()
        if reached:
            self.reached.append(point)
        else:
            if tries == 1:
                self.unreached.append(point)
            process.signal(signal.SIGKILL)
        self.ends(process, -signal.SIGKILL)
        return reached

    # Receivers

    def kill_receivers(self, points, tries=TRIES):
        """One receiver a point, at the same time. Where some are not reached, these again."""
        missed = []
        struck = list(zip(self.members, points))
        for member, point in struck:
            member.busy = True
            member.process.signal(signal.SIGKILL)
            self.ends(member.process, -signal.SIGKILL)
            if member.file and member.file.exists():
                model.tear(member.file, self.rng)
            self.start_receiver(member, settings={"drill.kill_at": point})
            member.busy = True
        self.look_for(2 * REACH_S, lambda: not any(m.process.running() for m, _ in struck))
        for member, point in struck:
            if member.process.running():
                # Without a trainer it has nothing to say, and with a new one it starts anew.
                self.restart_trainer()
                self.look_for(2 * REACH_S, lambda m=member: not m.process.running())
            if not self.died(member.process, point, tries):
                missed.append(point)
            member.begin_healing(f"kill at {point}")
            self.start_receiver(member)
        self.whole(f"{points}")
        if missed and tries > 1:
            self.kill_receivers(missed, tries - 1)

    # The trainer

    def restart_trainer(self, rank=0, settings=None):
        self.trainer_busy = True
        process = self.rank(rank)
        if process.running():
            process.signal(signal.SIGKILL)
        self.ends(process, -signal.SIGKILL)
        self.start_rank(rank, settings)

    def disturbances(self):
        """What happens to receivers, so that a trainer comes to more of its steps."""
        victim = self.members[0]

        def arm(member, point):
            self.start_receiver(member, settings={"drill.kill_at": point})
            member.busy = True
            self.armed.append(member)

        def kill():
            victim.busy = True
            victim.process.signal(signal.SIGKILL)
            self.ends(victim.process, -signal.SIGKILL)

        def die_attaching():
            arm(victim, "receiver.compute_digest:before")

        def bring_back_torn():
            victim.process.signal(signal.SIGKILL)
            self.ends(victim.process, -signal.SIGKILL)
            model.tear(victim.file, self.rng)
            self.start_receiver(victim)

        def die_voting():
            for member in self.members:
                member.process.signal(signal.SIGKILL)
                self.ends(member.process, -signal.SIGKILL)
                arm(member, "receiver.verify_slot:before")

        def stop_all():
            for member in self.members:
                member.busy = True
                member.process.stop()

        def go_on():
            for member in self.members:
                member.process.go_on()
                member.busy = False

        def leave():
            victim.busy = True
            victim.process.signal(signal.SIGTERM)
            self.ends(victim.process, 0)

        def come_again():
            self.start_receiver(victim)

        def audit():
            self.fleet.ask("audit", f"127.0.0.1:{self.port}")

        return [(audit, 0.1), (kill, REACH_S), (die_attaching, REACH_S), (bring_back_torn, REACH_S),
                (stop_all, STAND_S), (go_on, REACH_S), (leave, REACH_S), (come_again, REACH_S),
                (die_voting, REACH_S)]

    def kill_trainer(self, point, tries=TRIES):
        rank = self.options.ranks - 1 if point.startswith("rank.") else 0
        self.restart_trainer(rank, {"drill.kill_at": point})
        process = self.rank(rank)
        self.trainer_busy = True
        ended = self.look_for(REACH_S, lambda: not process.running())
        for disturb, seconds in self.disturbances():
            if ended:
                break
            disturb()
            ended = self.look_for(seconds, lambda: not process.running())
        for member in self.members:
            if member.process.stopped:
                member.process.go_on()
            if member in self.armed:
                member.process.signal(signal.SIGKILL)
                member.process.wait(10)
            if not member.process.running():
                self.ends(member.process, -signal.SIGKILL, 0)
                self.start_receiver(member)
            member.busy = False
        self.armed = []
        reached = self.died(process, point, tries)
        self.start_rank(rank)
        self.whole(point)
        if not reached and tries > 1:
            self.kill_trainer(point, tries - 1)

    # The run

    def sweep(self, points):
        def drive(plan):
            receivers = [p for p in plan if p.startswith("receiver.")]
            # One stays alone, so that the trainer always has somebody to sync.
            at_once = len(self.members) - 1
            for i in range(0, len(receivers), at_once):
                self.kill_receivers(receivers[i:i + at_once])
            for point in plan:
                if not point.startswith("receiver."):
                    self.kill_trainer(point)
        self.begin()
        carving = [p for p in points if p.startswith("rank.carve:")]
        for _ in range(self.options.times):
            drive([p for p in points if p not in carving])
        if carving:
            # No rank carves without a receiver of a part; one that is never struck has no sync abort.
            self.guests = {PARTNER}
            partner = self.fleet.receiver(PARTNER, self.addresses(), "--tensors", "layer.*")
            for _ in range(self.options.times):
                drive(carving)
            if not partner.running():
                self.watch.violation(f"{partner.name} ended: {partner.said()}")
        for point in sorted(set(self.unreached) - set(self.reached)):
            self.watch.violation(f"{point} is never reached")
        self.heal()
        self.last_pass()


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("program")
    parser.add_argument("--points", default="", metavar="REGEX", help="only those that it matches")
    parser.add_argument("--times", type=int, default=1)
    parser.add_argument("--receivers", type=int, default=4)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--heal-seconds", type=float, default=10)
    parser.add_argument("--mebibytes", type=float, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--period-ms", type=int, default=20)
    return parser.parse_args(arguments)


def main(arguments=None):
    options = parse(arguments)
    with tempfile.TemporaryDirectory(prefix="lockstep-failpoints-") as scratch:
        scratch = pathlib.Path(scratch)
        versions = model.synthetic(scratch / "model", options.seed, mebibytes=options.mebibytes)
        points = [p for p in points_of(options.program, versions.base)
                  if re.search(options.points, p) and p.partition(":")[0] not in NOT_TRIED]
        fleet.require(points, "the program lists no such point")
        sweep = Sweep(options, versions, scratch, dict(chaos.SETTINGS))
        began = time.monotonic()
        try:
            sweep.sweep(points)
        except (fleet.Late, fleet.Failed) as problem:
            sweep.watch.violation(str(problem))
        finally:
            sweep.finish()
    times = sorted(sweep.whole_times)
    report = {"kind": "failpoints", "points": len(points), "kills": len(sweep.reached),
              "unreached": sorted(set(sweep.unreached)), "counts": sweep.watch.counts,
              "whole_seconds": {"p50": round(times[len(times) // 2], 3),
                                "max": round(times[-1], 3)} if times else None,
              "seconds": round(time.monotonic() - began, 1),
              "violations": sweep.watch.violations, "pass": not sweep.watch.violations}
    for violation in report["violations"]:
        print(f"VIOLATION {violation}")
    print(json.dumps(report), flush=True)
    return 0 if report["pass"] else 1


if __name__ == "__main__":
    sys.exit(main())
