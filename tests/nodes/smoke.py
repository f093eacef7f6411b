#!/usr/bin/env python3
"""Decides whether a fleet of real processes does what users expect of it, in one minute.

    smoke.py PROGRAM [CASE…] [--certificates SCRIPT]

Each case is a function of the same name. Exit 1 where one fails, 77 where nothing could be run.
"""
from __future__ import annotations

import argparse
import os
import pathlib
import secrets
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

import fleet
import model
from fleet import address_of, is_ready, require, wait_until
from road import Road
from watch import Member, Watch

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


# A fleet's life


@basic
def two_receivers_follow(world):
    """Two follow, the trainer's audit passes and the trainer ends by itself with 0."""
    out = world.place("out")
    with world.fleet() as f:
        trainer = f.trainer(receivers=2, rounds=2, period_ms=20, serve=False)
        at = address_of(trainer)
        a, b = f.receiver(0, at, out=out), f.receiver(1, at)
        summary = trainer.wait_for("summary", lambda o: o.get("kind") == "summary", 30)
        require(fleet.audited(summary, [0, 1]), summary)
        require(f.ended(trainer).code == 0, lambda: f"exit {trainer.returncode}: {trainer.said()}")
        syncs = [o for o in trainer.objects if o.get("kind") == "sync"]
        require([s["version"] for s in syncs] == world.versions.labels(2),
                [s["version"] for s in syncs])
        world.holds(out, world.last)
        require(a.terminate() == 0 and b.terminate() == 0, "SIGTERM ends a receiver with 0")


@basic
def one_joins_late(world):
    out = world.place("out")
    with world.fleet() as f:
        trainer = f.trainer(receivers=1, rounds=1)
        at = address_of(trainer)
        ready_at(f.receiver(0, at), world.last)
        ready_at(f.receiver(1, at, out=out), world.last)
        world.holds(out, world.last)


@basic
def status_and_audit(world):
    with world.fleet() as f:
        at = address_of(f.trainer(receivers=2, rounds=1))
        for id in (0, 7):
            f.receiver(id, at, name=f"engine-{id}")
        for process in f.processes[1:]:
            ready_at(process, world.last)

        def whole():
            ended = f.ask("status", at)
            require(ended.code == 0, ended)
            return len(ended.find("status")["receivers"]) == 2 and all(
                r["member"] and r["ready"] for r in ended.find("status")["receivers"]) and ended
        status = wait_until("status shows both ready", whole, 10).find("status")
        require(fleet.run_of(status["version"]) > 0, status)
        for r, id in zip(sorted(status["receivers"], key=lambda r: r["id"]), (0, 7)):
            wanted = {"id": id, "name": f"engine-{id}", "standing": "member", "phase": "serving",
                      "version": status["version"], "label": world.last, "lag": 0}
            require({k: r.get(k) for k in wanted} == wanted, r)
            for key in ("phase_ms", "reason", "detail", "reseeds", "restarts"):
                require(key in r, f"no {key} in {r}")
        audit = f.ask("audit", at)
        require(audit.code == 0 and audit.find("audit")["pass"], audit)
        require({r["id"]: r["pass"] for r in audit.find("audit")["receivers"]} == {0: True, 7: True},
                audit)


@case
def benchmarks_ask_as_status_does(world):
    """What measures the control path speaks the messages of today."""
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "bench"))
    import observer
    with world.fleet() as f:
        at = address_of(f.trainer(receivers=1, rounds=1))
        ready_at(f.receiver(3, at, name="engine-3"), world.last)
        with observer.Observer(at) as asked:
            # The receiver says so a moment before its trainer has heard of it.
            asked.until("it is a member at the last version",
                        lambda lines: 3 in lines and lines[3]["member"] and lines[3]["label"] == world.last, 10)
            line = asked.ask()[3]
        status = f.ask("status", at).find("status")["receivers"][0]
        for key in ("name", "standing", "phase", "label", "ready", "member", "reseeds"):
            require(line[key] == status[key], f"{key}: {line} {status}")


@case
def audit_names_what_differs(world):
    """Somebody writes into a ready receiver's file: the audit ends with 1 and names the tensor, and
    so does the harness' own observer."""
    out = world.place("out")
    with world.fleet() as f:
        at = address_of(f.trainer(receivers=1, rounds=1))
        watch = Watch(world.versions)
        member = Member(watch, 0, out)
        member.process = f.receiver(0, at, out=out, on_object=member.on_object)
        ready_at(member.process, world.last)
        require(f.ask("audit", at).code == 0, "the audit before")
        file = out / "model.safetensors"
        data = file.read_bytes()
        name = "layer.2.weight"
        at_byte = data.index(model.read_safetensors(file)[name][2])
        with open(file, "r+b") as mapped:
            mapped.seek(at_byte + 7)
            mapped.write(bytes([data[at_byte + 7] ^ 1]))
        audit = f.ask("audit", at)
        line = audit.find("audit")
        require(audit.code == 1 and line["pass"] is False and
                [name in r["why_not"] for r in line["receivers"]] == [True], audit)
        member.sample()
        require(len(watch.violations) == 1, watch.violations)


@basic
def killed_and_restarted_over_its_file(world):
    """kill -9, then again over the old file: adopted or reseeded, never wrong."""
    out = world.place("out")
    with world.fleet() as f:
        at = address_of(f.trainer(receivers=1, rounds=1))
        first = f.receiver(0, at, out=out)
        ready_at(first, world.last)
        first.kill()
        again = f.receiver(0, at, out=out)
        ready_at(again, world.last)
        world.holds(out, world.last)
        again.kill()
        for damage in (tear_data, tear_header, cut, remove):
            damage(out / "model.safetensors")
            again = f.receiver(0, at, out=out)
            ready_at(again, world.last)
            world.holds(out, world.last)
            again.kill()


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


