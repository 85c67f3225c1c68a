#!/usr/bin/env python3
"""lockstep plan against the same arithmetic written a second time, on the sizes of real models.

    test_plan.py LOCKSTEP
"""
import json
import os
import subprocess
import sys
import tempfile
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
DATA = os.path.join(ROOT, "tests", "data")
MAKE = os.path.join(ROOT, "scripts", "make-random-model")
LOCKSTEP = "lockstep"


def run(*args, env=None):
    return subprocess.run([LOCKSTEP, "plan", *args], capture_output=True, text=True, timeout=30,
                          env={**os.environ, **(env or {})})


def run_of(n, world, rank):
    """Of n things the run of a rank: ceil(r n / N) ... ceil((r + 1) n / N) - 1."""
    first = -(-rank * n // world)
    return range(first, -(-(rank + 1) * n // world))


def pad16(n):
    return -(-n // 16) * 16


class Plan(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.TemporaryDirectory()
        self.addCleanup(self.dir.cleanup)
        self.model = os.path.join(self.dir.name, "model")

    def make(self, *args):
        subprocess.run([sys.executable, MAKE, *args, self.model], check=True, timeout=60)

    def config(self):
        with open(os.path.join(self.model, "config.json"), encoding="utf-8") as f:
            return json.load(f)

    def plan(self, *args):
        out = run("--model", self.model, "--json", *args)
        self.assertEqual((out.returncode, out.stderr), (0, ""))
        return json.loads(out.stdout)

    def assert_usage(self, args, *texts):
        out = run(*args)
        self.assertEqual((out.returncode, out.stdout), (2, ""))
        self.assertEqual(out.stderr.count("\n"), 1, out.stderr)
        self.assertTrue(out.stderr.startswith("lockstep"), out.stderr)
        for text in texts:
            self.assertIn(text, out.stderr)

    def check_rank(self, c, plan, world, rank, ctx, kv_element=4):
        got = plan["ranks"][rank]
        heads = run_of(c["num_attention_heads"], world, rank)
        group = c["num_attention_heads"] // c["num_key_value_heads"]
        kv = sorted({h // group for h in heads})
        others = {h // group for r in range(world) if r != rank
                  for h in run_of(c["num_attention_heads"], world, r)}
        vocab = run_of(c["vocab_size"], world, rank)
        self.assertEqual(got["rank"], rank)
        self.assertEqual(got["query_heads"], {"first": heads[0], "count": len(heads)})
        self.assertEqual(got["kv_heads"], {"first": kv[0], "count": len(kv),
                                           "replicated": [h for h in kv if h in others]})
        self.assertEqual(got["vocab_rows"], {"first": vocab.start, "count": len(vocab)})

        hidden, dim, mlp = c["hidden_size"], c["head_dim"], got["mlp_columns"]["count"]
        element = {"bfloat16": 2, "float16": 2, "float32": 4}[c["torch_dtype"]]
        qkv = (len(heads) + 2 * len(kv)) * dim
        matrices = (pad16(qkv) * hidden + pad16(hidden) * (len(heads) * dim + mlp)
                    + pad16(2 * mlp) * hidden)
        floats = 2 * hidden + (2 * dim if c["model_type"] == "qwen3" else 0)
        floats += qkv if c["model_type"] == "qwen2" else 0
        layers = c["num_hidden_layers"]
        table = pad16(len(vocab)) * hidden * (1 if c["tie_word_embeddings"] else 2)
        self.assertEqual(got["weights_bytes"], layers * (matrices * element + floats * 4)
                         + table * element + hidden * 4)
        positions = -(-ctx // 64) * 64
        self.assertEqual(got["kv_bytes"], 2 * layers * len(kv) * dim * kv_element * positions)
        self.assertEqual(got["total_bytes"],
                         got["weights_bytes"] + got["kv_bytes"] + got["buffer_bytes"])
        self.assertGreater(got["buffer_bytes"], 256 * hidden * 4)
        return got

    def test_numbers_of_real_models(self):
        for name in ("qwen3-0.6b", "qwen3-32b", "qwen2.5-7b", "smollm2-135m", "llama-3.2-1b"):
            self.make("--shape", name, "--config-only")
            c = self.config()
            numbers = [1, 2, 3, 4, 5, 7, 8, 9]
            doc = self.plan("--np", ",".join(map(str, numbers)), "--ctx", "1000")
            self.assertEqual((doc["ctx"], doc["kv_block"]), (1000, 64))
            self.assertEqual(doc["model"]["dtype_source"], "config.json")
            self.assertEqual([p["np"] for p in doc["plans"]], numbers)
            for plan in doc["plans"]:
                world = plan["np"]
                self.assertTrue(plan["possible"])
                self.assertEqual(len(plan["ranks"]), world)
                ranks = [self.check_rank(c, plan, world, r, 1000) for r in range(world)]
                self.assertEqual(sum(r["mlp_columns"]["count"] for r in ranks),
                                 c["intermediate_size"])
                weights = [r["weights_bytes"] for r in ranks]
                self.assertAlmostEqual(plan["imbalance"], max(weights) * world / sum(weights))
                reduces = 2 * c["num_hidden_layers"] + 1
                self.assertEqual(plan["all_reduces_per_token"], reduces)
                self.assertEqual(plan["all_reduce_bytes_per_token"], reduces * 4 * c["hidden_size"])

    def test_a_kv_cache_in_bf16(self):
        self.make("--shape", "qwen3-0.6b", "--config-only")
        c = self.config()
        for word, element in (("auto", 4), ("f32", 4), ("bf16", 2)):
            doc = self.plan("--np", "3", "--ctx", "5000", "--kv-dtype", word)
            self.assertEqual(doc["kv_dtype"], "f32" if element == 4 else "bf16")
            for rank in range(3):
                self.check_rank(c, doc["plans"][0], 3, rank, 5000, element)
        text = run("--model", self.model, "--ctx", "5000", "--kv-dtype", "bf16").stdout
        self.assertIn("KV cache of 5000 positions in bf16, ", text)

    def test_a_known_total(self):
        """Qwen3-0.6B: 596,049,920 parameters, all in bf16 but the 65,536 of the norms."""
        self.make("--shape", "qwen3-0.6b", "--config-only")
        rank = self.plan("--np", "1")["plans"][0]["ranks"][0]
        self.assertEqual(rank["weights_bytes"], 2 * 596049920 + 2 * 65536)

    def test_quantized(self):
        """34 and 18 bytes for 32 of them."""
        self.make("--shape", "qwen3-0.6b", "--config-only")
        for quant, size in (("q8_0", 34), ("q4_0", 18)):
            doc = self.plan("--np", "1", "--quant", quant)
            self.assertEqual((doc["model"]["dtype"], doc["model"]["dtype_source"]),
                             (quant.upper(), "--quant"))
            self.assertEqual(doc["plans"][0]["ranks"][0]["weights_bytes"],
                             (596049920 - 65536) // 32 * size + 4 * 65536)

    def test_memory(self):
        self.make("--shape", "qwen3-8b", "--config-only")
        need = self.plan("--np", "4")["plans"][0]["ranks"][0]["total_bytes"]
        doc = self.plan("--np", "2,4", "--memory", str(need))
        two, four = doc["plans"]
        self.assertEqual((doc["memory"], two["fits"], four["fits"]), (need, False, True))
        self.assertNotIn("fits", self.plan("--np", "4")["plans"][0])
        doc = self.plan("--np", "4", "--memory", str(need - 1))
        self.assertFalse(doc["plans"][0]["fits"])
        self.assertFalse(doc["plans"][0]["ranks"][0]["fits"])
        text = run("--model", self.model, "--np", "2,4", "--memory", "8G").stdout
        self.assertIn("np 2: imbalance 1.000, does not fit\n", text)
        self.assertIn("np 4: imbalance 1.000, fits\n", text)

    def test_more_ranks_than_heads(self):
        self.make("--shape", "smollm2-135m", "--config-only")
        doc = self.plan("--np", "9,10")
        self.assertEqual(doc["largest_np"], 9)
        nine, ten = doc["plans"]
        self.assertTrue(nine["possible"])
        self.assertEqual((ten["possible"], ten["largest_np"]), (False, 9))
        self.assertIn("10 ranks", ten["reason"])
        text = run("--model", self.model, "--np", "10").stdout
        self.assertRegex(text, r"np 10: not possible: .* 9 query heads; .* is 9\n")

    def test_default_worlds_are_those_the_model_allows(self):
        for model, worlds in (("tiny-qwen3", [1, 2, 3, 4, 8]), ("tiny-llama", [1, 2, 3, 4])):
            self.model = os.path.join(DATA, model)
            self.assertEqual([p["np"] for p in self.plan()["plans"]], worlds)

    def test_table_is_aligned(self):
        text = run("--model", os.path.join(DATA, "tiny-qwen3"), "--np", "3").stdout
        table = text[text.index("  rank"):].rstrip("\n").split("\n")
        self.assertEqual(len(table), 4)
        self.assertEqual(len({len(line) for line in table}), 1, text)
        self.assertRegex(table[1], r"^ +0  0-2 +0-1\* ")
        self.assertRegex(table[2], r"^ +1  3-5 +1\*-2 ")
        self.assertIn("9 all-reduces of 256 B, 2.2 KiB in all", text)

    def test_dtype_is_the_files_where_there_are_files(self):
        self.make("--arch", "llama", "--hidden", "64", "--layers", "2", "--heads", "4",
                  "--intermediate", "96", "--vocab", "300", "--dtype", "f32", "--shards", "3")
        path = os.path.join(self.model, "config.json")
        c = self.config()
        c["torch_dtype"] = "bfloat16"
        with open(path, "w", encoding="utf-8") as f:
            json.dump(c, f)
        model = self.plan("--np", "1")["model"]
        self.assertEqual((model["dtype"], model["dtype_source"]), ("F32", "safetensors"))
        os.remove(os.path.join(self.model, "model-00002-of-00003.safetensors"))
        model = self.plan("--np", "1")["model"]
        self.assertEqual((model["dtype"], model["dtype_source"]), ("BF16", "config.json"))

    def test_mistakes(self):
        model = ["--model", os.path.join(DATA, "tiny-qwen3")]
        self.assert_usage([*model, "--np", "0"], "--np")
        self.assert_usage([*model, "--np", "1,x"], "--np")
        self.assert_usage([*model, "--np", ""], "--np")
        self.assert_usage([*model, "--np"], "--np")
        self.assert_usage([*model, "--ctx", "513"], "--ctx 513", "512")
        self.assert_usage([*model, "--memory", "lots"], "--memory")
        self.assert_usage([*model, "surprise"], "surprise")
        self.assert_usage(["--model", self.model], "config.json")
        self.make("--shape", "qwen3-0.6b", "--config-only")
        path = os.path.join(self.model, "config.json")
        c = self.config()
        c["num_hidden_layers"] = 10**12
        with open(path, "w", encoding="utf-8") as f:
            json.dump(c, f)
        self.assert_usage(["--model", self.model], "config.json", "num_hidden_layers")

    def test_only_the_leader_prints(self):
        model = ["--model", os.path.join(DATA, "tiny-qwen3")]
        out = run(*model, env={"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"})
        self.assertEqual((out.returncode, out.stdout, out.stderr), (0, "", ""))


if __name__ == "__main__":
    LOCKSTEP = sys.argv.pop(1)
    unittest.main()
