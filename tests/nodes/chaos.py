#!/usr/bin/env python3
"""Decides whether a fleet of real processes survives being killed, stopped and restarted at random.

    chaos.py PROGRAM [--base DIR --stream DIR] [--events N] [--seconds S] [--receivers N] [--ranks N]
             [--seed S]

A trainer of one or more ranks plays versions without end to receivers, half of which keep them in a mapped file. A plan
from a seed kills (-9), stops and restarts all of them, the trainer as well; who comes back finds its
old file, a torn, cut or missing one, and a restarted trainer begins again from the base. All the
while every `ready` is held against the bytes. Then the faults end, the fleet has to heal without
anyone touching it, and one more trainer plays the stream once, with an audit at the end.

The last line is one JSON object. Exit 1 where anything that was promised did not hold.
"""
from __future__ import annotations

import argparse
import hashlib
import heapq
import itertools
import json
import pathlib
import random
import signal
import statistics
import sys
import tempfile
import time

import fleet
import model
from watch import Member, Observer, Watch

# What one trainer or receiver may need here is much less than the defaults allow for.
SETTINGS = {
    "receiver.lease_ms": 2000, "receiver.ping_ms": 200, "receiver.hello_ms": 200,
    "sync.stage_timeout_ms": 1500, "sync.commit_timeout_ms": 2000, "sync.attach_timeout_ms": 2000,
    "sync.full_timeout_ms": 3000, "sync.recovery_timeout_ms": 2000,
    "supervision.backoff_ms_max": 1000, "runtime.threads": 2, "log.level": "off",
}
# At the end: how long all may take to be whole again, and one trainer to play the stream once.
WHOLE_S, LAST_S = 30, 60

KINDS = {  # kind -> how often
    "kill receiver": 34, "restart receiver": 14, "stop receiver": 24, "kill stopped receiver": 6,
    "kill trainer": 9, "restart trainer": 6, "stop trainer": 7,
}
FILES = {"kept": 5, "torn": 3, "removed": 1, "cut": 1}


def make_plan(seed, events, seconds, receivers):
    """One dictionary an event: when, what, whom first, for how long. The same for the same seed."""
    rng = random.Random(seed)
    plan = []
    for at in sorted(rng.uniform(1.0, max(1.5, seconds)) for _ in range(events)):
        order = list(range(receivers))
        rng.shuffle(order)
        plan.append({
            "at": round(at, 3),
            "kind": rng.choices(list(KINDS), KINDS.values())[0],
            "order": order,
            "away": round(min(4.0, 0.05 + rng.expovariate(1.6)), 3),
            "file": rng.choices(list(FILES), FILES.values())[0],
            "at_change": rng.random() < 0.5,
            "seed": rng.getrandbits(32)})
    return plan