@basic
def trainer_restarted(world):
    """kill -9 of the trainer; a new one on the same port, from the base: the fleet follows it."""
    out = world.place("out")
    with world.fleet() as f:
        first = f.trainer(receivers=2, rounds=1)
        at = address_of(first)
        receivers = [f.receiver(0, at, out=out), f.receiver(1, at)]
        before = [ready_at(r, world.last)["version"] for r in receivers]
        first.kill()
        f.trainer(receivers=2, rounds=1, listen=at)
        for r, version in zip(receivers, before):
            r.wait_for("ready in a later run", lambda o: is_ready(o, world.last) and
                       fleet.run_of(o["version"]) > fleet.run_of(version), READY_S)
        world.holds(out, world.last)


@case
def lease_ends_without_a_trainer(world):
    """Nobody goes on serving for ever when the trainer is gone, or only stopped."""
    with world.fleet() as f:
        trainer = f.trainer(receivers=1, rounds=1)
        receiver = f.receiver(0, address_of(trainer))
        ready_at(receiver, world.last)
        trainer.stop()
        wait_until("the lease ends", lambda: not last_state(receiver).get("ready"), 8)
        trainer.go_on()
        wait_until("ready again", lambda: last_state(receiver).get("ready"), READY_S)
        trainer.kill()
        wait_until("the lease ends", lambda: not last_state(receiver).get("ready"), 8)
        require(receiver.terminate() == 0, "SIGTERM ends it with 0 without a trainer too")


@case
def a_trainer_without_members_says_so_once(world):
    """It tries ten times a second, and neither its log nor its output says so each time."""
    with world.fleet() as f:
        ended = f.ended(f.trainer("--patience-ms", "1500", receivers=0, serve=False,
                                  settings={"log.level": "warn"}))
        require(ended.code == 3 and len(ended.errors) == 2, ended.errors)
        require("too_few_members" in ended.errors[0], ended.errors)
        require(len([o for o in ended.objects if o.get("kind") == "sync"]) == 1, ended.objects)


@case
def a_name_stays_on_its_line(world):
    """What stands in a name makes no line of its own, neither in a log nor in a table."""
    name = "one\nready, serving\x1b[2J"
    with world.fleet() as f:
        at = address_of(f.trainer(receivers=1, rounds=1))
        receiver = f.receiver(0, at, name=name, settings={"log.level": "info"})
        ready_at(receiver, world.last)
        said = list(receiver.errors)
        require(any("one\\x0aready, serving\\x1b[2J: linked" in line for line in said), said)
        require(all(line.startswith("[") for line in said), said)
        table = subprocess.run([world.program, "status", at], env=fleet.environment(SETTINGS),
                               stdout=subprocess.PIPE, timeout=20).stdout.decode()
        require("\x1b" not in table and len(table.splitlines()) == 3, table)


@case
def unchanged_weights_are_not_sent_again(world):
    """A trainer that restarts with what all hold adopts them by digest: no reseed."""
    with world.fleet() as f:
        first = f.trainer(receivers=2, stream=False)
        at = address_of(first)
        receivers = [f.receiver(i, at) for i in range(2)]
        for r in receivers:
            r.wait_for("ready", is_ready, READY_S)
        before = fleet.run_of(last_state(receivers[0])["version"])
        first.kill()
        f.trainer(receivers=2, stream=False, listen=at)
        for r in receivers:
            r.wait_for("ready in a later run", lambda o: is_ready(o) and
                       fleet.run_of(o["version"]) > before, READY_S)
        status = f.ask("status", at).find("status")
        require([r["reseeds"] for r in status["receivers"]] == [0, 0], status)


@case
def late_over_the_base(world):
    """Who comes late, over the checkpoint that the trainer began with, is sent what has changed since,
    and not all weights."""
    out = world.place("out")
    with world.fleet() as f:
        at = address_of(f.trainer(receivers=1, rounds=1))
        ready_at(f.receiver(0, at), world.last)
        late = f.receiver(1, at, out=out)
        ready_at(late, world.last)
        world.holds(out, world.last)
        rows = {r["id"]: r for r in f.ask("status", at).find("status")["receivers"]}
        require((rows[1]["catch_ups"], rows[1]["reseeds"]) == (1, 0), rows)
        size = os.path.getsize(os.path.join(world.versions.base, "model.safetensors"))
        require(rows[1]["sent_bytes"] < size / 2, rows)


@case
def status_remembers_what_failed_last_and_shows_rates(world):
    """Also once the receiver is a member again, with how long ago that was."""
    with world.fleet(settings={"sync.stage_timeout_ms": 500, "sync.recovery_timeout_ms": 500}) as f:
        trainer = f.trainer(receivers=2, rounds=1000, period_ms=50)
        at = address_of(trainer)
        receivers = [f.receiver(i, at) for i in range(2)]
        for r in receivers:
            r.wait_for("ready", is_ready, READY_S)

        def seen(id):
            return next(r for r in f.ask("status", at).find("status")["receivers"] if r["id"] == id)
        require(seen(1)["last_error"] is None, seen(1))
        receivers[1].stop()
        wait_until("it is out", lambda: not seen(1)["member"], READY_S)
        receivers[1].go_on()
        wait_until("it is a member again", lambda: seen(1)["member"] and seen(1)["ready"], READY_S)
        last = seen(1)["last_error"]
        require(last and last["reason"] == "timeout" and 0 < last["ago_ms"] < 60_000, last)
        require(seen(0)["last_error"] is None, seen(0))
        watch = subprocess.Popen([world.program, "status", at, "--watch", "--period-ms", "300"],
                                 env=fleet.environment(SETTINGS), stdout=subprocess.PIPE, text=True)
        try:
            lines = [watch.stdout.readline() for _ in range(8)]
        finally:
            watch.kill()
            watch.wait(10)
            watch.stdout.close()
        require("ready" in lines[7] and "ago timeout" in lines[7], lines)
        end = lines[1].index("a second") + len("a second")
        first, second = (line[end - 9:end].strip() for line in (lines[2], lines[6]))
        require(first == "-" and second.endswith("B") and second != "0 B", lines)


