"""Decides which weights the tests play, and knows every version's bytes by itself.

A small model is made from a seed: a base and versions as whole checkpoints. What a file holds is
compared by a digest over its tensors, sorted by name, so the order in a file does not count.
"""
from __future__ import annotations

import hashlib
import json
import os
import pathlib
import random
import struct
import subprocess
import tempfile

from fleet import environment

_WIDTH = {"F32": 4, "BF16": 2, "U8": 1, "I64": 8, "F64": 8, "F16": 2, "I32": 4, "I8": 1, "I16": 2}
_HEADER_MAX = 100_000_000


def write_safetensors(path, tensors):
    """`tensors`: name -> (dtype, shape, bytes). Written beside and renamed."""
    ordered = sorted(tensors.items(), key=lambda t: (-_WIDTH[t[1][0]], t[0]))
    header, at = {}, 0
    for name, (dtype, shape, data) in ordered:
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".new")
    with open(beside, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for _, (_, _, data) in ordered:
            f.write(data)
    os.replace(beside, path)


def read_safetensors(path):
    """name -> (dtype, shape, bytes); ValueError where it is none, OSError where it is not there."""
    data = pathlib.Path(path).read_bytes()
    if len(data) < 8:
        raise ValueError("shorter than its length")
    size = struct.unpack_from("<Q", data)[0]
    if size > min(_HEADER_MAX, len(data) - 8):
        raise ValueError("header longer than the file")
    header = json.loads(data[8:8 + size])
    out = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        if not 0 <= begin <= end <= len(data) - 8 - size:
            raise ValueError(f"{name} does not lie in the file")
        out[name] = (entry["dtype"], entry["shape"], data[8 + size + begin:8 + size + end])
    return out


def digest(path):
    """What a checkpoint file holds, or all of them in a directory, or a word in brackets where that
    cannot be read."""
    path = pathlib.Path(path)
    tensors = {}
    try:
        for file in sorted(path.glob("*.safetensors")) if path.is_dir() else [path]:
            tensors.update(read_safetensors(file))
    except OSError:
        return "(not there)"
    except (ValueError, KeyError, TypeError, AttributeError):
        return "(no safetensors)"
    h = hashlib.blake2b(digest_size=16)
    for name, (dtype, shape, data) in sorted(tensors.items()):
        h.update(json.dumps([name, dtype, shape, len(data)]).encode())
        h.update(data)
    return h.hexdigest()


class Versions:
    """`base` and `stream` are directories; `digests[i]` is what version i holds, 0 is the base."""

    def __init__(self, base, stream, digests):
        self.base = str(base)
        self.stream = str(stream)
        self.digests = digests

    @property
    def count(self):
        return len(self.digests) - 1

    def expected(self, label):
        """What must stand behind a trainer's label: 0 is the base, and after the last version the
        trainer begins again at the base, while labels go on."""
        return self.digests[label % len(self.digests)]

    def labels(self, rounds):
        """The labels that a trainer syncs; the first round begins with the base in place."""
        return list(range(1, rounds * len(self.digests)))


def synthetic(directory, seed=1, versions=10, mebibytes=2.0):
    """Makes a model and its versions below `directory`."""
    rng = random.Random(seed)
    directory = pathlib.Path(directory)
    part = max(1024, int(mebibytes * (1 << 20) / 8))
    tensors = {
        "embed.weight": ("F32", [part // 4, 4], bytearray(rng.randbytes(part // 4 * 16))),
        "layer.0.weight": ("BF16", [part // 2], bytearray(rng.randbytes(part // 2 * 2))),
        "layer.1.weight": ("BF16", [2, part // 4], bytearray(rng.randbytes(part // 4 * 4))),
        "layer.2.weight": ("U8", [part], bytearray(rng.randbytes(part))),
        "layer.3.weight": ("F32", [part // 4], bytearray(rng.randbytes(part // 4 * 4))),
        "scale": ("F32", [], bytearray(rng.randbytes(4))),
        "nothing": ("F32", [0, 7], bytearray()),
        "version": ("I64", [1], bytearray(8)),
    }
    digests = []
    for v in range(versions + 1):
        if v:
            for name, (dtype, _, data) in tensors.items():
                width = _WIDTH[dtype]
                for _ in range(max(1, len(data) // width // 80) if data else 0):
                    at = rng.randrange(len(data) // width) * width
                    data[at:at + width] = rng.randbytes(width)
        tensors["version"][2][:] = struct.pack("<q", v)
        place = directory / "base" if v == 0 else directory / "stream" / f"step-{v}"
        write_safetensors(place / "model.safetensors", tensors)
        digests.append(digest(place / "model.safetensors"))
    return Versions(directory / "base", directory / "stream", digests)


def recorded(program, base, stream, seconds=120):
    """A base and stream that were given: each version's bytes are what `replay` of the stream up to
    it leaves, which it audits against the checksums of the stream's publisher."""
    def number(path):
        digits = path.name[len(path.name.rstrip("0123456789")):]
        return int(digits) if digits and path.is_dir() and not path.name.startswith(".") else 0

    found = sorted((number(p), p) for p in pathlib.Path(stream).iterdir() if number(p) > 0)
    assert [n for n, _ in found] == list(range(1, len(found) + 1)), "needs versions 1, 2, 3, …"
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        digests = [None] * (len(found) + 1)
        prefix = scratch / "stream"
        prefix.mkdir()
        for i, (_, path) in enumerate(found):
            (prefix / path.name).symlink_to(path.resolve())
            out = scratch / "out"
            subprocess.run([program, "replay", "--base", base, "--stream", prefix, "--receivers",
                            "1", "--out", out], check=True, stdout=subprocess.DEVNULL,
                           env=environment(), timeout=seconds)
            digests[i + 1] = digest(out / "receiver-0" / "model.safetensors")
    file = pathlib.Path(base)
    digests[0] = digest(file if file.is_file() else file / "model.safetensors")
    return Versions(base, stream, digests)


def tear(path, rng):
    """Overwrites a random range of a file with random bytes."""
    size = os.path.getsize(path)
    if size == 0:
        return
    at = rng.randrange(size)
    with open(path, "r+b") as f:
        f.seek(at)
        f.write(rng.randbytes(min(size - at, rng.randrange(1, 64 * 1024))))


def alike(directory, seed, mebibytes, versions=4, tensors=8):
    """Tensors of one kind that change all over: a delta has many buckets, and both ranks' parts of
    it are half of it."""
    rng = random.Random(seed)
    count = int(mebibytes * (1 << 20)) // tensors // 2
    held = [bytearray(rng.randbytes(count * 2)) for _ in range(tensors)]
    for v in range(versions + 1):
        for data in held if v else []:
            data[:] = rng.randbytes(count * 2)
        place = directory / ("base" if v == 0 else f"stream/step-{v}")
        write_safetensors(place / "model.safetensors", {
            f"layer.{i}": ("BF16", [count], data) for i, data in enumerate(held)})
    return Versions(directory / "base", directory / "stream", [])
