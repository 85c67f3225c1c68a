#!/usr/bin/env python3
"""`lockstep serve` on simulated GPUs of which one fails while requests run: every stream ends with an
error event, /health says failed, both name the rank, and the job ends in time with one line. And a GPU
without memory for a second load, which leaves the server as it was.

    test_serve_faults.py LOCKSTEP MPIRUN [all]
"""
import os
import re
import sys
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "faults"))
from clients import Prober, ask, stream  # noqa: E402
from job import TIMEOUT, WORLD, Job, Mpirun  # noqa: E402

STREAMS = 3
LIMIT = TIMEOUT + 5 + 3  # the deadline, the promise, and mpirun's own end

# name: (operation, which call of it, kind of fault, exit code, kinds of error, the rank is known)
# The numbers are beyond those of the start and of the first steps, and soon reached.
FAULTS = {
    "kernel 719": ("kernel", 700, "fault719", 3, ["device_failed"], True),
    "kernel 700": ("kernel", 720, "fault700", 3, ["device_failed"], True),
    "kernel that never ends": ("kernel", 740, "hang", 4, ["deadline", "hang"], False),
    "collective that never ends": ("collective", 90, "hang", 4, ["deadline", "hang"], False),
    "collective says remote": ("collective", 91, "remote", 3, ["comm_failed"], True),
    "collective fails later": ("collective", 92, "async", 3, ["comm_failed"], True),
    "process exits": ("collective", 93, "exit", 1, ["rank_lost"], True),
}
SAMPLE = [("kernel 719", 1), ("collective that never ends", 2), ("collective says remote", 0), ("process exits", 0)]


class OnGpus(Mpirun):
    """Without the library that lets ranks fail: the simulator does."""

    def command(self, job, words):
        return [self.mpirun, "-np", str(WORLD), *words]


class Serve(unittest.TestCase):
    def start(self, fault):
        os.environ["GPUSIM_FAULT"] = fault
        self.job = Job(OnGpus(MPIRUN), LOCKSTEP, None, ["--device", "cuda", "--max-batch", str(STREAMS)])
        self.addCleanup(self.job.close)
        self.job.wait_until("a port", lambda: self.job.read("port").endswith("\n"))
        self.job.port = int(self.job.read("port").rpartition(":")[2])
        self.wait_state("ready")

    def wait_state(self, state):
        self.job.wait_until(state, lambda: f'"{state}"' in ask(self.job.port, "GET", "/health").body, 60)

    def fallen(self):
        return re.findall("gpusim: (.*)", self.job.read("log"))

    def check_cell(self, name, rank):
        op, k, kind, code, kinds, known = FAULTS[name]
        self.start(f"{rank}:{op}:{k}:{kind}")
        self.assertEqual(self.fallen(), [])
        prober = Prober(self.job.port)
        streams = [stream(self.job.port) for _ in range(STREAMS)]
        self.job.wait_until("the fault", lambda: self.fallen() or self.job.process.poll() is not None, 120)
        fired = time.monotonic()
        self.assertTrue(self.job.wait_end(fired + 2 * LIMIT), self.job.running())
        said = self.job.read("log")
        self.assertLess(self.job.ended - fired, LIMIT, said)
        prober.stop()
        self.assertRegex(self.fallen()[0], rf"^rank {rank}: fault: {op} number {k}")
        self.assertEqual(self.job.process.poll(), code, said)
        self.assertEqual(len(self.job.blame()), 1, said)
        self.check_words([(b[0], b[2]) for b in self.job.blame()], rank, kinds, known, said)
        self.assertEqual(self.job.left(), [], said)
        if kind == "exit" and rank == 0:
            return  # who would tell is gone
        for s in streams:
            s.join(5)
            self.assertGreater(len(s.events()), 1, said)  # it ran
            self.check_words([(s.error().get("rank"), s.error().get("type"))], rank, kinds, known, said)
        self.assertIsNotNone(prober.failed, said)
        self.assertIn(f"rank {self.job.blame()[0][0]}", prober.failed.body)

    def check_words(self, pairs, rank, kinds, known, said):
        for named, kind in pairs:
            self.assertIn(kind, kinds, said)
            self.assertIn(named, [rank] if known else range(WORLD), said)

    def test_streams(self):
        cells = SAMPLE
        if EVERYTHING:
            cells = [(name, rank) for name in FAULTS for rank in range(WORLD)]
        for name, rank in cells:
            with self.subTest(fault=name, rank=rank):
                self.check_cell(name, rank)

    def test_no_memory_for_another_load(self):
        """However often it takes until the fault falls into a load."""
        for rank in range(WORLD) if EVERYTHING else [1]:
            with self.subTest(rank=rank):
                self.start(f"{rank}:cudaMalloc:400:memory")
                port, reply = self.job.port, None
                for _ in range(20):
                    if self.fallen():
                        break
                    self.assertEqual(ask(port, "POST", "/v1/admin/unload", seconds=30).status, 200)
                    reply = ask(port, "POST", "/v1/admin/load", seconds=30)
                said = self.job.read("log")
                self.assertEqual(self.fallen(), [f"rank {rank}: fault: cudaMalloc number 400: memory"])
                self.assertEqual((reply.status, reply.error().get("type"), reply.error().get("rank")),
                                 (503, "no_memory", rank), said)
                self.assertIn('"unloaded"', ask(port, "GET", "/health").body)
                self.assertEqual(ask(port, "POST", "/v1/admin/load", seconds=30).status, 200, said)
                self.assertEqual(ask(port, "POST", "/v1/admin/shutdown").status, 202)
                self.assertTrue(self.job.wait_end(time.monotonic() + 60))


if __name__ == "__main__":
    if os.environ.get("LOCKSTEP_REAL_GPU") == "1":
        print("only the simulated device fails on command")
        sys.exit(77)
    EVERYTHING = sys.argv[-1] == "all" and bool(sys.argv.pop())
    MPIRUN = sys.argv.pop()
    LOCKSTEP = os.path.abspath(sys.argv.pop())
    unittest.main(verbosity=2)
