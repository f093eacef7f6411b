#!/usr/bin/env python3
"""Decides whether the program says so when a disk fails it, and leaves nothing behind that is wrong.

    disk.py PROGRAM SHIM [--seconds N] [--seed N] [--only NAME…]     SHIM: crash_shim.cpp, built

Every command that reads or writes weights is run again and again over the same small model; in each run
one call on a file, the N-th, meets one fault: no space (ENOSPC), a disk that fails (EIO), a signal (EINTR), half of the
bytes (short). All later calls meet it as well in some of them. A run must end well with the right bytes (signals and
halves always), or with the status that says to try again and one line that names the file; what is live must be whole or
marked as not; and the same command without a fault must then end well with the right bytes. Tries all calls of all
commands, in an order that comes from the seed, or as many as there is time for, and some of every kind first.
"""
from __future__ import annotations

import argparse
import collections
import fnmatch
import json
import os
import pathlib
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "nodes"))

import fleet  # noqa: E402
import model  # noqa: E402
from fleet import require  # noqa: E402

VERSIONS = 3
INDEX = "model.safetensors.index.json"
DEADLINE = 60  # seconds for one command
TRY_AGAIN, BAD_FILES = 4, 2  # the program's exit status
SETTINGS = {"log.level": "off", "receiver.hello_ms": 50, "transport.retry_ms": 20, "transport.retry_ms_max": 50}
KINDS = ("ENOSPC", "EIO", "EINTR", "SHORT")
# Who is told that these failed has not done what it was to do. The others are made again or another way, and whether
# the bytes are right is looked at in any case.
WRITES = {"open-to-write", "write", "fsync", "ftruncate", "rename", "mkdir", "unlink"}
# Directories made to see whether they can be: if one stays, it is the one that is needed.
HARMLESS = {("replay", "unlink", "out"), ("replay", "unlink", "out/receiver-0"), ("replay", "unlink", "out/receiver-1")}
# The log is opened again, a few times.
HARMLESS |= {("trainer", "open-to-write", "log"), ("trainer-tls", "open-to-write", "log")}
# What was found, and is tried first: the operation, the fault, and the last calls of one kind on one file.
FOUND = [
    # The change was declared and half made; taken for unwritten, it was begun anew over the mix.
    ("pull", "EIO", "read", "host/model.safetensors"),
    ("pull", "EIO", "read", "host/.weight_sync/redo.log"),
    ("pull-on", "EIO", "read", "host/.weight_sync/redo.log"),
    # What could not be read was taken for damaged, and the marker of a sound checkpoint removed.
    ("pull-on", "EIO", "stat", "host/.weight_sync/intent.json"),
    # A version that could not be looked at was left out, and what is beside the tensors of a full one.
    ("replay", "EIO", "stat", "stream/step-3"),
    ("publish-full", "EIO", "stat", "step-2"),
    # Two copies of the model stayed behind.
    ("fold", "EIO", "unlink", "out/.lockstep-scratch-*/a"),
    # The message named no reason, and the status said that trying again is of no use.
    ("convert", "EIO", "stat", "out/.lockstep-scratch-*/b"),
    ("pull-full", "EIO", "stat", "host"),
    ("replay", "EIO", "stat", "out"),
    # The message named no file.
    ("receiver", "EIO", "readdir", "base"),
]


class Ended:
    def __init__(self, code, errors):
        self.code, self.errors = code, errors


class Commands:
    """The program, with a fault or without."""

    def __init__(self, program, shim):
        self.program, self.shim = program, shim

    def environment(self, fault):
        env = fleet.environment(SETTINGS)
        if fault:
            env.update(fault, LD_PRELOAD=str(self.shim))
        return env

    def run(self, arguments, fault=None):
        done = subprocess.run([self.program, *map(str, arguments)], env=self.environment(fault), text=True,
                              stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                              timeout=DEADLINE)
        return Ended(done.returncode, done.stderr)

    def must(self, arguments):
        done = self.run(arguments)
        require(done.code == 0, f"{' '.join(map(str, arguments))}: {done.code}: {done.errors}")


