#!/usr/bin/env python3
"""The promise of equal bits: every world size, thread count and instruction set gives the same
logits to the last bit, and those agree with the float64 reference; with a KV cache in f32 and in
bf16, which are not the same.

    test_bits.py PROBE MPIEXEC MODELS_DIR DATA_DIR [quick]

quick: every world size, but instruction sets and threads on fewer of them.
"""
import os
import subprocess
import sys

PROBE, MPIEXEC, MODELS, DATA = sys.argv[1:5]
QUICK = len(sys.argv) > 5

CASES = [
    ("tiny-qwen3", os.path.join(DATA, "tiny-qwen3"), os.path.join(DATA, "expected/tiny-qwen3.json"),
     [1, 2, 3, 4, 5, 8]),
    ("tiny-llama", os.path.join(DATA, "tiny-llama"), os.path.join(DATA, "expected/tiny-llama.json"),
     [1, 2, 3, 4]),
    ("kjv-qwen3-3m", os.path.join(MODELS, "kjv-qwen3-3m"), "-", [1, 2, 3, 4, 5, 8]),
]


def isas():
    flags = open("/proc/cpuinfo").read() if os.path.exists("/proc/cpuinfo") else ""
    found = ["generic"]
    if " avx2" in flags and " fma" in flags:
        found.append("avx2")
    if " avx512f" in flags and " avx512vl" in flags:
        found.append("avx512")
    return found


def run(model, expected, world, threads, isa, kv):
    launch = [MPIEXEC, "-n", str(world)] if world > 1 else []
    done = subprocess.run(launch + [PROBE, model, expected, str(threads), isa, kv],
                          capture_output=True, text=True, timeout=300,
                          env=dict(os.environ, OMP_WAIT_POLICY="passive"))
    if done.returncode != 0:
        sys.exit(f"{model} np={world} threads={threads} isa={isa} kv={kv}: exit {done.returncode}\n"
                 f"{done.stdout}{done.stderr}")
    lines = [l.split() for l in done.stdout.splitlines() if l.startswith("case ")]
    return {l[1]: l[2] for l in lines}, max(float(l[3]) for l in lines)


def combinations(worlds, quick):
    """(world, threads, isa) to compare; the first is what the others must equal."""
    best = isas()[-1]
    runs = [(w, 1, best) for w in worlds] + [(1, 2, best), (2, 2, best)]
    for isa in isas()[:-1]:
        runs += [(1, 1, isa)] if quick else [(w, t, isa) for w in worlds for t in (1, 2)]
    if not quick:
        runs += [(w, 2, best) for w in worlds[2:]]
    return runs


def compare(name, model, expected, runs, kv):
    """The hashes that all of them have."""
    reference = None
    for world, threads, isa in runs:
        hashes, worst = run(model, expected, world, threads, isa, kv)
        reference = reference or hashes
        same = hashes == reference
        print(f"{name:14} np {world}  threads {threads}  {isa:8} KV {kv:4}  cases {len(hashes)}  "
              f"max |dlogit| {worst:.2e}  bits {'equal' if same else 'DIFFER'}", flush=True)
        if not same:
            sys.exit(f"{name}: bits differ at np={world} threads={threads} isa={isa} kv={kv}")
    return reference


def main():
    for name, model, expected, worlds in CASES:
        f32 = compare(name, model, expected, combinations(worlds, QUICK), "f32")
        few = [1, 2, 3] if QUICK else worlds
        bf16 = compare(name, model, expected, combinations(few, QUICK), "bf16")
        if any(f32[case] == bf16[case] for case in f32):
            sys.exit(f"{name}: a KV cache in bf16 changed nothing")


main()