@case
def a_watch_outlives_the_trainer(world):
    """It says that nobody is reached, tries less and less often, shows the next trainer's fleet, and
    ends with 0 when it is told to: also while a trainer that says nothing is asked."""
    tries = {"transport.retry_ms": 50, "transport.retry_ms_max": 200,
             "transport.connect_timeout_ms": 60_000}
    with world.fleet() as f:
        port = fleet.free_port()
        at = f"127.0.0.1:{port}"
        watches = [f.start(f"watch-{i}", "observer", i, ["status", at, "--watch", "--period-ms", "50",
                                                         "--timeout-ms", "60000"], tries)
                   for i in range(2)]

        def shown_by_all(run):
            for w in watches:
                w.wait_for(f"status of run {run}", lambda o: o.get("kind") == "status" and
                           fleet.run_of(o["version"]) == run, READY_S)

        def missed_by_all(times):
            wait_until(lambda: f"missed {times} times: {watches[0].said()}", lambda: all(
                sum(o["kind"] == "unreached" for o in w.objects) >= times for w in watches), READY_S)
        missed_by_all(5)
        waits = [o["retry_ms"] for o in watches[0].objects]
        require(waits[:4] == [50, 100, 200, 200] and max(waits) == 200, waits)
        require(watches[0].objects[0]["reason"] == "unreachable" and
                at in watches[0].objects[0]["detail"], watches[0].said())
        for life in range(2):
            trainer = f.trainer(receivers=0, rounds=1, listen=at, name=f"trainer-{life}")
            receiver = f.receiver(life, at)
            shown_by_all(fleet.run_of(ready_at(receiver, world.last)["version"]))
            before = len(watches[0].objects)
            trainer.kill()
            receiver.kill()
            wait_until("the watch says that it is gone", lambda: any(
                o["kind"] == "unreached" for o in list(watches[0].objects)[before:]), READY_S)
        require(watches[0].terminate() == 0, lambda: f"SIGTERM: {watches[0].said()}")
        with socket.create_server(("127.0.0.1", port)):
            time.sleep(0.5)
            watches[1].signal(signal.SIGINT)
            ended = f.ended(watches[1], 10)
        require(ended.code == 0 and not ended.errors, ended)


@case
def receivers_take_parts(world):
    """Two take disjoint parts and one takes all: each holds its own, in fewer bytes, and is
    audited for it; a file of a part is taken up again."""
    places = [world.place(f"part-{i}") for i in range(3)]
    parts = [["--tensors", "layer.*"], ["--tensors", "[!l]*"], []]

    def took(i):
        whole = model.read_safetensors(
            pathlib.Path(world.versions.stream) / f"step-{world.last}" / "model.safetensors")
        held = model.read_safetensors(places[i] / "model.safetensors")
        mine = {n: t for n, t in whole.items()
                if i == 2 or n.startswith("layer.") == (i == 0)}
        return held == mine

    with world.fleet() as f:
        trainer = f.trainer(receivers=3, rounds=1)
        at = address_of(trainer)
        receivers = [f.receiver(i, at, *parts[i], out=places[i]) for i in range(3)]
        for i, r in enumerate(receivers):
            ready_at(r, world.last)
            wait_until(f"receiver {i} holds its part of the last version", lambda: took(i), 5)
        require(f.ask("audit", at).code == 0, "the audit of all three")
        rows = f.ask("status", at).find("status")["receivers"]
        sent = [r["sent_bytes"] for r in rows]
        require(sent[0] + sent[1] <= sent[2] * 1.01 and max(sent[:2]) < sent[2], sent)
        require([rows[i]["part_bytes"] for i in (0, 1)] != [0, 0] and
                rows[0]["part_bytes"] + rows[1]["part_bytes"] == rows[2]["part_bytes"], rows)
        require(rows[0]["tensors"] + rows[1]["tensors"] == rows[2]["tensors"], rows)
        receivers[0].kill()
        again = f.receiver(0, at, *parts[0], out=places[0])
        ready_at(again, world.last)
        require(took(0), "the part that was left in the file")
        rows = f.ask("status", at).find("status")["receivers"]
        require(rows[0]["reseeds"] == 0, rows)
        one_line(f.ended(f.receiver(7, at, "--tensors", "nothing.*")), 2)


