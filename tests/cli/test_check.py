#!/usr/bin/env python3
"""lockstep check, usage errors and exit codes: directly and under mpirun with 1 to 4 ranks.

usage: test_check.py LOCKSTEP MPIRUN
"""
import json
import mmap
import os
import socket
import struct
import subprocess
import sys
import tempfile
import time
import unittest

LOCKSTEP, MPIRUN = sys.argv[1:3]
MARK = f"LOCKSTEP_TEST_MARK={os.getpid()}"


def run(*args, np=None, env=None, stdout=subprocess.PIPE):
    command = [LOCKSTEP, *args] if np is None else [MPIRUN, "-n", str(np), LOCKSTEP, *args]
    key, value = MARK.split("=")
    # Open MPI leaks from modules that it unloads; leaks of our own show in the unit suite.
    full = {"ASAN_OPTIONS": "detect_leaks=0", **os.environ, key: value, **(env or {})}
    return subprocess.run(command, env=full, stdout=stdout, stderr=subprocess.PIPE, text=True,
                          timeout=60, stdin=subprocess.DEVNULL)


def left_over():
    """Processes that this test started and that are still there."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/environ", "rb") as f:
                if MARK.encode() in f.read().split(b"\0") and int(pid) != os.getpid():
                    found.append(pid)
        except OSError:
            pass
    return found


def blame(done):
    """lockstep's own lines of stderr."""
    return [line for line in done.stderr.splitlines() if line.startswith("lockstep")]


def unpack(b, at=0):
    """One msgpack object, as far as traces use it: (value, next offset)."""
    def number(fmt):
        return struct.unpack_from(">" + fmt, b, at + 1)[0], at + 1 + struct.calcsize(fmt)

    def items(n, at):
        out = []
        for _ in range(n):
            value, at = unpack(b, at)
            out.append(value)
        return out, at

    head = b[at]
    if head < 0x80:
        return head, at + 1
    if head >= 0xe0:
        return head - 256, at + 1
    if head >= 0xa0 and head < 0xc0:
        n = head & 31
        return b[at + 1:at + 1 + n].decode(), at + 1 + n
    if head >= 0x90 and head < 0xa0:
        return items(head & 15, at + 1)
    if head >= 0x80 and head < 0x90:
        flat, end = items(2 * (head & 15), at + 1)
        return dict(zip(flat[::2], flat[1::2])), end
    scalars = {0xca: "f", 0xcb: "d", 0xcc: "B", 0xcd: "H", 0xce: "I", 0xcf: "Q", 0xd0: "b",
               0xd1: "h", 0xd2: "i", 0xd3: "q"}
    if head in scalars:
        return number(scalars[head])
    if head in (0xc4, 0xc5, 0xd9, 0xda):
        n, start = number("B" if head in (0xc4, 0xd9) else "H")
        raw = b[start:start + n]
        return (raw if head < 0xd0 else raw.decode()), start + n
    if head == 0xde:
        n, start = number("H")
        flat, end = items(2 * n, start)
        return dict(zip(flat[::2], flat[1::2])), end
    raise ValueError(f"byte {head:#x} at {at}")


