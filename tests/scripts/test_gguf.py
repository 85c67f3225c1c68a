#!/usr/bin/env python3
"""scripts/gguf_to_hf.py on a tiny GGUF made here, against arithmetic done one weight at a time."""
import json
import os
import random
import struct
import subprocess
import sys
import tempfile
import unittest

SCRIPT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../scripts/gguf_to_hf.py")
HIDDEN, HEADS, KV_HEADS, MLP, LAYERS = 32, 4, 2, 64, 2
HEAD = HIDDEN // HEADS
TOKENS = ["<|end|>", "<|user|>", "a", "b", "ab", "Ġa"]
UINT32, FLOAT32, BOOL, STRING, ARRAY, INT32 = 4, 6, 7, 8, 9, 5
F32, Q4_1, Q8_0, Q5_1 = 0, 3, 8, 7


def python_with_numpy():
    for program in (sys.executable, "/usr/bin/python3"):
        if os.path.exists(program) and not subprocess.run(
            [program, "-c", "import numpy"], stderr=subprocess.DEVNULL, check=False
        ).returncode:
            return program
    return None


def string(text):
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def value(kind, x):
    if kind == STRING:
        return string(x)
    return struct.pack({UINT32: "<I", INT32: "<i", FLOAT32: "<f", BOOL: "<?"}[kind], x)


def metadata():
    scalar = [
        ("general.architecture", STRING, "llama"),
        ("llama.block_count", UINT32, LAYERS),
        ("llama.context_length", UINT32, 128),
        ("llama.embedding_length", UINT32, HIDDEN),
        ("llama.feed_forward_length", UINT32, MLP),
        ("llama.attention.head_count", UINT32, HEADS),
        ("llama.attention.head_count_kv", UINT32, KV_HEADS),
        ("llama.rope.freq_base", FLOAT32, 100000.0),
        ("llama.rope.dimension_count", UINT32, HEAD),
        ("llama.attention.layer_norm_rms_epsilon", FLOAT32, 1e-5),
        ("tokenizer.ggml.model", STRING, "gpt2"),
        ("tokenizer.ggml.pre", STRING, "smollm"),
        ("tokenizer.ggml.bos_token_id", UINT32, 1),
        ("tokenizer.ggml.eos_token_id", UINT32, 0),
        ("tokenizer.ggml.unknown_token_id", UINT32, 0),
        ("tokenizer.ggml.padding_token_id", UINT32, 0),
        ("tokenizer.ggml.add_bos_token", BOOL, False),
        ("tokenizer.chat_template", STRING, "{{ messages }}"),
    ]
    arrays = [
        ("tokenizer.ggml.tokens", STRING, TOKENS),
        ("tokenizer.ggml.token_type", INT32, [3, 3, 1, 1, 1, 1]),
        ("tokenizer.ggml.merges", STRING, ["a b", "Ġ a"]),
    ]
    entries = [string(k) + struct.pack("<I", t) + value(t, x) for k, t, x in scalar]
    for k, t, items in arrays:
        entries.append(string(k) + struct.pack("<IIQ", ARRAY, t, len(items))
                       + b"".join(value(t, x) for x in items))
    return entries


def half(x):
    """x as a float16, in bytes and as the number those stand for."""
    data = struct.pack("<e", x)
    return data, struct.unpack("<e", data)[0]


def block(kind, rng):
    """(bytes, weights) of 32 random weights; of one for F32."""
    if kind == F32:
        data = struct.pack("<f", rng.gauss(0, 1))
        return data, list(struct.unpack("<f", data))
    d, scale = half(rng.uniform(0.001, 0.1))
    if kind == Q8_0:
        q = [rng.randint(-128, 127) for _ in range(32)]
        return d + struct.pack("<32b", *q), [scale * x for x in q]
    m, low = half(rng.uniform(-1, 0))
    q = [rng.randint(0, 15) for _ in range(32)]
    packed = bytes(q[i] | q[i + 16] << 4 for i in range(16))
    return d + m + packed, [scale * x + low for x in q]


class Model:
    """A random model: .gguf are the bytes of its file, .weights the flat float lists by GGUF name."""

    def __init__(self, kind=Q4_1):
        rng = random.Random(7)
        shapes = {"token_embd": (len(TOKENS), HIDDEN, Q8_0), "output_norm": (None, HIDDEN, F32)}
        for i in range(LAYERS):
            for name, rows, cols in (("attn_norm", None, HIDDEN), ("ffn_norm", None, HIDDEN),
                                     ("attn_q", HIDDEN, HIDDEN), ("attn_k", KV_HEADS * HEAD, HIDDEN),
                                     ("attn_v", KV_HEADS * HEAD, HIDDEN), ("attn_output", HIDDEN, HIDDEN),
                                     ("ffn_gate", MLP, HIDDEN), ("ffn_up", MLP, HIDDEN),
                                     ("ffn_down", HIDDEN, MLP)):
                shapes[f"blk.{i}.{name}"] = (rows, cols, kind if rows else F32)
        self.weights, infos, data = {}, [], b""
        for name, (rows, cols, kind) in shapes.items():
            data += b"\0" * (-len(data) % 32)
            dims = [cols] + ([rows] if rows else [])
            infos.append(string(name + ".weight") + struct.pack("<I", len(dims))
                         + struct.pack(f"<{len(dims)}Q", *dims) + struct.pack("<IQ", kind, len(data)))
            count, flat = cols * (rows or 1), []
            while len(flat) < count:
                packed, weights = block(kind, rng)
                data += packed
                flat += weights
            self.weights[name] = flat
        keys = metadata()
        head = b"GGUF" + struct.pack("<IQQ", 3, len(infos), len(keys)) + b"".join(keys + infos)
        self.gguf = head + b"\0" * (-len(head) % 32) + data


