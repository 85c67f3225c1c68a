#!/usr/bin/env python3
"""Turn a Llama-architecture GGUF file into a Hugging Face model directory.

    gguf_to_hf.py IN.gguf OUTDIR [--dtype F16|BF16|F32]

Writes config.json, generation_config.json, model.safetensors, tokenizer.json and
tokenizer_config.json. It knows what SmolLM2's file holds and refuses the rest by name: version 3,
architecture "llama", tensors in F32, F16, Q8_0, Q4_0 and Q4_1, a byte-level BPE vocabulary with the
"smollm" pre-tokenizer.

Q4_1 stores 32 weights as 4-bit q with a float16 scale d and minimum m; the weight is d*q + m. Of the
two-byte types F16 holds that to 11 bits and BF16 to 8, so F16 is the default.

Needs numpy (Debian: python3-numpy).
"""
import argparse
import json
import math
import mmap
import os
import struct
import sys

import numpy as np

SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9

# GGML type -> (name, weights in a block, block layout)
BLOCKS = {
    0: ("F32", 1, np.dtype([("d", "<f4")])),
    1: ("F16", 1, np.dtype([("d", "<f2")])),
    2: ("Q4_0", 32, np.dtype([("d", "<f2"), ("q", "u1", 16)])),
    3: ("Q4_1", 32, np.dtype([("d", "<f2"), ("m", "<f2"), ("q", "u1", 16)])),
    8: ("Q8_0", 32, np.dtype([("d", "<f2"), ("q", "i1", 32)])),
}

CONTROL_TOKEN, USER_TOKEN = 3, 4


class Refused(Exception):
    """The input is not what this program converts; the message says where."""


# ---- reading GGUF ---------------------------------------------------------------------------------


