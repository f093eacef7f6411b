#!/usr/bin/env python3
"""Several ranks, each a process with some of the tensors, that publish one stream together.

    tests/interop/ranks.py PROGRAM SHIM [NAME…]
"""
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

try:
    import interop
    import published as fmt
    from followers import Fleet, wait_for
    from interop import holds, pull, step, walk
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)

PATIENCE = 60
STAGING = ".lockstep-ranks"


class Ranks:
    """So many ranks and their checkpoints; their processes end with this."""

    def __init__(self, folder, states, count=3):
        self.folder, self.stream, self.states, self.count = folder, folder / "stream", states, count
        self.running = set()
        for rank in range(count):
            for number, state in enumerate(states):
                fmt.write_checkpoint(self.checkpoint(rank, number), self.part(rank, state))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in list(self.running):
            process.kill()
            self.ended(process)

    def checkpoint(self, rank, number):
        return self.folder / f"rank-{rank}-of-{self.count}" / f"step-{number}"

    def part(self, rank, state):
        return {name: state[name] for name in sorted(state)[rank::self.count]}

    def command(self, rank, *more, ranks=None, last=None, patience=PATIENCE):
        dirs = [self.checkpoint(rank, n) for n in range((last or len(self.states) - 1) + 1)]
        return [interop.PROGRAM, "publish", "--checkpoints", *map(str, dirs), "--out", str(self.stream), "--json",
                "--rank", str(rank), "--ranks", str(ranks or self.count), "--rank-ms", str(int(patience * 1000)),
                *map(str, more)]

    def start(self, rank, *more, environment=None, **how):
        process = subprocess.Popen(self.command(rank, *more, **how), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   text=True, env={**os.environ, **(environment or {})})
        self.running.add(process)
        return process

    def ended(self, process, status=None, says=()):
        """Its lines of JSON, and its word on standard error."""
        out, said = process.communicate(timeout=2 * PATIENCE)
        self.running.discard(process)
        if status is not None:
            assert process.returncode == status, f"status {process.returncode}: {said}{out}"
            for part in (says,) if isinstance(says, str) else says:
                assert part in said, f"no {part!r} in: {said}"
            if status:
                assert said.startswith("lockstep: ") and said.count("\n") == 1, said
        return [json.loads(line) for line in out.splitlines()] if status == 0 else said

    def publish(self, *more, **how):
        """All of them, until all have ended well."""
        processes = [self.start(rank, *more, **how) for rank in range(self.count)]
        return [self.ended(process, 0) for process in processes]

    def is_whole(self, decodes=True, through=None):
        """Every version that is visible can be applied and gives what it should; all are there; nothing is left."""
        state = self.states[0]
        for version in range(1, (through or len(self.states) - 1) + 1):
            check_shards(self.stream, version)
            if decodes:
                state = fmt.apply(self.stream, version, state)
                assert data_of(state) == data_of(self.states[version]), f"version {version}"
        left = [f.name for f in self.stream.iterdir() if not f.name.startswith("weight_v")]
        assert not left and not list(self.stream.glob("**/*.tmp")), f"left behind: {left}"


def data_of(state):
    return {name: tensor[2] for name, tensor in state.items()}


def check_shards(stream, version):
    """Names and numbers are the format's, and there is what the index names and nothing else."""
    index, folder = fmt.index_of(stream, version), fmt.version_dir(stream, version)
    named = sorted(set(index["weight_map"].values()))
    assert named == [f"model-{i:05d}-of-{len(named):05d}.safetensors" for i in range(len(named))], named
    assert sorted(f.name for f in folder.glob("*.safetensors")) == named
    for shard in named:
        held = set(fmt.read_safetensors(folder / shard)[1])
        assert held == {n for n, s in index["weight_map"].items() if s == shard}


def visible(stream):
    return [int(d.name[8:]) for d in stream.glob("weight_v*") if (d / fmt.INDEX).exists()] if stream.exists() else []


def metadata(stream, version):
    return fmt.index_of(stream, version)["metadata"]


# They publish what one process would.

