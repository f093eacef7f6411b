"""Decides what a bad link does to the Ethernet frames on it.

`Sky` is the weather of one way, from one node to another: which frames are lost, doubled, swapped,
damaged, late, held back or swallowed, and which are followed by a reset that nobody sent. It does
no input or output and reads no clock, and draws from a seed.
"""
from __future__ import annotations

import random
import struct

# What `Sky` counts, each in frames.
COUNTS = ("lost", "duplicated", "reordered", "corrupted", "disguised", "delayed", "held_back",
          "overflowed", "swallowed", "reset")
# A frame that is to be overtaken waits for up to this long.
REORDER_S = 0.01
# What a narrow link keeps for later; more is lost.
QUEUE_S = 0.5

_SYN, _FIN, _RST = 2, 1, 4


class Segment:
    """Where things stand in a frame that holds a whole TCP segment over IPv4."""

    def __init__(self, frame):
        self.ip = 14
        self.tcp = self.ip + (frame[14] & 15) * 4
        self.data = self.tcp + (frame[self.tcp + 12] >> 4) * 4
        self.end = self.ip + int.from_bytes(frame[16:18], "big")
        self.flags = frame[self.tcp + 13]

    @staticmethod
    def of(frame):
        """None where a frame is something else, or damaged."""
        if len(frame) < 54 or frame[12:14] != b"\x08\x00" or frame[14] >> 4 != 4 or frame[23] != 6:
            return None
        if 14 + (frame[14] & 15) * 4 + 20 > len(frame):
            return None
        it = Segment(frame)
        return it if it.tcp + 20 <= it.data <= it.end <= len(frame) else None


def _checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff


def reset_after(frame):
    """What looks like the sender's reset right after `frame`: with the next number of its sequence,
    so that the other end believes it. None where no live connection is seen."""
    segment = Segment.of(frame)
    if segment is None or segment.flags & (_SYN | _RST):
        return None
    number = int.from_bytes(frame[segment.tcp + 4:segment.tcp + 8], "big")
    number += segment.end - segment.data + (1 if segment.flags & _FIN else 0)
    ends = frame[26:34]
    ip = struct.pack("!BBHHHBBH8s", 0x45, 0, 40, 0, 0x4000, 64, 6, 0, ends)
    ip = ip[:10] + struct.pack("!H", _checksum(ip)) + ip[12:]
    tcp = frame[segment.tcp:segment.tcp + 4] + struct.pack("!IIBBHHH", number & 0xffffffff, 0,
                                                           0x50, _RST, 0, 0, 0)
    sum = _checksum(ends + struct.pack("!HH", 6, len(tcp)) + tcp)
    return frame[:14] + ip + tcp[:16] + struct.pack("!H", sum) + tcp[18:]


def corrupt(frame, rng):
    """One bit of it is another."""
    damaged = bytearray(frame)
    bit = rng.randrange(len(frame) * 8)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


def disguise(frame, rng):
    """Two of the words that TCP carries have changed places, which its checksum does not see. None
    where there is nothing to exchange."""
    segment = Segment.of(frame)
    words = (segment.end - segment.data) // 2 if segment else 0
    if words < 2:
        return None
    damaged = bytearray(frame)
    for _ in range(8):
        a, b = (segment.data + 2 * i for i in rng.sample(range(words), 2))
        if damaged[a:a + 2] != damaged[b:b + 2]:
            damaged[a:a + 2], damaged[b:b + 2] = damaged[b:b + 2], damaged[a:a + 2]
            return bytes(damaged)
    return None


class Sky:
    """Percentages are of frames. `counts` is a dictionary that it adds to; it may be shared.

    loss, duplicate, reorder, corrupt: what the names say; what is reordered comes up to 10 ms later
    than what was sent after it. disguise: damage that TCP cannot see. delay_ms: give or take
    jitter_ms, in order. longest: longer frames, in bytes with the Ethernet header, are swallowed in
    silence. mbit: what goes through in a second; a queue of half a second is before it. reset: TCP
    segments after which a reset is forged.
    """

    def __init__(self, counts, seed, loss=0, duplicate=0, reorder=0, corrupt=0, disguise=0,
                 delay_ms=0, jitter_ms=0, longest=0, mbit=0, reset=0):
        self.counts, self.rng = counts, random.Random(seed)
        self.loss, self.duplicate, self.reorder = loss, duplicate, reorder
        self.corrupt, self.disguise, self.reset = corrupt, disguise, reset
        self.delay, self.jitter = delay_ms / 1000, jitter_ms / 1000
        self.longest, self.rate = longest, mbit * 1e6 / 8
        self._free_at = 0.0  # when the narrow link has done with all that it holds
        self._last_due = 0.0
        self._overtakable = []  # when those come that wait for being overtaken

    def _strikes(self, percent):
        return percent > 0 and self.rng.random() * 100 < percent

    def _count(self, what):
        self.counts[what] += 1

    def through(self, frame, now):
        """What comes out of it: pairs of when, in seconds of the clock that `now` is of, and a
        frame."""
        if self.longest and len(frame) > self.longest:
            self._count("swallowed")
            return []
        if self._strikes(self.loss):
            self._count("lost")
            return []
        due = now
        if self.rate:
            begins = max(now, self._free_at)
            if begins - now > QUEUE_S:
                self._count("overflowed")
                return []
            self._free_at = due = begins + len(frame) / self.rate
            if begins > now:
                self._count("held_back")
        if self.delay:
            due += max(0.0, self.delay + self.rng.uniform(-self.jitter, self.jitter))
            self._count("delayed")
        due = self._in_order(due, now)
        out = [(due, self._damaged(frame))]
        if self._strikes(self.duplicate):
            self._count("duplicated")
            out.append((due, frame))
        if self._strikes(self.reset):
            forged = reset_after(frame)
            if forged:
                self._count("reset")
                out.append((due, forged))
        return out

    def _in_order(self, due, now):
        """When it comes: after all that went before, or late on purpose."""
        due = self._last_due = max(due, self._last_due)
        if self.reorder:
            overtaken = sum(d > due for d in self._overtakable)
            self.counts["reordered"] += overtaken
            self._overtakable = [d for d in self._overtakable if now < d <= due]
            if self._strikes(self.reorder):
                due += self.rng.uniform(0, REORDER_S)
                self._overtakable.append(due)
        return due

    def _damaged(self, frame):
        if self._strikes(self.corrupt):
            self._count("corrupted")
            return corrupt(frame, self.rng)
        if self._strikes(self.disguise):
            damaged = disguise(frame, self.rng)
            if damaged:
                self._count("disguised")
                return damaged
        return frame
