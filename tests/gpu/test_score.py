#!/usr/bin/env python3
"""`score` on GPUs against the host: log-probabilities that the devices reduce, and what still takes
all logits.

    test_score.py LOCKSTEP MPIRUN DATA_DIR
"""
import array
import json
import os
import subprocess
import sys
import tempfile
import unittest

from worlds import WORLDS

# Of one log-probability: in f32 the logits were seen to differ by 3e-5, sums of exponentials by 1e-6.
TOLERANCE = 2e-4
MODELS = ("tiny-qwen3", "tiny-llama")
FEW = min(2, WORLDS[-1])  # ranks, where any number would do


class Score(unittest.TestCase):
    def score(self, ranks, device, model, ids, *words):
        done = subprocess.run(
            [MPIRUN, "-np", str(ranks), LOCKSTEP, "score", "--json", "--device", device, "--dtype", "f32",
             "--model", os.path.join(DATA, model), "--ids", ",".join(map(str, ids)), *words],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertNotIn("FINDING", done.stderr)
        return json.loads(done.stdout)

    def assert_near(self, got, want):
        self.assertEqual((got["ids"], got["tokens"]), (want["ids"], want["tokens"]))
        for a, b in zip(got["logprobs"], want["logprobs"], strict=True):
            self.assertAlmostEqual(a, b, delta=TOLERANCE)

    def test_every_world_size(self):
        for model in MODELS:
            with open(os.path.join(DATA, "expected", model + ".json"), encoding="utf-8") as f:
                ids = {case["id"]: case for case in json.load(f)["cases"]}["chat"]["prompt_ids"]
            want = self.score(1, "host", model, ids)
            self.assertEqual(len(want["logprobs"]), len(ids) - 1)
            for ranks in WORLDS:
                with self.subTest(model=model, ranks=ranks):
                    self.assert_near(self.score(ranks, "cuda", model, ids), want)

    def test_logits_and_their_hash(self):
        """The same with all logits on rank 0, and the last position's within the tolerance."""
        ids = range(3, 40)
        with tempfile.TemporaryDirectory() as folder:
            def logits(*how):
                path = os.path.join(folder, "logits")
                values = array.array("f")
                got = self.score(FEW, *how, "--logits", path)
                with open(path, "rb") as f:
                    values.frombytes(f.read())
                return got, values
            want, reference = logits("host", MODELS[0], ids)
            self.assertIsNone(want["logits_hash"])
            for words in [], ["--hash"]:
                got, last = logits("cuda", MODELS[0], ids, *words)
                self.assert_near(got, want)
                self.assertEqual(got["logits_hash"] is None, not words)
                self.assertLess(max(abs(a - b) for a, b in zip(last, reference, strict=True)), TOLERANCE)

    def test_one_token(self):
        self.assertEqual(self.score(FEW, "cuda", MODELS[0], [5])["logprobs"], [])


if __name__ == "__main__":
    DATA = os.path.abspath(sys.argv.pop())
    MPIRUN = sys.argv.pop()
    LOCKSTEP = os.path.abspath(sys.argv.pop())
    unittest.main(verbosity=2)
