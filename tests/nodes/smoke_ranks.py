"""Decides whether a trainer of several ranks is one: who fits, who leads, who is lost.

Cases of smoke.py.
"""
from __future__ import annotations

import pathlib
import socket
import time

import fleet
import model
from cases import (READY_S, case, is_refused, last_state, one_line, ready_at, stays_ready, stays_unready,
                   told)
from fleet import address_of, is_ready, require, wait_until


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
def who_waits_says_for_whom(world):
    """Rank 0 for its other ranks, and a trainer for its receivers: in the log, in the status, and if it is told to
    end before they are there."""
    port = fleet.free_port()
    with world.fleet(settings={"log.level": "warn"}) as f:
        alone = f.trainer("--ranks", "2", receivers=0, name="alone", listen=f"127.0.0.1:{port}")
        at = address_of(alone)

        def asked(command, *more):
            return f.ask(command, at, *more, settings={"log.level": "off"})

        status = asked("status")
        require(status.code == 0 and status.find("status")["reason"] == "unreachable", status)
        audit = asked("audit")
        one_line(audit, 3)
        require("waits for its other ranks" in audit.errors[0], audit)
        short = f.trainer(receivers=2, name="short")
        wait_until("both say whom they wait for", lambda: any("no word of rank 1" in e for e in alone.errors) and
                   any("waiting for receivers: 0 of 2 are here" in e for e in short.errors), 15)
        for trainer, whom in ((alone, "all ranks were"), (short, "the receivers were")):
            code = trainer.terminate()
            require(not trainer.find(kind="summary"), trainer.said)
            require(code == 3 and f"told to end before {whom} there" in trainer.errors[-1],
                    lambda: f"exit {code}: {list(trainer.errors)}")
            require(len(trainer.errors) == 2, lambda: f"one word each, not {list(trainer.errors)}")


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
def a_rank_that_is_done_stays_for_another_that_is_lost(world):
    """Rank 0 ends the run, for all to begin again: that is no word that nothing follows, and the fleet
    would wait in vain for who left with 0."""
    with world.fleet(settings=fleet.shared_key(world.place("key"))) as f:
        places = [f"127.0.0.1:{fleet.free_port()}" for _ in range(3)]

        def start(rank):
            follows = ["--rank", str(rank), "--coordinator", places[0]] if rank else []
            return f.trainer("--ranks", "3", *follows, listen=places[rank], rounds=1, rank=rank,
                             receivers=1, name=f"rank {rank}", serve=rank == 0)
        ranks = [start(rank) for rank in range(3)]
        receiver = f.receiver(0, ",".join(places))
        version = ready_at(receiver, world.last)["version"]
        wait_until("it serves", lambda: told(ranks[0], "summary"), 10)
        ranks[2].kill()
        for left in ranks[:2]:
            wait_until(f"{left.name} begins again", lambda: left.running() and any(
                "a rank was lost; starting again" in line for line in left.errors), 10)
        ranks[2] = start(2)
        receiver.wait_for("ready in a later run", lambda o: is_ready(o, world.last) and
                          fleet.run_of(o["version"]) > fleet.run_of(version), READY_S)
        wait_until("it serves", lambda: len(told(ranks[0], "summary")) == 2, 10)
        require(ranks[0].terminate() == 0, ranks[0].said)
        require([f.ended(r, 5).code for r in ranks[1:]] == [0, 0], [r.said() for r in ranks])


@case
def who_waits_for_a_lost_rank_yields_to_a_newer_run(world):
    """While it waits nobody tells it; once its rank is back it is fenced before it leads anybody."""
    with world.fleet(settings=fleet.shared_key(world.place("key"))) as f:
        places = [f"127.0.0.1:{fleet.free_port()}" for _ in range(3)]

        def start(rank):
            follows = ["--rank", "1", "--coordinator", places[0]] if rank else []
            return f.trainer("--ranks", "2", *follows, listen=places[rank], rounds=1, rank=rank,
                             receivers=1, name=f"rank {rank}")
        first, second = start(0), start(1)
        receiver = f.receiver(0, ",".join(places))
        before = fleet.run_of(ready_at(receiver, world.last)["version"])
        second.kill()
        wait_until("rank 0 waits", lambda: any("a rank was lost" in line for line in first.errors), 10)
        f.trainer(receivers=1, rounds=1, name="newer", listen=places[2])
        newer = receiver.wait_for("ready under the newer", lambda o: is_ready(o, world.last) and
                                  fleet.run_of(o["version"]) > before, READY_S)["version"]
        start(1)
        ended = f.ended(first, 20)
        require(ended.code == 2 and "a newer run of the trainer leads" in ended.errors[-1], ended)
        stays_ready(receiver, 1)
        require(last_state(receiver)["version"] == newer, receiver.said)


