"""Decides how processes on one machine stand in networks of their own, and how these are broken.

One namespace a node, all joined by a process (switch.py) that carries every frame from one to
another, so that nothing of the machine's own network is touched, and anything can happen to a
frame. Needs root, iproute2 and /dev/net/tun; `Network.why_not()` says what is missing.
"""
from __future__ import annotations

import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys

SWITCH = pathlib.Path(__file__).with_name("switch.py")
PATIENCE_S = 20


class NetworkError(Exception):
    """A command of iproute2 or the switch failed. The text is what it said."""


def _ip(*words):
    done = subprocess.run(["ip", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          timeout=PATIENCE_S)
    if done.returncode != 0:
        raise NetworkError(f"ip {' '.join(words)}: {done.stderr.decode().strip()}")
    return done.stdout.decode()


class Network:
    """Nodes are named; their addresses are 10.77.0.1 and upwards, in the order of `names`. `mtu` is
    in bytes: large frames are few, which the switch has to carry one by one."""

    def __init__(self, names, mtu=9000, seed=0):
        self.prefix = f"lockstep-{os.getpid()}"
        self.names, self.mtu, self.seed = list(names), mtu, seed
        self.addresses = {n: f"10.77.0.{i + 1}" for i, n in enumerate(self.names)}
        self.hardware = {n: f"02:00:00:01:00:{i + 1:02x}" for i, n in enumerate(self.names)}
        self._made = []
        self._switch, self._control = None, None
        self._unplugged, self._muted = set(), set()

    @staticmethod
    def why_not():
        """Why there cannot be one here, or None."""
        if not shutil.which("ip"):
            return "iproute2 is not installed"
        try:
            with Network(["try"]):
                return None
        except (NetworkError, OSError, subprocess.SubprocessError) as problem:
            return f"network namespaces with TAP devices are not permitted here ({problem})"

    def __enter__(self):
        try:
            for name in self.names:
                _ip("netns", "add", self.space(name))
                self._made.append(self.space(name))
            self._start_switch()
            for name in self.names:
                self._set_up(name)
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start_switch(self):
        self._control, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.settimeout(PATIENCE_S)
        nodes = json.dumps([[self.space(n), self.hardware[n]] for n in self.names])
        with other:
            # A session of its own: a key that interrupts the test must not end it first.
            self._switch = subprocess.Popen(
                [sys.executable, "-B", str(SWITCH), str(other.fileno()), nodes],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=[other.fileno()],
                start_new_session=True)
        self._answer()

    def _set_up(self, name):
        space = self.space(name)
        _ip("-n", space, "link", "set", "lo", "up")
        _ip("-n", space, "link", "set", "eth0", "address", self.hardware[name], "mtu",
            str(self.mtu), "txqueuelen", "1000")
        _ip("-n", space, "addr", "add", f"{self.addresses[name]}/24", "dev", "eth0")
        _ip("-n", space, "link", "set", "eth0", "up")
        for other in self.names:
            # Fixed entries: a broken direction must not be found out through ARP.
            if other != name:
                _ip("-n", space, "neigh", "replace", self.addresses[other], "lladdr",
                    self.hardware[other], "nud", "permanent", "dev", "eth0")

    def __exit__(self, *_):
        if self._control:
            self._control.close()
        if self._switch:
            try:
                self._switch.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                self._switch.kill()
                self._switch.wait()
            if self._switch.returncode != 0:
                print(f"the switch ended with {self._switch.returncode}")
        for namespace in reversed(self._made):
            try:
                _ip("netns", "del", namespace)
            except (NetworkError, subprocess.SubprocessError) as problem:
                print(f"left behind: {problem}")
        self._made, self._switch, self._control = [], None, None

    def space(self, name):
        return f"{self.prefix}-{name}"

    def inside(self, name):
        """The words that run a program as that node."""
        return ["ip", "netns", "exec", self.space(name)]

    def _answer(self):
        try:
            said = self._control.recv(1 << 16)
        except OSError as problem:
            raise NetworkError(f"the switch does not answer: {problem}") from None
        if not said:
            raise NetworkError("the switch has ended")
        said = json.loads(said)
        if "error" in said:
            raise NetworkError(said["error"])
        return said["counts"]

    def _order(self, **order):
        try:
            self._control.send(json.dumps(order).encode())
        except OSError as problem:
            raise NetworkError(f"the switch takes no orders: {problem}") from None
        return self._answer()

    def counts(self):
        """Frames since the beginning, by what became of them: weather.COUNTS, and "forwarded",
        "cut" and "undelivered"."""
        return self._order()

    def _index(self, name, towards):
        return [self.names.index(name), self.names.index(towards)]

    def _close(self):
        self._order(closed=[self._index(a, b) for a in self.names for b in self.names if a != b and (
            (a, b) in self._muted or {a, b} & self._unplugged)])

    def unplug(self, name):
        """Pulls the cable: nothing comes through in either direction, and nobody is told."""
        self._unplugged.add(name)
        self._close()

    def plug(self, name):
        self._unplugged.discard(name)
        self._close()

    def mute(self, name, towards):
        """What `name` sends to `towards` is lost, in silence; the other direction works."""
        self._muted.add((name, towards))
        self._close()

    def unmute(self, name, towards):
        self._muted.discard((name, towards))
        self._close()

    def _weather(self, name, towards, sky, shared=False):
        self.seed += 1
        self._order(ways=[self._index(name, to) for to in towards or self.names if to != name],
                    sky=sky, seed=self.seed, shared=shared)

    def narrow(self, name, mbit):
        """All that `name` sends, to whomever, has to go through one link of so many Mbit/s."""
        self._weather(name, (), {"mbit": mbit}, shared=True)

    def worsen(self, name, towards=(), **sky):
        """What `name` sends to those of `towards`, or to all, has the weather that `weather.Sky`
        has with these words, instead of what it had."""
        self._weather(name, towards, sky)

    def better(self, name, towards=()):
        self._weather(name, towards, None)
