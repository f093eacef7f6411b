#!/usr/bin/env python3
"""Decides what the program does where it may start few threads: it ends with 4 and one line, or it works.

    threads.py PROGRAM

As another user, who has no other processes (RLIMIT_NPROC does not bind root), with each limit from 1 up to what it
needs. It must not be ended by a signal, nor stand still, nor be deaf to SIGTERM. Only root can try it.
"""
from __future__ import annotations

import argparse
import functools
import os
import pathlib
import shutil
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "nodes"))

import fleet  # noqa: E402
import model  # noqa: E402
from fleet import require  # noqa: E402

NOBODY = 64_321
SETTINGS = {"runtime.threads": 2, "log.level": "off"}
ENOUGH = 40  # of a process with two workers


def limited(limit):
    return ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "prlimit", f"--nproc={limit}"]


def one(program, versions, role, limit):
    """How it ended: the status and its lines; None where it worked until it was told to stop."""
    with fleet.Fleet(program, versions.base, versions.stream, SETTINGS, prefix=lambda *_: limited(limit)) as f:
        process = f.trainer(receivers=1) if role == "trainer" else f.receiver(0, "127.0.0.1:9")
        works = "listening" if role == "trainer" else "state"
        end = time.monotonic() + 30
        while process.running() and not process.find(kind=works):
            require(time.monotonic() < end, f"a {role} with {limit} threads stands still: {process.errors}")
            time.sleep(0.01)
        if not process.running():
            return process.wait(5), list(process.errors)
        code = process.terminate()
        # A trainer that is told to stop before anybody came says so, and has no audit to be proud of.
        wanted, lines = (3, 1) if role == "trainer" else (0, 0)
        return None if code == wanted and len(process.errors) == lines else (code, list(process.errors))


def play(options, scratch):
    versions = model.synthetic(scratch / "model", 1, versions=2, mebibytes=0.05)
    program = scratch / "lockstep"
    shutil.copy(options.program, program)
    for at, _, files in os.walk(scratch):
        os.chmod(at, 0o755)
        for file in files:
            (pathlib.Path(at) / file).chmod(0o755)
    for role in ("receiver", "trainer"):
        worked = []
        for limit in range(1, ENOUGH + 1):
            ended = one(program, versions, role, limit)
            if ended is None:
                worked.append(limit)
                continue
            code, lines = ended
            require(code == 4 and len(lines) == 1 and lines[0].startswith("lockstep: "),
                    f"a {role} with {limit} threads ended with {code}: {lines}")
        require(worked and worked == list(range(worked[0], ENOUGH + 1)), f"a {role} worked with {worked} threads")
        print(f"ok   a {role} needs {worked[0]} threads, and says so with fewer")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    options = parser.parse_args()
    if os.geteuid() != 0 or not shutil.which("setpriv") or not shutil.which("prlimit"):
        print("skipped: needs root, setpriv and prlimit")
        return fleet.SKIPPED
    return fleet.verdict_on("threads", functools.partial(play, options))


if __name__ == "__main__":
    sys.exit(main())
