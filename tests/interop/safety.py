#!/usr/bin/env python3
"""What must be proven before live weights change, and what a host recovers from: bases that are none, streams that
contradict themselves, versions that are not what they say, files that others share, cut short or took away.

    tests/interop/safety.py PROGRAM SHIM [NAME…]
"""
import json
import os
import shutil
import subprocess
import sys

try:
    import interop
    import published as fmt
    from interop import Place, holds, model, publish_series, pull, run, snapshot, step, walk
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)


def ours(folder, states, *more):
    """Our publisher's stream, and a host that holds the first state."""
    folder.mkdir(exist_ok=True)
    place = Place.__new__(Place)
    place.states, place.host = states, folder / "host"
    place.stream = publish_series(folder, states, *more)
    fmt.write_checkpoint(place.host, states[0])
    return place


def note_of(host):
    return json.loads((host / ".weight_sync" / "lockstep.json").read_text())


def target_of(stream, version):
    return fmt.index_of(stream, version)["metadata"]["lockstep_target_digest"]


def edit_index(stream, version, change):
    file = fmt.version_dir(stream, version) / fmt.INDEX
    index = json.loads(file.read_text())
    change(index)
    file.write_text(json.dumps(index))


def refused(place, *how, says, to=None, status=2):
    """And nothing that a loader could see changes."""
    before, marker = snapshot(place.host), fmt.marker(place.host)
    try:
        pull(place.stream, place.host, to, *how, status=status, says=says)
    finally:
        assert snapshot(place.host) == before, "live files changed"
        assert fmt.marker(place.host) == marker


def spoil_first_byte(name, payload):
    return bytes([payload[0] ^ 1]) + payload[1:] if payload else payload


# Bases.

def test_a_base_is_proven_before_live_files_change(folder):
    strange = folder / "strange"
    fmt.write_checkpoint(strange, model(99))
    place = ours(folder / "ours", walk(3))
    pull(place.stream, place.host, 2)
    refused(place, "--rebuild", "--base", strange, says=["strange: is not the base of weight_v000001", "digest"])
    # Without being told to: one bit of the host is another.
    file = place.host / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    refused(place, "--base", strange, says="strange: is not the base of weight_v000001")
    assert pull(place.stream, place.host, 3, "--base", folder / "ours" / "step-0")["whole"]
    holds(place.host, place.states[3])
    # A stream without digests: the first delta's own checksums.
    (folder / "theirs").mkdir()
    place = Place(folder / "theirs", walk(3))
    for version in (1, 2, 3):
        place.publish(version)
    base = folder / "base"
    shutil.copytree(place.host, base)
    pull(place.stream, place.host, 2)
    refused(place, "--rebuild", "--base", strange, says=["does not match its checksum", "strange is not taken"])
    assert pull(place.stream, place.host, 3, "--rebuild", "--base", base)["whole"]
    holds(place.host, place.states[3])


def test_a_checkpoint_is_no_base_of_itself(folder):
    place = Place(folder, walk(3))
    for version in (1, 2, 3):
        place.publish(version)
    pull(place.stream, place.host, 2)
    link = folder / "link"
    os.symlink(place.host, link)
    for base in (place.host, link):
        refused(place, "--rebuild", "--base", base, says="is the checkpoint itself: give another base")


def test_of_a_base_no_shard_is_copied_that_its_index_does_not_name(folder):
    place = Place(folder, walk(1))
    place.publish(1)
    base, host = folder / "base", folder / "fresh"
    fmt.write_checkpoint(base, place.states[0], shards=2)
    fmt.write_safetensors(base / "consolidated.safetensors", {"a.weight": place.states[0]["a.weight"]})
    pull(place.stream, host, 1, "--base", base)
    holds(host, place.states[1])
    assert not (host / "consolidated.safetensors").exists()


# What streams say.

def test_a_version_that_no_pull_needs_any_more_may_be_damaged(folder):
    # What the host has is going: its shard is gone, its index not yet.
    (folder / "theirs").mkdir()
    place = Place(folder / "theirs", walk(2))
    for version in (1, 2):
        place.publish(version)
    pull(place.stream, place.host, 1)
    (fmt.version_dir(place.stream, 1) / "model-00000-of-00001.safetensors").unlink()
    pull(place.stream, place.host, 2)
    holds(place.host, place.states[2])
    # The indexes of what the host has, and of versions far below; files that were touched.
    for spoilt, touched in (([1], True), ([2], False), ([1, 2], False)):
        place = ours(folder / f"{spoilt}", walk(3))
        pull(place.stream, place.host, 2)
        for version in spoilt:
            (fmt.version_dir(place.stream, version) / fmt.INDEX).write_text("{")
        if touched:
            os.utime(place.host / "model.safetensors")
        run("verify", "--source", place.stream, "--checkpoint", place.host)
        pull(place.stream, place.host, 3)
        holds(place.host, place.states[3])
    # What is needed is refused as ever.
    (fmt.version_dir(place.stream, 3) / fmt.INDEX).write_text("{")
    refused(place, says="weight_v000003")


