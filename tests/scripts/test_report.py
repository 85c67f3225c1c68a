#!/usr/bin/env python3
"""scripts/test_report.py counts what meson logged and sees what a run leaves behind."""
import json
import os
import subprocess
import sys
import tempfile
import unittest

SCRIPT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../scripts/test_report.py")


class TestReport(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.dir = folder.name

    def log(self, name, results, **fields):
        path = os.path.join(self.dir, name)
        with open(path, "w", encoding="utf-8") as f:
            for i, result in enumerate(results):
                f.write(json.dumps({"name": f"t{i}", "result": result, **fields}) + "\n")
        return path

    def report(self, *args, **env):
        ours = {k: v for k, v in os.environ.items() if k != "LOCKSTEP_TEST_RUN"}
        done = subprocess.run([sys.executable, SCRIPT, *args], capture_output=True, text=True,
                              check=False, env={**ours, **env})
        self.assertEqual(done.stderr, "")
        return done.returncode, done.stdout

    def test_sums_over_logs(self):
        a = self.log("a.json", ["OK", "OK", "EXPECTEDFAIL"])
        b = self.log("b.json", ["OK", "SKIP"], stdout="setting up\nno such device\n")
        code, out = self.report(a, b, os.path.join(self.dir, "absent.json"))
        self.assertEqual(code, 0)
        self.assertIn("t1: no such device\n", out)
        self.assertTrue(out.endswith("\n4 passed, 0 failed, 1 skipped\n"), out)

    def test_every_other_result_is_a_failure(self):
        results = ["OK", "FAIL", "TIMEOUT", "ERROR", "INTERRUPT", "UNEXPECTEDPASS"]
        code, out = self.report(self.log("a.json", results))
        self.assertEqual(code, 1)
        self.assertTrue(out.endswith("\n1 passed, 5 failed, 0 skipped\n"), out)

    def test_a_build_that_failed(self):
        code, out = self.report("--failed", "build-x does not build", self.log("a.json", ["OK"]))
        self.assertEqual(code, 1)
        self.assertTrue(out.endswith("failed: build-x does not build\n1 passed, 1 failed, 0 skipped\n"))

    def test_a_run_of_nothing_fails(self):
        self.assertEqual(self.report(self.log("a.json", []))[0], 1)
        self.assertEqual(self.report(self.log("a.json", ["SKIP"]))[0], 1)

    def test_a_file_left_behind(self):
        log = self.log("a.json", ["OK"])
        with tempfile.TemporaryDirectory() as left:
            self.assertEqual(self.report("--left", left, log)[0], 0)
            with open(os.path.join(left, "segment"), "w", encoding="ascii"):
                pass
            code, out = self.report("--left", left, log)
        self.assertEqual(code, 1)
        self.assertIn(f"left behind: {left}/segment\n1 passed, 1 failed, 0 skipped\n", out)

    def test_a_process_left_behind(self):
        log, run = self.log("a.json", ["OK"]), self.dir
        sleeper = subprocess.Popen(["sleep", "60"], env={**os.environ, "LOCKSTEP_TEST_RUN": run})
        try:
            code, out = self.report(log, LOCKSTEP_TEST_RUN=run)
        finally:
            sleeper.kill()
            sleeper.wait()
        self.assertEqual(code, 1)
        self.assertIn(f"left behind: process {sleeper.pid}: sleep 60\n", out)
        self.assertEqual(self.report(log, LOCKSTEP_TEST_RUN=run)[0], 0)


if __name__ == "__main__":
    unittest.main()
