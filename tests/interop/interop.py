#!/usr/bin/env python3
"""What we publish, read by a reader of its own, and what a writer of its own publishes, read by us; and each
row of docs/published.md's table of where others go wrong.

    tests/interop/interop.py PROGRAM SHIM [NAME…]      SHIM: crash_shim.cpp, built

Each function whose name begins with test_ is a test. Needs python3-numpy, -zstandard and -xxhash, else it is
skipped (77). TRACES may name a directory with rl-8m.
"""
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

try:
    import published as fmt
    import numpy
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TINY = ROOT / "examples" / "data" / "tiny-rl"
GOLDEN = ROOT / "tests" / "data" / "published"
PROGRAM = None


def run(*arguments, status=0, says=()):
    """The finished program; fails unless it ended with `status`, in time, and says all of `says`."""
    ended = subprocess.run([PROGRAM, *map(str, arguments)], capture_output=True, text=True, timeout=120)
    for part in (says,) if isinstance(says, str) else says:
        assert part in ended.stderr, f"no {part!r} in: {ended.stderr}"
    assert ended.returncode == status, f"{arguments}: status {ended.returncode}: {ended.stderr}"
    if status != 0:
        assert ended.stderr.startswith("lockstep: ") and ended.stderr.count("\n") == 1, ended.stderr
    return ended


def pull(stream, host, to=None, *more, status=0, says=()):
    how = ["--to", to] if to is not None else []
    ended = run("pull", "--source", stream, "--checkpoint", host, "--json", *how, *more, status=status, says=says)
    return json.loads(ended.stdout) if status == 0 else None


def model(seed=1):
    """Some small tensors of several dtypes, one of them empty, one a scalar."""
    random = numpy.random.default_rng(seed)
    shapes = {"a.weight": ("BF16", [64, 48]), "b.bias": ("F32", [33]), "c.ids": ("U8", [5]), "d.none": ("F32", [0, 4]),
              "e.scale": ("F64", []), "f.weight": ("BF16", [700, 1000])}
    width = {"BF16": 2, "F32": 4, "U8": 1, "F64": 8}
    return {name: (dtype, shape, random.bytes(int(numpy.prod(shape)) * width[dtype]))
            for name, (dtype, shape) in shapes.items()}


def step(state, seed, density=0.02, names=None):
    """Another state: some bytes of some tensors changed."""
    random = numpy.random.default_rng(seed)
    out = {}
    for name, (dtype, shape, data) in state.items():
        values = numpy.frombuffer(data, numpy.uint8).copy()
        if len(values) and (names is None or name in names):
            at = random.random(len(values)) < density
            at[random.integers(len(values))] = True
            values[at] ^= random.integers(1, 256, int(at.sum()), dtype=numpy.uint8)
        out[name] = (dtype, shape, values.tobytes())
    return out


def walk(count, names=None):
    states = [model()]
    for seed in range(count):
        states.append(step(states[-1], seed + 10, names=names))
    return states


def holds(folder, state):
    held = fmt.read_checkpoint(folder)
    assert held.keys() == state.keys()
    for name in state:
        assert held[name][2] == state[name][2], f"{name} differs"


def snapshot(folder):
    """All that a loader could see."""
    return {f.name: f.read_bytes() for f in pathlib.Path(folder).iterdir() if f.is_file()}


class Place:
    """A stream and a host, for one test."""

    def __init__(self, folder, states, shards=1):
        self.stream, self.host, self.states = folder / "stream", folder / "host", states
        self.stream.mkdir()
        fmt.write_checkpoint(self.host, states[0], shards)

    def publish(self, version, **how):
        return fmt.publish(self.stream, version, version - 1, self.states[version - 1], self.states[version], **how)


def publish_series(folder, states, *more):
    """Our publisher, from checkpoints."""
    dirs = []
    for number, state in enumerate(states):
        dirs.append(folder / f"step-{number}")
        fmt.write_checkpoint(dirs[-1], state)
    run("publish", "--checkpoints", *dirs, "--out", folder / "stream", *more)
    return folder / "stream"


