#!/usr/bin/env python3
"""Decides whether a receiver and a trainer get along with the memory that they need, and what they do with less.

    memory.py PROGRAM [--mebibytes N]

It needs its weights, what it may hold staged (receiver.staged_bytes_max), and what a receiver of a tiny model takes:
that times 1.1 is all it may have (RLIMIT_DATA: heap, stacks and private maps), and it is sent all weights, and then
deltas. With less than its weights it must refuse to start in one line; with its weights and nothing else it
must not be ended by a signal, whatever it refuses, and must never be counted as a member that is right and is not.

`lockstep trainer` needs its weights twice, its own and the snapshot, what it remembers of changes (sync.history_percent),
a delta as it is coded and as it is staged, and what a trainer of a tiny model takes: with that times 1.1 it sends all
weights and the deltas, and with half of the weights beyond the latter it ends with 4 and one line.
"""
from __future__ import annotations

import argparse
import functools
import pathlib
import shutil
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "nodes"))

import fleet  # noqa: E402
import model  # noqa: E402
from fleet import require  # noqa: E402

MIB = 1 << 20
STAGED = 16 * MIB
HISTORY = 0.20  # sync.history_percent
SETTINGS = {"log.level": "off", "receiver.staged_bytes_max": STAGED, "receiver.hello_ms": 50, "runtime.threads": 2,
            "transport.retry_ms": 20, "transport.retry_ms_max": 50, "sync.recovery_timeout_ms": 5_000,
            "sync.full_timeout_ms": 3_000}


def limited(limit):
    """Words before the command of a process, which may have so many bytes."""
    return ["prlimit", f"--data={limit}"] if limit else []


def weights_of(versions):
    return sum(len(t[2]) for t in model.read_safetensors(pathlib.Path(versions.base) / "model.safetensors").values())


def data_of(process):
    """Bytes of a process that RLIMIT_DATA counts."""
    return process._status_kib("VmData") * 1024  # noqa: SLF001


def play(program, versions, scratch, limit=None, whose="receiver"):
    """One round to one receiver, which begins with other weights; one of them may have only so much. The trainer's
    end, how the receiver ended before or None, its last words, and the most memory of that one that counts."""
    with fleet.Fleet(program, versions.base, versions.stream, SETTINGS,
                     prefix=lambda role, _: limited(limit) if role == whose else []) as f:
        trainer = f.trainer("--patience-ms", "4000", receivers=1, serve=False)
        try:
            at = fleet.address_of(trainer)
        except fleet.Failed:
            return fleet.Fleet.ended(trainer), None, [], 0
        receiver = f.receiver(0, at, checkpoint=scratch / "other")
        of = receiver if whose == "receiver" else trainer
        most, end = 0, time.monotonic() + 60
        while trainer.running() and receiver.running():
            most = max(most, data_of(of))
            require(time.monotonic() < end, "nothing ends")
            time.sleep(0.01)
        if not receiver.running():
            return None, receiver.wait(5), list(receiver.errors), most
        ended = fleet.Fleet.ended(trainer)
        code = receiver.terminate()
        return ended, None if code == 0 else code, list(receiver.errors), most


def make(scratch, mebibytes):
    versions = model.synthetic(scratch / "model", 1, versions=3, mebibytes=mebibytes)
    shape = model.read_safetensors(pathlib.Path(versions.base) / "model.safetensors")
    model.write_safetensors(scratch / "other" / "model.safetensors",
                            {n: (d, s, bytes(len(b))) for n, (d, s, b) in shape.items()})
    return versions


def well(ended, code, errors, versions, what):
    require(code is None, f"{what}: the receiver ended with {code}: {errors}")
    require(ended.code == 0 and fleet.audited(ended.find("summary"), [0]), f"{what}: {ended}")
    bad = [o for o in ended.objects if o.get("kind") == "sync" and o["result"] != "ok"]
    require(not bad, f"{what}: {bad}")


def sweep(options, scratch):
    tiny, large = make(scratch / "tiny", 0.05), make(scratch / "large", options.mebibytes)
    weights = weights_of(large)
    ended, code, errors, idle = play(options.program, tiny, scratch / "tiny")
    well(ended, code, errors, tiny, "a tiny model")
    budget = idle + weights + STAGED
    ended, code, errors, most = play(options.program, large, scratch / "large", int(1.1 * budget))
    well(ended, code, errors, large, "within its budget")
    print(f"ok   weights {weights / MIB:.0f} MiB, staged at most {STAGED / MIB:.0f}, a tiny model's receiver "
          f"{idle / MIB:.0f}: may have {1.1 * budget / MIB:.0f}, had {most / MIB:.0f}")
    ended, code, errors, _ = play(options.program, large, scratch / "large", int(weights / 2))
    require(code == 4 and len(errors) == 1 and errors[0].startswith("lockstep: "),
            f"with half of its weights: {code}, {errors}, {ended}")
    print(f"ok   with half of its weights: {errors[0]}")
    for more in (0, 8):
        ended, code, errors, most = play(options.program, large, scratch / "large",
                                         idle + weights + more * MIB)
        require(code is None or code > 0, f"with {more} MiB to spare: ended by signal {-(code or 0)}: {errors}")
        if ended and ended.code == 0:
            well(ended, code, errors, large, f"with {more} MiB to spare")
        said = f"the receiver ended with {code}: {errors}" if code else f"the trainer with {ended.code}"
        print(f"ok   with its weights and {more} MiB: {said}")


def sweep_trainer(options, scratch):
    tiny, large = make(scratch / "tiny", 0.05), make(scratch / "large", options.mebibytes)
    weights = weights_of(large)
    ended, code, errors, idle = play(options.program, tiny, scratch / "tiny", whose="trainer")
    well(ended, code, errors, tiny, "a tiny model")
    budget = idle + int((2 + HISTORY) * weights) + STAGED
    ended, code, errors, most = play(options.program, large, scratch / "large", int(1.1 * budget), "trainer")
    well(ended, code, errors, large, "within the trainer's budget")
    print(f"ok   a trainer of the same weights, a tiny model's {idle / MIB:.0f}: may have {1.1 * budget / MIB:.0f}, "
          f"had {most / MIB:.0f}")
    ended, _, _, _ = play(options.program, large, scratch / "large", idle + weights // 2, "trainer")
    require(ended.code == 4 and len(ended.errors) == 1 and ended.errors[0].startswith("lockstep: "),
            f"a trainer with room for half of its weights: {ended}")
    print(f"ok   a trainer with room for half of its weights: {ended.errors[0]}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("--mebibytes", type=float, default=32)
    options = parser.parse_args()
    if not shutil.which("prlimit"):
        print("skipped: no prlimit")
        return fleet.SKIPPED
    return fleet.verdict_on("memory", functools.partial(sweep, options), functools.partial(sweep_trainer, options))


if __name__ == "__main__":
    sys.exit(main())
