#!/usr/bin/env python3
"""Decides whether the checker can be trusted: a history that is right has no violation, and with one
lie in it the one that is meant, and no history passes for want of lines."""
from __future__ import annotations

import copy
import unittest

import blackbox
import checker

BOUNDS = checker.Bounds(lease=2.0, slack=0.5, settle=4.0, heal=10.0)


class Made:
    """A history made by hand. Times are seconds."""

    def __init__(self):
        self.lines = []

    def add(self, at, role, kind, **more):
        line = {"role": role, "kind": kind, "t": int(at * 1e9), **more}
        self.lines.append(line)
        return line

    def driver(self, at, kind, of, id=None, **more):
        return self.add(at, "driver", kind, of=of, id=id, life=1, **more)

    def seed(self, at, version, label, sum, life=1, done=True):
        self.add(at, "trainer", "seed", life=life, label=label, sum=sum)
        if done:
            self.add(at + 0.1, "trainer", "seeded", life=life, label=label, version=version)

    def sync(self, at, version, label, sum, engines, life=1, result="ok", status="ok", done=True):
        self.add(at, "trainer", "sync", life=life, label=label, sum=sum)
        if done:
            told = [{"id": e, "status": status, "reason": "none", "member": status == "ok",
                     "version": version} for e in engines]
            return self.add(at + 0.1, "trainer", "synced", life=life, label=label, result=result,
                            reason="none", base="0.0", target=version, receivers=told)
        return None

    def served(self, at, id, version, label, sum, end=None, life=1):
        end = (version, label) if end is None else end
        return self.add(at + 0.02, "engine", "generation", id=id, life=life, begin=int(at * 1e9),
                        end=int((at + 0.01) * 1e9), version=version, label=label,
                        version_end=end[0], label_end=end[1], sum=sum, withdrawn=0)

    def find(self, kind, n=0):
        return [l for l in self.lines if l["kind"] == kind][n]

    def forget(self, id, at):
        self.lines.remove(next(l for l in self.lines if l["kind"] == "generation" and l["id"] == id
                               and l["begin"] == int(at * 1e9)))

    def violations(self):
        lines = sorted(copy.deepcopy(self.lines), key=lambda l: l["t"])
        return checker.check(lines, BOUNDS).violations


def honest():
    """Two engines; a trainer of which two lives sync a version each, the second from an older state
    and on another way; engine 1 is stopped for a while and then killed; all is well in the end."""
    h = Made()
    for role, id in (("trainer", None), ("engine", 0), ("engine", 1)):
        h.driver(0, "started", role, id)
    h.seed(1, "5.0", 10, "aa")
    for e in (0, 1):
        h.served(1.5, e, "5.0", 10, "aa")
    h.sync(2, "5.3", 11, "bb", [0, 1])
    h.served(2.05, 0, "5.3", 11, "bb")  # before anybody reports it
    for e in (0, 1):
        h.served(2.5, e, "5.3", 11, "bb")
    h.driver(2.6, "stopping", "engine", 1)
    h.driver(2.7, "stopped", "engine", 1)
    h.sync(3, "5.4", 12, "cc", [0])
    h.served(3.2, 0, "5.4", 12, "cc")
    h.driver(5.6, "killing", "engine", 1)
    h.driver(5.7, "ended", "engine", 1, code=-9, wanted=[-9])
    h.driver(6, "killing", "trainer")
    h.driver(6.1, "ended", "trainer", code=-9, wanted=[-9])
    h.served(8, 0, "5.4", 12, "cc")  # within its lease
    h.driver(9, "started", "engine", 1)
    h.driver(10, "started", "trainer")
    h.seed(10, "6.0", 10, "aa", life=2)
    h.served(10.5, 0, "6.0", 10, "aa")
    h.sync(11, "6.2", 11, "dd", [0, 1], life=2)  # another 11 than that of the first life
    h.sync(12, "6.2", 12, "ee", [0, 1], life=2, result="aborted", status="aborted")
    h.add(13, "driver", "faults over")
    h.sync(13, "6.4", 13, "ff", [0, 1], life=2)
    for e in (0, 1):
        h.served(14, e, "6.4", 13, "ff")
    h.add(15, "trainer", "finished", life=2, label=13, version="6.4", audit=True,
          receivers=[{"id": e, "version": "6.4", "pass": True, "why_not": ""} for e in (0, 1)])
    for role, id in (("engine", 1), ("engine", 0), ("trainer", None)):
        h.driver(20, "ending", role, id)
        h.driver(20.1, "ended", role, id, code=0, wanted=[0])
    return h


