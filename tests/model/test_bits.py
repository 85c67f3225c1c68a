#!/usr/bin/env python3
"""The promise of equal bits: every world size, thread count and instruction set gives the same
logits to the last bit, and those agree with the float64 reference. The same of a KV cache in bf16 and of quantized
weights, but for the reference.

    test_bits.py PROBE MPIEXEC MODELS_DIR DATA_DIR [quick]

quick: every world size, but threads on fewer of them, each instruction set at one of them
(generic C, which takes its time, with one of the models), and the modes beside f32 on fewer of all.
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
SMALLEST = "tiny-llama"


def isas():
    flags = open("/proc/cpuinfo").read() if os.path.exists("/proc/cpuinfo") else ""
    found = ["generic"]
    if " avx2" in flags and " fma" in flags:
        found.append("avx2")
    if " avx512f" in flags and " avx512vl" in flags:
        found.append("avx512")
        if " avx512_vnni" in flags:
            found.append("avx512vnni")
    return found


def run(model, expected, world, threads, isa, mode):
    launch = [MPIEXEC, "-n", str(world)] if world > 1 else []
    done = subprocess.run(launch + [PROBE, model, expected, str(threads), isa, *mode],
                          capture_output=True, text=True, timeout=300,
                          env=dict(os.environ, OMP_WAIT_POLICY="passive"))
    if done.returncode != 0:
        sys.exit(f"{model} np={world} threads={threads} isa={isa} {mode}: exit {done.returncode}\n"
                 f"{done.stdout}{done.stderr}")
    lines = [l.split() for l in done.stdout.splitlines() if l.startswith("case ")]
    return {l[1]: l[2] for l in lines}, max(float(l[3]) for l in lines)


def compare(name, model, expected, runs, mode):
    """The runs' hashes, which must be equal."""
    reference = None
    for world, threads, isa in runs:
        hashes, worst = run(model, expected, world, threads, isa, mode)
        if reference is None:
            reference = hashes
        same = hashes == reference
        print(f"{name:14} {' '.join(mode):8} np {world}  threads {threads}  {isa:10} "
              f"cases {len(hashes)}  max |dlogit| {worst:.2e}  bits {'equal' if same else 'DIFFER'}",
              flush=True)
        if not same:
            sys.exit(f"{name} {mode}: bits differ at np={world} threads={threads} isa={isa}")
    return reference


def other_isas(name):
    """Those beside the best one."""
    return [isa for isa in isas()[:-1] if not QUICK or isa != "generic" or name == SMALLEST]


def all_runs(name, worlds):
    best = isas()[-1]
    runs = [(w, 1, best) for w in worlds] + [(1, 2, best), (2, 2, best)]
    if QUICK:
        return runs + [(1, 1, isa) for isa in other_isas(name)]
    runs += [(w, 2, best) for w in worlds[2:]]
    return runs + [(w, t, isa) for isa in other_isas(name) for w in worlds for t in (1, 2)]


def few_runs(name):
    best = isas()[-1]
    return [(1, 1, best), (3, 2, best)] + [(1, 1, isa) for isa in other_isas(name)]


def main():
    for name, model, expected, worlds in CASES:
        seen = [compare(name, model, expected, all_runs(name, worlds), ("f32",))]
        for mode in (("bf16",), ("f32", "q8_0"), ("f32", "q4_0")):
            runs = few_runs(name) if QUICK else all_runs(name, worlds)
            hashes = compare(name, model, expected, runs, mode)
            if any(hashes[case] == before[case] for before in seen for case in hashes):
                sys.exit(f"{name} {mode}: the same bits as before: it changed nothing")
            seen.append(hashes)


main()