@case
def ranks_and_engines_hold_rows(world):
    """Two ranks own every other half of all tensors' rows. One engine holds whole tensors, another
    the first rows of each, a third rows of one tensor beside all of another."""
    rows = ["--row-shards", "4"]
    takes = [[], ["--tensors", "*@0/4"], ["--tensors", "embed.weight@3/4", "--tensors", "layer.1.*"]]
    places = [world.place(f"rows-{i}") for i in range(3)]

    def of(whole, name, part):
        """Rows of one tensor: those of torch.chunk(tensor, 4)[part]."""
        dtype, shape, data = whole[name]
        most = -(-shape[0] // 4)
        width = len(data) // shape[0]
        first, last = part * most, min((part + 1) * most, shape[0])
        return (dtype, [last - first, *shape[1:]], data[first * width:last * width])

    def wanted(i):
        whole = model.read_safetensors(
            pathlib.Path(world.versions.stream) / f"step-{world.last}" / "model.safetensors")
        if i == 0:
            return whole
        if i == 1:
            split = [n for n, t in whole.items() if len(t[2]) and t[1] and t[1][0] > 1]
            return {f"{n}@0/4": of(whole, n, 0) for n in split}
        return {"embed.weight@3/4": of(whole, "embed.weight", 3),
                "layer.1.weight": whole["layer.1.weight"]}

    def holds(i):
        return model.read_safetensors(places[i] / "model.safetensors") == wanted(i)

    with world.fleet() as f:
        first = f.trainer("--ranks", "2", *rows, receivers=3, rounds=1)
        at = address_of(first)
        second = f.trainer("--ranks", "2", "--rank", "1", "--coordinator", at, *rows, rounds=1,
                           name="rank-1", rank=1)
        both = f"{at},{address_of(second)}"
        receivers = [f.receiver(i, both, *rows, *takes[i], out=places[i]) for i in range(3)]
        for i, r in enumerate(receivers):
            ready_at(r, world.last)
            wait_until(f"receiver {i} holds its rows of the last version", lambda: holds(i), 5)
        require(f.ask("audit", at).code == 0, "the audit of all three")
        receivers[1].kill()
        ready_at(f.receiver(1, both, *rows, *takes[1], out=places[1]), world.last)
        require(holds(1), "the rows that were left in the file")
        # Somebody who was not told of the split is refused, and said to be.
        is_refused(f, at, f.receiver(7, both), 7, "rows")
        one_line(f.ended(f.trainer("--ranks", "3", *rows, receivers=0)), 2)


@case
def a_rank_that_does_not_fit_is_refused_by_name(world):
    """Another model, other rows, another number of ranks: such a rank ends with the reason, and rank 0
    waits for one that fits."""
    with world.fleet() as f:
        first = f.trainer("--ranks", "2", receivers=1, rounds=1)
        at = address_of(first)
        other = {"base": world.other.base, "stream": False}
        wrong = [(1, ["--ranks", "2"], other, "model"),
                 (1, ["--ranks", "2", "--row-shards", "4"], {}, "rows"),
                 (1, ["--ranks", "3"], {}, "3 ranks"), (2, ["--ranks", "3"], {}, "3 ranks")]
        for number, more, which, what in wrong:
            odd = f.trainer(*more, "--rank", str(number), "--coordinator", at, rank=1, **which)
            ended = f.ended(odd, 20)
            one_line(ended, 5)
            require(f"rank {number}" in ended.errors[0] and what in ended.errors[0], ended)
            require(first.running(), lambda: f"rank 0 ended: {first.said()}")
        second = f.trainer("--ranks", "2", "--rank", "1", "--coordinator", at, rank=1)
        ready_at(f.receiver(0, f"{at},{address_of(second)}"), world.last)


@case
def the_rank_that_leads_is_asked(world):
    """Another one says whom to ask. That a receiver came before a rank did is no failure of its own,
    and forgotten once both are linked."""
    with world.fleet() as f:
        first = f.trainer("--ranks", "2", receivers=1, rounds=1)
        at, other = address_of(first), f"127.0.0.1:{fleet.free_port()}"
        receiver = f.receiver(0, f"{at},{other}")

        def seen():
            return f.ask("status", at).find("status")["receivers"]
        wait_until("rank 0 knows the receiver", seen, READY_S)
        f.trainer("--ranks", "2", "--rank", "1", "--coordinator", at, listen=other, rank=1)
        ready_at(receiver, world.last)
        require([r["last_error"] for r in seen()] == [None], seen())
        for question in ("status", "audit"):
            ended = f.ask(question, other)
            one_line(ended, 2)
            require("rank 0" in ended.errors[0] and at in ended.errors[0], ended)
            require(not ended.objects, ended)


@case
def an_audit_does_not_wait_for_who_is_gone(world):
    """Killed while they are asked, a receiver and a rank are named at once, not at the deadline."""
    patient = {"sync.commit_timeout_ms": 60_000, "receiver.lease_ms": 60_000}

    def audited_meanwhile(f, at, victim):
        victim.stop()
        asked = f.start("audit", "observer", 0, ["audit", at])
        time.sleep(2)  # it has asked by then
        victim.kill()
        audit = f.ended(asked, 20)
        require(audit.code == 1, audit)
        return {r["id"]: r["why_not"] for r in audit.find("audit")["receivers"]}
    with world.fleet(settings=patient) as f:
        # Rank 0 waits for a third receiver, and so goes on when the other rank is lost.
        at = address_of(f.trainer("--ranks", "2", receivers=3))
        second = f.trainer("--ranks", "2", "--rank", "1", "--coordinator", at, rank=1)
        receivers = [f.receiver(i, f"{at},{address_of(second)}") for i in range(2)]
        for r in receivers:
            ready_at(r, 0)
        why = audited_meanwhile(f, at, receivers[1])
        require(why[0] == "" and "it is gone" in why[1], why)
        why = audited_meanwhile(f, at, second)
        require("is gone" in why[0], why)  # the rank, or first the snapshot, which goes with it


@case
def a_lost_connection_is_no_receiver_given_up(world):
    """The log warns that it is gone and waited for; nothing is an error, for it comes back by itself."""
    with world.fleet(settings={"log.level": "warn"}) as f:
        trainer = f.trainer(receivers=1, rounds=1)
        at = address_of(trainer)
        receiver = f.receiver(0, at)
        ready_at(receiver, world.last)
        receiver.kill()
        wait_until(lambda: f"the log says that it is gone: {list(trainer.errors)}", lambda: any(
            "[warning] receiver 0 is gone" in line and "waited for" in line
            for line in list(trainer.errors)), READY_S)
        ready_at(f.receiver(0, at), world.last)
        require(not any("[error]" in line or "given up" in line for line in list(trainer.errors)),
                list(trainer.errors))


@case
def a_rank_of_another_cluster_is_refused(world):
    """It says so at once, with its own cluster's name, and rank 0 waits for one of its own."""
    with world.fleet() as f:
        first = f.trainer("--ranks", "2", receivers=1, rounds=1)
        at = address_of(first)
        ended = f.ended(f.trainer("--ranks", "2", "--rank", "1", "--coordinator", at, rank=1,
                                  settings={"cluster.name": "other"}), 20)
        one_line(ended, 5)
        require(at in ended.errors[0] and "another cluster, not to 'other'" in ended.errors[0], ended)
        second = f.trainer("--ranks", "2", "--rank", "1", "--coordinator", at, rank=1)
        ready_at(f.receiver(0, f"{at},{address_of(second)}"), world.last)


@case
def patience_is_kept(world):
    """Who waits for ranks or for an answer waits as long as it is told, and names whom it misses."""
    with world.fleet() as f:
        ended = f.ended(f.trainer("--ranks", "3", "--patience-ms", "500", receivers=0), 20)
        one_line(ended, 3)
        require("rank 1, 2" in ended.errors[0], ended)
        rank = f.trainer("--ranks", "2", "--rank", "1", "--patience-ms", "500", "--coordinator",
                         f"127.0.0.1:{fleet.free_port()}", rank=1)
        ended = f.ended(rank, 20)
        one_line(ended, 3)
        require("rank 0" in ended.errors[0], ended)
        with socket.create_server(("127.0.0.1", 0)) as silent:
            ended = f.ask("status", f"127.0.0.1:{silent.getsockname()[1]}", "--timeout-ms", "300",
                          settings={"transport.connect_timeout_ms": 60_000})
            one_line(ended, 3)


@case
def two_trainers_at_once(world):
    """A receiver with two addresses obeys the newer trainer and ignores the older for good."""
    with world.fleet() as f:
        older = f.trainer(receivers=1, rounds=1, name="older")
        port = fleet.free_port()
        a = address_of(older)
        receiver = f.receiver(0, f"{a},127.0.0.1:{port}")
        old_run = fleet.run_of(ready_at(receiver, world.last)["version"])
        f.trainer(receivers=1, rounds=1, name="newer", listen=f"127.0.0.1:{port}")
        receiver.wait_for("ready under the newer", lambda o: is_ready(o, world.last) and
                          fleet.run_of(o["version"]) > old_run, READY_S + 5)
        time.sleep(2.5)
        state = last_state(receiver)
        require(state["ready"] and fleet.run_of(state["version"]) > old_run, state)
        require(f.ask("audit", f"127.0.0.1:{port}").code == 0, "the newer trainer's audit")
        ended = f.ended(older, 5)  # though it had nothing more to do than to serve
        one_line(ended, 2)
        require("a newer run of the trainer leads" in ended.errors[0], ended)


@case
def a_waiting_trainer_yields_to_a_newer_run(world):
    """The older still waits for a receiver as the newer leads the one that is there: it ends, and
    begins no run of its own. It took the fleet back, for ever if the newer waited too."""
    with world.fleet() as f:
        older = f.trainer(receivers=2, name="older")
        port = fleet.free_port()
        at = address_of(older)
        receiver = f.receiver(0, f"{at},127.0.0.1:{port}")
        receiver.wait_for("ready under the older", is_ready, READY_S)
        newer = f.trainer(receivers=1, rounds=1, name="newer", listen=f"127.0.0.1:{port}")
        state = ready_at(receiver, world.last)
        ended = f.ended(older, 10)
        one_line(ended, 2)
        require("a newer run of the trainer leads" in ended.errors[0], ended)
        stays_ready(receiver, 1)
        require(newer.running(), lambda: f"the newer ended: {newer.said()}")
        require(last_state(receiver)["version"] == state["version"], receiver.said)


@case
def a_trainer_without_a_fleet_to_audit_says_why(world):
    """Fenced in the pause after its last sync, it holds no audit, which would fail: it ends as ever."""
    with world.fleet() as f:
        other, port = world.other, fleet.free_port()
        play = ("--stream", str(other.stream))
        how = {"base": other.base, "stream": False, "receivers": 1, "rounds": 1}
        older = f.trainer(*play, period_ms=3000, serve=False, name="older", **how)
        receiver = f.receiver(0, f"{address_of(older)},127.0.0.1:{port}", checkpoint=other.base)
        ready_at(receiver, other.count)
        f.trainer(*play, name="newer", listen=f"127.0.0.1:{port}", **how)
        ended = f.ended(older, 10)
        one_line(ended, 2)
        require("a newer run of the trainer leads" in ended.errors[0], ended)
        require(not ended.find("summary"), ended)


def told(process, kind):
    return [o for o in list(process.objects) if o.get("kind") == kind]


@case
def a_rank_is_lost_while_the_last_version_is_served(world):
    """All begin again, whichever it was; and a rank that rank 0 has told of the end ends with it."""
    with world.fleet(settings=fleet.shared_key(world.place("key"))) as f:
        at, other = (f"127.0.0.1:{fleet.free_port()}" for _ in range(2))

        def start(rank):
            if rank == 0:
                return f.trainer("--ranks", "2", listen=at, receivers=1, rounds=1, name="rank 0")
            return f.trainer("--ranks", "2", "--rank", "1", "--coordinator", at, listen=other,
                             rounds=1, name="rank 1", rank=1, serve=False)
        ranks = [start(0), start(1)]
        receiver = f.receiver(0, f"{at},{other}")
        version = ready_at(receiver, world.last)["version"]
        for lost, plays in ((1, 1), (0, 2)):
            wait_until("it serves", lambda: len(told(ranks[0], "summary")) == plays, 10)
            ranks[lost].kill()
            left = ranks[1 - lost]
            wait_until(f"{left.name} begins again", lambda: left.running() and any(
                "a rank was lost; starting again" in line for line in left.errors), 10)
            ranks[lost] = start(lost)
            version = receiver.wait_for("ready in a later run", lambda o: is_ready(
                o, world.last) and fleet.run_of(o["version"]) > fleet.run_of(version), READY_S)["version"]
        require(ranks[0].terminate() == 0, ranks[0].said)
        require(f.ended(ranks[1], 5).code == 0, ranks[1].said)


@case
def a_summary_sums_up_its_lines(world):
    """Told to end in the midst of its play too, and though somebody came between two syncs."""
    with world.fleet() as f:
        trainer = f.trainer(receivers=1, rounds=1000, period_ms=300)
        at = address_of(trainer)
        f.receiver(0, at)
        trainer.wait_for("a sync", lambda o: o.get("kind") == "sync", READY_S)
        f.receiver(1, at).wait_for("ready", is_ready, READY_S)
        trainer.wait_for("one with both", lambda o: o.get("kind") == "sync" and [
            r["status"] for r in o["receivers"]] == ["ok", "ok"], READY_S)
        require(trainer.terminate() == 0, trainer.said)
        syncs, summary = told(trainer, "sync"), trainer.find(kind="summary")
        for s in syncs:
            held = [(r["state"], r["version"]) for r in s["receivers"] if r["status"] == "ok"]
            require(held and set(held) == {("serving", s["version"])}, s)
        require(0.3 <= summary["seconds"] < 60, summary)
        require(summary["receivers"][1]["catch_ups"] == 1, summary)
        for key in ("wire_bytes", "sent_bytes", "catch_up_bytes", "reseed_bytes"):
            require(summary[key] == sum(s[key] for s in syncs), f"{key}: {summary}")
        for key in ("catch_ups", "reseeds"):
            require(summary[key] == sum(r[key] for s in syncs for r in s["receivers"]), f"{key}: {summary}")


@case
def a_stopped_receiver_costs_others_its_deadlines_and_no_more(world):
    """SIGSTOP: the socket stays open and nothing comes. One sync waits for the vote, and for the
    recovery or until the lease is over, once each; those after it go on at once."""
    stopped_receiver(world, recovery=500, lease=5000)
    stopped_receiver(world, recovery=60_000, lease=1500)


def stopped_receiver(world, recovery, lease):
    stage = 1000
    with world.fleet(settings={"sync.stage_timeout_ms": stage, "sync.recovery_timeout_ms": recovery,
                               "sync.commit_timeout_ms": 1000, "receiver.lease_ms": lease}) as f:
        trainer = f.trainer(receivers=2, rounds=1000, period_ms=20)
        at = address_of(trainer)
        receivers = [f.receiver(i, at) for i in range(2)]
        for r in receivers:
            r.wait_for("ready", is_ready, READY_S)
        wait_until("some syncs", lambda: trainer.count > 5, 10)
        receivers[1].stop()
        gap, syncs = longest_gap(trainer, 6)
        require(syncs > 50, f"{syncs} syncs while one receiver is stopped")
        # What the deadlines add up to, and that again for a busy machine.
        limit = 2 * (stage + min(recovery, lease) + 1000) / 1000
        require(gap < limit, f"a sync took {gap:.2f} s")
        receivers[1].go_on()
        wait_until("it is ready again", lambda: last_state(receivers[1]).get("ready"), READY_S)


@case
def a_slow_receiver_costs_others_the_deadline_and_no_more(world):
    """One of eight has a road on which a delta takes far longer than staging may."""
    second = 1000
    deadlines = ("stage", "attach", "full", "commit", "recovery")
    not_ok = []

    def look(_, line):
        if line.get("kind") == "sync" and line["result"] != "ok":
            not_ok.append(line)

    with world.fleet(settings={f"sync.{d}_timeout_ms": second for d in deadlines}) as f:
        trainer = f.trainer(receivers=8, rounds=10_000, period_ms=20, on_object=look)
        at = address_of(trainer)
        with Road(at) as road:
            receivers = [f.receiver(i, road.address if i == 7 else at) for i in range(8)]
            for r in receivers:
                r.wait_for("ready", is_ready, READY_S)
            wait_until("some syncs", lambda: trainer.count > 20, 10)
            before = trainer.rss()
            road.rate = 500  # bytes a second; a delta has 9,000
            gap, syncs = longest_gap(trainer, 8)
            grown = trainer.rss() - before
            require(syncs > 50, f"{syncs} syncs while one receiver is slow")
            # The vote and the recovery, once each, and that again for a busy machine.
            require(gap < 4, f"a sync took {gap:.2f} s")
            require(grown < 8 << 20, f"the trainer grew by {grown} bytes")
            require(not_ok, "no report names it")
            for line in not_ok:
                failed = [r["id"] for r in line["receivers"] if r["status"] != "ok"]
                require(failed == [7], f"{failed} failed in sync {line['version']}")
            road.rate = None
            wait_until("it is ready again", lambda: last_state(receivers[7]).get("ready"), READY_S)


def longest_gap(trainer, seconds):
    """Between what a trainer says, in seconds, and how often it spoke."""
    times, began, seen = [], time.monotonic(), trainer.count
    while time.monotonic() - began < seconds:
        if trainer.count > seen:
            seen = trainer.count
            times.append(time.monotonic())
        time.sleep(0.005)
    return max(b - a for a, b in zip([began] + times, times + [time.monotonic()])), len(times)


@case
def old_words_renew_no_lease(world):
    """What a receiver finds in its socket when it goes on does not make it ready."""
    with world.fleet() as f:
        trainer = f.trainer(receivers=4, rounds=1)
        at = address_of(trainer)
        receivers = [f.receiver(i, at) for i in range(4)]
        for r in receivers:
            ready_at(r, world.last)
        time.sleep(0.5)  # until nothing but pings is under way
        for r in receivers:
            r.stop()
        # Pings of a whole lease and longer wait in their sockets, and nobody speaks any more.
        time.sleep(SETTINGS["receiver.lease_ms"] / 1000 * 1.25)
        trainer.kill()
        counts = [r.count for r in receivers]
        for r in receivers:
            r.go_on()
        for r, count in zip(receivers, counts):
            wait_until(f"{r.name} is not ready", lambda: not last_state(r)["ready"], 1)
            said = list(r.objects)[count - r.count:]
            require(not any(is_ready(o) for o in said), lambda: f"{r.name}: {r.said()}")


def held_by(process):
    return (process.rss(), len(os.listdir(f"/proc/{process.pid}/fd")),
            len(os.listdir(f"/proc/{process.pid}/task")))


@case
def memory_stays_flat_over_1000_syncs(world):
    with world.fleet() as f:
        rounds = 1000 // (world.last + 1) + 1
        trainer = f.trainer(receivers=2, rounds=rounds)
        at = address_of(trainer)
        processes = [trainer, f.receiver(0, at), f.receiver(1, at)]

        def syncs():
            return (trainer.find(kind="sync") or {"version": 0})["version"]
        wait_until("200 syncs", lambda: syncs() >= 200, 60)
        before = [held_by(p) for p in processes]
        trainer.wait_for("summary", lambda o: o.get("kind") == "summary", 120)
        require(syncs() >= 1000, syncs())
        for p, (rss, files, threads), now in zip(processes, before, map(held_by, processes)):
            require(now[0] < rss + (16 << 20), f"{p.name} grew from {rss} to {now[0]} bytes")
            require(now[1:] == (files, threads),
                    f"{p.name} had {files} descriptors and {threads} threads, and now {now[1:]}")


# Bad input


@case
def output_that_cannot_be_written(world):
    place = world.place("out")
    (place / "file").write_text("")
    with world.fleet() as f:
        one_line(f.ended(f.receiver(0, "127.0.0.1:1", out=place / "file" / "below")), 2)
        small = place / "small"
        small.mkdir()
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", small],
                          stderr=subprocess.DEVNULL).returncode == 0:
            try:  # a full disk, where this may be tried
                one_line(f.ended(f.receiver(0, "127.0.0.1:1", out=small)), 4)
                (small / "rest").write_bytes(bytes(64 << 10))
            except OSError:  # no byte is left
                run = {"trainer.run_file": small / "run"}
                one_line(f.ended(f.trainer(receivers=0, settings=run)), 4)
            finally:
                subprocess.run(["umount", small], check=True)


