#!/usr/bin/env python3
"""What a host holds and what is noted of it: replaced, rotted, interrupted and of another run; and what verify says.

    tests/interop/hosts.py PROGRAM SHIM [NAME…]
"""
import fcntl
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time

try:
    import interop
    import published as fmt
    from interop import Place, crash_at, holds, publish_series, pull, run, snapshot, step, walk
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)


def verify(stream, host, to=None, *more, status=0, says=()):
    how = ["--to", to] if to is not None else []
    ended = run("verify", "--source", stream, "--checkpoint", host, "--json", *how, *more, status=status, says=says)
    return json.loads(ended.stdout) if status == 0 else None


def size_of(state):
    return sum(len(t[2]) for t in state.values())


def rot(host, keep_time=False, at=-1, name="model.safetensors"):
    """One bit of the last tensor."""
    file = host / name
    before = file.stat()
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(data)
    if keep_time:
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace_weights(host, state):
    """As others do who know nothing of markers."""
    fmt.write_checkpoint(host, state)


def interrupt(stream, host, to):
    killed = subprocess.run([interop.PROGRAM, "pull", "--source", stream, "--checkpoint", host, "--to", str(to)],
                            env={**os.environ, **crash_at("rename", "state.json")}, capture_output=True)
    assert killed.returncode != 0 and fmt.marker(host) is None


# 1: what verify says

def test_verify_compares_what_is_at_the_target(folder):
    states = walk(2, names={"a.weight"})
    stream = publish_series(folder, states)
    host = folder / "host"
    fmt.write_checkpoint(host, states[0])
    pull(stream, host)
    assert verify(stream, host)["compared_bytes"] == size_of(states[2])
    rot(host, keep_time=True)  # of f.weight, which is in no delta
    verify(stream, host, status=2, says=["says it is at version 2, but its digest is"])


def test_verify_compares_the_last_checksums_where_there_is_no_digest(folder):
    states = [walk(0)[0]]
    for seed, name in enumerate(("a.weight", "b.bias", "a.weight")):
        states.append(step(states[-1], seed, names={name}))
    for checksum in ("xxh3-128", "adler32"):
        (folder / checksum).mkdir()
        place = Place(folder / checksum, states)
        for version in (1, 2, 3):
            place.publish(version, checksum=checksum)
        pull(place.stream, place.host)
        known = sum(len(states[0][n][2]) for n in ("a.weight", "b.bias"))
        assert verify(place.stream, place.host)["compared_bytes"] == known
        spoiled = dict(states[3])
        spoiled["b.bias"] = states[0]["b.bias"]
        fmt.write_checkpoint(place.host, spoiled)
        fmt.set_marker(place.host, 3)
        (place.host / ".weight_sync" / "lockstep.json").unlink()
        verify(place.stream, place.host, status=2, says=["its tensor 'b.bias' is not that version's"])
        fmt.publish_full(place.stream, 4, states[3])
        fmt.write_checkpoint(place.host, states[3])
        fmt.set_marker(place.host, 4)
        assert verify(place.stream, place.host)["compared_bytes"] == size_of(states[3])


def test_verify_says_what_was_interrupted_and_what_is_of_another_run(folder):
    states = walk(3)
    stream = publish_series(folder, states)
    host = folder / "host"
    fmt.write_checkpoint(host, states[0])
    pull(stream, host, 1)
    (folder / "again").mkdir()
    other = publish_series(folder / "again", [states[0]] + [step(s, 77) for s in states[1:]])
    verify(other, host, 3, status=2, says=["is at version 1 of another run", "a base is needed"])
    assert verify(other, host, 3, "--base", folder / "step-0")["deltas"] == 3
    interrupt(stream, host, 2)
    before = snapshot(host), snapshot(host / ".weight_sync")
    verify(stream, host, 3, status=1, says="interrupted change to version 2")
    assert (snapshot(host), snapshot(host / ".weight_sync")) == before
    pull(stream, host, 3)
    holds(host, states[3])