def test_ranks_publish_what_one_process_would(folder):
    for scheme, digest, more in (("xor", "xxh3-128", []), ("overwrite", "adler32", ["--full-every", 3]),
                                 ("coded", "xxh3-128", ["--full-every", 2])):
        here = folder / scheme
        here.mkdir()
        states = walk(4)
        how = ["--scheme", scheme, "--digest", digest, "--run", "one", *more]
        with Ranks(here, states) as ranks:
            told = ranks.publish(*how)
            ranks.is_whole(decodes=scheme != "coded")
            assert all([line["version"] for line in of_rank] == [1, 2, 3, 4] for of_rank in told)
            assert not any(line["there"] or line["gone"] for of_rank in told for line in of_rank)
            (here / "one").mkdir()
            alone = interop.publish_series(here / "one", states, *how)
            for version in range(1, 5):
                ours, theirs = metadata(ranks.stream, version), metadata(alone, version)
                assert len(ours.pop("lockstep_rank_digests").split(",")) == 3
                assert ours == theirs and list(ours) == list(theirs), f"{ours} and {theirs}"
                assert fmt.index_of(ranks.stream, version)["weight_map"].keys() == \
                    fmt.index_of(alone, version)["weight_map"].keys()
            host = here / "host"
            fmt.write_checkpoint(host, states[0])
            pull(ranks.stream, host)
            holds(host, states[4])


def test_a_version_that_changes_few_tensors_or_none_is_whole(folder):
    first, changed = walk(1, names={"b.bias"})
    with Ranks(folder, [first, changed, changed]) as ranks:
        ranks.publish()
        ranks.is_whole()
        assert len(fmt.index_of(ranks.stream, 1)["weight_map"]) == 1
        assert fmt.index_of(ranks.stream, 2)["weight_map"] == {}


def test_shards_of_each_rank_are_cut_by_size(folder):
    state = {f"t{n}": ("U8", [700_000], bytes([n]) * 700_000) for n in range(8)}
    with Ranks(folder, [state, step(state, 1), step(state, 2)], count=2) as ranks:
        ranks.publish("--shard-mb", 1, "--full-every", 2)
        ranks.is_whole()
        assert len(set(fmt.index_of(ranks.stream, 1)["weight_map"].values())) == 4


def test_old_versions_go_and_a_rank_that_was_away_passes_them(folder):
    with Ranks(folder, walk(7)) as ranks:
        ranks.publish("--full-every", 3, "--keep", 2)
        assert sorted(visible(ranks.stream)) == [6, 7]
        told = ranks.publish("--full-every", 3, "--keep", 2)
        for lines in told:
            assert [line["gone"] for line in lines] == [True] * 5 + [False] * 2
            assert [line["there"] for line in lines] == [False] * 5 + [True] * 2
        slow = folder / "slow"
        fmt.write_checkpoint(slow, ranks.states[3])
        fmt.set_marker(slow, 3)
        shutil.rmtree(ranks.stream)
        ranks.publish("--full-every", 3, "--keep", 2, "--reader", slow)
        assert min(visible(ranks.stream)) == 3


def test_ranks_without_tensors_publish_empty_parts(folder):
    for scheme, count in (("xor", 8), ("coded", 3)):
        with Ranks(folder / scheme, walk(4), count=count) as ranks:
            if count == 3:  # rank 0 has nothing, rank 1 the rest
                for number, state in enumerate(ranks.states):
                    fmt.write_checkpoint(ranks.checkpoint(1, number), {**ranks.part(0, state), **ranks.part(1, state)})
                    fmt.write_checkpoint(ranks.checkpoint(0, number), {})
            told = ranks.publish("--scheme", scheme, "--full-every", 3)
            assert all([line["version"] for line in of_rank] == [1, 2, 3, 4] for of_rank in told)
            ranks.is_whole(decodes=scheme == "xor")
            assert len(metadata(ranks.stream, 4)["lockstep_rank_digests"].split(",")) == count
            host = folder / f"host-{scheme}"
            fmt.write_checkpoint(host, ranks.states[0])
            pull(ranks.stream, host)
            holds(host, ranks.states[4])
            assert all(line["there"] for lines in ranks.publish("--full-every", 3) for line in lines)
            # The text for people has no share of nothing.
            shutil.rmtree(ranks.stream)
            plain = [subprocess.Popen([w for w in ranks.command(rank, "--scheme", scheme) if w != "--json"], stdout=subprocess.PIPE,
                                      stderr=subprocess.PIPE, text=True) for rank in range(count)]
            said = [process.communicate(timeout=PATIENCE) for process in plain]
            assert all(p.returncode == 0 for p in plain) and "nan" not in str(said) and "inf" not in str(said), said


