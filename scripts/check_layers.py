#!/usr/bin/env python3
"""Check that no file of src/ includes a header of a layer above its own.

    check_layers.py [SRC]

The layers, low to high, are those of ARCHITECTURE.md. Every include with quotes names its folder
("base/error.h"), but for headers that the build generates. "lockstep/..." is the public header, which
only the leader and what stands above it may know.
"""
import os
import re
import sys

LAYERS = ["base", "format", "device", "comm", "text", "nn", "model", "rpc", "worker", "leader",
          "serve", "cli"]
RANK = {name: i for i, name in enumerate(LAYERS)}
PUBLIC_FROM = RANK["leader"]
INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"')


def fault(layer, beside, header):
    """Why a file of `layer` in the folder `beside` must not include `header`, or None."""
    folder, slash, _ = header.partition("/")
    if not slash:
        generated = not os.path.exists(os.path.join(beside, header))
        return None if generated else "an include names its folder"
    if folder == "lockstep":
        return None if RANK[layer] >= PUBLIC_FROM else f"{layer} is below the public header"
    if folder not in RANK:
        return f"there is no layer {folder}"
    return None if RANK[folder] <= RANK[layer] else f"{folder} is above {layer}"


def check(src):
    """(number of includes seen, list of "file:line: why")"""
    seen, faults = 0, []
    for folder, _, names in os.walk(src):
        layer = os.path.relpath(folder, src).split(os.sep)[0]
        for name in sorted(names):
            if not name.endswith((".c", ".h", ".cu", ".cuh")):
                continue
            path = os.path.join(folder, name)
            if layer not in RANK:
                faults.append(f"{path}: {layer} is no layer")
                continue
            with open(path, encoding="utf-8") as f:
                for number, line in enumerate(f, 1):
                    match = INCLUDE.match(line)
                    if match:
                        seen += 1
                        why = fault(layer, folder, match[1])
                        if why:
                            faults.append(f"{path}:{number}: {match[1]}: {why}")
    return seen, faults


def main():
    default = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "src")
    seen, faults = check(sys.argv[1] if len(sys.argv) > 1 else default)
    print("\n".join(faults) or f"{seen} includes, none upward")
    return 1 if faults or not seen else 0


if __name__ == "__main__":
    sys.exit(main())
