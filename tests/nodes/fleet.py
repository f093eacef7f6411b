"""Decides how the tests start, watch, hurt and end real processes.

Only the standard library, Python 3.9 or later, Linux. Every wait has a deadline, everything that is
kept has a bound, and nothing that was started here outlives the test: each process leads a process
group of its own, gets SIGKILL from the kernel when the test dies, and is killed by `Fleet.close`.
"""
from __future__ import annotations

import argparse
import collections
import ctypes
import json
import os
import pathlib
import secrets
import signal
import socket
import subprocess
import tempfile
import threading
import time

SKIPPED = 77  # what CTest takes for "skipped"

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


class Late(Exception):
    """A deadline passed. The text says what was waited for."""


class Failed(Exception):
    """Something that the test demands does not hold."""


def require(holds, what):
    """Raises `Failed` with `what`, which may be a function that makes the text."""
    if not holds:
        raise Failed(what() if callable(what) else str(what))


def wait_until(what, condition, seconds, every=0.02):
    """Asks `condition` until it gives something true, and returns that; `Late` after `seconds`."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= end:
            raise Late(f"{what() if callable(what) else what}: not within {seconds:g} s")
        time.sleep(every)


def environment(settings=None):
    """The environment of a child: ours without settings of Lockstep, and with `settings`."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("LOCKSTEP_")}
    for key, value in (settings or {}).items():
        if isinstance(value, bool):
            value = "true" if value else "false"
        env["LOCKSTEP_" + key.upper().replace(".", "_")] = str(value)
    return env


class Process:
    """One program under test. Its standard output is read by a thread, line by line, as JSON.

    `on_object(process, object)` is called in that thread. `objects` holds the last `keep` of them,
    `garbage` the last lines that are no JSON object, `errors` the last lines of standard error.
    """

    def __init__(self, name, argv, settings=None, on_object=None, keep=4096):
        # The kernel's signal comes when the *thread* that started the child ends.
        assert threading.current_thread() is threading.main_thread(), "start from the main thread"
        self.name = name
        self.argv = [str(a) for a in argv]
        self.started = time.monotonic()
        self.objects = collections.deque(maxlen=keep)
        self.garbage = collections.deque(maxlen=100)
        self.errors = collections.deque(maxlen=200)
        self.count = 0  # objects ever read
        self.stopped = False
        self.signalled = None  # when it was last sent a signal
        self._on_object = on_object
        self._news = threading.Condition()
        parent = os.getpid()

        def in_child():
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(125)

        self._popen = subprocess.Popen(
            self.argv, env=environment(settings), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
            preexec_fn=in_child)
        self.pid = self._popen.pid
        self._readers = [threading.Thread(target=self._read_objects, daemon=True),
                         threading.Thread(target=self._read_errors, daemon=True)]
        for reader in self._readers:
            reader.start()

    # A line is at most this long; a program that prints longer ones is misbehaving.
    _LINE_MAX = 4 << 20

    def _lines(self, stream):
        while True:
            line = stream.readline(self._LINE_MAX)
            if not line:
                return
            yield line.decode("utf-8", "replace").rstrip("\n")

    def _read_objects(self):
        for line in self._lines(self._popen.stdout):
            try:
                value = json.loads(line)
            except ValueError:
                value = None
            if not isinstance(value, dict):
                self.garbage.append(line)
                continue
            if self._on_object:
                self._on_object(self, value)
            with self._news:
                self.objects.append(value)
                self.count += 1
                self._news.notify_all()

    def _read_errors(self):
        for line in self._lines(self._popen.stderr):
            self.errors.append(line)

    def find(self, **wanted):
        """The last object whose members equal `wanted`, or None."""
        with self._news:
            for value in reversed(self.objects):
                if all(value.get(k) == v for k, v in wanted.items()):
                    return value
        return None

    def wait_for(self, what, condition, seconds):
        """The first object, old or new, for which `condition(object)` holds."""
        end = time.monotonic() + seconds
        looked_at = 0
        with self._news:
            while True:
                fresh = min(self.count - looked_at, len(self.objects))
                looked_at = self.count
                for value in list(self.objects)[len(self.objects) - fresh:]:
                    if condition(value):
                        return value
                if self._popen.poll() is not None and not self._readers[0].is_alive():
                    if looked_at == self.count:
                        raise Failed(f"{self.name} ended with {self.returncode} "
                                     f"before {what}: {self.said()}")
                left = end - time.monotonic()
                if left <= 0:
                    raise Late(f"{self.name}: {what}: not within {seconds:g} s; {self.said()}")
                self._news.wait(min(left, 0.1))

    def said(self):
        """What it printed last, for messages."""
        last = [json.dumps(o) for o in list(self.objects)[-2:]]
        return " | ".join(last + list(self.errors)[-3:]) or "it said nothing"

    @property
    def returncode(self):
        """None while it runs; negative is the signal that ended it."""
        return self._popen.poll()

    def running(self):
        return self._popen.poll() is None

    def signal(self, number):
        """Signals it alone. False if it has ended."""
        if self._popen.poll() is not None:
            return False
        self.signalled = time.monotonic()
        try:
            self._popen.send_signal(number)
        except ProcessLookupError:
            return False
        return True

    def stop(self):
        self.stopped = self.signal(signal.SIGSTOP)

    def go_on(self):
        self.signal(signal.SIGCONT)
        self.stopped = False

    def kill(self, seconds=10):
        """SIGKILL, and until it is gone."""
        self.signal(signal.SIGKILL)
        return self.wait(seconds)

    def terminate(self, seconds=10):
        """SIGTERM, and its exit status. `Late` if it does not obey."""
        if self.stopped:
            self.go_on()
        self.signal(signal.SIGTERM)
        return self.wait(seconds)

    def wait(self, seconds):
        """Its exit status, once all that it printed was read."""
        end = time.monotonic() + seconds
        try:
            self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            raise Late(f"{self.name}: does not end within {seconds:g} s; {self.said()}") from None
        for reader in self._readers:
            reader.join(max(0.5, end - time.monotonic()))
        self.stopped = False
        return self.returncode

    def close(self):
        """Kills its whole group. True if it had left children behind."""
        if self._popen.poll() is None:
            self.kill()
        # Whoever is ending, on a busy machine, is not left behind.
        end = time.monotonic() + 2
        while (left := group_is_there(self.pid)) and time.monotonic() < end:
            time.sleep(0.02)
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
        for stream in (self._popen.stdout, self._popen.stderr):
            if not any(r.is_alive() for r in self._readers):
                stream.close()
        return left

    def rss(self):
        """Resident bytes, or 0 if it has ended."""
        return self._status_kib("VmRSS") * 1024

    def rss_peak(self):
        """The most resident bytes since this was last asked, as the kernel counts them, or 0 if it has ended."""
        peak = self._status_kib("VmHWM") * 1024
        try:
            with open(f"/proc/{self.pid}/clear_refs", "w", encoding="ascii") as f:
                f.write("5")
        except (FileNotFoundError, ProcessLookupError):
            return 0
        return peak

    def _status_kib(self, key):
        try:
            with open(f"/proc/{self.pid}/status", encoding="ascii", errors="replace") as f:
                for line in f:
                    if line.startswith(key + ":"):
                        return int(line.split()[1])
        except OSError:
            pass
        return 0


