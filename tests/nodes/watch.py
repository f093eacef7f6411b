"""Decides whether receivers tell the truth: what they print against the bytes in their files.

`Member` is one receiver through all its lives, `Watch` the observer of all of them. The observer
knows every version's bytes by itself and believes nobody.
"""
from __future__ import annotations

import threading
import time

import fleet
import model

# A receiver that says something else within this time was just changing.
SETTLE_S = 3.0


class Watch:
    def __init__(self, versions):
        self.versions = versions
        self.lock = threading.Lock()
        self.violations = []
        self.counts = {"state_lines": 0, "ready_lines": 0, "proved": 0, "moved": 0, "syncs": 0,
                       "aborted": 0}
        self._labels = {}  # version -> label: a name stands for one content for ever
        self._newest_run = -1

    def violation(self, text):
        with self.lock:
            if len(self.violations) < 50:
                self.violations.append(text)

    def add(self, what, n=1):
        with self.lock:
            self.counts[what] = self.counts.get(what, 0) + n

    def named(self, who, version, label):
        """`version` was said to be the trainer's `label`."""
        with self.lock:
            self._newest_run = max(self._newest_run, fleet.run_of(version))
            if len(self._labels) > 100_000:
                self._labels.clear()
            known = self._labels.setdefault(version, label)
        if known != label:
            self.violation(f"{who}: version {version} is label {label}, and was label {known}")

    @property
    def newest_run(self):
        with self.lock:
            return self._newest_run

    def state(self, who, line):
        self.add("state_lines")
        if line.get("ready") is not True:
            return
        self.add("ready_lines")
        if line.get("phase") != "serving":
            self.violation(f"{who}: ready in phase {line.get('phase')}: {line}")
        if fleet.run_of(line.get("version")) <= 0:
            self.violation(f"{who}: ready without a version: {line}")
        else:
            self.named(who, line["version"], line.get("label"))

    def sync(self, line):
        if line.get("result") == "aborted":
            self.add("aborted")
            return
        if line.get("target_ref") == "0.0":  # the run was over before anybody knew how it ended
            self.add("lost")
            return
        self.add("syncs")
        self.named("trainer", line.get("target_ref"), line.get("version"))


class Member:
    """One receiver: its file, its life, and when it was last hurt or healed."""

    def __init__(self, watch, id, out=None):
        self.watch, self.id, self.out = watch, id, out
        self.file = out / "model.safetensors" if out else None
        self.process = None
        self.line = None  # the last state line of this life
        self.seen = 0  # grows with every line and everything that is done to it
        self.busy = False  # dead or stopped on purpose
        self.trap = None  # a signal that strikes when it next says that it is not ready
        self.hurt_until = None  # since when it has to heal
        self.run_wanted = -1  # and it has to be ready in a later run than this
        self.healed = []  # (what it healed from, seconds)
        self.what = ""
        self.lock = threading.Lock()

    def touched(self):
        with self.lock:
            self.seen += 1

    def begin_healing(self, what, run_wanted=-1):
        with self.lock:
            self.seen += 1
            self.hurt_until, self.what, self.run_wanted = time.monotonic(), what, run_wanted

    def on_object(self, process, line):
        if line.get("kind") != "state":
            return
        self.watch.state(process.name, line)
        with self.lock:
            if process is not self.process and self.process is not None:
                return
            self.line = line
            self.seen += 1
            if self.trap and line.get("ready") is not True:
                self.watch.add(f"struck in {line.get('phase')}")
                process.signal(self.trap)
                self.trap = None
            if self._is_current(line):
                self._heal(time.monotonic())

    def _is_current(self, line):
        return (self.hurt_until is not None and line is not None and line.get("ready") is True
                and fleet.run_of(line.get("version")) > self.run_wanted)

    def _heal(self, now):
        self.healed.append((self.what, max(0.0, now - self.hurt_until)))
        self.hurt_until = None

    def look(self):
        """Whoever was stopped and never stopped being ready says nothing: that is healed too."""
        with self.lock:
            if self.hurt_until and not self.busy and time.monotonic() - self.hurt_until > 0.5:
                if self._is_current(self.line):
                    self._heal(self.hurt_until)

    def ready(self):
        with self.lock:
            return self.line is not None and self.line.get("ready") is True

    def sample(self, wait=time.sleep):
        """Compares the file with what the receiver says, if it says that it is ready. A difference
        counts only if it stays while the receiver says nothing else."""
        def now():
            with self.lock:
                return self.seen, self.line, self.busy or self.process is None

        seen, line, busy = now()
        if self.file is None or busy or line is None or line.get("ready") is not True:
            return
        expected = self.watch.versions.expected(line["label"])
        first = model.digest(self.file)
        if first == expected:
            self.watch.add("proved" if now()[0] == seen else "moved")
            return
        end = time.monotonic() + SETTLE_S
        held = first
        while time.monotonic() < end:
            wait(0.05)
            if now()[0] != seen:
                self.watch.add("moved")
                return
            held = model.digest(self.file)
            if held == expected:
                break
        if now()[0] != seen or not self.process.running():
            return
        known = self.watch.versions.digests
        found = f"version {known.index(held)}" if held in known else held
        self.watch.violation(
            f"receiver-{self.id} says {line} and its file " +
            ("became that only afterwards" if held == expected else f"holds {found}"))


class Observer(threading.Thread):
    """Samples all members, over and over."""

    def __init__(self, members, every=0.05):
        super().__init__(daemon=True)
        self.members, self.every = members, every
        self._end = threading.Event()

    def run(self):
        while not self._end.is_set():
            for member in self.members:
                member.sample()
            self._end.wait(self.every)

    def finish(self):
        self._end.set()
        self.join(SETTLE_S * 2 + 5)