class Gguf:
    """metadata: {key: value}; tensors: {name: (type, shape outermost first, offset in the file)}."""

    def __init__(self, path):
        with open(path, "rb") as f:
            self.bytes = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
        self.at = 0
        if self.bytes[:4] != b"GGUF":
            raise Refused(f"{path}: not a GGUF file")
        self.at = 4
        version = self._scalar("I")
        if version != 3:
            raise Refused(f"{path}: GGUF version {version}; only 3 is known")
        n_tensor, n_key = self._scalar("Q"), self._scalar("Q")
        self.metadata = {}
        for _ in range(n_key):
            key = self._string()
            self.metadata[key] = self._value(self._scalar("I"))
        tensors = {}
        for _ in range(n_tensor):
            name = self._string()
            shape = [self._scalar("Q") for _ in range(self._scalar("I"))]
            tensors[name] = (self._scalar("I"), shape[::-1], self._scalar("Q"))
        align = self.metadata.get("general.alignment", 32)
        data = (self.at + align - 1) // align * align
        self.tensors = {n: (t, shape, data + off) for n, (t, shape, off) in tensors.items()}

    def _scalar(self, code):
        (value,) = struct.unpack_from("<" + code, self.bytes, self.at)
        self.at += struct.calcsize("<" + code)
        return value

    def _string(self):
        n = self._scalar("Q")
        if n > len(self.bytes) - self.at:
            raise Refused(f"a string of {n} bytes at offset {self.at} ends past the file")
        self.at += n
        return self.bytes[self.at - n : self.at].decode("utf-8")

    def _value(self, kind):
        if kind == STRING:
            return self._string()
        if kind == ARRAY:
            item, n = self._scalar("I"), self._scalar("Q")
            return [self._value(item) for _ in range(n)]
        if kind not in SCALARS:
            raise Refused(f"metadata value of unknown type {kind}")
        return self._scalar(SCALARS[kind])

    def need(self, key):
        if key not in self.metadata:
            raise Refused(f"metadata: {key} is missing")
        return self.metadata[key]

    def tensor(self, name):
        """The tensor as float32, dequantized."""
        if name not in self.tensors:
            raise Refused(f"tensor {name} is missing")
        kind, shape, offset = self.tensors[name]
        if kind not in BLOCKS:
            raise Refused(f"tensor {name}: GGML type {kind} is not supported")
        type_name, per_block, layout = BLOCKS[kind]
        count = math.prod(shape)
        if count % per_block or offset + count // per_block * layout.itemsize > len(self.bytes):
            raise Refused(f"tensor {name}: shape {shape} does not fit its data")
        blocks = np.frombuffer(self.bytes, layout, count // per_block, offset)
        return dequantize(type_name, blocks).reshape(shape)


def dequantize(type_name, blocks):
    d = blocks["d"].astype(np.float32)
    if type_name in ("F32", "F16"):
        return d
    if type_name == "Q8_0":
        return d[:, None] * blocks["q"]
    # The low nibbles of a block's 16 bytes are its first 16 weights, the high ones the last 16.
    q = np.concatenate((blocks["q"] & 15, blocks["q"] >> 4), axis=1).astype(np.float32)
    if type_name == "Q4_0":
        return d[:, None] * (q - 8)
    return d[:, None] * q + blocks["m"].astype(np.float32)[:, None]


# ---- the model ------------------------------------------------------------------------------------


def unpermute(w, n_head):
    """GGUF keeps the rows of q and k of a Llama as pairs (0, 1), (2, 3), ... that rotate together;
    Hugging Face rotates row i with row i + head_dim/2."""
    rows, cols = w.shape
    return w.reshape(n_head, rows // n_head // 2, 2, cols).swapaxes(1, 2).reshape(rows, cols)


def make_config(gguf, dtype):
    arch = gguf.need("general.architecture")
    if arch != "llama":
        raise Refused(f"general.architecture: {arch!r}; only llama is converted")
    hidden, heads = gguf.need("llama.embedding_length"), gguf.need("llama.attention.head_count")
    if gguf.need("llama.rope.dimension_count") * heads != hidden:
        raise Refused("llama.rope.dimension_count: only part of a head is rotated")
    eps = float(np.float32(gguf.need("llama.attention.layer_norm_rms_epsilon")))
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": gguf.need("tokenizer.ggml.bos_token_id"),
        "eos_token_id": gguf.need("tokenizer.ggml.eos_token_id"),
        "head_dim": hidden // heads,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "initializer_range": 0.041666666666666664,
        "intermediate_size": gguf.need("llama.feed_forward_length"),
        "max_position_embeddings": gguf.need("llama.context_length"),
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": heads,
        "num_hidden_layers": gguf.need("llama.block_count"),
        "num_key_value_heads": gguf.need("llama.attention.head_count_kv"),
        "pad_token_id": gguf.need("tokenizer.ggml.padding_token_id"),
        "rms_norm_eps": float(f"{eps:.6g}"),
        "rope_scaling": None,
        "rope_theta": gguf.need("llama.rope.freq_base"),
        "tie_word_embeddings": "output.weight" not in gguf.tensors,
        "torch_dtype": {"F16": "float16", "BF16": "bfloat16", "F32": "float32"}[dtype],
        "use_cache": True,
        "vocab_size": len(gguf.need("tokenizer.ggml.tokens")),
    }


def hf_tensors(gguf, config):
    """Yields (Hugging Face name, shape, function that makes the float32 array)."""
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    names = [("token_embd", "model.embed_tokens", 0), ("output_norm", "model.norm", 0)]
    if not config["tie_word_embeddings"]:
        names.append(("output", "lm_head", 0))
    for i in range(config["num_hidden_layers"]):
        g, h = f"blk.{i}.", f"model.layers.{i}."
        names += [
            (g + "attn_norm", h + "input_layernorm", 0),
            (g + "attn_q", h + "self_attn.q_proj", heads),
            (g + "attn_k", h + "self_attn.k_proj", kv_heads),
            (g + "attn_v", h + "self_attn.v_proj", 0),
            (g + "attn_output", h + "self_attn.o_proj", 0),
            (g + "ffn_norm", h + "post_attention_layernorm", 0),
            (g + "ffn_gate", h + "mlp.gate_proj", 0),
            (g + "ffn_up", h + "mlp.up_proj", 0),
            (g + "ffn_down", h + "mlp.down_proj", 0),
        ]
    unknown = set(gguf.tensors) - {g + ".weight" for g, _, _ in names}
    if unknown:
        raise Refused(f"tensor {min(unknown)} has no place in a Llama")
    for g, h, rotated_heads in names:
        name = g + ".weight"
        if name not in gguf.tensors:
            raise Refused(f"tensor {name} is missing")

        def make(name=name, rotated_heads=rotated_heads):
            w = gguf.tensor(name)
            return unpermute(w, rotated_heads) if rotated_heads else w

        yield h + ".weight", gguf.tensors[name][1], make


def to_bytes(x, dtype):
    if dtype == "BF16":  # round to nearest, ties to even
        bits = x.astype("<f4").view("<u4")
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()
    return x.astype({"F16": "<f2", "F32": "<f4"}[dtype]).tobytes()


def write_safetensors(path, tensors, dtype):
    """tensors: [(name, shape, make)]; holds one of them in memory at a time."""
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, shape, _ in tensors:
        begin, end = end, end + math.prod(shape) * (4 if dtype == "F32" else 2)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for _, _, make in tensors:
            f.write(to_bytes(make(), dtype))


# ---- the tokenizer --------------------------------------------------------------------------------


def make_tokenizer(gguf):
    """(tokenizer.json, tokenizer_config.json)"""
    for key, want in (("tokenizer.ggml.model", "gpt2"), ("tokenizer.ggml.pre", "smollm")):
        if gguf.need(key) != want:
            raise Refused(f"{key}: {gguf.need(key)!r}; only {want!r} is converted")
    tokens, kinds = gguf.need("tokenizer.ggml.tokens"), gguf.need("tokenizer.ggml.token_type")
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    added = [
        {"id": i, "content": t, **flags, "special": k == CONTROL_TOKEN}
        for i, (t, k) in enumerate(zip(tokens, kinds))
        if k in (CONTROL_TOKEN, USER_TOKEN)
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Digits", "individual_digits": True},
                {**byte_level, "use_regex": True},
            ],
        },
        "post_processor": None,
        "decoder": {**byte_level, "add_prefix_space": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {t: i for i, t in enumerate(tokens)},
            "merges": gguf.need("tokenizer.ggml.merges"),
        },
    }

    def token(key):
        return tokens[gguf.need(f"tokenizer.ggml.{key}_token_id")]

    config = {
        "add_bos_token": gguf.metadata.get("tokenizer.ggml.add_bos_token", False),
        "add_prefix_space": False,
        "added_tokens_decoder": {
            str(a["id"]): {k: v for k, v in a.items() if k != "id"} for a in added
        },
        "bos_token": token("bos"),
        "chat_template": gguf.need("tokenizer.chat_template"),
        "clean_up_tokenization_spaces": False,
        "eos_token": token("eos"),
        "model_max_length": gguf.need("llama.context_length"),
        "pad_token": token("padding"),
        "tokenizer_class": "GPT2Tokenizer",
        "unk_token": token("unknown"),
    }
    return tokenizer, config


