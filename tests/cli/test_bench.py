#!/usr/bin/env python3
"""lockstep bench with the demo model and tiny sizes: what it prints, and what it refuses. No time is judged.

usage: test_bench.py LOCKSTEP MPIRUN
"""
import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import unittest

LOCKSTEP, MPIRUN = os.path.abspath(sys.argv[1]), sys.argv[2]
ENV = {"ASAN_OPTIONS": "detect_leaks=0", **os.environ}
TINY = ("bench", "--prefill", "8,3", "--decode", "2", "--batch", "2,1,2", "--rounds", "2", "--threads", "1")
ROWS = [("prefill", 1, 3), ("prefill", 1, 8), ("decode", 1, 3), ("decode", 2, 3), ("decode", 1, 8), ("decode", 2, 8)]
LIMITS = {"memory", "f32", "int8"}


def run(*words, np=None):
    command = [LOCKSTEP, *words] if np is None else [MPIRUN, "-n", str(np), LOCKSTEP, *words]
    return subprocess.run(command, env=ENV, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL,
                          check=False)


class TestBench(unittest.TestCase):
    def run_well(self, *words, np=None):
        done = run(*words, np=np)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertNotIn("round", done.stderr)  # a log has no progress
        return done.stdout

    def assert_spread(self, spread, n):
        self.assertEqual(spread["n"], n)
        self.assertLess(0, spread["min"])
        self.assertLessEqual(spread["min"], spread["median"])
        self.assertLessEqual(spread["median"], spread["max"])


