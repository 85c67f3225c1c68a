#!/usr/bin/env python3
"""Record what an independent implementation computes with SmolLM2-135M-Instruct.

    make_smollm2_reference.py DIR GGUF OUT.json

DIR is what scripts/fetch-smollm2 wrote, GGUF the file it was made from. The implementation is
transformers, with float64 weights and activations (its rotary angles stay float32). It reads DIR for
the numbers that go into OUT, and GGUF with its own reader, dequantizer and tokenizer conversion to
check scripts/gguf_to_hf.py: the ids must be the same, and the logits must differ by no more than the
rounding of DIR's weights to F16 explains.

Needs PyTorch, and from PyPI transformers, accelerate and gguf.
"""
import json
import os
import sys

import torch
import transformers

N_NEW = 32
TOP = 20

PLAIN = [
    "The capital of France is",
    "In 1969, Apollo 11 landed on the Moon. The first person to walk on it was",
    "def fibonacci(n):\n    if n < 2:\n        return n\n",
    "Ünïcode: naïve café, 東京 2024, 🙂 — fin.",
]
CHATS = [
    [{"role": "user", "content": "What is the capital of France?"}],
    [
        {"role": "system", "content": "Answer in one short sentence."},
        {"role": "user", "content": "Why is the sky blue?"},
    ],
    [
        {"role": "user", "content": "My name is Ada."},
        {"role": "assistant", "content": "Nice to meet you, Ada!"},
        {"role": "user", "content": "What is my name?"},
    ],
]


def load(*args, **kwargs):
    tokenizer = transformers.AutoTokenizer.from_pretrained(*args, **kwargs)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        *args, torch_dtype=torch.float32, **kwargs
    )
    # GGUF has no word for tied embeddings: transformers would leave the head at random values.
    model.config.tie_word_embeddings = True
    model.tie_weights()
    return tokenizer, model.double().eval()


def encode(tokenizer, case):
    if "messages" in case:
        case["text"] = tokenizer.apply_chat_template(
            case["messages"], tokenize=False, add_generation_prompt=True
        )
    return tokenizer(case["text"], add_special_tokens=False)["input_ids"]


@torch.no_grad()
def logits_of(model, ids):
    return model(torch.tensor([ids])).logits[0].double()


@torch.no_grad()
def greedy(model, ids):
    """N_NEW ids, never stopped, with the gap between the best and the second logit at each step."""
    new, gaps, cache, step = [], [], None, ids
    for _ in range(N_NEW):
        out = model(torch.tensor([step]), past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        best = torch.topk(out.logits[0, -1], 2)
        new.append(int(best.indices[0]))
        gaps.append(round(float(best.values[0] - best.values[1]), 5))
        step = new[-1:]
    return new, gaps


def record(tokenizer, model, case):
    ids = encode(tokenizer, case)
    logits = logits_of(model, ids)
    last = logits[-1]
    logp = torch.log_softmax(logits, -1)
    nll = [-float(logp[i, ids[i + 1]]) for i in range(len(ids) - 1)]
    top = torch.topk(last, TOP)
    new, gaps = greedy(model, ids)
    case.update(
        ids=ids,
        nll=[round(x, 6) for x in nll],
        mean_nll=round(sum(nll) / len(nll), 7),
        last={
            "top_ids": top.indices.tolist(),
            "top_logits": [round(float(x), 5) for x in top.values],
            "mean": round(float(last.mean()), 6),
            "std": round(float(last.std(unbiased=False)), 6),
            "min": round(float(last.min()), 5),
            "logsumexp": round(float(torch.logsumexp(last, 0)), 6),
        },
        greedy_ids=new,
        greedy_gaps=gaps,
        greedy_text=tokenizer.decode(new, clean_up_tokenization_spaces=False),
    )
    return logits


def main():
    directory, gguf, out = sys.argv[1:]
    cases = [{"text": t} for t in PLAIN] + [{"messages": m} for m in CHATS]
    tokenizer, model = load(directory)
    logits = [record(tokenizer, model, c) for c in cases]
    single = model.float()
    single_off = max(
        float((logits_of(single, c["ids"]) - x).abs().max()) for c, x in zip(cases, logits)
    )
    del model, single
    tokenizer, model = load(os.path.dirname(gguf), gguf_file=os.path.basename(gguf))
    other = []
    for case in cases:
        if encode(tokenizer, dict(case)) != case["ids"]:
            sys.exit(f"the GGUF's own tokenizer splits {case['text']!r} differently")
        other.append(logits_of(model, case["ids"]))
    diff = [float((a - b).abs().max()) for a, b in zip(logits, other)]
    mean = [float((a - b).abs().mean()) for a, b in zip(logits, other)]
    with open(out, "w", encoding="utf-8") as f:
        json.dump(
            {
                "what": "SmolLM2-135M-Instruct as scripts/fetch-smollm2 makes it (F16 weights), computed "
                f"by transformers {transformers.__version__} on PyTorch {torch.__version__} in float64; "
                f"top {TOP} logits of the prompt's last position, {N_NEW} greedy ids (not stopped at the "
                "end-of-sequence id) with the gap between the best and the second logit",
                "made_by": "scripts/make_smollm2_reference.py",
                "tolerance": {
                    "logits": 0.001,
                    "why": "the largest difference of float32 arithmetic from these numbers was "
                    f"{single_off:.1g}",
                },
                "against_gguf": {
                    "what": "the same prompts with transformers' own GGUF reader, float64: ids equal; "
                    "differences of all logits, which come from rounding d*q+m to F16",
                    "max_abs": round(max(diff), 5),
                    "mean_abs": round(sum(mean) / len(mean), 6),
                },
                "cases": cases,
            },
            f,
            ensure_ascii=False,
            indent=1,
        )
        f.write("\n")
    print(f"{len(cases)} cases; float32 off by {single_off:.2g}; "
          f"GGUF off by {max(diff):.3g} at most, {sum(mean) / len(mean):.3g} on average")
    print("smallest greedy gap", min(g for c in cases for g in c["greedy_gaps"]))


if __name__ == "__main__":
    main()
