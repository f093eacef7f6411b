"""Decides what peers can do that are slow, repeat what others said, or speak another version.

Cases of smoke.py.
"""
from __future__ import annotations

import hashlib
import socket
import threading
import time

from cases import READY_S, case, stays_unready
from fleet import address_of, is_ready, require, wait_until
from road import Road
from smoke_port import certificates, roles

STRANGERS = 1000
# What the acceptor gives a peer to say who it is, and some more for a busy machine.
GREETING_S = 5 + 3


class Strangers:
    """Connections from many addresses, each of which says one byte a second. Use it as a context."""

    def __init__(self, port, byte):
        self._port, self._byte = port, byte
        self.lasted = []  # seconds, of those that were closed from there
        self.refused = 0
        self.all_there = threading.Event()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._pester)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._end.set()
        self._thread.join()

    def _pester(self):
        open_ = {}
        for i in range(STRANGERS):
            s = socket.socket()
            s.settimeout(1)
            try:
                s.bind((f"127.1.{i // 20}.2", 0))
                s.connect(("127.0.0.1", self._port))
                s.setblocking(False)
                open_[s] = time.monotonic()
            except OSError:
                self.refused += 1
                s.close()
        self.all_there.set()
        while not self._end.wait(1.0):
            for s, since in list(open_.items()):
                try:
                    s.send(self._byte)
                    over = s.recv(1) == b""
                except BlockingIOError:
                    over = False
                except OSError:
                    over = True
                if over:
                    self.lasted.append(time.monotonic() - since)
                    s.close()
                    del open_[s]
        for s in open_:
            s.close()


def slow_strangers(world, byte, growth, **more):
    with world.fleet(**more) as f:
        trainer = f.trainer(receivers=2, rounds=100_000, period_ms=20)
        at = address_of(trainer)
        receivers = [f.receiver(i, at, name=f"engine-{i}") for i in range(2)]
        for r in receivers:
            r.wait_for("ready", is_ready, READY_S)

        def syncs_in(seconds):
            before = trainer.count
            time.sleep(seconds)
            return trainer.count - before
        usual, rss = syncs_in(3), trainer.rss()
        trainer.rss_peak()  # since when it counts
        with Strangers(int(at.rpartition(":")[2]), byte) as strangers:
            require(strangers.all_there.wait(30), "the strangers do not come")
            require(strangers.refused < STRANGERS / 10, f"{strangers.refused} could not connect")
            beside = syncs_in(3)
            for _ in range(3):
                asked = f.ask("status", at)
                require(asked.code == 0, f"status beside strangers: {asked}")
            wait_until(lambda: f"all are closed but {STRANGERS - strangers.refused - len(strangers.lasted)}",
                       lambda: len(strangers.lasted) + strangers.refused == STRANGERS, 2 * GREETING_S)
        most = trainer.rss_peak()
        require(max(strangers.lasted) < GREETING_S, f"one was heard for {max(strangers.lasted):.1f} s")
        require(beside > usual / 2, f"{beside} syncs beside strangers, {usual} without")
        require(most - rss < growth, f"the trainer grew by {most - rss} bytes")
        bad = [o for o in trainer.objects if o.get("kind") == "sync" and o["result"] != "ok"]
        require(not bad, lambda: f"{len(bad)} syncs were not ok: {bad[0]}")


@case
def a_thousand_slow_strangers(world):
    """They are closed in time, and nothing of the fleet waits for them."""
    slow_strangers(world, b"L", 8 << 20)


@case
def a_thousand_slow_strangers_under_tls(world):
    """Each of the 64 that are heard at once costs what the library takes for a handshake: 80 KiB."""
    slow_strangers(world, b"\x16", 16 << 20, secured=roles(certificates(world, "engine-0", "engine-1")))


class Recorder:
    """What went down a road, by connection: the first of it."""

    _MOST = 4 << 20

    def __init__(self):
        self._said = {}  # (connection, outward) -> bytes
        self._lock = threading.Lock()

    def __call__(self, connection, outward, data):
        with self._lock:
            before = self._said.get((connection, outward), b"")
            if len(before) < self._MOST:
                self._said[connection, outward] = before + data
        return data

    def of(self, outward):
        with self._lock:
            return [data for (_, way), data in sorted(self._said.items()) if way == outward]


def say_again(port, conversations):
    """Each on a connection of its own, all at once; until the other end has had enough, or a second."""
    held = []
    require(conversations, "nothing was recorded")
    for data in conversations:
        try:
            s = socket.create_connection(("127.0.0.1", port), 2)
            s.settimeout(0.2)
            held.append(s)
            s.sendall(data)
        except OSError:  # closed in the midst of it
            pass
    time.sleep(1)
    for s in held:
        s.close()


def good_syncs(trainer):
    return sum(o.get("kind") == "sync" and o["result"] == "ok" for o in list(trainer.objects))


def standing_of(f, at):
    return [(r["id"], r["name"], r["member"], r["ready"], r["restarts"], r["reseeds"])
            for r in f.ask("status", at).find("status")["receivers"] if r["standing"] != "dead"]


