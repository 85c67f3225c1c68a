#!/usr/bin/env python3
"""test_scheduler.c with 1, 2 and 3 ranks: it passes, and its hash is the same.

    test_scheduler.py PROGRAM MPIRUN MODEL_DIR
"""
import subprocess
import sys

hashes = set()
for ranks in "123":
    done = subprocess.run([sys.argv[2], "-n", ranks, sys.argv[1], sys.argv[3]], stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=100, check=False)
    sys.stderr.write(done.stderr)
    print(ranks, "ranks:", done.stdout.strip())
    if done.returncode or not done.stdout.startswith("hash "):
        sys.exit(f"{ranks} ranks: exit code {done.returncode}")
    hashes.add(done.stdout)
if len(hashes) > 1:
    sys.exit("the number of ranks changes the bits")
