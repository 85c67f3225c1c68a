#!/usr/bin/env python3
"""What a rank reads and holds: its own shard's bytes, and (shard + KV cache) * 1.1 + 96 MB at most.

    test_memory.py LOCKSTEP MPIEXEC

It runs `test_memory.py --rank LOCKSTEP ...` under mpiexec: a rank between two measurements.
"""
import json
import os
import subprocess
import sys
import tempfile
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SIZES = "--hidden 768 --layers 12 --heads 12 --kv-heads 6 --intermediate 2048 --vocab 65536".split()
MB = 1_000_000
READ_BESIDES = 2 * MB  # config.json, the header of the weights, and what libraries read: a tenth of it was seen


def measure(command):
    """Runs a rank and says on stderr what it has read and the most it has held, in bytes."""
    p = subprocess.Popen(command)
    os.waitid(os.P_PID, p.pid, os.WEXITED | os.WNOWAIT)
    with open(f"/proc/{p.pid}/io", encoding="ascii") as f:
        read = int(f.readline().split()[1])
    _, status, usage = os.wait4(p.pid, 0)
    p.returncode = os.waitstatus_to_exitcode(status)
    said = {"rank": int(os.environ["OMPI_COMM_WORLD_RANK"]), "read": read, "held": usage.ru_maxrss * 1024}
    os.write(2, f"measured {json.dumps(said)}\n".encode())
    return p.returncode


class TestMemory(unittest.TestCase):
    def test_each_rank_reads_and_holds_its_shard(self):
        with tempfile.TemporaryDirectory() as folder:
            model = os.path.join(folder, "model")
            subprocess.run([os.path.join(ROOT, "scripts/make-random-model"), *SIZES, model], check=True,
                           stdout=subprocess.DEVNULL)
            plan = json.loads(subprocess.run([LOCKSTEP, "plan", "--model", model, "--np", "1,2,3", "--json"],
                                             check=True, capture_output=True).stdout)
            for world in plan["plans"]:
                done = subprocess.run(
                    [MPIEXEC, "-n", str(world["np"]), sys.executable, __file__, "--rank", LOCKSTEP, "generate",
                     "--model", model, "--ids", "1,2,3", "--max-tokens", "2"],
                    capture_output=True, text=True, timeout=120)
                self.assertEqual(done.returncode, 0, done.stderr)
                ranks = [json.loads(l.partition(" ")[2]) for l in done.stderr.splitlines()
                         if l.startswith("measured ")]
                self.assertEqual(len(ranks), world["np"])
                for got in ranks:
                    with self.subTest(np=world["np"], rank=got["rank"]):
                        shard = world["ranks"][got["rank"]]
                        self.assertLess(got["read"], shard["weights_bytes"] + READ_BESIDES)
                        self.assertGreater(got["read"], 0.95 * shard["weights_bytes"])
                        self.assertLess(got["held"], 1.1 * (shard["weights_bytes"] + shard["kv_bytes"]) + 96 * MB)


if __name__ == "__main__":
    if sys.argv[1] == "--rank":
        sys.exit(measure(sys.argv[2:]))
    MPIEXEC = sys.argv.pop()
    LOCKSTEP = os.path.abspath(sys.argv.pop())
    unittest.main(verbosity=2)