@case
def a_file_that_is_cut_short_may_be_tried_again(world):
    """Its bytes are gone under whoever has it mapped, which ends with a status that is no bad input."""
    out = world.place("out")
    with world.fleet() as f:
        trainer = f.trainer(receivers=1, rounds=1)
        at = address_of(trainer)
        receiver = f.receiver(0, at, out=out)
        ready_at(receiver, world.last)
        trainer.kill()
        os.truncate(out / "model.safetensors", 0)
        f.trainer(receivers=1, rounds=1, listen=at)
        one_line(f.ended(receiver), 4)


@case
def an_output_is_one_receivers(world):
    """A second process over the same --out ends; whoever comes after the first goes on with it."""
    out = world.place("out")
    with world.fleet() as f:
        at = address_of(f.trainer(receivers=1, rounds=1))
        first = f.receiver(0, at, out=out)
        ready_at(first, world.last)
        one_line(f.ended(f.receiver(1, at, out=out)), 3)
        require(first.running(), lambda: f"the first ended: {first.said()}")
        first.kill()
        ready_at(f.receiver(1, at, out=out), world.last)
        world.holds(out, world.last)


@case
def an_output_that_is_taken_away_is_noticed(world):
    """Who reads the file by its name would see nothing more of what is written to the mapping."""
    out = world.place("out")
    with world.fleet() as f:
        at = address_of(f.trainer(receivers=1, rounds=1))
        r = f.receiver(0, at, out=out)
        ready_at(r, world.last)
        (out / "model.safetensors").unlink()
        one_line(f.ended(r), 4)
        ready_at(f.receiver(0, at, out=out), world.last)
        require((out / "model.safetensors").exists(), "not made anew")


