#!/usr/bin/env python3
"""serve-pull, the route beside an engine.

    tests/interop/route.py PROGRAM SHIM [NAME…]
"""
import fcntl
import http.client
import http.server
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

try:
    import interop
    import published as fmt
    from followers import Fleet, wait_for
    from interop import Place, crash_at, holds, publish_series, run, walk
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)


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
    def __init__(self, *more, env=None, files_max=None):
        limit = (lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (files_max, files_max))) if files_max else None
        self.process = subprocess.Popen([interop.PROGRAM, "serve-pull", "--port", "0", *map(str, more)],
                                        env={**os.environ, **(env or {})}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                        text=True, preexec_fn=limit)
        self.port = int(self.process.stdout.readline().rsplit(":", 1)[1])

    def ask(self, method, path, body=None, source="127.0.0.1"):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60, source_address=(source, 0))
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
        engine.status = 500
        status, answer = route.ask("POST", "/pull_weights", {**wanted, "target_version": 3})
        assert status == 400 and "the engine did not load version 3" in answer["message"]
        assert route.ask("GET", "/readyz")[0] == 503
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
    place.publish(2, spoil=lambda name, payload: payload[:-1] + bytes([payload[-1] ^ 1]))
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
                "http://host:65536", "http://host:80x", "http://host:80/path", "http://host:80//", "http://user@host:80", "http://a b:80",
                "http://::1:80", "http://[::1:80", "http://[]:80"):
        run("serve-pull", "--port", 0, "--source", place.stream, "--checkpoint", place.host, "--engine", url, status=2,
            says=["is not http://HOST:PORT"])
    for url in ("http://localhost:30000", "http://[::1]:30000", "http://engine-0.pool:1", "http://engine:30000/"):
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


def test_the_route_outlives_who_reads_its_output(folder):
    place = Place(folder, walk(2))
    for version in (1, 2):
        place.publish(version)
    wanted = {"local_checkpoint_dir": str(place.host), "source_dir": str(place.stream)}
    with Route("--source", place.stream, "--checkpoint", place.host) as route:
        route.process.stdout.close()
        route.process.stderr.close()
        for version in (1, 2):
            assert route.ask("POST", "/pull_weights", {**wanted, "target_version": version})[0] == 200
        assert route.ask("POST", "/pull_weights", {**wanted, "target_version": 9})[0] == 400
        assert route.ask("GET", "/healthz")[0] == 200
        route.process.stdout = route.process.stderr = None
    holds(place.host, place.states[2])


def test_without_descriptors_the_route_waits_and_does_not_spin(folder):
    place = Place(folder, walk(1))

    def processor_seconds():
        with open(f"/proc/{route.process.pid}/stat") as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    with Route("--source", place.stream, "--checkpoint", place.host, files_max=24) as route:
        idle = [socket.create_connection(("127.0.0.1", route.port)) for _ in range(40)]
        before = processor_seconds()
        time.sleep(1.5)
        assert processor_seconds() - before < 0.3
        for connection in idle:
            connection.close()
        assert route.ask("GET", "/healthz")[0] == 200


def test_who_says_nothing_takes_no_place_from_others(folder):
    place = Place(folder, walk(1))
    with Route("--source", place.stream, "--checkpoint", place.host) as route:
        idle = []
        for _ in range(70):
            idle.append(socket.create_connection(("127.0.0.1", route.port)))
            try:
                idle[-1].sendall(b"GET /healthz HTTP/1.1\r\nX:")
            except ConnectionError:  # closed at once
                pass
        # Another address has places of its own, and the one that took all of its has them back soon.
        assert route.ask("GET", "/healthz", source="127.0.0.2")[0] == 200
        for connection in idle:
            connection.settimeout(20)
            try:
                assert connection.recv(1) == b""
            except ConnectionError:
                pass
        assert route.ask("GET", "/healthz")[0] == 200
        for connection in idle:
            connection.close()