def test_ranks_of_which_none_has_a_tensor_or_a_file_are_refused(folder):
    with Ranks(folder, walk(1), count=2) as ranks:
        for rank in range(2):
            for number in range(2):
                fmt.write_checkpoint(ranks.checkpoint(rank, number), {})
        for process in [ranks.start(rank) for rank in range(2)]:
            ranks.ended(process, 2, ["weight_v000001", "no rank has a tensor"])
        assert visible(ranks.stream) == []
        (ranks.checkpoint(1, 1) / "model.safetensors").unlink()
        ranks.ended(ranks.start(1, patience=0.1), 2, ["rank-1-of-2/step-1", "holds no file"])


# Who is not there.

def test_a_rank_that_never_comes_is_named_and_nothing_is_published(folder):
    with Ranks(folder, walk(2)) as ranks:
        processes = [ranks.start(rank, patience=1) for rank in (0, 2)]
        said = ranks.ended(processes[0], 3, ["weight_v000001", "rank 1 ", "1000 ms"])
        assert "rank 2" not in said and "ranks" not in said, said
        ranks.ended(processes[1], 3, "is not published by rank 0")
        assert visible(ranks.stream) == []
        assert not (ranks.stream / STAGING).exists()
        ranks.publish()
        ranks.is_whole()
        # Nor when the stream has begun.
        more = Ranks(folder, [*ranks.states, step(ranks.states[2], 5)])
        ranks.ended(more.start(0, patience=0.5), 3, ["weight_v000003", "ranks 1, 2 "])
        assert sorted(visible(ranks.stream)) == [1, 2]


def test_without_rank_0_the_others_end(folder):
    with Ranks(folder, walk(1)) as ranks:
        for process in [ranks.start(rank, patience=0.5) for rank in (1, 2)]:
            ranks.ended(process, 3, ["weight_v000001", "is not published by rank 0 within 500 ms"])
        assert not ranks.stream.exists()


def test_ranks_that_disagree_are_refused_by_name(folder):
    with Ranks(folder, walk(1)) as ranks:
        processes = [ranks.start(0, "--run", "one", patience=4), ranks.start(1, ranks=4, patience=1),
                     ranks.start(2, "--run", "other", patience=1)]
        ranks.ended(processes[1], 2, "rank 0 has 3 ranks, rank 1 has 4")
        ranks.ended(processes[2], 2, ["weight_v000001", "rank 0 publishes the run 'one', rank 2 'other'"])
        ranks.ended(processes[0], 3, "ranks 1, 2 ")
        assert visible(ranks.stream) == []
    interop.run("publish", "--checkpoints", folder, "--out", folder / "x", "--ranks", 2, "--rank", 2, status=2,
                says="--rank 2: of 2 --ranks")


def test_two_processes_of_one_rank_do_no_harm(folder):
    with Ranks(folder, walk(6)) as ranks:
        ranks.ended(ranks.start(1, patience=0.1), 3)
        processes = [ranks.start(rank) for rank in (1, 1, 1, 2, 2, 0)]
        for process in processes:
            ranks.ended(process, 0)
        ranks.is_whole()
    with Ranks(folder / "zero", walk(1)) as ranks:
        first = ranks.start(0)
        until = time.monotonic() + PATIENCE
        while not (ranks.stream / STAGING).exists():
            assert time.monotonic() < until
            time.sleep(0.01)
        ranks.ended(ranks.start(0), 2, "another process publishes there")
        first.kill()
        ranks.ended(first)
    # With other weights one of the two is told.
    with Ranks(folder / "other", walk(1)) as ranks:
        other = Ranks(folder / "other" / "more", [ranks.states[0], step(ranks.states[1], 9)])
        other.stream = ranks.stream
        mine, theirs = ranks.start(1), other.start(1)
        for rank in (0, 2):
            ranks.start(rank)
        for process in list(ranks.running - {mine}):
            ranks.ended(process, 0)
        codes = sorted((mine.wait(PATIENCE), theirs.wait(PATIENCE)))
        assert codes == [0, 2], codes
        said = ranks.ended(mine) + other.ended(theirs)
        assert "not with these weights of rank 1" in said, said