def test_a_false_digest_of_a_stream_does_not_roll_a_host_back(folder):
    states = walk(4)
    place = ours(folder, states[:4], "--full-every", 2)
    pull(place.stream, place.host, 3)
    fmt.publish(place.stream, 4, 3, states[3], states[4], metadata={"lockstep_base_digest": "0" * 32})
    numbers = {f: os.stat(f).st_ino for f in place.host.glob("*.safetensors")}
    refused(place, says=["weight_v000004", "the stream contradicts itself"])
    assert numbers == {f: os.stat(f).st_ino for f in place.host.glob("*.safetensors")}
    refused(place, "--rebuild", says="the stream contradicts itself")
    # Where the lie is in the midst of the way, too.
    late = folder / "late"
    fmt.publish(place.stream, 5, 4, states[4], states[4])
    pull(place.stream, late, 5, status=2, says="the stream contradicts itself")
    assert not (late / fmt.INDEX).exists()


def test_the_parts_of_a_delta_are_no_whole_checkpoint(folder):
    place = Place(folder, walk(2))
    place.publish(1)
    pull(place.stream, place.host)
    place.publish(2)
    edit_index(place.stream, 2, lambda index: index.pop("metadata"))
    for how in ((), ("--rebuild",)):
        refused(place, *how, says=["is part of a delta", "checksum for tensor"])
    empty = folder / "empty"
    pull(place.stream, empty, status=2, says="is part of a delta")
    assert not (empty / fmt.INDEX).exists()


def test_a_full_version_in_a_lone_file_is_one_for_every_command(folder):
    place = Place(folder, walk(3))
    fmt.write_checkpoint(fmt.version_dir(place.stream, 1), place.states[1])
    lone = fmt.version_dir(place.stream, 1) / "model.safetensors"
    kept = lone.read_bytes()
    assert pull(place.stream, place.host)["whole"]
    holds(place.host, place.states[1])
    # A watcher ends as it began if it is told to, and has it by then.
    watched = folder / "watched"
    watcher = subprocess.Popen([interop.PROGRAM, "pull", "--source", place.stream, "--checkpoint", watched, "--to", "1",
                                "--watch", "--json", "--poll-ms", "20"], stdout=subprocess.PIPE, text=True)
    try:
        assert json.loads(watcher.stdout.readline())["version"] == 1
    finally:
        watcher.terminate()
        watcher.communicate(timeout=60)
    holds(watched, place.states[1])
    line = json.loads(run("inspect", place.stream, "--json").stdout)
    assert (line["version"], line["full"], line["tensors"]) == (1, True, len(place.states[1])), line
    # It is not taken for what a killed publisher left, nor removed as old.
    dirs = []
    for number, state in enumerate(place.states):
        dirs.append(folder / f"step-{number}")
        fmt.write_checkpoint(dirs[-1], state)
    run("publish", "--checkpoints", *dirs, "--out", place.stream, status=2,
        says=["weight_v000001", "is published already: its model.safetensors is a full version"])
    assert lone.read_bytes() == kept
    place.publish(2)
    run("convert", "--base", dirs[0], "--stream", place.stream, "--out", folder / "converted", "--scheme", "xor")
    pull(folder / "converted", watched, 2, "--rebuild", "--base", dirs[0])
    holds(watched, place.states[2])
    assert lone.read_bytes() == kept


def test_a_full_version_with_a_shard_that_its_index_does_not_name_is_refused(folder):
    place = Place(folder, walk(2))
    version = fmt.publish_full(place.stream, 1, place.states[1], 2)
    stray = version / "model-00009-of-00009.safetensors"
    fmt.write_safetensors(stray, {"a.weight": place.states[2]["a.weight"], "zzz": ("U8", [1], b"x")})
    for how in ((), ("--rebuild",)):
        refused(place, *how, says=["model-00009-of-00009.safetensors", "the index does not name this file"])
    run("verify", "--source", place.stream, "--checkpoint", place.host, status=2, says="does not name this file")
    stray.unlink()
    assert pull(place.stream, place.host)["whole"]
    holds(place.host, place.states[1])


