#!/usr/bin/env python3
"""What `meson install` puts down is complete: the program finds its demo model, and a program that
embeds the engine builds with pkg-config alone and runs.

    test_install.py BUILDDIR
"""
import os
import shutil
import subprocess
import sys
import tempfile
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PROMPT = "In the beginning"


def run(*words, **env):
    done = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120,
                          check=False, env={**os.environ, **env})
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(words)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def find(top, name, below=""):
    for folder, _, names in os.walk(top):
        if name in names and folder.endswith(below):
            return os.path.join(folder, name)
    raise AssertionError(f"{name} is not installed")


class TestInstall(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.dir = cls.enterClassContext(tempfile.TemporaryDirectory())
        cls.top = os.path.join(cls.dir, "installed here")
        run("meson", "install", "-C", BUILD, "--no-rebuild", "--quiet", "--destdir", cls.top)
        cls.lockstep = find(cls.top, "lockstep", "bin")
        cls.model = os.path.dirname(find(cls.top, "model.safetensors"))

    def test_the_program_runs_the_installed_model(self):
        self.assertTrue(run(self.lockstep, "--version").startswith("lockstep "))
        self.assertTrue(self.model.endswith("share/lockstep/models/kjv-qwen3-3m"), self.model)
        text = run(self.lockstep, "generate", "--prompt", PROMPT, "--max-tokens", "24",
                   LOCKSTEP_DEMO_MODEL=self.model)
        self.assertIn("the first month", text)

    def test_the_manual_and_the_completion_are_there(self):
        find(self.top, "lockstep.1", "man/man1")
        find(self.top, "lockstep", "bash-completion/completions")

    def test_a_program_that_embeds_the_engine(self):
        library = os.path.dirname(find(self.top, "liblockstep.so"))
        # The .pc file says where things will be once they are taken from the destdir to /.
        with open(os.path.join(library, "pkgconfig", "lockstep.pc"), encoding="utf-8") as f:
            text = f.read()
        with open(os.path.join(self.dir, "lockstep.pc"), "w", encoding="utf-8") as f:
            f.write(text.replace("prefix=/", f"prefix={self.top}/".replace(" ", "\\ "), 1))
        flags = run("pkg-config", "--cflags", "--libs", "lockstep", PKG_CONFIG_PATH=self.dir)
        program = os.path.join(self.dir, "embed")
        run("sh", "-c", f'cc -Wall -Werror "$1" -o "$2" {flags}', "sh",
            os.path.join(ROOT, "examples/embed.c"), program)
        out = run("mpirun", "-np", "3", program, self.model, PROMPT, LD_LIBRARY_PATH=library)
        self.assertIn("the first month", out)
        self.assertTrue(out.endswith("\n24 tokens\n"), out)


if __name__ == "__main__":
    BUILD = sys.argv.pop(1)
    if not shutil.which("pkg-config"):
        print("there is no pkg-config")
        sys.exit(77)
    unittest.main(verbosity=2)
