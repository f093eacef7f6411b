#!/usr/bin/env python3
"""Decides how frames get from one node of a network to another: a process that is all its cables.

    switch.py CONTROL NODES

Started by network.py alone. NODES is JSON: [[namespace, hardware address], …]; each gets an eth0 that
is a TAP device, whose other end is here. Without offloads, so that the kernels' TCP makes and
checks every checksum. CONTROL is a descriptor of a SOCK_SEQPACKET socket, on which one JSON object
answers another:

    {"closed": [[from, to], …]}        indexes of nodes; all other ways are open
    {"ways": [[from, to], …], "sky": {…} or null, "seed": N, "shared": bool}
                                       shared: one sky over all of them, else each has its own
    {}                                 nothing; every answer is {"counts": {…}} or {"error": text}

It ends when the socket does.
"""
from __future__ import annotations

import ctypes
import fcntl
import heapq
import json
import os
import select
import socket
import struct
import sys
import time

import weather

_TUNSETIFF = 0x400454ca
_IFF_TAP, _IFF_NO_PI = 0x0002, 0x1000
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)

FRAME_MAX = 1 << 16
# Frames that are under way; more are lost.
BYTES_MAX = 64 << 20
# Of one node at once, before the others have their turn.
BURST = 32


def tap_in(namespace):
    """A descriptor of a new eth0 there. It goes when the descriptor does."""
    space = os.open(f"/run/netns/{namespace}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.setns(space, _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns {namespace}")
    finally:
        os.close(space)
    tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(tap, _TUNSETIFF, struct.pack("16sH22x", b"eth0", _IFF_TAP | _IFF_NO_PI))
    return tap


class Way:
    """From one node to another."""

    def __init__(self, target):
        self.target, self.open, self.sky = target, True, None

    @property
    def plain(self):
        return self.open and self.sky is None


class Switch:
    def __init__(self, control, nodes):
        self.control = control
        self.taps = [tap_in(namespace) for namespace, _ in nodes]
        self.hardware = [bytes.fromhex(h.replace(":", "")) for _, h in nodes]
        self.ways = {(a, b): Way(self.taps[b]) for a in range(len(nodes))
                     for b in range(len(nodes)) if a != b}
        # By what a frame begins with: where it goes, and who it is from.
        self.by_head = {self.hardware[b] + self.hardware[a]: way
                        for (a, b), way in self.ways.items()}
        self.counts = dict.fromkeys((*weather.COUNTS, "forwarded", "cut", "undelivered"), 0)
        self.later = []  # (due, number, way, frame), a heap
        self.number, self.bytes = 0, 0

    def obey(self, order):
        if "closed" in order:
            closed = {tuple(pair) for pair in order["closed"]}
            for pair, way in self.ways.items():
                way.open = pair not in closed
        one = None
        for pair in order.get("ways", []):
            sky = order["sky"]
            if sky is not None and not (one and order["shared"]):
                one = weather.Sky(self.counts, f"{order['seed']} {pair}", **sky)
            self.ways[tuple(pair)].sky = one

    def deliver(self, way, frame):
        try:
            os.write(way.target, frame)
            self.counts["forwarded"] += 1
        except OSError:  # the interface is not up, or the kernel takes no such frame
            self.counts["undelivered"] += 1

    def take(self, frame, now):
        way = self.by_head.get(frame[:12])
        if way is None:  # to all, or to nobody
            return
        if way.plain:
            self.deliver(way, frame)
            return
        if not way.open:
            self.counts["cut"] += 1
            return
        for due, out in way.sky.through(frame, now):
            if due <= now:
                self.deliver(way, out)
            elif self.bytes + len(out) > BYTES_MAX:
                self.counts["overflowed"] += 1
            else:
                self.number += 1
                self.bytes += len(out)
                heapq.heappush(self.later, (due, self.number, way, out))

    def release(self, now):
        while self.later and self.later[0][0] <= now:
            _, _, way, frame = heapq.heappop(self.later)
            self.bytes -= len(frame)
            if way.open:
                self.deliver(way, frame)
            else:
                self.counts["cut"] += 1

    def burst(self, tap, now):
        try:
            for _ in range(BURST):
                self.take(os.read(tap, FRAME_MAX), now)
        except BlockingIOError:
            pass

    def run(self):
        poll = select.epoll()
        for fd in (*self.taps, self.control.fileno()):
            poll.register(fd, select.EPOLLIN)
        while True:
            wait = max(0.0, self.later[0][0] - time.monotonic()) if self.later else -1
            for fd, _ in poll.poll(wait):
                if fd != self.control.fileno():
                    self.burst(fd, time.monotonic())
                    continue
                order = self.control.recv(1 << 20)
                if not order:
                    return
                self.obey(json.loads(order))
                answer(self.control, counts=self.counts)
            self.release(time.monotonic())


def answer(control, **value):
    control.send(json.dumps(value).encode())


def main():
    control = socket.socket(fileno=int(sys.argv[1]))
    try:
        switch = Switch(control, json.loads(sys.argv[2]))
    except OSError as problem:
        answer(control, error=f"no TAP device: {problem}")
        return 1
    answer(control, counts=switch.counts)
    try:
        switch.run()
    except ConnectionError:  # the other end has gone without reading its answer
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
