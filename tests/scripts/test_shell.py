#!/usr/bin/env python3
"""The shell scripts are clean under shellcheck, and refuse wrong words in words."""
import os
import shutil
import subprocess
import sys
import unittest

ROOT = os.path.abspath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "../.."))


def shell_scripts():
    for top in ("scripts", ".ci"):
        for folder, _, names in os.walk(os.path.join(ROOT, top)):
            for name in sorted(names):
                path = os.path.join(folder, name)
                with open(path, "rb") as f:
                    first = f.readline()
                if first.startswith(b"#!") and b"sh" in first or name.endswith(".sh"):
                    yield os.path.relpath(path, ROOT)


def run(*words):
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False,
                          stdin=subprocess.DEVNULL)


class TestShell(unittest.TestCase):
    def test_shellcheck(self):
        if not shutil.which("shellcheck"):
            self.skipTest("there is no shellcheck")
        scripts = list(shell_scripts())
        self.assertIn("scripts/test", scripts)
        done = run("shellcheck", "-x", *scripts)
        self.assertEqual((done.returncode, done.stdout), (0, ""))
        done = run("shellcheck", "-s", "bash", "completions/lockstep")
        self.assertEqual((done.returncode, done.stdout), (0, ""))

    def test_packages_lists(self):
        done = run("scripts/packages", "--list", "build", "slurm")
        self.assertEqual(done.returncode, 0, done.stderr)
        names = done.stdout.split()
        self.assertIn("libmsgpack-dev", names)
        self.assertIn("slurmctld", names)
        self.assertNotIn("clang", names)

    def test_wrong_words(self):
        for words, part in (
            (["scripts/packages"], "build, test"),
            (["scripts/packages", "tset"], "'tset'"),
            (["scripts/fuzz", "5", "safetensor"], "'safetensor' (chat config"),
            (["scripts/fetch-smollm2"], "usage"),
            (["scripts/fetch-smollm2", "--help"], "usage"),
            (["scripts/fetch-smollm2", "models/kjv-qwen3-3m"], "holds a model already"),
        ):
            with self.subTest(words=words):
                done = run(*words)
                self.assertEqual((done.returncode, done.stdout), (1, ""))
                self.assertIn(part, done.stderr)


if __name__ == "__main__":
    if not shutil.which("bash"):
        print("there is no bash")
        sys.exit(77)
    unittest.main()
