"""Decides who may reach a process: what it listens on, strangers, keys, certificates.

Cases of smoke.py.
"""
from __future__ import annotations

import os
import re
import socket
import struct
import subprocess
import threading
import time

import fleet
from cases import READY_S, basic, case, one_line, ready_at, stays_unready
from fleet import address_of, is_ready, require, wait_until


@basic
def open_address_needs_security(world):
    with world.fleet() as f:
        one_line(f.ended(f.trainer(listen="0.0.0.0:0")), 2)


@case
def other_cluster_is_a_stranger(world):
    with world.fleet() as f:
        at = address_of(f.trainer(receivers=1, rounds=1))
        stranger = f.receiver(1, at, settings={"cluster.name": "other"})
        ready_at(f.receiver(0, at), world.last)
        stays_unready(stranger, 1.0)
        ids = [r["id"] for r in f.ask("status", at).find("status")["receivers"] if r["member"]]
        require(ids == [0], ids)


def listening_on(pid):
    """(address, port) of every socket that a process listens on; IPv6 in hexadecimal."""
    inodes = set()
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            link = os.readlink(f"/proc/{pid}/fd/{fd}")
        except OSError:
            continue
        if link.startswith("socket:["):
            inodes.add(link[8:-1])
    found = []
    for table in ("tcp", "tcp6"):
        with open(f"/proc/{pid}/net/{table}", encoding="ascii") as f:
            for line in f.readlines()[1:]:
                fields = line.split()
                if fields[3] == "0A" and fields[9] in inodes:
                    address, port = fields[1].split(":")
                    if table == "tcp":
                        address = socket.inet_ntoa(struct.pack("=I", int(address, 16)))
                    found.append((address, int(port, 16)))
    return found


@basic
def defaults_listen_on_loopback_alone(world):
    with world.fleet() as f:
        trainer = f.trainer(receivers=1, rounds=1)
        at = address_of(trainer)
        receiver = f.receiver(0, at)
        ready_at(receiver, world.last)
        sockets = listening_on(trainer.pid)
        require(int(at.rpartition(":")[2]) in [port for _, port in sockets], sockets)
        sockets += listening_on(receiver.pid)
        require(all(address.startswith("127.") for address, _ in sockets), sockets)


def pester(port, end):
    """What strangers send: noise, promises of 4 GiB and more, half a greeting, nothing at all."""
    noise = [os.urandom(4096), struct.pack("<I", 0xffffffff) * 8, struct.pack(">I", 0xffffffff) * 8,
             b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc\x03\x03", b"GET / HTTP/1.1\r\n\r\n",
             struct.pack("<Q", 1 << 63) * 4, b"\0" * 64, b"L", b""]
    held = []
    turn = 0
    while not end.is_set():
        try:
            s = socket.create_connection(("127.0.0.1", port), 1)
            s.settimeout(0.2)
            s.sendall(noise[turn % len(noise)])
            held.append(s)
        except OSError:
            pass
        turn += 1
        if len(held) > 100:
            held.pop(0).close()
        time.sleep(0.005)
    for s in held:
        s.close()
    return turn


@basic
def strangers_do_not_disturb(world):
    with world.fleet() as f:
        trainer = f.trainer(receivers=2, rounds=20, period_ms=20)
        at = address_of(trainer)
        receivers = [f.receiver(i, at) for i in range(2)]
        for r in receivers:
            r.wait_for("ready", is_ready, READY_S)
        before = trainer.rss()
        end = threading.Event()
        stranger = threading.Thread(target=pester, args=(int(at.rpartition(":")[2]), end))
        stranger.start()
        try:
            most = 0
            began = time.monotonic()
            while time.monotonic() - began < 3:
                most = max(most, trainer.rss())
                time.sleep(0.05)
            summary = trainer.wait_for("summary", lambda o: o.get("kind") == "summary", 30)
        finally:
            end.set()
            stranger.join(10)
        require(fleet.audited(summary, [0, 1]), summary)
        require(most - before < 64 << 20, f"grew from {before} to {most} bytes")
        bad = [o for o in trainer.objects if o.get("kind") == "sync" and o["result"] != "ok"]
        require(not bad, lambda: f"{len(bad)} syncs were not ok: {bad[0]}")
        wait_until("the port answers again", lambda: f.ask("status", at).code == 0, 15)


