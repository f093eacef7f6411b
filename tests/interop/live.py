#!/usr/bin/env python3
"""A trainer whose versions also go into a directory: trainer --publish, beside receivers that connect.

    tests/interop/live.py PROGRAM SHIM [NAME…]
"""
import json
import signal
import subprocess
import sys
import time

try:
    import interop
    import published as fmt
    from followers import PATIENCE, Fleet
    from interop import holds, walk
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)


class Training:
    """A trainer with one receiver that connects, and hosts that follow its stream."""

    def __init__(self, folder, states, names):
        self.folder, self.states = folder, states
        self.fleet = Fleet(folder, states, names)
        self.processes = []
        for number, state in enumerate(states[1:], 1):
            fmt.publish_full(folder / "source", number, state)

    def __enter__(self):
        self.fleet.__enter__()
        return self

    def __exit__(self, *failed):
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.wait()
        return self.fleet.__exit__(*failed)

    def begin(self, *more):
        """The trainer, and where its receiver finds it."""
        trainer = subprocess.Popen(
            [interop.PROGRAM, "trainer", "--base", self.folder / "step-0", "--stream", self.folder / "source", "--json",
             "--publish", self.fleet.stream, *map(str, more)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.processes.append(trainer)
        return trainer, json.loads(trainer.stdout.readline())["port"]

    def receive(self, port):
        receiver = subprocess.Popen(
            [interop.PROGRAM, "receiver", "--connect", f"127.0.0.1:{port}", "--checkpoint", self.folder / "step-0",
             "--out", self.folder / "near", "--id", "1"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.processes.append(receiver)
        return receiver

    def end(self, trainer, receiver, status=0):
        """The trainer's further lines, once it and its receiver are through."""
        out, said = trainer.communicate(timeout=PATIENCE)
        assert trainer.returncode == status, f"status {trainer.returncode}: {said}{out}"
        receiver.send_signal(signal.SIGTERM)
        assert receiver.wait(PATIENCE) == 0
        holds(self.folder / "near", self.states[-1])
        return list(map(json.loads, out.splitlines())), said

    def run(self, *more, status=0):
        trainer, port = self.begin(*more)
        return self.end(trainer, self.receive(port), status)


def of_kind(lines, kind):
    return [line for line in lines if line["kind"] == kind]


def test_near_and_far_hold_the_same(folder):
    for scheme in ("xor", "overwrite", "coded"):
        place = folder / scheme
        place.mkdir()
        training = Training(place, walk(4), ["far", "further"])
        with training:
            fleet = training.fleet
            fleet.start()
            lines, _ = training.run("--publish-scheme", scheme, "--follower", "far", "--follower", "further")
            published = of_kind(lines, "publication")
            assert [(p["label"], p["version"], p["result"]) for p in published] == [(v, v, "ok") for v in range(1, 5)]
            assert all([r["status"] for r in p["receivers"]] == ["ok", "ok"] for p in published)
            assert [s["result"] for s in of_kind(lines, "sync")] == ["ok"] * 4
            fleet.all_hold()


def test_followers_may_be_connected_too(folder):
    training = Training(folder, walk(3), ["far", "further"])
    with training:
        fleet = training.fleet
        trainer, port = training.begin("--follower", "far", "--follower", "further", "--follower-listen", "127.0.0.1:0")
        where = json.loads(trainer.stdout.readline())
        assert where["kind"] == "follower_listening", where
        fleet.start("far", more=["--connect", f"{where['host']}:{where['port']}"])
        fleet.start("further")
        lines, _ = training.end(trainer, training.receive(port))
        assert [p["result"] for p in of_kind(lines, "publication")] == ["ok"] * 3
        fleet.all_hold()


def test_hosts_that_nobody_waits_for_follow_too(folder):
    training = Training(folder, walk(3), ["far"])
    with training:
        fleet = training.fleet
        lines, _ = training.run()
        assert [p["receivers"] for p in of_kind(lines, "publication")] == [[]] * 3
        interop.pull(fleet.stream, folder / "far", 3)
        fleet.all_hold()
        # Anybody else's reader as well.
        state = fleet.states[0]
        for version in (1, 2, 3):
            state = fmt.apply(fleet.stream, version, state)
            assert state == fleet.states[version]


def test_a_host_that_is_silent_is_named_and_holds_up_nobody(folder):
    training = Training(folder, walk(3), ["far", "silent"])
    with training:
        fleet = training.fleet
        fleet.start("far")
        lines, _ = training.run("--follower", "far", "--follower", "silent", "--follower-ms", 400, status=1)
        assert [p["result"] for p in of_kind(lines, "publication")] == ["degraded", "ok", "ok"]
        assert all(p["absent"] == ["silent"] for p in of_kind(lines, "publication"))
        assert [s["result"] for s in of_kind(lines, "sync")] == ["ok"] * 3
        fleet.all_hold("far")


def test_a_training_that_begins_again_goes_on_in_the_stream(folder):
    training = Training(folder, walk(3), ["far"])
    with training:
        fleet = training.fleet
        fleet.start()
        training.run("--follower", "far")
        lines, _ = training.run("--follower", "far")
        # The base again, whole, and what follows from it.
        assert [(p["label"], p["version"], p["result"]) for p in of_kind(lines, "publication")] == \
            [(0, 4, "ok"), (1, 5, "ok"), (2, 6, "ok"), (3, 7, "ok")]
        fleet.all_hold()


def test_a_stream_that_cannot_be_written_ends_no_training(folder):
    training = Training(folder, walk(3), [])
    with training:
        fleet = training.fleet
        (fleet.stream / "weight_v000002").write_text("in the way")
        lines, said = training.run(status=1)
        assert [s["result"] for s in of_kind(lines, "sync")] == ["ok"] * 3
        assert [p["version"] for p in of_kind(lines, "publication")] == [1]
        assert "2 was not published" in said and "3 was not published" in said, said


def test_what_nobody_took_is_not_published(folder):
    training = Training(folder, walk(3), ["far"])
    with training:
        fleet = training.fleet
        fleet.start()
        trainer, port = training.begin("--follower", "far", "--period-ms", 500)
        receiver = training.receive(port)
        lines = []

        def read_until(kind, result):
            while not lines or (lines[-1]["kind"], lines[-1].get("result")) != (kind, result):
                lines.append(json.loads(trainer.stdout.readline()))

        read_until("sync", "ok")
        receiver.kill()
        receiver.wait()
        read_until("sync", "aborted")
        refused = lines[-1]["version"]
        time.sleep(2)  # It is tried again meanwhile, and told once a minute.
        there = sorted(int(p.name.removeprefix("weight_v")) for p in fleet.stream.glob("weight_v*"))
        assert there == list(range(1, refused)), f"{refused} was aborted, and there are {there}"
        more, _ = training.end(trainer, training.receive(port))
        lines += more
        (summary,) = of_kind(lines, "summary")
        assert summary["attempts"] > 3 + 2, summary
        assert [(p["label"], p["version"], p["result"]) for p in of_kind(lines, "publication")] == \
            [(v, v, "ok") for v in (1, 2, 3)]
        fleet.all_hold()


def test_what_does_not_go_together_is_refused(folder):
    fmt.write_checkpoint(folder / "base", walk(0)[0])
    begin = ("trainer", "--base", folder / "base")
    interop.run(*begin, "--follower", "a", status=2, says="--publish")
    interop.run(*begin, "--publish", folder / "stream", "--follower", "../a", status=2, says="name")
    interop.run(*begin, "--publish", folder / "stream", "--ranks", "2", status=2, says="part")
    assert not (folder / "stream").exists() or not any((folder / "stream").iterdir())


if __name__ == "__main__":
    interop.main(globals())
