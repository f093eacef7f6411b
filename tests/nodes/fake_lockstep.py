#!/usr/bin/env python3
"""Decides whether the harness is right: a stand-in for the program, for self_test.py alone.

It has the command line and the JSON lines of `lockstep trainer`, `receiver`, `status` and `audit`,
moves whole versions by their path, and promises nothing else. FAKE_BREAK names a way to be wrong
that the harness has to find.
"""
import argparse
import hashlib
import json
import os
import pathlib
import signal
import socket
import sys
import threading
import time

BREAK = os.environ.get("FAKE_BREAK", "")
_print = threading.Lock()


def say(**line):
    with _print:
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


def die(code, text):
    print("lockstep: " + text, file=sys.stderr)
    os._exit(code)


def model_file(place):
    place = pathlib.Path(place)
    file = place if place.is_file() else place / "model.safetensors"
    if not file.is_file():
        die(2, f"{place}: no checkpoint")
    return str(file)


def hash_of(path):
    return hashlib.blake2b(pathlib.Path(path).read_bytes()).hexdigest()


def address(text):
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


class Line:
    """JSON lines over a socket; None at the end or when nothing came for `seconds`."""

    def __init__(self, sock):
        self.sock, self.file, self.lock = sock, sock.makefile("rb"), threading.Lock()

    def send(self, **value):
        with self.lock:
            try:
                self.sock.sendall(json.dumps(value).encode() + b"\n")
            except OSError:
                pass

    def get(self, seconds):
        try:
            self.sock.settimeout(seconds)
            line = self.file.readline(1 << 16)
            value = json.loads(line) if line.endswith(b"\n") else None
            return value if isinstance(value, dict) else None
        except (OSError, ValueError):
            return None

    def close(self):
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.sock.close()


class Trainer:
    def __init__(self, options):
        self.options = options
        base = model_file(options.base)
        found = []
        if options.stream:
            for place in pathlib.Path(options.stream).iterdir():
                found.append((int(place.name.rpartition("-")[2]), model_file(place)))
        self.paths = [base] + [p for _, p in sorted(found)]
        self.layout = os.path.getsize(base)
        self.run = int(time.time() * 1000)
        self.label, self.number, self.current = 0, 0, base
        self.members = {}  # id -> [line, name, last acknowledged version, ready]
        self.changed = threading.Condition()

    def version(self):
        return f"{self.run}.{self.number}"

    def target(self):
        return {"apply": self.current, "version": self.version(), "label": self.label}

    def serve(self):
        try:
            listener = socket.create_server(address(self.options.listen))
        except OSError as e:
            die(3, f"{self.options.listen}: {e.strerror}")
        host, port = listener.getsockname()[:2]
        say(kind="listening", host=host, port=port)

        def accept():
            while True:
                line = Line(listener.accept()[0])
                threading.Thread(target=self.talk, args=(line,), daemon=True).start()
        threading.Thread(target=accept, daemon=True).start()
        threading.Thread(target=self.ping, daemon=True).start()

    def ping(self):
        while True:
            time.sleep(0.2)
            for member in list(self.members.values()):
                member[0].send(ping=True)

    def talk(self, line):
        first = line.get(5)
        if first and "ask" in first:
            line.send(**(self.status() if first["ask"] == "status" else self.audit()))
        elif first and "hello" in first:
            if first["layout"] != self.layout:
                line.send(refused="wrong_layout")
            else:
                self.hear(line, first)
        line.close()

    def hear(self, line, hello):
        id = hello["hello"]
        with self.changed:
            self.members[id] = [line, hello["name"], None, False]
            line.send(**self.target())
        while True:
            answer = line.get(3)
            if answer is None:
                break
            with self.changed:
                if self.members.get(id, [None])[0] is line and "ack" in answer:
                    self.members[id][2:] = [answer["ack"], True]
                    self.changed.notify_all()
        with self.changed:
            if self.members.get(id, [None])[0] is line:
                del self.members[id]
                self.changed.notify_all()

    def all_at(self, count):
        held = [m for m in self.members.values() if m[2] == self.version()]
        return len(held) == len(self.members) and len(held) >= count

    def wait_all(self, count, seconds):
        with self.changed:
            return self.changed.wait_for(lambda: self.all_at(count), seconds)

    def sync(self, path):
        with self.changed:
            before = self.version()
            self.label, self.number, self.current = self.label + 1, self.number + 1, path
            for member in self.members.values():
                member[0].send(**self.target())
        whole = self.wait_all(0, 1.0)
        with self.changed:
            receivers = [{"id": i, "name": m[1], "status": "ok" if m[2] == self.version() else "timeout"}
                         for i, m in sorted(self.members.items())]
        say(kind="sync", version=self.label, base=self.label - 1,
            result="ok" if whole else "degraded", reason="none", base_ref=before,
            target_ref=self.version(), receivers=receivers)

    def play(self):
        while not self.wait_all(self.options.receivers, 1.0):
            pass
        for turn in range(self.options.rounds if len(self.paths) > 1 else 0):
            for path in self.paths[1 if turn == 0 else 0:]:
                self.sync(path)
                time.sleep(self.options.period_ms / 1000)
        whole = self.wait_all(self.options.receivers, 10.0)
        audit = self.audit()
        good = whole and audit["pass"]
        say(kind="summary", syncs=self.number, audit="pass" if good else "fail", receivers=[
            {"id": r["id"], "name": r["name"], "audit": "pass" if r["pass"] else "fail"}
            for r in audit["receivers"]])
        return 0 if good else 1

    def status(self):
        with self.changed:
            return {"kind": "status", "version": self.version(), "receivers": [
                {"id": i, "name": m[1], "member": m[2] is not None, "standing": "member",
                 "ready": m[3] and m[2] == self.version(), "phase": "serving", "version": m[2],
                 "label": self.label, "lag": 0, "phase_ms": 1, "reason": "none", "detail": "",
                 "reseeds": 0, "restarts": 0} for i, m in sorted(self.members.items())]}

    def audit(self):
        with self.changed:
            lines = [{"id": i, "name": m[1], "pass": m[2] == self.version(), "why_not": ""}
                     for i, m in sorted(self.members.items())]
        return {"kind": "audit", "version": self.version(), "receivers": lines,
                "pass": bool(lines) and all(r["pass"] for r in lines)}


