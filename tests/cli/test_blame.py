#!/usr/bin/env python3
"""--dump-dir and `lockstep blame`: recorded hangs, files that are broken, and runs that fail now.

    test_blame.py LOCKSTEP MPIEXEC
"""
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

ENV = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0:verify_asan_link_order=0"}
RECORDED = os.path.join(os.environ["LOCKSTEP_TEST_DATA"], "flight")
LOCKSTEP = MPIEXEC = None

# name: (rank, kind, sentence)
HANGS = {
    "stopped": (2, "deadline", "hang: is stopped (SIGSTOP), last entered layer 4 mlp all-reduce #167 1.5 s ago; the "
                "other 2 ranks are at #168"),
    "killed": (1, "rank_lost", "its process has ended: last entered embedding all-reduce #101 1.0 s ago; the other 2 "
               "ranks are at #102"),
    "other": (2, "rank_mismatch", "called gather #2 of 12 bytes (bytes) where the other 2 ranks called all-reduce of "
              "4 bytes (u32)"),
}


def blame(*args, code=0):
    done = subprocess.run([LOCKSTEP, "blame", *args], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=60, env=ENV, check=False)
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    return done


def verdict(folder):
    return json.loads(blame(folder, "--json").stdout)


class Folder(unittest.TestCase):
    def setUp(self):
        self.folder = os.path.join(self.enterContext(tempfile.TemporaryDirectory()), "dumps")

    def path(self, rank):
        return os.path.join(self.folder, f"flight-rank{rank}.json")

    def load(self, rank):
        with open(self.path(rank), encoding="utf-8") as f:
            return json.load(f)

    def store(self, rank, dump):
        with open(self.path(rank), "w", encoding="utf-8") as f:
            json.dump(dump, f)

    def take(self, name):
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(os.path.join(RECORDED, name), self.folder)


class TestRecorded(Folder):
    def test_hangs(self):
        for name, (rank, kind, words) in HANGS.items():
            with self.subTest(name):
                self.take(name)
                said = verdict(self.folder)
                self.assertEqual((said["culprit"], said["kind"], said["message"]), (rank, kind, words))
                self.assertEqual([r["rank"] for r in said["ranks"]], [0, 1, 2])
                self.assertEqual(said["ignored"], [])
                text = blame(self.folder).stdout
                self.assertRegex(text, rf"(?m)^rank {rank}( \(\w+, host\))?: {kind}: {re.escape(words)}$")
                self.assertEqual(len(re.findall(r"(?m)^ +[012] ", text)), 3)

    def test_a_main_thread_that_is_stuck(self):
        """Its process runs, and it is not behind."""
        self.take("stopped")
        for rank in range(3):
            dump = self.load(rank)
            dump["state"] = "S" if rank else ""
            dump["pulse_ns"] = dump["monotonic_ns"] - int(4.2e9) if rank == 1 else dump["monotonic_ns"] + 10**9
            self.store(rank, dump)
        said = verdict(self.folder)
        self.assertEqual((said["culprit"], said["kind"]), (1, "deadline"))
        self.assertRegex(said["message"], r"^hang: its main thread has been stuck for 4\.2 s in step #\d+, last entered ")
        self.assertEqual([round(r["still_seconds"], 3) for r in said["ranks"]], [0, 4.2, 0])
        dump["pulse_ns"] = 2**63 - 1  # as of a rank that waits for who reads its output
        self.store(2, dump)
        self.assertEqual(verdict(self.folder)["ignored"], [])

    def test_one_record_is_missing(self):
        self.take("stopped")
        os.unlink(self.path(2))
        said = verdict(self.folder)
        self.assertEqual((said["culprit"], said["kind"]), (2, "deadline"))
        self.assertEqual(said["message"], "hang: last heard at #167, 1.5 s ago; the others wait in #168")
        self.assertIn("   2  no record", blame(self.folder).stdout)

    def test_who_was_slow_before(self):
        self.take("stopped")
        dump = self.load(0)
        for entry in dump["entries"]:
            entry["enter_ns"] += 25000000
        self.store(0, dump)
        said = verdict(self.folder)
        self.assertEqual((said["culprit"], said["slow"]), (2, 0))
        self.assertLess(24.0, said["ranks"][0]["lag_ms"])
        self.assertGreater(26.5, said["ranks"][0]["lag_ms"])
        self.assertRegex(blame(self.folder).stdout, r"Before that, rank 0 was late: as a rule 2[456]\.\d+ ms after")
        # With the clocks of another host nothing can be said of it, and of the others as before.
        dump["host"] = "elsewhere"
        self.store(0, dump)
        said = verdict(self.folder)
        self.assertEqual((said["slow"], said["ranks"][0]["lag_ms"]), (None, None))
        self.assertLess(0, said["compared"])
        self.assertLess(said["ranks"][1]["lag_ms"], 2)
        for entry in (late := self.load(1))["entries"]:
            entry["enter_ns"] += 25000000
        self.store(1, late)
        self.assertEqual(verdict(self.folder)["slow"], 1)

    def test_an_earlier_run(self):
        self.take("stopped")
        dump = self.load(1)
        dump["wall_ns"] -= 3600 * 10**9
        self.store(1, dump)
        said = verdict(self.folder)
        self.assertEqual([i["file"] for i in said["ignored"]], ["flight-rank1.json"])
        self.assertIn("earlier run", said["ignored"][0]["why"])
        self.assertFalse(said["ranks"][1]["record"])
        self.assertIn("flight-rank1.json is left out: ", blame(self.folder).stderr)

    def test_another_run_a_minute_ago(self):
        """Told by its number, and without one by its ranks."""
        for rank in (1, 2):
            for field, was, why in (("job", "0123456789abcdef", "not of the job"), ("world", 4, "another number of ranks")):
                with self.subTest(rank=rank, field=field):
                    self.take("stopped")
                    dump = self.load(rank)
                    dump["wall_ns"] -= 60 * 10**9
                    dump[field] = was
                    self.store(rank, dump)
                    said = verdict(self.folder)
                    self.assertEqual([i["file"] for i in said["ignored"]], [f"flight-rank{rank}.json"])
                    self.assertIn(why, said["ignored"][0]["why"])
                    self.assertEqual([r["record"] for r in said["ranks"]], [r != rank for r in range(3)])

    def test_nobody_stands_out(self):
        self.take("stopped")
        for rank in (0, 1):
            dump = self.load(0)
            dump["rank"] = rank
            dump["world"] = 2
            dump["state"] = ""
            self.store(rank, dump)
        os.unlink(self.path(2))
        said = verdict(self.folder)
        self.assertEqual((said["world"], said["culprit"], said["kind"]), (2, None, None))
        self.assertIn("No rank stands out", blame(self.folder).stdout)


