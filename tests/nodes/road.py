"""Decides what befalls bytes between two processes: they are held to a rate, looked at, or changed."""
from __future__ import annotations

import socket
import threading
import time


class Road:
    """Listens on loopback and leads to `target`, HOST:PORT. Use it as a context.

    `rate` is in bytes a second, for what comes from the target, of all connections together; None
    is no limit. It may be changed at any time. Bytes on their way are few: a narrow road pushes
    back, as a link does.

    `through(connection, outward, data)`, where there is one, is called with all that comes by and
    returns what is passed on. Connections are numbered from 0 as they come; `outward` is towards the
    target. It may be exchanged at any time.
    """

    _QUEUE = 16 << 10

    def __init__(self, target, through=None):
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(0.05)
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.rate = None
        self.through = through
        self._count = 0
        self._free_at = 0.0
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._threads = []

    def __enter__(self):
        self._run(self._accept)
        return self

    def __exit__(self, *exception):
        self._over.set()
        for t in self._threads:
            t.join()
        self._listener.close()

    def _run(self, work, *arguments):
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self):
        while not self._over.is_set():
            try:
                near, _ = self._listener.accept()
            except socket.timeout:
                continue
            far = socket.socket()
            for s in (near, far):
                s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self._QUEUE)
                s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._QUEUE)
                s.settimeout(0.05)
            try:
                far.connect(self._target)
            except OSError:
                near.close()
                far.close()
                continue
            self._run(self._pump, near, far, False, self._count)
            self._run(self._pump, far, near, True, self._count)
            self._count += 1

    def _wait_for_turn(self, size):
        with self._lock:
            rate = self.rate
            if rate is None:
                self._free_at = 0.0
                return
            now = time.monotonic()
            self._free_at = max(self._free_at, now) + size / rate
            wait = self._free_at - now
        self._over.wait(wait)

    def _pump(self, source, sink, held, number):
        try:
            while not self._over.is_set():
                size = self._QUEUE
                if held and self.rate is not None:
                    size = max(1, min(size, int(self.rate / 20)))
                try:
                    data = source.recv(size)
                except socket.timeout:
                    continue
                if not data:
                    break
                if self.through:
                    data = self.through(number, not held, data)
                if held:
                    self._wait_for_turn(len(data))
                view = memoryview(data)
                while view and not self._over.is_set():
                    try:
                        view = view[sink.send(view):]
                    except socket.timeout:
                        continue
        except OSError:
            pass
        for s in (source, sink):
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
