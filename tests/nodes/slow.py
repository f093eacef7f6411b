#!/usr/bin/env python3
"""Decides whether one receiver at a hundredth of its speed costs the others more than the set times.

    slow.py PROGRAM [--receivers N] [--seconds N] [--seed N]

The slow one is stopped for 99 of every 100 parts of the time. Each sync must commit at all others, no later than
`sync.stage_timeout_ms` after it would have without the slow one; that one's failure stands in a report, with its
name; what the trainer holds for it is two buckets more than for a quick one that was given all weights as well. At its
old speed again it comes back, and all pass the audit. Prints what was seen. Python 3.9 or later, no packages.
"""
from __future__ import annotations

import functools
import os
import statistics
import sys
import time

import fleet
import model
from fleet import require

STAGE_S = 1.0
RECOVERY_S = 0.2  # else a report waits for the slow one's return, and the next sync for the report
BUCKET = 1_310_720  # bytes, the least there is: 16 MiB of weights are many
SETTINGS = {
    "log.level": "error",
    "sync.stage_timeout_ms": int(STAGE_S * 1000),
    "sync.recovery_timeout_ms": int(RECOVERY_S * 1000),
    "sync.history_percent": 0,  # what is kept of past syncs grows with their number, not with who is slow
    "bucket.bytes_max": BUCKET,
    "bucket.credit": 2,
}
RESTARTS = 12
PERIOD_S = 2.0  # of stop and go
SLACK_S = 1.0  # two cores, nine processes
BACK_S = 90


class Syncs:
    """Lines of syncs as they come, and when."""

    def __init__(self):
        self.lines, self.times = [], []

    def see(self, _, line):
        if line.get("kind") == "sync":
            self.times.append(time.monotonic())
            self.lines.append(line)

    def longest_gap(self, since, until):
        """Seconds in which no sync ended, between two of them."""
        return max((b - a for a, b in zip(self.times[since:until], self.times[since + 1:until])), default=0)


def held_up(line):
    """Seconds until all who answered held the version."""
    return sum(line["seconds"][phase] for phase in ("encode", "ship", "vote", "commit"))


def of(line, id):
    return next((r for r in line["receivers"] if r["id"] == id), None)


def drag(process, seconds):
    """One part of a hundred of the time is the process' own."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        process.stop()
        time.sleep(PERIOD_S * 0.99)
        process.go_on()
        time.sleep(PERIOD_S * 0.01)


def play(options, scratch):
    versions = model.synthetic(scratch, options.seed, versions=6, mebibytes=16)
    syncs = Syncs()
    with fleet.Fleet(options.program, versions.base, versions.stream, SETTINGS) as f:
        trainer = f.trainer(receivers=options.receivers, rounds=1_000_000, period_ms=100, on_object=syncs.see)
        address = fleet.address_of(trainer)
        receivers = [f.receiver(i, address) for i in range(options.receivers)]
        fleet.wait_until("five syncs", lambda: len(syncs.lines) >= 5, 60)
        # A quick one that needs all weights, so often that the trainer's allocator has seen all of it.
        for _ in range(RESTARTS):
            last = receivers.pop()
            last.kill()
            f.forget(last)
            last = f.receiver(options.receivers - 1, address)
            receivers.append(last)
            last.wait_for("ready again", fleet.is_ready, 60)
            before = len(syncs.lines)
            fleet.wait_until("five syncs more", lambda: len(syncs.lines) >= before + 5, 60)
        quick, quick_memory = syncs.lines[before:], trainer.rss_peak()
        usual = statistics.median(map(held_up, quick))

        before = len(syncs.lines)
        drag(last, options.seconds)
        slow, slow_memory = syncs.lines[before:], trainer.rss_peak()
        gap = syncs.longest_gap(before, before + len(slow))
        label = slow[-1]["version"] if slow else 0
        fleet.wait_until("the slow one is back", lambda: fleet.is_ready(last.objects[-1]) and
                         any((of(line, options.receivers - 1) or {}).get("status") == "ok"
                             for line in syncs.lines[before + len(slow):]), BACK_S)
        trainer.signal(fleet.signal.SIGTERM)
        code = trainer.wait(60)
        summary = trainer.find(kind="summary")
    print(f"{len(slow)} syncs beside a slow receiver, to version {label}; the longest until all others held it "
          f"{max(map(held_up, slow), default=0):.2f} s, usually {usual:.2f} s without, the longest without a sync "
          f"{gap:.2f} s; trainer's memory "
          f"{quick_memory / 1e6:.1f} MB, then {slow_memory / 1e6:.1f} MB")
    # A sync may wait for the attach that it found under way, for its own votes, and for a recovery.
    allowed = usual + 2 * STAGE_S + RECOVERY_S + SLACK_S
    require(gap <= allowed, f"for {gap:.2f} s no sync ended, which is more than {allowed:.2f}")
    for line in slow:
        require(held_up(line) <= usual + STAGE_S + SLACK_S, f"the others were held up: {line}")
        for id in range(options.receivers - 1):
            require(of(line, id)["status"] == "ok", f"receiver {id} paid for the slow one: {line}")
    blamed = [r for r in (of(line, options.receivers - 1) for line in slow) if r and r["status"] != "ok"]
    require(blamed, "no report says that the slow receiver failed")
    require(any(r["reason"] == "timeout" and r["name"] for r in blamed), f"not said why: {blamed[0]}")
    require(slow_memory <= quick_memory + 2 * BUCKET, "the trainer holds more for a slow receiver than two buckets")
    require(code == 0 and summary and fleet.audited(summary, range(options.receivers)),
            f"the trainer ended with {code}: {summary}")


def main():
    parser = fleet.parser_of(__doc__)
    parser.add_argument("--receivers", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=20)
    options = parser.parse_args()
    # What is freed goes back to the kernel at once: what an allocator keeps is not held for anybody,
    # and differs by more than what is looked for here.
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"
    return fleet.verdict_on("slow", functools.partial(play, options))


if __name__ == "__main__":
    sys.exit(main())
