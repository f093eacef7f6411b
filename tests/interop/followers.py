#!/usr/bin/env python3
"""A fleet that is reached through a directory alone: publish --receiver, and pull --watch --name.

    tests/interop/followers.py PROGRAM SHIM [NAME…]
"""
import json
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import time

try:
    import interop
    import published as fmt
    from interop import holds, walk
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)

PATIENCE = 60


class Fleet:
    """Hosts that follow a stream, each a process; ended with this."""

    def __init__(self, folder, states, names):
        self.folder, self.stream, self.states, self.names = folder, folder / "stream", states, names
        self.running = {}
        self.secured = []
        for name in names:
            fmt.write_checkpoint(folder / name, states[0])
        for number, state in enumerate(states):
            fmt.write_checkpoint(folder / f"step-{number}", state)
        self.stream.mkdir()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for name in list(self.running):
            self.end(name, signal.SIGKILL)

    def start(self, *names, more=()):
        for name in names or self.names:
            self.running[name] = subprocess.Popen(
                [interop.PROGRAM, "pull", "--source", self.stream, "--checkpoint", self.folder / name, "--name", name,
                 "--watch", "--poll-ms", "20", *more], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def end(self, name, how):
        process = self.running.pop(name)
        process.send_signal(how)
        return process.wait(PATIENCE)

    def publish(self, *more, names=None):
        receivers = [word for name in names or self.names for word in ("--receiver", name)]
        return subprocess.Popen(
            [interop.PROGRAM, "publish", "--checkpoints", *[self.folder / f"step-{i}" for i in range(len(self.states))],
             "--out", self.stream, "--json", *receivers, *map(str, more)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def connected(self, publisher):
        """Options of hosts that say over connections what they would say in files."""
        where = json.loads(publisher.stdout.readline())
        assert where["kind"] == "listening", where
        return ["--connect", f"{where['host']}:{where['port']}", *self.secured]

    def syncs(self, process, status=0):
        out, said = process.communicate(timeout=PATIENCE)
        assert process.returncode == status, f"status {process.returncode}: {said}{out}"
        return [line for line in map(json.loads, out.splitlines()) if line["kind"] == "sync"]

    def all_hold(self, *names):
        for name in names or self.names:
            holds(self.folder / name, self.states[-1])


def wait_for(what):
    until = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < until, "it did not come to pass"
        time.sleep(0.01)


def test_each_version_waits_for_every_host(folder):
    with Fleet(folder, walk(4), ["a", "b", "c"]) as fleet:
        fleet.start("a", "b")
        publisher = fleet.publish()
        wait_for(lambda: (fleet.stream / "acks" / "b.json").exists())
        time.sleep(0.3)
        assert not (fleet.stream / "weight_v000002").exists(), "it did not wait for c"
        fleet.start("c")
        syncs = fleet.syncs(publisher)
        assert [(s["version"], s["result"]) for s in syncs] == [(v, "ok") for v in range(1, 5)]
        assert all([r["status"] for r in s["receivers"]] == ["ok"] * 3 for s in syncs)
        fleet.all_hold()
        for name in fleet.names:
            assert fleet.end(name, signal.SIGTERM) == 0


def test_hosts_that_are_killed_come_back(folder):
    dice = random.Random(5)
    with Fleet(folder, walk(12), ["a", "b", "c"]) as fleet:
        fleet.start()
        publisher = fleet.publish()
        while publisher.poll() is None:
            name = dice.choice(fleet.names)
            fleet.end(name, signal.SIGKILL)
            time.sleep(dice.uniform(0, 0.05))
            fleet.start(name)
            time.sleep(dice.uniform(0, 0.05))
        syncs = fleet.syncs(publisher)
        assert len(syncs) == 12 and {s["result"] for s in syncs} <= {"ok", "recovered"}
        fleet.all_hold()


def test_a_silent_host_is_named_and_costs_its_time_once(folder):
    with Fleet(folder, walk(3), ["a", "b"]) as fleet:
        fleet.start("a")
        began = time.monotonic()
        syncs = fleet.syncs(fleet.publish("--ack-ms", 2000, "--recovery-ms", 100), status=1)
        assert time.monotonic() - began < 10
        assert [s["result"] for s in syncs] == ["degraded", "ok", "ok"]
        assert [r["status"] for r in syncs[0]["receivers"]] == ["ok", "timeout"]
        assert all(s["absent"] == ["b"] for s in syncs)
        fleet.all_hold("a")
        fleet.start("b")
        wait_for(lambda: json.loads((fleet.stream / "acks" / "b.json").read_text())["version"] == "000003"
                 if (fleet.stream / "acks" / "b.json").exists() else False)
        fleet.all_hold()


def test_a_host_that_rotted_is_given_all_weights(folder):
    with Fleet(folder, walk(3), ["a", "b"]) as fleet:
        file = next((folder / "b").glob("*.safetensors"))
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)
        fleet.start()
        syncs = fleet.syncs(fleet.publish())
        assert [s["result"] for s in syncs] == ["recovered", "ok", "ok"]
        assert [(r["reason"], r["reseeds"]) for r in syncs[0]["receivers"]] == [("none", 0), ("wrong_base", 1)]
        assert [(s["label"], s["version"]) for s in syncs] == [(1, 1), (2, 3), (3, 4)]
        fleet.all_hold()
        # Anybody else's reader follows the same stream.
        state = fleet.states[0]
        for version, label in ((1, 1), (3, 2), (4, 3)):
            state = fmt.apply(fleet.stream, version, state)
            assert state == fleet.states[label]


def test_a_publisher_that_is_killed_is_succeeded(folder):
    for restart in range(2):
        place = folder / str(restart)
        place.mkdir()
        with Fleet(place, walk(4), ["a", "b"]) as fleet:
            if restart:
                fleet.start()
            publisher = fleet.publish()
            wait_for(lambda: (fleet.stream / "weight_v000001" / "model.safetensors.index.json").exists())
            publisher.kill()
            publisher.communicate(timeout=PATIENCE)
            if not restart:
                fleet.start()
            fleet.syncs(fleet.publish())
            fleet.all_hold()


def test_a_publisher_that_is_told_to_stop_says_so(folder):
    with Fleet(folder, walk(2), ["a"]) as fleet:
        publisher = fleet.publish()
        wait_for(lambda: (fleet.stream / "weight_v000001" / "model.safetensors.index.json").exists())
        time.sleep(0.1)
        publisher.terminate()
        syncs = fleet.syncs(publisher, status=3)
        assert [(s["result"], s["reason"]) for s in syncs] == [("aborted", "shut_down")]
        assert not (fleet.stream / "weight_v000002").exists()


def shared_key(folder):
    file = folder / "key"
    file.touch(0o600)
    file.write_text(secrets.token_hex(32) + "\n", encoding="ascii")
    return ["--set", f"transport.shared_key_file={file}"]


def test_hosts_that_are_connected_need_no_files(folder):
    """The directory of the stream is not theirs to write to."""
    for secured in (False, True):
        place = folder / str(secured)
        place.mkdir()
        with Fleet(place, walk(4), ["a", "b", "c"]) as fleet:
            fleet.secured = shared_key(place) if secured else []
            publisher = fleet.publish("--listen", "127.0.0.1:0", "--acks", place / "heard", *fleet.secured)
            fleet.start("a", "b", more=fleet.connected(publisher))
            wait_for(lambda: (place / "heard" / "b.json").exists())
            time.sleep(0.3)
            assert not (fleet.stream / "weight_v000002").exists(), "it did not wait for c"
            # Who is not connected says it in a file as ever.
            fleet.start("c", more=["--acks", place / "heard"])
            syncs = fleet.syncs(publisher)
            assert [(s["version"], s["result"]) for s in syncs] == [(v, "ok") for v in range(1, 5)]
            fleet.all_hold()
            assert not (fleet.stream / "acks").exists()


def test_what_a_connected_host_says_outlives_the_publisher(folder):
    with Fleet(folder, walk(4), ["a", "b"]) as fleet:
        publisher = fleet.publish("--listen", "127.0.0.1:0")
        there = fleet.connected(publisher)
        fleet.start("a", more=there)
        wait_for(lambda: (fleet.stream / "acks" / "a.json").exists())
        publisher.kill()
        publisher.communicate(timeout=PATIENCE)
        again = fleet.publish("--listen", there[1])
        assert fleet.connected(again) == there
        fleet.start("b", more=there)
        syncs = fleet.syncs(again)
        assert [s["result"] for s in syncs] == ["ok"] * 4
        fleet.all_hold()


def test_a_connected_host_says_why_it_is_not_there(folder):
    with Fleet(folder, walk(3), ["a", "b"]) as fleet:
        file = next((folder / "b").glob("*.safetensors"))
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)
        publisher = fleet.publish("--listen", "127.0.0.1:0")
        fleet.start(more=fleet.connected(publisher))
        syncs = fleet.syncs(publisher)
        assert [s["result"] for s in syncs] == ["recovered", "ok", "ok"]
        assert [r["reason"] for r in syncs[0]["receivers"]] == ["none", "wrong_base"]
        fleet.all_hold()


def test_who_is_not_heard_says_so(folder):
    with Fleet(folder, walk(2), ["a"]) as fleet:
        publisher = fleet.publish("--listen", "127.0.0.1:0")
        there = fleet.connected(publisher)
        wait_for(lambda: (fleet.stream / "weight_v000001" / "model.safetensors.index.json").exists())
        pull = ["pull", "--source", fleet.stream, "--checkpoint", fleet.folder / "a"]
        # A stranger is refused by name; it has the version all the same.
        interop.run(*pull, "--name", "z", *there, "--connect-ms", "500", status=3, says="no host 'z'")
        interop.run(*pull, "--name", "a", *there)
        assert json.loads((fleet.stream / "acks" / "a.json").read_text())["version"] == "000001"
        assert not (fleet.stream / "acks" / "z.json").exists()
        publisher.kill()
        publisher.communicate(timeout=PATIENCE)
        interop.run(*pull, "--name", "a", *there, "--connect-ms", "500", status=3, says=there[1])
        interop.run(*pull, "--connect", there[1], status=2, says="--name")
        interop.run(*pull, "--name", "a", "--connect", "nowhere", status=2, says="--connect")
        interop.run(*pull, "--name", "a", "--connect", "192.0.2.1:7171", status=2, says="192.0.2.1")
        interop.run(*pull, "--name", "a", "--acks", folder, *there, status=2, says="--acks")
        interop.run(*pull, "--name", "a", "--set", "log.level=off", status=2, says="--connect")


def test_who_holds_a_version_and_cannot_say_so_says_both(folder):
    with Fleet(folder, walk(1), ["a"]) as fleet:
        publisher = fleet.publish()
        wait_for(lambda: (fleet.stream / "weight_v000001" / "model.safetensors.index.json").exists())
        (folder / "acks").write_text("no directory")
        pull = ["pull", "--source", fleet.stream, "--checkpoint", fleet.folder / "a", "--name", "a"]
        for _ in range(2):
            said = interop.run(*pull, "--acks", folder / "acks", status=3,
                               says=["is at version 1, but that could not be said", str(folder / "acks")]).stderr
            assert said.count("could not be said") == 1 and "nor could" not in said, said
            fleet.all_hold()
        # What a full disk does is tried again, and costs no read of the checkpoint.
        full = {**os.environ, "LD_PRELOAD": str(interop.SHIM), "FAULT": "ENOSPC", "FAULT_UNDER": str(fleet.stream / "acks"),
                "FAULT_AT": "1", "FAULT_STAYS": "1"}
        ended = subprocess.run([interop.PROGRAM, *map(str, pull)], env=full, capture_output=True, text=True, timeout=60)
        assert ended.returncode == 4 and "is at version 1, but that could not be said" in ended.stderr, ended.stderr
        assert not (fleet.stream / "acks" / "a.json").exists()
        interop.run(*pull)
        assert [s["result"] for s in fleet.syncs(publisher)] == ["ok"]


def test_strangers_cost_a_publisher_nothing(folder):
    with Fleet(folder, walk(2), ["a"]) as fleet:
        publisher = fleet.publish("--listen", "127.0.0.1:0")
        there = fleet.connected(publisher)
        host, port = there[1].split(":")
        dice = random.Random(3)
        idle = [socket.create_connection((host, int(port))) for _ in range(80)]
        for _ in range(80):
            with socket.create_connection((host, int(port))) as stranger:
                try:
                    stranger.sendall(dice.randbytes(dice.randrange(5000)))
                except ConnectionError:
                    pass
        for connection in idle:
            connection.close()
        fleet.start(more=there)
        assert [s["result"] for s in fleet.syncs(publisher)] == ["ok"] * 2
        fleet.all_hold()


def test_names_that_are_none_are_refused(folder):
    fmt.write_checkpoint(folder / "base", walk(0)[0])
    for name in ("../x", "a/b", ".a", ""):
        interop.run("publish", "--checkpoints", folder / "base", folder / "base", "--out", folder / "stream",
                    "--receiver", name, status=2, says="name")
    interop.run("publish", "--checkpoints", folder / "base", folder / "base", "--out", folder / "stream",
                "--receiver", "a", "--receiver", "a", status=2, says="twice")


if __name__ == "__main__":
    interop.main(globals())
