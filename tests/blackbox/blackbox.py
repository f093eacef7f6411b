#!/usr/bin/env python3
"""Decides whether programs that embed Lockstep get what it promises while they are killed at random.

    blackbox.py TRAINER ENGINE [--engines N] [--events N] [--seconds S] [--seed S] [--lie KIND]
                [--history FILE]

A trainer and engines that use only the installed headers write down what they ask of Lockstep and
what they are told; a plan from a seed kills (-9), stops and ends them, and starts them again, the
trainer from its last checkpoint or its first weights, half of the engines with what they left in their
memory. Then the faults end, everybody has to come to one version, and checker.py, which knows nothing
but what was written down, says what of it breaks a promise. With --lie engine 0 does something wrong,
and that has to be found.

The last line is one JSON object. Exit 1 where a promise is broken, or a lie was not found; the
history is kept in FILE then.
"""
from __future__ import annotations

import argparse
import collections
import heapq
import itertools
import json
import pathlib
import random
import signal
import sys
import tempfile
import threading
import time

import checker

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "nodes"))
import fleet  # noqa: E402  only starts and ends processes

# As short as a busy machine lets them be, so that much happens in a minute.
SETTINGS = {
    "receiver.lease_ms": 1500, "receiver.ping_ms": 150, "receiver.hello_ms": 200,
    "sync.stage_timeout_ms": 1500, "sync.commit_timeout_ms": 2000, "sync.attach_timeout_ms": 2000,
    "sync.full_timeout_ms": 3000, "sync.recovery_timeout_ms": 1000,
    "supervision.backoff_ms_max": 1000, "runtime.threads": 2, "log.level": "off",
}
SLACK_S, SETTLE_S, HEAL_S = 0.5, 6.0, 30.0
# Until all are started, and the trainer has brought all of them to one version in the end.
WHOLE_S, FINISH_S = 30, 75

KINDS = {  # kind -> how often
    "kill engine": 30, "end engine": 10, "stop engine": 26, "kill stopped engine": 6,
    "kill trainer": 10, "end trainer": 5, "stop trainer": 10,
    # The trainer too, until the engine has gone on: what it knew when it was stopped is no news.
    "outlast engine": 8,
}
# What a trainer that was killed or ended begins from, beside what its last checkpoint says.
CHECKPOINTS = {"kept": 4, "removed": 1}
# What is expected to be said of each lie: one of these statements.
LIES = {"flip": "a", "gate": "a", "lease": "e", "stale": "a", "tag": "a"}


def make_plan(seed, events, seconds, engines):
    """One dictionary an event, the same for the same seed."""
    rng = random.Random(seed)
    plan = []
    for at in sorted(rng.uniform(1.0, max(1.5, seconds)) for _ in range(events)):
        plan.append({
            "at": round(at, 3), "kind": rng.choices(list(KINDS), KINDS.values())[0],
            "order": rng.sample(range(engines), engines),
            # About one in six is longer than a lease.
            "away": round(min(4.0, 0.05 + rng.expovariate(1.2)), 3),
            "checkpoint": rng.choices(list(CHECKPOINTS), CHECKPOINTS.values())[0]})
    return plan


class History:
    """Lines of all processes, in the order in which they were read."""

    def __init__(self):
        self.lines = []
        self.lock = threading.Lock()
        self.kinds = collections.Counter()

    def add(self, line):
        with self.lock:
            self.lines.append(line)
            self.kinds[(line["role"], line["kind"])] += 1

    def driver(self, kind, at=None, **more):
        self.add({"role": "driver", "kind": kind, "t": at or time.monotonic_ns(), **more})

    def reader(self, role, id, life):
        def on_object(_, line):
            self.add({**line, "role": role, "id": id, "life": life})
        return on_object

    def count(self, role, kind):
        with self.lock:
            return self.kinds[(role, kind)]


class Actor:
    """The trainer, or one engine, through all its lives."""

    def __init__(self, history, role, id, start):
        self.history, self.role, self.id, self.start = history, role, id, start
        self.life = 0
        self.process = None
        self.busy = False  # dead or stopped on purpose

    def say(self, kind, **more):
        self.history.driver(kind, of=self.role, id=self.id, life=self.life, **more)

    def begin(self):
        self.life += 1
        self.say("started")
        self.process = self.start(self.life)

    def is_stopped(self):
        """Whether all its threads stand still."""
        try:
            states = [(task / "stat").read_text().rpartition(")")[2].split()[0]
                      for task in pathlib.Path(f"/proc/{self.process.pid}/task").iterdir()]
        except OSError:
            return False
        return bool(states) and all(s in "tTZX" for s in states)

    def stop(self):
        self.say("stopping")
        self.process.stop()
        fleet.wait_until(f"{self.process.name} stopped",
                         lambda: self.is_stopped() or not self.process.running(), 10, every=0.001)
        self.say("stopped")

    def go_on(self):
        self.say("going on")
        self.process.go_on()

    def send(self, number):
        self.say("killing" if number == signal.SIGKILL else "ending")
        self.process.signal(number)

    def ended(self, wanted, seconds=20):
        """Waits until it has, and says how."""
        try:
            code = self.process.wait(seconds)
        except fleet.Late:
            code = f"not within {seconds} s"
            self.process.kill()
        self.say("ended", code=code, wanted=wanted, said=self.process.said()[-600:])
        if self.process.garbage:
            self.say("ended", code="no JSON", wanted=wanted, said=self.process.garbage[0][:600])


