#!/usr/bin/env python3
"""Decides whether a fleet across several networks survives their being cut, in one direction or both.

    partitions.py PROGRAM [--base DIR --stream DIR] [--episodes N] [--kinds cuts|weather]
                  [--receivers N] [--ranks N] [--fanout N] [--seed S]

Every rank of the trainer and every receiver runs in a network namespace of its own, under a shared
key. Each episode breaks something for a few seconds: a pulled cable at a receiver or a rank, one
direction of one link, a link that flaps, loss and delay, or a kill -9 behind a pulled cable; with
several ranks also what is between two ranks, or between one rank and one receiver, in one direction
or both. Or it is the weather (WEATHERS), on all links or on those of one receiver. The others have
to go on where they can, and all have to be ready again soon after; every `ready` is held against the
bytes. Both ends of a connection have to find out in time that the other is gone without a word. A
weather that did nothing to any frame is a violation as well.

The last line is one JSON object. Exit 1 where a promise did not hold, 77 where namespaces are not
permitted.
"""
from __future__ import annotations

import argparse
import json
import pathlib
import random
import signal
import socket
import statistics
import sys
import tempfile
import time

import fleet
import model
from chaos import SETTINGS
from network import Network
from watch import Member, Observer, Watch

PORT = 7117
KINDS = ["cut receiver", "cut trainer", "mute receiver", "deafen receiver", "flap", "worsen",
         "kill behind the cut", "half open"]
# One rank's own road: to another rank, or to one receiver that the other ranks reach.
KINDS_OF_RANKS = ["part ranks", "mute rank", "deafen rank", "part rank and receiver",
                  "mute rank to receiver", "deafen rank to receiver"]
# kind -> whose ways have it, what `weather.Sky` does to them, and how many frames that has to strike.
WEATHERS = {
    "loss of 1 %": ("everybody", {"loss": 1}, {"lost": 5}),
    "loss of 10 %": ("receiver", {"loss": 10}, {"lost": 5}),
    "loss of 50 %": ("receiver", {"loss": 50}, {"lost": 5}),
    "duplicates": ("everybody", {"duplicate": 5}, {"duplicated": 20}),
    "disorder": ("everybody", {"reorder": 25}, {"reordered": 20}),
    "corruption": ("everybody", {"corrupt": 0.1}, {"corrupted": 2}),
    # Each ends a connection: that of one receiver, over and over.
    "unseen corruption": ("receiver", {"disguise": 1}, {"disguised": 2}),
    "delay": ("receiver", {"delay_ms": 200, "jitter_ms": 100}, {"delayed": 20}),
    "loss and delay": ("receiver", {"loss": 10, "delay_ms": 200, "jitter_ms": 100},
                       {"lost": 2, "delayed": 20}),
    # Nobody is told, so that nobody sends shorter ones.
    "black hole": ("receiver", {"longest": 1400}, {"swallowed": 2}),
    "resets": ("receiver", {"reset": 2}, {"reset": 2}),
    "narrow": ("receiver", {"mbit": 1}, {"held_back": 5}),
}
# Until a weather has struck that often.
STRIKE_S = 20
LEASE_S = SETTINGS["receiver.lease_ms"] / 1000
# A link whose other end is silent ends within this. It is meant to end a quarter of a lease sooner,
# which is for a busy machine.
LINK_S = 2 * LEASE_S
# Longer than a receiver that failed by itself would be tried.
OUTLAST_S = 30
# From the end of a break: until it is noticed, plus a reconnect, plus a reseed.
HEAL_S = 20


def kinds_of(options):
    cuts = KINDS + (KINDS_OF_RANKS if options.ranks > 1 else [])
    kinds = {"cuts": cuts, "weather": list(WEATHERS)}.get(options.kinds, cuts + list(WEATHERS))
    return [k for k in kinds if k in (options.only or kinds)]


