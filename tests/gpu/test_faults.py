#!/usr/bin/env python3
"""Everything that a GPU or NCCL can do to a rank, on the simulated device: each time the job ends in
time, with the right exit code and one line that names the rank and the cause, and leaves nothing.

    test_faults.py LOCKSTEP MPIRUN [all]

Without "all", a sample of the matrix of faults by ranks.
"""
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import unittest

MAKE_MODEL = os.path.join(os.path.dirname(os.path.abspath(__file__)),
                          "../../scripts/make-random-model")
TIMEOUT = 3  # --timeout of the jobs
LIMIT = TIMEOUT + 5 + 3  # the deadline, the promise, and mpirun's own start and end
MAX_TOKENS = 12  # enough for steps that are enqueued, captured and replayed

# name: (operation, which call of it, kind, exit code, words of the line)
# "kernel" and "collective" count what runs on the GPU, the others count calls. The simulator says
# where each fault fell; that it is where the name says is seen in the words, or in REPLAYED.
FAULTS = {
    "memory while loading": ("cudaMalloc", 5, "memory", 2, ["no_memory: load: ", "out of memory"]),
    "memory of collectives": ("ncclMemAlloc", 1, "memory", 0, []),  # plain memory does, too
    "memory of a collective": ("ncclMemAlloc", 3, "memory", 2, ["no_memory: load: "]),
    "kernel 719": ("launch", 50, "fault719", 3, ["device_failed: step: ",
                                                "unspecified launch failure"]),
    "kernel 700": ("launch", 60, "fault700", 3, ["device_failed: step: ", "illegal memory access"]),
    # launches of a first step, before they are recorded
    "kernel that never ends": ("launch", 55, "hang", 4, ["deadline: step: ", "within 3 s"]),
    "init refused": ("ncclCommInitRankConfig", 1, "error", 3, ["nccl_init_failed: init: ",
                                                              "simulated failure"]),
    "init failed": ("ncclCommInitRankConfig", 1, "init", 3, ["nccl_init_failed: init: ",
                                                            "simulated failure"]),
    "init never ends": ("ncclCommInitRankConfig", 1, "hang", 4, ["deadline: init: ",
                                                                "ncclCommInitRankConfig"]),
    "sanity never ends": ("ncclAllReduce", 2, "hang", 4, ["deadline: sanity: "]),
    "collective never ends": ("ncclAllReduce", 10, "hang", 4, ["deadline: step: "]),
    "replayed collective never ends": ("collective", 41, "hang", 4, ["deadline: step: "]),
    "replayed collective says remote": ("collective", 41, "remote", 3, ["comm_failed: step: ",
                                                                      "remote process exited"]),
    "replayed kernel 719": ("kernel", 300, "fault719", 3, ["device_failed: step: ",
                                                          "unspecified launch failure"]),
    "collective says remote": ("ncclAllReduce", 10, "remote", 3, [
        "comm_failed: step: ", "remote process exited"]),
    "collective fails later": ("ncclAllReduce", 21, "async", 3, ["comm_failed: step: ",
                                                               "asynchronous error"]),
    "graph is not launched": ("cudaGraphLaunch", 2, "error", 3, ["device_failed: step: ",
                                                               "cudaGraphLaunch"]),
    "process exits": ("ncclAllReduce", 21, "exit", 1, ["rank_lost: its process has ended"]),
    "finalize fails": ("ncclCommFinalize", 1, "error", 0, []),
    "finalize never ends": ("ncclCommFinalize", 1, "hang", 0, []),
}
REPLAYED = {"replayed collective never ends", "replayed collective says remote", "replayed kernel 719"}
# Which rank's name the line must carry: the rank of the fault, but for these, where nobody can know.
ANYBODY = {"init never ends", "sanity never ends", "collective never ends",
           "replayed collective never ends", "kernel that never ends"}
SAMPLE = [("memory while loading", 1), ("memory of a collective", 0), ("kernel 719", 1), ("kernel that never ends", 1),
          ("init never ends", 1), ("collective never ends", 1), ("replayed kernel 719", 0),
          ("collective says remote", 0), ("graph is not launched", 1), ("process exits", 1)]


