#!/usr/bin/env python3
"""Decides whether a fleet of real processes does what users expect of it, in one minute.

    smoke.py PROGRAM [CASE…] [--certificates SCRIPT]

Each case is a function of the same name in one of the files below. Exit 1 where one fails, 77 where
nothing could be run.
"""
from __future__ import annotations

import argparse
import pathlib
import subprocess
import sys
import tempfile
import time

import fleet
from cases import CASES, World

# Importing them makes their cases known, in this order.
import smoke_life
import smoke_trainers
import smoke_ranks
import smoke_delays
import smoke_input
import smoke_port
import smoke_strangers


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    root = pathlib.Path(__file__).resolve().parents[2]
    parser.add_argument("program")
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--certificates", type=pathlib.Path,
                        default=root / "scripts" / "make-certificates")
    options = parser.parse_args(arguments)
    unknown = [c for c in options.cases if c not in CASES]
    if unknown:
        parser.error(f"no such case: {', '.join(unknown)}")
    failed = []
    with tempfile.TemporaryDirectory(prefix="lockstep-smoke-") as scratch:
        world = World(options.program, pathlib.Path(scratch), options.certificates)
        for name in options.cases or CASES:
            began = time.monotonic()
            try:
                CASES[name](world)
                verdict = "ok"
            except (fleet.Late, fleet.Failed, subprocess.SubprocessError) as problem:
                failed.append(name)
                verdict = f"FAILED: {problem}"
            print(f"{time.monotonic() - began:6.2f} s  {name}: {verdict}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