class Operation:
    """One command over the directory `at`, whose `inputs` a copy is made of for each run."""

    def __init__(self, commands, versions, scratch):
        self.commands, self.versions, self.scratch = commands, versions, scratch

    def prepare(self, at):
        """Makes the inputs."""

    def run(self, at, fault=None):
        return self.commands.run(self.arguments(at), fault)

    def arguments(self, at):
        raise NotImplementedError

    def look(self, at):
        """What a run that failed left is no lie."""

    def is_right(self, at):
        """What a run that ended well made is what it should be."""
        raise NotImplementedError

    def base(self):
        return pathlib.Path(self.versions.base)

    def step(self, number):
        return self.base() if number == 0 else pathlib.Path(self.versions.stream) / f"step-{number}"

    def publish_stream(self, at, *more):
        self.commands.must(["publish", "--checkpoints", *(self.step(n) for n in range(VERSIONS + 1)), "--out",
                            at / "stream", *more])

    def copy_steps(self, at):
        for number in range(VERSIONS + 1):
            shutil.copytree(self.step(number), at / f"step-{number}")


class Publish(Operation):
    more = ()
    out = "out"

    def prepare(self, at):
        self.copy_steps(at)
        for number in range(VERSIONS + 1):  # which full versions take along
            (at / f"step-{number}" / "config.json").write_text('{"is": "small"}', encoding="utf-8")

    def arguments(self, at):
        return ["publish", "--checkpoints", *(at / f"step-{n}" for n in range(VERSIONS + 1)), "--out", at / self.out,
                *self.more]

    def published(self, at):
        return [int(d.name[-6:]) for d in (at / self.out).glob("weight_v*") if (d / INDEX).exists()]

    def pulled(self, at, to):
        """A host that begins with the base holds version `to` after a pull."""
        host = self.scratch / "host"
        shutil.rmtree(host, ignore_errors=True)
        self.commands.must(["pull", "--source", at / self.out, "--checkpoint", host, "--base", self.base(),
                            "--to", to])
        require(model.digest(host) == self.versions.digests[to], f"version {to} of what was published is another")

    def look(self, at):
        there = self.published(at)
        if there:
            self.pulled(at, max(there))

    def is_right(self, at):
        self.pulled(at, VERSIONS)
        left = [f.name for f in (at / self.out).rglob("*") if f.name.endswith(".tmp") or "scratch" in f.name]
        require(not left, f"left behind {left}")


class PublishFull(Publish):
    """With full versions, and old ones removed."""
    more = ("--full-every", "2", "--keep", "1")

    def is_right(self, at):
        super().is_right(at)
        require((at / self.out / "weight_v000002" / "config.json").exists(), "a full version without what is beside")


class FromStream(Publish):
    def prepare(self, at):
        self.copy_steps(at)
        self.publish_stream(at)

    def arguments(self, at):
        return [*self.command, "--base", at / "step-0", "--stream", at / "stream", "--out", at / self.out]


class Fold(FromStream):
    command = ("fold", "--from", "0", "--to", str(VERSIONS))


class Convert(FromStream):
    command = ("convert", "--scheme", "coded")


class Pull(Operation):
    more = ()

    def prepare(self, at):
        self.publish_stream(at, *self.more)
        shutil.copytree(self.base(), at / "host")

    def arguments(self, at):
        return ["pull", "--source", at / "stream", "--checkpoint", at / "host", "--to", VERSIONS]

    def look(self, at):
        marker = at / "host" / ".weight_sync" / "state.json"
        if marker.exists():
            says = int(json.loads(marker.read_text(encoding="utf-8"))["version"])
            require(model.digest(at / "host") == self.versions.digests[says], f"the marker says {says}, the bytes do not")

    def is_right(self, at):
        require((at / "host" / ".weight_sync" / "state.json").exists(), "there is no marker")
        self.look(at)
        require(model.digest(at / "host") == self.versions.digests[VERSIONS], "other bytes than the version's")


class PullOn(Pull):
    """A host that is at a version."""

    def prepare(self, at):
        super().prepare(at)
        self.commands.must(["pull", "--source", at / "stream", "--checkpoint", at / "host", "--to", VERSIONS - 1])


class PullFull(Pull):
    more = ("--full-every", "2")


class Replay(Operation):
    def prepare(self, at):
        shutil.copytree(self.base(), at / "base")
        shutil.copytree(self.versions.stream, at / "stream")

    def arguments(self, at):
        return ["replay", "--base", at / "base", "--stream", at / "stream", "--receivers", 2, "--out", at / "out"]

    def look(self, at):
        for file in (at / "out").rglob("*.safetensors"):
            require(model.digest(file) == self.versions.digests[VERSIONS], f"{file} is there and not whole")

    def is_right(self, at):
        for number in range(2):
            require(model.digest(at / "out" / f"receiver-{number}") == self.versions.digests[VERSIONS], f"receiver {number}")