class Blackbox:
    def __init__(self, options, scratch):
        self.options, self.scratch = options, scratch
        self.history = History()
        self.settings = dict(SETTINGS, **{"trainer.run_file": scratch / "run"})
        self.checkpoint = scratch / "checkpoint"
        self.port = fleet.free_port()
        self.processes = fleet.Fleet(None, "")
        self.trainer = Actor(self.history, "trainer", None, self.start_trainer)
        self.engines = [Actor(self.history, "engine", i, lambda life, i=i: self.start_engine(i, life))
                        for i in range(options.engines)]
        self.queue, self.order = [], itertools.count()
        self.events = collections.Counter()

    def start(self, name, argv, more, role, id, life):
        process = fleet.Process(name, argv, {**self.settings, **more},
                                self.history.reader(role, id, life), keep=64)
        self.processes.processes.append(process)
        return process

    def start_trainer(self, life):
        o = self.options
        return self.start(f"trainer/{life}", [
            o.trainer, "--kib", o.kib, "--seed", o.seed, "--life", life, "--engines", o.engines,
            "--period-ms", o.period_ms, "--checkpoint", self.checkpoint],
            {"transport.listen": f"127.0.0.1:{self.port}"}, "trainer", None, life)

    def start_engine(self, id, life):
        o = self.options
        argv = [o.engine, "--kib", o.kib, "--id", id, "--seed", o.seed * 1000 + life]
        if id % 2 == 0:
            argv += ["--memory", self.scratch / f"memory-{id}"]
        if o.lie and id == 0:
            argv += ["--lie", o.lie]
        return self.start(f"engine-{id}/{life}", argv,
                          {"transport.connect": f"127.0.0.1:{self.port}"}, "engine", id, life)

    # Faults

    def later(self, seconds, action):
        heapq.heappush(self.queue, (time.monotonic() + seconds, next(self.order), action))

    def strike(self, event):
        kind, _, role = event["kind"].rpartition(" ")
        actors = [self.trainer] if role == "trainer" else [self.engines[i] for i in event["order"]]
        actor = next((a for a in actors if not a.busy), None)
        if actor is None:
            return self.later(0.2, lambda: self.strike(event))
        self.events[event["kind"]] += 1
        actor.busy = True
        if kind == "outlast":
            return self.outlast(actor, event)
        if kind in ("stop", "kill stopped"):
            actor.stop()
            if kind == "stop":
                return self.later(event["away"], lambda: self.resume(actor))
            return self.later(event["away"] / 2, lambda: self.kill(actor, event, signal.SIGKILL))
        return self.kill(actor, event, signal.SIGKILL if kind == "kill" else signal.SIGTERM)

    def outlast(self, engine, event):
        if self.trainer.busy:
            return self.later(0.2, lambda: self.outlast(engine, event))
        self.trainer.busy = True
        engine.stop()
        self.trainer.stop()
        silent = self.settings["receiver.lease_ms"] / 1000 + SLACK_S + 0.2
        self.later(silent, lambda: self.resume(engine))
        return self.later(silent + 0.3 + event["away"] / 4, lambda: self.resume(self.trainer))

    def resume(self, actor):
        actor.go_on()
        actor.busy = False

    def kill(self, actor, event, number):
        newborn = time.monotonic() - actor.process.started < 1.0
        actor.send(number)
        # Nobody obeys SIGTERM before having come to that.
        wanted = [-signal.SIGKILL] if number == signal.SIGKILL else [0] + [-number] * newborn
        actor.ended(wanted)
        self.processes.forget(actor.process)
        self.later(event["away"], lambda: self.bring_back(actor, event))

    def bring_back(self, actor, event):
        if actor is self.trainer and event["checkpoint"] == "removed":
            self.checkpoint.unlink(missing_ok=True)
        actor.begin()
        actor.busy = False

    def everybody(self):
        return [self.trainer, *self.engines]

    def look(self):
        """Who ended unasked is begun again, and the history says so."""
        for actor in self.everybody():
            if not actor.busy and not actor.process.running():
                actor.ended([])
                self.processes.forget(actor.process)
                actor.begin()

    def drive(self, seconds_at_most):
        end = time.monotonic() + seconds_at_most
        while self.queue:
            now = time.monotonic()
            fleet.require(now < end, f"{len(self.queue)} faults are not over")
            while self.queue and self.queue[0][0] <= now:
                heapq.heappop(self.queue)[2]()
            self.look()
            if self.queue:
                time.sleep(max(0.001, min(0.05, self.queue[0][0] - time.monotonic())))

    # The run

    def run(self, plan):
        bounds = {"lease": self.settings["receiver.lease_ms"] / 1000, "slack": SLACK_S,
                  "settle": SETTLE_S, "heal": HEAL_S}
        self.history.driver("bounds", bounds=bounds)
        for actor in self.everybody():
            actor.begin()
        fleet.wait_until("generations", lambda: self.history.count("engine", "generation") > 0, WHOLE_S)
        for event in plan:
            self.later(event["at"], lambda event=event: self.strike(event))
        self.drive(self.options.seconds + 60)
        self.history.driver("faults over")
        try:
            # Once it has said that it listens it takes signals.
            fleet.wait_until("the trainer listens", lambda: self.trainer.process.count > 0
                             or not self.trainer.process.running(), WHOLE_S)
            self.trainer.process.signal(signal.SIGUSR1)
            fleet.wait_until("the trainer is done", lambda: self.trainer.process.find(kind="finished")
                             or not self.trainer.process.running(), FINISH_S, every=0.1)
            time.sleep(2)  # the last version is served for a while
        except fleet.Late:
            pass  # the checker says so
        for actor in reversed(self.everybody()):
            actor.busy = True
            if actor.process.running():
                actor.send(signal.SIGTERM)
                actor.ended([0])
            else:
                actor.ended([])
        return checker.Bounds(**bounds)

    def too_little(self, counts):
        """What a run that shows something has to have come to."""
        committed = sum(n for result, n in counts["syncs"].items() if result != "aborted")
        if committed < self.options.seconds:
            yield f"only {committed} syncs"
        for engine in range(self.options.engines):
            if counts["generations"].get(engine, 0) < 2 * self.options.seconds:
                yield f"engine {engine} served only {counts['generations'].get(engine, 0)} times"


