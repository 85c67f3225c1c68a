"""A small random checkpoint and its forward pass in float64, both in plain Python: written from the
models' definitions, with nothing of lockstep's, so that it can be an oracle for it."""
import json
import math
import os
import random
import struct

# ---- stored numbers ----


def round_to(value, dtype):
    """(the number that dtype stores for value, its bytes)"""
    if dtype == "F16":
        raw = struct.pack("<e", value)
        return struct.unpack("<e", raw)[0], raw
    raw = struct.pack("<f", value)
    if dtype == "BF16":
        raw = raw[2:]  # truncated; which neighbour it becomes does not matter here
        return struct.unpack("<f", b"\0\0" + raw)[0], raw
    return struct.unpack("<f", raw)[0], raw


class Tensor:
    """shape [rows, cols] or [rows]; values as stored, row by row."""

    def __init__(self, rng, shape, dtype, center=0.0, scale=0.25):
        self.shape, self.dtype = shape, dtype
        pairs = [round_to(center + rng.uniform(-scale, scale), dtype) for _ in
                 range(math.prod(shape))]
        self.values, self.raw = [p[0] for p in pairs], b"".join(p[1] for p in pairs)

    def rows(self):
        n = self.shape[1]
        return [self.values[i:i + n] for i in range(0, len(self.values), n)]


