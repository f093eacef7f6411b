#!/usr/bin/env python3
"""Decides how fast fleets of real processes are on this machine, over loopback.

    nodes.py PROGRAM [--json] [--only NAME…] [--base DIR --stream DIR] [--megabytes N] [--runs N]
             [--scratch DIR] [--set KEY=VALUE…]

NAME: reseed, latency, heal_big, delta, fanout, detect, stop, trainer, memory, idle. Prints a table, or
one JSON object a line; medians where something was repeated. The large model is made below --scratch
(a temporary directory) and removed; it needs twice its size on the disk and five times in memory.
docs/measurements.md has results and says what each line means. Python 3.9 or later, no packages.
"""
from __future__ import annotations

import argparse
import contextlib
import json
import os
import pathlib
import platform
import shutil
import statistics
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests" / "nodes")]

import big_model  # noqa: E402
import fleet  # noqa: E402
from fleet import Fleet, address_of, is_ready  # noqa: E402
from observer import Observer  # noqa: E402

MEASURES = {}
REPEATS = 10  # of what is killed, stopped and healed
LONG = 120  # seconds; whoever is late by then has failed
_TICKS = os.sysconf("SC_CLK_TCK")


def measure(function):
    MEASURES[function.__name__] = function
    return function


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as f:
        fields = f.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def wakes(pid):
    """How often the process's threads have been let run."""
    count = 0
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        lines = (task / "status").read_text(encoding="ascii", errors="replace").splitlines()
        count += sum(int(line.split()[1]) for line in lines if "ctxt_switches" in line)
    return count


def resident(pid, key="VmHWM"):
    with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as f:
        return next(int(line.split()[1]) * 1024 for line in f if line.startswith(key + ":"))


def percentile(values, share):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


class Stamps:
    """When a receiver first said things, by time.monotonic(), in the thread that reads it."""

    def __init__(self):
        self.lines = []

    def __call__(self, _, line):
        self.lines.append((time.monotonic(), line))

    def first(self, condition):
        return next(t for t, line in self.lines if condition(line))


class Bench:
    def __init__(self, options):
        self.options = options
        self.settings = dict(pair.split("=", 1) for pair in options.set)
        self.settings.setdefault("log.level", "off")
        self.scratch = pathlib.Path(tempfile.mkdtemp(prefix="lockstep-bench-", dir=options.scratch))
        self.rows = []
        self._big = None

    def fleet(self, base, stream=None, degree=0):
        return Fleet(self.options.program, base, stream, self.settings,
                     secured=fleet.passing_on(degree))

    def small(self, degree=0):
        return self.fleet(self.options.base, self.options.stream, degree)

    def big(self):
        if self._big is None:
            self.progress("making the large model")
            self._big = big_model.make(self.scratch, self.options.megabytes * 1_000_000, 0.01)
        return self._big

    def progress(self, text):
        print(text, file=sys.stderr, flush=True)

    def row(self, name, what, value, unit, note=""):
        row = {"kind": "measure", "name": name, "what": what, "value": float(f"{value:.5g}"),
               "unit": unit, "note": note}
        self.rows.append(row)
        if self.options.json:
            print(json.dumps(row), flush=True)
        else:
            print(f"{name:9} {what:58} {row['value']:>11g} {unit:5} {note}", flush=True)

    def times(self, name, what, values, note=""):
        self.row(name, what, statistics.median(values), "s",
                 f"max {max(values):.3g}, n={len(values)}{'; ' + note if note else ''}")

    def run(self, names):
        for name in names:
            self.progress(f"--- {name}")
            MEASURES[name](self)

    def close(self):
        shutil.rmtree(self.scratch, ignore_errors=True)


# The large model


def reseed_once(f, address, other, id, out=None):
    """Starts a receiver over other bytes and waits until it is ready: itself and its stamps."""
    stamps = Stamps()
    receiver = f.receiver(id, address, checkpoint=other, out=out, on_object=stamps)
    receiver.wait_for("its first word", lambda o: o.get("kind") == "state", LONG)
    return receiver, stamps


