#!/usr/bin/env python3
"""scripts/plot-bench on made-up runs: what gnuplot is given, and what is refused. gnuplot itself is not needed."""
import json
import os
import subprocess
import sys
import tempfile
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PLOT = os.path.join(ROOT, "scripts", "plot-bench")


def spread(x):
    return {"n": 3, "min": 0.9 * x, "median": x, "max": 1.1 * x}


def row(kind, batch, world, known):
    return {"kind": kind, "batch": batch, "prompt": 64, "weights": "bf16", "tok_s": 10.0 * world,
            "tok_s_min": 9.0 * world, "tok_s_max": 11.0 * world, "bytes": 1e9, "operations": 1e9 * batch,
            "bytes_s": 1e10, "operations_s": 1e10, "limit": "memory" if known else None,
            "fraction_of_limit": 0.8 if known else None, "fraction_min": 0.7 if known else None,
            "fraction_max": 0.9 if known else None}


def run_of(world, known=True):
    limits = {name: spread(x) if known else None for name, x in (("memory", 2e10), ("f32", 3e11), ("int8", 1e12))}
    return {"model": "models/it's", "weights": "bf16", "world": world, "limits": limits,
            "rows": [row("prefill", 1, world, known), row("decode", 4, world, known)]}


class TestPlot(unittest.TestCase):
    def plot(self, *runs, words=("--script",), code=0):
        with tempfile.TemporaryDirectory() as folder:
            paths = []
            for i, run in enumerate(runs):
                paths.append(os.path.join(folder, f"{i}.json"))
                with open(paths[-1], "w", encoding="utf-8") as f:
                    f.write(run if isinstance(run, str) else json.dumps(run))
            done = subprocess.run([sys.executable, PLOT, *paths, *words], capture_output=True, text=True, timeout=30,
                                  stdin=subprocess.DEVNULL, check=False)
        self.assertEqual(done.returncode, code, done.stderr)
        return done.stdout if code == 0 else done.stderr

    def test_one_run_is_a_roofline(self):
        text = self.plot(run_of(1))
        self.assertIn("layout 1,1", text)
        self.assertIn("(x * 2e+10 < 3e+11 ? x * 2e+10 : 3e+11) / 1e9", text)
        self.assertIn("$row1 << EOD\n4 10\nEOD", text)
        self.assertIn("set title 'it''s, bf16, 1 rank' noenhanced", text)

    def test_several_runs_scale(self):
        text = self.plot(run_of(4), run_of(1), run_of(2))
        self.assertIn("layout 3,1", text)
        self.assertIn("$rate0 << EOD\n1 10 9 11\n2 20 18 22\n4 40 36 44\nEOD", text)
        self.assertIn("$share1 << EOD\n1 0.8 0.7 0.9\n", text)

    def test_limits_that_are_not_known_are_left_out(self):
        text = self.plot(run_of(1, False), run_of(2, False))
        self.assertIn("layout 1,1", text)
        self.assertNotIn("$row0", text)
        self.assertIn("nothing to draw", self.plot(run_of(1, False), code=1))

    def test_refusals(self):
        self.assertIn("0.json: ", self.plot("{", code=1))
        self.assertIn("not what `lockstep bench --json` prints", self.plot({"rows": []}, code=1))
        self.assertIn("must end in", self.plot(run_of(1), words=("--script", "-o", "x.gif"), code=1))


if __name__ == "__main__":
    unittest.main(verbosity=2)