def verdict(options, found):
    """What is wrong with a run, and the violations that a lie had to cause."""
    problems = list(found.violations)
    if not options.lie:
        return problems, []
    letter = LIES[options.lie]
    caught = [v for v in problems if v.startswith(f"({letter}) engine 0 ")]
    # A lie of one engine: nobody else may be accused of it.
    problems = [v for v in problems if not v.startswith(tuple(f"({l}) engine 0 " for l in "abcde"))]
    if not caught:
        problems.append(f"the lie '{options.lie}' of engine 0 was not found")
    return problems, caught


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("trainer", help="blackbox_trainer")
    parser.add_argument("engine", help="blackbox_engine")
    parser.add_argument("--engines", type=int, default=4)
    parser.add_argument("--events", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=40, help="of faults")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--kib", type=int, default=256, help="size of the model")
    parser.add_argument("--period-ms", type=int, default=30)
    parser.add_argument("--lie", choices=[*LIES, "each"], help="of engine 0; each: one run after another")
    parser.add_argument("--history", help="where the history of a run that fails is kept")
    options = parser.parse_args(arguments)
    if options.seed is None:
        options.seed = int(time.time())
    return options


def play(options):
    began = time.monotonic()
    plan = make_plan(options.seed, options.events, options.seconds, options.engines)
    if options.lie == "lease":  # it shows in a silence only
        plan.append({"at": options.seconds / 2, "kind": "stop trainer",
                     "away": SETTINGS["receiver.lease_ms"] / 1000 + SLACK_S + 1})
    problems = []
    with tempfile.TemporaryDirectory(prefix="lockstep-blackbox-") as scratch:
        box = Blackbox(options, pathlib.Path(scratch))
        bounds = None
        try:
            bounds = box.run(plan)
        except (fleet.Late, fleet.Failed) as problem:
            problems.append(str(problem))
        finally:
            problems += [f"{name} left children behind" for name in box.processes.close()]
    found = checker.check(box.history.lines, bounds)
    broken, caught = verdict(options, found)
    problems += broken
    if not options.lie:
        problems += box.too_little(found.counts())
    if problems and options.history:
        with open(options.history, "w", encoding="utf-8") as file:
            for line in box.history.lines:
                file.write(json.dumps(line) + "\n")
        problems.append(f"the history is in {options.history}")
    report = {"kind": "blackbox", "seed": options.seed, "engines": options.engines,
              "events": dict(box.events), "lives": {a.process.name.partition("/")[0]: a.life
                                                    for a in box.everybody() if a.process},
              **found.counts(), "lie": options.lie, "caught": len(caught),
              "seconds": round(time.monotonic() - began, 1), "violations": problems,
              "pass": not problems}
    return report, caught


def main(arguments=None):
    options = parse(arguments)
    passed = True
    for lie in LIES if options.lie == "each" else [options.lie]:
        options.lie = lie
        print(f"seed {options.seed}, {options.events} events" + (f", lie {lie}" if lie else ""), flush=True)
        report, caught = play(options)
        for line in caught[:3]:
            print(f"caught: {line}")
        for violation in report["violations"][:50]:
            print(f"VIOLATION {violation}")
        print(json.dumps(report), flush=True)
        passed = passed and report["pass"]
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