class Receiver(Operation):
    """A receiver that keeps its weights in a file, beside a trainer that no fault strikes."""

    def prepare(self, at):
        shutil.copytree(self.base(), at / "base")

    def run(self, at, fault=None):
        trainer = fleet.Process("trainer", [self.commands.program, "trainer", "--base", self.base(), "--stream",
                                            self.versions.stream, "--receivers", "1", "--json", "--listen",
                                            "127.0.0.1:0"], SETTINGS)
        receiver = None
        try:
            port = trainer.wait_for("its port", lambda o: o.get("kind") == "listening", 20)["port"]
            receiver = subprocess.Popen(
                [self.commands.program, "receiver", "--connect", f"127.0.0.1:{port}", "--id", "0", "--checkpoint",
                 at / "base", "--out", at / "out"], env=self.commands.environment(fault), text=True,
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            end = time.monotonic() + DEADLINE
            while receiver.poll() is None and trainer.running():
                require(time.monotonic() < end, "neither the trainer nor the receiver ends")
                time.sleep(0.005)
            if receiver.poll() is None:
                require(trainer.returncode == 0, f"the trainer ends with {trainer.returncode}: {trainer.said()}")
                receiver.terminate()
            errors = receiver.communicate(timeout=DEADLINE)[1]
            return Ended(receiver.returncode, errors)
        finally:
            if receiver and receiver.poll() is None:
                receiver.kill()
                receiver.wait()
            trainer.close()

    def is_right(self, at):
        require(model.digest(at / "out") == self.versions.digests[VERSIONS], "other bytes than the trainer's")


class Trainer(Operation):
    """Nothing but a run that gets its number; with a file of settings, a log and a key."""
    credentials = {"transport.shared_key_file": "key"}

    def make_credentials(self, at):
        fleet.shared_key(at)

    def prepare(self, at):
        shutil.copytree(self.base(), at / "base")
        (at / "settings.toml").write_text('[cluster]\nname = "small"\n', encoding="utf-8")
        self.make_credentials(at)
        require(self.run(at).code == 0, "no first run")
        self.before = self.number(at)

    def run(self, at, fault=None):
        ended = super().run(at, fault)
        # It ends with 1 and no word: nobody is there to pass an audit.
        return Ended(0 if (ended.code, ended.errors) == (1, "") else ended.code or 1, ended.errors)

    def arguments(self, at):
        files = {"trainer.run_file": "run", "log.file": "log", **self.credentials}
        return ["trainer", "--base", at / "base", "--receivers", "0", "--listen", "127.0.0.1:0", "--config",
                at / "settings.toml", *(w for key, file in files.items() for w in ("--set", f"{key}={at / file}"))]

    def number(self, at):
        found = re.fullmatch(r"lockstep run ([1-9][0-9]*) [0-9a-f]{32}\n", (at / "run").read_text(encoding="utf-8"))
        require(found, "the file of runs is torn")
        return int(found[1])

    def look(self, at):
        require(self.number(at) >= self.before, "a run's number went back")
        self.seen = self.number(at)

    def is_right(self, at):
        require(self.number(at) > self.before, "a run without a number of its own")


class CertifiedTrainer(Trainer):
    """The same with certificates."""
    credentials = {"transport.certificate_file": "tls/trainer.pem", "transport.key_file": "tls/trainer.key",
                   "transport.authority_file": "tls/ca.pem"}

    def make_credentials(self, at):
        script = pathlib.Path(__file__).resolve().parents[2] / "scripts" / "make-certificates"
        subprocess.run([script, at / "tls", "nobody"], check=True, timeout=DEADLINE, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL)


OPERATIONS = {"publish": Publish, "publish-full": PublishFull, "fold": Fold, "convert": Convert, "pull": Pull, "pull-on": PullOn,
              "pull-full": PullFull, "replay": Replay, "receiver": Receiver, "trainer": Trainer,
              "trainer-tls": CertifiedTrainer}


class Sweep:
    def __init__(self, options, scratch):
        self.options, self.scratch = options, scratch
        self.commands = Commands(os.path.abspath(options.program), os.path.abspath(options.shim))
        self.at = scratch / "now" / "files"
        self.log = scratch / "struck"
        self.tried = collections.Counter()
        self.refused = collections.Counter()
        versions = model.synthetic(scratch / "model", 1, VERSIONS, mebibytes=0.01)
        self.operations = {}
        for name in options.only or OPERATIONS:
            operation = self.operations[name] = OPERATIONS[name](self.commands, versions, scratch)
            (scratch / "inputs" / name).mkdir(parents=True)
            operation.prepare(scratch / "inputs" / name)

    def fresh(self, name):
        shutil.rmtree(self.at.parent, ignore_errors=True)
        shutil.copytree(self.scratch / "inputs" / name, self.at, symlinks=True)
        return self.operations[name]

    def struck(self):
        """The calls that the shim wrote down, and their files."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [tuple(line.split(" ", 1)) for line in lines]

    def calls(self, name, kind):
        """The calls of a run that can meet the fault; it ends well."""
        operation = self.fresh(name)
        ended = operation.run(self.at, self.fault(kind))
        require(ended.code == 0, f"{name} without a fault: {ended.code}: {ended.errors}")
        operation.is_right(self.at)
        return self.struck()

    def fault(self, kind):
        self.log.unlink(missing_ok=True)
        return {"FAULT": kind, "FAULT_UNDER": str(self.at), "FAULT_LOG": str(self.log)}

    def once(self, name, kind, number, stays):
        operation = self.fresh(name)
        fault = {**self.fault(kind), "FAULT_AT": str(number)}
        if stays:
            fault["FAULT_STAYS"] = "1"
        ended = operation.run(self.at, fault)
        struck = self.struck()
        self.tried[name] += 1
        try:
            self.judge(name, operation, ended, kind, struck, stays)
            require(operation.run(self.at).code == 0, lambda: f"not healed: {operation.run(self.at).errors}")
            operation.is_right(self.at)
        except (fleet.Failed, fleet.Late, subprocess.TimeoutExpired, OSError, ValueError, KeyError) as problem:
            where = ", ".join(f"{call} {self.short(path)}" for call, path in struck[:3])
            return f"{name}: {kind}{' from' if stays else ' at'} call {number} ({where}): {problem}"
        if ended.code != 0:
            self.refused[name] += 1
        return None

    def judge(self, name, operation, ended, kind, struck, stays):
        require(ended.code >= 0, f"ended by signal {-ended.code}: {ended.errors}")
        if ended.code == 0:
            if kind in ("ENOSPC", "EIO"):
                silent = [call for call, path in struck
                          if call in WRITES and (name, call, self.short(path)) not in HARMLESS]
                require(not silent, f"ended well in spite of it: {silent[:3]}")
            operation.is_right(self.at)
            return
        require(kind in ("ENOSPC", "EIO") or stays and kind == "EINTR", f"refused: {ended.errors.strip()}")
        require(ended.code == TRY_AGAIN, f"ended with {ended.code}: {ended.errors.strip()}")
        lines = ended.errors.splitlines()
        require(len(lines) == 1 and lines[0].startswith("lockstep: "), f"said {ended.errors!r}")
        names = {name for _, path in struck for name in names_of(path, self.at)}
        require(any(n in lines[0] for n in names), f"names no file: {lines[0]}")
        operation.look(self.at)

    def all(self):
        """What there is to try: what was found before, then some of every kind of call, then the rest."""
        rng = random.Random(self.options.seed)
        found, some, rest = [], [], []
        for name in self.operations:
            for kind in KINDS:
                calls = self.calls(name, kind)
                require(calls, f"{name}: no call can meet {kind}")
                for _, _, call, file in (f for f in FOUND if f[:2] == (name, kind)):
                    numbers = [n for n, (made, path) in enumerate(calls, 1)
                               if made == call and fnmatch.fnmatch(self.short(path), file)]
                    require(numbers, f"{name} makes no {call} on {file}")
                    found += [(name, kind, n, False) for n in numbers[-4:]]
                tries = [(name, kind, n, stays) for n in range(1, len(calls) + 1)
                         for stays in ((False, True) if kind in ("ENOSPC", "EIO") else (False,))]
                rng.shuffle(tries)
                seen = set()
                for one in tries:
                    call = calls[one[2] - 1][0]
                    (rest if call in seen else some).append(one)
                    seen.add(call)
        rng.shuffle(some)
        rng.shuffle(rest)
        return found + some + rest

    def short(self, path):
        return path[len(str(self.at)) + 1:]

    def run(self):
        problems = []
        end = time.monotonic() + self.options.seconds if self.options.seconds else None
        tries = self.all()
        for done, one in enumerate(tries):
            if end and time.monotonic() >= end:
                break
            problem = self.once(*one)
            if problem:
                problems.append(problem)
                print(f"FAILED {problem}", flush=True)
            if len(problems) >= self.options.failures:
                break
        for name in self.operations:
            print(f"{name:13} {self.tried[name]:5} faults, {self.refused[name]:5} refused, the others without harm")
        print(f"{sum(self.tried.values())} of {len(tries)} faults tried, {len(problems)} failed, seed {self.options.seed}")
        return 1 if problems else 0


class Mounted:
    """The same on a disk that is full, or can only be read: a mount of this process' own."""

    SPARE_KIB = (0, 8, 32, 128)

    def __init__(self, sweep):
        self.sweep, self.at = sweep, sweep.at
        self.problems, self.done = [], 0
        self.at.parent.mkdir(exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "none", self.at.parent], check=True)

    def remount(self, how):
        subprocess.run(["mount", "-o", f"remount,{how}", self.at.parent], check=True)

    def fresh(self, name):
        for left in self.at.parent.iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        shutil.copytree(self.sweep.scratch / "inputs" / name, self.at)
        return self.sweep.operations[name]

    def judge(self, name, what, ended, operation, healed, code):
        self.done += 1
        try:
            require(ended.code >= 0, f"ended by signal {-ended.code}: {ended.errors}")
            if ended.code != 0:
                require(ended.code == code, f"ended with {ended.code}: {ended.errors.strip()}")
                lines = ended.errors.splitlines()
                require(len(lines) == 1 and lines[0].startswith("lockstep: ") and str(self.at) in lines[0],
                        f"said {ended.errors!r}")
                operation.look(self.at)
            healed()
            require((again := operation.run(self.at)).code == 0, lambda: f"not healed: {again.errors}")
            operation.is_right(self.at)
        except (fleet.Failed, fleet.Late, subprocess.TimeoutExpired, OSError, ValueError, KeyError) as problem:
            self.problems.append(f"{name} {what}: {problem}")
            print(f"FAILED {self.problems[-1]}", flush=True)

    def full(self, name, spare):
        operation = self.fresh(name)
        filler = self.at.parent / "filler"
        with open(filler, "wb", buffering=0) as f:
            try:
                while f.write(bytes(4096)):
                    pass
            except OSError:
                pass
            os.truncate(filler, max(0, filler.stat().st_size - spare * 1024))
        ended = operation.run(self.at)
        self.judge(name, f"with {spare} KiB left", ended, operation, filler.unlink, TRY_AGAIN)

    def read_only(self, name):
        operation = self.fresh(name)
        self.remount("ro")
        ended = operation.run(self.at)
        if ended.code == 0:
            self.problems.append(f"{name} ends well where nothing can be written")
        self.judge(name, "read-only", ended, operation, lambda: self.remount("rw"), BAD_FILES)

    def run(self):
        try:
            for name in self.sweep.operations:
                for spare in self.SPARE_KIB:
                    self.full(name, spare)
                self.read_only(name)
        finally:
            subprocess.run(["umount", self.at.parent], check=True)
        print(f"{self.done} runs on a full or read-only disk, {len(self.problems)} failed")
        return 1 if self.problems else 0