def own_address():
    """One of this machine's that is not loopback; None where there is none. Nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        try:
            s.connect(("192.0.2.1", 9))
        except OSError:
            return None
        host = s.getsockname()[0]
    return None if host.startswith("127.") else host


@case
def how_many_handshakes_may_fail_is_a_setting(world):
    """An address from which more fail is closed out; with 0 none is."""
    host = own_address()
    if host is None:
        return
    for most, wanted in ((5, 3), (0, 0)):
        with world.fleet(settings={"transport.failures_per_minute_max": most,
                                   "transport.insecure": True}) as f:
            at = address_of(f.trainer(receivers=0, rounds=1, listen="0.0.0.0:0"))
            at = f"{host}:{at.rpartition(':')[2]}"
            require(f.ask("status", at).code == 0, "status before")
            for _ in range(10):
                with socket.create_connection((host, int(at.rpartition(":")[2])), 5) as s:
                    s.sendall(b"GET / HTTP/1.1\r\n\r\n" * 4)
                    try:
                        while s.recv(4096):
                            pass
                    except ConnectionError:
                        pass
            ended = f.ask("status", at)
            require(ended.code == wanted, f"with {most}: {ended}")


@case
def shared_key_fleet(world):
    key = fleet.shared_key(world.place("key"))
    with world.fleet(settings=key) as f:
        trainer = f.trainer(receivers=1, rounds=1, listen="0.0.0.0:0")
        at = "127.0.0.1:" + address_of(trainer).rpartition(":")[2]
        strangers = [
            f.receiver(1, at, settings=fleet.shared_key(world.place("key")), name="other-key"),
            f.receiver(2, at, settings={"transport.shared_key_file": None}, name="no-key")]
        ready_at(f.receiver(0, at), world.last)
        for s in strangers:
            stays_unready(s, 0.5)
        require(f.ask("status", at).code == 0, "status with the key")
        require(f.ask("audit", at).code == 0, "audit with the key")
        for wrong in (fleet.shared_key(world.place("key")), {"transport.shared_key_file": None}):
            ended = f.ask("status", at, settings=wrong)
            require(ended.code in (2, 3) and not ended.objects, f"status without the key: {ended}")
            named = any("is the shared key the same" in line for line in ended.errors)
            require(named == (wrong["transport.shared_key_file"] is not None), ended.errors)


def certificates(world, *names):
    place = world.place("certificates")
    subprocess.run([world.certificates, place, *names], check=True, timeout=60,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return place


def certified(place, name):
    return {"transport.certificate_file": place / f"{name}.pem",
            "transport.key_file": place / f"{name}.key", "transport.authority_file": place / "ca.pem"}


def roles(place):
    def secured(role, id):
        return certified(place, f"receiver-engine-{id}" if role == "receiver" else role)
    return secured


@case
def certified_fleet(world):
    """TLS in both directions; who has another authority's certificate, or none, stays outside."""
    place = certificates(world, "engine-0", "engine-1")
    others = certificates(world, "engine-2")
    with world.fleet(secured=roles(place)) as f:
        trainer = f.trainer(receivers=1, rounds=1, listen="0.0.0.0:0")
        at = "127.0.0.1:" + address_of(trainer).rpartition(":")[2]
        none = {key: None for key in certified(place, "x")}
        strangers = [
            f.receiver(2, at, settings=certified(others, "receiver-engine-2"), name="engine-2"),
            f.receiver(3, at, settings=none, name="engine-3")]
        ready_at(f.receiver(0, at, name="engine-0"), world.last)
        for s in strangers:
            stays_unready(s, 0.5)
        require(f.ask("status", at).code == 0, "status with the observer's certificate")
        require(f.ask("audit", at).code == 0, "audit with the observer's certificate")
        ended = f.ask("status", at, settings=certified(others, "observer"))
        require(ended.code in (2, 3) and not ended.objects, f"another authority's observer: {ended}")


@case
def who_has_anothers_certificate_does_not_start(world):
    """A trainer with a receiver's, a receiver with the trainer's or another receiver's: nobody would
    believe them, so they say so themselves."""
    place = certificates(world, "engine-0", "engine-1")
    with world.fleet(secured=roles(place)) as f:
        at = address_of(f.trainer(receivers=1, rounds=1))
        ready_at(f.receiver(0, at, name="engine-0"), world.last)
        wrong = [f.trainer(receivers=1, rounds=1, settings=certified(place, "receiver-engine-1")),
                 f.receiver(1, at, name="engine-1", settings=certified(place, "trainer")),
                 f.receiver(1, at, name="engine-0", settings=certified(place, "receiver-engine-1"))]
        for process in wrong:
            ended = f.ended(process)
            one_line(ended, 2)
            require("certificate" in ended.errors[0] and ".pem" in ended.errors[0], ended)
        one_line(f.ask("status", at, settings=certified(place, "trainer")), 2)


@case
def strangers_fill_no_log(world):
    """Of each kind of refusal five lines come at once, then one a second; none is lost count of."""
    strangers = 400
    with world.fleet(settings={"log.level": "warn"}) as f:
        trainer = f.trainer(receivers=1, rounds=1)
        port = int(address_of(trainer).rpartition(":")[2])
        began = time.monotonic()
        for i in range(strangers):
            with socket.create_connection(("127.0.0.1", port), 5) as s:
                s.settimeout(5)
                s.sendall(b"GET / HTTP/1.1\r\n\r\n")
                try:
                    require(s.recv(1) == b"", "somebody talks to a stranger")
                except ConnectionResetError:
                    pass
            if i % 100 == 0:
                time.sleep(0.5)
        took = time.monotonic() - began
        require(trainer.terminate() == 3, trainer.said)  # nobody came
        lines = list(trainer.errors)
        refused = [line for line in lines if "was refused" in line]
        require(5 <= len(refused) <= 6 + took, lambda: f"{len(refused)} lines in {took:.1f} s")
        kept = sum(int(n) for line in lines for n in re.findall(r"(\d+) lines? like", line))
        require(len(refused) + kept == strangers, lambda: f"{len(refused)} and {kept}: {lines[-3:]}")
