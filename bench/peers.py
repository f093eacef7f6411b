#!/usr/bin/env python3
"""Does what the systems in use do, on the same data and in turn with `lockstep bench`, and prints the
ratios.

    bench/peers.py build/release/lockstep --trace DIR
    bench/peers.py build/release/lockstep --synthetic 2GiB,0.01
    bench/peers.py build/release/lockstep --synthetic 2GiB,0.01 --sync

The schemes, each with the libraries that their users have (Debian's python3-numpy, python3-zstandard,
python3-xxhash):

    xor+zstd    whole tensors xored with the old ones, zstd level 1, xxh3-128 of the new tensor, in the
                receiver again (slime, miles, SkyRL, stitch)
    gap+zstd    gaps of 16 bits and xored values of what changed, zstd level 1 (NeMo-RL)
    index       32-bit indices and new values (TRL, vLLM's sparse updates)

Times are processor time of one thread; bytes are exact. With --sync, of whole syncs: ours in one process, to one
receiver, as `lockstep bench sync` does them, and the phases of xor+zstd one after the other, each on as many
threads as there are processors, a tensor a task. Those are wall time, and have no network, no file and no proof
of the base in them, ours has all but the network. Medians of --repeats, of which each does ours and all of
theirs once. One JSON object a line with --json.
"""
import argparse
import concurrent.futures
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import numpy
import xxhash
import zstandard

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tests" / "interop"))
import published as fmt  # noqa: E402

WIDTH = {"BF16": 2, "F16": 2, "F32": 4, "I32": 4, "F64": 8, "I64": 8, "I16": 2, "U16": 2, "U32": 4, "U64": 8}


def arrays_of(state):
    return {name: (dtype, numpy.frombuffer(data, f"u{WIDTH.get(dtype, 1)}")) for name, (dtype, _, data) in state.items()}


def steps(trace):
    """Pairs of states of a published stream."""
    state = fmt.read_checkpoint(trace / "base")
    for folder in sorted((trace / "stream").glob("weight_v*")):
        target = fmt.apply(trace / "stream", int(folder.name.removeprefix("weight_v")), state)
        yield arrays_of(state), arrays_of(target)
        state = target


class XorZstd:
    def encode(self, old, new):
        compressed = zstandard.ZstdCompressor(level=1).compress((old ^ new).view(numpy.uint8).data)
        return compressed, xxhash.xxh3_128_digest(new.view(numpy.uint8).data)

    def size(self, made):
        return len(made[0]) + len(made[1])

    def apply(self, made, live):
        xored = zstandard.ZstdDecompressor().decompress(made[0], max_output_size=live.nbytes)
        live ^= numpy.frombuffer(xored, live.dtype)
        if xxhash.xxh3_128_digest(live.view(numpy.uint8).data) != made[1]:
            raise SystemExit("xor+zstd: the checksum differs")


class GapZstd:
    def encode(self, old, new):
        xored = old ^ new
        at = numpy.flatnonzero(xored)
        gaps = numpy.diff(at, prepend=-1) - 1
        values = xored[at]
        # A gap that does not fit is filled with changes to the same value.
        if len(gaps) and gaps.max() > 0xffff:
            fill = gaps // 0x10000
            where = numpy.repeat(numpy.arange(len(gaps)), fill)
            gaps = numpy.insert(gaps % 0x10000, where, 0xffff)
            values = numpy.insert(values, where, 0)
        raw = gaps.astype(numpy.uint16).tobytes() + values.tobytes()
        return zstandard.ZstdCompressor(level=1).compress(raw), len(gaps)

    def size(self, made):
        return len(made[0]) + 4

    def apply(self, made, live):
        raw = zstandard.ZstdDecompressor().decompress(made[0], max_output_size=made[1] * (2 + live.itemsize))
        gaps = numpy.frombuffer(raw, numpy.uint16, made[1])
        values = numpy.frombuffer(raw, live.dtype, made[1], 2 * made[1])
        live[numpy.cumsum(gaps.astype(numpy.int64) + 1) - 1] ^= values


class Index:
    def encode(self, old, new):
        at = numpy.flatnonzero(old != new)
        return at.astype(numpy.int32), new[at]

    def size(self, made):
        return made[0].nbytes + made[1].nbytes

    def apply(self, made, live):
        live[made[0]] = made[1]


SCHEMES = {"xor+zstd": XorZstd(), "gap+zstd": GapZstd(), "index": Index()}


def timed(work):
    start = time.thread_time()
    result = work()
    return result, time.thread_time() - start


def measure(trace):
    """By dtype and scheme: bytes, changed, wire, and seconds."""
    sums = {}
    for base, target in steps(trace):
        for dtype in sorted({t for t, _ in base.values()}):
            names = [n for n, (t, _) in base.items() if t == dtype and len(base[n][1])]
            for scheme, peer in SCHEMES.items():
                row = sums.setdefault((dtype, scheme), dict(bytes=0, changed=0, wire=0, encode=0.0, apply=0.0))
                made, encode = timed(lambda: [peer.encode(base[n][1], target[n][1]) for n in names])
                live = [base[n][1].copy() for n in names]
                _, apply = timed(lambda: [peer.apply(m, l) for m, l in zip(made, live)])
                for name, after in zip(names, live):
                    if not numpy.array_equal(after, target[name][1]):
                        raise SystemExit(f"{scheme}: {name} is not the target")
                row["bytes"] += sum(base[n][1].nbytes for n in names)
                row["changed"] += sum(int((base[n][1] != target[n][1]).sum()) for n in names)
                # A tensor without a change is not sent.
                row["wire"] += sum(peer.size(m) for n, m in zip(names, made)
                                   if not numpy.array_equal(base[n][1], target[n][1]))
                row["encode"] += encode
                row["apply"] += apply
    return sums


