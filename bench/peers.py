#!/usr/bin/env python3
"""Does what the systems in use do, on the same data and in the same run as `lockstep bench codec`, and
prints the ratios.

    bench/peers.py build/release/lockstep --trace DIR
    bench/peers.py build/release/lockstep --synthetic 1GiB,0.01

The schemes, each with the libraries that their users have (Debian's python3-numpy, python3-zstandard,
python3-xxhash):

    xor+zstd    whole tensors xored with the old ones, zstd level 1, xxh3-128 of the new tensor, in the
                receiver again (slime, miles, SkyRL, stitch)
    gap+zstd    gaps of 16 bits and xored values of what changed, zstd level 1 (NeMo-RL)
    index       32-bit indices and new values (TRL, vLLM's sparse updates)

Times are processor time of one thread, medians of --repeats; bytes are exact. One JSON object a line with
--json.
"""
import argparse
import json
import pathlib
import statistics
import struct
import subprocess
import sys
import tempfile
import time

import numpy
import xxhash
import zstandard

WIDTH = {"BF16": 2, "F16": 2, "F32": 4, "I32": 4, "F64": 8, "I64": 8, "I16": 2, "U16": 2, "U32": 4, "U64": 8}


def tensors_of(file):
    """(name, dtype, bytes) of a safetensors file."""
    data = file.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    for name, entry in json.loads(data[8:8 + length]).items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            yield name, entry["dtype"], data[8 + length + begin:8 + length + end]


def checkpoint(folder):
    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        for name, dtype, data in tensors_of(file):
            elements = numpy.dtype(f"u{WIDTH.get(dtype, 1)}")
            found[name] = (dtype, numpy.frombuffer(data, elements))
    return found


def steps(trace):
    """Pairs of states of a published stream of xored tensors."""
    base = checkpoint(trace / "base")
    for version in sorted((trace / "stream").iterdir()):
        target = dict(base)
        for file in sorted(version.glob("*.safetensors")):
            for name, _, data in tensors_of(file):
                dtype, old = base[name]
                xored = zstandard.ZstdDecompressor().decompress(data, max_output_size=old.nbytes)
                target[name] = (dtype, old ^ numpy.frombuffer(xored, old.dtype))
        yield base, target
        base = target


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


def timed(times, work):
    start = time.thread_time()
    result = work()
    times.append(time.thread_time() - start)
    return result


def measure(trace, repeats):
    """By dtype and scheme: bytes, changed, wire, and seconds."""
    sums = {}
    for base, target in steps(trace):
        for dtype in sorted({t for t, _ in base.values()}):
            names = [n for n, (t, _) in base.items() if t == dtype and len(base[n][1])]
            for scheme, peer in SCHEMES.items():
                row = sums.setdefault((dtype, scheme), dict(bytes=0, changed=0, wire=0, encode=0.0, apply=0.0))
                encode, apply = [], []
                for _ in range(repeats):
                    made = timed(encode, lambda: [peer.encode(base[n][1], target[n][1]) for n in names])
                    live = [base[n][1].copy() for n in names]
                    timed(apply, lambda: [peer.apply(m, l) for m, l in zip(made, live)])
                    for name, after in zip(names, live):
                        if not numpy.array_equal(after, target[name][1]):
                            raise SystemExit(f"{scheme}: {name} is not the target")
                row["bytes"] += sum(base[n][1].nbytes for n in names)
                row["changed"] += sum(int((base[n][1] != target[n][1]).sum()) for n in names)
                # A tensor without a change is not sent.
                row["wire"] += sum(peer.size(m) for n, m in zip(names, made)
                                   if not numpy.array_equal(base[n][1], target[n][1]))
                row["encode"] += statistics.median(encode)
                row["apply"] += statistics.median(apply)
    return sums


def ours_of(command):
    """The lines of `lockstep bench codec`, or the end with what it said."""
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError as problem:
        raise SystemExit(f"peers.py: {problem}") from None
    if done.returncode != 0:
        raise SystemExit(done.stderr.strip())
    return done.stdout.splitlines()


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
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        command = [arguments.program, "bench", "codec", "--json", "--repeats", str(arguments.repeats)]
        if arguments.synthetic:
            command += ["--synthetic", arguments.synthetic, "--write", scratch]
        else:
            command += ["--trace", arguments.trace]
        lines = ours_of(command)
        sums = measure(pathlib.Path(arguments.trace or scratch), arguments.repeats)
    # The best implementation is measured last.
    ours = {(r["dtype"], r["encoding"]): r for r in map(json.loads, lines)}
    if not arguments.json:
        print(f"{'dtype':8}{'scheme':10}{'B/change':>9}{'% full':>8}{'x coded':>9}{'encode GB/s':>13}{'apply GB/s':>12}"
              f"{'coded encodes':>15}{'applies':>9}")
    for (dtype, scheme), row in sorted(sums.items()):
        if not row["changed"]:
            continue
        coded = ours[dtype, "coded"]
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
        print("\n".join(lines))


if __name__ == "__main__":
    sys.exit(main())