class TestBroken(Folder):
    def test_usage(self):
        self.assertIn("which directory?", blame(code=2).stderr)
        self.assertIn("/nonexistent: No such", blame("/nonexistent", code=2).stderr)
        os.mkdir(self.folder)
        self.assertIn("there is no flight-rank*.json", blame(self.folder, code=2).stderr)

    def check_left_out(self, what):
        """Rank 1's file is of no use; the other two are."""
        said = verdict(self.folder)
        self.assertEqual([i["file"] for i in said["ignored"]], ["flight-rank1.json"], what)
        self.assertEqual((said["world"], said["culprit"]), (3, 2), what)
        done = blame(self.folder)
        self.assertNotRegex(done.stdout + done.stderr, r"[\x00-\x09\x0b-\x1f\x7f]", what)

    def test_broken_values(self):
        self.take("stopped")
        good = self.load(1)
        entry = good["entries"][-1]
        broken = [({**good, key: value}) for key, value in (
            ("rank", 0), ("rank", 3), ("rank", -1), ("rank", "1"), ("rank", 1.5), ("world", 0), ("world", 10**9),
            ("world", 10**30), ("lockstep_flight", 2), ("lockstep_flight", None), ("host", "a\nb"), ("host", "\x1b[2J"),
            ("host", "x" * 64), ("host", 7), ("device", []), ("state", "TT"), ("reason", "é"), ("wall_ns", -1),
            ("monotonic_ns", 2**63), ("entries", {}), ("entries", 7), ("entries", [7]), ("entries", [{}]),
            ("entries", [entry] * 257), ("rpc", 3), ("written_by", 3),
            ("pulse_ns", -1), ("pulse_ns", 2**63), ("pulse_ns", "0"))]
        broken += [{**good, "entries": [{**entry, key: value}]} for key, value in (
            ("kind", "x"), ("kind", 0), ("part", "\x07"), ("dtype", "f64"), ("number", -1), ("number", 2**64),
            ("op", "x" * 16), ("op", "\x1b"), ("op", None), ("layer", -2), ("layer", 2**31), ("bytes", -1),
            ("bytes", 1e300), ("enter_ns", "0"), ("leave_ns", None))]
        for key in good:
            if key != "rpc":  # a rank that has had none has none
                broken.append({k: v for k, v in good.items() if k != key})
        for i, dump in enumerate(broken):
            with self.subTest(i):
                self.store(1, dump)
                self.check_left_out(i)

    def test_broken_files(self):
        self.take("stopped")
        with open(self.path(1), "rb") as f:
            good = f.read()
        for data in (b"", b"\0", b"{", b"[]", b"null", b"[" * 100000, b'{"a":' * 5000, b"\xff\xfe", b" " * (2 << 20),
                     b'{"rank":1,"rank":1}', good + b"x", good[:1]):
            with open(self.path(1), "wb") as f:
                f.write(data)
            self.check_left_out(data[:20])
        os.unlink(self.path(1))
        os.mkdir(self.path(1))
        self.check_left_out("a directory")
        os.rmdir(self.path(1))
        os.mkfifo(self.path(1))
        self.check_left_out("a pipe")  # and nobody waits at its end
        os.unlink(self.path(1))
        os.symlink("/dev/zero", self.path(1))
        self.check_left_out("a device")

    def test_truncated_and_damaged(self):
        """Whatever is read of it, there is an answer."""
        self.take("stopped")
        with open(self.path(1), "rb") as f:
            good = f.read()
        dice = random.Random(1)
        for i in range(60):
            data = bytearray(good[:dice.randrange(len(good))] if i % 2 else good)
            for _ in range(dice.randrange(1, 20)):
                data[dice.randrange(len(data))] = dice.randrange(256)
            with open(self.path(1), "wb") as f:
                f.write(data)
            self.assertEqual(verdict(self.folder)["world"], 3)

    def test_numbers_that_make_no_sense(self):
        """Each value is possible; together they are not."""
        self.take("stopped")
        dump = self.load(1)
        for i, entry in enumerate(dump["entries"]):
            entry["number"] = (2**63 - 1) - 7 * i if i % 3 else 5
            entry["enter_ns"] = 2**63 - 1 if i % 2 else 0
        dump["monotonic_ns"] = 0
        self.store(1, dump)
        self.assertEqual(verdict(self.folder)["ignored"], [])
        blame(self.folder)

    def test_other_names_are_none(self):
        self.take("stopped")
        for name in ("flight-rank.json", "flight-rank1.json.tmp", "flight-rank-1.json", "flight-rank99999.json",
                     "flight-rank+1.json", ".flight-rank1.json.7.tmp", "x"):
            with open(os.path.join(self.folder, name), "w", encoding="utf-8") as f:
                f.write("{")
        self.assertEqual(verdict(self.folder)["ignored"], [])