def test_readiness_is_of_the_weights_not_of_what_was_asked(folder):
    place = Place(folder, walk(3))
    for version in (1, 2):
        place.publish(version)
    wanted = {"local_checkpoint_dir": str(place.host), "source_dir": str(place.stream)}

    def pulls(version):
        return route.ask("POST", "/pull_weights", {**wanted, "target_version": version})[0]

    with Route("--source", place.stream, "--checkpoint", place.host) as route:
        assert pulls(2) == 200
        for version in (1, 3, 9):  # an old request again; what is not there yet
            assert pulls(version) == 400
            assert route.ask("GET", "/readyz") == (200, {"ready": True, "version": 2, "message": ""})
        place.publish(3, spoil=lambda name, payload: payload[:-1] + bytes([payload[-1] ^ 1]))
        assert pulls(3) == 400 and route.ask("GET", "/readyz")[0] == 503
        for version in (1, 9):
            assert pulls(version) == 400 and route.ask("GET", "/readyz")[0] == 503
        assert pulls(2) == 200 and route.ask("GET", "/readyz")[0] == 200


def test_probes_may_add_a_query_or_ask_for_no_body(folder):
    place = Place(folder, walk(1))
    with Route("--source", place.stream, "--checkpoint", place.host) as route:
        connection = http.client.HTTPConnection("127.0.0.1", route.port, timeout=20)
        for path in ("/healthz", "/readyz", "/healthz?from=probe"):
            lengths = []
            for method in ("HEAD", "GET"):  # on one connection, where a body that is not asked for is in the way
                connection.request(method, path)
                reply = connection.getresponse()
                body = reply.read()
                assert reply.status == 200 and bool(body) == (method == "GET")
                lengths.append(reply.getheader("Content-Length"))
            assert lengths == [str(len(body))] * 2
        connection.close()
        assert route.ask("POST", "/healthz", "{}")[0] == 405
        assert route.ask("GET", "/healthzz")[0] == 404


def test_the_route_listens_on_a_name(folder):
    place, engine = Place(folder, walk(1)), Engine()
    place.publish(1)
    wanted = {"local_checkpoint_dir": str(place.host), "source_dir": str(place.stream), "target_version": 1}
    with Route("--host", "localhost", "--source", place.stream, "--checkpoint", place.host, "--engine", engine.url + "/") as route:
        connection = http.client.HTTPConnection("localhost", route.port, timeout=20)
        connection.request("POST", "/pull_weights", json.dumps(wanted))
        assert connection.getresponse().status == 200
        connection.close()
    assert [path for path, _ in engine.asked] == ["/update_weights_from_disk"]
    run("serve-pull", "--port", 0, "--host", "no.such.host.invalid", "--source", place.stream, "--checkpoint", place.host,
        status=2, says="no.such.host.invalid:0 cannot be listened on")


def test_the_route_is_not_ready_over_an_interrupted_change(folder):
    place = Place(folder, walk(2))
    place.publish(1)
    killed = subprocess.run([interop.PROGRAM, "pull", "--source", place.stream, "--checkpoint", place.host],
                            env={**os.environ, **crash_at("rename", "state.json")}, capture_output=True)
    assert killed.returncode != 0
    wanted = {"local_checkpoint_dir": str(place.host), "source_dir": str(place.stream), "target_version": 1}
    with Route("--source", place.stream, "--checkpoint", place.host) as route:
        status, answer = route.ask("GET", "/readyz")
        assert status == 503 and "interrupted" in answer["message"], (status, answer)
        assert route.ask("POST", "/pull_weights", wanted)[0] == 200
        assert route.ask("GET", "/readyz")[0] == 200
    shutil.rmtree(place.host / ".weight_sync")
    (place.host / ".weight_sync").mkdir()
    (place.host / ".weight_sync" / "intent.json").write_text('{"kind":')
    with Route("--source", place.stream, "--checkpoint", place.host) as route:
        assert route.ask("GET", "/readyz")[0] == 503


def asks(fleet, name, version):
    return {"local_checkpoint_dir": str(fleet.folder / name), "source_dir": str(fleet.stream), "target_version": version}


def published(fleet, version):
    wait_for(lambda: (fmt.version_dir(fleet.stream, version) / fmt.INDEX).exists())


