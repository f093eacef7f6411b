"""Decides what who is stopped, slow or gone costs the others, and that nothing grows.

Cases of smoke.py.
"""
from __future__ import annotations

import os
import time

import fleet
from cases import READY_S, SETTINGS, case, last_state, ready_at
from fleet import address_of, is_ready, require, wait_until
from model import alike
from road import Road


@case
def lease_ends_without_a_trainer(world):
    """Nobody goes on serving for ever when the trainer is gone, or only stopped."""
    with world.fleet() as f:
        trainer = f.trainer(receivers=1, rounds=1)
        receiver = f.receiver(0, address_of(trainer))
        ready_at(receiver, world.last)
        trainer.stop()
        wait_until("the lease ends", lambda: not last_state(receiver).get("ready"), 8)
        trainer.go_on()
        wait_until("ready again", lambda: last_state(receiver).get("ready"), READY_S)
        trainer.kill()
        wait_until("the lease ends", lambda: not last_state(receiver).get("ready"), 8)
        require(receiver.terminate() == 0, "SIGTERM ends it with 0 without a trainer too")


@case
def a_stopped_receiver_costs_others_its_deadlines_and_no_more(world):
    """SIGSTOP: the socket stays open and nothing comes. One sync waits for the vote, and for the
    recovery or until the lease is over, once each; those after it go on at once."""
    stopped_receiver(world, recovery=500, lease=5000)
    stopped_receiver(world, recovery=60_000, lease=1500)


def stopped_receiver(world, recovery, lease):
    stage = 1000
    with world.fleet(settings={"sync.stage_timeout_ms": stage, "sync.recovery_timeout_ms": recovery,
                               "sync.commit_timeout_ms": 1000, "receiver.lease_ms": lease}) as f:
        trainer = f.trainer(receivers=2, rounds=1000, period_ms=20)
        at = address_of(trainer)
        receivers = [f.receiver(i, at) for i in range(2)]
        for r in receivers:
            r.wait_for("ready", is_ready, READY_S)
        wait_until("some syncs", lambda: trainer.count > 5, 10)
        receivers[1].stop()
        gap, syncs = longest_gap(trainer, 6)
        require(syncs > 50, f"{syncs} syncs while one receiver is stopped")
        # What the deadlines add up to, and that again for a busy machine.
        limit = 2 * (stage + min(recovery, lease) + 1000) / 1000
        require(gap < limit, f"a sync took {gap:.2f} s")
        receivers[1].go_on()
        wait_until("it is ready again", lambda: last_state(receivers[1]).get("ready"), READY_S)


@case
def a_slow_receiver_costs_others_the_deadline_and_no_more(world):
    """One of eight has a road on which a delta takes far longer than staging may."""
    second = 1000
    deadlines = ("stage", "attach", "full", "commit", "recovery")
    not_ok = []

    def look(_, line):
        if line.get("kind") == "sync" and line["result"] != "ok":
            not_ok.append(line)

    with world.fleet(settings={f"sync.{d}_timeout_ms": second for d in deadlines}) as f:
        trainer = f.trainer(receivers=8, rounds=10_000, period_ms=20, on_object=look)
        at = address_of(trainer)
        with Road(at) as road:
            receivers = [f.receiver(i, road.address if i == 7 else at) for i in range(8)]
            for r in receivers:
                r.wait_for("ready", is_ready, READY_S)
            wait_until("some syncs", lambda: trainer.count > 20, 10)
            before = trainer.rss()
            road.rate = 500  # bytes a second; a delta has 9,000
            gap, syncs = longest_gap(trainer, 8)
            grown = trainer.rss() - before
            require(syncs > 50, f"{syncs} syncs while one receiver is slow")
            # The vote and the recovery, once each, and that again for a busy machine.
            require(gap < 4, f"a sync took {gap:.2f} s")
            require(grown < 8 << 20, f"the trainer grew by {grown} bytes")
            require(not_ok, "no report names it")
            for line in not_ok:
                failed = [r["id"] for r in line["receivers"] if r["status"] != "ok"]
                require(failed == [7], f"{failed} failed in sync {line['version']}")
            road.rate = None
            wait_until("it is ready again", lambda: last_state(receivers[7]).get("ready"), READY_S)


