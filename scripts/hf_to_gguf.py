#!/usr/bin/env python3
"""Write a Qwen3 directory's weights as GGUF, for llama.cpp to be measured on the same ones.

    hf_to_gguf.py DIR OUT.gguf [--type BF16|Q8_0|Q4_0]

Takes BF16 checkpoints in one file, without their tokenizer: the result says "no_vocab", which is enough for
measuring speed and for nothing else. Norms are kept in F32, as llama.cpp's own converter does; all matrices, the
embedding among them, have the one type. Quantized are blocks of 32 weights along a row: Q8_0 with the scale
max |x| / 127, Q4_0 with the scale x / -8 of the x that is largest by size. Needs numpy. Format:
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""
import argparse
import json
import os
import struct
import sys

import numpy as np

TYPES = {"F32": (0, 1, 4), "Q4_0": (2, 32, 18), "Q8_0": (8, 32, 34), "BF16": (30, 1, 2)}  # id, weights, bytes
ALIGN, BLOCK = 32, 32
CHUNK_ROWS = 4096
U32, F32, STRING = 4, 6, 8
LAYER = {"input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
         "self_attn.v_proj": "attn_v", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
         "self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate",
         "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
OTHERS = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


class Refused(Exception):
    """The input is not what this program converts; the message says where."""


def read_checkpoint(folder):
    """(config, {name: [shape, array of BF16 as u2]}) with the arrays mapped, not read."""
    with open(os.path.join(folder, "config.json"), encoding="utf-8") as f:
        config = json.load(f)
    if config.get("model_type") != "qwen3":
        raise Refused(f"{folder}: model_type is {config.get('model_type')!r}; only qwen3 is converted")
    path = os.path.join(folder, "model.safetensors")
    with open(path, "rb") as f:
        (n,) = struct.unpack("<Q", f.read(8))
        header = json.loads(f.read(n))
    data, tensors = np.memmap(path, np.uint8, "r", 8 + n), {}
    for name, t in header.items():
        if name == "__metadata__":
            continue
        if t["dtype"] != "BF16":
            raise Refused(f"{path}: {name} is {t['dtype']}; only BF16 is converted")
        begin, end = t["data_offsets"]
        tensors[name] = data[begin:end].view("<u2").reshape(t["shape"])
    return config, tensors


def widen(words):
    return (words.astype(np.uint32) << 16).view(np.float32)


def quantize_q8_0(x):
    x = x.reshape(-1, BLOCK)
    d = np.abs(x).max(axis=1) / np.float32(127)
    inverse = np.divide(1, d, out=np.zeros_like(d), where=d > 0)
    out = np.empty(len(x), np.dtype([("d", "<f2"), ("q", "i1", BLOCK)]))
    y = x * inverse[:, None]
    whole = np.floor(np.abs(y))
    out["d"], out["q"] = d, np.sign(y) * (whole + (np.abs(y) - whole >= 0.5))  # halves away from zero, as ggml does
    return out


def quantize_q4_0(x):
    x = x.reshape(-1, BLOCK)
    d = np.take_along_axis(x, np.abs(x).argmax(axis=1)[:, None], 1)[:, 0] / np.float32(-8)
    inverse = np.divide(1, d, out=np.zeros_like(d), where=d != 0)
    q = np.minimum(15, (x * inverse[:, None] + np.float32(8.5)).astype(np.int8)).astype(np.uint8)
    out = np.empty(len(x), np.dtype([("d", "<f2"), ("q", "u1", BLOCK // 2)]))
    out["d"], out["q"] = d, q[:, :BLOCK // 2] | q[:, BLOCK // 2:] << 4
    return out


def encode(words, kind):
    if kind == "BF16":
        return words
    x = widen(words)
    return {"F32": lambda x: x, "Q8_0": quantize_q8_0, "Q4_0": quantize_q4_0}[kind](x)


def gguf_name(name):
    stem = name.removesuffix(".weight")
    if stem in OTHERS:
        return OTHERS[stem] + ".weight"
    parts = stem.split(".", 3)
    if parts[:2] == ["model", "layers"] and len(parts) == 4 and parts[3] in LAYER:
        return f"blk.{parts[2]}.{LAYER[parts[3]]}.weight"
    raise Refused(f"tensor {name} is not one of Qwen3's")


def text(s):
    raw = s.encode()
    return struct.pack("<Q", len(raw)) + raw


def metadata(config, kind):
    q = "qwen3."
    return [("general.architecture", STRING, "qwen3"), ("general.name", STRING, f"the same weights, {kind}"),
            (q + "block_count", U32, config["num_hidden_layers"]),
            (q + "context_length", U32, config["max_position_embeddings"]),
            (q + "embedding_length", U32, config["hidden_size"]),
            (q + "feed_forward_length", U32, config["intermediate_size"]),
            (q + "attention.head_count", U32, config["num_attention_heads"]),
            (q + "attention.head_count_kv", U32, config["num_key_value_heads"]),
            (q + "attention.key_length", U32, config["head_dim"]),
            (q + "attention.value_length", U32, config["head_dim"]),
            (q + "attention.layer_norm_rms_epsilon", F32, config["rms_norm_eps"]),
            (q + "rope.freq_base", F32, config["rope_theta"]), (q + "vocab_size", U32, config["vocab_size"]),
            ("tokenizer.ggml.model", STRING, "no_vocab")]


def pack_value(kind, value):
    packed = text(value) if kind == STRING else struct.pack("<I" if kind == U32 else "<f", value)
    return struct.pack("<I", kind) + packed


def padding(n):
    return -n % ALIGN


def convert(folder, path, kind):
    config, tensors = read_checkpoint(folder)
    pairs = metadata(config, kind)
    head, offset, plan = b"", 0, []
    for name, words in tensors.items():
        its = "F32" if words.ndim == 1 else kind
        number, per_block, size = TYPES[its]
        if words.shape[-1] % per_block:
            raise Refused(f"tensor {name}: rows of {words.shape[-1]} are no whole blocks of {per_block}")
        head += text(gguf_name(name)) + struct.pack("<I", words.ndim)
        head += b"".join(struct.pack("<Q", n) for n in words.shape[::-1]) + struct.pack("<IQ", number, offset)
        n_bytes = words.size // per_block * size
        plan.append((words, its, n_bytes))
        offset += n_bytes + padding(n_bytes)
    front = b"GGUF" + struct.pack("<IQQ", 3, len(plan), len(pairs))
    front += b"".join(text(key) + pack_value(t, value) for key, t, value in pairs) + head
    with open(path, "wb") as f:
        f.write(front + bytes(padding(len(front))))
        for words, its, n_bytes in plan:
            rows = words.reshape(-1, words.shape[-1])
            for at in range(0, len(rows), CHUNK_ROWS):
                f.write(np.ascontiguousarray(encode(rows[at:at + CHUNK_ROWS], its)).tobytes())
            f.write(bytes(padding(n_bytes)))


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    p.add_argument("folder", metavar="DIR")
    p.add_argument("out", metavar="OUT.gguf")
    p.add_argument("--type", choices=("BF16", "Q8_0", "Q4_0"), default="BF16")
    args = p.parse_args()
    try:
        convert(args.folder, args.out, args.type)
    except (OSError, Refused, ValueError, KeyError) as e:
        sys.exit(f"hf_to_gguf: {e}")


if __name__ == "__main__":
    main()
