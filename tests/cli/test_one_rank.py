#!/usr/bin/env python3
"""What ends a run, or a request, for the sake of one rank: a model that does not fit into its memory, and
logits that are no numbers.

    test_one_rank.py LOCKSTEP MPIRUN
"""
import json
import math
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "serve"))
import test_server  # noqa: E402

TINY = os.path.join(os.environ["LOCKSTEP_TEST_DATA"], "tiny-qwen3")


def run(*words, np=2, before=""):
    """The program under mpirun; `before`: what a shell does first in every rank."""
    command = ["sh", "-c", f'{before}; exec "$0" "$@"'] if before else []
    done = subprocess.run([MPIRUN, "-np", str(np), *command, LOCKSTEP, *words], stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=120, check=False)
    done.ours = [line for line in done.stderr.splitlines() if line.startswith("lockstep: ") and
                 " loaded " not in line and "warning: " not in line]
    return done


class Base(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="lockstep-test.")
        self.addCleanup(shutil.rmtree, self.folder)
        self.model = os.path.join(self.folder, "tiny")
        shutil.copytree(TINY, self.model)


class Memory(Base):
    """A context of 2^26 positions takes 136 GiB on each of two ranks, of which nothing is touched."""

    def setUp(self):
        super().setUp()
        path = os.path.join(self.model, "config.json")
        with open(path, encoding="utf-8") as f:
            config = json.load(f)
        with open(path, "w", encoding="utf-8") as f:
            json.dump({**config, "max_position_embeddings": 1 << 26}, f)
        self.words = ["--model", self.model, "--ids", "1,2,3"]

    def check_refusal(self, done, rank, who):
        """Returns the context that is said to fit."""
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertEqual(len(done.ours), 1, done.stderr)
        size = "[0-9.]+ [KMGT]?i?B"
        self.assertRegex(done.ours[0], rf"^lockstep: rank {rank} \([^)]*\): no_memory: load: .*/tiny: will not fit: {who} "
                         rf"{size} \(weights {size}, KV cache {size}, buffers {size}\), {size} are free; fits with ")
        lines = done.stderr.splitlines()
        self.assertRegex(lines[0], "^ *rank  host  *weights    KV cache     buffers         sum        free$")
        self.assertTrue(any(line.endswith("  does not fit") for line in lines), done.stderr)
        return re.search(r"fits with --ctx (\d+)", done.ours[0])[1]

    def test_ranks_of_a_host_share_its_memory(self):
        """Each alone would fit."""
        done = run("generate", *self.words, "--max-tokens", "2", "--ctx", str(1 << 26))
        found = re.search(r"([0-9.]+) ([KMGT])iB are free", done.stderr)
        self.assertTrue(found, done.stderr)
        free = float(found[1]) * 1024 ** (1 + "KMGT".index(found[2]))
        each = 4 * 2 * 32 * 2 * 4 + 32 * 4  # bytes of a position on one of two ranks, with its rotation
        done = run("generate", *self.words, "--max-tokens", "2", "--ctx", str(int(0.75 * free / each)))
        self.check_refusal(done, 0, "2 ranks of [^ ]* need")

    def test_a_limit_of_one_rank(self):
        limit = 'if [ "$OMPI_COMM_WORLD_RANK" = 1 ]; then ulimit -v 1500000; fi'
        done = run("generate", *self.words, "--max-tokens", "2", "--ctx", "2000000", before=limit)
        ctx = self.check_refusal(done, 1, r"rank 1 \([^)]*\) needs")
        self.assertEqual([line.split()[0] for line in done.stderr.splitlines() if line.endswith("  does not fit")],
                         ["1"])
        done = run("generate", *self.words, "--max-tokens", "2", "--ctx", ctx, before=limit)
        self.assertEqual(done.returncode, 0, done.stderr)

    def make_wide(self):
        """A model with 2^24 words, of which no byte is on the disk."""
        wide = os.path.join(self.folder, "wide")
        shutil.copytree(TINY, wide)
        with open(os.path.join(wide, "config.json"), "r+", encoding="utf-8") as f:
            config = {**json.load(f), "vocab_size": 1 << 24}
            f.seek(0)
            f.truncate()
            json.dump(config, f)
        with open(os.path.join(wide, "model.safetensors"), "r+b") as f:
            size = struct.unpack("<Q", f.read(8))[0]
            header, at = json.loads(f.read(size)), 0
            header["model.embed_tokens.weight"]["shape"][0] = 1 << 24
            for name, tensor in header.items():
                if name != "__metadata__":
                    begin = at
                    at += 2 * math.prod(tensor["shape"])
                    tensor["data_offsets"] = [begin, at]
            text = json.dumps(header).encode()
            f.seek(0)
            f.truncate()
            f.write(struct.pack("<Q", len(text)) + text)
            f.truncate(8 + len(text) + at)

    def test_a_server_goes_on_without(self):
        self.make_wide()
        limited = os.path.join(self.folder, "limited")
        with open(limited, "w", encoding="ascii") as f:
            f.write(f'#!/bin/sh\nulimit -v 1500000\nexec "{LOCKSTEP}" "$@"\n')
        os.chmod(limited, 0o755)
        test_server.LOCKSTEP, test_server.MPIRUN = limited, MPIRUN
        server = test_server.Server("--model", TINY, "--model-root", self.folder)
        self.assertEqual(server.ask("POST", "/v1/admin/unload")[0], 200)
        status, got = server.ask("POST", "/v1/admin/load", {"model": "wide"})
        self.assertEqual((status, got["error"]["type"], got["error"].get("rank")), (503, "no_memory", 0), got)
        self.assertRegex(got["error"]["message"], "wide: will not fit: rank 0 .* needs .* are free")
        self.assertEqual(server.ask("GET", "/health")[1]["status"], "unloaded")
        self.assertEqual(server.ask("POST", "/v1/admin/load")[0], 200)
        code, said = server.stop()
        self.assertEqual(code, 0, said)
        self.assertIn("  does not fit\n", said)


