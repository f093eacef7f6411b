#!/usr/bin/env python3
"""A checkpoint that is larger than memory may be: a tensor above 4 GiB, in a file that is mostly a hole, pulled
and published in a bounded number of bytes held.

    tests/interop/big.py PROGRAM [--gb N] [--held-mb N]

--gb 20 takes minutes; the test has 5. A publisher maps its input, and where it samples a tensor the system may map
2 MiB around each place, which counts as held: it may hold a GiB, however large the model is.
"""
import argparse
import json
import os
import pathlib
import resource
import struct
import subprocess
import sys
import tempfile
import time

try:
    import published as fmt
    import xxhash
    import zstandard
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)

MIB = 1 << 20


def write_sparse(file, tensors):
    """`tensors`: {name: bytes}, all zeros, a hole."""
    header, offset = {}, 0
    for name, size in tensors.items():
        header[name] = {"dtype": "U8", "shape": [size], "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(file, "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        out.truncate(8 + len(text) + offset)
    return 8 + len(text)


def payload_of(size, changes):
    """xor payload, compressed piece by piece, and the digest of the new bytes, which are the same."""
    compressor, digest = zstandard.ZstdCompressor(level=1).compressobj(size=size), xxhash.xxh3_128()
    data = []
    for at in range(0, size, MIB):
        piece = bytearray(min(MIB, size - at))
        for position, value in changes.items():
            if at <= position < at + len(piece):
                piece[position - at] = value
        data.append(compressor.compress(bytes(piece)))
        digest.update(bytes(piece))
    return b"".join(data) + compressor.flush(), digest.hexdigest()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("--gb", type=int, default=5)
    parser.add_argument("--held-mb", type=int, default=128)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        space = os.statvfs(folder)
        if space.f_bavail * space.f_frsize < 2 << 30:
            print("skipped: less than 2 GB of disk")
            sys.exit(77)
        tensors = {"a": (4 << 30) + 12345}
        while sum(tensors.values()) < options.gb * 10**9:
            tensors[f"b{len(tensors)}"] = min(1 << 30, options.gb * 10**9 - sum(tensors.values()))
        host, stream = folder / "host", folder / "stream"
        host.mkdir()
        begin = write_sparse(host / "model.safetensors", tensors)
        changes = {0: 1, 77: 2, (4 << 30) - 1: 3, (4 << 30) + 5: 4, tensors["a"] - 1: 5}
        data, digest = payload_of(tensors["a"], changes)
        version = fmt.version_dir(stream, 1)
        version.mkdir(parents=True)
        shard = "model-00000-of-00001.safetensors"
        fmt.write_safetensors(version / shard, {"a": ("U8", [len(data)], data)}, {"a": digest})
        fmt.replace(version / fmt.INDEX, json.dumps(
            {"metadata": {"version": "1", "base_version": "0", "delta_encoding": "xor", "compression_format": "zstd",
                          "checksum_format": "xxh3-128"}, "weight_map": {"a": shard}}).encode())

        def measured(held_mb, *command):
            before = time.monotonic()
            ended = subprocess.run([options.program, *map(str, command)], capture_output=True, text=True, timeout=3000)
            assert ended.returncode == 0, ended.stderr
            # Of all so far the one that held most, so the smallest limit comes first; mapped files count.
            held = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
            print(f"ok   {command[0]}: {sum(tensors.values()) / 1e9:.1f} GB, {held / MIB:.0f} MiB held, "
                  f"{time.monotonic() - before:.1f} s", flush=True)
            assert held < held_mb * MIB, f"{held / MIB:.0f} MiB held"

        measured(options.held_mb, "pull", "--source", stream, "--checkpoint", host, "--to", 1)
        with open(host / "model.safetensors", "rb") as file:
            for position, value in changes.items():
                file.seek(begin + position)
                assert file.read(1) == bytes([value]), f"byte {position}"
        base = folder / "base"
        base.mkdir()
        write_sparse(base / "model.safetensors", tensors)
        again = folder / "again"
        measured(1024, "publish", "--checkpoints", base, host, "--out", again, "--scheme", "coded")
        measured(1024, "pull", "--source", again, "--checkpoint", base, "--to", 1)
        with open(base / "model.safetensors", "rb") as file:
            for position, value in changes.items():
                file.seek(begin + position)
                assert file.read(1) == bytes([value]), f"byte {position}"
        ended = subprocess.run([options.program, "publish", "--checkpoints", base, host, "--out", folder / "o", "--scheme",
                                "overwrite"], capture_output=True, text=True, timeout=600)
        assert ended.returncode == 2 and "use \"xor\"" in ended.stderr, ended.stderr
        print("ok   overwrite refuses a tensor above 4 GiB", flush=True)


if __name__ == "__main__":
    main()
