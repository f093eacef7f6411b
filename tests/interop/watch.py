#!/usr/bin/env python3
"""pull --watch: what it lives through, how much it does over again, and how pulls are told to end.

    tests/interop/watch.py PROGRAM SHIM [NAME…]
"""
import os
import resource
import shutil
import signal
import subprocess
import sys
import time

try:
    import interop
    import published as fmt
    from interop import Place, holds, walk
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)


def eventually(what):
    deadline = time.monotonic() + 30
    while not what():
        assert time.monotonic() < deadline, "not within 30 s"
        time.sleep(0.02)


class Watcher:
    """A pull --watch that ends with the test; `lines`: what it said on standard error, once it has ended."""

    def __init__(self, stream, host, *more, status=0, **how):
        self.status, self.lines = status, []
        self.process = subprocess.Popen(
            [interop.PROGRAM, "pull", "--source", stream, "--checkpoint", host, "--watch", "--poll-ms", "20", *map(str, more)],
            stdout=how.pop("stdout", subprocess.DEVNULL), stderr=subprocess.PIPE, text=True, **how)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            self.process.send_signal(signal.SIGTERM)
            self.lines = self.process.communicate(timeout=20)[1].splitlines()
            assert self.process.returncode == self.status, (self.process.returncode, self.lines)
        finally:
            self.process.kill()
            self.process.communicate()

    def lives(self):
        return self.process.poll() is None


def test_a_watcher_lives_through_want_of_memory(folder):
    place = Place(folder, walk(1))
    with Watcher(place.stream, place.host) as watcher:
        time.sleep(0.3)  # it looks at an empty stream
        with open(f"/proc/{watcher.process.pid}/statm") as statm:
            held = int(statm.read().split()[0]) * resource.getpagesize()
        hard = resource.prlimit(watcher.process.pid, resource.RLIMIT_AS)[1]
        resource.prlimit(watcher.process.pid, resource.RLIMIT_AS, (held + (8 << 20), hard))
        version = fmt.publish(folder / "aside", 1, 0, *place.states)
        with open(version / fmt.INDEX, "ab") as index:
            index.write(b" " * (40 << 20))  # blanks at the end are JSON
        os.rename(version, place.stream / version.name)
        time.sleep(1)
        assert watcher.lives()
        resource.prlimit(watcher.process.pid, resource.RLIMIT_AS, (hard, hard))
        eventually(lambda: fmt.marker(place.host) == 1)
    assert watcher.lines and "memory" in watcher.lines[0], watcher.lines
    holds(place.host, place.states[1])


def test_a_watcher_outlives_who_reads_its_output(folder):
    place = Place(folder, walk(2))
    with Watcher(place.stream, place.host, stdout=subprocess.PIPE) as watcher:
        place.publish(1)
        watcher.process.stdout.readline()
        watcher.process.stdout.close()
        watcher.process.stdout = None
        place.publish(2)
        eventually(lambda: fmt.marker(place.host) == 2)
        time.sleep(0.2)
        assert watcher.lives()
    assert len(watcher.lines) == 1 and "standard output" in watcher.lines[0], watcher.lines


def spoilt(name, payload):
    return payload[:-1] + bytes([payload[-1] ^ 1])


def read_bytes(watcher):
    with open(f"/proc/{watcher.process.pid}/io") as io:
        return int(io.readline().split()[1])


def refused_once(watcher):
    """Or twice: another try is due where the one before changed the host. Which tensor is named is chance."""
    assert 1 <= len(watcher.lines) <= 2 and all("weight_v000002" in line for line in watcher.lines), watcher.lines


def test_what_was_rebuilt_is_not_rebuilt_at_every_look(folder):
    place = Place(folder, walk(3))
    fmt.publish_full(place.stream, 1, place.states[1])
    place.publish(2, spoil=spoilt)
    weights = place.host / "model-00001-of-00001.safetensors"
    with Watcher(place.stream, place.host, "--rebuild") as watcher:
        eventually(lambda: fmt.marker(place.host) == 1)
        first = weights.stat().st_ino
        time.sleep(1)
        assert weights.stat().st_ino == first and fmt.marker(place.host) == 1
        holds(place.host, place.states[1])
        shutil.rmtree(fmt.version_dir(place.stream, 2))
        place.publish(2)
        eventually(lambda: fmt.marker(place.host) == 2)
    refused_once(watcher)