def rows_in_halves(flat, cols):
    """GGUF's rows of one matrix in pairs that rotate together -> first all first ones of a head, then
    all second ones."""
    rows = [flat[i:i + cols] for i in range(0, len(flat), cols)]
    out = []
    for h in range(0, len(rows), HEAD):
        head = rows[h:h + HEAD]
        out += head[0::2] + head[1::2]
    return [x for row in out for x in row]


def read_safetensors(path):
    with open(path, "rb") as f:
        data = f.read()
    (n,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8:8 + n])
    header.pop("__metadata__")
    return header, data[8 + n:]


class TestGguf(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.dir = folder.name

    def convert(self, gguf, *options):
        path, out = os.path.join(self.dir, "in.gguf"), os.path.join(self.dir, "out")
        with open(path, "wb") as f:
            f.write(gguf)
        done = subprocess.run([PYTHON, SCRIPT, path, out, *options], capture_output=True, text=True,
                              check=False)
        return done, out

    def json(self, out, name):
        with open(os.path.join(out, name), encoding="utf-8") as f:
            return json.load(f)

    def test_weights(self):
        model = Model()
        for dtype, code, error in (("F32", "f", 1e-7), ("F16", "e", 2.0**-11), ("BF16", "H", 2.0**-8)):
            with self.subTest(dtype=dtype):
                done, out = self.convert(model.gguf, "--dtype", dtype)
                self.assertEqual(done.returncode, 0, done.stderr)
                header, data = read_safetensors(os.path.join(out, "model.safetensors"))
                self.assertEqual(len(header), 2 + 9 * LAYERS)
                for name, ours in (
                    ("model.embed_tokens", model.weights["token_embd"]),
                    ("model.norm", model.weights["output_norm"]),
                    ("model.layers.1.self_attn.q_proj", rows_in_halves(model.weights["blk.1.attn_q"], HIDDEN)),
                    ("model.layers.0.self_attn.k_proj", rows_in_halves(model.weights["blk.0.attn_k"], HIDDEN)),
                    ("model.layers.0.self_attn.v_proj", model.weights["blk.0.attn_v"]),
                    ("model.layers.1.mlp.down_proj", model.weights["blk.1.ffn_down"]),
                ):
                    entry = header[name + ".weight"]
                    self.assertEqual(entry["dtype"], dtype)
                    begin, end = entry["data_offsets"]
                    got = [x for x, in struct.iter_unpack("<" + code, data[begin:end])]
                    if dtype == "BF16":
                        got = [struct.unpack("<f", struct.pack("<I", x << 16))[0] for x in got]
                    self.assertEqual(len(got), len(ours))
                    for g, o in zip(got, ours):
                        self.assertLessEqual(abs(g - o), error * abs(o) + 1e-7, name)

    def test_json_files(self):
        done, out = self.convert(Model().gguf)
        self.assertEqual(done.returncode, 0, done.stderr)
        config = self.json(out, "config.json")
        for key, want in (("model_type", "llama"), ("hidden_size", HIDDEN), ("head_dim", HEAD),
                          ("num_key_value_heads", KV_HEADS), ("vocab_size", len(TOKENS)),
                          ("rms_norm_eps", 1e-5), ("rope_theta", 100000.0),
                          ("tie_word_embeddings", True), ("torch_dtype", "float16")):
            self.assertEqual(config[key], want, key)
        tokenizer = self.json(out, "tokenizer.json")
        self.assertEqual([a["content"] for a in tokenizer["added_tokens"]], TOKENS[:2])
        self.assertEqual(tokenizer["model"]["vocab"], {t: i for i, t in enumerate(TOKENS)})
        self.assertEqual(tokenizer["model"]["merges"], ["a b", "Ġ a"])
        settings = self.json(out, "tokenizer_config.json")
        self.assertEqual(settings["chat_template"], "{{ messages }}")
        self.assertEqual((settings["bos_token"], settings["eos_token"]), ("<|user|>", "<|end|>"))
        self.assertEqual(self.json(out, "generation_config.json")["eos_token_id"], 0)

    def test_what_it_does_not_know_is_refused_by_name(self):
        good = Model().gguf
        for gguf, part in (
            (b"nothing", "not a GGUF file"),
            (good[:4] + struct.pack("<I", 2) + good[8:], "version 2"),
            (good.replace(b"llama", b"gemma", 1), "'gemma'"),
            (good.replace(b"smollm", b"qwen-2"), "'qwen-2'"),
            (good.replace(b"blk.1.ffn_up", b"blk.1.ffn_ap"), "blk.1.ffn_ap.weight"),
            (good[:-40], "does not fit its data"),
            (good[:60], "gguf_to_hf: "),
            (Model(kind=Q5_1).gguf, "GGML type 7"),
        ):
            with self.subTest(part=part):
                done, _ = self.convert(gguf)
                self.assertEqual(done.returncode, 1)
                self.assertIn(part, done.stderr)
                self.assertNotIn("Traceback", done.stderr)


if __name__ == "__main__":
    PYTHON = python_with_numpy()
    if not PYTHON:
        print("no python3 here has numpy (scripts/packages smollm2)")
        sys.exit(77)
    unittest.main()