def test_a_digest_is_noted_of_the_files_that_have_it(folder):
    place = ours(folder, walk(3))
    pull(place.stream, place.host, 3)
    fmt.write_checkpoint(place.host, place.states[2])
    pull(place.stream, place.host, 2)
    assert (note_of(place.host)["version"], note_of(place.host)["state"]) == ("000002", target_of(place.stream, 2))
    pull(place.stream, place.host, 3)
    assert note_of(place.host)["state"] == target_of(place.stream, 3)


def test_full_versions_for_others_are_stepped_over_however_many(folder):
    states = walk(1)
    place = ours(folder, [states[0], states[1], states[1], states[1]], "--full-every", 2)
    shutil.rmtree(fmt.version_dir(place.stream, 3))
    shutil.copytree(fmt.version_dir(place.stream, 2), fmt.version_dir(place.stream, 3))
    for version, whom in ((2, "b"), (3, "c")):
        edit_index(place.stream, version,
                   lambda i: i["metadata"].update(version=f"{version:06d}", lockstep_meant_for=whom))
    pull(place.stream, place.host, 1)
    for version in (2, 3):
        report = pull(place.stream, place.host, version, "--name", "a")
        assert (report["whole"], report["deltas"], fmt.marker(place.host)) == (False, 0, version)
        assert note_of(place.host)["state"] == target_of(place.stream, 1)
    holds(place.host, states[1])


# What a host recovers from.

def test_a_pull_that_failed_leaves_a_host_with_shared_files_able_to_pull(folder):
    for number, share in enumerate((os.link, lambda file, other: (os.rename(file, other), os.symlink(other, file)))):
        (folder / str(number)).mkdir()
        place = Place(folder / str(number), walk(2))
        place.publish(1)
        pull(place.stream, place.host)
        share(place.host / "model.safetensors", folder / str(number) / "other")
        place.publish(2, spoil=spoil_first_byte)
        refused(place, says="does not match its checksum")
        shutil.rmtree(fmt.version_dir(place.stream, 2))
        place.publish(2)
        assert pull(place.stream, place.host)["deltas"] == 1
        holds(place.host, place.states[2])
        assert fmt.read_safetensors(folder / str(number) / "other")[1] == place.states[1]


def test_a_damaged_record_of_a_change_beside_a_marker_says_nothing(folder):
    place = Place(folder, walk(2))
    place.publish(1)
    place.publish(2)
    pull(place.stream, place.host, 1)
    (place.host / ".weight_sync" / "intent.json").write_text('{"kind":')
    assert pull(place.stream, place.host)["deltas"] == 1
    holds(place.host, place.states[2])


def test_a_damaged_marker_does_not_keep_a_host_from_being_rebuilt(folder):
    for text in ("{}", "", '{"version": "x"}'):
        here = folder / str(len(text))
        here.mkdir()
        place = Place(here, walk(2))
        fmt.publish_full(place.stream, 1, place.states[1])
        (place.host / ".weight_sync").mkdir()
        marker = place.host / ".weight_sync" / "state.json"
        marker.write_text(text)
        before = snapshot(place.host)
        pull(place.stream, place.host, status=2, says=["state.json", "--rebuild"])
        assert snapshot(place.host) == before and marker.read_text() == text
        assert pull(place.stream, place.host, None, "--rebuild")["whole"]
        holds(place.host, place.states[1])
        assert fmt.marker(place.host) == 1


def test_a_checkpoint_that_cannot_be_read_is_no_obstacle_to_a_whole_one(folder):
    def cut(host):
        os.truncate(host / "model-00002-of-00002.safetensors", 40)

    def missing(host):
        (host / "model-00002-of-00002.safetensors").unlink()

    for spoil in (cut, missing):
        here = folder / spoil.__name__
        here.mkdir()
        place = Place(here, walk(2), shards=2)
        place.publish(1)
        pull(place.stream, place.host)
        spoil(place.host)
        edit_index(place.stream, 1, lambda i: i["metadata"].update(lockstep_challenge="0123456789abcdef"))
        refused(place, "--name", "a", says=["the checkpoint is damaged and cannot be read (",
                                                "model-00002-of-00002.safetensors", "a base is needed"])
        said = json.loads((place.stream / "acks" / "a.json").read_text())
        assert said["reason"] == "torn", said  # for which a publisher makes a full version
        fmt.publish_full(place.stream, 2, place.states[2])
        run("verify", "--source", place.stream, "--checkpoint", place.host)
        assert pull(place.stream, place.host)["whole"]
        holds(place.host, place.states[2])