# What does not fit together.

def tie(ranks, rank, name, state, number):
    """That rank has the tensor as well, as it is in `state`."""
    part = ranks.part(rank, ranks.states[number])
    part[name] = state[name]
    fmt.write_checkpoint(ranks.checkpoint(rank, number), part)


def test_a_tensor_that_ranks_have_alike_is_published_once(folder):
    for scheme, every in (("xor", 0), ("coded", 0), ("xor", 2)):
        with Ranks(folder / f"{scheme}-{every}", walk(2)) as ranks:
            for number, state in enumerate(ranks.states):
                tie(ranks, 2, "a.weight", state, number)
            ranks.publish("--scheme", scheme, *(["--full-every", every] if every else []))
            ranks.is_whole(decodes=scheme == "xor")
            host = folder / f"host-{scheme}-{every}"
            fmt.write_checkpoint(host, ranks.states[0])
            pull(ranks.stream, host)
            holds(host, ranks.states[2])
            assert all(line["there"] for lines in ranks.publish() for line in lines)


def test_a_tensor_that_two_ranks_have_otherwise_is_refused_by_name_at_all_of_them(folder):
    with Ranks(folder, walk(1)) as ranks:
        for number, state in enumerate((ranks.states[0], step(ranks.states[1], 7, names=["a.weight"]))):
            tie(ranks, 2, "a.weight", state, number)
        processes = [ranks.start(rank) for rank in range(3)]
        for process in processes:
            ranks.ended(process, 2, ["weight_v000001", "tensor 'a.weight' is rank 0's and rank 2's"])
        assert visible(ranks.stream) == []
        assert not (ranks.stream / STAGING).exists()
        # Mended, and one rank late: what was said of the attempt before is of the past.
        tie(ranks, 2, "a.weight", ranks.states[1], 1)
        ranks.publish()
        ranks.is_whole()


def test_other_weights_than_the_streams_are_refused_by_rank(folder):
    with Ranks(folder, walk(3)) as ranks:
        ranks.publish(last=2)
        # Of a version that is there: told by the rank itself, and by nobody else.
        wrong = step(ranks.states[2], 77)
        fmt.write_checkpoint(ranks.checkpoint(1, 2), ranks.part(1, wrong))
        processes = [ranks.start(rank, last=2) for rank in range(3)]
        for rank in (0, 2):
            assert all(line["there"] for line in ranks.ended(processes[rank], 0))
        ranks.ended(processes[1], 2, ["weight_v000002", "not with these weights of rank 1"])
        # Of the base of the next: told by rank 0, if a rank did not look.
        hidden = json.loads((fmt.version_dir(ranks.stream, 2) / fmt.INDEX).read_text())
        kept = hidden["metadata"].pop("lockstep_rank_digests")
        (fmt.version_dir(ranks.stream, 2) / fmt.INDEX).write_text(json.dumps(hidden))
        for process in [ranks.start(rank) for rank in range(3)]:
            ranks.ended(process, 2, ["weight_v000002", "is not what the ranks start from"])
        assert sorted(visible(ranks.stream)) == [1, 2]
        fmt.write_checkpoint(ranks.checkpoint(1, 2), ranks.part(1, ranks.states[2]))
        hidden["metadata"]["lockstep_rank_digests"] = kept
        (fmt.version_dir(ranks.stream, 2) / fmt.INDEX).write_text(json.dumps(hidden))
        ranks.publish()
        ranks.is_whole()


def test_a_stream_goes_on_with_another_number_of_ranks(folder):
    states = walk(4)
    with Ranks(folder, states) as three, Ranks(folder, states, count=2) as two:
        three.publish(last=2)
        two.publish(last=3)
        two.is_whole(through=3)
        dirs = [folder / f"step-{n}" for n in range(5)]
        for where, state in zip(dirs, states):
            fmt.write_checkpoint(where, state)
        ended = interop.run("publish", "--checkpoints", *dirs, "--out", two.stream, "--json")
        assert [json.loads(line)["there"] for line in ended.stdout.splitlines()] == [True] * 3 + [False]
        three.publish()
        three.is_whole()


