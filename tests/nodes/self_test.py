#!/usr/bin/env python3
"""Decides whether the harness itself can be trusted: against a stand-in for the program that is
right, and against the same one broken in each way that the harness exists to find."""
from __future__ import annotations

import contextlib
import io
import json
import os
import pathlib
import random
import signal
import sys
import tempfile
import time
import unittest

import cases
import chaos
import fleet
import model
import network
import partitions
import smoke
import watch

FAKE = pathlib.Path(__file__).with_name("fake_lockstep.py")


def python(code):
    return [sys.executable, "-c", code]


class Processes(unittest.TestCase):
    def started(self, code, **options):
        process = fleet.Process("child", python(code), **options)
        self.addCleanup(process.close)
        return process

    def test_lines_are_read_as_objects_and_the_rest_is_kept_as_garbage(self):
        p = self.started('import sys; print(\'{"a": 1}\'); print("[1]"); print("no");'
                         ' print("err", file=sys.stderr)')
        self.assertEqual(p.wait(10), 0)
        self.assertEqual(list(p.objects), [{"a": 1}])
        self.assertEqual(list(p.garbage), ["[1]", "no"])
        self.assertEqual(list(p.errors), ["err"])

    def test_what_is_kept_is_bounded_and_nothing_blocks(self):
        p = self.started('for i in range(20000): print(\'{"i": %d}\' % i)', keep=100)
        self.assertEqual(p.wait(20), 0)
        self.assertEqual(p.count, 20000)
        self.assertEqual([o["i"] for o in p.objects], list(range(19900, 20000)))

    def test_waiting_has_a_deadline_and_ends_early_with_the_process(self):
        p = self.started("import time; time.sleep(60)")
        began = time.monotonic()
        with self.assertRaises(fleet.Late):
            p.wait_for("nothing", lambda o: True, 0.3)
        with self.assertRaises(fleet.Late):
            p.wait(0.3)
        self.assertLess(time.monotonic() - began, 5)
        q = self.started("raise SystemExit(3)")
        with self.assertRaisesRegex(fleet.Failed, "ended with 3"):
            q.wait_for("nothing", lambda o: True, 10)

    def test_stop_go_on_and_terminate(self):
        p = self.started("import time\nwhile True:\n print('{}', flush=True); time.sleep(0.01)")
        p.wait_for("a line", lambda o: True, 10)
        p.stop()
        time.sleep(0.2)
        count = p.count
        time.sleep(0.2)
        self.assertEqual(p.count, count)
        p.go_on()
        fleet.wait_until("more lines", lambda: p.count > count, 10)
        p.stop()
        self.assertEqual(p.terminate(10), -signal.SIGTERM)

    def test_children_left_behind_are_named_and_killed(self):
        p = self.started("import subprocess, sys, json\n"
                         "c = subprocess.Popen(['sleep', '60'], stdout=subprocess.DEVNULL,"
                         " stderr=subprocess.DEVNULL)\n"
                         "print(json.dumps({'pid': c.pid}))")
        self.assertEqual(p.wait(10), 0)
        child = p.objects[0]["pid"]
        os.kill(child, 0)
        self.assertTrue(p.close())
        fleet.wait_until("the child is gone", lambda: not fleet.group_is_there(p.pid), 5)

    def test_a_dying_test_takes_its_processes_along(self):
        here = str(pathlib.Path(__file__).parent)
        code = (f"import sys, json; sys.path.insert(0, {here!r}); import fleet, os, signal\n"
                "p = fleet.Process('x', ['sleep', '60'])\n"
                "print(json.dumps({'pid': p.pid}), flush=True)\n"
                "os.kill(os.getpid(), signal.SIGKILL)")
        p = self.started(code)
        p.wait(10)
        orphan = p.objects[0]["pid"]
        fleet.wait_until("the orphan is gone", lambda: not fleet.group_is_there(orphan), 5)

    def test_settings_reach_a_child_and_foreign_ones_do_not(self):
        os.environ["LOCKSTEP_LOG_LEVEL"] = "trace"
        self.addCleanup(os.environ.pop, "LOCKSTEP_LOG_LEVEL")
        p = self.started("import os, json\nprint(json.dumps({k: v for k, v in os.environ.items()"
                         " if k.startswith('LOCKSTEP')}))",
                         settings={"sync.members_min": 2, "transport.insecure": True})
        p.wait(10)
        self.assertEqual(p.objects[0], {"LOCKSTEP_SYNC_MEMBERS_MIN": "2",
                                        "LOCKSTEP_TRANSPORT_INSECURE": "true"})


