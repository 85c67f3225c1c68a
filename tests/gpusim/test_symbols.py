#!/usr/bin/env python3
"""Everything that a program needs of CUDA and NCCL is in the simulated libraries, under the version that
it asks for: what is missing would only fail at its first call. Asks the files, and the loader.

    test_symbols.py SIMULATOR_DIR PROGRAM...
"""
import os
import re
import subprocess
import sys
import unittest

LIBRARIES = {"libcudart.so.13": "cudaMalloc", "libcublas.so.13": "cublasGemmEx",
             "libnccl.so.2": "ncclAllReduce"}


def symbols(path, which):
    """Names with their versions: "cudaMalloc@libcudart.so.13", "ncclSend"."""
    out = subprocess.run(["nm", "-D", which, path], capture_output=True, text=True, check=True).stdout
    return {line.split()[-1].replace("@@", "@") for line in out.splitlines() if line.strip()}


def needed(path):
    return {s for s in symbols(path, "--undefined-only")
            if re.match(r"(__)?cuda|cublas|nccl", s)}


def missing(program, provided):
    return sorted(needed(program) - provided)


class Symbols(unittest.TestCase):
    def setUp(self):
        self.provided = set()
        for name in LIBRARIES:
            self.provided |= symbols(os.path.join(SIMULATOR, name), "--defined-only")

    def test_all_are_there(self):
        for program in PROGRAMS:
            with self.subTest(program=program):
                self.assertGreater(len(needed(program)), 5)
                self.assertEqual(missing(program, self.provided), [])

    def test_one_that_is_not_is_seen(self):
        for name, symbol in LIBRARIES.items():
            versioned = symbol if symbol.startswith("nccl") else f"{symbol}@{name}"
            self.assertIn(versioned, self.provided)
            self.assertEqual(missing(PROGRAMS[0], self.provided - {versioned}), [versioned])

    def test_loader(self):
        """With all symbols bound at the start, from these libraries and no others."""
        env = {**os.environ, "LD_LIBRARY_PATH": SIMULATOR}
        for program in PROGRAMS:
            done = subprocess.run(["ldd", "-r", program], capture_output=True, text=True, check=True,
                                  env=env)
            found = dict(re.findall(r"(\S+) => (\S+)", done.stdout))
            self.assertNotRegex(done.stdout + done.stderr, "undefined symbol: *(__)?(cuda|cublas|nccl)")
            used = [name for name in LIBRARIES if name in found]
            self.assertIn("libcudart.so.13", used)
            for name in used:
                self.assertEqual(os.path.realpath(os.path.dirname(found[name])), SIMULATOR)


if __name__ == "__main__":
    SIMULATOR, PROGRAMS = os.path.realpath(sys.argv[1]), sys.argv[2:]
    unittest.main(argv=sys.argv[:1], verbosity=2)
