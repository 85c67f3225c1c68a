#!/usr/bin/env python3
"""scripts/hf_to_gguf.py: what it writes, read again by gguf_to_hf.py's reader, which was written before it."""
import os
import subprocess
import sys
import tempfile
import unittest

try:
    import numpy as np
except ImportError:
    print("numpy is missing")
    sys.exit(77)

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "scripts"))
import gguf_to_hf  # noqa: E402
import hf_to_gguf  # noqa: E402

SHAPE = ["--hidden", "64", "--layers", "2", "--heads", "2", "--head-dim", "32", "--intermediate", "96", "--vocab", "300"]


class TestGguf(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.temp = tempfile.TemporaryDirectory()
        cls.model = os.path.join(cls.temp.name, "model")
        cls.make(cls.model)

    @classmethod
    def tearDownClass(cls):
        cls.temp.cleanup()

    @staticmethod
    def make(folder, *words):
        subprocess.run([sys.executable, os.path.join(ROOT, "scripts", "make-random-model"), *SHAPE, *words, folder],
                       check=True)

    def written(self, kind):
        path = os.path.join(self.temp.name, kind + ".gguf")
        hf_to_gguf.convert(self.model, path, kind)
        return gguf_to_hf.Gguf(path)

    def weights(self):
        _, tensors = hf_to_gguf.read_checkpoint(self.model)
        return {hf_to_gguf.gguf_name(name): hf_to_gguf.widen(words) for name, words in tensors.items()}

    def test_quantized_weights_are_near(self):
        # A step of the scale apart at most half of it, and what the scale itself lost as F16; Q4_0's last level
        # is missing on one side, which costs up to a whole step there.
        for kind, per_max, steps in (("Q8_0", 127, 0.51), ("Q4_0", 8, 1.01)):
            gguf = self.written(kind)
            for name, want in self.weights().items():
                got = gguf.tensor(name)
                self.assertEqual(got.shape, want.shape)
                if want.ndim == 1:
                    np.testing.assert_array_equal(got, want)
                    continue
                blocks = want.reshape(-1, 32)
                bound = np.abs(blocks).max(axis=1, keepdims=True) * (steps / per_max + 1e-3)
                self.assertTrue((np.abs(got.reshape(-1, 32) - blocks) <= bound).all(), name)
                self.assertGreater(np.abs(got - want).max(), 0)  # it was quantized

    def test_bf16_is_the_same_bytes(self):
        gguf = self.written("BF16")
        _, tensors = hf_to_gguf.read_checkpoint(self.model)
        for name, words in tensors.items():
            kind, shape, offset = gguf.tensors[hf_to_gguf.gguf_name(name)]
            self.assertEqual(tuple(shape), words.shape)
            if words.ndim == 2:
                self.assertEqual((kind, offset % 32), (30, 0))
                self.assertEqual(gguf.bytes[offset:offset + words.nbytes], words.tobytes())
        self.assertEqual(gguf.need("general.architecture"), "qwen3")
        self.assertEqual(gguf.need("qwen3.attention.key_length"), 32)
        self.assertEqual(gguf.need("tokenizer.ggml.model"), "no_vocab")

    def test_extremes_and_zeros(self):
        x = np.zeros((2, 32), np.float32)
        x[1, 5], x[1, 6] = -4, 4
        for quantize, name in ((hf_to_gguf.quantize_q8_0, "Q8_0"), (hf_to_gguf.quantize_q4_0, "Q4_0")):
            back = gguf_to_hf.dequantize(name, quantize(x))
            np.testing.assert_array_equal(back[0], 0)
            self.assertAlmostEqual(back[1, 5], -4, delta=4e-3)
            np.testing.assert_array_equal(back[1, 7:], 0)

    def test_others_are_refused(self):
        for words, expected in ((["--arch", "llama"], "only qwen3"), (["--dtype", "f32"], "only BF16")):
            folder = os.path.join(self.temp.name, words[1])
            self.make(folder, *words)
            with self.assertRaisesRegex(hf_to_gguf.Refused, expected):
                hf_to_gguf.convert(folder, os.path.join(self.temp.name, "x.gguf"), "BF16")


if __name__ == "__main__":
    unittest.main(verbosity=2)
