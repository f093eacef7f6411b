#!/usr/bin/env python3
"""Publish and pull over files beside what the systems in use do in Python, in the same run on the same bytes.

    bench/published.py build/release/lockstep --trace DIR          a recorded run: DIR/base, DIR/stream
    bench/published.py build/release/lockstep --synthetic 1e9,0.01  bytes of bf16, and the share that changes

The Python path is theirs: for each tensor xor with numpy, zstd level 1, xxh3-128; shards synced and renamed, the
index last. The receiver decompresses, xors into a mapping of the live file, hashes, syncs. Wall time, ours with the
start of the process; medians of --repeats. Ours proves the whole state besides, which theirs has no way to.
"""
import argparse
import json
import mmap
import os
import pathlib
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time

import numpy
import xxhash
import zstandard

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tests" / "interop"))
import published as fmt  # noqa: E402


def places(file):
    with open(file, "rb") as source:
        length = struct.unpack("<Q", source.read(8))[0]
        header = json.loads(source.read(length))
    header.pop("__metadata__", None)
    return {n: (8 + length + e["data_offsets"][0], 8 + length + e["data_offsets"][1]) for n, e in header.items()}


def peers_publish(base, target, stream):
    """What a trainer does with both states in memory already."""
    folder = fmt.version_dir(stream, 1)
    folder.mkdir(parents=True)
    shard, parts, digests = "model-00000-of-00001.safetensors", {}, {}
    compressor = zstandard.ZstdCompressor(level=1)
    for name, (_, _, old) in base.items():
        new = target[name][2]
        change = numpy.frombuffer(old, numpy.uint8) ^ numpy.frombuffer(new, numpy.uint8)
        if change.any():
            data = compressor.compress(change.data)
            parts[name] = ("U8", [len(data)], data)
            digests[name] = xxhash.xxh3_128_hexdigest(new)
    fmt.write_safetensors(folder / shard, parts, digests)
    index = {"metadata": {"version": "000001", "base_version": "000000", "delta_encoding": "xor",
                          "compression_format": "zstd", "checksum_format": "xxh3-128"},
             "weight_map": {n: shard for n in parts}}
    fmt.replace(folder / fmt.INDEX, json.dumps(index).encode())


def peers_pull(stream, host):
    folder = fmt.version_dir(stream, 1)
    index = json.loads((folder / fmt.INDEX).read_text())
    live = host / "model.safetensors"
    where = places(live)
    decompressor = zstandard.ZstdDecompressor()
    with open(live, "r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        all_bytes = numpy.frombuffer(memory, numpy.uint8)
        for shard in set(index["weight_map"].values()):
            digests, parts = fmt.read_safetensors(folder / shard)
            for name, (_, _, data) in parts.items():
                begin, end = where[name]
                bytes_ = all_bytes[begin:end]
                bytes_ ^= numpy.frombuffer(decompressor.decompress(data, max_output_size=end - begin), numpy.uint8)
                if xxhash.xxh3_128_hexdigest(bytes_.data) != digests[name]:
                    raise SystemExit("peers: the checksum differs")
                del bytes_
        memory.flush()
        del all_bytes
        os.fsync(file.fileno())
    fmt.set_marker(host, 1)


def synthetic(bytes_, density):
    """Tensors of 64 MB of normal bf16, a share of which goes to a neighbour."""
    random = numpy.random.default_rng(1)
    base, target, left = {}, {}, bytes_ // 2
    while left > 0:
        count = min(left, 32 << 20)
        left -= count
        old = (random.standard_normal(count, numpy.float32).view(numpy.uint32) >> 16).astype(numpy.uint16)
        new = old.copy()
        new[random.random(count, numpy.float32) < density] += 1
        name = f"w{len(base):04d}"
        base[name], target[name] = (("BF16", [count], x.tobytes()) for x in (old, new))
    return base, target


def recorded(trace):
    base = fmt.read_checkpoint(trace / "base")
    return base, fmt.apply(trace / "stream", 1, base)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    data = parser.add_mutually_exclusive_group(required=True)
    data.add_argument("--trace", type=pathlib.Path)
    data.add_argument("--synthetic")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.trace:
        base, target = recorded(options.trace)
    else:
        size, density = options.synthetic.split(",")
        base, target = synthetic(int(float(size)), float(density))
    model = sum(len(t[2]) for t in base.values())
    times, bytes_ = {}, {}

    def timed(what, work):
        started = time.perf_counter()
        work()
        times.setdefault(what, []).append(time.perf_counter() - started)

    def ours(*command):
        subprocess.run([options.program, *map(str, command)], check=True, capture_output=True)

    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
        folder = pathlib.Path(folder)
        fmt.write_checkpoint(folder / "base", base)
        fmt.write_checkpoint(folder / "target", target)
        for _ in range(options.repeats):
            for scheme in ("theirs", "xor", "coded"):
                stream, host = folder / f"stream-{scheme}", folder / "host"
                shutil.rmtree(stream, ignore_errors=True)
                shutil.rmtree(host, ignore_errors=True)
                shutil.copytree(folder / "base", host)
                os.sync()
                if scheme == "theirs":
                    timed("publish theirs", lambda: peers_publish(base, target, stream))
                    timed("pull theirs", lambda: peers_pull(stream, host))
                else:
                    timed(f"publish {scheme}", lambda: ours("publish", "--checkpoints", folder / "base", folder / "target",
                                                            "--out", stream, "--scheme", scheme))
                    timed(f"pull {scheme}", lambda: ours("pull", "--source", stream, "--checkpoint", host))
                if (host / "model.safetensors").read_bytes() != (folder / "target" / "model.safetensors").read_bytes():
                    raise SystemExit(f"{scheme}: not the target")
                bytes_[scheme] = sum(f.stat().st_size for f in stream.glob("*/*"))
    for what, all_ in times.items():
        verb, scheme = what.split()
        seconds, peer = statistics.median(all_), statistics.median(times[f"{verb} theirs"])
        line = {"what": verb, "scheme": scheme, "model_bytes": model, "bytes": bytes_[scheme], "seconds": seconds,
                "gb_s": model / seconds / 1e9, "x_theirs": peer / seconds, "bytes_x_theirs": bytes_[scheme] / bytes_["theirs"]}
        if options.json:
            print(json.dumps(line))
        else:
            print(f"{verb:8}{scheme:8}{seconds * 1000:9.1f} ms{line['gb_s']:8.2f} GB/s{line['x_theirs']:7.2f} x theirs"
                  f"{bytes_[scheme]:12} bytes{line['bytes_x_theirs']:7.2f} x")


if __name__ == "__main__":
    main()