class TestSpeed(TestBench):
    def assert_row(self, row, world):
        self.assertEqual(row["tokens"], row["prompt"] if row["kind"] == "prefill" else 2 * row["batch"])
        self.assert_spread(row["seconds"], 2)
        self.assertAlmostEqual(row["tok_s"] * row["seconds"]["median"] / row["tokens"], 1, places=4)
        self.assertLessEqual(row["tok_s_min"], row["tok_s"])
        self.assertLessEqual(row["tok_s"], row["tok_s_max"])
        self.assertEqual(row["weights"], "bf16")
        self.assertIn(row["limit"], ("memory", "f32"))
        self.assertLess(0, row["fraction_min"])
        self.assertLessEqual(row["fraction_min"], row["fraction_of_limit"])
        self.assertLessEqual(row["fraction_of_limit"], row["fraction_max"])
        self.assertEqual([r["rank"] for r in row["ranks"]], list(range(world)))
        for rank in row["ranks"]:
            self.assertLess(0, rank["compute_s"])
            self.assertEqual(rank["wait_s"] + rank["transfer_s"] > 0, world > 1)

    def test_json(self):
        for np in (1, 3):
            with self.subTest(np=np):
                found = json.loads(self.run_well(*TINY, "--json", np=np))
                self.assertEqual((found["world"], found["rounds"], found["threads"], found["device"]),
                                 (np, 2, 1, "host"))
                self.assertEqual([(r["kind"], r["batch"], r["prompt"]) for r in found["rows"]], ROWS)
                self.assertEqual(set(found["limits"]), LIMITS)
                for limit in found["limits"].values():
                    self.assert_spread(limit, 2 * len(ROWS))
                for row in found["rows"]:
                    self.assert_row(row, np)
                # A step reads at least the layers and the head of the demo model's 3 million weights.
                self.assertLess(5e6, found["model_bytes"])
                self.assertLess(found["model_bytes"], found["load_bytes"] * 1.2)
                prefill, two = found["rows"][1], found["rows"][5]
                self.assertLess(prefill["bytes"], 1.1 * found["model_bytes"])  # one step
                self.assertLess(2 * found["model_bytes"], two["bytes"])        # two
                self.assertLess(2 * two["operations"], 2 * prefill["operations"])

    def test_csv(self):
        rows = list(csv.DictReader(io.StringIO(self.run_well(*TINY, "--csv", np=2))))
        self.assertEqual([(r["kind"], int(r["batch"]), int(r["prompt"]), int(r["rank"])) for r in rows],
                         [(*row, rank) for row in ROWS for rank in range(2)])
        for row in rows:
            self.assertNotIn(None, row)
            self.assertEqual((row["world"], row["weights"], row["device"]), ("2", "bf16", "host"))
            for name in ("tok_s", "bytes_s", "operations_s", "fraction_of_limit", "compute_s"):
                self.assertLess(0, float(row[name]), name)

    def test_table(self):
        text = self.run_well(*TINY, np=2)
        lines = text.splitlines()
        self.assertRegex(lines[1], r"^2 ranks x 1 thread, \w+ kernels; bf16 weights, \d+\.\d MB ")
        for name in LIMITS:
            self.assertRegex(text, rf"(?m)^  {name} +\d+\.\d\d \w+/s")
        head = next(i for i, line in enumerate(lines) if line.startswith("kind"))
        rows = lines[head + 1:head + 1 + len(ROWS)]
        self.assertEqual([tuple(row.split()[:3]) for row in rows], [(k, str(b), str(p)) for k, b, p in ROWS])
        self.assertEqual({len(row) for row in rows}, {len(lines[head])})
        self.assertEqual({len(row.split()) for row in rows}, {len(lines[head].split())})
        ranks = text.split("compute ms")[1].splitlines()[1:]
        self.assertEqual(len(ranks), 2 * len(ROWS))

    @unittest.skipIf(os.environ.get("LOCKSTEP_TEST_SHORT"), "sanitizers are slow")
    def test_a_random_shape_is_on_no_disk(self):
        with tempfile.TemporaryDirectory() as folder:
            command = [MPIRUN, "-n", "2", LOCKSTEP, "bench", "--random-shape", "qwen3-0.6b", "--prefill", "1", "--decode",
                       "0", "--rounds", "1", "--threads", "1", "--json"]
            done = subprocess.run(command, env={**ENV, "TMPDIR": folder}, cwd=folder, capture_output=True, text=True,
                                  timeout=120, stdin=subprocess.DEVNULL, check=False)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertEqual([f for f in os.listdir(folder) if not f.startswith("ompi.")], [])
        found = json.loads(done.stdout)
        self.assertEqual(found["model"], "random:qwen3-0.6b")
        self.assertAlmostEqual(found["model_bytes"] / 1192099840, 1, places=3)
        self.assertEqual(found["load_bytes"], 1192099840 + 131072)  # both ranks have the norms

    def test_without_decode(self):
        found = json.loads(self.run_well("bench", "--prefill", "5", "--decode", "0", "--rounds", "1", "--json",
                                         "--ctx", "5"))
        self.assertEqual([(r["kind"], r["prompt"]) for r in found["rows"]], [("prefill", 5)])

    def test_progress_where_it_is_wanted(self):
        done = run(*TINY, "--progress", "always")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("lockstep: round 2 of 2: decode, 2 x 8\033[K", done.stderr)
        self.assertTrue(done.stderr.endswith("\n\033[K"), repr(done.stderr[-80:]))  # the line is wiped


class TestLinks(TestBench):
    def test_rpc(self):
        found = json.loads(self.run_well("bench", "--rpc", "--rounds", "2", "--json", "--threads", "1", np=2))
        rpc = found["rpc"]
        self.assertEqual([r["rank"] for r in rpc["ranks"]], [0, 1])
        self.assertIsNone(rpc["ranks"][0]["bare_us"])
        self.assertLess(0, rpc["ranks"][1]["ping_ratio"])
        for name in ("step_us", "around_us", "sending_us"):
            self.assert_spread(rpc[name], 2)
        self.assertLess(rpc["sending_us"]["median"], rpc["step_us"]["median"])
        text = self.run_well("bench", "--rpc", "--rounds", "1", "--threads", "1", "--ctx", "40", np=2)
        self.assertRegex(text, r"(?m)^around it +\d")
        rows = list(csv.DictReader(io.StringIO(self.run_well("bench", "--rpc", "--rounds", "1", "--csv"))))
        self.assertEqual([r["what"] for r in rows], ["ping", "step", "around", "sending"])

    def test_collectives(self):
        for np in (1, 3):
            with self.subTest(np=np):
                found = json.loads(self.run_well("bench", "--collectives", "--rounds", "2", "--json", np=np))
                rows = found["collectives"]["rows"]
                self.assertEqual([r["collective"] for r in rows], ["all_reduce"] * 6 + ["gather"] * 6)
                for row in rows:
                    self.assert_spread(row["time_us"], 2)
                    factor = (np - 1) / np * (2 if row["collective"] == "all_reduce" else 1)
                    self.assertAlmostEqual(row["busbw_gbs"], row["algbw_gbs"] * factor, delta=1e-4 * row["algbw_gbs"])
                    if np == 1:
                        self.assertIsNone(row["bare_us"])
                    else:
                        self.assert_spread(row["bare_us"], 2)
                        self.assert_spread(row["ratio"], 2)
        text = self.run_well("bench", "--collectives", "--rounds", "1", np=2)
        self.assertEqual(len({len(line) for line in text.splitlines()[1:-1]}), 1, text)
        rows = list(csv.DictReader(io.StringIO(self.run_well("bench", "--collectives", "--rounds", "1", "--csv"))))
        self.assertEqual((len(rows), rows[0]["bytes"], rows[0]["ratio"]), (12, "4096", ""))


