#!/usr/bin/env python3
"""What each CUDA kernel takes of a multiprocessor, as ptxas said in the build's logs, against the list
that is kept of it.

    kernel_resources.py LIST LOG...            compares; exit 1 where they differ
    kernel_resources.py --write LIST LOG...    writes the list anew

A LOG is what scripts/nvcc-log kept. No kernel may spill a register, for whatever architecture the
build was. For the list's own architecture every kernel must stand in it, with no fewer registers
and bytes of static shared memory than it takes now, and the list may hold no others.
"""
import argparse
import os
import re
import subprocess
import sys

LIST_ARCH = "sm_80"
ENTRY = re.compile(r"Compiling entry function '(\w+)' for '(sm_\w+)'")
SPILL = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers.*")
SHARED = re.compile(r"(\d+) bytes smem")


def demangle(names):
    """{mangled: "name<arguments>"}, without the parameters."""
    said = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True,
                          check=True).stdout.splitlines()
    short = [re.sub(r"^void ", "", s.partition("(")[0] if "(anonymous" not in s else s) for s in said]
    return dict(zip(names, short))


def read_log(path):
    """[(mangled name, architecture, registers, shared bytes, stack bytes, spilled bytes)]"""
    found, name, arch, stack, spilled = [], None, None, 0, 0
    with open(path, encoding="utf-8", errors="replace") as f:
        for line in f:
            if match := ENTRY.search(line):
                name, arch = match.groups()
            elif match := SPILL.search(line):
                stack, spilled = int(match[1]), int(match[2]) + int(match[3])
            elif (match := USED.search(line)) and name:
                shared = SHARED.search(line)
                found.append((name, arch, int(match[1]), int(shared[1]) if shared else 0, stack,
                              spilled))
                name = None
    return found


def kernels_of(logs):
    """{(file, kernel, architecture): (registers, shared, stack, spilled)}"""
    found = {}
    for path in logs:
        entries = read_log(path)
        names = demangle([e[0] for e in entries])
        file = os.path.basename(path).partition(".")[0] + ".cu"
        for mangled, arch, *numbers in entries:
            found[(file, names[mangled], arch)] = tuple(numbers)
    return found


def read_list(path):
    """{(file, kernel): (registers, shared, stack)}"""
    listed = {}
    with open(path, encoding="utf-8") as f:
        for line in f:
            if line.strip() and not line.startswith("#"):
                *numbers, file, kernel = line.split(None, 4)
                listed[(file, kernel.strip())] = tuple(map(int, numbers))
    return listed


def write_list(path, kernels):
    with open(path, "w", encoding="utf-8") as f:
        f.write(f"# What every kernel takes, as ptxas for {LIST_ARCH} says: registers a thread, bytes of "
                "static shared\n# memory and of stack. None spills. scripts/kernel_resources.py "
                "checks the build against it\n# (test gpu/resources), and writes it.\n"
                "# registers shared stack  file                 kernel\n")
        for (file, kernel, arch), (registers, shared, stack, _) in sorted(kernels.items()):
            if arch == LIST_ARCH:
                f.write(f"{registers:11} {shared:6} {stack:5}  {file:20} {kernel}\n")


def complaints(kernels, listed):
    said = [f"{file}: {kernel}: spills {numbers[3]} bytes on {arch}"
            for (file, kernel, arch), numbers in kernels.items() if numbers[3]]
    built = {(f, k): numbers for (f, k, arch), numbers in kernels.items() if arch == LIST_ARCH}
    for key, (registers, shared, stack, _) in built.items():
        if key not in listed:
            said.append(f"{': '.join(key)}: not in the list")
        elif any(now > then for now, then in zip((registers, shared, stack), listed[key])):
            said.append(f"{': '.join(key)}: {registers} registers, {shared} bytes shared, {stack} of "
                        "stack; the list has %d, %d, %d" % listed[key])
    if built:
        said += [f"{': '.join(key)}: in the list, but not built" for key in listed if key not in built]
    return said


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--write", action="store_true")
    parser.add_argument("list")
    parser.add_argument("logs", nargs="+")
    args = parser.parse_args()
    kernels = kernels_of(args.logs)
    if not kernels:
        print("the logs name no kernel")
        return 1
    if args.write:
        write_list(args.list, kernels)
        return 0
    said = complaints(kernels, read_list(args.list))
    print("\n".join(said) or f"{len(kernels)} kernels, no spills")
    return 1 if said else 0


if __name__ == "__main__":
    sys.exit(main())
