"""Decides how processes on one machine stand in networks of their own, and how these are broken.

One namespace a node, all joined by a bridge in a namespace in the middle, so that nothing of the
machine's own network is touched. Needs root and iproute2; `Network.why_not()` says what is missing.
"""
from __future__ import annotations

import os
import shutil
import subprocess


class NetworkError(Exception):
    """A command of iproute2 failed. The text is what it said."""


def _ip(*words):
    done = subprocess.run(["ip", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          timeout=20)
    if done.returncode != 0:
        raise NetworkError(f"ip {' '.join(words)}: {done.stderr.decode().strip()}")
    return done.stdout.decode()


class Network:
    """Nodes are named; their addresses are 10.77.0.1 and upwards, in the order of `names`."""

    NOBODY = "02:00:00:00:00:01"  # a hardware address that no node has

    def __init__(self, names):
        self.prefix = f"lockstep-{os.getpid()}"
        self.hub = f"{self.prefix}-hub"
        self.names = list(names)
        self.addresses = {n: f"10.77.0.{i + 1}" for i, n in enumerate(self.names)}
        self.hardware = {n: f"02:00:00:01:00:{i + 1:02x}" for i, n in enumerate(self.names)}
        self._made = []

    @staticmethod
    def why_not():
        """Why there cannot be one here, or None."""
        if not shutil.which("ip"):
            return "iproute2 is not installed"
        name = f"lockstep-{os.getpid()}-try"
        try:
            _ip("netns", "add", name)
        except (NetworkError, subprocess.SubprocessError) as problem:
            return f"network namespaces are not permitted here ({problem})"
        try:
            _ip("-n", name, "link", "add", "name", "here", "type", "veth", "peer", "name", "there")
            _ip("-n", name, "link", "add", "name", "br0", "type", "bridge")
        except (NetworkError, subprocess.SubprocessError) as problem:
            return f"no virtual links here ({problem})"
        finally:
            _ip("netns", "del", name)
        return None

    def __enter__(self):
        try:
            self._add(self.hub)
            _ip("-n", self.hub, "link", "add", "name", "br0", "type", "bridge")
            _ip("-n", self.hub, "link", "set", "br0", "up")
            for index, name in enumerate(self.names):
                self._join(index, name)
            for name in self.names:
                for other in self.names:
                    if other != name:
                        self._knows(name, other, self.hardware[other])
        except BaseException:
            self.__exit__()
            raise
        return self

    def _add(self, namespace):
        _ip("netns", "add", namespace)
        self._made.append(namespace)
        _ip("-n", namespace, "link", "set", "lo", "up")

    def _join(self, index, name):
        space = self.space(name)
        self._add(space)
        _ip("-n", self.hub, "link", "add", "name", f"p{index}", "type", "veth", "peer", "name",
            "eth0", "netns", space)
        _ip("-n", self.hub, "link", "set", f"p{index}", "master", "br0", "up")
        _ip("-n", space, "link", "set", "eth0", "address", self.hardware[name])
        _ip("-n", space, "addr", "add", f"{self.addresses[name]}/24", "dev", "eth0")
        _ip("-n", space, "link", "set", "eth0", "up")

    def _knows(self, name, other, hardware):
        # Fixed entries: a broken direction must not be found out through ARP.
        _ip("-n", self.space(name), "neigh", "replace", self.addresses[other], "lladdr", hardware,
            "nud", "permanent", "dev", "eth0")

    def __exit__(self, *_):
        for namespace in reversed(self._made):
            try:
                _ip("netns", "del", namespace)
            except (NetworkError, subprocess.SubprocessError) as problem:
                print(f"left behind: {problem}")
        self._made = []

    def space(self, name):
        return f"{self.prefix}-{name}"

    def inside(self, name):
        """The words that run a program as that node."""
        return ["ip", "netns", "exec", self.space(name)]

    def _port(self, name):
        return f"p{self.names.index(name)}"

    def unplug(self, name):
        """Pulls the cable: nothing comes through in either direction, and nobody is told."""
        _ip("-n", self.hub, "link", "set", self._port(name), "down")

    def plug(self, name):
        _ip("-n", self.hub, "link", "set", self._port(name), "up")

    def mute(self, name, towards):
        """What `name` sends to `towards` is lost, in silence; the other direction works."""
        self._knows(name, towards, self.NOBODY)

    def unmute(self, name, towards):
        self._knows(name, towards, self.hardware[towards])

    def _tc(self, name, *words):
        subprocess.run(["ip", "netns", "exec", self.space(name), "tc", "qdisc", *words],
                       check=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=20)

    def worsen(self, name, loss_percent, delay_ms, mbit=8):
        """Loss and delay on what `name` sends. Where the kernel has no netem: a link of `mbit`
        Mbit/s whose short queue overflows, which loses and delays as well. Says which of them it
        is."""
        try:
            self._tc(name, "replace", "dev", "eth0", "root", "netem", "loss", f"{loss_percent}%",
                     "delay", f"{delay_ms}ms", f"{delay_ms // 4}ms")
            return "netem"
        except (subprocess.CalledProcessError, FileNotFoundError):
            pass
        try:
            self._tc(name, "replace", "dev", "eth0", "root", "tbf", "rate", f"{mbit}mbit", "burst", "4kb",
                     "limit", "24kb")
            return "tbf"
        except (subprocess.CalledProcessError, FileNotFoundError):
            return None

    def better(self, name):
        try:
            self._tc(name, "del", "dev", "eth0", "root")
        except (subprocess.CalledProcessError, FileNotFoundError):
            pass
