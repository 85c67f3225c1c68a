#!/usr/bin/env python3
"""Make models/kjv-qwen3-3m again: a three-million-parameter Qwen3 trained on the King James Bible.

    scripts/packages retrain
    bible -f gen1:1-rev22:21 > kjv.txt
    scripts/train-demo-model.py prepare --bible kjv.txt --data DATA --model MODEL   (seconds)
    scripts/train-demo-model.py train --data DATA --model MODEL                     (37 minutes, 2 cores)

`prepare` holds out every fiftieth chapter, trains the tokenizer on the rest, and writes all of MODEL
but the weights; its files come out the same every time. `train` writes MODEL/model.safetensors and a
line of losses now and then. Its settings are those of the model that ships; the weights depend on the
CPU and on PyTorch's build all the same.
"""
import argparse
import collections
import json
import math
import os
import re
import struct
import sys
import time
import unicodedata

import numpy as np

VOCAB = 2048
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
END = VOCAB - len(SPECIALS)  # <|endoftext|>; it stands before, between and after the chapters
HELD_OUT_EVERY = 50

CONFIG = {
    "architectures": ["Qwen3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": END,
    "eos_token_id": END,
    "head_dim": 32,
    "hidden_act": "silu",
    "hidden_size": 192,
    "initializer_range": 0.02,
    "intermediate_size": 512,
    "max_position_embeddings": 1024,
    "max_window_layers": 6,
    "model_type": "qwen3",
    "num_attention_heads": 8,
    "num_hidden_layers": 6,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-6,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "sliding_window": None,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.51.0",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": VOCAB,
}

# How Qwen's tokenizers cut text into words.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


# ---- text -----------------------------------------------------------------------------------------


def read_chapters(path):
    """[(name, [verse, ...]), ...] from lines such as "Ge1:1 In the beginning ..."; other lines, and
    what stands before the last Genesis 1:1 (the program may print it twice), are skipped."""
    reference = re.compile(r"^((?:[123] ?)?[A-Za-z]+)(\d+):(\d+) (.*\S)\s*$")
    with open(path, encoding="ascii") as f:
        rows = [match.groups() for match in map(reference.match, f) if match]
    starts = [i for i, row in enumerate(rows) if row[0].startswith("Ge") and row[1:3] == ("1", "1")]
    chapters = []
    for book, chapter, verse, text in rows[starts[-1] if starts else 0 :]:
        if verse == "1":
            chapters.append((f"{book} {chapter}", []))
        if not chapters or len(chapters[-1][1]) + 1 != int(verse):
            sys.exit(f"{path}: verse {book}{chapter}:{verse} is out of order")
        chapters[-1][1].append(" ".join(text.split()))
    found = len(chapters), sum(len(verses) for _, verses in chapters)
    if found != (1189, 31102):
        sys.exit(f"{path}: {found[0]} chapters and {found[1]} verses; 1189 and 31102 are expected")
    return chapters


def text_of(chapter):
    return "".join(verse + "\n" for verse in chapter[1])


# ---- tokenizer ------------------------------------------------------------------------------------


def byte_alphabet():
    """GPT-2's printable character of every byte, in the order of the first 256 ids."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in plain]
    return {**{b: chr(b) for b in plain}, **{b: chr(256 + i) for i, b in enumerate(others)}}


ALPHABET = byte_alphabet()


def words_of(text):
    """The text's words, each as a list of its bytes' characters."""
    import regex

    return [[ALPHABET[b] for b in word.encode()] for word in regex.findall(SPLIT, text)]


def join(word, pair):
    """The word with every occurrence of the pair, from the left, made one piece."""
    out, i = [], 0
    while i < len(word):
        n = 2 if tuple(word[i : i + 2]) == pair else 1
        out.append("".join(word[i : i + n]))
        i += n
    return out


def train_bpe(text, n_merges):
    """(vocabulary, merges): joins the most frequent pair again and again; of equals the last in
    alphabetical order."""
    count = collections.Counter(map(tuple, words_of(text)))
    words, frequency = [list(w) for w in count], list(count.values())
    pairs, where = collections.Counter(), collections.defaultdict(set)

    def enter(i, sign):
        for pair in zip(words[i], words[i][1:]):
            pairs[pair] += sign * frequency[i]
            if sign > 0:
                where[pair].add(i)
            elif pairs[pair] <= 0:
                del pairs[pair]

    for i in range(len(words)):
        enter(i, +1)
    vocab, merges = {c: i for i, c in enumerate(ALPHABET.values())}, []
    while len(merges) < n_merges:
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(list(best))
        vocab.setdefault("".join(best), len(vocab))
        for i in where.pop(best):
            enter(i, -1)
            words[i] = join(words[i], best)
            enter(i, +1)
    return vocab, merges


def encode(text, vocab, merges):
    rank = {tuple(pair): i for i, pair in enumerate(merges)}
    known, ids = {}, []
    for word in map(tuple, words_of(unicodedata.normalize("NFC", text))):
        if word not in known:
            pieces = list(word)
            while len(pieces) > 1:
                pair = min(zip(pieces, pieces[1:]), key=lambda p: rank.get(p, math.inf))
                if pair not in rank:
                    break
                pieces = join(pieces, pair)
            known[word] = [vocab[p] for p in pieces]
        ids += known[word]
    return ids


def tokenizer_files(vocab, merges):
    """(tokenizer.json, tokenizer_config.json)"""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False,
                  "use_regex": False}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
             "special": True}
    split = {"type": "Split", "pattern": {"Regex": SPLIT}, "behavior": "Isolated", "invert": False}
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": END + i, "content": s, **flags} for i, s in enumerate(SPECIALS)],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": byte_level,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": merges,
        },
    }
    config = {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": {
            str(END + i): {"content": s, **flags} for i, s in enumerate(SPECIALS)
        },
        "additional_special_tokens": SPECIALS[1:],
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": SPECIALS[0],
        "errors": "replace",
        "model_max_length": CONFIG["max_position_embeddings"],
        "pad_token": SPECIALS[0],
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    return tokenizer, config


def write_json(folder, name, value):
    with open(os.path.join(folder, name), "w", encoding="utf-8") as f:
        json.dump(value, f, ensure_ascii=False, indent=2)
        f.write("\n")


def prepare(args):
    os.makedirs(args.data, exist_ok=True)
    os.makedirs(args.model, exist_ok=True)
    chapters = read_chapters(args.bible)
    held_out = chapters[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY]
    train_on = [c for i, c in enumerate(chapters, 1) if i % HELD_OUT_EVERY]
    vocab, merges = train_bpe("".join(map(text_of, train_on)), END - len(ALPHABET))
    if len(vocab) != END:
        sys.exit("two merges made the same token")
    tokenizer, tokenizer_config = tokenizer_files(vocab, merges)
    ends = {"bos_token_id": END, "do_sample": False, "eos_token_id": END, "pad_token_id": END}
    write_json(args.model, "config.json", CONFIG)
    write_json(args.model, "generation_config.json", {**ends, "transformers_version": "4.51.0"})
    write_json(args.model, "tokenizer.json", tokenizer)
    write_json(args.model, "tokenizer_config.json", tokenizer_config)
    for name, part in (("train", train_on), ("held-out", held_out)):
        ids = [END]
        for chapter in part:
            ids += encode(text_of(chapter), vocab, merges) + [END]
        np.array(ids, "<u2").tofile(os.path.join(args.data, name + ".u16"))
        print(f"{name}: {len(part)} chapters, {len(ids)} tokens")


# ---- the network ----------------------------------------------------------------------------------


def build(torch, dropout):
    """A Qwen3ForCausalLM; its modules' names make the names of the tensors."""
    nn, F = torch.nn, torch.nn.functional
    hidden, n_layer, mlp = (CONFIG[k] for k in ("hidden_size", "num_hidden_layers", "intermediate_size"))
    heads, kv_heads, dim = (CONFIG[k] for k in ("num_attention_heads", "num_key_value_heads", "head_dim"))
    group = heads // kv_heads

    def linear(n_in, n_out):
        return nn.Linear(n_in, n_out, bias=False)

    def thin(x, training):
        """Dropout of whole channels of a sequence, on what is about to be added to the residual."""
        if not training or dropout == 0:
            return x
        return x * (torch.rand(x.shape[0], 1, x.shape[2]) >= dropout) / (1 - dropout)

    class RMSNorm(nn.Module):
        def __init__(self, n):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(n))

        def forward(self, x):
            x = x.float()
            return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + CONFIG["rms_norm_eps"]) * self.weight

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.q_proj, self.k_proj = linear(hidden, heads * dim), linear(hidden, kv_heads * dim)
            self.v_proj, self.o_proj = linear(hidden, kv_heads * dim), linear(heads * dim, hidden)
            self.q_norm, self.k_norm = RMSNorm(dim), RMSNorm(dim)

        def forward(self, x, cos, sin, mask):
            n, length, _ = x.shape

            def rotate(t):
                first, second = t.chunk(2, -1)
                return t * cos + torch.cat((-second, first), -1) * sin

            q = rotate(self.q_norm(self.q_proj(x).view(n, length, heads, dim)))
            k = rotate(self.k_norm(self.k_proj(x).view(n, length, kv_heads, dim)))
            v = self.v_proj(x).view(n, length, kv_heads, dim)
            # The query heads of a group become more rows of one product with their shared k and v.
            q = q.view(n, length, kv_heads, group, dim).permute(0, 2, 3, 1, 4)
            q = q.reshape(n * kv_heads, group * length, dim)
            k = k.permute(0, 2, 3, 1).reshape(n * kv_heads, dim, length)
            v = v.permute(0, 2, 1, 3).reshape(n * kv_heads, length, dim)
            weights = torch.softmax(torch.baddbmm(mask, q, k, alpha=dim**-0.5), -1)
            out = torch.bmm(weights, v).view(n, kv_heads, group, length, dim)
            return self.o_proj(out.permute(0, 3, 1, 2, 4).reshape(n, length, heads * dim))

    class MLP(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate_proj, self.up_proj = linear(hidden, mlp), linear(hidden, mlp)
            self.down_proj = linear(mlp, hidden)

        def forward(self, x):
            return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))

    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.self_attn, self.mlp = Attention(), MLP()
            self.input_layernorm, self.post_attention_layernorm = RMSNorm(hidden), RMSNorm(hidden)

        def forward(self, x, *tables):
            x = x + thin(self.self_attn(self.input_layernorm(x), *tables), self.training)
            return x + thin(self.mlp(self.post_attention_layernorm(x)), self.training)

    class Body(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed_tokens = nn.Embedding(VOCAB, hidden)
            self.layers = nn.ModuleList(Layer() for _ in range(n_layer))
            self.norm = RMSNorm(hidden)

    class Qwen3ForCausalLM(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = Body()
            self.tables = {}
            for name, p in self.named_parameters():
                if p.dim() == 2:
                    std = CONFIG["initializer_range"] if "embed" in name else 0.7 * p.shape[1] ** -0.5
                    if "o_proj" in name or "down_proj" in name:
                        std /= math.sqrt(2 * n_layer)
                    nn.init.normal_(p, 0.0, std)

        def tables_of(self, length):
            """cos and sin [length, 1, dim], and the causal mask [1, group*length, length]."""
            if length not in self.tables:
                f = CONFIG["rope_theta"] ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
                angle = torch.arange(length, dtype=torch.float64)[:, None] * f
                angle = torch.cat((angle, angle), -1)[:, None].float()
                mask = torch.full((length, length), -math.inf).triu(1).repeat(group, 1)[None]
                self.tables[length] = angle.cos(), angle.sin(), mask
            return self.tables[length]

        def forward(self, ids):
            tables = self.tables_of(ids.shape[1])
            x = self.model.embed_tokens(ids)
            for layer in self.model.layers:
                x = layer(x, *tables)
            return F.linear(self.model.norm(x), self.model.embed_tokens.weight)

    return Qwen3ForCausalLM()


def write_weights(path, model):
    """model.safetensors in bfloat16, rounded to nearest, ties to even."""
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, p in sorted(model.named_parameters()):
        bits = p.detach().numpy().astype("<f4").view("<u4").astype(np.uint64)
        raw = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()
        header[name] = {"dtype": "BF16", "shape": list(p.shape),
                        "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path + ".tmp", "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + data)
    os.replace(path + ".tmp", path)


# ---- training -------------------------------------------------------------------------------------


class Windows:
    """Batches of pieces of length+1 tokens without end. Each epoch cuts the stream at a new phase,
    moves every cut on to where a verse or a chapter starts, and shuffles the pieces."""

    def __init__(self, ids, newlines, rng):
        self.ids, self.rng, self.queue, self.length = ids, rng, [], 0
        after = np.flatnonzero(np.isin(ids[:-1], newlines)) + 1
        self.starts = np.union1d(after[ids[after] != END], np.flatnonzero(ids == END))

    def batch(self, n, length):
        if length != self.length:
            self.length, self.queue = length, []
        if len(self.queue) < n:
            cuts = np.arange(self.rng.integers(length), len(self.ids), length)
            at = self.starts[np.minimum(np.searchsorted(self.starts, cuts), len(self.starts) - 1)]
            at = np.unique(at[at + length + 1 <= len(self.ids)])
            self.queue += list(self.rng.permutation(at))
        pieces, self.queue = self.queue[:n], self.queue[n:]
        return np.stack([self.ids[s : s + length + 1] for s in pieces]).astype(np.int64)


def mean_nll(torch, model, ids, length=512, batch=8):
    """Mean negative log-likelihood of the stream in nats a token, in windows that start from nothing."""
    n = (len(ids) - 1) // length
    windows = [ids[i * length : (i + 1) * length + 1] for i in range(n)]
    groups = [np.stack(windows[i : i + batch]) for i in range(0, n, batch)] + [ids[None, n * length :]]
    total = count = 0
    model.eval()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        for rows in groups:
            if rows.shape[1] < 2:
                continue
            rows = torch.from_numpy(rows.astype(np.int64))
            logp = torch.log_softmax(model(rows[:, :-1]).float(), -1).gather(-1, rows[:, 1:, None])
            total -= logp.double().sum().item()
            count += logp.numel()
    model.train()
    return total / count


def rate_and_length(step, args):
    """Learning rate and context: a linear warm-up, a plain stretch on short contexts, and a cosine
    decay on long ones."""
    if step < args.decay_from:
        return args.rate * min(1.0, (step + 1) / args.warm_up), args.context
    progress = (step - args.decay_from + 1) / args.decay_steps
    return args.rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress))), args.long_context