@case
def an_output_is_not_the_checkpoint(world):
    place, linked = world.place("base"), world.place("linked")
    for file in pathlib.Path(world.versions.base).iterdir():
        shutil.copy(file, place / file.name)
    os.link(place / "model.safetensors", linked / "model.safetensors")
    before = (place / "model.safetensors").read_bytes()
    with world.fleet() as f:
        at = address_of(f.trainer(receivers=0, rounds=1))
        for out in (place, linked):
            one_line(f.ended(f.receiver(0, at, checkpoint=place, out=out)), 2)
        file = place / "model.safetensors"
        one_line(f.ended(f.receiver(0, at, checkpoint=file, out=linked)), 2)
    require((place / "model.safetensors").read_bytes() == before, "the checkpoint was written to")


@case
def an_output_of_another_model_is_left_alone(world):
    """A checkpoint of other tensors, or what is no checkpoint at all, is nobody's to overwrite; a
    receiver's own file is taken up where it is whole, and made anew where it is not."""
    foreign, garbage, own = (world.place(name) for name in ("foreign", "garbage", "own"))
    shutil.copy(pathlib.Path(world.other.base) / "model.safetensors", foreign)
    (garbage / "model.safetensors").write_bytes(secrets.token_bytes(100_000))
    with world.fleet(settings={"log.level": "info"}) as f:
        at = address_of(f.trainer(receivers=0, rounds=1))
        for out in (foreign, garbage):
            file = out / "model.safetensors"
            before = file.read_bytes()
            ended = f.ended(f.receiver(0, at, out=out))
            one_line(ended, 2)
            require(str(file) in ended.errors[0] and "is not overwritten" in ended.errors[0], ended)
            require(file.read_bytes() == before, f"{file} was written to")
        file = own / "model.safetensors"
        for damage, words in ((None, None), (None, "taken up: "), (tear_header, "made anew, because ")):
            if damage:
                damage(file)
            r = f.receiver(0, at, out=own)
            ready_at(r, world.last)
            r.terminate()
            said = [line for line in r.errors if "taken up" in line or "made anew" in line]
            require(len(said) == bool(words) and all(words + str(file) in line for line in said), said)


