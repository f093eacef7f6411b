#!/usr/bin/env python3
"""Decides whether a history of trainers and engines keeps what Lockstep promises to whoever embeds it.

    checker.py HISTORY      one JSON object a line, as blackbox.py writes them

The history is all it knows: what each process wrote down before and after its calls, and what was
done to the processes. It shares no code with Lockstep, its simulator or its other tests. Each
statement below is one letter of `STATEMENTS`; a violation begins with it.

Lines: `role` ("trainer", "engine", "driver"), `id` of an engine, `life` (which start of it), `kind`
and `t`, nanoseconds of the machine's monotonic clock. A time that is compared with another process's
is taken on the side where it can only make the statement weaker.
"""
from __future__ import annotations

import bisect
import json
import sys

STATEMENTS = {
    "a": "what is served under a tag is what the trainer offered under it, to the last byte",
    "b": "the tags of an engine never go back, nor its labels within a run",
    "c": "who was reported to hold a version was there, and serves that or a later one afterwards",
    "d": "nothing is served before it was offered",
    "e": "nothing is served for longer than a lease after its trainer fell silent, or after a later "
         "version was reported",
    "f": "when the faults are over all serve the last version, and the audit passes",
    "g": "no process ends unasked, or otherwise than it was asked to",
    "h": "a report is of the sync that it was asked of, and a version names one content for ever",
}

NEVER = float("inf")


def version_of(text):
    """"run.number" as a pair, or None for the version that there is not."""
    run, _, number = str(text).partition(".")
    return (int(run), int(number)) if run.isdigit() and number.isdigit() and int(run) else None


def shown(version):
    return "no version" if version is None else f"{version[0]}.{version[1]}"


class Bounds:
    """Seconds. `lease`: as the engines are set. `slack`: what a busy machine may add to it. `settle`:
    until who was reported to hold a version is seen to serve. `heal`: until all serve in the end."""

    def __init__(self, lease=2.0, slack=0.5, settle=5.0, heal=30.0):
        self.lease, self.slack, self.settle, self.heal = (
            int(s * 1e9) for s in (lease, slack, settle, heal))


class Offer:
    """One call of `seed` or `sync`, and what came of it."""

    def __init__(self, line):
        self.life, self.kind = line["life"], line["kind"]
        self.label, self.sum, self.begun = line["label"], line["sum"], line["t"]
        self.done = NEVER  # nobody knows what came of it
        self.result = self.target = None

    def aborted(self):
        return self.result == "aborted"

    def __str__(self):
        return f"{self.kind} {self.label} of life {self.life}"


class Gaps:
    """When a process could do nothing: dead or stopped. As it was seen from outside: certainly so
    from `certain` to `end`, and perhaps so from `begin` on."""

    def __init__(self):
        self.all = []  # [kind, begin, certain, end]

    def open(self, kind, begin):
        self.all.append([kind, begin, NEVER, NEVER])

    def certain(self, at):
        if self.all and self.all[-1][2] == NEVER:
            self.all[-1][2] = at

    def close(self, at):
        if self.all and self.all[-1][3] == NEVER:
            self.all[-1][3] = at

    def touches(self, begin, end):
        return any(b <= end and begin <= e for _, b, _, e in self.all)

    def covers(self, begin, end):
        return any(c <= begin and end <= e for _, _, c, e in self.all)


