#!/usr/bin/env python3
"""Decides whether the weather is what its name says: on single frames, and on the TCP of kernels
between two network namespaces."""
from __future__ import annotations

import hashlib
import pathlib
import random
import struct
import subprocess
import sys
import unittest

import fleet
import weather
from network import Network

ENDS = bytes([10, 77, 0, 1, 10, 77, 0, 2])


def frame(data, number=1000, flags=0x18):
    """A TCP segment in an Ethernet frame, with right checksums."""
    ip = struct.pack("!BBHHHBBH8s", 0x45, 0, 40 + len(data), 7, 0x4000, 64, 6, 0, ENDS)
    ip = ip[:10] + struct.pack("!H", weather._checksum(ip)) + ip[12:]
    tcp = struct.pack("!HHIIBBHHH", 4000, 5000, number, 77, 0x50, flags, 500, 0, 0) + data
    tcp = tcp[:16] + struct.pack("!H", tcp_sum(tcp)) + tcp[18:]
    return bytes(range(12)) + b"\x08\x00" + ip + tcp


def tcp_sum(tcp):
    """0 where the checksum in it is right."""
    return weather._checksum(ENDS + struct.pack("!HH", 6, len(tcp)) + tcp + b"\0" * (len(tcp) % 2))


def bits_apart(a, b):
    return bin(int.from_bytes(a, "big") ^ int.from_bytes(b, "big")).count("1")