def train(args):
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    import torch

    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    ids, held_out = (np.fromfile(os.path.join(args.data, f"{n}.u16"), "<u2") for n in ("train", "held-out"))
    with open(os.path.join(args.model, "tokenizer.json"), encoding="utf-8") as f:
        vocab = json.load(f)["model"]["vocab"]
    newlines = [i for token, i in vocab.items() if token.endswith(ALPHABET[ord("\n")])]
    windows = Windows(ids, newlines, np.random.default_rng(args.seed))
    model = build(torch, args.dropout)
    matrices = [p for p in model.parameters() if p.dim() == 2]
    vectors = [p for p in model.parameters() if p.dim() != 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
        lr=args.rate, betas=(0.9, 0.99), eps=1e-8, foreach=True)

    start, losses = time.monotonic(), []
    for step in range(args.steps):
        rate, length = rate_and_length(step, args)
        for group in optimizer.param_groups:
            group["lr"] = rate
        x = torch.from_numpy(windows.batch(args.batch_tokens // length, length))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(x[:, :-1])
        loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), x[:, 1:].flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        if (step + 1) % args.report_every == 0 or step + 1 == args.steps:
            print(f"step {step + 1}, {time.monotonic() - start:.0f} s: nll {np.mean(losses):.4f}, "
                  f"held out {mean_nll(torch, model, held_out):.4f}", flush=True)
            losses.clear()
            write_weights(os.path.join(args.model, "model.safetensors"), model)


def main():
    parser = argparse.ArgumentParser(description="Train the demo model; --help of each step says more.")
    steps = parser.add_subparsers(dest="step", required=True)
    p = steps.add_parser("prepare", help="hold out, train the tokenizer, tokenize")
    p.add_argument("--bible", required=True, help="what `bible -f gen1:1-rev22:21` prints")
    t = steps.add_parser("train", help="train the weights")
    for sub in (p, t):
        sub.add_argument("--data", required=True, help="directory of the token streams")
        sub.add_argument("--model", required=True, help="directory of the checkpoint")
    for name, default in (("steps", 3222), ("decay-from", 1797), ("decay-steps", 1500), ("warm-up", 150),
                          ("batch-tokens", 2048), ("context", 256), ("long-context", 512),
                          ("report-every", 200), ("seed", 1611), ("threads", 2),
                          ("rate", 2e-3), ("dropout", 0.05)):
        t.add_argument("--" + name, type=type(default), default=default, help=f"default {default}")
    args = parser.parse_args()
    {"prepare": prepare, "train": train}[args.step](args)


if __name__ == "__main__":
    main()
