#!/usr/bin/env python3
"""The commands with --device cuda at 1, 2 and 4 ranks, on real GPUs as many as there are: they give what
the host gives, and the simulated device finds nothing. Then devices that cannot be used, each refused by
its name.

    test_commands.py LOCKSTEP MPIRUN
"""
import json
import os
import socket
import subprocess
import sys
import tempfile
import unittest

from worlds import REAL, WORLDS

HOST = socket.gethostname()
PROMPT = "In the beginning"
TOKENS = 6
F32 = ["--device", "cuda", "--dtype", "f32"]
CLOSE = 1e-3  # of log-probabilities in f32


def launch(*args, np, **env):
    return subprocess.run([MPIRUN, "-np", str(np), LOCKSTEP, *args], stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=120, check=False,
                          env={**os.environ, **env})


def ours(done):
    return [line for line in done.stderr.splitlines()
            if line.startswith("lockstep") and ": loaded " not in line]


class Base(unittest.TestCase):
    def run_well(self, *args, np, lines=0, **env):
        """A command that succeeds, with nothing found."""
        with tempfile.TemporaryDirectory() as folder:
            report = os.path.join(folder, "report")
            done = launch(*args, np=np, GPUSIM_REPORT=report, **env)
            self.assertFalse(os.path.exists(report), done.stderr)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertNotIn("gpusim:", done.stderr)
        self.assertEqual(len(ours(done)), lines, done.stderr)
        return done


class Commands(Base):
    @classmethod
    def setUpClass(cls):
        device = ["--device", "host"]
        cls.text = launch("generate", "--prompt", PROMPT, "-n", str(TOKENS), *device, np=1).stdout
        cls.score = json.loads(launch("score", "--json", "--text", PROMPT, *device, np=1).stdout)

    def test_check(self):
        for np in WORLDS:
            with self.subTest(np=np):
                found = json.loads(self.run_well("check", "--json", "--device", "cuda", np=np).stdout)
                self.assertEqual((found["device"], found["communicator"], found["dtype"]),
                                 ("cuda", "nccl", "bf16"))
                self.assertEqual([r["device"] for r in found["ranks"]],
                                 [f"cuda:{i}" for i in range(np)])
                self.assertEqual([r["sum"] for r in found["ranks"]], [np] * np)
                if not REAL:
                    self.assertEqual({r["gpu"]["name"] for r in found["ranks"]}, {"Simulated GPU"})

    def test_bandwidth(self):
        for np in WORLDS:
            with self.subTest(np=np):
                done = self.run_well("check", "--bandwidth", "-e", "64K", "-f", "4", "-n", "2", "-w", "1",
                                     "--json", "--device", "cuda", np=np)
                found = json.loads(done.stdout)["bandwidth"]
                self.assertEqual((found["world"], found["backend"]), (np, "nccl"))
                self.assertEqual({row["collective"] for row in found["rows"]},
                                 {"all_reduce", "all_gather", "broadcast", "gather"})
                self.assertEqual(len(found["rows"]), 4 * 4)
                self.assertEqual({row["wrong"] for row in found["rows"]}, {0})

    def test_generate(self):
        self.assertGreater(len(self.text), TOKENS)
        for np in WORLDS:
            for graphs in ([], ["--no-cuda-graphs"]):
                with self.subTest(np=np, graphs=graphs):
                    done = self.run_well("generate", "--prompt", PROMPT, "-n", str(TOKENS), *F32, *graphs,
                                         np=np)
                    self.assertEqual(done.stdout, self.text)
            done = self.run_well("generate", "--prompt", PROMPT, "-n", str(TOKENS), "--device", "cuda",
                                 np=np)  # in bf16 it need not be the same text
            self.assertGreater(len(done.stdout), TOKENS)

    def test_score(self):
        for np in WORLDS:
            with self.subTest(np=np):
                found = json.loads(self.run_well("score", "--json", "--text", PROMPT, *F32, np=np).stdout)
                self.assertEqual(found["ids"], self.score["ids"])
                self.assertEqual(len(found["logprobs"]), len(self.score["logprobs"]))
                for got, want in zip(found["logprobs"], self.score["logprobs"]):
                    self.assertAlmostEqual(got, want, delta=CLOSE)

    def test_replay(self):
        """On the device and in the arithmetic that were recorded; real GPUs do not promise the bits."""
        np = WORLDS[-1] if REAL else 2
        ignore = ["--ignore", "stepped.digest"] if REAL else []
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "trace")
            self.run_well("generate", "--prompt", PROMPT, "-n", "3", "--device", "cuda", "--trace-rpc", path, np=np)
            found = json.loads(self.run_well("replay", path, "--json", *ignore, np=np).stdout)
        self.assertEqual((found["ok"], found["requests"]["init"]["compared"]), (True, np))
        self.assertEqual(found["requests"]["step"]["compared"], 3)