class Skies(unittest.TestCase):
    def sky(self, seed=1, **what):
        self.counts = dict.fromkeys(weather.COUNTS, 0)
        return weather.Sky(self.counts, seed, **what)

    def sent(self, sky, count, every=0.0001, data=b"x" * 100):
        """Each of them: when it was sent, and what came of it."""
        return [(i * every, sky.through(frame(data, i), i * every)) for i in range(count)]

    def test_clear_sky_changes_nothing(self):
        for at, out in self.sent(self.sky(), 100):
            self.assertEqual([due for due, _ in out], [at])
        self.assertEqual(set(self.counts.values()), {0})

    def test_shares_are_those_that_were_asked_for(self):
        for words, counter, percent in ((dict(loss=10), "lost", 10), (dict(loss=1), "lost", 1),
                                        (dict(loss=50), "lost", 50),
                                        (dict(duplicate=5), "duplicated", 5),
                                        (dict(corrupt=2), "corrupted", 2),
                                        (dict(reset=5), "reset", 5)):
            came = sum(len(out) for _, out in self.sent(self.sky(**words), 10_000))
            self.assertAlmostEqual(self.counts[counter] / 100, percent, delta=percent / 5)
            more = {"lost": -1, "corrupted": 0}.get(counter, 1)
            self.assertEqual(came, 10_000 + more * self.counts[counter])
            self.assertEqual(sum(self.counts.values()), self.counts[counter])

    def test_the_same_seed_is_the_same_weather(self):
        words = dict(loss=10, duplicate=5, reorder=25, corrupt=5, disguise=5, reset=5)
        first = self.sent(self.sky(5, **words), 500)
        self.assertEqual(first, self.sent(self.sky(5, **words), 500))
        self.assertNotEqual(first, self.sent(self.sky(6, **words), 500))

    def test_corruption_is_one_bit(self):
        for i, (_, out) in enumerate(self.sent(self.sky(corrupt=100), 500)):
            self.assertEqual(bits_apart(out[0][1], frame(b"x" * 100, i)), 1)

    def test_disguised_damage_has_right_checksums(self):
        data = random.Random(1).randbytes(999)
        for i, (_, out) in enumerate(self.sent(self.sky(disguise=100), 200, data=data)):
            damaged, whole = out[0][1], frame(data, i)
            self.assertNotEqual(damaged, whole)
            self.assertEqual(damaged[:54], whole[:54])
            self.assertEqual(tcp_sum(damaged[34:]), 0)
        # Where there is nothing to exchange it does nothing.
        self.sent(self.sky(disguise=100), 10, data=b"x" * 100)
        self.sent(self.sky(disguise=100), 10, data=b"")
        self.assertEqual(self.counts["disguised"], 0)

    def test_a_black_hole_takes_long_ones_only(self):
        sky = self.sky(longest=154)
        self.assertEqual(len(sky.through(frame(b"x" * 100), 0)), 1)
        self.assertEqual(sky.through(frame(b"x" * 101), 0), [])
        self.assertEqual(self.counts["swallowed"], 1)

    def test_as_many_are_overtaken_as_are_counted(self):
        sent = self.sent(self.sky(reorder=25), 4000)
        dues = [out[0][0] for _, out in sent]
        least, overtaken = float("inf"), 0
        for due in reversed(dues):
            overtaken += due > least
            least = min(due, least)
        late = sum(due > at for (at, _), due in zip(sent, dues))
        self.assertAlmostEqual(late / 40, 25, delta=3)
        self.assertAlmostEqual(self.counts["reordered"], overtaken, delta=overtaken / 100)
        self.assertGreater(overtaken, 800)
        self.assertTrue(all(at <= due <= at + weather.REORDER_S
                            for (at, _), due in zip(sent, dues)))
        # One that nobody overtakes does not count.
        self.sent(self.sky(reorder=100), 100, every=1)
        self.assertEqual(self.counts["reordered"], 0)

    def test_delay_varies_and_keeps_the_order(self):
        sent = self.sent(self.sky(delay_ms=200, jitter_ms=100), 1000, every=1)
        late = [out[0][0] - at for at, out in sent]
        self.assertTrue(0.1 <= min(late) < 0.12 and 0.28 < max(late) <= 0.3 + 1e-6)
        dues = [out[0][0] for _, out in self.sent(self.sky(delay_ms=200, jitter_ms=100), 1000)]
        self.assertEqual(dues, sorted(dues))

    def test_a_narrow_link_has_its_rate_and_a_short_queue(self):
        sent = self.sent(self.sky(mbit=1), 10_000)  # 15.4 Mbit, in one second
        came = [out[0] for _, out in sent if out]
        self.assertAlmostEqual(len(came) * 154 * 8 / came[-1][0] / 1e6, 1, delta=0.05)
        self.assertLess(max(out[0][0] - at for at, out in sent if out), weather.QUEUE_S + 0.01)
        self.assertEqual(self.counts["overflowed"], 10_000 - len(came))
        self.assertGreater(self.counts["held_back"], 500)

    def test_a_forged_reset_has_the_next_number(self):
        for data, flags, number in ((b"", 0x10, 1000), (b"x" * 9, 0x18, 1009), (b"x", 0x11, 1002)):
            forged = weather.reset_after(frame(data, 1000, flags))
            self.assertEqual(forged[:14] + forged[26:38], frame(data)[:14] + frame(data)[26:38])
            self.assertEqual(struct.unpack("!I", forged[38:42])[0], number)
            self.assertEqual((forged[47], tcp_sum(forged[34:])), (4, 0))
            self.assertEqual(weather._checksum(forged[14:34]), 0)
        for flags in (0x02, 0x12, 0x04):
            self.assertIsNone(weather.reset_after(frame(b"", 1000, flags)))
        wrapped = weather.reset_after(frame(b"xx", 0xffffffff))
        self.assertEqual(wrapped[38:42], b"\0\0\0\1")

    def test_any_bytes_are_a_frame(self):
        rng = random.Random(1)
        sky = self.sky(duplicate=5, reorder=25, corrupt=50, disguise=50, reset=50)
        for _ in range(5000):
            made = bytearray(frame(rng.randbytes(rng.randrange(20))))
            for _ in range(rng.randrange(4)):
                made[rng.randrange(12, len(made))] = rng.randrange(256)
            sky.through(bytes(made[:rng.randrange(14, len(made) + 1)]), 0)
            sky.through(rng.randbytes(rng.randrange(14, 100)), 0)