def test_a_damaged_version_is_not_decoded_at_every_look(folder):
    place = Place(folder, walk(3))
    place.publish(1)
    place.publish(2, spoil=spoilt)
    size = sum(len(t[2]) for t in place.states[0].values())
    with Watcher(place.stream, place.host) as watcher:
        eventually(lambda: fmt.marker(place.host) == 1)
        time.sleep(0.5)
        before = read_bytes(watcher)
        time.sleep(1)  # 50 looks
        assert read_bytes(watcher) - before < 2 * size
        # Another file, though not the index, is another look; so is the next version.
        shard = fmt.version_dir(place.stream, 2) / "model-00000-of-00001.safetensors"
        fmt.publish(folder / "aside", 2, 1, place.states[1], place.states[2])
        os.rename(folder / "aside" / "weight_v000002" / shard.name, shard)
        eventually(lambda: fmt.marker(place.host) == 2)
    refused_once(watcher)
    holds(place.host, place.states[2])


def calls_in(log):
    return len(log.read_text().splitlines()) if log.exists() else 0


def test_a_look_and_a_try_cost_what_they_need_however_many_versions_there_are(folder):
    """Counted: the calls on what lies in the stream."""
    versions, log = 3000, folder / "log"
    place = Place(folder, walk(2))
    for version in range(1, versions + 1):
        old = fmt.version_dir(place.stream, version)
        old.mkdir()
        (old / fmt.INDEX).write_text('{"metadata": {"total_size": "1"}, "weight_map": {}}')
    fmt.set_marker(place.host, versions)
    fmt.publish(place.stream, versions + 1, versions, *place.states[:2])
    counts = {**os.environ, "LD_PRELOAD": str(interop.SHIM), "FAULT": "EIO", "FAULT_UNDER": str(place.stream) + "/weight",
              "FAULT_LOG": str(log)}
    with Watcher(place.stream, place.host, env=counts):
        eventually(lambda: fmt.marker(place.host) == versions + 1)
        time.sleep(1.0)  # some looks
        tried = calls_in(log)
        fmt.publish(folder / "aside", versions + 2, versions + 1, *place.states[1:3])
        os.rename(folder / "aside" / f"weight_v{versions + 2:06d}", fmt.version_dir(place.stream, versions + 2))
        eventually(lambda: fmt.marker(place.host) == versions + 2)
        again = calls_in(log) - tried
    assert 4 < tried < versions / 2 and 4 < again < versions / 2, (tried, again)
    holds(place.host, place.states[2])


def test_a_watcher_that_is_told_to_stop_too_early_says_so(folder):
    place = Place(folder, walk(1))
    place.publish(1)
    with Watcher(place.stream, place.host, "--to", 5, status=3) as watcher:
        eventually(lambda: fmt.marker(place.host) == 1)
    assert len(watcher.lines) == 1 and "version 5" in watcher.lines[0], watcher.lines
    with Watcher(place.stream, place.host) as watcher:
        time.sleep(0.2)
    assert not watcher.lines


def test_what_proves_a_version_ends_when_told_to(folder):
    # 64 windows of the checkpoint, one after the other, and 20 s for them.
    states = [{"w": ("U8", [64 << 20], bytes(64 << 20))}]
    states.append(interop.step(states[0], 1, 1e-6))
    place = Place(folder, states)
    place.publish(1)
    fmt.write_checkpoint(place.host, states[1])
    fmt.set_marker(place.host, 1)
    slowly = {**os.environ, "LD_PRELOAD": str(interop.SHIM), "READ_MS": "300"}
    for more, status in (((), 3), (("--watch",), 0)):
        command = [interop.PROGRAM, "pull", "--source", place.stream, "--checkpoint", place.host, *more]
        with subprocess.Popen(command, env=slowly, stderr=subprocess.PIPE, text=True) as process:
            time.sleep(4)
            process.send_signal(signal.SIGTERM)
            try:
                said = process.communicate(timeout=10)[1]
                assert process.returncode == status, (process.returncode, said)
            finally:
                process.kill()
    holds(place.host, states[1])


if __name__ == "__main__":
    interop.main(globals())