def shapes(c):
    """name -> shape of every tensor that the configuration calls for."""
    hidden, d, inter = c["hidden_size"], c["head_dim"], c["intermediate_size"]
    q, kv = c["num_attention_heads"] * d, c["num_key_value_heads"] * d
    arch = c["model_type"]
    qkv_bias = arch == "qwen2" or c.get("attention_bias", False)
    o_bias = arch != "qwen2" and c.get("attention_bias", False)
    mlp_bias = arch == "llama" and c.get("mlp_bias", False)
    out = {"model.embed_tokens.weight": [c["vocab_size"], hidden], "model.norm.weight": [hidden]}
    if not c["tie_word_embeddings"]:
        out["lm_head.weight"] = [c["vocab_size"], hidden]
    for i in range(c["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        out[layer + "input_layernorm.weight"] = [hidden]
        out[layer + "post_attention_layernorm.weight"] = [hidden]
        if arch == "qwen3":
            out[layer + "self_attn.q_norm.weight"] = [d]
            out[layer + "self_attn.k_norm.weight"] = [d]
        for name, rows, cols, bias in (
                ("self_attn.q_proj", q, hidden, qkv_bias),
                ("self_attn.k_proj", kv, hidden, qkv_bias),
                ("self_attn.v_proj", kv, hidden, qkv_bias),
                ("self_attn.o_proj", hidden, q, o_bias),
                ("mlp.gate_proj", inter, hidden, mlp_bias),
                ("mlp.up_proj", inter, hidden, mlp_bias),
                ("mlp.down_proj", hidden, inter, mlp_bias)):
            out[f"{layer}{name}.weight"] = [rows, cols]
            if bias:
                out[f"{layer}{name}.bias"] = [rows]
    return out


def make(config, dtype_of, seed):
    """name -> Tensor; dtype_of(name) chooses how each is stored."""
    rng = random.Random(seed)
    return {name: Tensor(rng, shape, dtype_of(name), center=1.0 if "norm" in name else 0.0)
            for name, shape in sorted(shapes(config).items())}


def write_safetensors(path, tensors):
    header, at = {}, 0
    for name, t in tensors.items():
        header[name] = {"dtype": t.dtype, "shape": t.shape, "data_offsets": [at, at + len(t.raw)]}
        at += len(t.raw)
    text = json.dumps(header).encode()
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + b"".join(t.raw for t in tensors.values()))


def write(folder, config, tensors, n_shard):
    def save(name, value):
        with open(os.path.join(folder, name), "w", encoding="utf-8") as f:
            json.dump(value, f)

    save("config.json", config)
    if n_shard == 1:
        write_safetensors(os.path.join(folder, "model.safetensors"), tensors)
        return
    names, where = list(tensors), {}
    for i in range(n_shard):
        file = f"model-{i + 1:05d}-of-{n_shard:05d}.safetensors"
        part = names[i::n_shard]
        write_safetensors(os.path.join(folder, file), {n: tensors[n] for n in part})
        where.update((n, file) for n in part)
    save("model.safetensors.index.json", {"metadata": {}, "weight_map": where})


# ---- the forward pass ----


def dot(a, b):
    return math.fsum(x * y for x, y in zip(a, b))


def rmsnorm(x, weight, eps):
    r = 1 / math.sqrt(dot(x, x) / len(x) + eps)
    return [v * r * w for v, w in zip(x, weight)]


def frequencies(c):
    """Llama 3.1's scaling as it is defined: by wavelength, against the original context's."""
    d, rope = c["head_dim"], c.get("rope_scaling") or c.get("rope_parameters") or {}
    theta = rope.get("rope_theta", c.get("rope_theta"))
    plain = [theta ** (-2 * i / d) for i in range(d // 2)]
    if rope.get("rope_type") != "llama3":
        return plain
    original, low, high = (rope[k] for k in ("original_max_position_embeddings", "low_freq_factor",
                                             "high_freq_factor"))
    out = []
    for f in plain:
        wavelength = 2 * math.pi / f
        smooth = (original / wavelength - low) / (high - low)
        smooth = min(1.0, max(0.0, smooth))
        out.append((1 - smooth) * f / rope["factor"] + smooth * f)
    return out


def rotated(x, pos, freqs):
    half, out = len(freqs), list(x)
    for i, f in enumerate(freqs):
        a, b, c, s = x[i], x[i + half], math.cos(pos * f), math.sin(pos * f)
        out[i], out[i + half] = a * c - b * s, b * c + a * s
    return out


class Model:
    def __init__(self, config, tensors):
        self.c = config
        self.w = {n: t.rows() if len(t.shape) == 2 else t.values for n, t in tensors.items()}
        self.freqs = frequencies(config)

    def linear(self, name, x):
        y = [dot(row, x) for row in self.w[name + ".weight"]]
        return [a + b for a, b in zip(y, self.w.get(name + ".bias", [0] * len(y)))]

    def heads(self, name, norm, x, pos):
        """The heads of one projection; rotated where pos is given."""
        d, y = self.c["head_dim"], self.linear(name, x)
        heads = [y[i:i + d] for i in range(0, len(y), d)]
        if norm in self.w:
            heads = [rmsnorm(h, self.w[norm], self.c["rms_norm_eps"]) for h in heads]
        return heads if pos is None else [rotated(h, pos, self.freqs) for h in heads]

    def attention(self, layer, normed):
        name, c = layer + "self_attn.", self.c
        q, k, v = ([self.heads(f"{name}{p}_proj", f"{name}{p}_norm.weight", x,
                               None if p == "v" else pos) for pos, x in enumerate(normed)]
                   for p in "qkv")
        group, out = c["num_attention_heads"] // c["num_key_value_heads"], []
        for pos in range(len(normed)):
            row = []
            for h in range(c["num_attention_heads"]):
                scores = [dot(q[pos][h], k[t][h // group]) / math.sqrt(c["head_dim"])
                          for t in range(pos + 1)]
                top = max(scores)
                weights = [math.exp(s - top) for s in scores]
                total = math.fsum(weights)
                row += [dot(weights, [v[t][h // group][i] for t in range(pos + 1)]) / total
                        for i in range(c["head_dim"])]
            out.append(self.linear(name + "o_proj", row))
        return out

    def mlp(self, layer, x):
        gate, up = self.linear(layer + "mlp.gate_proj", x), self.linear(layer + "mlp.up_proj", x)
        return self.linear(layer + "mlp.down_proj",
                           [g / (1 + math.exp(-g)) * u for g, u in zip(gate, up)])

    def logits(self, ids):
        """[position][vocabulary]"""
        eps = self.c["rms_norm_eps"]
        xs = [self.w["model.embed_tokens.weight"][i] for i in ids]
        for i in range(self.c["num_hidden_layers"]):
            layer = f"model.layers.{i}."
            norm = self.w[layer + "input_layernorm.weight"]
            ys = self.attention(layer, [rmsnorm(x, norm, eps) for x in xs])
            xs = [[a + b for a, b in zip(x, y)] for x, y in zip(xs, ys)]
            norm = self.w[layer + "post_attention_layernorm.weight"]
            ys = [self.mlp(layer, rmsnorm(x, norm, eps)) for x in xs]
            xs = [[a + b for a, b in zip(x, y)] for x, y in zip(xs, ys)]
        head = "model.embed_tokens" if self.c["tie_word_embeddings"] else "lm_head"
        return [self.linear(head, rmsnorm(x, self.w["model.norm.weight"], eps)) for x in xs]


def log_softmax(logits):
    top = max(logits)
    total = math.log(math.fsum(math.exp(v - top) for v in logits))
    return [v - top - total for v in logits]
