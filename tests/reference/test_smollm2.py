#!/usr/bin/env python3
"""SmolLM2-135M-Instruct on one, two and three ranks against transformers in float64: see
tests/data/smollm2-135m.json. LOCKSTEP_SMOLLM2 names the directory that scripts/fetch-smollm2 made;
without it this test is skipped."""
import array
import json
import math
import os
import sys
import tempfile
import unittest

from program import Program, joined

DATA = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../data/smollm2-135m.json")
PROSE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../data/prose.txt")
TOKEN_TOLERANCE = 2e-3  # nats, for one token
MOST_PERPLEXITY = 1.01  # of the stored weights': what --quant q8_0 may cost


class TestSmolLM2(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        with open(DATA, encoding="utf-8") as f:
            cls.reference = json.load(f)

    def cases(self, check):
        for case in self.reference["cases"]:
            with self.subTest(text=case["text"]):
                check(case)

    def test_logits_and_likelihood(self):
        tolerance = self.reference["tolerance"]["logits"]
        folder = self.enterContext(tempfile.TemporaryDirectory())
        path = os.path.join(folder, "logits")

        def check(case):
            got = PROGRAM.json(2, "score", "--ids", joined(case["ids"]), "--logits", path)
            for ours, theirs in zip(got["logprobs"], case["nll"], strict=True):
                self.assertLess(abs(-ours - theirs), TOKEN_TOLERANCE)
            logits, last = array.array("f"), case["last"]
            with open(path, "rb") as f:
                logits.frombytes(f.read())
            for token, value in zip(last["top_ids"], last["top_logits"], strict=True):
                self.assertLess(abs(logits[token] - value), tolerance)
            self.assertLess(abs(sum(logits) / len(logits) - last["mean"]), tolerance)
            self.assertLess(abs(min(logits) - last["min"]), tolerance)

        self.cases(check)

    def test_perplexity_of_quantized_weights(self):
        """Of Q4_0's nothing is asked: these weights have been in 4 bits before, in another grid."""
        def mean(*words):
            got = PROGRAM.json(2, "score", "--file", PROSE, *words)
            return -math.fsum(got["logprobs"]) / len(got["logprobs"])

        stored = mean()
        ratios = {q: math.exp(mean("--quant", q) - stored) for q in ("q8_0", "q4_0")}
        print(f"times the perplexity: {ratios}")
        self.assertLess(ratios["q8_0"], MOST_PERPLEXITY)

    def test_greedy_ids(self):
        def check(case):
            for ranks in (1, 2, 3):
                got = PROGRAM.json(ranks, "generate", "--ids", joined(case["ids"]), "--ignore-eos",
                                   "--temperature", "0", "--max-tokens", str(len(case["greedy_ids"])))
                self.assertEqual(got["ids"], case["greedy_ids"], f"{ranks} ranks")

        self.cases(check)

    def test_text_and_chats_become_the_same_ids(self):
        def check(case):
            if "messages" in case:
                with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as f:
                    json.dump(case["messages"], f)
                    f.flush()
                    got = PROGRAM.json(1, "tokenize", "--chat", f.name)
                self.assertEqual(got["text"], case["text"])
            else:
                got = PROGRAM.json(1, "tokenize", "--text", case["text"])
            self.assertEqual(got["ids"], case["ids"])

        self.cases(check)


if __name__ == "__main__":
    if not os.environ.get("LOCKSTEP_SMOLLM2"):
        print("LOCKSTEP_SMOLLM2 does not name a directory that scripts/fetch-smollm2 made")
        sys.exit(77)
    PROGRAM = Program(os.path.abspath(sys.argv.pop(1)), os.environ["LOCKSTEP_SMOLLM2"])
    unittest.main(verbosity=2)
