#!/usr/bin/env python3
"""Shapes, dtypes and biases that the golden models lack: against a float64 forward pass, and bit for
bit against themselves on other numbers of ranks, threads and instruction sets."""
import array
import os
import sys
import tempfile
import unittest

import checkpoint
from program import Program, joined

TOLERANCE = 2e-5  # on log-probabilities and logits of a few units; float32 was seen within 3e-6

COMMON = {"num_hidden_layers": 2, "rms_norm_eps": 1e-5, "hidden_act": "silu",
          "max_position_embeddings": 128, "rope_theta": 1e4}


def config(arch, model_type, **sizes):
    return {"architectures": [arch], "model_type": model_type, **COMMON, **sizes}


def qwen2():
    """Biases of q, k and v; heads wider than hidden / heads; mlp no multiple of 32 and with fewer
    32-column units than there are heads, so that leaves and whole ranks have none; shards."""
    c = config("Qwen2ForCausalLM", "qwen2", hidden_size=20, intermediate_size=70,
               num_attention_heads=6, num_key_value_heads=2, head_dim=80, vocab_size=53,
               tie_word_embeddings=False)
    return c, lambda name: "F32" if "bias" in name or "norm" in name else "BF16", 3


def llama():
    """Biases everywhere, F16, rope scaling with all three bands, more ranks than vocabulary, heads
    of six dimensions, and more positions than one KV block has."""
    c = config("LlamaForCausalLM", "llama", hidden_size=24, intermediate_size=129,
               num_attention_heads=4, num_key_value_heads=4, head_dim=6, vocab_size=3,
               tie_word_embeddings=True, attention_bias=True, mlp_bias=True, rope_theta=100.0,
               rope_scaling={"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                             "high_freq_factor": 4.0, "original_max_position_embeddings": 60})
    return c, lambda name: "F16", 1


def qwen3():
    """A dtype for every tensor, so that fused matrices mix three; one KV head for all; biases of
    attention; the newer spelling of the rotary parameters."""
    c = config("Qwen3ForCausalLM", "qwen3", hidden_size=17, intermediate_size=33,
               num_attention_heads=5, num_key_value_heads=1, head_dim=96, vocab_size=11,
               tie_word_embeddings=False, attention_bias=True,
               rope_parameters={"rope_type": "default", "rope_theta": 5e5})
    return c, lambda name: ("F32", "BF16", "F16")[sum(name.encode()) % 3], 1


# model, tokens, ranks, [(ranks, further options) that must have the same bits]
CASES = [
    (qwen2, 20, [1, 2, 3, 4, 6], [(1, "--isa generic"), (1, "--isa avx2"), (2, "--threads 2")]),
    (llama, 66, [1, 2, 3, 4], [(1, "--isa generic"), (1, "--isa avx2"), (3, "--threads 2")]),
    (qwen3, 20, [1, 2, 3, 5], [(1, "--isa generic"), (1, "--isa avx2"), (2, "--isa generic")]),
]


def usable(options):
    with open("/proc/cpuinfo", encoding="utf-8") as f:
        return "avx2" not in options or " avx2" in f.read()


def read_floats(path):
    values = array.array("f")
    with open(path, "rb") as f:
        values.frombytes(f.read())
    return values


class TestShapes(unittest.TestCase):
    def check_case(self, make, n_token, worlds, others):
        c, dtype_of, n_shard = make()
        tensors = checkpoint.make(c, dtype_of, seed=make.__name__)
        ids = [i * 7 % 10 * (i + 3) % c["vocab_size"] for i in range(n_token)]
        logits = checkpoint.Model(c, tensors).logits(ids)
        expected = [checkpoint.log_softmax(row)[i] for row, i in zip(logits, ids[1:])]
        with tempfile.TemporaryDirectory() as folder:
            checkpoint.write(folder, c, tensors, n_shard)
            program, path = Program(PROGRAM, folder), os.path.join(folder, "logits")
            first = program.json(1, "score", "--hash", "--ids", joined(ids), "--logits", path)
            for ours, theirs in zip(first["logprobs"], expected, strict=True):
                self.assertLess(abs(ours - theirs), TOLERANCE)
            for ours, theirs in zip(read_floats(path), logits[-1], strict=True):
                self.assertLess(abs(ours - theirs), TOLERANCE)
            for ranks, options in [(n, "--threads 1") for n in worlds] + others:
                if usable(options):
                    with self.subTest(ranks=ranks, options=options):
                        got = program.json(ranks, "score", "--hash", "--ids", joined(ids),
                                           *options.split())
                        self.assertEqual(got["logits_hash"], first["logits_hash"])

    def test_shapes(self):
        for make, *rest in CASES:
            with self.subTest(model=make.__name__):
                self.check_case(make, *rest)


if __name__ == "__main__":
    PROGRAM = os.path.abspath(sys.argv.pop(1))
    unittest.main(verbosity=2)