def syncs_in_series(trace):
    """Wall seconds of each step of xor+zstd: encoded, then taken up."""
    peer = SCHEMES["xor+zstd"]
    seconds = []
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for base, target in steps(trace):
            names = [n for n in base if len(base[n][1])]
            live = {n: base[n][1].copy() for n in names}
            begun = time.monotonic()
            made = list(pool.map(lambda n: peer.encode(base[n][1], target[n][1]), names))
            list(pool.map(lambda n, m: peer.apply(m, live[n]), names, made))
            seconds.append(time.monotonic() - begun)
    return seconds


def ours_of(command):
    """What `lockstep bench` measures, or the end with what it said."""
    try:
        done = subprocess.run([*command, "--json"], capture_output=True, text=True)
    except OSError as problem:
        raise SystemExit(f"peers.py: {problem}") from None
    if done.returncode != 0:
        raise SystemExit(done.stderr.strip())
    return [json.loads(line) for line in done.stdout.splitlines()]


def median_row(rows):
    """One line of which each number that was measured is the median of all."""
    return {key: statistics.median(row[key] for row in rows) if isinstance(value, float) else value
            for key, value in rows[0].items()}


def compare_codecs(arguments, data, trace):
    command = [arguments.program, "bench", "codec", "--repeats", "1", *data]
    for name in arguments.implementation:
        command += ["--implementation", name]
    ours, theirs = {}, {}
    for _ in range(arguments.repeats):
        for row in ours_of(command):
            ours.setdefault((row["dtype"], row["encoding"], row["implementation"]), []).append(row)
        for key, row in measure(trace).items():
            theirs.setdefault(key, []).append(row)
    lines = [median_row(rows) for rows in ours.values()]
    best = {(r["dtype"], r["encoding"]): r for r in lines}  # it is measured last
    if not arguments.json:
        print(f"{'dtype':8}{'scheme':10}{'B/change':>9}{'% full':>8}{'x coded':>9}{'encode GB/s':>13}{'apply GB/s':>12}"
              f"{'coded encodes':>15}{'applies':>9}")
    for (dtype, scheme), rows in sorted(theirs.items()):
        row = median_row(rows)
        if not row["changed"]:
            continue
        coded = best[dtype, "coded"]
        encode, apply = row["bytes"] / row["encode"] / 1e9, row["bytes"] / row["apply"] / 1e9
        line = {"dtype": dtype, "scheme": scheme, "density": coded["density"],
                "bytes_per_changed": row["wire"] / row["changed"],
                "percent_of_full": 100 * row["wire"] / row["bytes"],
                "bytes_x_coded": row["wire"] / coded["wire_bytes"], "encode_gb_s": encode, "apply_gb_s": apply,
                "coded_encodes_x": coded["encode_gb_s"] / encode, "coded_applies_x": coded["apply_gb_s"] / apply}
        if arguments.json:
            print(json.dumps(line))
        else:
            print(f"{dtype:8}{scheme:10}{line['bytes_per_changed']:9.3f}{line['percent_of_full']:8.3f}"
                  f"{line['bytes_x_coded']:9.2f}{encode:13.2f}{apply:12.2f}{line['coded_encodes_x']:14.1f}x"
                  f"{line['coded_applies_x']:8.1f}x")
    if arguments.json:
        print("\n".join(map(json.dumps, lines)))


def compare_syncs(arguments, data, trace):
    command = [arguments.program, "bench", "sync", "--syncs", "2", *data]
    ours, theirs = [], []
    for _ in range(arguments.repeats):
        ours += ours_of(command)
        theirs.append(statistics.median(syncs_in_series(trace)))
    total = statistics.median(row["seconds"]["total"] for row in ours)
    series = statistics.median(theirs)
    line = {"scheme": "xor+zstd", "phases": "in series", "threads": os.cpu_count(), "seconds": series,
            "lockstep_seconds": total, "lockstep_x": series / total}
    if arguments.json:
        print(json.dumps(line))
    else:
        print(f"xor+zstd in series, {os.cpu_count()} threads: {series:.3f} s; lockstep: {total:.3f} s, "
              f"{series / total:.1f} x")


def positive(text):
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    data = parser.add_mutually_exclusive_group(required=True)
    data.add_argument("--trace")
    data.add_argument("--synthetic")
    parser.add_argument("--repeats", type=positive, default=3)
    parser.add_argument("--implementation", action="append", default=[], help="of lockstep's, as it names them")
    parser.add_argument("--sync", action="store_true", help="whole syncs")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        trace, data = arguments.trace, ["--trace", arguments.trace]
        if arguments.synthetic:
            trace, data = scratch, ["--synthetic", arguments.synthetic]
            ours_of([arguments.program, "bench", "codec", *data, "--repeats", "1", "--implementation", "portable",
                     "--write", scratch])
        compare = compare_syncs if arguments.sync else compare_codecs
        compare(arguments, data, pathlib.Path(trace))


if __name__ == "__main__":
    sys.exit(main())