@case
def who_is_gone_holds_nobody_up_once_a_lost_rank_is_back(world):
    """The whole fleet is waited for once. After a rank was lost those that come back within two leases go
    on, and who comes later is taken in all the same."""
    with world.fleet(settings={"receiver.lease_ms": 1000}) as f:
        committed = []

        def note(_, line):
            if line.get("kind") == "sync" and line["result"] != "aborted":
                committed.append([r["id"] for r in line["receivers"] if r["status"] == "ok"])
        first = f.trainer("--ranks", "2", "--patience-ms", "60000", receivers=2, rounds=100_000,
                          period_ms=50, on_object=note)
        at, other = address_of(first), f"127.0.0.1:{fleet.free_port()}"

        def start():
            return f.trainer("--ranks", "2", "--rank", "1", "--coordinator", at, listen=other,
                             rounds=100_000, period_ms=50, name="rank-1", rank=1)

        def commits(ids, what, seconds=10):
            since = len(committed)
            wait_until(lambda: f"{what}: {committed[since:][-3:]} {first.said()}", lambda: sum(
                c == ids for c in committed[since:]) >= 5, seconds)
        second = start()
        receivers = [f.receiver(i, f"{at},{other}") for i in range(2)]
        commits([0, 1], "all sync", READY_S)
        receivers[1].kill()
        commits([0], "the other one goes on")
        second.kill()
        wait_until("rank 0 begins again", lambda: any("a rank was lost" in e for e in first.errors), 10)
        start()
        commits([0], "who came back goes on")
        require(any("fewer than 2 receivers have come back" in e for e in first.errors), first.said)
        f.receiver(1, f"{at},{other}")
        commits([0, 1], "who was gone is back")


@case
def a_second_process_of_one_rank_is_told_so_and_ends(world):
    """At once in its log, and with 5 once the first one has been heard for two leases: a process that
    only seems to live, as after its machine was lost, has its place taken. Neither log fills up."""
    quick = {"receiver.lease_ms": 1000, "receiver.ping_ms": 100, "log.level": "warn"}
    with world.fleet(settings=quick) as f:
        at = address_of(f.trainer("--ranks", "2", receivers=1, rounds=1, name="rank-0"))
        first, places = f.processes[0], [f"127.0.0.1:{fleet.free_port()}" for _ in range(2)]

        def start(place):
            return f.trainer("--ranks", "2", "--rank", "1", "--coordinator", at, listen=place,
                             rounds=1, name=f"rank-1 at {place}", rank=1)
        one = start(places[0])
        receiver = f.receiver(0, ",".join([at, *places]))
        before = ready_at(receiver, world.last)["version"]
        said = len(first.errors)
        ended = f.ended(start(places[1]), 20)
        require(ended.code == 5 and 2 <= ended.seconds < 8, ended)
        require("there is one already" in ended.errors[-1] and ended.errors[-1].startswith(
            "lockstep: rank 1: "), ended)
        require("refused by the coordinator for now" in ended.errors[0], ended)
        require(len(ended.errors) <= 4, lambda: f"it fills its log: {ended.errors}")
        lines = list(first.errors)[said:]
        require(len(lines) <= 10 and any("rank 1 is refused" in l for l in lines), lines)
        stays_ready(receiver, 0.5)
        require(last_state(receiver)["version"] == before, receiver.said)

        # One that is stopped says nothing, and its link lives on for a while.
        one.stop()
        two = start(places[1])
        receiver.wait_for("ready under the other one", lambda o: is_ready(o, world.last) and
                          fleet.run_of(o["version"]) > fleet.run_of(before), READY_S)
        one.go_on()
        ended = f.ended(one, 20)
        require(ended.code == 5 and "there is one already" in ended.errors[-1], ended)
        require(two.running() and first.running(), first.said)
        stays_ready(receiver, 0.5)


@case
def who_is_given_no_address_of_the_rank_that_leads_is_told_so(world):
    """It waits, and says for whom and what to do; so does the status that rank 0 gives."""
    with world.fleet(settings={"log.level": "warn"}) as f:
        first = f.trainer("--ranks", "2", receivers=1, rounds=1)
        at = address_of(first)
        other = address_of(f.trainer("--ranks", "2", "--rank", "1", "--coordinator", at, rank=1))
        stray = f.receiver(5, other)
        good = f.receiver(0, f"{at},{other}")
        ready_at(good, world.last)
        stays_unready(stray, 1)
        said = [line for line in stray.errors if "rank 1" in line]
        require(len(said) == 1 and all(w in said[0] for w in (
            "does not lead", "waits", "rank 0", "--connect")), list(stray.errors))
        require(not any("does not lead" in line for line in good.errors), list(good.errors))

        def seen():
            return {r["id"]: r for r in f.ask("status", at).find("status")["receivers"]}
        line = seen()[5]
        require(not line["ready"] and line["reason"] == "unreachable" and line["standing"] == "dead"
                and "rank 1" in line["detail"] and "rank 0" in line["detail"], line)
        stray.kill()
        wait_until("it is forgotten", lambda: sorted(seen()) == [0], 10)


@case
def who_has_more_rounds_than_rank_0_ends_with_it(world):
    """Rank 0 ends the run when it is done. Who had more to play says so and ends; it does not wait for a run
    that nobody begins."""
    with world.fleet() as f:
        at = address_of(f.trainer("--ranks", "2", receivers=1, rounds=1, serve=False, name="rank 0"))
        first = f.processes[0]
        second = f.trainer("--ranks", "2", "--rank", "1", "--coordinator", at, rounds=2, rank=1,
                           serve=False)
        f.receiver(0, f"{at},{address_of(second)}")
        require(f.ended(first, 20).code == 0, first.said)
        ended = f.ended(second, 5)
        require(ended.code == 0 and len(ended.errors) == 1, ended)
        require(f"before version {world.last + 1}" in ended.errors[0] and "--rounds" in ended.errors[0],
                ended)
