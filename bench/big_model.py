"""Decides which large weights the benchmarks move, and what a plain socket takes for as many bytes."""
from __future__ import annotations

import json
import mmap
import os
import pathlib
import random
import socket
import struct
import time

_BLOCK = 4 << 20


def _sparse_mask(rng, share):
    """A block that is zero but for that share of its 2-byte elements."""
    mask = bytearray(_BLOCK)
    for at in rng.sample(range(_BLOCK // 2), int(_BLOCK // 2 * share)):
        struct.pack_into("<H", mask, 2 * at, rng.randrange(1, 1 << 16))
    return bytes(mask)


def make(directory, size, share, seed=1):
    """Writes `size` random bytes as BF16 tensors to base/, and to stream/step-1/ the same with
    `share` of the elements changed. Returns both directories and the bytes of weights."""
    rng = random.Random(seed)
    mask = _sparse_mask(rng, share)
    tensor = max(1, size // _BLOCK // 24) * _BLOCK
    count = max(1, size // tensor)
    header = {f"layer.{i}.weight": {"dtype": "BF16", "shape": [tensor // 4096, 2048],
                                    "data_offsets": [i * tensor, (i + 1) * tensor]}
              for i in range(count)}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    base, stream = pathlib.Path(directory, "base"), pathlib.Path(directory, "stream")
    (stream / "step-1").mkdir(parents=True)
    base.mkdir()
    with open(base / "model.safetensors", "wb", 0) as one, \
            open(stream / "step-1" / "model.safetensors", "wb", 0) as other:
        for f in (one, other):
            f.write(struct.pack("<Q", len(text)) + text)
        for _ in range(count * tensor // _BLOCK):
            block = os.urandom(_BLOCK)
            turn = 2 * rng.randrange(_BLOCK // 2)  # so that no two blocks change alike
            turned = mask[turn:] + mask[:turn]
            changed = int.from_bytes(block, "little") ^ int.from_bytes(turned, "little")
            one.write(block)
            other.write(changed.to_bytes(_BLOCK, "little"))
    return base, stream, count * tensor


def _send(port, file, size):
    with socket.create_connection(("127.0.0.1", port), 30) as s, open(file, "rb") as f:
        s.settimeout(None)  # sendfile knows of none; the other side has one
        offset = os.fstat(f.fileno()).st_size - size
        while size:
            sent = os.sendfile(s.fileno(), f.fileno(), offset, size)
            offset, size = offset + sent, size - sent
        s.recv(1)


def plain_copy(file, size):
    """Seconds for the last `size` bytes of a cached file from one process into memory of another
    that is there already: sendfile, recv_into, one connection over loopback, no check of anything."""
    with mmap.mmap(-1, size) as memory, socket.create_server(("127.0.0.1", 0)) as server:
        for at in range(0, size, mmap.PAGESIZE):
            memory[at] = 1
        port = server.getsockname()[1]
        child = os.fork()
        if child == 0:
            try:
                _send(port, file, size)
            finally:
                os._exit(0)
        server.settimeout(30)
        with server.accept()[0] as s, memoryview(memory) as view:
            began, got = time.monotonic(), 0
            while got < size:
                count = s.recv_into(view[got:got + _BLOCK])
                if count == 0:
                    raise OSError("the plain copy ended early")
                got += count
            seconds = time.monotonic() - began
        os.waitpid(child, 0)
    return seconds