@case
def what_a_receiver_said_is_no_use_to_who_says_it_again(world):
    """In clear, where nothing but fences keeps it out: to the trainer, while its life goes on and after."""
    with world.fleet() as f:
        recorder = Recorder()
        trainer = f.trainer(receivers=2, rounds=100_000, period_ms=50)
        at = address_of(trainer)
        with Road(at, recorder) as road:
            copied, other = f.receiver(0, road.address), f.receiver(1, at)
            for r in (copied, other):
                r.wait_for("ready", is_ready, READY_S)
            wait_until("some syncs", lambda: trainer.count > 20, 10)
            before = trainer.rss()
            for _ in range(5):
                say_again(int(at.rpartition(":")[2]), recorder.of(True))
            # Its own life is the newest, whatever was said in its name.
            wait_until("it is ready", lambda: is_ready(copied.find(kind="state") or {}), READY_S)
            copied.kill()
        wait_until(lambda: f"it is gone: {standing_of(f, at)}",
                   lambda: [s[0] for s in standing_of(f, at) if s[2]] == [1], 15)
        alone = standing_of(f, at)
        for _ in range(3):
            say_again(int(at.rpartition(":")[2]), recorder.of(True))
        members = [s for s in standing_of(f, at) if s[2]]
        require(members == [s for s in alone if s[2]], f"{members} after {alone}")
        good, last = good_syncs(trainer), trainer.find(kind="sync")["version"]
        wait_until("syncs go on", lambda: good_syncs(trainer) > good + 5, 10)
        holds = {r["id"]: r["label"] for r in f.ask("status", at).find("status")["receivers"] if r["ready"]}
        require(list(holds) == [1] and holds[1] > last, f"{holds} after {last}")
        require(trainer.rss() - before < 8 << 20, f"grew by {trainer.rss() - before} bytes")
        require(is_ready(other.find(kind="state") or {}), other.said)


@case
def what_a_trainer_said_moves_nobody_again(world):
    """To the same receiver, in its next life, over its own file: it is not ready, and writes nothing."""
    out = world.place("out")
    with world.fleet() as f:
        recorder = Recorder()
        trainer = f.trainer(receivers=1, rounds=2, period_ms=20)
        with Road(address_of(trainer), recorder) as road:
            receiver = f.receiver(0, road.address, out=out)
            receiver.wait_for("ready", is_ready, READY_S)
            trainer.wait_for("summary", lambda o: o.get("kind") == "summary", 30)
            require(receiver.terminate() == 0, receiver.said)
        trainer.kill()
        digest = hashlib.sha256((out / "model.safetensors").read_bytes()).digest()
        listener = socket.create_server(("127.0.0.1", 0))
        listener.settimeout(0.1)
        over = threading.Event()
        played = []

        def play():
            turn, held = 0, []
            words = recorder.of(False)
            while not over.is_set():
                try:
                    s, _ = listener.accept()
                except socket.timeout:
                    continue
                s.settimeout(0.5)
                held.append(s)
                try:
                    if s.recv(4096):  # its greeting
                        s.sendall(words[turn % len(words)])
                        played.append(turn)
                except OSError:
                    pass
                turn += 1
            for s in held:
                s.close()
        player = threading.Thread(target=play)
        player.start()
        try:
            again = f.receiver(0, f"127.0.0.1:{listener.getsockname()[1]}", out=out)
            stays_unready(again, 4)
        finally:
            over.set()
            player.join()
            listener.close()
        require(len(played) >= 4, f"it was told something {len(played)} times only")
        require(again.terminate() == 0, again.said)
        require(hashlib.sha256((out / "model.safetensors").read_bytes()).digest() == digest,
                "it has written what was said again")


def of_version(version, outward):
    """Greetings that go that way say this version: their fourth byte."""
    greeted = set()

    def through(connection, way, data):
        if way != outward or connection in greeted or len(data) < 4:
            return data
        greeted.add(connection)
        return data[:3] + bytes([version]) + data[4:]
    return through


@case
def another_version_is_named_and_waited_for(world):
    """Whichever side it is: the receiver says so, the others go on, and it comes once the versions are the same."""
    with world.fleet(settings={"log.level": "warn", "transport.retry_ms_max": 300}) as f:
        trainer = f.trainer(receivers=1, rounds=100_000, period_ms=50)
        at = address_of(trainer)
        other = f.receiver(0, at)
        other.wait_for("ready", is_ready, READY_S)
        for id, outward in ((1, True), (2, False)):
            with Road(at, of_version(9, outward)) as road:
                receiver = f.receiver(id, road.address)
                good = good_syncs(trainer)
                stays_unready(receiver, 1.5)
                require(good_syncs(trainer) > good + 10, "the others are not synced")
                said = [line for line in receiver.errors if "wrong_version" in line]
                require(said, lambda: f"no word of the version: {list(receiver.errors)}")
                if outward:
                    require(any("speaks version 9" in line for line in trainer.errors), trainer.said)
                road.through = None
                receiver.wait_for("ready", is_ready, READY_S)
                require(receiver.terminate() == 0, receiver.said)