def test_verify_tells_a_change_under_way_from_one_that_was_interrupted(folder):
    place = Place(folder, walk(2))
    place.publish(1)
    place.publish(2)
    pull(place.stream, place.host, 1)
    interrupt(place.stream, place.host, 2)
    with open(place.host / ".weight_sync" / "lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        verify(place.stream, place.host, status=3, says=["is being changed to version 2 by another process"])
    verify(place.stream, place.host, status=1, says="interrupted change to version 2")
    pull(place.stream, place.host)
    holds(place.host, place.states[2])


def test_who_looks_whether_somebody_is_at_work_keeps_no_pull_out(folder):
    """verify shares the lock for a moment."""
    place = Place(folder, walk(1))
    place.publish(1)
    (place.host / ".weight_sync").mkdir()
    with open(place.host / ".weight_sync" / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        timer = threading.Timer(0.3, lambda: fcntl.flock(lock, fcntl.LOCK_UN))
        timer.start()
        pull(place.stream, place.host, None, "--lock-ms", 0)
        timer.join()
        holds(place.host, place.states[1])
        for how in (fcntl.LOCK_SH, fcntl.LOCK_EX):  # who keeps it for longer is told of
            fcntl.flock(lock, how)
            pull(place.stream, place.host, None, "--lock-ms", 0, status=3, says="held by another process")


def test_verify_goes_the_way_of_a_pull_that_rebuilds(folder):
    states = walk(4)
    stream = publish_series(folder, states[:4], "--full-every", 2)
    host = folder / "host"
    fmt.write_checkpoint(host, states[0])
    pull(stream, host, 2)
    rot(host, keep_time=True, name="model-00000-of-00001.safetensors")
    told = verify(stream, host, 3)
    assert (told["whole"], told["deltas"]) == (True, 1), told
    assert pull(stream, host, 3)["whole"]
    holds(host, states[3])
    # Without a whole one there is nothing to be rebuilt from.
    (folder / "deltas").mkdir()
    stream = publish_series(folder / "deltas", states)
    other = folder / "other"
    fmt.write_checkpoint(other, states[0])
    pull(stream, other, 2)
    rot(other, keep_time=True)
    verify(stream, other, 3, status=2, says=["weight_v000003", "does not match its checksum"])


def test_a_directory_where_a_file_is_to_be_is_told_by_verify_and_before_a_copy(folder):
    states = walk(1)
    full = Place(folder, states)
    fmt.publish_full(full.stream, 1, states[1])
    lone = folder / "lone"  # of one file, which no index names
    fmt.write_checkpoint(fmt.version_dir(lone, 1), states[1])
    based = publish_series(folder / "based", states)
    cases = ((full.stream, "config.json"), (full.stream, "model-00001-of-00001.safetensors"), (full.stream, fmt.INDEX),
             (lone, fmt.INDEX), (lone, "model.safetensors"), (lone, ".weight_sync/lock"), (based, ".weight_sync/redo.log"),
             (based, "config.json", "--base", folder / "based" / "step-0"))
    for number, (stream, name, *more) in enumerate(cases):
        host = folder / "hosts" / str(number)
        if not more:
            fmt.write_checkpoint(host, states[0])
        if (host / name).exists():
            (host / name).unlink()
        (host / name / "of others").mkdir(parents=True)
        before = snapshot(host)
        said = [f"{host / name}: is a directory where a file is to be"]
        verify(stream, host, 1, *more, status=2, says=said)
        assert snapshot(host) == before and (host / ".weight_sync").exists() == name.startswith(".weight_sync")
        pull(stream, host, 1, *more, status=2, says=[str(host / name)] if name.startswith(".weight_sync") else said)
        assert snapshot(host) == before and not list(host.glob(".weight_sync/incoming/*"))
        shutil.rmtree(host / name)
        verify(stream, host, 1, *more)
        pull(stream, host, 1, *more)
        holds(host, states[1])
    (folder / "hosts" / ".weight_sync").write_text("")
    verify(full.stream, folder / "hosts", 1, status=2, says=[".weight_sync: is not a directory"])


def verify_within(place, folder, held_mib, to=None, files_max=64, **environment):
    """Ends well with `held_mib` MiB resident at most, so many files open, and nothing left behind."""
    scratch = folder / "scratch"
    scratch.mkdir(exist_ok=True)
    before = snapshot(place.host), sorted(place.host.iterdir())
    with subprocess.Popen([interop.PROGRAM, "verify", "--source", place.stream, "--checkpoint", place.host, "--json",
                           *(["--to", str(to)] if to else []), "--scratch", scratch], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, env={**os.environ, **environment},
                          preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (files_max, files_max))) as process:
        out, said = process.stdout.read(), process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert usage.ru_maxrss < held_mib * 1024, f"{usage.ru_maxrss // 1024} MiB held"
    assert not list(scratch.iterdir()) and (snapshot(place.host), sorted(place.host.iterdir())) == before
    return process.returncode, json.loads(out) if out else said


def test_verify_takes_a_way_of_any_length_in_bounded_memory(folder):
    state, count = {"a": ("BF16", [1 << 20], bytes(2 << 20)), "b": ("F32", [700], bytes(2800))}, 300
    place = Place(folder, [state])
    for version in range(1, count + 1):
        new = dict(state)
        for name in ("a", "b") if version % 3 else ("b",):
            data = bytearray(new[name][2])
            for at in (version * 7919 % len(data), version * 104729 % len(data)):
                data[at] ^= 1 + version % 255
            new[name] = (*new[name][:2], bytes(data))
        fmt.publish(place.stream, version, version - 1, state, new)
        state = new
    short = verify_within(place, folder, 64, to=8)
    assert short[0] == 0 and short[1]["deltas"] == 8, short
    status, told = verify_within(place, folder, 64)
    assert status == 0 and (told["deltas"], told["from"], told["version"]) == (count, 0, count), told
    # What is wrong near the end is found, and a full disk in between may go well the next time.
    ended = verify_within(place, folder, 64, LD_PRELOAD=str(interop.SHIM), FAULT="ENOSPC", FAULT_UNDER=str(folder / "scratch"),
                          FAULT_AT="3", FAULT_STAYS="1")
    assert ended[0] == 4 and "scratch" in ended[1], ended
    fmt.publish(place.stream, count - 3, count - 4, state, step(state, 5))
    ended = verify_within(place, folder, 64)
    assert ended[0] == 2 and f"weight_v{count - 3:06d}" in ended[1] and "does not match its checksum" in ended[1], ended


def test_verify_takes_several_deltas_that_look_back_far(folder):
    states = [{"a": ("U8", [40 << 20], bytes(40 << 20)), "b": ("U8", [9], bytes(9))}]
    for version in range(1, 6):
        states.append(step(states[-1], version, 1e-5))
    place = Place(folder, states)
    for version in range(1, 6):
        place.publish(version, window_log=26 if version in (2, 3, 5) else 0, content_size=version == 5)
    status, told = verify_within(place, folder, 400)
    assert status == 0 and told["deltas"] == 5, told
    pull(place.stream, place.host)
    holds(place.host, states[5])


def test_a_pull_compares_what_is_there_if_it_is_told_to(folder):
    states = walk(2, names={"a.weight"})
    stream = publish_series(folder, states)
    host = folder / "host"
    fmt.write_checkpoint(host, states[0])
    pull(stream, host)
    assert pull(stream, host)["compared_bytes"] == 0
    assert pull(stream, host, None, "--verify")["compared_bytes"] == size_of(states[2])
    rot(host, keep_time=True)
    assert pull(stream, host)["deltas"] == 0  # its time and its length are those of what we wrote
    pull(stream, host, None, "--verify", status=2, says="its digest is")
    assert pull(stream, host, None, "--verify", "--base", folder / "step-0")["whole"]
    holds(host, states[2])
    rot(host)
    pull(stream, host, status=2, says=["others have changed 'model.safetensors' since", "a base is needed"])
    assert pull(stream, host, None, "--base", folder / "step-0")["whole"]
    holds(host, states[2])


# 2: checkpoints that others replaced

def test_a_checkpoint_that_others_replaced_is_not_taken_for_ours(folder):
    states = walk(3)
    strangers = step(states[0], 55, density=0.3)
    for kept in (True, False):  # the marker
        for whose in ("ours", "theirs"):
            here = folder / f"{whose}-{kept}"
            here.mkdir()
            place = Place(here, states)
            if whose == "theirs":
                for version in (1, 2, 3):
                    fmt.publish(place.stream, version, version - 1, states[version - 1], states[version])
            else:
                place.stream = publish_series(here / "x", states) if (here / "x").mkdir() is None else None
            pull(place.stream, place.host, 1)
            replace_weights(place.host, strangers)
            if not kept:
                (place.host / ".weight_sync" / "state.json").unlink()
            before = snapshot(place.host)
            for to in (1, 3):
                pull(place.stream, place.host, to, status=2, says=["others have changed", "a base is needed"])
                assert snapshot(place.host) == before
            base = here / "base"
            fmt.write_checkpoint(base, states[0])
            assert pull(place.stream, place.host, 3, "--base", base)["whole"]
            holds(place.host, states[3])


def test_a_base_that_was_put_there_again_is_known_by_its_digest(folder):
    states = walk(3)
    stream = publish_series(folder, states)
    host = folder / "host"
    fmt.write_checkpoint(host, states[0])
    pull(stream, host, 2)
    replace_weights(host, states[0])
    (host / ".weight_sync" / "state.json").unlink()
    assert pull(stream, host)["deltas"] == 3
    holds(host, states[3])
    os.utime(host / "model.safetensors")  # the same bytes at another time
    report = pull(stream, host)
    assert (report["deltas"], report["whole"]) == (0, False)
    replace_weights(host, states[2])
    assert pull(stream, host)["deltas"] == 1
    holds(host, states[3])


def test_what_was_interrupted_is_not_ended_over_what_others_put_there_without_a_marker(folder):
    states = walk(3)
    strangers = step(states[0], 55, density=0.3)

    def copied(host):  # into the same file
        other = host.parent / "other"
        fmt.write_checkpoint(other, strangers)
        with open(host / "model.safetensors", "r+b") as file:
            file.write((other / "model.safetensors").read_bytes())

    for how in (lambda host: replace_weights(host, strangers), copied):
        here = folder / str(how)
        here.mkdir()
        place = Place(here, states)
        place.stream = publish_series(here / "x", states) if (here / "x").mkdir() is None else None
        pull(place.stream, place.host, 1)
        interrupt(place.stream, place.host, 2)
        how(place.host)
        pull(place.stream, place.host, 3, status=2, says=["interrupted change to version 2", "others have changed",
                                                         "a base is needed"])
        assert fmt.marker(place.host) is None
        base = here / "base"
        fmt.write_checkpoint(base, states[0])
        assert pull(place.stream, place.host, 3, "--base", base)["whole"]
        holds(place.host, states[3])
    # Of a full version that was half moved in.
    place = Place(folder, states, shards=2)
    place.publish(1)
    fmt.publish_full(place.stream, 2, states[2], shards=2)
    killed = subprocess.run([interop.PROGRAM, "pull", "--source", place.stream, "--checkpoint", place.host],
                            env={**os.environ, **crash_at("rename", "host/model-00001-of-00002.safetensors", after=True)},
                            capture_output=True)
    assert killed.returncode != 0 and fmt.marker(place.host) is None
    fmt.write_checkpoint(place.host, strangers, 2)
    shutil.rmtree(place.stream / "weight_v000002")
    pull(place.stream, place.host, 1, status=2, says=["interrupted change to version 2", "others have changed"])


# 3, 4: what a pulled checkpoint says of itself, and what it is in another stream

def test_a_pulled_checkpoint_is_a_base(folder):
    states = walk(4)
    stream = publish_series(folder, states, "--full-every", 2)
    host = folder / "host"
    fmt.write_checkpoint(host, states[0])
    pull(stream, host, 3)
    metadata = json.loads((host / fmt.INDEX).read_text())["metadata"]
    assert metadata.keys() == {"total_size"}
    other = folder / "other"
    (folder / "more").mkdir()
    more = publish_series(folder / "more", [states[3], states[4]])
    pull(more, other, 1, "--base", host)
    holds(other, states[4])
    # As an older release left it.
    index = json.loads((host / fmt.INDEX).read_text())
    index["metadata"]["lockstep_target_digest"] = fmt.index_of(stream, 2)["metadata"]["lockstep_target_digest"]
    (host / fmt.INDEX).write_text(json.dumps(index))
    shutil.rmtree(other)
    pull(more, other, 1, "--base", host)
    holds(other, states[4])


def test_a_host_goes_from_a_folded_or_converted_stream_to_the_original_one(folder):
    states = walk(6)
    stream = publish_series(folder, states)
    base = folder / "step-0"
    run("fold", "--base", base, "--stream", stream, "--from", 0, "--to", 4, "--out", folder / "folded")
    run("convert", "--base", base, "--stream", stream, "--out", folder / "coded", "--scheme", "coded")
    for other, at in ((folder / "folded", 4), (folder / "coded", 5)):
        host = folder / f"host-{at}"
        fmt.write_checkpoint(host, states[0])
        pull(other, host, at)
        assert pull(stream, host, at)["deltas"] == 0
        assert fmt.marker(host) == at
        report = pull(stream, host, 6)
        assert (report["deltas"], report["whole"]) == (6 - at, False)
        holds(host, states[6])
    # But not from a state that is none of the stream's.
    (folder / "x").mkdir()
    elsewhere = publish_series(folder / "x", [states[0], step(states[0], 99)])
    host = folder / "host-x"
    fmt.write_checkpoint(host, states[0])
    pull(elsewhere, host)
    pull(stream, host, status=2, says=["is at version 1 of another run", "a base is needed"])


# 7: what stands beside the weights

def test_what_a_full_version_does_not_have_stays(folder):
    place = Place(folder, walk(2))
    full = fmt.publish_full(place.stream, 1, place.states[1], shards=2)
    (full / "config.json").unlink()
    (full / "generation_config.json").write_text("theirs")
    for name in ("config.json", "tokenizer.json", "generation_config.json"):
        (place.host / name).write_text("the host's")
    assert pull(place.stream, place.host)["whole"]
    holds(place.host, place.states[1])
    assert not (place.host / "model.safetensors").exists()
    assert [(place.host / n).read_text() for n in ("config.json", "tokenizer.json", "generation_config.json")] == [
        "the host's", "the host's", "theirs"]


def test_a_mistyped_directory_is_not_made(folder):
    place = Place(folder, walk(1))
    place.publish(1)
    typo = folder / "typo" / "host"
    pull(place.stream, typo, status=2, says=["has no full version", str(typo), "a base is needed"])
    pull(folder / "typo-stream", typo, status=2, says="typo-stream")
    (folder / "empty").mkdir()
    pull(folder / "empty", typo, status=2, says="holds no published version")
    pull(place.stream, typo, 2, status=2, says="weight_v000002")
    assert not typo.parent.exists()
    pull(place.stream, typo, None, "--base", place.host)
    holds(typo, place.states[1])


# 8, 9: who watches, and who waits

def watch(stream, host, *more):
    return subprocess.Popen([interop.PROGRAM, "pull", "--source", stream, "--checkpoint", host, "--watch", "--poll-ms",
                             "20", *more], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_watcher_sees_another_run_at_the_same_version(folder):
    states = walk(2)
    again = [step(s, 77) for s in states]
    streams = []
    for where, series in ((folder / "old", states), (folder / "new", again)):
        where.mkdir()
        streams.append(publish_series(where, series, "--full-every", 2))
    stream, host = streams[0], folder / "host"
    fmt.write_checkpoint(host, states[0])
    watcher = watch(stream, host)

    def reaches(state):
        deadline = time.monotonic() + 20
        while True:
            try:
                holds(host, state)
                return
            except Exception:
                assert time.monotonic() < deadline and watcher.poll() is None, "not there"
                time.sleep(0.02)

    try:
        reaches(states[2])
        shutil.rmtree(stream)
        os.rename(streams[1], stream)
        reaches(again[2])
        watcher.send_signal(signal.SIGTERM)
        assert watcher.wait(20) == 0
    finally:
        watcher.kill()
        watcher.communicate()


def test_who_waits_for_the_lock_ends_when_told_to(folder):
    import fcntl
    place = Place(folder, walk(1))
    place.publish(1)
    (place.host / ".weight_sync").mkdir()
    with open(place.host / ".weight_sync" / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        plain = subprocess.Popen([interop.PROGRAM, "pull", "--source", place.stream, "--checkpoint", place.host],
                                 stderr=subprocess.PIPE, stdout=subprocess.PIPE)
        watcher = watch(place.stream, place.host)
        time.sleep(0.5)
        assert plain.poll() is None and watcher.poll() is None
        started = time.monotonic()
        for process, status in ((watcher, 0), (plain, 3)):
            process.send_signal(signal.SIGTERM)
            try:
                assert process.wait(5) == status
            finally:
                process.kill()
                process.communicate()
        assert time.monotonic() - started < 5
    holds(place.host, place.states[0])


if __name__ == "__main__":
    interop.main(globals())