@case
def who_is_gone_is_dead_and_who_is_silent_not_ready(world):
    lease = 1000
    with world.fleet(settings={"receiver.lease_ms": lease, "receiver.ping_ms": 100}) as f:
        at = address_of(f.trainer(receivers=2, rounds=1))
        killed, stopped = (f.receiver(i, at) for i in range(2))
        for r in (killed, stopped):
            ready_at(r, world.last)

        def seen(id):
            return next(r for r in f.ask("status", at).find("status")["receivers"] if r["id"] == id)
        killed.kill()
        wait_until(lambda: f"it is dead: {seen(0)}", lambda: seen(0)["standing"] == "dead", 10)
        require(not seen(0)["ready"], seen(0))
        stopped.stop()
        wait_until(lambda: f"it is not ready: {seen(1)}", lambda: not seen(1)["ready"],
                   4 * lease / 1000)
        stopped.go_on()
        wait_until(lambda: f"it is ready again: {seen(1)}", lambda: seen(1)["ready"], READY_S)


@case
def other_checkpoint_is_refused(world):
    with world.fleet() as f:
        at = address_of(f.trainer(receivers=1, rounds=1))
        wrong = f.receiver(1, at, checkpoint=world.other.base, name="wrong")
        ready_at(f.receiver(0, at), world.last)
        is_refused(f, at, wrong, 1, "model")