class TestRefusals(unittest.TestCase):
    def assert_refused(self, words, *expected, code=2, np=None):
        done = run("bench", *words, np=np)
        self.assertEqual((done.returncode, done.stdout), (code, ""), done.stderr)
        lines = [line for line in done.stderr.splitlines() if line.startswith("lockstep")]
        self.assertEqual(len(lines), 1, done.stderr)
        for text in expected:
            self.assertIn(text, lines[0])

    def test_usage(self):
        for words, expected in (
                (("--prefill", "64,x"), "--prefill: 'x' is not a number"),
                (("--prefill", ""), "--prefill '': 1 to 64 numbers are needed"),
                (("--prefill", "0,5"), "--prefill: 0 is not between 1 and"),
                (("--batch", "1,100000"), "--batch: 100000 is not between 1 and"),
                (("--decode", "-1"), "--decode -1: must be between"),
                (("--rounds", "0"), "--rounds 0: must be between 1 and"),
                (("--random-shape", "qwen3-1b"), "--random-shape qwen3-1b: must be one of qwen3-0.6b|"),
                (("--random-shape", "qwen3-4b", "--model", "x"), "--random-shape does not go with --model"),
                (("--rpc", "--collectives"), "--rpc and --collectives: one at a time"),
                (("--json", "--csv"), "--json and --csv: one at a time"),
                (("--rpc", "--batch", "2"), "do not go with --rpc"),
                (("--collectives", "--random-shape", "qwen3-4b"), "--random-shape does not go with --collectives"),
        ):
            with self.subTest(words=words):
                self.assert_refused(words, expected)
        self.assert_refused(("--json", "--csv"), "one at a time", np=3)

    def test_rpc_says_before_the_load_what_it_takes(self):
        self.assert_refused(("--rpc", "--ctx", "39"), "--rpc takes 40 positions, but --ctx is 39", np=2)

    def test_too_long_for_the_model(self):
        self.assert_refused(("--prefill", "1000000"), "--prefill 1000000 and --decode 64 take 1000064 positions",
                            "the model has")
        for decode in (5, 1):
            self.assert_refused(("--prefill", "64", "--decode", str(decode), "--ctx", "64"),
                                f"take {64 + decode} positions, but --ctx is 64", np=2)

    def test_what_does_not_fit_is_said_before_it_is_made(self):
        start = time.monotonic()
        self.assert_refused(("--random-shape", "qwen3-32b", "--prefill", "4000", "--batch", "128"),
                            "random:qwen3-32b: will not fit", np=2)
        self.assertLess(time.monotonic() - start, 30)

    def test_a_signal_ends_it(self):
        with tempfile.TemporaryDirectory() as folder:
            p = subprocess.Popen([LOCKSTEP, "bench", "--rounds", "1000", "--threads", "1", "--progress", "always"],
                                 env={**ENV, "TMPDIR": folder}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                 text=True)
            seen = ""
            while "round 1 of" not in seen:
                seen += p.stderr.read(1)
            p.send_signal(signal.SIGINT)
            out, err = p.communicate(timeout=30)
            self.assertEqual((p.returncode, out), (130, ""), err)
            self.assertEqual(len(re.findall(r"lockstep: interrupted", err)), 1, err)
            self.assertEqual(os.listdir(folder), [])


if __name__ == "__main__":
    del sys.argv[1:3]
    unittest.main(verbosity=2)