# What is written by one is read by the other.

def test_ours_is_read_by_another_reader(folder):
    for scheme in ("xor", "overwrite"):
        for digest in ("xxh3-128", "adler32"):
            place = folder / f"{scheme}-{digest}"
            place.mkdir()
            states = walk(4)
            stream = publish_series(place, states, "--scheme", scheme, "--digest", digest)
            state = states[0]
            for version in range(1, 5):
                metadata = fmt.index_of(stream, version)["metadata"]
                assert all(isinstance(v, str) for v in metadata.values())
                assert (metadata["delta_encoding"], metadata["checksum_format"]) == (scheme, digest)
                state = fmt.apply(stream, version, state)
                assert state == states[version]


def trace_round_trip(folder, trace):
    expected = json.loads((trace / "expected.json").read_text())["xxh3_128"]
    base = fmt.read_checkpoint(trace / "base")
    for scheme in ("xor", "overwrite", "coded"):
        stream = folder / scheme
        run("publish", "--trace", trace, "--out", stream, "--scheme", scheme)
        versions = sorted(int(d.name[8:]) for d in stream.iterdir() if d.name.startswith("weight_v"))
        if scheme != "coded":
            state = base
            for version in versions:
                state = fmt.apply(stream, version, state)
            assert {n: fmt.digest_of("xxh3-128", t[2]) for n, t in state.items()} == expected
        host = folder / f"host-{scheme}"
        pull(stream, host, None, "--base", trace / "base")
        held = fmt.read_checkpoint(host)
        assert {n: fmt.digest_of("xxh3-128", t[2]) for n, t in held.items()} == expected


def test_a_real_run_goes_round(folder):
    trace_round_trip(folder, TINY)


def test_a_larger_real_run_goes_round_where_it_is_present(folder):
    traces = os.environ.get("TRACES")
    if not traces or not (pathlib.Path(traces) / "rl-8m").exists():
        return print("    left out: TRACES does not name a directory that holds rl-8m")
    trace_round_trip(folder, pathlib.Path(traces) / "rl-8m")


def test_others_is_read_by_us_whatever_the_writers_liberties(folder):
    liberties = [{}, {"encoding": "overwrite"}, {"checksum": "adler32"}, {"shards": 3}, {"level": 19},
                 {"content_size": False}, {"frame_checksum": True}, {"pad": False}, {"unpadded_versions": True},
                 {"shard_name": "model.safetensors"}, {"unchanged": True}, {"encoding": "overwrite", "level": 3,
                 "content_size": False, "shards": 2, "pad": False, "unchanged": True}]
    for number, how in enumerate(liberties):
        here = folder / str(number)
        here.mkdir()
        place = Place(here, walk(3), shards=1 + number % 2)
        for version in (1, 2, 3):
            place.publish(version, **how)
        pull(place.stream, place.host, 1)
        holds(place.host, place.states[1])
        pull(place.stream, place.host)
        holds(place.host, place.states[3])
        assert fmt.marker(place.host) == 3


def test_golden_streams_give_the_expected_checkpoints(folder):
    for digest in ("xxh3-128", "adler32"):
        shutil.copytree(GOLDEN / digest / "base", folder / digest)
        pull(GOLDEN / digest / "stream", folder / digest, 2)
        holds(folder / digest, fmt.read_checkpoint(GOLDEN / digest / "expect_v2"))
        pull(GOLDEN / digest / "stream", folder / digest, 3)  # an index that maps nothing
        holds(folder / digest, fmt.read_checkpoint(GOLDEN / digest / "expect_v2"))
        assert fmt.marker(folder / digest) == 3