def waiting(f, trainer):
    """The address of a trainer that keeps its base and is idle."""
    address = address_of(trainer, LONG)
    trainer.wait_for("its weights", lambda o: o.get("kind") == "summary", LONG)
    return address


@measure
def reseed(bench):
    """A receiver that holds other bytes is given all of them."""
    base, stream, size = bench.big()
    found = {key: [] for key in ("total", "transfer", "plain", "trainer", "receiver")}
    with bench.fleet(base) as f:
        trainer = f.trainer(receivers=0, stream=False)
        address = waiting(f, trainer)
        for i in range(bench.options.runs):
            found["plain"].append(big_model.plain_copy(base / "model.safetensors", size))
            receiver, stamps = reseed_once(f, address, stream / "step-1", i)
            before = cpu_seconds(trainer.pid), cpu_seconds(receiver.pid)
            receiver.wait_for("ready", is_ready, LONG)
            found["trainer"].append(cpu_seconds(trainer.pid) - before[0])
            found["receiver"].append(cpu_seconds(receiver.pid) - before[1])
            ready = stamps.first(is_ready)
            found["total"].append(ready - stamps.lines[0][0])
            found["transfer"].append(
                ready - stamps.first(lambda o: o.get("phase") == "reseeding"))
            peak = resident(trainer.pid), resident(receiver.pid)
            receiver.terminate()
            f.forget(receiver)
    plain = statistics.median(found["plain"])
    bench.row("reseed", "weights", size / 1e9, "GB")
    bench.times("reseed", "plain socket copy of as many bytes", found["plain"])
    bench.times("reseed", "dialing to ready", found["total"])
    bench.times("reseed", "of that, first bucket announced to ready", found["transfer"])
    for key, what in (("plain", "plain socket copy"), ("total", "dialing to ready"),
                      ("transfer", "announced to ready")):
        bench.row("reseed", what, size / 1e9 / statistics.median(found[key]), "GB/s")
    bench.row("reseed", "dialing to ready, of the plain copy's rate",
              plain / statistics.median(found["total"]), "ratio")
    bench.row("reseed", "announced to ready, of the plain copy's rate",
              plain / statistics.median(found["transfer"]), "ratio")
    bench.row("reseed", "CPU time of the trainer", statistics.median(found["trainer"]), "s")
    bench.row("reseed", "CPU time of the receiver", statistics.median(found["receiver"]), "s")
    bench.row("reseed", "peak memory of the trainer", peak[0] / 1e9, "GB", "weights, snapshot, file")
    bench.row("reseed", "peak memory of the receiver", peak[1] / 1e9, "GB", "weights, file")


def ask_at_a_rate(observer, until, period=0.005):
    """Answer times of questions that were due every `period`, from when each was due; and by how
    much this process woke up late for those."""
    answers, late = [], []
    due = time.monotonic()
    while not until():
        left = due - time.monotonic()
        if left > 0:
            time.sleep(left)
            late.append(time.monotonic() - due)
        observer.ask()
        answers.append(time.monotonic() - due)
        due += period
    return answers, late


@measure
def latency(bench):
    """Questions to a trainer, idle and while it reseeds."""
    base, stream, _ = bench.big()
    found = {"idle": ([], []), "during a reseed": ([], [])}
    with bench.fleet(base) as f:
        address = waiting(f, trainer := f.trainer(receivers=0, stream=False))
        assert trainer.running()
        with Observer(address) as observer:
            for i in range(bench.options.runs):
                receiver, stamps = reseed_once(f, address, stream / "step-1", i)
                for key, until in (
                        ("during a reseed", lambda: any(is_ready(o) for _, o in stamps.lines)),
                        ("idle", lambda end=time.monotonic() + LONG: time.monotonic() > end)):
                    if key == "idle":
                        end = time.monotonic() + 3
                        until = lambda: time.monotonic() > end  # noqa: E731
                    answers, late = ask_at_a_rate(observer, until)
                    found[key][0].extend(answers)
                    found[key][1].extend(late)
                receiver.terminate()
                f.forget(receiver)
    for key, (answers, late) in found.items():
        for name, share in (("p50", 0.5), ("p99", 0.99)):
            bench.row("latency", f"status round trip {key}, {name}",
                      percentile(answers, share) * 1e3, "ms",
                      f"n={len(answers)}, max {max(answers) * 1e3:.3g}; asker woke late by "
                      f"{percentile(late, share) * 1e3:.3g}")