@case
def an_id_is_one_receivers(world):
    """Who calls itself by another's id under another name is told so, and ends."""
    with world.fleet() as f:
        at = address_of(f.trainer(receivers=1, rounds=1))
        first = f.receiver(0, at, name="first")
        ready_at(first, world.last)
        ended = f.ended(f.receiver(0, at, name="second"))
        one_line(ended, 5)
        require("id 0" in ended.errors[0] and "'first'" in ended.errors[0], ended)
        stays_ready(first, 0.5)


@basic
def port_taken(world):
    with socket.create_server(("127.0.0.1", 0)) as taken, world.fleet() as f:
        port = taken.getsockname()[1]
        one_line(f.ended(f.trainer(listen=f"127.0.0.1:{port}")), 2, 3)


@case
def nobody_listens(world):
    with world.fleet() as f:
        port = fleet.free_port()
        for command in ("status", "audit"):
            one_line(f.ask(command, f"127.0.0.1:{port}"), 3)
        # A receiver waits for its trainer instead.
        receiver = f.receiver(0, f"127.0.0.1:{port}")
        stays_unready(receiver, 0.5)
        f.trainer(receivers=1, rounds=1, listen=f"127.0.0.1:{port}")
        ready_at(receiver, world.last)


@case
def bad_words(world):
    with world.fleet() as f:
        for arguments in (["trainer"], ["receiver", "--id", "0"], ["status"],
                          ["status", "nonsense"], ["status", "127.0.0.1:99999"],
                          ["trainer", "--base", world.scratch / "none"],
                          ["trainer", "--base", world.versions.base, "--listen", "127.0.0.1"],
                          ["trainer", "--base", world.versions.base, "--ranks", "2", "--coordinator",
                           "127.0.0.1:1"],
                          ["receiver", "--connect", "127.0.0.1:1", "--id", "0", "--checkpoint",
                           world.scratch / "none"]):
            process = f.start("bad", "observer", 0, [str(a) for a in arguments])
            ended = f.ended(process)
            require(ended.code == 2 and ended.errors, f"{arguments}: {ended}")


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


# The open port


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


# Security


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


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    root = pathlib.Path(__file__).resolve().parents[2]
    parser.add_argument("program")
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--certificates", type=pathlib.Path,
                        default=root / "scripts" / "make-certificates")
    options = parser.parse_args(arguments)
    unknown = [c for c in options.cases if c not in CASES]
    if unknown:
        parser.error(f"no such case: {', '.join(unknown)}")
    failed = []
    with tempfile.TemporaryDirectory(prefix="lockstep-smoke-") as scratch:
        world = World(options.program, pathlib.Path(scratch), options.certificates)
        for name in options.cases or CASES:
            began = time.monotonic()
            try:
                CASES[name](world)
                verdict = "ok"
            except (fleet.Late, fleet.Failed, subprocess.SubprocessError) as problem:
                failed.append(name)
                verdict = f"FAILED: {problem}"
            print(f"{time.monotonic() - began:6.2f} s  {name}: {verdict}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