def test_a_marker_of_others_is_gone_on_from(folder):
    place = Place(folder, walk(3))
    for version in (1, 2, 3):
        place.publish(version)
    fmt.write_checkpoint(place.host, place.states[2])
    fmt.set_marker(place.host, 2)
    report = pull(place.stream, place.host)
    assert (report["from"], report["version"], report["deltas"]) == (2, 3, 1)
    holds(place.host, place.states[3])


def test_a_full_version_starts_the_chain_anew(folder):
    place = Place(folder, walk(4))
    place.publish(1)
    fmt.publish_full(place.stream, 2, place.states[2], shards=2)
    place.publish(3)
    place.publish(4)
    report = pull(place.stream, place.host)
    assert report["whole"] and report["deltas"] == 2
    holds(place.host, place.states[4])
    assert not (place.host / "model.safetensors").exists(), "a file that the full version does not have"
    fresh = folder / "fresh"  # nothing there at all
    pull(place.stream, fresh, 4)
    holds(fresh, place.states[4])


def test_a_full_version_in_a_lone_file_needs_no_index(folder):
    place = Place(folder, walk(2))
    place.publish(1)
    fmt.write_checkpoint(fmt.version_dir(place.stream, 2), place.states[2])
    pull(place.stream, place.host, 2)
    holds(place.host, place.states[2])


def test_out_of_order_and_missing_versions_are_refused(folder):
    place = Place(folder, walk(4))
    place.publish(1)
    place.publish(2)
    place.publish(3)
    place.publish(4)
    pull(place.stream, place.host, 3)
    pull(place.stream, place.host, 2, status=2, says="later than 2")
    pull(place.stream, place.host, 9, status=2, says="weight_v000009: is not there")
    other = folder / "other"
    fmt.write_checkpoint(other, place.states[0])
    shutil.rmtree(fmt.version_dir(place.stream, 2))
    before = snapshot(other)
    pull(place.stream, other, 4, status=2, says="weight_v000002: is not there, but version 3 is based on it")
    assert snapshot(other) == before and fmt.marker(other) is None
    fmt.publish(place.stream, 5, 2, place.states[2], place.states[4])
    pull(place.stream, place.host, 5, status=2, says=["weight_v000005", "is a delta to version 2"])
    holds(place.host, place.states[3])
    os.rename(fmt.version_dir(place.stream, 4), fmt.version_dir(place.stream, 6))
    pull(place.stream, place.host, 6, status=2, says="says it is version 4, not 6")


def test_many_processes_do_the_work_once(folder):
    place = Place(folder, walk(3))
    for version in (1, 2, 3):
        place.publish(version)
    command = [PROGRAM, "pull", "--source", place.stream, "--checkpoint", place.host, "--json"]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(6)]
    reports = [json.loads(p.communicate(timeout=60)[0]) for p in started]
    assert all(p.returncode == 0 for p in started)
    assert sorted(r["deltas"] for r in reports) == [0, 0, 0, 0, 0, 3]
    holds(place.host, place.states[3])