def group_is_there(group):
    """Whether a process of that group runs; one that ended and was not waited for does not."""
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", encoding="ascii", errors="replace") as f:
                fields = f.read().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] not in "ZX":
            return True
    return False


def shared_key(place):
    """Settings of a key of its own, made in the directory `place`."""
    file = place / "key"
    file.touch(0o600)
    file.write_text(secrets.token_hex(32) + "\n", encoding="ascii")
    return {"transport.shared_key_file": file}


def passing_on(degree, host=lambda id: "127.0.0.1"):
    """For `Fleet(secured=…)`: receivers that pass deltas on to `degree` others, each found at
    `host(id)`; 0: to nobody."""
    def of(role, id):
        if degree == 0 or role == "observer":
            return {}
        if role == "trainer":
            return {"transport.fanout": degree}
        return {"transport.relay_listen": f"{host(id)}:0"}
    return of


def parser_of(description):
    """For a test of one program, whose chance comes from a seed."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("--seed", type=int, default=1)
    return parser


def verdict_on(name, *plays):
    """The exit status of a test: each play has a directory of its own, and says what does not hold."""
    for play in plays:
        with tempfile.TemporaryDirectory(prefix=f"lockstep-{name}-") as scratch:
            try:
                play(pathlib.Path(scratch))
            except (Failed, Late) as problem:
                print(f"FAILED {problem}")
                return 1
    return 0


def free_port(host="127.0.0.1"):
    """A port that nobody listens on. Somebody may take it before it is used."""
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind((host, 0))
        return s.getsockname()[1]


class Ended:
    """What a program that ends by itself left: `code`, `objects`, `errors` (lines), `seconds`."""

    def __init__(self, process, code):
        self.code = code
        self.objects = list(process.objects)
        self.errors = list(process.errors)
        self.garbage = list(process.garbage)
        self.seconds = time.monotonic() - process.started

    def find(self, kind):
        return next((o for o in reversed(self.objects) if o.get("kind") == kind), None)

    def __str__(self):
        return f"exit {self.code} after {self.seconds:.2f} s; {self.objects[-1:]} {self.errors[-3:]}"


class Fleet:
    """A trainer's and receivers' processes over one program. Use it as a context.

    `settings` hold for all of them. `prefix(role, id)` may give words to put before the command,
    such as `ip netns exec NAME`. `secured(role, id)` may give settings of one process.
    """

    def __init__(self, program, base, stream=None, settings=None, prefix=None, secured=None):
        self.program = str(program)
        self.base = str(base)
        self.stream = str(stream) if stream else None
        self.settings = dict(settings or {})
        self._prefix = prefix or (lambda role, id: [])
        self._secured = secured or (lambda role, id: {})
        self.processes = []

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        left = self.close()
        if left and exception[0] is None:
            raise Failed(f"left processes behind: {', '.join(left)}")

    def close(self):
        """Kills what runs. The names of processes that left children behind."""
        left = [p.name for p in self.processes if p.close()]
        self.processes = []
        return left

    def start(self, name, role, id, arguments, settings=None, on_object=None):
        """Any command of the program, with --json."""
        merged = {**self.settings, **self._secured(role, id), **(settings or {})}
        merged = {k: v for k, v in merged.items() if v is not None}
        process = Process(name, [*self._prefix(role, id), self.program, *arguments, "--json"],
                          merged, on_object)
        self.processes.append(process)
        return process

    def forget(self, process):
        """Closes one that has ended, so that long tests hold no more than they run."""
        if process in self.processes:
            self.processes.remove(process)
        return process.close()

    def trainer(self, *more, listen="127.0.0.1:0", receivers=None, rounds=None, period_ms=None,
                serve=True, base=None, stream=True, settings=None, on_object=None, name="trainer",
                rank=0):
        arguments = ["trainer", "--base", base or self.base, "--listen", listen]
        if stream and self.stream:
            arguments += ["--stream", self.stream]
        for option, value in (("--receivers", receivers), ("--rounds", rounds),
                              ("--period-ms", period_ms)):
            if value is not None:
                arguments += [option, str(value)]
        if serve:
            arguments.append("--serve")
        return self.start(name, "trainer", rank, [*arguments, *more], settings, on_object)

    def receiver(self, id, connect, *more, out=None, checkpoint=None, settings=None,
                 on_object=None, name=None):
        arguments = ["receiver", "--connect", connect, "--id", str(id),
                     "--checkpoint", checkpoint or self.base]
        if name:
            arguments += ["--name", name]
        if out:
            arguments += ["--out", str(out)]
        return self.start(name or f"receiver-{id}", "receiver", id, [*arguments, *more], settings,
                          on_object)

    def ask(self, command, address, *more, seconds=20, settings=None):
        """`status` or `audit`: runs it to its end."""
        process = self.start(command, "observer", 0, [command, address, *more], settings)
        try:
            return Ended(process, process.wait(seconds))
        finally:
            self.forget(process)

    @staticmethod
    def ended(process, seconds=30):
        """Waits until a process has ended by itself."""
        return Ended(process, process.wait(seconds))


def address_of(trainer, seconds=20):
    """HOST:PORT that a trainer listens on, once it says so."""
    line = trainer.wait_for("listening", lambda o: o.get("kind") == "listening", seconds)
    host = line["host"]
    return f"[{host}]:{line['port']}" if ":" in host else f"{host}:{line['port']}"


def audited(summary, ids):
    """Whether a trainer's summary says that exactly these receivers hold what they should."""
    lines = summary["receivers"]
    return (summary["audit"] == "pass" and sorted(r["id"] for r in lines) == sorted(ids)
            and all(r["audit"] == "pass" for r in lines))


def is_ready(value, label=None):
    """Whether an object says that a receiver is ready, and at `label` if there is one."""
    return (value.get("kind") == "state" and value.get("ready") is True
            and (label is None or value.get("label") == label))


def run_of(version):
    """The run in "run.number", or -1."""
    head, _, tail = str(version).partition(".")
    return int(head) if head.isdigit() and tail.isdigit() else -1
