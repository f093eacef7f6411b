#!/usr/bin/env python3
"""Decides whether a fleet that syncs and syncs grows: memory, descriptors and threads of every process.

    syncs.py PROGRAM [--minutes N] [--seed N] [--receivers N] [--fanout N]

A tiny model, so that there are many syncs; every process is looked at each second. What comes in the first fifth
(at most ten minutes) fills caches. From there on resident memory, as a straight line through the samples, may grow by
1 MB an hour, and in short runs by 1 MB in all; descriptors and threads stay as many as they were; every sync commits
to all, and every receiver passes the audit in the end. Prints what was seen. Python 3.9 or later, no packages.
"""
from __future__ import annotations

import argparse
import os
import pathlib
import sys
import tempfile
import time

import fleet
import model
from fleet import require

HOUR = 3600
GROWTH_PER_HOUR = 1e6  # bytes
GROWTH_IN_ALL = 1e6  # bytes, where an hour's share would be less than an allocator's whims
SETTINGS = {"log.level": "error"}


def descriptors(pid):
    """Of sockets, pipes and the kernel's own things; and of files, which are open for moments only."""
    lasting = files = 0
    for number in os.listdir(f"/proc/{pid}/fd"):
        try:
            is_file = os.readlink(f"/proc/{pid}/fd/{number}").startswith("/")
        except FileNotFoundError:  # closed since
            continue
        files += is_file
        lasting += not is_file
    return lasting, files


class Samples:
    """What a process held, second by second."""

    def __init__(self, process):
        self.process, self.points = process, []

    def take(self, at):
        try:
            lasting, files = descriptors(self.process.pid)
            threads = len(os.listdir(f"/proc/{self.process.pid}/task"))
        except OSError:
            raise fleet.Failed(f"{self.process.name} is gone: {self.process.said()}") from None
        self.points.append((at, self.process.rss(), lasting, threads, files))

    def settled(self, since):
        return [p for p in self.points if p[0] >= since]


def slope(points):
    """Bytes a second, by least squares."""
    mean = [sum(p[i] for p in points) / len(points) for i in (0, 1)]
    spread = sum((p[0] - mean[0]) ** 2 for p in points)
    return sum((p[0] - mean[0]) * (p[1] - mean[1]) for p in points) / spread if spread else 0.0


class Watch:
    """Counts syncs, and those that did not reach all."""

    def __init__(self):
        self.syncs, self.bad = 0, []

    def see(self, _, line):
        if line.get("kind") == "sync":
            self.syncs += 1
            if line["result"] != "ok" and len(self.bad) < 10:
                self.bad.append(line)


def play(options, scratch):
    versions = model.synthetic(scratch, options.seed, versions=10, mebibytes=0.03)
    watch = Watch()
    seconds = options.minutes * 60
    with fleet.Fleet(options.program, versions.base, versions.stream, SETTINGS,
                     secured=fleet.passing_on(options.fanout)) as f:
        trainer = f.trainer(receivers=options.receivers, rounds=1_000_000_000, on_object=watch.see)
        address = fleet.address_of(trainer)
        processes = [trainer, *(f.receiver(i, address) for i in range(options.receivers))]
        trainer.wait_for("the first sync", lambda o: o.get("kind") == "sync", 60)
        samples = [Samples(p) for p in processes]
        begin, first = time.monotonic(), watch.syncs
        while (now := time.monotonic() - begin) < seconds:
            for s in samples:
                s.take(now)
            time.sleep(1)
        syncs = watch.syncs - first
        # It finishes its sync, has all receivers audited, and ends.
        trainer.signal(fleet.signal.SIGTERM)
        code = trainer.wait(60)
        summary = trainer.find(kind="summary")
    problems = [f"a sync that did not commit to all: {line}" for line in watch.bad]
    if code != 0 or not summary or not fleet.audited(summary, range(options.receivers)):
        problems.append(f"the trainer ended with {code}: {summary}")
    print(f"{syncs} syncs in {seconds:.0f} s, {syncs / seconds:.0f} a second, to {options.receivers} receivers")
    since = min(seconds / 5, 600)
    for s in samples:
        problems += judge(s, since, syncs / seconds)
    return problems


def judge(samples, since, rate):
    """Prints a process' line; what is wrong with it."""
    name, points = samples.process.name, samples.settled(since)
    require(len(points) >= 3, f"{name}: only {len(points)} samples: run for longer")
    took = points[-1][0] - points[0][0]
    grows = slope(points)
    print(f"{name:12} RSS {points[0][1] / 1e6:.2f} MB after {points[0][0]:.0f} s, {points[-1][1] / 1e6:.2f} MB after "
          f"{points[-1][0]:.0f} s: {grows * HOUR / 1e6:+.3f} MB/h, {grows / rate:+.2f} B/sync; "
          f"{points[-1][2]} descriptors, {points[-1][3]} threads")
    problems = []
    if grows * took > max(GROWTH_PER_HOUR * took / HOUR, GROWTH_IN_ALL):
        problems.append(f"{name} grows by {grows * HOUR / 1e6:.2f} MB/h")
    for column, what in ((2, "descriptors"), (3, "threads")):
        counts = sorted({p[column] for p in points})
        if len(counts) > 1:
            problems.append(f"{name} has {counts} {what}")
    # One that is not closed raises the least that is open.
    half = len(points) // 2
    least = [min(p[4] for p in part) for part in (points[:half], points[half:])]
    if least[1] > least[0]:
        problems.append(f"{name} has {least[0]} files open, and {least[1]} later")
    return problems


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--receivers", type=int, default=3)
    parser.add_argument("--fanout", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lockstep-syncs-") as scratch:
        try:
            problems = play(options, pathlib.Path(scratch))
        except (fleet.Failed, fleet.Late) as problem:
            problems = [str(problem)]
    for problem in problems:
        print(f"FAILED {problem}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
