"""Decides whether receivers follow a trainer, come late or back, and are seen as they are.

Cases of smoke.py.
"""
from __future__ import annotations

import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import fleet
import model
from cases import (READY_S, SETTINGS, basic, case, cut, one_line, ready_at, remove, tear_data,
                   tear_header)
from fleet import address_of, is_ready, require, wait_until
from watch import Member, Watch


def status_of(f, at, id):
    return next(r for r in f.ask("status", at).find("status")["receivers"] if r["id"] == id)


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
    """kill -9, then again over the old file: adopted or reseeded, never wrong, and current again within the time of
    one reseed and two seconds."""
    out = world.place("out")
    with world.fleet() as f:
        at = address_of(f.trainer(receivers=1, rounds=1))
        first = f.receiver(0, at, out=out)
        ready_at(first, world.last)
        first.kill()
        remove(out / "model.safetensors")
        began = time.monotonic()
        again = f.receiver(0, at, out=out)
        ready_at(again, world.last)
        reseed = time.monotonic() - began
        require(reseed < 2, f"half a MiB took {reseed:.2f} s")
        for damage in (None, tear_data, tear_header, cut, remove):
            before = status_of(f, at, 0)
            again.kill()
            if damage:
                damage(out / "model.safetensors")
            again = f.receiver(0, at, out=out)
            ready_at(again, world.last, reseed + 2)
            world.holds(out, world.last)
            if not damage:
                now = status_of(f, at, 0)
                for what in ("sent_bytes", "reseeds"):  # the stand-in sends nothing
                    require(now.get(what) == before.get(what), f"sent what it held: {before} {now}")


@case
def rot_in_a_quiet_fleet_is_found(world):
    """Somebody else writes into what a receiver serves, and no sync comes: it finds out by itself."""
    out = world.place("out")
    with world.fleet(settings={"receiver.scrub_ms": 500, "log.level": "error"}) as f:
        at = address_of(f.trainer(receivers=2, rounds=1))
        struck, other = f.receiver(0, at, out=out), f.receiver(1, at)
        for r in (struck, other):
            ready_at(r, world.last)
        reseeds = status_of(f, at, 0)["reseeds"]
        tear_data(out / "model.safetensors")
        wait_until("it is given its weights anew", lambda: status_of(f, at, 0)["reseeds"] == reseeds + 1, READY_S)
        wait_until("it is ready", lambda: is_ready(struck.find(kind="state") or {}, world.last), READY_S)
        world.holds(out, world.last)
        require(any("no more those of" in line for line in struck.errors), list(struck.errors))
        require(any(o.get("reason") == "torn" for o in struck.objects), struck.said)
        require(status_of(f, at, 1)["restarts"] == 0, "who is sound is left alone")


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
