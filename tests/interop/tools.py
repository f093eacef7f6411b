#!/usr/bin/env python3
"""inspect, verify, diff, fold, convert and publish as tools.

    tests/interop/tools.py PROGRAM SHIM [NAME…]
"""
import json
import os
import pty
import re
import shutil
import subprocess
import sys

try:
    import interop
    import published as fmt
    from interop import Place, holds, publish_series, pull, run, snapshot, step, walk
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)


def lines(ended):
    return [json.loads(line) for line in ended.stdout.splitlines()]


def test_inspect_says_what_changes_and_where(folder):
    states = walk(2)
    for scheme in ("xor", "overwrite", "coded"):
        place = folder / scheme
        place.mkdir()
        stream = publish_series(place, states, "--scheme", scheme)
        found = lines(run("inspect", stream / "weight_v000001", "--base", place / "step-0", "--json", "--schemes"))
        assert found[-1]["kind"] == "delta" and len(found) == found[-1]["tensors"] + 1
        for part in found[:-1]:
            width = {"BF16": 2, "F32": 4, "U8": 1, "F64": 8}[states[0][part["tensor"]][0]]
            old, new = states[0][part["tensor"]][2], states[1][part["tensor"]][2]
            changed = [i for i in range(len(old) // width) if old[i * width:(i + 1) * width] != new[i * width:(i + 1) * width]]
            assert part["changed"] == len(changed) and sum(part["histogram"]) == len(changed)
            assert part["changed_bytes"] == sum(a != b for a, b in zip(old, new))
            bins = [0] * 16
            for i in changed:
                bins[i * 16 // (len(old) // width)] += 1
            assert part["histogram"] == bins
        name = "lockstep-coded" if scheme == "coded" else scheme
        assert found[-1]["schemes"][name] == found[-1]["bytes"]
        versions = lines(run("inspect", stream, "--json"))
        assert [(v["version"], v["metadata"]["delta_encoding"]) for v in versions] == [(1, name), (2, name)]
        run("inspect", stream / "weight_v000001")
    tensors = lines(run("inspect", folder / "xor" / "step-0", "--json"))
    assert {t["tensor"] for t in tensors[:-1]} == set(states[0])


def test_what_a_stream_says_of_itself_does_not_pass_for_what_we_say(folder):
    place = Place(folder, walk(2))
    theirs = {"kind": "checkpoint", "full": "yes", "bytes": "1", "tensors": "1"}
    version = place.publish(1, metadata=theirs)
    fmt.publish_full(place.stream, 2, place.states[2])  # whose total_size is a number
    first, second = lines(run("inspect", place.stream, "--json"))
    assert (first["kind"], first["version"], first["full"]) == ("version", 1, False) and first["bytes"] > 1
    assert theirs.items() <= first["metadata"].items() and first["metadata"]["delta_encoding"] == "xor"
    assert second["full"] is True and "total_size" not in {**second, **second["metadata"]}
    delta = lines(run("inspect", version, "--json"))[-1]
    assert delta["kind"] == "delta" and delta["tensors"] > 1 and delta["bytes"] > 1
    assert theirs.items() <= delta["metadata"].items()


def test_inspect_refuses_another_base(folder):
    place = Place(folder, walk(2))
    base = folder / "base"
    fmt.write_checkpoint(base, place.states[1])
    for encoding in ("xor", "overwrite"):
        place.publish(1, encoding=encoding)
        version = place.publish(2, encoding=encoding)
        run("inspect", version, "--base", base)
        run("inspect", version, "--base", place.host, status=2,
            says=["weight_v000002", "does not match its checksum", str(place.host)])
    run("inspect", version, "--schemes", status=2, says="--base")


def test_inspect_reads_frames(folder):
    states = walk(1)
    stream = publish_series(folder, states, "--scheme", "coded")
    parts = fmt.read_safetensors(stream / "weight_v000001" / "model-00000-of-00001.safetensors")[1]
    frames = folder / "frames"
    frames.write_bytes(parts["f.weight"][2])
    found = lines(run("inspect", frames, "--json"))
    assert all(f["intact"] for f in found) and [f["offset"] for f in found] == [i << 20 for i in range(len(found))]
    data = bytearray(frames.read_bytes())
    data[-1] ^= 1
    frames.write_bytes(data)
    assert not lines(run("inspect", frames, "--json"))[-1]["intact"]
    frames.write_bytes(data[:-1])
    run("inspect", frames, status=2, says="cut short")


def test_verify_says_what_a_pull_would_and_writes_nothing(folder):
    place = Place(folder, walk(4))
    for version in (1, 2, 3):
        place.publish(version)
    before = snapshot(place.host)
    found = lines(run("verify", "--source", place.stream, "--checkpoint", place.host, "--json"))[0]
    changed = sum(a != b for n in place.states[0] for a, b in zip(place.states[0][n][2], place.states[3][n][2]))
    assert (found["version"], found["deltas"], found["changed_bytes"]) == (3, 3, changed)
    place.publish(4, spoil=lambda name, p: p[:-1] + bytes([p[-1] ^ 1]))
    run("verify", "--source", place.stream, "--checkpoint", place.host, "--to", 4, status=2,
        says=["weight_v000004", "does not match its checksum"])
    assert snapshot(place.host) == before and not (place.host / ".weight_sync").exists()


def test_diff_says_which_and_where(folder):
    old, new = folder / "old", folder / "new"
    first = walk(0)[0]
    second = step(first, 5, names={"b.bias"})
    second["g.more"] = ("U8", [1], b"x")
    del second["c.ids"]
    second["e.scale"] = ("F64", [1], first["e.scale"][2])
    fmt.write_checkpoint(old, first)
    fmt.write_checkpoint(new, second)
    found = {l["tensor"]: l for l in lines(differ(old, new)) if "tensor" in l}
    assert {n: l["kind"] for n, l in found.items()} == {"b.bias": "changed", "c.ids": "removed", "e.scale": "reshaped",
                                                        "g.more": "added"}
    a, b = first["b.bias"][2], second["b.bias"][2]
    at = [i for i in range(33) if a[4 * i:4 * i + 4] != b[4 * i:4 * i + 4]]
    assert (found["b.bias"]["first"], found["b.bias"]["last"]) == (f"[{at[0]}]", f"[{at[-1]}]")
    assert found["b.bias"]["changed"] == len(at)
    run("diff", old, old)


def differ(old, new):
    ended = subprocess.run([interop.PROGRAM, "diff", str(old), str(new), "--json"], capture_output=True, text=True,
                           timeout=60)
    assert ended.returncode == 1 and not ended.stderr
    return ended


def test_fold_gives_one_delta_that_others_read(folder):
    place = Place(folder, walk(5))
    for version in range(1, 6):
        place.publish(version, encoding=("xor", "overwrite")[version % 2])
    base = folder / "base"
    shutil.copytree(place.host, base)
    run("fold", "--base", base, "--stream", place.stream, "--from", 1, "--to", 5, "--out", folder / "folded")
    assert fmt.apply(folder / "folded", 5, place.states[1]) == place.states[5]
    pull(place.stream, place.host, 1)
    assert pull(folder / "folded", place.host, 5)["deltas"] == 1
    holds(place.host, place.states[5])


def test_what_is_there_in_another_way_is_not_taken_for_folded_or_converted(folder):
    states = walk(2)
    stream = publish_series(folder, states)
    base = folder / "step-0"
    before = {d.name: snapshot(d) for d in stream.iterdir()}
    how = ["--base", base, "--stream", stream, "--out"]
    run("fold", *how, stream, "--from", 0, "--to", 2, status=2,
        says=["weight_v000002", "is there already as xor from 000001, not as xor from 0"])
    run("convert", *how, stream, "--scheme", "coded", status=2, says=["weight_v000001", "not as lockstep-coded from 0"])
    run("convert", *how, stream, "--full-every", 2, status=2, says=["weight_v000002", "not as a full version"])
    assert {d.name: snapshot(d) for d in stream.iterdir()} == before
    for _ in range(2):  # the same call goes on where it ended
        run("fold", *how, folder / "folded", "--from", 0, "--to", 2)
        run("convert", *how, folder / "converted", "--scheme", "coded", "--full-every", 2)


def dirs_of(folder, states):
    dirs = []
    for number, state in enumerate(states):
        dirs.append(folder / f"step-{number}")
        fmt.write_checkpoint(dirs[-1], state)
    return dirs


def test_what_retention_removed_is_not_published_again(folder):
    dirs = dirs_of(folder, walk(8))
    how = ["--out", folder / "stream", "--full-every", 3, "--keep", 2, "--json"]
    run("publish", "--checkpoints", *dirs[:8], *how)
    kept = {d.name: snapshot(d) for d in (folder / "stream").iterdir()}
    assert sorted(kept) == ["weight_v000006", "weight_v000007"]
    again = lines(run("publish", "--checkpoints", *dirs[:8], *how))
    assert [(l["gone"], l["there"]) for l in again] == [(True, False)] * 5 + [(False, True)] * 2
    assert {d.name: snapshot(d) for d in (folder / "stream").iterdir()} == kept
    assert [l["there"] or l["gone"] for l in lines(run("publish", "--checkpoints", *dirs, *how))] == [True] * 7 + [False]
    holds_late(folder, 8)
    # What was to go when the publisher was killed goes at its next run.
    run("publish", "--checkpoints", *dirs, "--out", folder / "other", "--full-every", 3)
    shutil.rmtree(folder / "other" / "weight_v000001")
    run("publish", "--checkpoints", *dirs, "--out", folder / "other", "--full-every", 3, "--keep", 2)
    assert min(d.name for d in (folder / "other").iterdir()) == "weight_v000006"


def test_what_a_killed_retention_left_is_removed_by_the_next(folder):
    states = walk(5)
    dirs = dirs_of(folder, states)
    stream = folder / "stream"
    run("publish", "--checkpoints", *dirs[:4], "--out", stream, "--full-every", 2)
    # Killed when its index was gone. What is a full version without one stays.
    (fmt.version_dir(stream, 1) / fmt.INDEX).unlink()
    run("publish", "--checkpoints", *dirs, "--out", stream, "--full-every", 2, "--keep", 1)
    assert sorted(f.name for f in stream.iterdir()) == ["weight_v000004", "weight_v000005"]
    fmt.write_checkpoint(fmt.version_dir(stream, 1), states[1])
    run("publish", "--checkpoints", *dirs, "--out", stream, "--full-every", 2, "--keep", 1)
    assert sorted(f.name for f in stream.iterdir()) == ["weight_v000001", "weight_v000004", "weight_v000005"]


def test_retention_that_would_do_nothing_is_told(folder):
    dirs = dirs_of(folder, walk(3))
    stream = folder / "stream"
    run("publish", "--checkpoints", *dirs, "--out", stream, "--full-every", 1, "--keep", 1, "--reader", folder / "typo",
        status=2, says=["--reader", str(folder / "typo"), "is no directory"])
    assert not stream.exists()
    said = run("publish", "--checkpoints", *dirs, "--out", stream, "--keep", 1)
    assert said.stderr.count("\n") == 1 and "--keep 1 removes nothing" in said.stderr
    assert len(list(stream.iterdir())) == 3
    assert not run("publish", "--checkpoints", *dirs, "--out", folder / "other", "--full-every", 2, "--keep", 1).stderr
    assert not run("publish", "--checkpoints", *dirs, "--out", folder / "other", "--keep", 1).stderr


def test_a_version_that_is_a_link_is_not_published_through(folder):
    dirs = dirs_of(folder, walk(1))
    elsewhere, stream = folder / "elsewhere", folder / "stream"
    elsewhere.mkdir()
    stream.mkdir()
    (elsewhere / "precious.safetensors").write_text("x")
    (stream / "weight_v000001").symlink_to(elsewhere)
    for more in ((), ("--full-every", 1)):
        run("publish", "--checkpoints", *dirs, "--out", stream, *more, status=2, says=["weight_v000001", "is a link"])
    assert [f.name for f in elsewhere.iterdir()] == ["precious.safetensors"]


def drawn(*arguments):
    """What a person at a terminal sees: each hundredth of the way that was shown, in order."""
    terminal, theirs = pty.openpty()
    with subprocess.Popen([interop.PROGRAM, *map(str, arguments)], stdout=subprocess.DEVNULL, stderr=theirs) as process:
        os.close(theirs)
        text = b""
        try:
            while more := os.read(terminal, 65536):
                text += more
        except OSError:  # nobody writes to it any more
            pass
        os.close(terminal)
        assert process.wait(60) == 0, text
    return [int(n) for n in re.findall(rb"\] (\d+)/100 ", text)]


def test_a_person_sees_how_far_one_version_is(folder):
    old = {f"t{i}": ("U8", [2 << 20], bytes(2 << 20)) for i in range(8)}
    dirs = dirs_of(folder, [old, step(old, 1, 0.001)])
    for more in ((), ("--full-every", 1)):
        shown = drawn("publish", "--checkpoints", *dirs, "--out", folder / f"stream{len(more)}", *more)
        assert len(set(shown)) > 5 and shown == sorted(shown) and shown[0] == 0, shown
    shown = drawn("fold", "--base", dirs[0], "--stream", folder / "stream0", "--from", 0, "--to", 1, "--out", folder / "out")
    assert len(set(shown)) > 5 and shown == sorted(shown) and max(shown) > 90, shown


def holds_late(folder, version):
    pull(folder / "stream", folder / "late", version)
    assert interop.fmt.read_checkpoint(folder / "late") == fmt.read_checkpoint(folder / f"step-{version}")


def test_another_run_does_not_go_on_with_a_stream(folder):
    dirs = dirs_of(folder, walk(4))
    stream = folder / "stream"
    run("publish", "--checkpoints", *dirs[:3], "--out", stream, "--run", "one")
    before = {d.name: snapshot(d) for d in stream.iterdir()}
    run("publish", "--checkpoints", *dirs[:3], "--out", stream, "--run", "two", status=2,
        says=["weight_v000001", "belongs to the run 'one', not 'two'"])
    shutil.rmtree(stream / "weight_v000001")
    run("publish", "--checkpoints", *dirs[:3], "--out", stream, "--run", "two", status=2, says="run 'one'")
    shutil.rmtree(stream / "weight_v000001", ignore_errors=True)
    # A fold or a conversion that would lead on from another run's version.
    source = folder / "source"
    run("publish", "--checkpoints", *dirs, "--out", source, "--run", "two")
    run("fold", "--base", dirs[0], "--stream", source, "--from", 2, "--to", 3, "--out", stream, "--run", "two", status=2,
        says=["weight_v000002", "belongs to the run 'one', not 'two': only a full version begins another"])
    assert {d.name: snapshot(d) for d in stream.iterdir() if d.name != "weight_v000001"} == {
        n: s for n, s in before.items() if n != "weight_v000001"}
    run("fold", "--base", dirs[0], "--stream", source, "--from", 2, "--to", 3, "--out", stream)
    assert fmt.index_of(stream, 3)["metadata"]["lockstep_run"] == "one"


if __name__ == "__main__":
    interop.main(globals())
