#!/usr/bin/env python3
"""The demo model on two and three ranks against float64 numbers: see tests/data/kjv/README.md."""
import json
import math
import os
import sys
import unittest

from program import Program, joined

DATA = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../data/kjv")
MODEL = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../models/kjv-qwen3-3m")
TOKEN_TOLERANCE = 5e-4  # nats; float32 arithmetic was seen to stay within 5e-5 on logits
MEAN_TOLERANCE = 2e-5
MOST_PERPLEXITY = {"q8_0": 1.01, "q4_0": 1.10}  # of the float64 reference's: what --quant may cost


def load(name):
    with open(os.path.join(DATA, name), encoding="utf-8") as f:
        return json.load(f)


class TestKjv(unittest.TestCase):
    def test_likelihood_of_the_excerpt(self):
        reference, total, count = load("heldout-excerpt-nll.json"), 0.0, 0
        for passage in reference["passages"]:
            got = PROGRAM.json(2, "score", "--ids", joined(passage["ids"]))
            self.assertEqual(len(got["logprobs"]), len(passage["nll"]))
            for ours, theirs in zip(got["logprobs"], passage["nll"]):
                self.assertLess(abs(-ours - theirs), TOKEN_TOLERANCE, passage["chapter"])
            total -= math.fsum(got["logprobs"])
            count += len(got["logprobs"])
        self.assertEqual(count, reference["tokens_scored"])
        self.assertLess(abs(total / count - reference["mean_nll"]), MEAN_TOLERANCE)

    def test_likelihood_of_quantized_weights(self):
        reference = load("heldout-excerpt-nll.json")
        means = []
        for quant, most in MOST_PERPLEXITY.items():
            total = 0.0
            for passage in reference["passages"]:
                got = PROGRAM.json(2, "score", "--quant", quant, "--ids", joined(passage["ids"]))
                total -= math.fsum(got["logprobs"])
            means.append(total / reference["tokens_scored"])
            ratio = math.exp(means[-1] - reference["mean_nll"])
            print(f"{quant}: {ratio:.4f} times the perplexity")
            self.assertLess(ratio, most, quant)
        self.assertNotAlmostEqual(means[0], reference["mean_nll"], 5)  # it was quantized
        self.assertNotAlmostEqual(means[1], means[0], 5)

    def test_greedy_ids(self):
        for ranks in (1, 3):
            for case in load("greedy.json")["cases"]:
                with self.subTest(ranks=ranks, prompt=case["prompt"]):
                    got = PROGRAM.json(ranks, "generate", "--prompt", case["prompt"], "--ignore-eos",
                                       "--temperature", "0", "--max-tokens", str(len(case["ids"])))
                    self.assertEqual(got["prompt_ids"], case["prompt_ids"])
                    self.assertEqual(got["ids"], case["ids"])
                    self.assertEqual(got["text"], case["text"])


if __name__ == "__main__":
    PROGRAM = Program(os.path.abspath(sys.argv.pop(1)), MODEL)
    unittest.main(verbosity=2)