class Devices(Base):
    """What GPUSIM_... says that the machine has."""

    def setUp(self):
        if REAL:
            self.skipTest("a real GPU is what it is")

    def refuse(self, words, np=2, code=3, args=("check", "--device", "cuda"), **env):
        done = launch(*args, np=np, **env)
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        self.assertEqual(len(ours(done)), 1, done.stderr)
        for word in words:
            self.assertIn(word, ours(done)[0])
        self.assertNotIn("gpusim:", done.stderr)
        return done

    def test_an_old_one(self):
        env = {"GPUSIM_CC": "7.5", "GPUSIM_NAME": "Tesla T4"}
        why = "is a Tesla T4 of compute capability 7.5; 8.0 and newer are supported"
        self.refuse([f"device_failed: --device cuda: rank 0 ({HOST}): cuda:0 {why}", f"cuda:1 {why}"],
                    **env)
        found = json.loads(self.run_well("check", "--json", np=2, lines=1, **env).stdout)
        self.assertEqual(found["device"], "host")
        self.assertIn(why, found["device_note"])

    def test_the_oldest_that_will_do(self):
        found = json.loads(self.run_well("check", "--json", "--device", "cuda", np=1, GPUSIM_CC="8.0",
                                         GPUSIM_NAME="A100", GPUSIM_MEMORY="3000000000").stdout)
        gpu = found["ranks"][0]["gpu"]
        self.assertEqual((gpu["name"], gpu["cc"], gpu["memory"]), ("A100", "8.0", 3000000000))

    def test_one_for_two_ranks(self):
        words = [f"ranks 0 and 1 on {HOST} have the same GPU, Simulated GPU at PCI 0000:01:00.0"]
        one = {"GPUSIM_DEVICES": "1"}
        self.refuse(words + ["NCCL 2.28.9"], **one)
        self.refuse(words, GPUSIM_NCCL_VERSION="23000", **one)
        self.refuse(words, NCCL_MULTI_RANK_GPU_ENABLE="1", **one)
        found = json.loads(self.run_well("check", "--json", "--device", "cuda", np=2,
                                         GPUSIM_NCCL_VERSION="23000", NCCL_MULTI_RANK_GPU_ENABLE="1",
                                         **one).stdout)
        self.assertEqual([r["device"] for r in found["ranks"]], ["cuda:0", "cuda:0"])

    def test_two_for_four_ranks_by_hand(self):
        done = self.run_well("check", "--json", "--device", "cuda", "--cuda-devices", "3,1", np=2)
        self.assertEqual([r["gpu"]["pci"] for r in json.loads(done.stdout)["ranks"]],
                         ["0000:04:00.0", "0000:02:00.0"])

    def test_different_nccl(self):
        self.refuse([f"the ranks' NCCL differs: rank 0 ({HOST}), rank 2 ({HOST}): 2.28.9; "
                     f"rank 1 ({HOST}): 2.27.3"], np=3, GPUSIM_NCCL_VERSION="0:22809,1:22703,2:22809")

    def test_none(self):
        for env, words in (({"GPUSIM_DRIVER": "0"}, "CUDA driver version is insufficient for CUDA "
                                                    "runtime version"),
                           ({"GPUSIM_DEVICES": "0"}, "no CUDA-capable device is detected")):
            done = self.refuse(["--device cuda: all 2 ranks: cudaGetDeviceCount: " + words], **env)
            self.assertIn("cuda    not on any of 2 ranks: ", done.stdout)
            found = json.loads(self.run_well("check", "--json", np=2, lines=1, **env).stdout)
            self.assertEqual(found["device"], "host")


if __name__ == "__main__":
    LOCKSTEP, MPIRUN = os.path.abspath(sys.argv[1]), sys.argv[2]
    unittest.main(argv=sys.argv[:1], verbosity=2)