def ranks_of(launcher):
    found = {}
    with open(f"/proc/{launcher}/task/{launcher}/children", encoding="ascii") as f:
        for pid in f.read().split():
            try:
                with open(f"/proc/{pid}/environ", "rb") as environ:
                    for entry in environ.read().split(b"\0"):
                        if entry.startswith(b"OMPI_COMM_WORLD_RANK="):
                            found[int(entry.partition(b"=")[2])] = int(pid)
            except OSError:
                pass
    return found


class TestRuns(Folder):
    def generate(self, *more, world=3):
        return subprocess.Popen(
            [MPIEXEC, "-n", str(world), LOCKSTEP, "generate", "--prompt", "In the", "--max-tokens", "0", "--ignore-eos",
             "--isa", "generic", "--threads", "1", "--timeout", "2", "--dump-dir", self.folder, *more],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENV)

    def hit(self, victim, what):
        p = self.generate()
        p.stdout.read(5)  # it is generating
        pid = ranks_of(p.pid)[victim]
        os.kill(pid, what)
        p.stdout.read()
        err = p.communicate(timeout=30)[1]
        self.assertNotEqual(p.returncode, 0, err)
        # Whole files, and nothing else.
        self.assertEqual(sorted(os.listdir(self.folder)), [f"flight-rank{r}.json" for r in range(3)], err)
        for rank in range(3):
            dump = self.load(rank)
            self.assertEqual((dump["rank"], dump["world"], dump["device"]), (rank, 3, "host"))
            self.assertLess(abs(dump["wall_ns"] / 1e9 - time.time()), 60)
            self.assertRegex(dump["job"], "^[0-9a-f]{16}$")
            self.assertEqual(dump["job"], self.load(0)["job"])
        self.assertEqual(self.load(victim)["pid"], pid)
        return err

    def test_a_rank_is_killed(self):
        """It cannot write, but its record outlives it."""
        for victim in (0, 1):
            with self.subTest(victim):
                self.hit(victim, signal.SIGKILL)
                self.assertNotEqual(self.load(victim)["written_by"], victim)
                self.assertGreater(len(self.load(victim)["entries"]), 10)
                said = verdict(self.folder)
                self.assertEqual((said["culprit"], said["kind"]), (victim, "rank_lost"), said)

    def test_a_rank_is_stopped(self):
        err = self.hit(1, signal.SIGSTOP)
        said = verdict(self.folder)
        self.assertEqual((said["culprit"], said["kind"]), (1, "deadline"))
        self.assertIn("is stopped (SIGSTOP), last entered ", said["message"])
        # What the run said at its end is what the dumps tell.
        self.assertIn(said["message"].partition(" s ago")[0][:-4], err)

    def test_a_run_that_ends_well_writes_nothing(self):
        done = subprocess.run([MPIEXEC, "-n", "2", LOCKSTEP, "generate", "--prompt", "In", "--max-tokens", "2",
                               "--dump-dir", self.folder, "--check-collectives"], stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=60, env=ENV, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(os.listdir(self.folder), [])

    def test_a_folder_that_cannot_be(self):
        done = subprocess.run([MPIEXEC, "-n", "2", LOCKSTEP, "generate", "--prompt", "In", "--dump-dir", "/dev/null"],
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, env=ENV, check=False)
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertIn("io: --dump-dir /dev/null: ", done.stderr)


if __name__ == "__main__":
    MPIEXEC = sys.argv.pop()
    LOCKSTEP = os.path.abspath(sys.argv.pop())
    unittest.main(verbosity=2)