def test_the_lock_of_others_is_waited_for(folder):
    import fcntl
    place = Place(folder, walk(1))
    place.publish(1)
    (place.host / ".weight_sync").mkdir()
    with open(place.host / ".weight_sync" / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        pull(place.stream, place.host, 1, "--lock-ms", 100, status=3, says="held by another process")
        holds(place.host, place.states[0])
    pull(place.stream, place.host, 1)


def test_a_watcher_follows_and_stops(folder):
    place = Place(folder, walk(4))
    command = [PROGRAM, "pull", "--source", place.stream, "--checkpoint", place.host, "--watch", "--poll-ms", "20"]
    watcher = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        for version in (1, 2, 3, 4):
            place.publish(version)
            deadline = time.monotonic() + 20
            while fmt.marker(place.host) != version:
                assert time.monotonic() < deadline and watcher.poll() is None
                time.sleep(0.02)
            holds(place.host, place.states[version])
        watcher.send_signal(signal.SIGTERM)
        assert watcher.wait(20) == 0
    finally:
        watcher.kill()
        watcher.communicate()


def test_a_watcher_takes_what_a_trainer_that_begins_anew_publishes(folder):
    states = walk(3)
    again = [step(s, 77) for s in states[:3]]
    streams = []
    for where, series, more in ((folder / "old", states, ()), (folder / "new", again, ("--full-every", "2"))):
        where.mkdir()
        streams.append(publish_series(where, series, *more))
    stream, host = streams[0], folder / "host"
    fmt.write_checkpoint(host, states[0])
    command = [PROGRAM, "pull", "--source", stream, "--checkpoint", host, "--watch", "--poll-ms", "20"]
    watcher = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def reaches(version, state):
        deadline = time.monotonic() + 20
        while fmt.marker(host) != version:
            assert time.monotonic() < deadline and watcher.poll() is None, f"not at {version}"
            time.sleep(0.02)
        holds(host, state)

    try:
        reaches(3, states[3])
        shutil.rmtree(stream)
        os.rename(streams[1], stream)
        reaches(2, again[2])
    finally:
        watcher.kill()
        watcher.communicate()


def test_what_was_interrupted_is_not_ended_over_what_others_put_there_since(folder):
    place = Place(folder, walk(3))
    for version in (1, 2, 3):
        place.publish(version)
    pull(place.stream, place.host, 1)
    killed = subprocess.run([PROGRAM, "pull", "--source", place.stream, "--checkpoint", place.host, "--to", "2"],
                            env={**os.environ, **crash_at("rename", "state.json")}, capture_output=True)
    assert killed.returncode != 0 and fmt.marker(place.host) is None
    fmt.write_checkpoint(place.host, place.states[3])
    fmt.set_marker(place.host, 3)
    pull(place.stream, place.host, 3)
    holds(place.host, place.states[3])
    assert fmt.marker(place.host) == 3


def test_files_that_others_share_are_not_written_through(folder):
    place = Place(folder, walk(2))
    for version in (1, 2):
        place.publish(version)
    blob, kept = folder / "blob", place.host / "model.safetensors"
    os.rename(kept, blob)
    os.symlink(blob, kept)
    original = blob.read_bytes()
    pull(place.stream, place.host, 1)
    assert blob.read_bytes() == original and not kept.is_symlink()
    twin = folder / "twin"
    os.link(kept, twin)
    held = twin.read_bytes()
    pull(place.stream, place.host, 2)
    assert twin.read_bytes() == held
    holds(place.host, place.states[2])


# Where others go wrong: one test for each row of the table.

def test_row_an_xor_that_failed_half_way_is_not_applied_twice(folder):
    place = Place(folder, walk(1))
    place.publish(1)
    # Ended after the last write and before the marker.
    killed = subprocess.run([PROGRAM, "pull", "--source", place.stream, "--checkpoint", place.host],
                            env={**os.environ, **crash_at("rename", "state.json")}, capture_output=True)
    if killed.returncode == 0:
        raise AssertionError("nothing was interrupted")
    holds(place.host, place.states[1])  # the bytes are written, the marker is not
    assert fmt.marker(place.host) is None
    report = pull(place.stream, place.host, 1)
    assert report["recovered"]
    holds(place.host, place.states[1])
    assert fmt.marker(place.host) == 1


def test_row_without_its_index_a_version_is_not_there(folder):
    place = Place(folder, walk(1))
    place.publish(1, index=False)
    before = snapshot(place.host)
    pull(place.stream, place.host, 1, status=2, says="it is not published yet")
    fmt.publish_full(place.stream, 2, place.states[1], shards=2, index=False)
    pull(place.stream, place.host, 2, status=2, says="it is not published yet")
    shutil.rmtree(fmt.version_dir(place.stream, 1))
    place.publish(1, index=False, shard_name="model.safetensors")
    pull(place.stream, place.host, 1, status=2, says="it is not published yet")
    assert snapshot(place.host) == before and fmt.marker(place.host) is None


def test_row_a_missing_shard_or_an_unmapped_tensor_is_refused(folder):
    place = Place(folder, walk(1))
    version = place.publish(1, shards=2)
    before = snapshot(place.host)
    shard = version / "model-00001-of-00002.safetensors"
    os.rename(shard, folder / "away")
    pull(place.stream, place.host, 1, status=2, says="model-00001-of-00002.safetensors")
    os.rename(folder / "away", shard)
    index = json.loads((version / fmt.INDEX).read_text())
    dropped = next(n for n, s in index["weight_map"].items() if s == shard.name)
    del index["weight_map"][dropped]
    (version / fmt.INDEX).write_text(json.dumps(index))
    pull(place.stream, place.host, 1, status=2, says=f"holds tensor '{dropped}'")
    for name in [n for n, s in index["weight_map"].items() if s == shard.name]:
        del index["weight_map"][name]
    (version / fmt.INDEX).write_text(json.dumps(index))
    pull(place.stream, place.host, 1, status=2, says="the index does not name this file")
    assert snapshot(place.host) == before and fmt.marker(place.host) is None


def test_row_a_full_copy_that_died_half_way_is_not_named_by_the_marker(folder):
    place = Place(folder, walk(3), shards=2)
    place.publish(1)
    fmt.publish_full(place.stream, 2, place.states[2], shards=2)
    pull(place.stream, place.host, 1)
    killed = subprocess.run([PROGRAM, "pull", "--source", place.stream, "--checkpoint", place.host],
                            env={**os.environ, **crash_at("rename", "model-00001-of-00002.safetensors", after=True)},
                            capture_output=True)
    assert killed.returncode != 0
    assert fmt.marker(place.host) is None, "the marker names a mix"
    shutil.rmtree(place.stream / "weight_v000002")  # what was copied is here; the source is not needed
    place.publish(3)
    report = pull(place.stream, place.host, 3)
    assert report["recovered"]
    holds(place.host, place.states[3])


def test_row_a_trainer_that_begins_anew_over_a_kept_host_is_noticed(folder):
    old, new = folder / "old", folder / "new"
    states = walk(3)
    again = [states[0]] + [step(s, 77) for s in states[1:]]
    streams = {}
    for where, series in ((old, states), (new, again)):
        where.mkdir()
        streams[where] = publish_series(where, series)
    host = folder / "host"
    fmt.write_checkpoint(host, states[0])
    pull(streams[old], host, 2)
    for to in (1, 2, 3):
        pull(streams[new], host, to, status=2, says="a base is needed")
        holds(host, states[2])
    pull(streams[new], host, 3, "--base", new / "step-0")
    holds(host, again[3])
    # The same with a stream that has no run: the marker's own version is another.
    (folder / "theirs").mkdir()
    place = Place(folder / "theirs", states)
    for version in (1, 2, 3):
        place.publish(version)
    pull(place.stream, place.host, 2)
    shutil.rmtree(place.stream)
    place.stream.mkdir()
    place.states = again
    for version in (1, 2, 3):
        place.publish(version)
    for to in (2, 3):
        pull(place.stream, place.host, to, status=2, says="a base is needed")
    # A marker that others wrote, over bytes that are not that version's.
    fmt.write_checkpoint(place.host, states[2])
    shutil.rmtree(place.host / ".weight_sync")
    fmt.set_marker(place.host, 2)
    pull(place.stream, place.host, 2, status=2, says="is not that version's")


def test_row_a_tensor_that_rotted_and_is_in_no_delta_is_noticed(folder):
    states = walk(2, names={"a.weight"})
    stream = publish_series(folder, states)
    host = folder / "host"
    fmt.write_checkpoint(host, states[0])
    pull(stream, host, 1)
    file = host / "model.safetensors"
    data, written = bytearray(file.read_bytes()), file.stat().st_mtime_ns
    data[-1] ^= 1  # of f.weight
    file.write_bytes(data)
    os.utime(file, ns=(written, written))  # as a disk does it
    pull(stream, host, 2, status=2, says="is not the base of weight_v000002")
    assert file.read_bytes() == bytes(data)
    # With something to start from it heals by itself.
    report = pull(stream, host, 2, "--base", folder / "step-0")
    assert report["whole"]
    holds(host, states[2])


def test_row_checksums_are_verified_before_live_bytes_change(folder):
    place = Place(folder, walk(1))
    place.publish(1, spoil=lambda name, p: p if name != "f.weight" else p[:-1] + bytes([p[-1] ^ 1]))
    before = snapshot(place.host)
    pull(place.stream, place.host, 1, status=2, says=["'f.weight'", "does not match its checksum"])
    assert snapshot(place.host) == before and fmt.marker(place.host) is None


def test_row_a_tensor_in_two_shards_is_published_once_or_refused(folder):
    states = walk(1)
    names = list(states[0])
    dirs = []
    for number, state in enumerate(states):
        dirs.append(folder / f"ranks-{number}")
        dirs[-1].mkdir()
        for rank in range(2):  # both hold a.weight
            part = {n: state[n] for n in names[rank::2] + (["a.weight"] if rank else [])}
            fmt.write_safetensors(dirs[-1] / f"rank-{rank}.safetensors", part)
    run("publish", "--checkpoints", *dirs, "--out", folder / "stream")
    assert fmt.apply(folder / "stream", 1, states[0]) == states[1]
    other = dict(states[1])
    other["a.weight"] = states[0]["a.weight"]
    part = {n: other[n] for n in names[1::2] + ["a.weight"]}
    fmt.write_safetensors(dirs[1] / "rank-1.safetensors", part)
    run("publish", "--checkpoints", *dirs, "--out", folder / "again", status=2,
        says="tensor 'a.weight' is another than in rank-0.safetensors")
    assert not list((folder / "again").glob("weight_v*"))


def test_row_what_decompresses_to_more_than_the_tensor_is_refused(folder):
    for number, (spoil, says) in enumerate([(lambda n, p: p + b"\0", "more bytes"), (lambda n, p: p[:-1], "fewer bytes")]):
        (folder / str(number)).mkdir()
        place = Place(folder / str(number), walk(1))
        place.publish(1, spoil=spoil)
        before = snapshot(place.host)
        pull(place.stream, place.host, 1, status=2, says=says)
        assert snapshot(place.host) == before


def test_row_old_versions_go_when_a_full_one_replaces_them(folder):
    states = walk(7)
    stream = publish_series(folder, states, "--full-every", 3, "--keep", 2)
    assert sorted(d.name for d in stream.iterdir()) == ["weight_v000006", "weight_v000007"]
    late = folder / "late"
    pull(stream, late)
    holds(late, states[7])
    # Not what the slowest reader has yet to pass.
    slow = folder / "slow"
    fmt.write_checkpoint(slow, states[3])
    fmt.set_marker(slow, 3)
    dirs = [folder / f"step-{n}" for n in range(8)]
    run("publish", "--checkpoints", *dirs, "--out", folder / "kept", "--full-every", 3, "--keep", 2, "--reader", slow)
    assert min(d.name for d in (folder / "kept").iterdir()) == "weight_v000003"
    # And one merged delta for who comes late.
    run("publish", "--checkpoints", *dirs, "--out", folder / "all")
    run("fold", "--base", dirs[0], "--stream", folder / "all", "--from", 2, "--to", 6, "--out", folder / "folded")
    assert fmt.apply(folder / "folded", 6, states[2]) == states[6]


# Files are not trusted.

def test_links_that_lead_out_of_the_stream_are_refused(folder):
    place = Place(folder, walk(2))
    version = place.publish(1)
    shard = version / "model-00000-of-00001.safetensors"
    os.rename(shard, folder / "elsewhere.safetensors")
    os.symlink(folder / "elsewhere.safetensors", shard)
    pull(place.stream, place.host, 1, status=2, says="leads out of the stream")
    full = fmt.publish_full(place.stream, 2, place.states[2])
    (folder / "secret").write_text("x")
    os.symlink(folder / "secret", full / "notes.txt")
    pull(place.stream, place.host, 2, status=2, says="leads out of the stream")
    holds(place.host, place.states[0])
    index = json.loads((version / fmt.INDEX).read_text())
    index["weight_map"] = {n: "../elsewhere.safetensors" for n in index["weight_map"]}
    (version / fmt.INDEX).write_text(json.dumps(index))
    pull(place.stream, place.host, 1, status=2, says="not the plain name")


def test_names_and_formats_that_are_not_known_are_refused_by_name(folder):
    place = Place(folder, walk(1))
    version = place.publish(1)
    text = (version / fmt.INDEX).read_text()
    for key, value in (("delta_encoding", "rle"), ("compression_format", "lz4"), ("checksum_format", "blake3")):
        index = json.loads(text)
        index["metadata"][key] = value
        (version / fmt.INDEX).write_text(json.dumps(index))
        pull(place.stream, place.host, 1, status=2, says=[key, f"'{value}'"])
    run("publish", "--trace", TINY, "--out", folder / "x", "--digest", "blake3", status=2, says="blake3")


def test_a_stream_goes_from_theirs_to_ours_and_back(folder):
    place = Place(folder, walk(3))
    for version in (1, 2, 3):
        place.publish(version)
    base = folder / "base"
    shutil.copytree(place.host, base)
    run("convert", "--base", base, "--stream", place.stream, "--out", folder / "ours", "--scheme", "coded")
    pull(folder / "ours", place.host)
    holds(place.host, place.states[3])
    run("convert", "--base", base, "--stream", folder / "ours", "--out", folder / "back", "--scheme", "overwrite")
    state = place.states[0]
    for version in (1, 2, 3):
        state = fmt.apply(folder / "back", version, state)
    assert state == place.states[3]


def test_a_publisher_goes_on_where_it_was_ended(folder):
    states = walk(3)
    publish_series(folder, states)
    shutil.rmtree(folder / "stream" / "weight_v000003")
    dirs = [folder / f"step-{n}" for n in range(4)]
    ended = run("publish", "--checkpoints", *dirs, "--out", folder / "stream", "--json")
    assert [json.loads(l)["there"] for l in ended.stdout.splitlines()] == [True, True, False]
    runs = {fmt.index_of(folder / "stream", v)["metadata"]["lockstep_run"] for v in (1, 2, 3)}
    assert len(runs) == 1
    fmt.write_checkpoint(dirs[2], step(states[2], 99))
    run("publish", "--checkpoints", *dirs, "--out", folder / "stream", status=2, says="not with these weights")


def crash_at(call, name, after=False):
    """Environment that ends the program as kill -9 would at its first `call` on a path that ends in `name`."""
    return {"LD_PRELOAD": str(SHIM), "CRASH_CALL": call, "CRASH_NAME": name, "CRASH_AFTER": "1" if after else ""}


SHIM = None


def main(tests):
    """Runs what begins with test_ in `tests`, or those of the names on the command line."""
    global PROGRAM, SHIM
    PROGRAM, SHIM, names = sys.argv[1], pathlib.Path(sys.argv[2]).resolve(), sys.argv[3:]
    failed = 0
    for name, test in list(tests.items()):
        if not name.startswith("test_") or (names and name not in names):
            continue
        with tempfile.TemporaryDirectory() as folder:
            try:
                started = time.monotonic()
                test(pathlib.Path(folder))
                print(f"ok   {name} {time.monotonic() - started:.1f} s", flush=True)
            except Exception as problem:  # the others still run
                failed += 1
                print(f"FAIL {name}: {type(problem).__name__}: {problem}", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main(globals())