class Check(unittest.TestCase):
    def assert_ok(self, done):
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_world_of_one_without_launcher(self):
        done = run("check")
        self.assert_ok(done)
        self.assertIn("world of one rank", done.stdout)
        self.assertEqual(done.stderr, "")

    def test_json_at_every_size(self):
        for np in (1, 2, 3, 4):
            with self.subTest(np=np):
                done = run("check", "--json", np=np)
                self.assert_ok(done)
                found = json.loads(done.stdout)
                self.assertTrue(found["ok"])
                self.assertEqual(found["world"], np)
                ranks = found["ranks"]
                self.assertEqual([r["rank"] for r in ranks], list(range(np)))
                self.assertEqual([r["sum"] for r in ranks], [np] * np)
                self.assertEqual(len({r["pid"] for r in ranks}), np)
                self.assertEqual(len({r["build"] for r in ranks}), 1)
                for r in ranks:
                    times = r["ping_us"]
                    self.assertLessEqual(times["min"], times["median"])
                    self.assertLessEqual(times["median"], times["max"])
                    self.assertGreaterEqual(times["n"], 25)
                    self.assertGreater(r["memory"], 0)
                    self.assertGreaterEqual(r["cores"], 1)
                    self.assertIn("generic", r["isas"].split())
                    self.assertRegex(r["binding"], r"^[0-9][0-9,-]*(\.\.\.)?$")
                    if r["numa"]:
                        self.assertRegex(r["numa"]["nodes"], r"^[0-9][0-9,-]*$")
                        self.assertLessEqual(r["numa"]["n_node"], r["numa"]["n_node_host"])
                self.assertEqual(found["communicator"], "self" if np == 1 else "mpi")
                self.assertEqual(found["shared_memory"], np > 1)
                self.assertFalse(any("messages" in n for n in found["notes"]), found["notes"])
                if np > ranks[0]["cores_host"]:
                    self.assertTrue(any("cores" in n for n in found["notes"]), found["notes"])

    @unittest.skipIf(os.environ.get("LOCKSTEP_TEST_SHORT"), "sanitizers are slow")
    def test_a_ping_costs_no_more_than_twice_a_bare_message(self):
        ratios = []
        while not ratios or min(ratios) > 2 and len(ratios) < 5: # other programs run here, too
            done = run("check", "--json", np=2)
            self.assert_ok(done)
            ratios.append(json.loads(done.stdout)["ping_ratio"])
        self.assertLessEqual(min(ratios), 2, ratios)

    def test_table(self):
        done = run("check", np=2)
        self.assert_ok(done)
        rows = [line for line in done.stdout.splitlines() if line.split()[:1] in (["0"], ["1"])]
        self.assertEqual(len(rows), 2, done.stdout)
        self.assertIn("sanity  2 2", done.stdout)
        self.assertIn(": communicator 'mpi' over shared memory, kernels ", done.stdout)

    def test_without_shared_memory(self):
        done = run("check", "--json", "--bandwidth", "-b", "64K", "-e", "64K", "-n", "2", np=3,
                   env={"LOCKSTEP_SHM_DISABLE": "1"})
        self.assert_ok(done)
        found = json.loads(done.stdout)
        self.assertEqual((found["communicator"], found["shared_memory"]), ("mpi", False))
        self.assertIn("the ranks add up by messages, which is slower than shared memory: "
                      "rank 0: LOCKSTEP_SHM_DISABLE is set", found["notes"])
        self.assertTrue(all(row["wrong"] == 0 for row in found["bandwidth"]["rows"]))

    def test_threads_and_isa(self):
        done = run("check", "--json", "--threads", "3", "--isa", "generic", np=2)
        self.assert_ok(done)
        found = json.loads(done.stdout)
        self.assertEqual([r["threads"] for r in found["ranks"]], [3, 3])
        self.assertEqual(found["isa"], "generic")
        done = run("check", "--json", env={"OMP_NUM_THREADS": "5"})
        self.assertEqual(json.loads(done.stdout)["ranks"][0]["threads"], 5)

    def test_bandwidth(self):
        done = run("check", "--json", "--bandwidth", "-b", "8", "-e", "4K", "-f", "8", "-n", "2",
                   np=3)
        self.assert_ok(done)
        rows = json.loads(done.stdout)["bandwidth"]["rows"]
        self.assertEqual({r["collective"] for r in rows},
                         {"all_reduce", "all_gather", "broadcast", "gather"})
        self.assertTrue(all(r["wrong"] == 0 and r["iters"] == 2 for r in rows))
        done = run("check", "--bandwidth", "--collective", "broadcast", "-e", "1K", "-n", "2", np=2)
        self.assert_ok(done)
        self.assertIn("#wrong", done.stdout)
        self.assertNotIn("all_reduce", done.stdout)

    def test_usage_errors(self):
        cases = [
            (("check", "--jsn"), "lockstep check: unknown option --jsn; did you mean --json?; "
                                 "try: lockstep check --help"),
            (("check", "--timeout"), "lockstep check: --timeout needs a value"),
            (("check", "--timeout", "0.05"), "lockstep check: --timeout 0.05: must be between"),
            (("check", "--timeout", "1e9"), "lockstep check: --timeout 1e9: must be between"),
            (("check", "--device", "gpu"), "must be one of auto|host|cuda"),
            (("check", "-b", "8"), "need --bandwidth"),
            (("check", "--bandwidth", "-b", "8", "-e", "4"), "-e 4"),
            (("check", "word"), "unexpected word 'word'"),
            (("chekc",), "lockstep: unknown command chekc; did you mean check?"),
            (("--verison",), "lockstep: unknown option --verison; did you mean --version?"),
            (("--model", "x", "check"), "unknown option --model; a command comes first"),
            (("",), "lockstep: unknown command ''; try"),
            (("help", "chekc"), "lockstep: unknown command chekc; did you mean check?"),
            (("check", "--model", ""), "lockstep check: --model: no directory is named"),
            (("check", "--trace-rpc="), "lockstep check: --trace-rpc: no file is named"),
            (("check", "--status-file="), "lockstep check: --status-file: no file is named"),
        ]
        for np in (None, 3):
            for args, expect in cases[:None if np is None else 2]:
                with self.subTest(args=args, np=np):
                    done = run(*args, np=np)
                    self.assertEqual(done.returncode, 2, done.stderr)
                    self.assertEqual(done.stdout, "")
                    lines = blame(done)
                    self.assertEqual(len(lines), 1, done.stderr)
                    self.assertIn(expect, lines[0])

    def test_help_and_version(self):
        done = run()
        self.assertEqual(done.returncode, 2)
        self.assertIn("usage: lockstep", done.stderr)
        self.assertEqual(run("help", "score").stdout, run("score", "--help").stdout)
        for args in (("--help",), ("check", "--help"), ("help", "plan"), ("--version",)):
            for np in (None, 2):
                done = run(*args, np=np)
                self.assert_ok(done)
                word = "msgpack" if args == ("--version",) else "usage: lockstep"
                self.assertEqual(done.stdout.count(word), 1, done.stdout)
        for command in ("check", "generate", "score", "tokenize", "plan", "bench", "serve", "blame", "replay"):
            done = run(command, "--ctx", "nonsense", "--nonsense", "--np=0", "--help")  # whatever else is wrong
            self.assert_ok(done)
            self.assertEqual(done.stdout, run("help", command).stdout)

    def test_errors_of_ranks(self):
        for np in (None, 2):
            with self.subTest(np=np), tempfile.TemporaryDirectory() as folder:
                path = os.path.join(folder, "status.json")
                done = run("check", "--device", "cuda", "--json", "--status-file", path, np=np)
                self.assertEqual(done.returncode, 3, done.stderr)
                self.assertEqual(len(blame(done)), 1, done.stderr)
                self.assertIn("lockstep: device_failed: --device cuda", done.stderr)
                self.assertFalse(json.loads(done.stdout)["ok"])
                with open(path, encoding="utf-8") as f:
                    status = json.load(f)
                self.assertEqual((status["ok"], status["exit_code"], status["kind"]),
                                 (False, 3, "device_failed"))
                self.assertEqual(os.listdir(folder), ["status.json"])

    def test_status_of_success(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "status.json")
            self.assert_ok(run("check", "--status-file", path, np=2))
            with open(path, encoding="utf-8") as f:
                status = json.load(f)
            self.assertEqual((status["ok"], status["exit_code"]), (True, 0))

    def test_unwritable_places(self):
        done = run("check", "--trace-rpc", "/nonexistent/trace", np=2)
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertIn("lockstep: io: --trace-rpc: /nonexistent/trace", done.stderr)
        with open("/dev/full", "w", encoding="utf-8") as full:
            self.assertEqual(run("--help", stdout=full).returncode, 2)
            done = run("check", stdout=full)
            self.assertEqual(done.returncode, 2)
            self.assertIn("standard output", done.stderr)

    def test_files_of_killed_runs(self):
        """Open MPI's segments of which nobody has one mapped, and none is new; this host's and user's alone."""
        def advice():
            done = run("check", np=2, env={"OMPI_MCA_btl_vader_backing_directory": folder})
            self.assert_ok(done)
            return [line.strip() for line in done.stdout.splitlines() if "killed runs" in line]

        with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
            self.assertEqual(advice(), [])
            mine = os.path.join(folder, f"vader_segment.{socket.gethostname()}.{os.geteuid()}")
            other = os.path.join(folder, "vader_segment.elsewhere.0.77770001.0")
            for name in (f"{mine}.a1b20001.0", f"{mine}.a1b20001.1", f"{mine}.c3d40001.0", f"{mine}.c3d40001.1",
                         f"{mine}.e5f60001.0", f"{mine}.88880001.0.not", other):
                with open(name, "wb") as f:
                    f.write(bytes(1 << 16))
                os.utime(name, (time.time() - 3600, time.time() - 3600))
            os.utime(f"{mine}.e5f60001.0")  # a run that is just beginning
            with open(f"{mine}.c3d40001.1", "r+b") as f, mmap.mmap(f.fileno(), 0):
                found = advice()
            self.assertEqual(len(found), 1, found)
            self.assertIn(f"killed runs have left 2 files in memory, 128.0 KiB: rm {mine}.a1b20001.*", found[0])
            subprocess.run(found[0].partition(": rm ")[2].join(["rm ", ""]), shell=True, check=True)
            self.assertFalse(os.path.exists(f"{mine}.a1b20001.0"))
            [both] = advice() or [""]  # now nobody has the other mapped
            self.assertIn(f"rm {mine}.c3d40001.*", both)

    def test_trace(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "trace")
            self.assert_ok(run("check", "--trace-rpc", path, np=2))
            with open(path, "rb") as f:
                data = f.read()
        header, at = unpack(data)
        self.assertEqual(header[:3], ["lockstep-trace", 1, 2])
        frames = []
        while at < len(data):
            (when, direction, peer, side, raw), at = unpack(data, at)
            frames.append((when, direction, peer, side, unpack(raw)[0]))
        self.assertEqual([f[0] for f in frames], sorted(f[0] for f in frames))
        seen = [(d, p, m["t"]) for _, d, p, _, m in frames]
        for peer in (0, 1):
            for request, reply in (("hello", "hello_ok"), ("ping", "pong"), ("init", "init_ok"),
                                   ("sanity", "sanity_result"), ("shutdown", "bye")):
                self.assertIn((0, peer, request), seen)
                self.assertIn((1, peer, reply), seen)
        asked = {m["s"] for _, d, _, _, m in frames if d == 0}
        self.assertTrue(all(m["s"] in asked for _, d, _, _, m in frames if d == 1))

    def test_separate_worlds_are_named(self):
        """A launcher that does not speak this MPI's PMIx."""
        for env, words in (
                ({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "4"}, "srun --mpi=pmix"),
                ({"PMI_RANK": "0", "PMI_SIZE": "3"}, "worlds of one")):
            done = run("check", env=env)
            self.assertEqual(done.returncode, 3, done.stderr)
            self.assertEqual(len(blame(done)), 1)
            self.assertIn("comm_init_failed", done.stderr)
            self.assertIn(words, done.stderr)
        done = run("check", env={"PMI_RANK": "2", "PMI_SIZE": "3"})
        self.assertEqual((done.returncode, done.stderr), (0, ""))  # rank 0 alone speaks

    def test_start_is_quick(self):
        """Neither the version nor a world of one looks for fabrics or starts daemons."""
        best = {}
        for args in (("--version",), ("check",)):
            times = []
            for _ in range(3):
                start = time.monotonic()
                self.assert_ok(run(*args))
                times.append(time.monotonic() - start)
            best[args[0]] = min(times)
        self.assertLess(best["--version"], 1)
        self.assertLess(best["check"], 2)

    def tearDown(self):
        deadline = time.monotonic() + 3
        while left_over() and time.monotonic() < deadline:
            time.sleep(0.05)
        self.assertEqual(left_over(), [])


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