def own_mounts():
    """Words before a command that may then mount, or None."""
    for words in (["unshare", "-m"], ["unshare", "-rm"]):
        try:
            if subprocess.run([*words, "mount", "-t", "tmpfs", "none", "/mnt"], stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL, timeout=20).returncode == 0:
                return words
        except (OSError, subprocess.TimeoutExpired):
            pass
    return None


def names_of(path, root):
    """What a message may call a file that was struck: itself, or a directory below `root` that it is in."""
    path = pathlib.Path(path[:-4] if path.endswith(".tmp") else path)
    return {str(path)} | {str(p) for p in path.parents if root in p.parents}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("shim")
    parser.add_argument("--seconds", type=float, help="stop after so long")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--failures", type=int, default=20, help="stop after so many")
    parser.add_argument("--only", nargs="+", choices=OPERATIONS)
    parser.add_argument("--mounted", action="store_true", help="on mounts of its own: full, and read-only")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lockstep-disk-") as scratch:
        sweep = Sweep(options, pathlib.Path(scratch))
        if options.mounted:
            return Mounted(sweep).run()
        failed = sweep.run()
    words = own_mounts()
    if not words:
        print("skipped: no mounts of one's own here, so no full and no read-only disk")
        return failed
    again = [*words, sys.executable, "-B", __file__, options.program, options.shim, "--mounted"]
    return subprocess.run([*again, *(["--only", *options.only] if options.only else [])]).returncode or failed


if __name__ == "__main__":
    sys.exit(main())