def trainer(options):
    secured = any(k.startswith("LOCKSTEP_TRANSPORT_") for k in os.environ)
    if not options.listen.startswith("127.") and not secured:
        die(2, f"{options.listen}: not loopback, and no security is set")
    it = Trainer(options)
    it.serve()
    code = it.play()
    if options.serve:
        while True:
            signal.pause()
    return code


class Receiver:
    def __init__(self, options):
        self.options = options
        self.seed = model_file(options.checkpoint)
        self.file = None
        if options.out:
            out = pathlib.Path(options.out)
            out.mkdir(parents=True, exist_ok=True)
            self.file = out / "model.safetensors"
            self.old = self.file.exists()
            if not self.old or self.file.stat().st_size != os.path.getsize(self.seed):
                self.file.write_bytes(pathlib.Path(self.seed).read_bytes())
        self.said = None

    def state(self, ready, phase, version="0.0", label=0, reason="none"):
        now = (ready, phase, version, label, reason)
        if now != self.said:
            self.said = now
            say(kind="state", ready=ready, phase=phase, version=version, label=label, reason=reason)

    def apply(self, path, version, label):
        if BREAK == "early":
            self.state(True, "serving", version, label)
            time.sleep(0.05)
        else:
            self.state(False, "applying")
        if BREAK == "crash" and label % 5 == 3:
            os.kill(os.getpid(), signal.SIGSEGV)
        if self.file:
            data = bytearray(pathlib.Path(path).read_bytes())
            if BREAK == "wrong-bytes" and label % 3 == 2:
                data[-5] ^= 1
            half = len(data) // 2
            with open(self.file, "r+b", buffering=0) as f:
                f.write(data[:half])
                f.write(data[half:])
                f.truncate(len(data))
        if BREAK == "two-names":
            label += self.options.id % 2
        self.state(True, "serving", version, label)

    def follow(self, line):
        line.send(hello=self.options.id, name=self.options.name or f"receiver-{self.options.id}",
                  layout=os.path.getsize(self.seed))
        while True:
            value = line.get(2.0)
            if value is None and BREAK == "no-lease":
                continue
            if value is None:
                self.state(False, "serving", reason="lease")
                return
            if "refused" in value:
                self.state(False, "empty", reason=value["refused"])
                time.sleep(1)
                return
            if "apply" in value:
                if BREAK == "never-back" and self.file and self.old:
                    continue
                self.apply(value["apply"], value["version"], value["label"])
                line.send(ack=value["version"])
            else:
                line.send(pong=True)

    def run(self):
        self.state(False, "empty", reason="no_trainer")
        while True:
            for place in self.options.connect.split(","):
                try:
                    line = Line(socket.create_connection(address(place), 2))
                except OSError:
                    time.sleep(0.1)
                    continue
                self.follow(line)
                line.close()


def ask(what, options):
    try:
        line = Line(socket.create_connection(address(options.address), 2))
    except OSError as e:
        die(3, f"{options.address}: {e.strerror or e}")
    line.send(ask=what)
    answer = line.get(5)
    if answer is None:
        die(3, f"{options.address}: no answer")
    say(**answer)
    return 0 if what == "status" or answer["pass"] else 1


def main():
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command", required=True)
    t = commands.add_parser("trainer")
    t.add_argument("--base", required=True)
    t.add_argument("--stream")
    t.add_argument("--listen", default="127.0.0.1:0")
    t.add_argument("--receivers", type=int, default=1)
    t.add_argument("--rounds", type=int, default=1)
    t.add_argument("--period-ms", type=int, default=0)
    t.add_argument("--serve", action="store_true")
    r = commands.add_parser("receiver")
    r.add_argument("--connect", required=True)
    r.add_argument("--id", type=int, required=True)
    r.add_argument("--name")
    r.add_argument("--checkpoint", required=True)
    r.add_argument("--out")
    for name in ("status", "audit"):
        commands.add_parser(name).add_argument("address")
    for command in commands.choices.values():
        command.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.command == "trainer":
        return trainer(options)
    if options.command == "receiver":
        return Receiver(options).run()
    return ask(options.command, options)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code or 0)