@case
def control_does_not_wait_behind_bulk(world):
    """Seconds of weights are under way on a narrow road, and a lease of one second is kept over it all the time."""
    versions = alike(world.place("alike"), 1, mebibytes=4)
    patience = {f"sync.{d}_timeout_ms": 60_000 for d in ("stage", "commit", "attach", "full", "recovery")}
    lapses, asked = [], []

    def look(_, line):
        if line.get("reason") == "lease_expired":
            lapses.append(line)
    with fleet.Fleet(world.program, versions.base, versions.stream,
                     {**SETTINGS, **patience, "receiver.lease_ms": 1000, "receiver.ping_ms": 100}) as f:
        trainer = f.trainer(receivers=1, rounds=1_000)
        at = address_of(trainer)
        with Road(at) as road:
            receiver = f.receiver(0, road.address, on_object=look)
            receiver.wait_for("ready", is_ready, READY_S)
            wait_until("some syncs", lambda: trainer.count > 3, 30)
            road.rate = 1_000_000  # bytes a second
            count, end = trainer.count, time.monotonic() + 8
            while time.monotonic() < end:
                began = time.monotonic()
                require(f.ask("status", road.address).code == 0, "status over the full road")
                asked.append(time.monotonic() - began)
            syncs = trainer.count - count
            require(syncs < 4, f"{syncs} syncs: the road was not full")
            require(not lapses, lambda: f"the lease was not renewed: {lapses[0]}")
            require(sorted(asked)[len(asked) // 2] < 1, f"a status took {asked} s")
            road.rate = None
            wait_until("syncs go on", lambda: trainer.count > count + syncs + 3, 30)


def longest_gap(trainer, seconds):
    """Between what a trainer says, in seconds, and how often it spoke."""
    times, began, seen = [], time.monotonic(), trainer.count
    while time.monotonic() - began < seconds:
        if trainer.count > seen:
            seen = trainer.count
            times.append(time.monotonic())
        time.sleep(0.005)
    return max(b - a for a, b in zip([began] + times, times + [time.monotonic()])), len(times)


@case
def old_words_renew_no_lease(world):
    """What a receiver finds in its socket when it goes on does not make it ready."""
    with world.fleet() as f:
        trainer = f.trainer(receivers=4, rounds=1)
        at = address_of(trainer)
        receivers = [f.receiver(i, at) for i in range(4)]
        for r in receivers:
            ready_at(r, world.last)
        time.sleep(0.5)  # until nothing but pings is under way
        for r in receivers:
            r.stop()
        # Pings of a whole lease and longer wait in their sockets, and nobody speaks any more.
        time.sleep(SETTINGS["receiver.lease_ms"] / 1000 * 1.25)
        trainer.kill()
        counts = [r.count for r in receivers]
        for r in receivers:
            r.go_on()
        for r, count in zip(receivers, counts):
            wait_until(f"{r.name} is not ready", lambda: not last_state(r)["ready"], 1)
            said = list(r.objects)[count - r.count:]
            require(not any(is_ready(o) for o in said), lambda: f"{r.name}: {r.said()}")


@case
def who_is_gone_is_dead_and_who_is_silent_not_ready(world):
    lease = 1000
    with world.fleet(settings={"receiver.lease_ms": lease, "receiver.ping_ms": 100}) as f:
        at = address_of(f.trainer(receivers=2, rounds=1))
        killed, stopped = (f.receiver(i, at) for i in range(2))
        for r in (killed, stopped):
            ready_at(r, world.last)

        def seen(id):
            return next(r for r in f.ask("status", at).find("status")["receivers"] if r["id"] == id)
        killed.kill()
        wait_until(lambda: f"it is dead: {seen(0)}", lambda: seen(0)["standing"] == "dead", 10)
        require(not seen(0)["ready"], seen(0))
        stopped.stop()
        wait_until(lambda: f"it is not ready: {seen(1)}", lambda: not seen(1)["ready"],
                   4 * lease / 1000)
        stopped.go_on()
        wait_until(lambda: f"it is ready again: {seen(1)}", lambda: seen(1)["ready"], READY_S)


def held_by(process):
    return (process.rss(), len(os.listdir(f"/proc/{process.pid}/fd")),
            len(os.listdir(f"/proc/{process.pid}/task")))


@case
def memory_stays_flat_over_1000_syncs(world):
    with world.fleet() as f:
        rounds = 1000 // (world.last + 1) + 1
        trainer = f.trainer(receivers=2, rounds=rounds)
        at = address_of(trainer)
        processes = [trainer, f.receiver(0, at), f.receiver(1, at)]

        def syncs():
            return (trainer.find(kind="sync") or {"version": 0})["version"]
        wait_until("200 syncs", lambda: syncs() >= 200, 60)
        before = [held_by(p) for p in processes]
        trainer.wait_for("summary", lambda o: o.get("kind") == "summary", 120)
        require(syncs() >= 1000, syncs())
        for p, (rss, files, threads), now in zip(processes, before, map(held_by, processes)):
            # What the allocator keeps for itself comes to one MiB at most.
            require(now[0] < rss + (4 << 20), f"{p.name} grew from {rss} to {now[0]} bytes")
            require(now[1:] == (files, threads),
                    f"{p.name} had {files} descriptors and {threads} threads, and now {now[1:]}")
