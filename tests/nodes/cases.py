"""Decides what a case of smoke.py is, and what the cases have in common: one model, settings, and what
is demanded of a receiver or of a process that ends.
"""
from __future__ import annotations

import os
import secrets
import time

import fleet
import model
from fleet import is_ready, require, wait_until

SETTINGS = {"receiver.lease_ms": 2000, "receiver.ping_ms": 200, "receiver.hello_ms": 200,
            "runtime.threads": 2, "log.level": "off"}
READY_S = 15
CASES = {}
BASIC = []  # those that the stand-in for the program can play too


def case(function):
    CASES[function.__name__] = function
    return function


def basic(function):
    BASIC.append(function.__name__)
    return case(function)


class World:
    """One model for all cases, a new scratch directory and fleet for each."""

    def __init__(self, program, scratch, certificates):
        self.program, self.scratch, self.certificates = program, scratch, certificates
        self.versions = model.synthetic(scratch / "model", 1, versions=4, mebibytes=0.5)
        self.other = model.synthetic(scratch / "other", 2, versions=1, mebibytes=0.25)
        self.last = self.versions.count

    def fleet(self, **more):
        settings = {**SETTINGS, **more.pop("settings", {})}
        return fleet.Fleet(self.program, self.versions.base, self.versions.stream, settings, **more)

    def place(self, name):
        place = self.scratch / f"{name}-{secrets.token_hex(4)}"
        place.mkdir()
        return place

    def holds(self, out, version, seconds=5):
        """The mapped file of a receiver that is ready holds that version."""
        file = out / "model.safetensors"
        wait_until(lambda: f"{file} holds version {version}, not {model.digest(file)}",
                   lambda: model.digest(file) == self.versions.digests[version], seconds)


def ready_at(receiver, label, seconds=READY_S):
    return receiver.wait_for(f"ready at {label}", lambda o: is_ready(o, label), seconds)


def last_state(receiver):
    return receiver.find(kind="state") or {}


def stays_unready(receiver, seconds):
    time.sleep(seconds)
    require(receiver.running(), lambda: f"{receiver.name} ended: {receiver.said()}")
    require(not any(is_ready(o) for o in receiver.objects),
            lambda: f"{receiver.name} became ready: {receiver.said()}")


def stays_ready(receiver, seconds):
    time.sleep(seconds)
    require(receiver.running() and last_state(receiver).get("ready"), receiver.said)


def told(process, kind):
    return [o for o in list(process.objects) if o.get("kind") == kind]


def one_line(ended, *codes):
    require(ended.code in codes, f"wanted exit {codes}: {ended}")
    require(len(ended.errors) == 1 and ended.errors[0].startswith("lockstep: "),
            f"wanted one line on standard error: {ended.errors}")


def is_refused(f, at, receiver, id, what):
    """It is told why, says so and ends; the trainer's status remembers it."""
    ended = f.ended(receiver)
    one_line(ended, 5)
    require(receiver.name in ended.errors[0] and what in ended.errors[0], ended)
    require(not any(is_ready(o) for o in ended.objects), ended)

    def remembered():
        known = f.ask("status", at).find("status")["receivers"]
        return any(r["id"] == id and (r["last_error"] or {}).get("reason") == "wrong_layout"
                   for r in known)
    wait_until("status says wrong_layout", remembered, 10)


# What may become of a file


def tear_data(file):
    with open(file, "r+b") as f:
        f.seek(-1000, os.SEEK_END)
        f.write(b"torn" * 100)


def tear_header(file):
    with open(file, "r+b") as f:
        f.write(b"\xff" * 200)


def cut(file):
    os.truncate(file, file.stat().st_size // 2)


def remove(file):
    file.unlink()
