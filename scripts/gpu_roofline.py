#!/usr/bin/env python3
"""The tables of docs/gpu-performance.md: what a decode step of one sequence must cost on paper, from a
model's shape and published numbers of GPUs and NCCL. Nothing here was measured.

    gpu_roofline.py [CONTEXT]
"""
import sys
from collections import namedtuple

Model = namedtuple("Model", "name hidden layers heads kv_heads head_dim mlp vocab")
MODELS = [
    Model("Qwen3-8B", 4096, 36, 32, 8, 128, 12288, 151936),
    Model("Llama-3.2-1B", 2048, 16, 32, 8, 64, 8192, 128256),
]
# Bytes a second: NVIDIA's data sheets of H100 SXM5 80 GB and A100 SXM4 80 GB.
GPUS = {"H100": 3.35e12, "A100": 2.039e12}
WORLDS = [1, 2, 4, 8]
# NCCL's own model of a ring all-reduce by its LL protocol over NVLink (src/graph/tuning.cc, 2.28):
# seconds a call, seconds a hop of which there are 2 (N - 1), and bytes a second (Ampere; Hopper: 141e9).
NCCL_BASE, NCCL_HOP, NCCL_LL_BANDWIDTH = 6.6e-6, 0.6e-6, 87.7e9
# A kernel in a CUDA graph on H100: Hazy Research, "Look Ma, No Bubbles!", 2025.
LAUNCH = 1.3e-6
STREAM = 0.85  # the part of the bandwidth that we take matrix-vector products to reach
KERNELS_PER_LAYER, KERNELS_ELSE = 10, 6  # ours, without collectives: see the page


def weights(m):
    """Numbers read per token: every matrix, but one row of the embedding."""
    attention = m.hidden * (m.heads + 2 * m.kv_heads) * m.head_dim + m.heads * m.head_dim * m.hidden
    return m.layers * (attention + 3 * m.hidden * m.mlp) + m.vocab * m.hidden


def kv_bytes(m, context):
    return 2 * m.layers * m.kv_heads * m.head_dim * 2 * context


def all_reduce(m, world):
    """Seconds of one all-reduce of a hidden vector in f32."""
    if world == 1:
        return 0
    size = 4 * m.hidden
    return NCCL_BASE + 2 * (world - 1) * NCCL_HOP + 2 * (world - 1) / world * size / NCCL_LL_BANDWIDTH


def row(m, bandwidth, world, context):
    size = (2 * weights(m) + kv_bytes(m, context)) / world
    launches = m.layers * KERNELS_PER_LAYER + KERNELS_ELSE
    collectives = 2 * m.layers + 1
    limit, launching = size / bandwidth, launches * LAUNCH
    reducing = collectives * all_reduce(m, world)
    expected = limit / STREAM + launching + reducing
    return [world, f"{size / 1e9:.2f}", f"{1e3 * limit:.2f}", f"{launches}", f"{1e3 * launching:.2f}",
            f"{collectives if world > 1 else 0}", f"{1e6 * all_reduce(m, world):.1f}",
            f"{1e3 * reducing:.2f}", f"{1e3 * expected:.2f}", f"{1 / expected:.0f}",
            f"{limit / expected:.2f}"]


def table(m, gpu, context):
    head = ["N", "GB/rank", "limit ms", "kernels", "ms", "all-reduces", "us each", "ms", "step ms",
            "tok/s", "of limit"]
    print(f"{m.name} on {gpu}, context {context}\n")
    print("| " + " | ".join(head) + " |")
    print("| " + " | ".join("--:" for _ in head) + " |")
    for world in WORLDS:
        print("| " + " | ".join(str(x) for x in row(m, GPUS[gpu], world, context)) + " |")
    print()


def main():
    context = int(sys.argv[1]) if len(sys.argv) > 1 else 1024
    for m in MODELS:
        for gpu in GPUS:
            table(m, gpu, context)


if __name__ == "__main__":
    main()