class Numbers(Base):
    """Rank 1's half of the vocabulary is NaN, which no id of the prompt is in."""

    def setUp(self):
        super().setUp()
        path = os.path.join(self.model, "model.safetensors")
        with open(path, "r+b") as f:
            size = struct.unpack("<Q", f.read(8))[0]
            begin, end = json.loads(f.read(size))["model.embed_tokens.weight"]["data_offsets"]
            f.seek(8 + size + (begin + end) // 2)
            f.write(b"\xc0\x7f" * ((end - begin) // 4))

    def test_commands_end(self):
        for words in (["generate", "--temperature", "0"], ["score"], ["score", "--hash", "--json"]):
            with self.subTest(words=words):
                done = run(*words, "--model", self.model, "--ids", "1,2,3")
                self.assertEqual(done.returncode, 7, done.stderr)
                self.assertEqual(len(done.ours), 1, done.stderr)
                self.assertRegex(done.ours[0], r"^lockstep: rank 1 \([^)]*\): wrong_result: the model's logits are not "
                                 "finite .* only those of this rank's part")

    def test_a_server_goes_on(self):
        test_server.LOCKSTEP, test_server.MPIRUN = LOCKSTEP, MPIRUN
        server = test_server.Server("--model", self.model)
        for more in ({"temperature": 0}, {"temperature": 1}, {"logprobs": 1}):
            status, got = server.ask("POST", "/v1/completions", {"prompt": [1, 2, 3], "max_tokens": 3, **more})
            self.assertEqual((status, got["error"]["type"], got["error"]["rank"]), (503, "wrong_result", 1), got)
        self.assertEqual(server.ask("GET", "/health")[0], 200)
        code, said = server.stop()
        self.assertEqual(code, 0, said)


if __name__ == "__main__":
    LOCKSTEP, MPIRUN = os.path.abspath(sys.argv[1]), sys.argv[2]
    unittest.main(argv=sys.argv[:1] + sys.argv[3:], verbosity=2)
