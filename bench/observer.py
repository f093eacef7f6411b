"""Decides how the benchmarks ask a trainer where its receivers stand, over one connection that stays.

Speaks what `lockstep status` speaks (transport/greeting.hpp, docs/wire-messages.md), in clear and on
loopback, but pays for no process and no handshake at each question, so that the answer's time is the
control path's alone. Needs libxxhash, which the program needs too.
"""
from __future__ import annotations

import ctypes
import ctypes.util
import os
import socket
import struct
import time

_xxh = ctypes.CDLL(ctypes.util.find_library("xxhash") or "libxxhash.so.0")


class _Hash128(ctypes.Structure):
    _fields_ = [("low", ctypes.c_uint64), ("high", ctypes.c_uint64)]


_xxh.XXH3_64bits.argtypes = _xxh.XXH3_128bits.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
_xxh.XXH3_64bits.restype = ctypes.c_uint64
_xxh.XXH3_128bits.restype = _Hash128

_OBSERVER, _CONTROL = 2, 0
_OBSERVE, _STATUS_LINE, _OBSERVED = 16, 17, 19
_MAGIC = b"LKM\x02"
PHASES = ["empty", "serving", "applying", "reseeding", "torn"]


def hash64(data):
    return _xxh.XXH3_64bits(data, len(data))


def _text(value):
    return struct.pack("<H", len(value)) + value


def _greeting(cluster):
    fields = struct.pack("<QBBI", cluster, _OBSERVER, _CONTROL, 0) + _text(b"observer")
    fields += os.urandom(16) + struct.pack("<IQQ", 0, 64 << 20, (64 << 20) + 1024) + _text(b"bench")
    frame = b"LKG\x01" + struct.pack("<I", 8 + len(fields) + 8) + fields
    return frame + struct.pack("<Q", hash64(frame))


def _message(kind, body):
    covered = _MAGIC + struct.pack("<IQ", kind, len(body)) + body
    h = _xxh.XXH3_128bits(covered, len(covered))
    return covered + struct.pack("<QQ", h.high, h.low)


class _Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, spelling):
        values = struct.unpack_from("<" + spelling, self.data, self.at)
        self.at += struct.calcsize("<" + spelling)
        return values[0] if len(values) == 1 else values

    def text(self):
        size = self.take("Q")
        self.at += size
        return self.data[self.at - size:self.at].decode("utf-8", "replace")


def _status_line(body):
    r = _Reader(body)
    line = {"id": r.take("I"), "name": r.text()}
    ready, phase, run, number, label, _ = r.take("BBQQQB")
    line.update(ready=bool(ready), phase=PHASES[phase], run=run, number=number, label=label)
    line.update(member=bool(r.take("B")), standing=r.text())
    r.take("B")
    line.update(detail=r.text())
    names = ("reseeds", "catch_ups", "restarts", "phase_ms", "heard_ms", "sent_bytes")
    line.update(zip(names, r.take("IIIQQQ")))
    return line


class Observer:
    """One connection. Not thread-safe. `OSError` where it ends, or says nothing for `seconds`."""

    def __init__(self, address, cluster="lockstep", seconds=30):
        host, _, port = address.rpartition(":")
        self._cluster = hash64(cluster.encode())
        self._socket = socket.create_connection((host, int(port)), seconds)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.settimeout(seconds)
        self._socket.sendall(_greeting(self._cluster))
        head = self._exactly(8)
        answer = self._exactly(struct.unpack_from("<I", head, 4)[0] - 8)
        if head[:4] != b"LKA\x01" or answer[0] != 0:
            raise OSError(f"refused: {head!r} {answer!r}")
        self._question = _message(_OBSERVE, struct.pack("<QB", self._cluster, 0))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._socket.close()

    def _exactly(self, count):
        parts = bytearray()
        while len(parts) < count:
            part = self._socket.recv(count - len(parts))
            if not part:
                raise OSError("the trainer closed the connection")
            parts += part
        return bytes(parts)

    def ask(self):
        """id -> what the trainer says of that receiver now."""
        self._socket.sendall(self._question)
        lines = {}
        while True:
            magic, kind, size = struct.unpack("<4sIQ", self._exactly(16))
            if magic != _MAGIC:
                raise OSError(f"no message: {magic!r}")
            body = self._exactly(size + 16)[:size]
            if kind == _OBSERVED:
                return lines
            if kind == _STATUS_LINE:
                line = _status_line(body)
                lines[line["id"]] = line

    def until(self, what, condition, seconds, every=0.002):
        """Asks until `condition(lines)` holds; when that was heard, by time.monotonic()."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if condition(self.ask()):
                return time.monotonic()
            time.sleep(every)
        raise OSError(f"{what}: not within {seconds} s; {self.ask()}")