@measure
def heal_big(bench):
    """The receiver of the large model is killed, and comes back over its file and over none."""
    base, stream, _ = bench.big()
    kept, lost = [], []
    out = bench.scratch / "out"
    with bench.fleet(base) as f:
        address = waiting(f, f.trainer(receivers=0, stream=False))
        for i in range(2 * bench.options.runs + 1):
            began = time.monotonic()
            receiver, stamps = reseed_once(f, address, stream / "step-1", 0, out)
            receiver.wait_for("ready", is_ready, LONG)
            if i > 0:
                (lost if i % 2 == 0 else kept).append(stamps.first(is_ready) - began)
            receiver.kill()
            f.forget(receiver)
            if i % 2 == 1:
                shutil.rmtree(out)
    shutil.rmtree(out, ignore_errors=True)
    bench.times("heal_big", "start over the file it had, to ready", kept, "large model")
    bench.times("heal_big", "start over no file, to ready", lost, "large model, file made, reseed")


class MemoryPeak(threading.Thread):
    """The most memory of its own that a process has while this runs."""

    def __init__(self, process):
        super().__init__(daemon=True)
        self.pid, self.peak, self._end = process.pid, 0, threading.Event()

    def run(self):
        while not self._end.wait(0.01):
            with contextlib.suppress(OSError, StopIteration):
                self.peak = max(self.peak, resident(self.pid, "RssAnon"))

    def finish(self):
        self._end.set()
        self.join()
        return self.peak