LISTEN = """
import hashlib, socket
with socket.create_server(("10.77.0.2", 5000)) as s:
    print("{}", flush=True)
    s.settimeout(20)
    c, _ = s.accept()
    c.settimeout(3)
    held = hashlib.sha256()
    size = 0
    try:
        while True:
            data = c.recv(1 << 20)
            if not data:
                break
            held.update(data)
            size += len(data)
        end = "whole"
    except OSError as e:
        end = type(e).__name__
import json
print(json.dumps({"end": end, "size": size, "sha": held.hexdigest()}))
"""
SEND = """
import random, socket, sys
s = socket.create_connection(("10.77.0.2", 5000), 20)
try:
    s.sendall(random.Random(1).randbytes(int(sys.argv[1])))
    s.close()
except OSError:
    pass
"""


class Networks(unittest.TestCase):
    def setUp(self):
        why_not = Network.why_not()
        if why_not:
            self.skipTest(why_not)
        self.network = Network(["a", "b"], seed=1)
        self.network.__enter__()
        self.addCleanup(self.network.__exit__)

    def transfer(self, size, lossy=False):
        """What came of so many bytes from a to b, and whether they are all there."""
        def at(name, code, *words):
            process = fleet.Process(name, [*self.network.inside(name), sys.executable, "-c", code,
                                           *words])
            self.addCleanup(process.close)
            return process
        listener = at("b", LISTEN)
        listener.wait_for("listening", lambda o: True, 20)
        at("a", SEND, str(size))
        listener.wait(60)
        got = listener.objects[-1]
        return got["end"], got["sha"] == hashlib.sha256(
            random.Random(1).randbytes(size)).hexdigest()

    def test_without_weather_all_comes_through(self):
        self.assertEqual(self.transfer(20_000_000), ("whole", True))
        counts = self.network.counts()
        self.assertGreater(counts.pop("forwarded"), 2000)
        self.assertEqual(set(counts.values()), {0})

    def test_what_tcp_mends_it_mends(self):
        for name in ("a", "b"):
            self.network.worsen(name, loss=1, duplicate=5, reorder=25, corrupt=1)
        self.assertEqual(self.transfer(10_000_000), ("whole", True))
        counts = self.network.counts()
        for what in ("lost", "duplicated", "reordered", "corrupted"):
            self.assertGreater(counts[what], 0, what)

    def test_tcp_does_not_see_what_is_disguised(self):
        self.network.worsen("a", disguise=5)
        self.assertEqual(self.transfer(5_000_000), ("whole", False))

    def test_a_forged_reset_ends_a_connection(self):
        self.network.worsen("a", reset=5)
        self.assertEqual(self.transfer(5_000_000), ("ConnectionResetError", False))

    def test_in_a_black_hole_short_ones_pass(self):
        self.network.worsen("a", longest=1400)
        self.assertEqual(self.transfer(1000), ("whole", True))
        self.assertEqual(self.transfer(5_000_000)[1], False)
        self.assertGreater(self.network.counts()["swallowed"], 0)
        self.network.better("a")
        self.assertEqual(self.transfer(5_000_000), ("whole", True))

    def test_cut_and_healed(self):
        self.network.mute("b", "a")
        self.network.unplug("a")
        self.network.plug("a")
        ping = [*self.network.inside("a"), sys.executable, "-c",
                "import socket; socket.create_connection(('10.77.0.2', 5000), 1.5)"]
        # Nobody listens: refused, where that is heard.
        for heard in (False, True):
            done = subprocess.run(ping, stderr=subprocess.PIPE, timeout=20)
            self.assertEqual(b"ConnectionRefusedError" in done.stderr, heard, done.stderr)
            self.assertGreater(self.network.counts()["cut"], 0)
            self.network.unmute("b", "a")

    def test_nothing_is_left_behind(self):
        self.network.worsen("a", delay_ms=1000)
        switch, space = self.network._switch, self.network.space("a")
        self.assertTrue(pathlib.Path("/run/netns", space).exists())
        self.network.__exit__()
        self.assertEqual(switch.returncode, 0)
        self.assertFalse(pathlib.Path("/run/netns", space).exists())


if __name__ == "__main__":
    unittest.main()