def processes():
    """Command lines of lockstep's processes of this run."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as f:
                words = f.read().split(b"\0")
            with open(f"/proc/{pid}/environ", "rb") as f:
                mine = b"GPU_FAULT_RUN=%d" % os.getpid() in f.read().split(b"\0")
        except OSError:
            continue
        if mine and words[0].decode().endswith("lockstep"):
            found.append(words)
    return found


class Faults(unittest.TestCase):
    def job(self, fault, ranks, *words, memory=None, prompt=("--prompt", "In")):
        env = {**os.environ, "GPUSIM_DEVICES": "8", "GPU_FAULT_RUN": str(os.getpid())}
        if fault:
            env["GPUSIM_FAULT"] = fault
        if memory:
            env["GPUSIM_MEMORY"] = str(memory)
        start = time.monotonic()
        done = subprocess.run(
            [MPIRUN, "-np", str(ranks), LOCKSTEP, "generate", "--device", "cuda", *prompt,
             "--temperature", "0", "--max-tokens", str(MAX_TOKENS), "--timeout", str(TIMEOUT), *words],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, env=env,
            check=False)
        done.seconds = time.monotonic() - start
        return done

    def check_end(self, name, rank, ranks=2):
        op, k, kind, code, words = FAULTS[name]
        shared = set(os.listdir("/dev/shm"))
        done = self.job(f"{rank}:{op}:{k}:{kind}", ranks)
        said = done.stdout + done.stderr
        self.assertEqual(done.returncode, code, said)
        self.assertLess(done.seconds, LIMIT, said)
        lines = [line for line in re.findall(r"lockstep: .*", done.stderr)
                 if ": loaded " not in line and "lockstep: loaded" not in line and
                 "warning: " not in line]
        self.assertNotIn("FINDING", said)
        place = " (in a replayed graph)" if name in REPLAYED else ""
        self.assertEqual(re.findall("gpusim: .*", said),
                         [f"gpusim: rank {rank}: fault: {op} number {k}{place}: {kind}"])
        self.assertEqual(processes(), [], said)
        theirs = ("vader_segment", "lockstep-fault.")  # Open MPI's, and folders of tests beside this one
        left = {f for f in set(os.listdir("/dev/shm")) - shared if not f.startswith(theirs)}
        self.assertEqual(left, set(), said)
        self.assertEqual(len(lines), 0 if code == 0 else 1, said)
        if code == 0:
            return
        for word in words:
            self.assertIn(word, lines[0], said)
        self.assertRegex(lines[0], r"rank \d \([^ ]+, cuda:\d\): ")
        if name not in ANYBODY:
            self.assertIn(f"rank {rank} (", lines[0], said)

    def test_no_fault(self):
        """The same job without one: it works, and nothing is found or left."""
        done = self.job(None, 2)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertNotIn("FINDING", done.stderr)
        plain = self.job(None, 2, "--no-cuda-graphs")
        self.assertEqual(plain.returncode, 0, plain.stderr)
        self.assertEqual(plain.stdout, done.stdout)

    def test_collectives_that_are_compared(self):
        """Before they are enqueued, and before a graph with them is captured."""
        good = self.job(None, 2)
        done = self.job(None, 2, "--check-collectives")
        self.assertEqual((done.returncode, done.stdout), (0, good.stdout), done.stderr)

    def test_flight_records(self):
        """What each rank had enqueued, what it replayed, and for what of it it waits."""
        for fault in "1:ncclAllReduce:10:hang", "1:collective:41:hang":
            with self.subTest(fault=fault), tempfile.TemporaryDirectory() as folder:
                done = self.job(fault, 2, "--dump-dir", folder)
                self.assertEqual(done.returncode, 4, done.stderr)
                last = set()
                for rank in 0, 1:
                    with open(os.path.join(folder, f"flight-rank{rank}.json"), encoding="utf-8") as f:
                        dump = json.load(f)
                    self.assertEqual((dump["rank"], dump["device"]), (rank, f"cuda:{rank}"))
                    self.assertEqual(("graph" in [e["op"] for e in dump["entries"]]), "collective" in fault)
                    waits = [e for e in dump["entries"] if e["kind"] == "wait" and not e["leave_ns"]]
                    self.assertEqual(len(waits), 1, waits)
                    collectives = [e for e in dump["entries"] if e["kind"] == "collective"]
                    self.assertEqual([e["number"] for e in collectives],
                                     list(range(collectives[0]["number"], collectives[-1]["number"] + 1)))
                    self.assertEqual([e["op"] for e in collectives if not e["leave_ns"]], [])
                    self.assertEqual(waits[0]["number"], collectives[-1]["number"])
                    last.add(waits[0]["number"])
                self.assertEqual(len(last), 1)  # the hosts are equally far: it is a GPU that hangs
                said = subprocess.run([LOCKSTEP, "blame", folder], capture_output=True, text=True, check=False)
                self.assertEqual(said.returncode, 0, said.stderr)
                self.assertIn("No rank stands out: none is behind, and each waits for its GPU.", said.stdout)

    def test_abort_waits_for_graphs(self):
        """A collective hangs in a replayed graph. NCCL's abort waits for live graphs, so they must be
        destroyed first; the simulator's waits, too, and says so (gpusim/sim_nccl, "abort before
        graphs"): no finding means that they were. Then an abort that hangs all the same: the watchdog
        ends the ranks."""
        self.check_end("replayed collective never ends", 1)
        done = self.job("*:collective:41:hang;*:ncclCommAbort:1:hang", 2)
        self.assertEqual(done.returncode, 4, done.stderr)
        self.assertLess(done.seconds, LIMIT)
        self.assertIn("(in a replayed graph): hang", done.stderr)
        self.assertIn("fault: ncclCommAbort number 1: hang", done.stderr)
        self.assertEqual(processes(), [])

    def test_capture_fails(self):
        """Where capture fails the steps are enqueued as before, with a reason, and the same text."""
        good = self.job(None, 1)
        done = self.job("0:cudaStreamEndCapture:1:error", 1)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(done.stdout, good.stdout)
        self.assertIn("run without a CUDA graph: cudaStreamEndCapture: unknown error", done.stderr)

    def test_capture_fails_on_one_rank(self):
        """NCCL wants an operation captured on all ranks or on none: then no rank replays the step."""
        good = self.job(None, 2)
        for op in "cudaStreamEndCapture", "cudaGraphInstantiate":
            with self.subTest(op=op):
                done = self.job(f"1:{op}:1:error", 2)
                self.assertEqual(done.returncode, 0, done.stderr)
                self.assertEqual(done.stdout, good.stdout)
                self.assertIn(f"rank 1: steps of 1 tokens run without a CUDA graph: {op}", done.stderr)
                self.assertIn("rank 0: steps of 1 tokens run without a CUDA graph: another rank could "
                              "not record them", done.stderr)

    def test_head_dim(self):
        """Heads that the kernels do not take are refused before anything is read."""
        with tempfile.TemporaryDirectory() as model:
            subprocess.run([MAKE_MODEL, "--hidden", "48", "--layers", "1", "--heads", "4", "--kv-heads",
                            "2", "--head-dim", "12", "--intermediate", "64", "--vocab", "300",
                            "--positions", "256", model], capture_output=True, check=True)
            done = self.job(None, 2, "--model", model, prompt=("--ids", "5,6"))
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertIn("load: head_dim 12: a GPU takes multiples of 8 up to 256", done.stderr)

    def test_memory(self):
        """What fits on no GPU, or not on all, is refused before any rank allocates, with one table."""
        done = self.job(None, 2, memory=36000000)
        self.assertEqual(done.returncode, 2, done.stderr)
        lines = [line for line in done.stderr.splitlines() if line.startswith("lockstep")]
        self.assertEqual(len(lines), 1, done.stderr)
        self.assertRegex(lines[0], r"will not fit: rank 0 \([^)]*\) needs [0-9.]+ MiB "
                         r"\(weights .*, KV cache .*, buffers .*\), [0-9.]+ [KM]iB are free")
        rows = [line.split() for line in done.stderr.splitlines() if line.endswith("  does not fit")]
        self.assertEqual([row[0] for row in rows], ["0", "1"], done.stderr)

    def test_faults(self):
        cases = SAMPLE + [("finalize never ends", 0)]
        if EVERYTHING:
            cases = [(name, rank) for name in FAULTS for rank in range(3)]
        for name, rank in cases:
            with self.subTest(fault=name, rank=rank):
                self.check_end(name, rank, 3 if EVERYTHING else 2)


if __name__ == "__main__":
    if os.environ.get("LOCKSTEP_REAL_GPU") == "1":
        print("only the simulated device fails on command")
        sys.exit(77)
    EVERYTHING = sys.argv[-1] == "all" and bool(sys.argv.pop())
    MPIRUN = sys.argv.pop()
    LOCKSTEP = os.path.abspath(sys.argv.pop())
    unittest.main(verbosity=2)