@measure
def delta(bench):
    """A version that differs in one element of a hundred."""
    base, stream, size = bench.big()
    syncs = max(3, bench.options.runs)
    with bench.fleet(base, stream) as f:
        trainer = f.trainer(receivers=1, rounds=(syncs + 1) // 2, period_ms=500)
        receiver = f.receiver(0, address_of(trainer, LONG))
        receiver.wait_for("its first word", lambda o: o.get("kind") == "state", LONG)
        before = resident(receiver.pid, "RssAnon")
        watch = MemoryPeak(receiver)
        watch.start()
        trainer.wait_for("the last sync", lambda o: o.get("kind") == "summary", LONG)
        peak = watch.finish()
        lines = [o for o in trainer.objects if o.get("kind") == "sync"]
    assert all(line["result"] == "ok" for line in lines), lines
    bench.row("delta", "weights", size / 1e9, "GB")
    bench.row("delta", "changed", lines[0]["changed_percent"], "%")
    bench.row("delta", "bytes on the wire", lines[0]["wire_bytes"] / 1e6, "MB")
    for phase in ("encode", "ship", "vote", "commit", "total"):
        bench.times("delta", phase, [line["seconds"][phase] for line in lines])
    bench.row("delta", "memory of the receiver beside its weights", (peak - before) / 1e6, "MB",
              "most, over its memory when it dialed")


# The small model


@measure
def fanout(bench):
    """Whole syncs to more and more processes, which pass deltas on or do not."""
    for count, degree in ((1, 0), (4, 0), (4, 2), (16, 0), (16, 2), (16, 4)):
        with bench.small(degree) as f:
            trainer = f.trainer(receivers=count, rounds=10)
            address = address_of(trainer)
            for i in range(count):
                f.receiver(i, address)
            trainer.wait_for("the last sync", lambda o: o.get("kind") == "summary", LONG)
            lines = [o for o in trainer.objects if o.get("kind") == "sync"]
            status = f.ask("status", address).find("status")
        handed = sum(line["sent_bytes"] for line in lines)
        relayed = sum(r["relayed_bytes"] for r in status["receivers"])
        once = sum(line["wire_bytes"] for line in lines)
        mean = once / len(lines)
        what = f"{count} receivers, fan-out {degree}"
        lines = lines[len(lines) // 10:]  # what comes first is cold
        assert all(line["result"] == "ok" for line in lines)
        total = [line["seconds"]["total"] for line in lines]
        bench.row("fanout", f"{what}: a sync", statistics.median(total) * 1e3, "ms",
                  f"p90 {percentile(total, 0.9) * 1e3:.3g}, n={len(total)}")
        bench.row("fanout", f"{what}: sent by the trainer", (handed - relayed) / once, "x",
                  f"deltas, of {mean / 1e3:.3g} kB on the average")


def started(bench, f, count, out=None):
    """A trainer that has played its stream to `count` receivers: trainer, address, receivers."""
    trainer = f.trainer(receivers=count)
    address = address_of(trainer)
    receivers = [f.receiver(i, address, out=out(i) if out else None) for i in range(count)]
    summary = trainer.wait_for("the last sync", lambda o: o.get("kind") == "summary", LONG)
    fleet.require(fleet.audited(summary, range(count)), summary)
    return trainer, address, receivers


def away(id):
    return lambda lines: not lines[id]["member"]


@measure
def idle(bench):
    """What a fleet that has nothing to do takes of the processors."""
    seconds = 20
    with bench.small() as f:
        trainer, _, receivers = started(bench, f, 4)
        processes = [trainer, *receivers]
        before = [(cpu_seconds(p.pid), wakes(p.pid)) for p in processes]
        time.sleep(seconds)
        spent = [(cpu_seconds(p.pid) - cpu, wakes(p.pid) - woken)
                 for p, (cpu, woken) in zip(processes, before)]
    for name, some in (("trainer", spent[:1]), ("receiver", spent[1:])):
        bench.row("idle", f"{name}: processor time a second",
                  statistics.mean(cpu for cpu, _ in some) / seconds * 1e3, "ms",
                  f"{statistics.mean(woken for _, woken in some) / seconds:.0f} times woken")


@measure
def detect(bench):
    """kill -9 of a receiver until the trainer says so; its start until it is ready again."""
    noticed, kept, lost = [], [], []

    def out(i):
        return bench.scratch / f"out-{i}"

    with bench.small() as f:
        trainer, address, receivers = started(bench, f, 4, out)
        label = trainer.find(kind="sync")["version"]
        with Observer(address) as observer:
            for i in range(2 * REPEATS):
                id = i % 4
                began = time.monotonic()
                receivers[id].signal(9)
                noticed.append(observer.until("killed", away(id), LONG) - began)
                receivers[id].wait(LONG)
                f.forget(receivers[id])
                if i >= REPEATS:
                    shutil.rmtree(out(id))
                stamps = Stamps()
                began = time.monotonic()
                receivers[id] = f.receiver(id, address, out=out(id), on_object=stamps)
                receivers[id].wait_for("ready", lambda o: is_ready(o, label), LONG)
                (lost if i >= REPEATS else kept).append(
                    stamps.first(lambda o: is_ready(o, label)) - began)
                observer.until("a member", lambda lines: lines[id]["member"], LONG)
    bench.times("detect", "kill -9 of a receiver until the trainer says so", noticed)
    bench.times("detect", "its start over its file, to ready", kept)
    bench.times("detect", "its start over no file, to ready", lost, "reseed")


@measure
def stop(bench):
    """SIGSTOP of receivers, one every half second, until the trainer says so; SIGCONT until it is
    a member again."""
    noticed, back = {}, []
    with bench.small() as f:
        _, address, receivers = started(bench, f, REPEATS)
        with Observer(address) as observer:
            for i, receiver in enumerate(receivers):
                receiver.stop()
                began = time.monotonic()
                last = i == REPEATS - 1
                while time.monotonic() < began + 0.5 or (last and len(noticed) < REPEATS):
                    for id, line in observer.ask().items():
                        if not line["member"]:
                            noticed.setdefault(id, time.monotonic() - receivers[id].signalled)
                    fleet.require(time.monotonic() < began + LONG, "a stopped receiver is a member")
                    time.sleep(0.005)
            for i, receiver in enumerate(receivers):
                began = time.monotonic()
                receiver.go_on()
                back.append(observer.until("back", lambda lines: lines[i]["member"], LONG) - began)
    bench.times("stop", "SIGSTOP of a receiver until the trainer says so", list(noticed.values()),
                "nothing is synced meanwhile")
    bench.times("stop", "SIGCONT until it is a member again", back)


@measure
def trainer(bench):
    """kill -9 of the trainer and its start at once, until all of four receivers are ready in the
    new run: over the weights that they hold, and over others."""
    found = {"same": [], "other": []}
    with bench.small() as f:
        old, address, receivers = started(bench, f, 4, lambda i: bench.scratch / f"trained-{i}")
        last = bench.scratch / "last"
        shutil.copytree(bench.scratch / "trained-0", last)
        bases = [last, pathlib.Path(bench.options.base)]
        for i in range(2 * REPEATS):
            # last, base, base, last, last, …: every second one is what they hold.
            which = "same" if i % 2 == 0 else "other"
            base = bases[(i + 1) // 2 % 2]
            run = max(fleet.run_of(r.find(kind="state")["version"]) for r in receivers)
            began = time.monotonic()
            old.signal(9)
            old.wait(LONG)
            f.forget(old)
            old = f.trainer(receivers=0, stream=False, base=base, listen=address)
            for r in receivers:
                r.wait_for("the new run", lambda o: is_ready(o) and fleet.run_of(o["version"]) > run,
                           LONG)
            found[which].append(time.monotonic() - began)
    bench.times("trainer", "kill -9, start over the weights held, to all ready", found["same"],
                "4 receivers")
    bench.times("trainer", "kill -9, start over other weights, to all ready", found["other"],
                "4 receivers, reseeds")


@measure
def memory(bench):
    """Whether memory grows with the syncs."""
    with bench.small() as f:
        processes, samples = [], {}

        def sample(_, line):
            if line.get("kind") == "sync" and line["version"] % 10 == 0:
                for p in list(processes):
                    samples.setdefault(p.name, []).append((line["version"], p.rss()))

        versions = sum(1 for p in pathlib.Path(bench.options.stream).iterdir() if p.is_dir())
        playing = f.trainer(receivers=4, rounds=1000 // (versions + 1) + 1, on_object=sample)
        address = address_of(playing)
        processes += [playing, *(f.receiver(i, address) for i in range(4))]
        playing.wait_for("the last sync", lambda o: o.get("kind") == "summary", 10 * LONG)
        syncs = playing.find(kind="summary")["syncs"]
    for name, points in samples.items():
        points = [p for p in points if p[0] > 200]  # what comes first fills the caches
        slope = statistics.linear_regression(*zip(*points)).slope if len(points) > 2 else 0
        bench.row("memory", f"{name}: growth from sync 200 to the last", slope, "B/sync",
                  f"{points[0][1] / 1e6:.4g} MB at {points[0][0]}, {points[-1][1] / 1e6:.4g} MB at "
                  f"{points[-1][0]}; {syncs} syncs")


def machine():
    model = "unknown"
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as f:
        for line in f:
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
    return {"kind": "machine", "cpu": model, "cores": os.cpu_count(), "load": os.getloadavg()[0],
            "kernel": platform.release(), "date": time.strftime("%Y-%m-%d %H:%M %z")}


def main():
    data = HERE.parent / "examples" / "data" / "tiny-rl"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--only", nargs="+", choices=list(MEASURES), default=list(MEASURES))
    parser.add_argument("--base", default=data / "base", help="of the small model")
    parser.add_argument("--stream", default=data / "stream", help="of the small model")
    parser.add_argument("--megabytes", type=int, default=2000, help="of the large model")
    parser.add_argument("--runs", type=int, default=5, help="with the large model")
    parser.add_argument("--scratch", help="where the large model is made")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    where = machine()
    print(json.dumps(where) if options.json else
          ", ".join(f"{k} {v}" for k, v in where.items() if k != "kind"), flush=True)
    bench = Bench(options)
    try:
        bench.run(options.only)
    finally:
        bench.close()


if __name__ == "__main__":
    main()