# Hosts that are waited for.

def receivers(*names):
    return [word for name in names for word in ("--receiver", name)]


def syncs_in(lines):
    return [line for line in lines if line["kind"] == "sync"]


def test_hosts_are_waited_for_by_all_ranks(folder):
    states = walk(4)
    with Ranks(folder, states, count=4) as ranks, Fleet(folder, states, ["a", "b"]) as fleet:
        for number, state in enumerate(states):
            tie(ranks, 3, "a.weight", state, number)
        fleet.start("a")
        processes = [ranks.start(rank, *receivers("a", "b"), patience=4) for rank in range(4)]
        wait_for(lambda: (fleet.stream / "acks" / "a.json").exists())
        time.sleep(5)  # for longer than ranks wait for each other
        assert visible(ranks.stream) == [1], "it did not wait for b"
        assert all(process.poll() is None for process in processes)
        fleet.start("b")
        told = [ranks.ended(process, 0) for process in processes]
        assert [(s["version"], s["result"]) for s in syncs_in(told[0])] == [(v, "ok") for v in range(1, 5)]
        assert all([r["status"] for r in s["receivers"]] == ["ok"] * 2 for s in syncs_in(told[0]))
        assert all([line["version"] for line in of_rank] == [1, 2, 3, 4] for of_rank in told[1:])
        fleet.all_hold()


def test_a_rank_0_that_is_killed_while_it_waits_for_hosts_is_succeeded(folder):
    states = walk(3)
    with Ranks(folder, states) as ranks, Fleet(folder, states, ["a", "b"]) as fleet:
        others = [ranks.start(rank, *receivers("a", "b")) for rank in (1, 2)]
        for _ in range(2):
            first = ranks.start(0, *receivers("a", "b"))
            wait_for(lambda: 1 in visible(ranks.stream))
            time.sleep(0.3)
            first.kill()
            ranks.ended(first)
        assert visible(ranks.stream) == [1]
        fleet.start()
        told = ranks.ended(ranks.start(0, *receivers("a", "b")), 0)
        assert [s["result"] for s in syncs_in(told)] == ["ok"] * 3
        for process in others:
            ranks.ended(process, 0)
        fleet.all_hold()


def test_ranks_and_hosts_that_are_killed_come_to_the_end_together(folder):
    states, chance = walk(8), random.Random(11)
    with Ranks(folder, states) as ranks, Fleet(folder, states, ["a", "b"]) as fleet:
        fleet.start()
        running = {rank: ranks.start(rank, *receivers("a", "b")) for rank in range(3)}
        done, kills, until = set(), 0, time.monotonic() + 240
        while len(done) < 3:
            assert time.monotonic() < until, "it does not come to an end"
            time.sleep(chance.random() * 0.1)
            for rank, process in list(running.items()):
                if process.poll() is not None:
                    ranks.ended(process, 0)
                    done.add(rank)
                    del running[rank]
            if kills < 20 and running:
                kills += 1
                rank = chance.choice(list(running))
                running[rank].kill()
                ranks.ended(running[rank])
                running[rank] = ranks.start(rank, *receivers("a", "b"))
                name = chance.choice(fleet.names)
                fleet.end(name, signal.SIGKILL)
                fleet.start(name)
        fleet.all_hold()