class Chaos:
    def __init__(self, options, versions, scratch, settings, secured=None):
        self.options, self.versions = options, versions
        self.watch = Watch(versions)
        self.fleet = fleet.Fleet(options.program, versions.base, versions.stream, settings,
                                 secured=secured)
        self.members = [Member(self.watch, i, scratch / f"out-{i}" if i % 2 == 0 else None)
                        for i in range(options.receivers)]
        self.observer = Observer(self.members)
        self.trainer = None
        self.trainer_busy = False
        self.trainer_back = 0.0
        self.port = 0  # of rank 0
        self.guests = set()  # ids of receivers that are there and are not struck
        self.others = {}  # rank -> process, but rank 0
        self.ports = []
        self.queue, self.order = [], itertools.count()
        self.events = {}
        self.interrupted = 0
        self.rss_max = {"trainer": 0, "receiver": 0}
        self.asked = None
        self.answers = {}

    # Processes

    def start_trainer(self, **options):
        def on_object(_, line):
            if line.get("kind") == "sync":
                self.watch.sync(line)
        more = ["--ranks", str(self.options.ranks)] if self.options.ranks > 1 else []
        self.trainer = self.fleet.trainer(
            *more, *self.split(), listen=f"127.0.0.1:{self.port}", on_object=on_object,
            **{"receivers": max(1, len(self.members) // 2), "rounds": 1_000_000,
               "period_ms": self.options.period_ms, **options})
        self.trainer_busy, self.trainer_back = False, time.monotonic()
        return self.trainer

    def start_rank(self, rank, settings=None):
        if rank == 0:
            return self.start_trainer(settings=settings)
        self.others[rank] = self.fleet.trainer(
            "--ranks", str(self.options.ranks), "--rank", str(rank), *self.split(),
            "--coordinator", f"127.0.0.1:{self.port}", name=f"rank-{rank}",
            listen=f"127.0.0.1:{self.ports[rank]}", rounds=1_000_000, settings=settings)
        self.trainer_busy, self.trainer_back = False, time.monotonic()
        return self.others[rank]

    def rank(self, rank):
        return self.others[rank] if rank else self.trainer

    def split(self):
        """What all processes must be told alike of how tensors are split."""
        rows = getattr(self.options, "row_shards", 1)
        return ["--row-shards", str(rows)] if rows > 1 else []

    def addresses(self):
        return ",".join(f"127.0.0.1:{port}" for port in self.ports)

    def start_receiver(self, member, settings=None):
        with member.lock:
            member.line = None
            member.process = None
        process = self.fleet.receiver(member.id, self.addresses(), *self.split(), out=member.out,
                                      settings=settings, on_object=member.on_object)
        with member.lock:
            # It may have spoken already.
            member.process, member.busy, member.trap = process, False, None
            member.seen += 1

    def ends(self, process, *wanted, seconds=20):
        """Waits for one that was told to end, and looks at how it ended."""
        try:
            code = process.wait(seconds)
        except fleet.Late as late:
            self.watch.violation(str(late))
            code = process.kill()
        # Nobody obeys SIGTERM before having said that it will.
        newborn = code == -signal.SIGTERM and process.signalled - process.started < 1.0
        # A trainer may be told so before all whom it waits for are there. Its port, say, would be 3 too.
        waited = code == 3 and any("told to end before" in line for line in process.errors)
        if code not in wanted and not waited and not (newborn and process.count == 0):
            self.watch.violation(f"{process.name} ended with {code} rather than {wanted}: "
                                 f"{process.said()}")
        if process.garbage:
            self.watch.violation(f"{process.name} printed no JSON: {process.garbage[0]!r}")
        if self.fleet.forget(process):
            self.watch.violation(f"{process.name} left children behind")

    def when_ended(self, process, wanted, then, deadline=None):
        """Calls `then` once it has ended. Meanwhile the faults of others go on: an audit may be
        waiting for a receiver that has to be resumed first."""
        deadline = deadline or time.monotonic() + 20
        if process.running() and time.monotonic() < deadline:
            return self.later(0.02, lambda: self.when_ended(process, wanted, then, deadline))
        self.ends(process, *wanted, seconds=1)
        return then()

    # Faults. Each begins now, says how it goes on through `later`, and is undone in the end.

    def later(self, seconds, action):
        heapq.heappush(self.queue, (time.monotonic() + seconds, next(self.order), action))

    def strike(self, event):
        on_trainer = event["kind"].endswith("trainer")
        if on_trainer:
            if self.trainer_busy:
                return self.later(0.3, lambda: self.strike(event))
            self.count(event)
            return self.strike_trainer(event)
        free = [self.members[i] for i in event["order"] if not self.members[i].busy]
        if not free:
            return self.later(0.1, lambda: self.strike(event))
        self.count(event)
        return self.strike_receiver(event, free[0])

    def count(self, event):
        self.events[event["kind"]] = self.events.get(event["kind"], 0) + 1

    def strike_receiver(self, event, member):
        number = {"kill receiver": signal.SIGKILL, "restart receiver": signal.SIGTERM}.get(
            event["kind"], signal.SIGSTOP)
        with member.lock:
            if member.hurt_until is not None:
                self.interrupted += 1
            member.busy, member.hurt_until = True, None
            member.seen += 1
            if event["at_change"]:
                member.trap = number
        # A trap that nothing sprang goes off by itself.
        self.later(0.4 if event["at_change"] else 0, lambda: self.struck(event, member, number))

    def struck(self, event, member, number):
        with member.lock:
            sprung, member.trap = member.trap is None and event["at_change"], None
        if not sprung:
            member.process.signal(number)
        if number == signal.SIGSTOP:
            member.process.stopped = True
            if event["kind"] == "kill stopped receiver":
                return self.later(event["away"] / 2, lambda: self.kill_stopped(event, member))
            return self.later(event["away"], lambda: self.resume(member))
        return self.when_ended(member.process, [-number if number == signal.SIGKILL else 0],
                               lambda: self.later(event["away"],
                                                  lambda: self.bring_back(event, member)))

    def kill_stopped(self, event, member):
        member.process.signal(signal.SIGKILL)
        self.ends(member.process, -signal.SIGKILL)
        self.later(event["away"] / 2, lambda: self.bring_back(event, member))

    def resume(self, member):
        member.begin_healing("stop")
        member.process.go_on()
        member.busy = False

    def bring_back(self, event, member):
        what = "kill" if "kill" in event["kind"] else "restart"
        if member.file and member.file.exists():
            rng = random.Random(event["seed"])
            if event["file"] == "torn":
                model.tear(member.file, rng)
            elif event["file"] == "cut":
                with open(member.file, "r+b") as f:
                    f.truncate(rng.randrange(member.file.stat().st_size))
            elif event["file"] == "removed":
                member.file.unlink()
            self.watch.add(f"file {event['file']}")
        member.begin_healing(what)
        self.start_receiver(member)

    def strike_trainer(self, event):
        self.trainer_busy = True
        for member in self.members:
            with member.lock:
                if member.hurt_until is not None:
                    self.interrupted += 1
                    member.hurt_until = None
        rank = event["seed"] % self.options.ranks
        process = self.rank(rank)
        if rank:
            self.watch.add(f"rank {rank} struck")
        if event["kind"] == "stop trainer":
            process.stop()
            return self.later(event["away"], lambda: self.resume_trainer(process))
        number = signal.SIGKILL if event["kind"] == "kill trainer" else signal.SIGTERM
        process.signal(number)
        # One that is told to end audits first, and says 1 where a receiver is away.
        return self.when_ended(process, [-number] if number == signal.SIGKILL else [0, 1],
                               lambda: self.later(event["away"],
                                                  lambda: self.bring_back_trainer(rank)))

    def resume_trainer(self, process):
        process.go_on()
        self.trainer_busy, self.trainer_back = False, time.monotonic()
        self.all_heal("trainer stop", -1)

    def bring_back_trainer(self, rank):
        before = self.watch.newest_run
        self.start_rank(rank)
        self.all_heal("trainer restart", before)

    def all_heal(self, what, before):
        for member in self.members:
            if not member.busy:
                member.begin_healing(what, before)

    # The run

    def tick(self):
        """What is looked at between events: who ended unasked, who does not heal, what is asked."""
        now = time.monotonic()
        for member in self.members:
            member.look()
            if not member.busy and not member.process.running():
                self.watch.violation(f"receiver-{member.id} ended by itself with "
                                     f"{member.process.returncode}: {member.process.said()}")
                self.fleet.forget(member.process)
                self.start_receiver(member)
            with member.lock:
                since = member.hurt_until
                late = (since is not None and not member.busy and not self.trainer_busy
                        and now - max(since, self.trainer_back) > self.options.heal_seconds)
                if late:
                    member.hurt_until = None
            if late:
                self.watch.violation(f"receiver-{member.id} was not ready {now - since:.1f} s after "
                                     f"a {member.what}; it says {member.line}; "
                                     f"the trainer: {self.trainer.said()[-600:]}")
        if not self.trainer_busy and not self.trainer.running():
            self.watch.violation(f"the trainer ended by itself with {self.trainer.returncode}: "
                                 f"{self.trainer.said()}")
            self.fleet.forget(self.trainer)
            self.start_trainer()
        for rank, process in list(self.others.items()):
            if not self.trainer_busy and not process.running():
                self.watch.violation(f"rank {rank} ended by itself with {process.returncode}: "
                                     f"{process.said()}")
                self.fleet.forget(process)
                self.start_rank(rank)
        self.ask_status(now)

    def ask_status(self, now):
        """One `lockstep status` after another, whatever happens: it always answers or gives up."""
        if self.asked is None:
            self.asked = self.fleet.start("status", "observer", 0,
                                          ["status", f"127.0.0.1:{self.port}"])
        elif not self.asked.running():
            ended = fleet.Ended(self.asked, self.asked.wait(5))
            self.answers[ended.code] = self.answers.get(ended.code, 0) + 1
            if ended.code not in (0, 3) or (ended.code == 0) != bool(ended.find("status")):
                self.watch.violation(f"status: {ended}")
            self.fleet.forget(self.asked)
            self.asked = None
            for name, processes in (("trainer", [self.trainer]),
                                    ("receiver", [m.process for m in self.members if m.process])):
                self.rss_max[name] = max([self.rss_max[name]] + [p.rss() for p in processes])
        elif now - self.asked.started > 30:
            self.watch.violation("status neither answered nor gave up within 30 s")
            self.asked.kill()

    def drive(self, seconds_at_most):
        end = time.monotonic() + seconds_at_most
        looked = 0.0
        while self.queue:
            now = time.monotonic()
            if now > end:
                raise fleet.Late(f"{len(self.queue)} faults are not over")
            while self.queue and self.queue[0][0] <= now:
                heapq.heappop(self.queue)[2]()
            if now - looked > 0.1:
                self.tick()
                looked = now
            if self.queue:
                time.sleep(max(0.001, min(0.02, self.queue[0][0] - time.monotonic())))

    def everybody(self):
        """The ids of all receivers, struck or not."""
        return {m.id for m in self.members} | self.guests

    def all_ready(self):
        self.tick()
        return all(m.ready() for m in self.members) and self.status_is_whole()

    def status_is_whole(self, label=None):
        ended = self.fleet.ask("status", f"127.0.0.1:{self.port}")
        status = ended.find("status")
        if ended.code != 0 or not status:
            return False
        receivers = status["receivers"]
        return ({r["id"] for r in receivers} == self.everybody()
                and all(r["member"] and r["ready"] for r in receivers)
                and (label is None or all(r["label"] == label and r["lag"] == 0
                                          for r in receivers)))

    def begin(self):
        """Starts everybody, and waits until all are ready."""
        self.ports = [fleet.free_port() for _ in range(self.options.ranks)]
        self.port = self.ports[0]
        for rank in range(self.options.ranks):
            fleet.address_of(self.start_rank(rank))
        for member in self.members:
            self.start_receiver(member)
        fleet.wait_until(lambda: f"all ready: {[m.line for m in self.members]}",
                         lambda: all(m.ready() for m in self.members), WHOLE_S)
        self.observer.start()

    def run(self, plan):
        self.begin()
        for event in plan:
            self.later(event["at"], lambda event=event: self.strike(event))
        self.drive(self.options.seconds + 120)
        self.heal()
        self.last_pass()

    def heal(self):
        began = time.monotonic()
        fleet.wait_until(
            lambda: f"all ready after the last fault: {[m.line for m in self.members]}; "
                    f"the trainer: {self.trainer.said()[-600:]}",
            self.all_ready, WHOLE_S, every=0.1)
        self.whole_after = time.monotonic() - began

    def last_pass(self):
        """One more trainer, which ends at a label that is known, and everything agrees on it."""
        self.trainer_busy = True
        self.trainer.signal(signal.SIGTERM)
        self.ends(self.trainer, 0, 1)
        trainer = self.start_trainer(receivers=len(self.everybody()), rounds=1)
        last = self.versions.count
        summary = trainer.wait_for("summary", lambda o: o.get("kind") == "summary", LAST_S)
        fleet.require(fleet.audited(summary, sorted(self.everybody())),
                      f"the trainer's audit: {summary}")
        fleet.wait_until(lambda: f"all at label {last}: {[m.line for m in self.members]}",
                         lambda: all(m.ready() and m.line["label"] == last for m in self.members),
                         WHOLE_S)
        fleet.wait_until(f"status with all at label {last}",
                         lambda: self.status_is_whole(label=last), WHOLE_S)
        audit = self.fleet.ask("audit", f"127.0.0.1:{self.port}")
        line = audit.find("audit")
        fleet.require(audit.code == 0 and line and line["pass"] and
                      all(r["pass"] for r in line["receivers"]) and
                      len(line["receivers"]) == len(self.everybody()), f"audit: {audit}")
        self.observer.finish()
        for member in self.members:
            if member.file:
                held = model.digest(member.file)
                fleet.require(held == self.versions.digests[last],
                              f"receiver-{member.id}'s file holds {held} in the end")
        for member in self.members:
            member.busy = True
            member.process.signal(signal.SIGTERM)
        for member in self.members:
            self.ends(member.process, 0)
        for process in [trainer, *self.others.values()]:
            process.signal(signal.SIGTERM)
        for process in [trainer, *self.others.values()]:
            self.ends(process, 0)

    def finish(self):
        """Ends what still runs."""
        if self.observer.is_alive():
            self.observer.finish()
        for name in self.fleet.close():
            self.watch.violation(f"{name} left children behind")

    def report(self, seconds):
        times = {}
        for member in self.members:
            for what, took in member.healed:
                times.setdefault(what, []).append(took)
                times.setdefault("all", []).append(took)
        # The slowest may meet several faults; half of all are back within a tenth of what it may take.
        usual = statistics.median(times.get("all", [0]))
        if usual > self.options.heal_seconds / 10:
            self.watch.violation(f"half of all that were struck took more than {usual:.1f} s to be back")
        heal = {what: {"n": len(t), "p50": round(statistics.median(t), 3),
                       "p99": round(sorted(t)[min(len(t) - 1, int(len(t) * 0.99))], 3),
                       "max": round(max(t), 3)} for what, t in sorted(times.items())}
        return {"kind": "chaos", "seed": self.options.seed, "receivers": len(self.members),
                "ranks": self.options.ranks, "events": sum(self.events.values()), "events_by_kind": self.events,
                "counts": self.watch.counts, "heal_seconds": heal, "interrupted": self.interrupted,
                "whole_after_seconds": round(getattr(self, "whole_after", -1), 3),
                "status_answers": self.answers, "rss_max": self.rss_max,
                "seconds": round(seconds, 1), "violations": self.watch.violations,
                "pass": not self.watch.violations}


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("program")
    parser.add_argument("--base", help="play this checkpoint and --stream rather than a made-up one")
    parser.add_argument("--stream")
    parser.add_argument("--events", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=180, help="of the whole run, about")
    parser.add_argument("--receivers", type=int, default=8)
    parser.add_argument("--ranks", type=int, default=1, help="processes of the trainer")
    parser.add_argument("--row-shards", type=int, default=1, help="runs of rows of each tensor")
    parser.add_argument("--fanout", type=int, default=0, help="receivers that one passes on to")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--period-ms", type=int, default=20)
    parser.add_argument("--heal-seconds", type=float, default=20)
    parser.add_argument("--mebibytes", type=float, default=2, help="size of the made-up model")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--print-plan", action="store_true")
    options = parser.parse_args(arguments)
    if bool(options.base) != bool(options.stream):
        parser.error("--base and --stream go together")
    if options.seed is None:
        options.seed = int(time.time())
    return options


def main(arguments=None):
    options = parse(arguments)
    # Starting, healing and the last pass take their part of the time.
    plan = make_plan(options.seed, options.events, options.seconds * 0.7, options.receivers)
    text = json.dumps(plan)
    if options.print_plan:
        print("\n".join(json.dumps(e) for e in plan))
    print(f"seed {options.seed}, {len(plan)} events, plan "
          f"{hashlib.blake2b(text.encode(), digest_size=6).hexdigest()}", flush=True)
    settings = dict(SETTINGS)
    settings.update(pair.split("=", 1) for pair in options.set)
    with tempfile.TemporaryDirectory(prefix="lockstep-chaos-") as scratch:
        scratch = pathlib.Path(scratch)
        versions = (model.recorded(options.program, options.base, options.stream) if options.base
                    else model.synthetic(scratch / "model", options.seed,
                                         mebibytes=options.mebibytes))
        chaos = Chaos(options, versions, scratch, settings, fleet.passing_on(options.fanout))
        began = time.monotonic()
        try:
            chaos.run(plan)
        except (fleet.Late, fleet.Failed) as problem:
            chaos.watch.violation(str(problem))
        finally:
            chaos.finish()
        report = chaos.report(time.monotonic() - began)
    for violation in report["violations"]:
        print(f"VIOLATION {violation}")
    print(json.dumps(report), flush=True)
    return 0 if report["pass"] else 1


if __name__ == "__main__":
    sys.exit(main())
