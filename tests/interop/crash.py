#!/usr/bin/env python3
"""Ends a pull and a publish as kill -9 would at each system call that changes files, starts them again, and
looks at what there is.

    tests/interop/crash.py PROGRAM SHIM [--every N]      SHIM: crash_shim.cpp, built
"""
import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

try:
    import interop
    import published as fmt
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)


def run(command, shim, at=None, count=None):
    """The exit status of the program, ended at its call number `at`."""
    more = {"LD_PRELOAD": str(shim)}
    if at:
        more["CRASH_AT"] = str(at)
    if count:
        more["CRASH_COUNT"] = str(count)
    return subprocess.run(command, env={**os.environ, **more}, capture_output=True, text=True, timeout=120)


def calls_of(command, shim, folder):
    ended = run(command, shim, count=folder / "count")
    assert ended.returncode == 0, ended.stderr
    return int((folder / "count").read_text())


def is_one_of(folder, states):
    """The state that a checkpoint holds, or None if it is a mix."""
    try:
        held = fmt.read_checkpoint(folder)
    except Exception:  # in the midst of a full copy
        return None
    for number, state in enumerate(states):
        if held.keys() == state.keys() and all(held[n][2] == state[n][2] for n in state):
            return number
    return None


def kill_pulls(program, shim, folder, prepare, states, to, every):
    """`prepare(folder)` makes stream and host. After each kill: the marker, where there is one, tells the truth; the
    next pull ends well, and what the stream no longer has is not needed for what was declared."""
    first = folder / "first"
    first.mkdir()
    prepare(first)
    command = lambda here: [program, "pull", "--source", here / "stream", "--checkpoint", here / "host", "--to", str(to)]
    calls = calls_of(command(first), shim, folder)
    assert calls > 8, "the shim sees nothing"
    for at in range(1, calls + 1, every):
        here = folder / "now"
        here.mkdir()
        prepare(here)
        ended = run(command(here), shim, at)
        assert ended.returncode == 137, f"call {at}: not ended but {ended.returncode}: {ended.stderr}"
        marker, state = fmt.marker(here / "host"), is_one_of(here / "host", states)
        if marker is not None:
            assert state == marker, f"call {at}: the marker says {marker}, the bytes are those of {state}"
        # Killed again, at the first call of the recovery that changes something; then left alone.
        run(command(here), shim, 1 + at % 7)
        ended = run(command(here), shim)
        assert ended.returncode == 0, f"call {at}: not recovered: {ended.stderr}"
        assert fmt.marker(here / "host") == to and is_one_of(here / "host", states) == to, f"call {at}"
        left = sorted(f.name for f in (here / "host" / ".weight_sync").iterdir())
        assert left == ["lock", "lockstep.json", "state.json"], f"call {at}: left behind {left}"
        shutil.rmtree(here)
    return calls


def kill_publishers(program, shim, folder, states, more, every):
    """After each kill every version with an index is whole, and the next run publishes the rest."""
    dirs = []
    for number, state in enumerate(states):
        dirs.append(folder / f"step-{number}")
        fmt.write_checkpoint(dirs[-1], state)
    command = lambda out: [program, "publish", "--checkpoints", *dirs, "--out", out, *more]
    calls = calls_of(command(folder / "first"), shim, folder)
    assert calls > 8, "the shim sees nothing"
    for at in range(1, calls + 1, every):
        out = folder / "out"
        ended = run(command(out), shim, at)
        assert ended.returncode == 137, f"call {at}: not ended but {ended.returncode}: {ended.stderr}"
        state = states[0]
        for version in range(1, len(states)):
            if (fmt.version_dir(out, version) / fmt.INDEX).exists():
                state = fmt.apply(out, version, state)
                assert {n: t[2] for n, t in state.items()} == {n: t[2] for n, t in states[version].items()}
        ended = run(command(out), shim)
        assert ended.returncode == 0, f"call {at}: does not go on: {ended.stderr}"
        state = states[0]
        for version in range(1, len(states)):
            state = fmt.apply(out, version, state)
        assert {n: t[2] for n, t in state.items()} == {n: t[2] for n, t in states[-1].items()}
        assert not list(out.glob("**/*.tmp")), f"call {at}: left behind"
        shutil.rmtree(out)
    return calls


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("shim")
    parser.add_argument("--every", type=int, default=1)
    options = parser.parse_args()
    shim = pathlib.Path(options.shim).resolve()
    states = interop.walk(3)

    def deltas(folder):
        place = interop.Place(folder, states, shards=2)
        for version in (1, 2, 3):
            place.publish(version, encoding="overwrite" if version == 2 else "xor")

    def full(folder):
        place = interop.Place(folder, states, shards=2)
        place.publish(1)
        fmt.publish_full(place.stream, 2, states[2], shards=3)
        place.publish(3)

    def shared(folder):
        deltas(folder)
        ended = run([options.program, "pull", "--source", folder / "stream", "--checkpoint", folder / "host", "--to", "1"], shim)
        assert ended.returncode == 0, ended.stderr
        for file in (folder / "host").glob("*.safetensors"):
            os.link(file, folder / file.name)

    for name, prepare in (("deltas", deltas), ("a full version and a delta", full), ("deltas over shared files", shared)):
        with tempfile.TemporaryDirectory() as folder:
            calls = kill_pulls(options.program, shim, pathlib.Path(folder), prepare, states, 3, options.every)
        print(f"ok   pull of {name}: ended at each of {calls} calls", flush=True)
    for more in (["--scheme", "xor"], ["--full-every", "2"]):
        with tempfile.TemporaryDirectory() as folder:
            calls = kill_publishers(options.program, shim, pathlib.Path(folder), states, more, options.every)
        print(f"ok   publish {' '.join(more)}: ended at each of {calls} calls", flush=True)


if __name__ == "__main__":
    main()