class Models(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.place = pathlib.Path(scratch.name)

    def test_versions_differ_and_are_the_same_for_the_same_seed(self):
        a = model.synthetic(self.place / "a", 7, versions=3, mebibytes=0.1)
        b = model.synthetic(self.place / "b", 7, versions=3, mebibytes=0.1)
        self.assertEqual(a.digests, b.digests)
        self.assertEqual(len(set(a.digests)), 4)
        self.assertEqual([a.expected(n) for n in (0, 1, 3, 4, 5, 8)],
                         [a.digests[n] for n in (0, 1, 3, 0, 1, 0)])
        self.assertEqual(a.labels(2), [1, 2, 3, 4, 5, 6, 7])

    def test_one_flipped_bit_and_every_tear_changes_the_digest(self):
        file = pathlib.Path(model.synthetic(self.place, 1, 1, 0.1).base) / "model.safetensors"
        whole, before = file.read_bytes(), model.digest(file)
        rng = random.Random(1)
        for _ in range(20):
            damaged = bytearray(whole)
            damaged[rng.randrange(len(whole) // 2, len(whole))] ^= 1 << rng.randrange(8)
            file.write_bytes(damaged)
            self.assertNotEqual(model.digest(file), before)
            file.write_bytes(whole)
            model.tear(file, rng)
            self.assertNotEqual(model.digest(file), before)
            file.write_bytes(whole)
        self.assertEqual(model.digest(file), before)
        self.assertEqual(model.digest(self.place / "none"), "(not there)")
        file.write_bytes(b"\xff" * 64)
        self.assertEqual(model.digest(file), "(no safetensors)")


class Plans(unittest.TestCase):
    def test_a_seed_gives_one_plan_over_all_kinds(self):
        plan = chaos.make_plan(5, 200, 100, 8)
        self.assertEqual(plan, chaos.make_plan(5, 200, 100, 8))
        self.assertNotEqual(plan, chaos.make_plan(6, 200, 100, 8))
        self.assertEqual({e["kind"] for e in plan}, set(chaos.KINDS))
        self.assertEqual({e["file"] for e in plan}, set(chaos.FILES))


class Watching(unittest.TestCase):
    class Alive:
        name = "receiver-0"

        @staticmethod
        def running():
            return True

    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.place = pathlib.Path(scratch.name)
        self.versions = model.synthetic(self.place, 1, 2, 0.05)
        self.watch = watch.Watch(self.versions)
        self.member = watch.Member(self.watch, 0, self.place / "out")
        self.member.process = self.Alive()
        self.member.file.parent.mkdir()
        settle = watch.SETTLE_S
        watch.SETTLE_S = 0.3
        self.addCleanup(lambda: setattr(watch, "SETTLE_S", settle))

    def holds(self, version):
        source = "base" if version == 0 else f"stream/step-{version}"
        self.member.file.write_bytes((self.place / source / "model.safetensors").read_bytes())

    def says(self, ready, version="5.1", label=1, phase="serving"):
        self.member.on_object(self.member.process, {
            "kind": "state", "ready": ready, "phase": phase, "version": version, "label": label})

    def test_the_right_bytes_are_proved(self):
        self.says(True)
        self.holds(1)
        self.member.sample()
        self.assertEqual((self.watch.violations, self.watch.counts["proved"]), ([], 1))

    def test_other_bytes_under_ready_are_found(self):
        self.says(True)
        self.holds(2)
        self.member.sample()
        self.assertRegex(self.watch.violations[0], "holds version 2")

    def test_bytes_that_come_after_ready_are_found(self):
        self.says(True)
        self.holds(0)
        self.member.sample(wait=lambda _: self.holds(1))
        self.assertRegex(self.watch.violations[0], "became that only afterwards")

    def test_a_receiver_that_moves_on_meanwhile_is_left_alone(self):
        self.says(True)
        self.holds(2)
        self.member.sample(wait=lambda _: self.says(False, phase="applying"))
        self.assertEqual((self.watch.violations, self.watch.counts["moved"]), ([], 1))

    def test_nobody_who_is_not_ready_or_away_is_looked_at(self):
        self.holds(2)
        self.says(False)
        self.member.sample()
        self.says(True)
        self.member.busy = True
        self.member.sample()
        self.assertEqual(self.watch.violations, [])

    def test_ready_lines_that_cannot_be(self):
        self.says(True, phase="torn")
        self.says(True, version="0.0")
        self.says(True, version="nonsense")
        self.says(True, version="7.3", label=3)
        self.says(True, version="7.3", label=4)
        self.assertEqual(len(self.watch.violations), 4, self.watch.violations)

    def test_healing_is_measured_and_a_later_run_can_be_demanded(self):
        self.member.begin_healing("trainer restart", run_wanted=5)
        self.says(True, version="5.9", label=9)
        self.assertEqual(self.member.healed, [])
        self.says(True, version="6.0", label=0)
        self.assertEqual(self.member.healed[0][0], "trainer restart")


class WholeRuns(unittest.TestCase):
    """Chaos and smoke over the stand-in."""

    def run_chaos(self, broken="", **more):
        os.environ["FAKE_BREAK"] = broken
        self.addCleanup(os.environ.pop, "FAKE_BREAK", None)
        arguments = {"--events": 25, "--seconds": 8, "--receivers": 4, "--seed": 3,
                     "--mebibytes": 0.1, "--heal-seconds": 2, "--period-ms": 40, **more}
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            code = chaos.main([str(FAKE), *[str(w) for pair in arguments.items() for w in pair]])
        return code, json.loads(out.getvalue().splitlines()[-1])

    def test_a_fleet_that_keeps_its_promises_passes(self):
        code, report = self.run_chaos()
        self.assertEqual((code, report["violations"]), (0, []))
        self.assertEqual(report["events"], 25)
        self.assertGreater(report["counts"]["proved"], 20)
        self.assertGreater(report["heal_seconds"]["all"]["n"], 5)

    def found(self, broken, pattern, whole_s=3):
        chaos.WHOLE_S, whole = whole_s, chaos.WHOLE_S
        self.addCleanup(lambda: setattr(chaos, "WHOLE_S", whole))
        code, report = self.run_chaos(broken, **{"--events": 12, "--seconds": 4})
        self.assertEqual(code, 1)
        self.assertRegex("\n".join(report["violations"]), pattern)

    def test_wrong_bytes_are_found(self):
        watch.SETTLE_S, settle = 0.3, watch.SETTLE_S
        self.addCleanup(lambda: setattr(watch, "SETTLE_S", settle))
        # So slow that a version stays for longer than a receiver has for changing its word.
        code, report = self.run_chaos("wrong-bytes", **{"--period-ms": 700})
        self.assertEqual(code, 1)
        self.assertRegex("\n".join(report["violations"]), "its file holds")

    def test_ready_before_the_bytes_is_found(self):
        self.found("early", "only afterwards")

    def test_a_receiver_that_does_not_come_back_is_found(self):
        self.found("never-back", "was not ready")

    def test_a_crash_is_found(self):
        # Not before the fleet was whole once, however busy the machine is.
        self.found("crash", "ended by itself with -11", whole_s=15)

    def test_one_name_for_two_contents_is_found(self):
        self.found("two-names", "is label")

    def run_partitions(self, broken, *more):
        os.environ["FAKE_BREAK"] = broken
        self.addCleanup(os.environ.pop, "FAKE_BREAK", None)
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            code = partitions.main([str(FAKE), "--receivers", "2", "--seed", "1", *more])
        if code == fleet.SKIPPED:
            self.skipTest(out.getvalue())
        return code, json.loads(out.getvalue().splitlines()[-1])

    def test_partitions_pass_and_a_lease_that_never_ends_is_found(self):
        code, report = self.run_partitions("", "--episodes", "3", "--kinds", "cuts")
        self.assertEqual((code, report["violations"]), (0, []))
        code, report = self.run_partitions("no-lease", "--only", "deafen receiver", "--episodes", "3")
        self.assertEqual(code, 1)
        self.assertRegex(report["violations"][0], "ends the lease")

    def test_ends_that_stay_half_open_are_found(self):
        code, report = self.run_partitions("", "--only", "half open", "--episodes", "3")
        self.assertEqual((code, report["violations"]), (0, []))
        self.assertEqual(report["half_open_seconds"]["trainer"]["n"], 3)
        code, report = self.run_partitions("no-lease", "--only", "half open", "--episodes", "3")
        self.assertEqual(code, 1)
        self.assertRegex(report["violations"][0], "still half-open at .'receiver'.")

    def test_weather_passes_and_one_that_does_nothing_is_found(self):
        kinds = ["--only", "loss of 10 %", "--only", "delay"]
        code, report = self.run_partitions("", *kinds)
        self.assertEqual((code, report["violations"]), (0, []))
        self.assertGreater(report["frames"]["lost"], 0)
        self.assertGreater(report["frames"]["delayed"], 0)
        partitions.STRIKE_S, strike = 1, partitions.STRIKE_S
        self.addCleanup(lambda: setattr(partitions, "STRIKE_S", strike))
        worsen = network.Network.worsen
        self.addCleanup(lambda: setattr(network.Network, "worsen", worsen))
        network.Network.worsen = lambda self, name, towards=(), **sky: worsen(self, name, towards)
        code, report = self.run_partitions("", *kinds)
        self.assertEqual(code, 1)
        self.assertRegex(report["violations"][0], "frames (lost|delayed): not within")

    def test_the_quick_cases_that_the_stand_in_can_play(self):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            code = smoke.main([str(FAKE), *cases.BASIC])
        self.assertEqual(code, 0, out.getvalue())


if __name__ == "__main__":
    unittest.main()