def said_by(fleet, name):
    return json.loads((fleet.stream / "acks" / f"{name}.json").read_text())


def test_an_engine_behind_the_route_is_a_receiver_that_a_publisher_waits_for(folder):
    engine = Engine()
    with Fleet(folder, walk(3), ["a", "b"]) as fleet:
        fleet.start("b")
        with Route("--source", fleet.stream, "--checkpoint", folder / "a", "--engine", engine.url, "--name", "a") as route:
            publisher = fleet.publish()
            published(fleet, 1)
            engine.status = 500  # who has not loaded it does not hold it
            assert route.ask("POST", "/pull_weights", asks(fleet, "a", 1))[0] == 400
            said = said_by(fleet, "a")
            assert (said["version"], said["reason"]) == ("000001", "hook_failed") and "did not load" in said["detail"], said
            assert not fmt.version_dir(fleet.stream, 2).exists()
            engine.status = 200
            assert route.ask("POST", "/pull_weights", asks(fleet, "a", 1))[0] == 200
            assert said_by(fleet, "a")["reason"] == "none"
            published(fleet, 2)
            assert route.ask("POST", "/pull_weights", asks(fleet, "a", 2)) == (200, {"success": True, "message": "at version 2"})
            published(fleet, 3)
            heard = said_by(fleet, "a")
            for version in (1, 9):  # an old request, sent again; one that comes too early
                assert route.ask("POST", "/pull_weights", asks(fleet, "a", version))[0] == 400
                assert said_by(fleet, "a") == heard
            assert route.ask("POST", "/pull_weights", asks(fleet, "a", 3))[0] == 200
            syncs = fleet.syncs(publisher)
        # Whether the publisher saw the refusal before it was taken back is chance.
        assert syncs[0]["result"] in ("recovered", "ok") and [(s["version"], s["result"]) for s in syncs[1:]] == [(2, "ok"), (3, "ok")], syncs
        fleet.all_hold()


def test_what_the_route_could_not_say_it_says_when_somebody_listens(folder):
    for way in ("connection", "files"):
        place = folder / way
        place.mkdir()
        with Fleet(place, walk(2), ["a"]) as fleet:
            listen = ["--listen", "127.0.0.1:0"] if way == "connection" else ["--acks", place / "heard"]
            publisher = fleet.publish(*listen)
            to = fleet.connected(publisher) if way == "connection" else ["--acks", place / "heard"]
            published(fleet, 1)
            if way == "connection":
                publisher.kill()
                publisher.communicate(timeout=60)
            else:
                (place / "heard").write_text("no directory")
            with Route("--source", fleet.stream, "--checkpoint", place / "a", "--name", "a", *to) as route:
                status, answer = route.ask("POST", "/pull_weights", asks(fleet, "a", 1))
                assert status == 200 and answer["success"] and "at version 1; that could not be said yet: " in answer["message"], answer
                assert route.ask("GET", "/readyz")[0] == 200
                if way == "connection":
                    publisher = fleet.publish("--listen", to[1])
                    assert fleet.connected(publisher) == to
                else:
                    (place / "heard").unlink()
                published(fleet, 2)  # it says it by itself
                assert route.ask("POST", "/pull_weights", asks(fleet, "a", 2))[1]["message"] == "at version 2"
                syncs = fleet.syncs(publisher)
            assert [s["result"] for s in syncs] == ["ok"] * 2
            fleet.all_hold()


def test_a_name_is_of_one_checkpoint(folder):
    place = Place(folder, walk(1))
    serve = ["serve-pull", "--port", 0, "--source", place.stream, "--checkpoint", place.host]
    run(*serve, "--checkpoint", folder / "other", "--name", "a", status=2, says="--name")
    run(*serve, "--name", "../a", status=2, says="--name")
    run(*serve, "--acks", folder, status=2, says="--acks")
    run(*serve, "--name", "a", "--connect", "nowhere", status=2, says="--connect")


def ask_or_none(route, wanted):
    try:
        return route.ask("POST", "/pull_weights", wanted)
    except OSError:  # it has ended
        return None


if __name__ == "__main__":
    interop.main(globals())