class Lies(unittest.TestCase):
    """Each spoils the honest history in one way."""

    def found(self, h, letter, words, only=True):
        violations = h.violations()
        self.assertTrue(any(v.startswith(f"({letter})") and words in v for v in violations), violations)
        if only:
            self.assertTrue(all(v.startswith(f"({letter})") for v in violations), violations)

    def test_an_honest_history_passes(self):
        self.assertEqual(honest().violations(), [])

    def test_a_wrong_checksum(self):
        h = honest()
        h.served(2.55, 0, "5.3", 11, "b0")
        self.found(h, "a", "with sum b0 rather than bb")

    def test_the_bytes_of_the_version_before(self):
        h = honest()
        h.served(2.55, 0, "5.3", 11, "aa")
        self.found(h, "a", "with sum aa rather than bb")

    def test_the_bytes_of_another_lifes_label(self):
        h = honest()
        h.served(11.5, 0, "6.2", 11, "bb")
        self.found(h, "a", "with sum bb rather than dd")

    def test_a_tag_at_the_end_that_is_of_other_bytes(self):
        h = honest()
        h.served(2.55, 0, "5.3", 11, "bb", end=("5.4", 12))
        self.found(h, "a", "label 12, with sum bb rather than cc", only=False)

    def test_a_label_that_is_not_the_versions(self):
        h = honest()
        h.served(2.55, 0, "5.3", 12, "bb")
        self.found(h, "a", "which is sync 11 of life 1", only=False)

    def test_a_version_that_nobody_offered(self):
        h = honest()
        h.served(14.5, 0, "6.9", 99, "ff")
        self.found(h, "a", "which nobody offered")

    def test_no_version(self):
        h = honest()
        h.served(14.5, 0, "0.0", 0, "ff")
        self.found(h, "a", "no version", only=False)

    def test_what_an_aborted_sync_offered(self):
        h = honest()
        h.served(12.5, 0, "6.3", 12, "ee")
        self.found(h, "a", "whose sync was aborted")

    def test_what_came_of_a_sync_that_nobody_reported(self):
        def lost(sum):
            h = honest()
            h.sync(5.9, None, 13, "c1", [], done=False)
            h.served(5.95, 0, "5.5", 13, sum)
            h.forget(0, 8)
            return h
        self.assertEqual(lost("c1").violations(), [])
        self.found(lost("c2"), "a", "with sum c2 rather than ['c1']")

    def test_a_label_that_is_known_to_be_another_version(self):
        h = honest()
        h.served(5.95, 0, "5.9", 12, "cc")
        self.found(h, "a", "served 5.9, label 12, which nobody offered", only=False)

    def test_what_an_aborted_sync_offered_before_a_seed_that_nobody_reported(self):
        h = honest()
        h.sync(5, None, 13, "c1", [0], result="aborted", status="aborted")
        h.seed(5.5, None, 13, "c2", done=False)
        h.served(5.95, 0, "5.9", 13, "c1")
        self.found(h, "a", "with sum c1 rather than ['c1', 'c2']", only=False)

    def test_two_contents_of_a_version_that_nobody_reported(self):
        h = honest()
        h.sync(5.9, None, 13, "c1", [], done=False)
        h.served(5.95, 0, "5.5", 13, "c1")
        h.served(6.05, 0, "5.5", 14, "c1")
        self.found(h, "a", "label 14", only=False)

    def test_an_earlier_content_under_a_run_of_the_same_life(self):
        h = honest()
        h.served(13.5, 0, "6.4", 13, "ff")
        h.sync(15.5, "8.1", 14, "a1", [0], life=2)
        h.served(15.2, 0, "7.0", 13, "ff")  # the run began anew from what it had
        h.find("finished").update(version="8.1", label=14)
        for e in (0, 1):
            h.served(16, e, "8.1", 14, "a1")
        self.assertEqual(h.violations(), [])

    def test_a_version_that_goes_back(self):
        h = honest()
        h.served(3.3, 0, "5.3", 11, "bb")
        self.found(h, "b", "served 5.3 after 5.4", only=False)

    def test_a_version_that_goes_back_within_a_generation(self):
        h = honest()
        h.served(10.7, 0, "6.0", 10, "aa", end=("5.0", 10))
        self.found(h, "b", "served 5.0 after 6.0", only=False)

    def test_a_version_of_a_run_that_is_over(self):
        h = honest()
        h.served(10.6, 0, "5.4", 12, "cc")
        self.found(h, "b", "served 5.4 after 6.0", only=False)

    def test_a_label_that_goes_back_within_a_run(self):
        h = honest()
        h.sync(4, "5.5", 9, "c9", [0])
        h.served(4.5, 0, "5.5", 9, "c9")
        h.forget(0, 8)
        self.found(h, "b", "served label 9 after 12 in run 5")

    def test_who_was_reported_and_serves_something_older(self):
        h = honest()
        h.forget(0, 2.05)
        h.served(2.15, 0, "5.0", 10, "aa")
        self.found(h, "c", "reported to hold 5.3, and served 5.0 afterwards")

    def test_who_was_reported_and_was_dead(self):
        h = honest()
        h.find("synced", 1)["receivers"].append(
            {"id": 1, "status": "ok", "reason": "none", "member": True, "version": "5.4"})
        self.found(h, "c", "was dead or stopped all through sync 12")

    def test_who_was_reported_as_recovered_and_was_dead(self):
        h = honest()
        h.find("synced", 1)["receivers"].append(
            {"id": 1, "status": "timeout", "reason": "none", "member": True, "version": "5.4"})
        self.found(h, "c", "was dead or stopped all through sync 12")

    def test_who_was_reported_and_does_not_serve(self):
        h = honest()
        h.lines = [l for l in h.lines if not (l["kind"] == "generation" and l["id"] == 1 and l["t"] > 13e9)]
        h.served(19, 1, "6.4", 13, "ff")
        self.found(h, "c", "engine 1 was reported to hold 6.4, and served nothing")

    def test_who_was_reported_and_could_not_serve(self):
        h = honest()  # engine 1 is stopped, long before the trainer dies
        h.find("killing", 1)["t"], h.find("ended", 1)["t"] = int(6.2e9), int(6.3e9)
        h.lines = [l for l in h.lines if not (l["kind"] == "generation" and l["id"] == 1 and l["t"] < 13e9)]
        self.assertEqual(h.violations(), [])
        h = honest()  # the trainer dies
        h.sync(5.8, "5.5", 13, "c5", [0])
        h.forget(0, 8)
        h.lines = [l for l in h.lines if not (l["kind"] == "generation" and l["t"] > 5e9 and l["t"] < 10.4e9)]
        h.forget(0, 10.5)
        self.assertEqual(h.violations(), [])
        h = honest()  # nobody has looked for long enough
        h.lines = [l for l in h.lines if l["t"] < 16e9]
        h.sync(15.5, "6.5", 14, "a5", [0, 1], life=2)
        for e in (0, 1):
            h.served(15.55, e, "6.5", 14, "a5")
        h.find("finished").update(version="6.5", label=14)
        self.assertEqual(h.violations(), [])

    def test_what_was_not_offered_yet(self):
        h = honest()
        h.served(1.9, 0, "5.3", 11, "bb")
        self.found(h, "d", "before sync 11")

    def test_what_was_not_seeded_yet(self):
        h = honest()
        h.served(0.5, 0, "5.0", 10, "aa")
        self.found(h, "d", "before seed 10")

    def test_service_after_the_lease_of_a_dead_trainer(self):
        h = honest()
        h.served(8.7, 0, "5.4", 12, "cc")
        self.found(h, "e", "after the trainer's killing")

    def test_service_after_the_lease_of_a_stopped_trainer(self):
        h = honest()
        h.driver(15, "stopping", "trainer")
        h.driver(15.1, "stopped", "trainer")
        h.served(17.5, 0, "6.4", 13, "ff")
        self.assertEqual(h.violations(), [])
        h.served(17.7, 0, "6.4", 13, "ff")
        self.found(h, "e", "after the trainer's stopping")

    def test_who_was_stopped_may_hear_what_was_said_just_now(self):
        def stopped(until, at):
            h = honest()
            h.driver(15.0, "stopping", "engine", 0)
            h.driver(15.05, "stopping", "trainer")
            h.driver(15.1, "stopped", "trainer")
            h.driver(until, "going on", "engine", 0)
            h.served(at, 0, "6.4", 13, "ff")
            return h
        self.assertEqual(stopped(16.5, 18.9).violations(), [])
        self.found(stopped(16.5, 19.1), "e", "after the trainer's stopping")
        # One that was stopped for longer than its lease must not take it for news.
        self.found(stopped(17.8, 17.9), "e", "after the trainer's stopping")
        # One that went on for a while has read all that there was.
        h = stopped(15.2, 15.3)
        h.driver(16.6, "stopping", "engine", 0)
        h.driver(18, "going on", "engine", 0)
        h.served(18.1, 0, "6.4", 13, "ff")
        self.found(h, "e", "after the trainer's stopping")

    def test_service_long_after_a_later_version(self):
        h = honest()
        h.driver(5.5, "going on", "engine", 1)
        h.served(5.62, 1, "5.3", 11, "bb")
        self.found(h, "e", "2.530 s after a later version was reported")

    def test_who_is_not_there_in_the_end(self):
        h = honest()
        h.lines = [l for l in h.lines if not (l["kind"] == "generation" and l["id"] == 1 and l["t"] > 13e9)]
        self.found(h, "f", "engine 1 did not serve 6.4 within", only=False)

    def test_who_is_late_in_the_end(self):
        h = honest()
        h.add(1, "driver", "faults over")
        h.lines.remove(next(l for l in h.lines if l["kind"] == "faults over" and l["t"] == 13e9))
        self.found(h, "f", "did not serve 6.4 within 10 s")

    def test_an_audit_that_fails(self):
        h = honest()
        h.find("finished")["audit"] = False
        self.found(h, "f", "the audit")

    def test_an_audit_without_one(self):
        h = honest()
        h.find("finished")["receivers"].pop()
        self.found(h, "f", "not of [0, 1]")

    def test_an_end_that_never_comes(self):
        h = honest()
        h.lines.remove(h.find("finished"))
        self.found(h, "f", "never brought everybody to one version")

    def test_an_end_that_is_not_the_last_version(self):
        h = honest()
        h.find("finished").update(version="6.2")
        self.found(h, "f", "there are later ones")

    def test_a_process_that_ends_unasked(self):
        h = honest()
        h.driver(19, "ended", "engine", 0, code=-6, wanted=[])
        self.found(h, "g", "engine 0 ended with -6")

    def test_a_process_that_does_not_end_well(self):
        h = honest()
        h.find("ended", -1)["code"] = 1
        self.found(h, "g", "ended with 1")

    def test_a_report_of_another_sync(self):
        h = honest()
        h.find("synced")["label"] = 10
        self.found(h, "h", "asked for sync 11 of life 1", only=False)

    def test_a_seed_without_a_version(self):
        h = honest()
        h.find("seeded")["version"] = "0.0"
        self.found(h, "h", "seed 10 of life 1 has no version", only=False)

    def test_a_version_that_names_two_contents(self):
        h = honest()
        h.find("synced", 1)["target"] = "5.3"
        self.found(h, "h", "5.3 is sync 12 of life 1, and was sync 11 of life 1", only=False)

    def test_an_empty_history(self):
        self.assertNotEqual(checker.check([], BOUNDS).violations, [])