def test_a_version_that_goes_while_it_is_pulled_may_be_tried_again(folder):
    def cut(place, file, when):
        more = {"LD_PRELOAD": str(interop.SHIM), "CUT_FILE": str(file), "CUT_WHEN": when, "CUT_WHOLLY": "1"}
        before = snapshot(place.host)
        ended = subprocess.run([interop.PROGRAM, "pull", "--source", place.stream, "--checkpoint", place.host],
                               env={**os.environ, **more}, capture_output=True, text=True, timeout=60)
        assert not file.exists(), "nothing was removed"
        assert ended.returncode == 4 and "were removed meanwhile" in ended.stderr, (ended.returncode, ended.stderr)
        assert ended.stderr.startswith("lockstep: ") and ended.stderr.count("\n") == 1, ended.stderr
        return snapshot(place.host) == before

    for number, name in enumerate(("model-00002-of-00002.safetensors", fmt.INDEX)):
        (folder / str(number)).mkdir()
        place = Place(folder / str(number), walk(1))
        version = fmt.publish_full(place.stream, 1, place.states[1], shards=2)
        assert cut(place, version / name, "incoming/config.json")
    (folder / "deltas").mkdir()
    place = Place(folder / "deltas", walk(9))
    for version in range(1, 10):
        place.publish(version)
    cut(place, fmt.version_dir(place.stream, 9) / fmt.INDEX, "redo.log.tmp")  # that of the first eight
    assert fmt.marker(place.host) == 8
    holds(place.host, place.states[8])


def test_a_version_that_cannot_be_looked_at_is_told_of_and_costs_nothing(folder):
    """A directory that may not be searched, a file server that fails: neither is a version that is not there."""
    for fault, status, why in (("EACCES", 2, "Permission denied"), ("EIO", 4, "Input/output error")):
        here = folder / fault
        here.mkdir()
        place = Place(here, walk(3))
        for version in (1, 2, 3):
            place.publish(version)
        pull(place.stream, place.host, 1)
        before = snapshot(place.host)

        def faulty(command, version, *more):
            under = str(fmt.version_dir(place.stream, version))
            env = {**os.environ, "LD_PRELOAD": str(interop.SHIM), "FAULT": fault, "FAULT_UNDER": under, "FAULT_AT": "1", "FAULT_STAYS": "1"}
            return subprocess.run([interop.PROGRAM, command, "--source", place.stream, "--checkpoint", place.host, *more],
                                  env=env, capture_output=True, text=True, timeout=60)

        for version in (2, 3):  # on the way, and the target
            for command in ("pull", "verify"):
                ended = faulty(command, version)
                assert ended.returncode == status, (fault, version, ended.returncode, ended.stderr)
                assert f"weight_v00000{version}" in ended.stderr and why in ended.stderr, ended.stderr
                assert ended.stderr.startswith("lockstep: ") and ended.stderr.count("\n") == 1, ended.stderr
                assert snapshot(place.host) == before and fmt.marker(place.host) == 1
        # One that is passed already says nothing, unless it may say something the next time.
        ended = faulty("pull", 1)
        assert ended.returncode == (0 if status == 2 else 4), ended.stderr
        holds(place.host, place.states[3 if status == 2 else 1])
        pull(place.stream, place.host)
        holds(place.host, place.states[3])


# Publishing.

def test_the_names_beside_the_shards_are_synced_before_the_index_stands(folder):
    states = walk(1)
    log = folder / "log"
    os.environ.update(LD_PRELOAD=str(interop.SHIM), FAULT="EIO", FAULT_UNDER=str(folder / "stream"), FAULT_LOG=str(log))
    try:
        stream = publish_series(folder, states, "--full-every", 1)
    finally:
        for name in ("LD_PRELOAD", "FAULT", "FAULT_UNDER", "FAULT_LOG"):
            del os.environ[name]
    version = fmt.version_dir(stream, 1)
    calls = log.read_text().splitlines()
    named = calls.index(f"rename {version / 'config.json'}")
    published = calls.index(f"rename {version / fmt.INDEX}")
    assert f"fsync {version}" in calls[named:published], calls[named:published]


if __name__ == "__main__":
    interop.main(globals())
