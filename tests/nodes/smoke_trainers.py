"""Decides whether a fleet keeps to one trainer: restarted, newer, fenced; and what it sums up.

Cases of smoke.py.
"""
from __future__ import annotations

import pathlib
import time

import fleet
from cases import READY_S, basic, case, last_state, one_line, ready_at, stays_ready, tear_data, told
from fleet import address_of, is_ready, require, wait_until


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
        require([(r["reseeds"], r["sent_bytes"]) for r in status["receivers"]] == [(0, 0), (0, 0)], status)


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


@case
def an_audit_is_cut_short_by_a_newer_run(world):
    """The trainer's own at its end, and somebody's, while a stopped receiver would be waited for a minute: the
    one ends as fenced, without a summary that fails, the other says that there is nothing to compare with."""
    patient = {"sync.commit_timeout_ms": 60_000, "receiver.lease_ms": 60_000}
    other, port = world.other, fleet.free_port()
    with world.fleet(settings=patient) as f:
        older = f.trainer("--stream", str(other.stream), base=other.base, stream=False, receivers=2,
                          rounds=1, period_ms=1000, serve=False, name="older")
        at = address_of(older)
        receivers = [f.receiver(i, f"{at},127.0.0.1:{port}", checkpoint=other.base) for i in range(2)]
        for r in receivers:
            ready_at(r, other.count)
        receivers[1].stop()
        asked = f.start("audit", "observer", 0, ["audit", at])
        time.sleep(2)  # both have begun by then
        require(older.running() and asked.running(), lambda: f"{older.said()} {asked.said()}")
        f.trainer(receivers=1, base=other.base, stream=False, name="newer", listen=f"127.0.0.1:{port}")
        ended = f.ended(older, 10)
        one_line(ended, 2)
        require("a newer run of the trainer leads" in ended.errors[0], ended)
        require(not ended.find("summary"), ended)
        ended = f.ended(asked, 10)
        one_line(ended, 3)
        require("nothing to compare with" in ended.errors[0] and not ended.objects, ended)


@case
def a_summary_sums_up_failures(world):
    """A receiver whose bytes change and that is reseeded within the sync, one that is stopped, a time without any:
    what is in no sync's line is in the receivers' own."""
    out = world.place("out")

    def sync(what, result, condition):
        return trainer.wait_for(what, lambda o: o.get("kind") == "sync" and o["result"] == result and
                                condition(o["receivers"]), READY_S)

    with world.fleet(settings={"sync.stage_timeout_ms": 500, "sync.recovery_timeout_ms": 2000}) as f:
        trainer = f.trainer(receivers=2, rounds=1000, period_ms=50)
        at = address_of(trainer)
        first, second = f.receiver(0, at), f.receiver(1, at, out=out)
        sync("one with both", "ok", lambda rs: [r["status"] for r in rs] == ["ok", "ok"])
        tear_data(out / "model.safetensors")
        sync("one with a reseed", "recovered", lambda rs: [r["reseeds"] for r in rs] == [0, 1])
        second.stop()
        sync("one without the other", "degraded", lambda rs: rs[0]["status"] == "ok")
        for r in (first, second):
            r.kill()
        sync("one with nobody", "aborted", lambda rs: True)
        for r in [f.receiver(0, at), f.receiver(1, at, out=out)]:
            r.wait_for("ready", is_ready, READY_S)
        seen = told(trainer, "sync")[-1]["version"]
        sync("another", "ok", lambda rs: [r["status"] for r in rs] == ["ok", "ok"])
        wait_until("some more", lambda: told(trainer, "sync")[-1]["version"] > seen + 4, READY_S)
        require(trainer.terminate() == 0, trainer.said)
        syncs, summary = told(trainer, "sync"), trainer.find(kind="summary")
    done = [s for s in syncs if s["result"] != "aborted"]
    require(summary["syncs"] == len(done), summary)
    # Tries that fail alike are counted, and not said each time.
    require(summary["attempts"] > len(done) < len(syncs), summary)
    for key, lines in (("wire_bytes", done), ("full_bytes", done), ("sent_bytes", syncs),
                       ("catch_up_bytes", syncs), ("reseed_bytes", syncs)):
        require(summary[key] == sum(s[key] for s in lines), f"{key}: {summary}")
    for key in ("reseeds", "catch_ups"):
        within = [sum(r[key] for s in syncs for r in s["receivers"] if r["id"] == i) for i in range(2)]
        require(summary[key] == sum(within), f"{key}: {within} {summary}")
        require(all(r[key] >= n for r, n in zip(summary["receivers"], within)), f"{key}: {summary}")
    require(summary["reseeds"] > 0 < summary["reseed_bytes"], summary)
    require([r["restarts"] for r in summary["receivers"]] == [1, 1] and summary["audit"] == "pass", summary)


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
def the_summary_names_reseeds_between_syncs(world):
    """A receiver that came with other bytes was reseeded before the first sync: not in it, and said to be."""
    with world.fleet() as f:
        newest = pathlib.Path(world.versions.stream) / f"step-{world.last}"
        port = fleet.free_port()
        receiver = f.receiver(0, f"127.0.0.1:{port}", checkpoint=newest)
        receiver.wait_for("its state", lambda o: o.get("kind") == "state", READY_S)
        play = fleet.Process("trainer", [
            world.program, "trainer", "--base", world.versions.base, "--stream", world.versions.stream,
            "--listen", f"127.0.0.1:{port}", "--receivers", "1"], f.settings)
        f.processes.append(play)
        ended = f.ended(play, 20)
        require(ended.code == 0, ended)
        said = [line for line in ended.garbage if "on the wire" in line]
        require(len(said) == 1 and said[0].endswith("; 0 reseeds, 0 B; 1 more between syncs"),
                lambda: f"{ended.garbage}")