# ---- the directory --------------------------------------------------------------------------------


def write_json(path, value):
    with open(path, "w", encoding="utf-8") as f:
        json.dump(value, f, ensure_ascii=False, indent=2)
        f.write("\n")


def convert(gguf_path, out, dtype):
    gguf = Gguf(gguf_path)
    config = make_config(gguf, dtype)
    tokenizer, tokenizer_config = make_tokenizer(gguf)
    generation = {f"{k}_token_id": config[f"{k}_token_id"] for k in ("bos", "eos", "pad")}
    tensors = list(hf_tensors(gguf, config))
    os.makedirs(out, exist_ok=True)
    write_safetensors(os.path.join(out, "model.safetensors"), tensors, dtype)
    write_json(os.path.join(out, "tokenizer.json"), tokenizer)
    write_json(os.path.join(out, "tokenizer_config.json"), tokenizer_config)
    write_json(os.path.join(out, "generation_config.json"), generation)
    write_json(os.path.join(out, "config.json"), config)
    return sum(math.prod(shape) for _, shape, _ in tensors)


def main():
    parser = argparse.ArgumentParser(description="Turn a Llama GGUF into a Hugging Face directory.")
    parser.add_argument("gguf")
    parser.add_argument("out")
    parser.add_argument("--dtype", choices=["F16", "BF16", "F32"], default="F16")
    args = parser.parse_args()
    try:
        count = convert(args.gguf, args.out, args.dtype)
    except (OSError, Refused, struct.error, UnicodeDecodeError) as e:
        sys.exit(f"gguf_to_hf: {e}")
    print(f"{args.out}: {count:,} parameters in {args.dtype}")


if __name__ == "__main__":
    main()