class Checker:
    def __init__(self, bounds=None):
        self.bounds = bounds or Bounds()
        self.violations = []
        self.left_out = 0
        self.offers = []
        self.reports = []  # (offer, line)
        self.names = {}  # version -> its offer
        self.first_run = {}  # life of the trainer -> its first run
        self.generations = {}  # engine -> lines, in the order in which it wrote them
        self.gaps = {}  # (role, id) -> Gaps
        self.ends = []
        self.finished = None
        self.faults_over = None
        self.last = 0
        self.syncs = {}
        self.latest_after_silence = 0

    def violation(self, letter, text):
        assert letter in STATEMENTS
        if len(self.violations) < 100:
            self.violations.append(f"({letter}) {text}")
        else:
            self.left_out += 1

    # What happened

    def read(self, history):
        open_offers = {}  # life -> the offer under way
        for line in history:
            role, kind = line["role"], line["kind"]
            self.last = max(self.last, line["t"])
            if role == "driver":
                self.read_driver(line)
            elif role == "engine" and kind == "generation":
                self.generations.setdefault(line["id"], []).append(line)
            elif role == "trainer" and kind in ("seed", "sync"):
                open_offers[line["life"]] = Offer(line)
                self.offers.append(open_offers[line["life"]])
            elif role == "trainer" and kind in ("seeded", "synced"):
                self.read_done(open_offers.pop(line["life"], None), line)
            elif role == "trainer" and kind == "finished":
                self.finished = line

    def read_done(self, offer, line):
        if offer is None or (offer.kind == "seed") != (line["kind"] == "seeded") or \
                offer.label != line["label"]:
            return self.violation("h", f"asked for {offer}, answered {line}")
        offer.done = line["t"]
        if offer.kind == "seed":
            offer.result, offer.target = "ok", version_of(line["version"])
            if offer.target is None:
                self.violation("h", f"{offer} has no version")
            else:
                self.first_run.setdefault(offer.life, offer.target[0])
        else:
            offer.result = line["result"]
            self.syncs[offer.result] = self.syncs.get(offer.result, 0) + 1
            if not offer.aborted():
                offer.target = version_of(line["target"])
            self.reports.append((offer, line))
        if offer.target is None:
            return None  # the run ended before anybody knew
        known = self.names.setdefault(offer.target, offer)
        if known is not offer and (known.label, known.sum) != (offer.label, offer.sum):
            self.violation("h", f"{shown(offer.target)} is {offer}, and was {known}")
        return None

    def read_driver(self, line):
        kind, at = line["kind"], line["t"]
        if kind == "faults over":
            self.faults_over = at
        if "of" not in line:  # of no process
            return
        gaps = self.gaps.setdefault((line["of"], line.get("id")), Gaps())
        if kind == "started":
            gaps.close(at)
        elif kind in ("killing", "ending", "stopping"):
            # Who was stopped and is killed could do nothing all the while.
            if not gaps.all or gaps.all[-1][3] != NEVER:
                gaps.open(kind, at)
        elif kind in ("stopped", "ended"):
            if kind == "ended":
                self.ends.append(line)
                if not gaps.all or gaps.all[-1][3] != NEVER:
                    gaps.open(kind, at)
            gaps.certain(at)
        elif kind == "going on":
            gaps.close(at)

    def gaps_of(self, role, id=None):
        return self.gaps.setdefault((role, id), Gaps())

    # What must hold

    def check(self):
        for line in self.ends:
            if line["code"] not in line["wanted"]:
                self.violation("g", f"{line['of']} {line.get('id', '')} ended with {line['code']}, "
                                    f"not {line['wanted']}: {line.get('said', '')}")
        # The trainer goes on one version after another: what comes next is reported first.
        self.reported = sorted(self.names)
        self.superseded = [self.names[v].done for v in self.reported] + [NEVER]
        for engine, lines in sorted(self.generations.items()):
            before = None
            for line in lines:
                for at in ("", "_end"):
                    self.check_content(engine, line, version_of(line["version" + at]),
                                       line["label" + at], line["end"] if at == "" else line["t"])
                before = self.check_order(engine, before, line)
                self.check_lease(engine, line)
        for offer, line in self.reports:
            for told in line["receivers"]:
                self.check_report(offer, told)
        self.check_end()
        return self.violations

    def lives_of(self, run):
        """The lives of the trainer that may have led a run: the last whose first run is not later,
        and those after it of which nobody knows a run."""
        known = [life for life, first in self.first_run.items() if first <= run]
        begin = max(known, default=-1)
        later = [life for life, first in self.first_run.items() if first > run and life > begin]
        return begin, min(later, default=NEVER)

    def check_content(self, engine, line, version, label, at):
        """(a), (d). `at`: certainly not before it was asked what may be served."""
        who = f"engine {engine} served {shown(version)}, label {label}"
        if version is None:
            return self.violation("a", f"{who}: {line}")
        offer = self.names.get(version)
        if offer is None:
            offers = self.may_be(version, label)
            if not offers:
                return self.violation("a", f"{who}, which nobody offered")
            if all(o.aborted() for o in offers):
                return self.violation("a", f"{who}, whose sync was aborted")
            # An earlier content of the same label, of a life that nobody can tell: any.
            fits = [o for o in offers if o.sum == line["sum"] and not o.aborted()]
            if not fits:
                return self.violation("a", f"{who}, with sum {line['sum']} rather than "
                                           f"{[o.sum for o in offers]}")
            # From now on it is this.
            offer = self.names.setdefault(version, min(fits, key=lambda o: o.begun))
        if offer.label != label:
            return self.violation("a", f"{who}, which is {offer}")
        if offer.sum != line["sum"]:
            return self.violation("a", f"{who}, with sum {line['sum']} rather than {offer.sum}")
        if at < offer.begun:
            return self.violation("d", f"{who} {(offer.begun - at) / 1e9:.3f} s before {offer}")
        return None

    def may_be(self, version, label):
        """Offers of which nobody said what version they became, or that an earlier run had made and
        a run within the same life has begun from."""
        begin, end = self.lives_of(version[0])
        return [o for o in self.offers if begin <= o.life < end and o.label == label and
                (o.target is None or o.target[0] < version[0])]

    def check_order(self, engine, before, line):
        """(b). Returns what the next must not be below."""
        first = (version_of(line["version"]), line["label"])
        last = (version_of(line["version_end"]), line["label_end"])
        for earlier, later in ((before, first), (first, last)):
            if earlier is None or None in (earlier[0], later[0]):
                continue
            if later[0] < earlier[0]:
                self.violation("b", f"engine {engine} served {shown(later[0])} after {shown(earlier[0])}")
            elif later[0][0] == earlier[0][0] and later[1] < earlier[1]:
                self.violation("b", f"engine {engine} served label {later[1]} after {earlier[1]} "
                                    f"in run {later[0][0]}")
        return last

    def deadline(self, engine, since):
        """Until when an engine may trust what the trainer said at `since` at the latest. Who was
        stopped then may read what was said just now when it goes on, if its lease has not ended."""
        heard = since
        for kind, begin, _, end in self.gaps_of("engine", engine).all:
            if kind == "stopping" and begin <= heard + self.bounds.slack and end > heard and \
                    end - begin < self.bounds.lease + self.bounds.slack:
                heard = end
        return heard + self.bounds.lease + self.bounds.slack

    def check_lease(self, engine, line):
        """(e)"""
        at, version = line["end"], version_of(line["version_end"])
        for kind, _, silent, back in self.gaps_of("trainer").all:
            if silent < at < back:
                self.latest_after_silence = max(self.latest_after_silence, at - silent)
                if at > self.deadline(engine, silent):
                    self.violation("e", f"engine {engine} served {shown(version)} "
                                        f"{(at - silent) / 1e9:.3f} s after the trainer's {kind}")
        if version is None:
            return
        since = self.superseded[bisect.bisect_right(self.reported, version)]
        if since < at and at > self.deadline(engine, since):
            self.violation("e", f"engine {engine} served {shown(version)} {(at - since) / 1e9:.3f} s "
                                "after a later version was reported")

    def check_report(self, offer, told):
        """(c)"""
        engine, target = told["id"], offer.target
        holds = told["status"] == "ok" or (told["member"] and version_of(told["version"]) == target)
        if target is None or offer.aborted() or not holds:
            return
        gaps = self.gaps_of("engine", engine)
        who = f"engine {engine} was reported to hold {shown(target)}"
        if gaps.covers(offer.begun, offer.done):
            self.violation("c", f"{who}, and was dead or stopped all through {offer}")
        lines = self.generations.get(engine, [])
        # By when they began: what was asked later is answered with that or more.
        i = bisect.bisect_right([0] if not lines else self.begins(engine), offer.done)
        if i < len(lines) and version_of(lines[i]["version"]) is not None and \
                version_of(lines[i]["version"]) < target:
            self.violation("c", f"{who}, and served {lines[i]['version']} afterwards")
        until = offer.done + self.bounds.settle
        excused = (until > self.last or gaps.touches(offer.begun, until) or
                   self.gaps_of("trainer").touches(offer.begun, until))
        if not excused and not any(line["begin"] <= until for line in lines[i:i + 1]):
            self.violation("c", f"{who}, and served nothing for {self.bounds.settle / 1e9:g} s")

    def begins(self, engine):
        if not hasattr(self, "_begins"):
            self._begins = {e: [l["begin"] for l in lines] for e, lines in self.generations.items()}
        return self._begins[engine]

    def check_end(self):
        """(f)"""
        if self.finished is None or self.faults_over is None:
            return self.violation("f", "the trainer never brought everybody to one version")
        if not self.finished["audit"]:
            self.violation("f", f"the audit: {self.finished['receivers']}")
        last = version_of(self.finished["version"])
        if last is None or any(version > last for version in self.names):
            self.violation("f", f"the last version is {shown(last)}, and there are later ones")
        engines = {id for role, id in self.gaps if role == "engine"}
        if engines != {told["id"] for told in self.finished["receivers"]}:
            self.violation("f", f"the audit was of {self.finished['receivers']}, not of {sorted(engines)}")
        for engine in sorted(engines):
            at = min((l["end"] for l in self.generations.get(engine, [])
                      if version_of(l["version"]) == last), default=NEVER)
            if at > self.faults_over + self.bounds.heal:
                self.violation("f", f"engine {engine} did not serve {shown(last)} within "
                                    f"{self.bounds.heal / 1e9:g} s after the last fault")
        return None

    def counts(self):
        return {"syncs": self.syncs,
                "generations": {e: len(lines) for e, lines in sorted(self.generations.items())},
                "withdrawn": sum(max((l.get("withdrawn", 0) for l in lines), default=0)
                                 for lines in self.generations.values()),
                "versions": len({l["version"] for lines in self.generations.values() for l in lines}),
                "runs": len({l["version"].partition(".")[0]
                             for lines in self.generations.values() for l in lines}),
                "latest_after_silence_s": round(self.latest_after_silence / 1e9, 3)}


def check(history, bounds=None):
    """The checker after all of `history`, with its `violations`."""
    checker = Checker(bounds)
    checker.read(history)
    checker.check()
    return checker


def main(arguments):
    with open(arguments[0], encoding="utf-8") as file:
        history = [json.loads(line) for line in file]
    bounds = next((l for l in history if l["kind"] == "bounds"), {})
    found = check(history, Bounds(**bounds.get("bounds", {})))
    for violation in found.violations:
        print(f"VIOLATION {violation}")
    if found.left_out:
        print(f"and {found.left_out} more")
    print(json.dumps(found.counts()))
    return 1 if found.violations else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
