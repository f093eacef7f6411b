#!/usr/bin/env python3
"""inspect, verify, diff, fold, and the route beside an engine.

    tests/interop/tools.py PROGRAM SHIM [NAME…]
"""
import fcntl
import http.client
import http.server
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

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
        assert [(v["version"], v["delta_encoding"]) for v in versions] == [(1, name), (2, name)]
        run("inspect", stream / "weight_v000001")
    tensors = lines(run("inspect", folder / "xor" / "step-0", "--json"))
    assert {t["tensor"] for t in tensors[:-1]} == set(states[0])


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


class Engine:
    """What an engine answers to /update_weights_from_disk, and what it was asked."""

    def __init__(self):
        self.asked, self.status, self.answer = [], 200, {"success": True}
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                outer.asked.append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
                body = json.dumps(outer.answer).encode()
                self.send_response(outer.status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


class Route:
    def __init__(self, *more, env=None):
        self.process = subprocess.Popen([interop.PROGRAM, "serve-pull", "--port", "0", *map(str, more)],
                                        env={**os.environ, **(env or {})}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                        text=True)
        self.port = int(self.process.stdout.readline().rsplit(":", 1)[1])

    def ask(self, method, path, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request(method, path, body if isinstance(body, (str, bytes, type(None))) else json.dumps(body))
        reply = connection.getresponse()
        answer = json.loads(reply.read())
        connection.close()
        return reply.status, answer

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        try:
            assert self.process.wait(20) == 0
        finally:
            self.process.kill()
            self.process.communicate()


def test_the_route_pulls_and_has_the_engine_load(folder):
    place, engine = Place(folder, walk(3)), Engine()
    for version in (1, 2, 3):
        place.publish(version)
    wanted = {"local_checkpoint_dir": str(place.host), "source_dir": str(place.stream), "target_version": 2}
    with Route("--source", place.stream, "--checkpoint", place.host, "--engine", engine.url) as route:
        assert route.ask("GET", "/healthz")[0] == 200
        assert route.ask("GET", "/readyz") == (200, {"ready": True, "version": 0, "message": ""})
        status, answer = route.ask("POST", "/pull_weights", wanted)
        assert status == 200 and answer["success"] is True and answer["message"]
        holds(place.host, place.states[2])
        assert engine.asked == [("/update_weights_from_disk", {"model_path": str(place.host), "weight_version": "2"})]
        assert route.ask("GET", "/readyz")[1]["version"] == 2
        status, answer = route.ask("POST", "/pull_weights", {**wanted, "target_version": 9})
        assert status == 400 and answer["success"] is False and "weight_v000009" in answer["message"]
        assert route.ask("GET", "/readyz")[0] == 503
        engine.status = 500
        status, answer = route.ask("POST", "/pull_weights", {**wanted, "target_version": 3})
        assert status == 400 and "the engine did not load version 3" in answer["message"]
        engine.status = 200
        assert route.ask("POST", "/pull_weights", {**wanted, "target_version": 3})[0] == 200
        assert route.ask("GET", "/readyz")[0] == 200


def test_the_route_takes_one_pull_at_a_time(folder):
    place = Place(folder, walk(3))
    for version in (1, 2, 3):
        place.publish(version)
    wanted = {"local_checkpoint_dir": str(place.host), "source_dir": str(place.stream), "target_version": 3}
    with Route("--source", place.stream, "--checkpoint", place.host) as route:
        replies = []
        threads = [threading.Thread(target=lambda: replies.append(route.ask("POST", "/pull_weights", wanted)[0]))
                   for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert replies == [200] * 8
    holds(place.host, place.states[3])


def test_the_route_serves_no_other_directory_and_takes_no_nonsense(folder):
    place = Place(folder, walk(1))
    place.publish(1)
    wanted = {"local_checkpoint_dir": str(place.host), "source_dir": str(place.stream), "target_version": 1}
    with Route("--source", place.stream, "--checkpoint", place.host) as route:
        for key in ("local_checkpoint_dir", "source_dir"):
            status, answer = route.ask("POST", "/pull_weights", {**wanted, key: str(folder)})
            assert status == 400 and "is not one that is served" in answer["message"]
        for body in ("", "[]", "{", "[" * 60000, {}, {**wanted, "target_version": -1}, {**wanted, "target_version": "1"},
                     {**wanted, "target_version": 0}, {**wanted, "source_dir": 3}):
            assert route.ask("POST", "/pull_weights", body)[0] == 400
        assert route.ask("POST", "/pull_weights", "x" * (1 << 17))[0] == 413
        assert route.ask("GET", "/pull_weights")[0] == 405
        assert route.ask("GET", "/else")[0] == 404
        assert route.ask("POST", "/pull_weights", wanted)[0] == 200


def test_a_bad_request_says_nothing_of_readiness(folder):
    place = Place(folder, walk(2))
    place.publish(1)
    wanted = {"local_checkpoint_dir": str(place.host), "source_dir": str(place.stream), "target_version": 1}
    bad = ("", "[]", {}, {**wanted, "source_dir": str(folder)}, {**wanted, "target_version": 0})
    with Route("--source", place.stream, "--checkpoint", place.host) as route:
        for ready in (True, False):
            for body in bad:
                assert route.ask("POST", "/pull_weights", body)[0] == 400
                status, answer = route.ask("GET", "/readyz")
                assert (status, answer["ready"]) == ((200, True) if ready else (503, False))
            if ready:
                assert route.ask("POST", "/pull_weights", {**wanted, "target_version": 2})[0] == 400
        assert "weight_v000002" in answer["message"]
        assert route.ask("POST", "/pull_weights", wanted)[0] == 200
        assert route.ask("GET", "/readyz")[0] == 200


def test_a_shard_that_is_cut_short_under_way_is_refused_and_the_route_lives_on(folder):
    for scheme in ("xor", "overwrite", "coded"):
        here = folder / scheme
        here.mkdir()
        states = walk(2)
        stream = publish_series(here, states, "--scheme", scheme)
        host, shard = here / "host", stream / "weight_v000001" / "model-00000-of-00001.safetensors"
        fmt.write_checkpoint(host, states[0])
        whole = shard.read_bytes()
        wanted = {"local_checkpoint_dir": str(host), "source_dir": str(stream), "target_version": 1}
        # When the log of changes is opened the shard's header has been read, and none of its parts.
        cut = {"LD_PRELOAD": str(interop.SHIM), "CUT_FILE": str(shard), "CUT_WHEN": "redo.log.tmp"}
        with Route("--source", stream, "--checkpoint", host, env=cut) as route:
            status, answer = route.ask("POST", "/pull_weights", wanted)
            assert status == 400 and "ends at byte" in answer["message"], (status, answer)
            assert route.ask("GET", "/healthz")[0] == 200
            holds(host, states[0])
        shard.write_bytes(whole)
        with Route("--source", stream, "--checkpoint", host) as route:
            assert route.ask("POST", "/pull_weights", wanted)[0] == 200
        holds(host, states[1])


def test_an_engine_that_is_none_is_refused_at_the_start(folder):
    place = Place(folder, walk(1))
    for url in ("https://127.0.0.1:1", "127.0.0.1:30000", "http://127.0.0.1", "http://:80", "http://host:", "http://host:0",
                "http://host:65536", "http://host:80x", "http://host:80/path", "http://user@host:80", "http://a b:80",
                "http://::1:80", "http://[::1:80", "http://[]:80"):
        run("serve-pull", "--port", 0, "--source", place.stream, "--checkpoint", place.host, "--engine", url, status=2,
            says=["is not http://HOST:PORT"])
    for url in ("http://localhost:30000", "http://[::1]:30000", "http://engine-0.pool:1"):
        with Route("--source", place.stream, "--checkpoint", place.host, "--engine", url) as route:
            assert route.ask("GET", "/healthz")[0] == 200


def test_the_route_ends_promptly_while_a_pull_waits_for_the_lock(folder):
    place = Place(folder, walk(1))
    place.publish(1)
    (place.host / ".weight_sync").mkdir()
    wanted = {"local_checkpoint_dir": str(place.host), "source_dir": str(place.stream), "target_version": 1}
    with open(place.host / ".weight_sync" / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with Route("--source", place.stream, "--checkpoint", place.host) as route:
            replies = []
            asking = threading.Thread(target=lambda: replies.append(ask_or_none(route, wanted)))
            asking.start()
            while route.ask("GET", "/readyz")[0] == 200:
                time.sleep(0.01)
            started = time.monotonic()
            route.process.send_signal(signal.SIGTERM)
            assert route.process.wait(20) == 0 and time.monotonic() - started < 5
            asking.join(20)
    holds(place.host, place.states[0])


def ask_or_none(route, wanted):
    try:
        return route.ask("POST", "/pull_weights", wanted)
    except OSError:  # it has ended
        return None


if __name__ == "__main__":
    interop.main(globals())