def test_a_host_that_proves_other_bytes_to_ranks_is_out_until_it_has_a_full_version(folder):
    states = walk(4)
    with Ranks(folder, states) as ranks, Fleet(folder, states, ["a", "b", "c"]) as fleet:
        file = folder / "b" / "model.safetensors"
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)
        fleet.start("a", "b")
        more = [*receivers("a", "b", "c"), "--full-every", 3, "--recovery-ms", 200]
        processes = [ranks.start(rank, *more) for rank in range(3)]
        wait_for(lambda: 1 in visible(ranks.stream))
        false = {"version": "000001", "challenge": metadata(ranks.stream, 1)["lockstep_challenge"], "reason": "none",
                 "detail": "", "proof": "0" * 32}
        (fleet.stream / "acks").mkdir(exist_ok=True)
        fmt.replace(fleet.stream / "acks" / "c.json", json.dumps(false).encode())
        fleet_syncs = syncs_in([json.loads(line) for line in processes[0].communicate(timeout=PATIENCE)[0].splitlines()])
        ranks.running.discard(processes[0])
        assert processes[0].returncode == 1
        for process in processes[1:]:
            ranks.ended(process, 0)
        first = fleet_syncs[0]
        assert [(r["status"], r["reason"]) for r in first["receivers"]] == [("ok", "none"), ("nack", "wrong_base"),
                                                                            ("nack", "false_ack")], first
        assert (first["result"], first["absent"], first["reseed_bytes"]) == ("degraded", ["b", "c"], 0)
        assert [s["version"] for s in fleet_syncs] == [1, 2, 3, 4]
        fleet.start("c")  # the whole version is there for it as well
        for name in fleet.names:
            wait_for(lambda: fmt.marker(folder / name) == 4)
        fleet.all_hold()


# Killed.

def test_ranks_that_are_killed_at_any_time_come_to_the_end(folder):
    seed = int(os.environ.get("SEED", random.randrange(1 << 32)))
    print(f"    SEED={seed}")
    chance = random.Random(seed)
    with Ranks(folder, walk(12)) as ranks:
        more = ["--scheme", "xor", "--full-every", 5]
        running = {rank: ranks.start(rank, *more) for rank in range(3)}
        done, kills, until = set(), 0, time.monotonic() + 240
        while len(done) < 3:
            assert time.monotonic() < until, "it does not come to an end"
            time.sleep(chance.random() * 0.05)
            for version in visible(ranks.stream):
                check_shards(ranks.stream, version)
            for rank, process in list(running.items()):
                if process.poll() is not None:
                    ranks.ended(process, 0)
                    done.add(rank)
                    del running[rank]
            if kills < 30 and running:
                kills += 1
                rank = chance.choice(list(running))
                running[rank].kill()
                ranks.ended(running[rank])
                running[rank] = ranks.start(rank, *more)
        print(f"    {kills} kills")
        ranks.is_whole()
        told = ranks.publish(*more)
        assert all(line["there"] for lines in told for line in lines)


def kill_at_each_call(folder, victim, every):
    """`victim` is ended at each of its calls that change files, and started again; the others live on."""
    with Ranks(folder, walk(2)) as ranks:
        more = ["--full-every", 2]

        def others():
            return [ranks.start(rank, *more) for rank in range(3) if rank != victim]

        count = folder / "count"
        shim = {"LD_PRELOAD": str(interop.SHIM)}
        rest = others()
        ranks.ended(ranks.start(victim, *more, environment={**shim, "CRASH_COUNT": str(count)}), 0)
        for process in rest:
            ranks.ended(process, 0)
        calls = int(count.read_text())
        assert calls > 8, "the shim sees nothing"
        for at in range(1, calls + 1, every):
            shutil.rmtree(ranks.stream)
            rest = others()
            process = ranks.start(victim, *more, environment={**shim, "CRASH_AT": str(at)})
            ranks.ended(process)
            # How often a rank looks, and so what it finds to clear, is not the same every time.
            assert process.returncode == 137 or at > calls // 2, f"call {at}: {process.returncode}"
            state = ranks.states[0]
            for version in sorted(visible(ranks.stream)):
                check_shards(ranks.stream, version)
                state = fmt.apply(ranks.stream, version, state)
                assert data_of(state) == data_of(ranks.states[version]), f"call {at}"
            if process.returncode != 0:
                ranks.ended(ranks.start(victim, *more), 0)
            for process in rest:
                ranks.ended(process, 0)
            ranks.is_whole()
        print(f"    ended at each of {calls} calls")


def test_rank_0_is_killed_at_each_call(folder):
    kill_at_each_call(folder, 0, 1)


def test_another_rank_is_killed_at_each_call(folder):
    kill_at_each_call(folder, 1, 1)


if __name__ == "__main__":
    interop.main(globals())