class Driver(unittest.TestCase):
    def test_a_plan_is_the_seeds_and_has_all_that_there_is(self):
        plan = blackbox.make_plan(5, 200, 100, 4)
        self.assertEqual(plan, blackbox.make_plan(5, 200, 100, 4))
        self.assertNotEqual(plan, blackbox.make_plan(6, 200, 100, 4))
        self.assertEqual({e["kind"] for e in plan}, set(blackbox.KINDS))
        self.assertEqual({e["checkpoint"] for e in plan}, set(blackbox.CHECKPOINTS))

    def options(self, **more):
        options = blackbox.parse(["trainer", "engine"])
        vars(options).update(more)
        return options

    def test_a_lie_has_to_be_found_and_nobody_else_accused(self):
        found = checker.check([], BOUNDS)
        for violations, good in ((["(a) engine 0 served nonsense"], True), ([], False),
                                 (["(b) engine 0 went back"], False),
                                 (["(a) engine 0 served nonsense", "(c) engine 0 is dead"], True),
                                 (["(a) engine 0 served nonsense", "(a) engine 1 did too"], False),
                                 (["(a) engine 0 served nonsense", "(f) the audit"], False)):
            found.violations = violations
            self.assertEqual(blackbox.verdict(self.options(lie="flip"), found)[0] == [], good, violations)

    def test_a_run_that_shows_nothing_fails(self):
        box = blackbox.Blackbox.__new__(blackbox.Blackbox)
        box.options = self.options(seconds=40, engines=2)
        enough = {"syncs": {"ok": 30, "recovered": 10, "aborted": 1}, "generations": {0: 80, 1: 80}}
        self.assertEqual(list(box.too_little(enough)), [])
        self.assertEqual(len(list(box.too_little({**enough, "syncs": {"ok": 39, "aborted": 9}}))), 1)
        self.assertEqual(len(list(box.too_little({**enough, "generations": {0: 80}}))), 1)


if __name__ == "__main__":
    unittest.main()