class Partitions:
    def __init__(self, options, versions, scratch, network, secured):
        self.options, self.versions, self.network = options, versions, network
        self.watch = Watch(versions)
        relays = fleet.passing_on(options.fanout, lambda id: network.addresses[f"r{id}"])
        self.fleet = fleet.Fleet(
            options.program, versions.base, versions.stream, SETTINGS,
            prefix=lambda role, id: network.inside(f"r{id}" if role == "receiver" else f"t{id}"),
            secured=lambda role, id: {**secured, **relays(role, id)})
        self.members = [Member(self.watch, i, scratch / f"out-{i}" if i % 2 == 0 else None)
                        for i in range(options.receivers)]
        self.observer = Observer(self.members)
        self.addresses = [f"{network.addresses[f't{rank}']}:{PORT}"
                          for rank in range(options.ranks)]
        self.ranks = {}  # rank -> process
        self.syncs = 0
        self.calm = 0  # syncs in a row that were ok, with everybody in them
        self.heal, self.kinds, self.half_opens = [], {}, {"trainer": [], "receiver": []}
        self.frames, self.given_up = {}, 0

    @property
    def trainer(self):
        return self.ranks[0]

    def on_trainer(self, _, line):
        if line.get("kind") == "sync":
            self.watch.sync(line)
            if line.get("result") != "aborted":
                self.syncs += 1
            # Who is away is ready for the rest of its lease, and no sync is the worse for it.
            with_all = [r["status"] for r in line["receivers"]] == ["ok"] * len(self.members)
            self.calm = self.calm + 1 if line.get("result") == "ok" and with_all else 0

    def start_rank(self, rank, **more):
        words = []
        if self.options.ranks > 1:
            words += ["--ranks", str(self.options.ranks)]
        if rank > 0:
            words += ["--rank", str(rank), "--coordinator", self.addresses[0]]
        else:
            more = {"receivers": len(self.members) - 1, "period_ms": self.options.period_ms,
                    "on_object": self.on_trainer, **more}
        self.ranks[rank] = self.fleet.trainer(
            *words, listen=self.addresses[rank], rank=rank,
            name=f"rank-{rank}" if rank > 0 else "trainer", **{"rounds": 1_000_000, **more})

    def start_receiver(self, member):
        with member.lock:
            member.line, member.process = None, None
        process = self.fleet.receiver(member.id, ",".join(self.addresses), out=member.out,
                                      on_object=member.on_object)
        with member.lock:
            member.process, member.busy = process, False
            member.seen += 1

    def state(self):
        return f"{[m.line for m in self.members]}; the trainer: {self.trainer.said()[-500:]}"

    def alive(self):
        for p in [*self.ranks.values(), *(m.process for m in self.members)]:
            fleet.require(p.running(), lambda: f"{p.name} ended with {p.returncode}: {p.said()}")

    def all_current(self):
        """All are ready at what the trainer committed lately."""
        self.alive()
        newest = self.watch.newest_run
        return all(m.ready() and fleet.run_of(m.line["version"]) == newest for m in self.members)

    def whole(self, what):
        fleet.wait_until(lambda: f"all ready after {what}: {self.state()}", self.all_current, HEAL_S)
        # And it stays so while versions go on.
        before = self.syncs
        fleet.wait_until(lambda: f"syncs go on after {what}: {self.state()}",
                         lambda: self.syncs > before + 3 and self.calm > 3 and self.all_current(),
                         HEAL_S)

    def silent(self, members, seconds, what):
        """Whoever hears nothing of its trainer stops serving."""
        fleet.wait_until(lambda: f"{what} ends the lease: {self.state()}",
                         lambda: not any(m.ready() for m in members), seconds)

    def others_go_on(self, what):
        before = self.syncs
        fleet.wait_until(lambda: f"the others go on during {what}: {self.state()}",
                         lambda: self.syncs > before + 2, 10)

    def episode(self, kind, rng):
        member = rng.choice(self.members)
        name, long = f"r{member.id}", rng.random() < 0.6
        broken_for = LEASE_S + rng.uniform(0.5, 2) if long else rng.uniform(0.1, 1.0)
        if kind in WEATHERS:
            self.weather(kind, member, name, broken_for)
        else:
            getattr(self, kind.replace(" ", "_"))(member, name, long, broken_for)
        self.kinds[kind] = self.kinds.get(kind, 0) + 1
        began = time.monotonic()
        if WEATHERS.get(kind, "?")[0] == "receiver":
            self.revive(member)
        self.whole(f"{kind} of {name} for {broken_for:.1f} s")
        self.heal.append(time.monotonic() - began)

    def cut_receiver(self, member, name, long, seconds):
        self.network.unplug(name)
        try:
            if long:
                self.silent([member], LEASE_S + 3, "a pulled cable")
                self.others_go_on("a pulled cable")
            else:
                time.sleep(seconds)
        finally:
            self.network.plug(name)

    def cut_trainer(self, member, name, long, seconds):
        rank = self.rank_of(seconds)
        self.network.unplug(f"t{rank}")
        try:
            if long:
                self.run_ends(rank, "the trainer's pulled cable")
            else:
                time.sleep(seconds)
        finally:
            self.network.plug(f"t{rank}")

    def rank_of(self, seconds, first=0):
        """One of the ranks from `first` on, the same for the same episode."""
        return random.Random(seconds).randrange(first, self.options.ranks)

    def run_ends(self, rank, what):
        """Without one rank the run is over: sooner where it is the one that renews leases."""
        self.silent(self.members, LEASE_S + 3 + (LINK_S if rank else 0), what)

    def mute_receiver(self, member, name, long, seconds):
        """It hears and is not heard: its silence must not hold up the others for long."""
        self.broken([(name, f"t{rank}") for rank in self.ranks], seconds,
                    lambda: long and self.others_go_on("a receiver that is not heard"))

    def deafen_receiver(self, member, name, long, seconds):
        def meanwhile():
            self.silent([member], LEASE_S + 3, "a link that brings nothing")
            self.others_go_on("a receiver that does not hear")
        self.broken([(f"t{rank}", name) for rank in self.ranks], 0 if long else seconds,
                    lambda: long and meanwhile())

    def broken(self, ways, seconds, meanwhile):
        """What goes one of these ways, from whom to whom, is lost."""
        for way in ways:
            self.network.mute(*way)
        try:
            time.sleep(seconds)
            meanwhile()
        finally:
            for way in ways:
                self.network.unmute(*way)

    def between_ranks(self, ways, long, seconds):
        self.broken(ways, 0 if long else seconds,
                    lambda: long and self.run_ends(1, "what is lost between two ranks"))

    def part_ranks(self, member, name, long, seconds):
        other = f"t{self.rank_of(seconds, 1)}"
        self.between_ranks([("t0", other), (other, "t0")], long, seconds)

    def mute_rank(self, member, name, long, seconds):
        self.between_ranks([(f"t{self.rank_of(seconds, 1)}", "t0")], long, seconds)

    def deafen_rank(self, member, name, long, seconds):
        self.between_ranks([("t0", f"t{self.rank_of(seconds, 1)}")], long, seconds)

    def between_rank_and_receiver(self, ways, long, seconds):
        """The other ranks reach it, and it is of no use: nobody waits for it for long."""
        if long:
            seconds += LINK_S + (OUTLAST_S if self.options.outlast else 0)
        self.broken(ways, seconds,
                    lambda: long and self.others_go_on("a receiver that one rank does not reach"))

    def part_rank_and_receiver(self, member, name, long, seconds):
        rank = f"t{self.rank_of(seconds, 1)}"
        self.between_rank_and_receiver([(rank, name), (name, rank)], long, seconds)

    def mute_rank_to_receiver(self, member, name, long, seconds):
        self.between_rank_and_receiver([(f"t{self.rank_of(seconds, 1)}", name)], long, seconds)

    def deafen_rank_to_receiver(self, member, name, long, seconds):
        self.between_rank_and_receiver([(name, f"t{self.rank_of(seconds, 1)}")], long, seconds)

    def flap(self, member, name, long, seconds):
        rng = random.Random(seconds)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.network.unplug(name)
            time.sleep(rng.uniform(0.02, 0.4))
            self.network.plug(name)
            time.sleep(rng.uniform(0.02, 0.4))

    def worsen(self, member, name, long, seconds):
        self.network.worsen(name, loss=5, delay_ms=40, jitter_ms=10)
        for rank in self.ranks:
            self.network.worsen(f"t{rank}", loss=2, delay_ms=20, jitter_ms=5)
        try:
            time.sleep(seconds)
            self.others_go_on("loss and delay")
        finally:
            for worse in [name, *(f"t{rank}" for rank in self.ranks)]:
                self.network.better(worse)

    def weather(self, kind, member, name, seconds):
        where, sky, strikes = WEATHERS[kind]
        others = [other for other in self.network.names if other != name]
        ways = [(name, ()), *((a, () if where == "everybody" else (name,)) for a in others)]
        before = self.network.counts()
        for way in ways:
            self.network.worsen(*way, **sky)
        try:
            time.sleep(seconds)
            for what, often in strikes.items():
                fleet.wait_until(f"{kind}: {often} frames {what}",
                                 lambda: self.network.counts()[what] >= before[what] + often,
                                 STRIKE_S)
            self.others_go_on(kind)
            if where == "receiver":
                others = [m for m in self.members if m is not member]
                fleet.wait_until(lambda: f"the others are ready during {kind}: {self.state()}",
                                 lambda: all(m.ready() for m in others), 10)
        finally:
            for way in ways:
                self.network.better(*way)

    def revive(self, member):
        """A receiver that is heard all the time, and fails often enough, is given up until it has a
        new life. That is counted, and no other way of staying out is helped."""
        def decided():
            if member.ready() and fleet.run_of(member.line["version"]) == self.watch.newest_run:
                return "ready"
            said = self.fleet.ask("status", self.addresses[0]).find("status")
            # Who is away dials by itself.
            return said and any(r["id"] == member.id and r["standing"] == "gave_up" and
                                r["reason"] != "dead" for r in said["receivers"]) and "given up"

        if fleet.wait_until(lambda: f"ready or given up: {self.state()}", decided, HEAL_S,
                            every=0.5) == "given up":
            self.given_up += 1
            self.end_of(member)
            self.start_receiver(member)

    def kill_behind_the_cut(self, member, name, long, seconds):
        """No end of the connection is ever seen: half-open, until a deadline finds it."""
        self.network.unplug(name)
        try:
            self.end_of(member)
            time.sleep(seconds)
        finally:
            self.network.plug(name)
            self.start_receiver(member)

    def connections(self, process, host=None):
        """How many whole connections its node has, or only those to `host`."""
        wanted = host and socket.inet_aton(host)[::-1].hex().upper()
        with open(f"/proc/{process.pid}/net/tcp", encoding="ascii") as f:
            lines = [line.split() for line in f.readlines()[1:]]
        return sum(words[3] == "01" and (wanted is None or words[2].startswith(wanted))
                   for words in lines)

    def half_open(self, member, name, long, seconds):
        """Both ends find out that the other is gone, of which no packet tells."""
        host = self.network.addresses[name]
        others = [*self.ranks.values(), *(m.process for m in self.members if m is not member)]
        ends = {"trainer": lambda: sum(self.connections(p, host) for p in others),
                "receiver": lambda: self.connections(member.process)}
        fleet.require(all(count() > 0 for count in ends.values()), f"{name} has no connection")
        killed = random.Random(seconds).random() < 0.5
        self.network.unplug(name)
        try:
            began = time.monotonic()
            if killed:
                del ends["receiver"]
                self.end_of(member)
            while ends and time.monotonic() - began < LINK_S + 2:
                for end in [end for end, count in ends.items() if count() == 0]:
                    del ends[end]
                    self.half_opens[end].append(time.monotonic() - began)
                    fleet.require(self.half_opens[end][-1] <= LINK_S,
                                  f"{end}: half-open for {self.half_opens[end][-1]:.2f} s")
                time.sleep(0.02)
            fleet.require(not ends, f"still half-open at {list(ends)} after {LINK_S + 2:g} s")
        finally:
            self.network.plug(name)
            if killed:
                self.start_receiver(member)

    def end_of(self, member):
        with member.lock:
            member.busy, member.seen = True, member.seen + 1
        member.process.kill()
        self.fleet.forget(member.process)

    def run(self):
        for rank in range(self.options.ranks):
            self.start_rank(rank)
            fleet.address_of(self.ranks[rank])
        for member in self.members:
            self.start_receiver(member)
        self.whole("the start")
        self.observer.start()
        rng = random.Random(self.options.seed)
        kinds = []
        while len(kinds) < self.options.episodes:
            more = kinds_of(self.options)
            rng.shuffle(more)
            kinds += more
        for kind in kinds[:self.options.episodes]:
            self.episode(kind, rng)
        self.last_pass()

    def last_pass(self):
        # A trainer that is told to end gives the sync under way 1.5 s, and says by its status
        # whether all passed the audit then: so not in one that waits for somebody.
        fleet.wait_until(lambda: f"five syncs in a row are ok: {self.state()}",
                         lambda: self.calm >= 5, HEAL_S)
        self.trainer.signal(signal.SIGTERM)
        code = self.trainer.wait(20)
        fleet.require(code == 0, lambda: f"the trainer ended with {code}: {self.trainer.said()[-800:]}")
        self.fleet.forget(self.trainer)
        last = self.versions.count
        self.start_rank(0, receivers=len(self.members), rounds=1)
        summary = self.trainer.wait_for("summary", lambda o: o.get("kind") == "summary", 60)
        fleet.require(fleet.audited(summary, [m.id for m in self.members]),
                      f"the trainer's audit: {summary}")
        fleet.wait_until(lambda: f"all at label {last}: {self.state()}",
                         lambda: all(m.ready() and m.line["label"] == last for m in self.members),
                         HEAL_S)
        audit = self.fleet.ask("audit", self.addresses[0])
        fleet.require(audit.code == 0 and audit.find("audit")["pass"], f"audit: {audit}")
        self.observer.finish()
        for member in self.members:
            if member.file:
                held = model.digest(member.file)
                fleet.require(held == self.versions.digests[last],
                              f"receiver-{member.id}'s file holds {held} in the end")
            code = member.process.terminate()
            fleet.require(code == 0, f"receiver-{member.id} ended with {code}")
        for process in self.ranks.values():
            process.signal(signal.SIGTERM)
        for process in self.ranks.values():
            code = process.wait(20)
            fleet.require(code == 0, f"{process.name} ended with {code}")

    def report(self, seconds):
        def of(times):
            return {"n": len(times), "p50": round(statistics.median(times or [0]), 3),
                    "max": round(max(times, default=0), 3)}
        return {"kind": "partitions", "seed": self.options.seed, "receivers": len(self.members),
                "ranks": self.options.ranks, "fanout": self.options.fanout,
                "episodes": sum(self.kinds.values()), "episodes_by_kind": self.kinds,
                "counts": self.watch.counts, "frames": self.frames,
                "given_up": self.given_up,
                "heal_seconds": of(self.heal),
                "half_open_seconds": {end: of(t) for end, t in self.half_opens.items()},
                "seconds": round(seconds, 1), "violations": self.watch.violations,
                "pass": not self.watch.violations}


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("program")
    parser.add_argument("--base")
    parser.add_argument("--stream")
    parser.add_argument("--episodes", type=int, help="by default one of each kind")
    parser.add_argument("--kinds", choices=["cuts", "weather"], help="by default both")
    parser.add_argument("--receivers", type=int, default=4)
    parser.add_argument("--ranks", type=int, default=1, help="processes of the trainer")
    parser.add_argument("--fanout", type=int, default=0, help="receivers that one passes on to")
    parser.add_argument("--only", action="append", default=[], choices=KINDS + KINDS_OF_RANKS + list(WEATHERS),
                        help="episodes of this kind alone")
    parser.add_argument("--outlast", action="store_true",
                        help="some breaks last longer than anybody tries")
    parser.add_argument("--period-ms", type=int, default=40)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--insecure", action="store_true", help="no key; in clear")
    options = parser.parse_args(arguments)
    if bool(options.base) != bool(options.stream):
        parser.error("--base and --stream go together")
    if not kinds_of(options):
        parser.error("there are no such episodes; between ranks there are only where there are some")
    options.episodes = options.episodes or len(kinds_of(options))
    why_not = Network.why_not()
    if why_not:
        print(f"skipped: {why_not}")
        return fleet.SKIPPED
    print(f"seed {options.seed}", flush=True)
    # SIGTERM, which CTest sends at its time limit, has to clean up as well.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory(prefix="lockstep-partitions-") as scratch:
        scratch = pathlib.Path(scratch)
        versions = (model.recorded(options.program, options.base, options.stream) if options.base
                    else model.synthetic(scratch / "model", options.seed, mebibytes=0.5))
        if options.insecure:
            secured = {"transport.insecure": True}
        else:
            secured = fleet.shared_key(scratch)
        names = ([f"t{rank}" for rank in range(options.ranks)] +
                 [f"r{i}" for i in range(options.receivers)])
        with Network(names, seed=options.seed) as network:
            run = Partitions(options, versions, scratch, network, secured)
            began = time.monotonic()
            try:
                run.run()
            except (fleet.Late, fleet.Failed) as problem:
                run.watch.violation(str(problem))
            finally:
                if run.observer.is_alive():
                    run.observer.finish()
                for name in run.fleet.close():
                    run.watch.violation(f"{name} left children behind")
            run.frames = network.counts()
            report = run.report(time.monotonic() - began)
    for violation in report["violations"]:
        print(f"VIOLATION {violation}")
    print(json.dumps(report), flush=True)
    return 0 if report["pass"] else 1


if __name__ == "__main__":
    sys.exit(main())
