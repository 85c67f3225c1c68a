#!/usr/bin/env python3
"""`lockstep replay`: runs that are done again, traces that were changed, and files that are none.

    test_replay.py LOCKSTEP MPIRUN
"""
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

DATA = os.environ["LOCKSTEP_TEST_DATA"]
TINY = os.path.join(DATA, "tiny-qwen3")
ENV = {"ASAN_OPTIONS": "detect_leaks=0", **os.environ}
GENERATE = ("generate", "--model", TINY, "--ids", "1,2,3,4,5", "--max-tokens", "4", "--ignore-eos", "--threads", "1")
WORLDS = (1, 2) if os.environ.get("LOCKSTEP_TEST_SHORT") else (1, 2, 3)
LOCKSTEP = MPIRUN = None


def launch(np, *args):
    prefix = [MPIRUN, "-n", str(np)] if np > 1 else []
    return subprocess.run(prefix + [LOCKSTEP, *args], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=60, env=ENV, check=False)


def setUpModule():
    Case.folder = tempfile.TemporaryDirectory()
    Case.traces = {np: os.path.join(Case.folder.name, f"trace{np}") for np in WORLDS}
    for np, path in Case.traces.items():
        done = launch(np, *GENERATE, "--trace-rpc", path)
        assert done.returncode == 0, done.stderr


def tearDownModule():
    Case.folder.cleanup()


class Case(unittest.TestCase):
    folder = traces = None

    def replay(self, np, path, *more, code=0):
        done = launch(np, "replay", path, "--threads", "1", *more)
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        said = [l for l in done.stderr.splitlines() if re.match("lockstep: (?!warning|replaying)", l)]
        self.assertEqual(len(said), int(code != 0), done.stderr)
        return done

    def json(self, np, path, *more, code=0):
        return json.loads(self.replay(np, path, "--json", *more, code=code).stdout)

    def changed(self, np, pattern, by):
        """A trace in which the first match's first group is something else, of the same length."""
        with open(self.traces[np], "rb") as f:
            data = f.read()
        match = re.search(pattern, data, re.DOTALL)
        old = match[1]
        new = by(old)
        self.assertEqual(len(old), len(new))
        path = os.path.join(self.folder.name, "changed")
        with open(path, "wb") as f:
            f.write(data[:match.start(1)] + new + data[match.end(1):])
        return path


def flip_last(b):
    return b[:-1] + bytes([b[-1] ^ 1])


class TestReplay(Case):
    def test_as_recorded(self):
        for np, path in self.traces.items():
            with self.subTest(np=np):
                got = self.json(np, path)
                self.assertEqual((got["ok"], got["whole"], got["cut"], got["world"]), (True, True, False, np))
                self.assertEqual((got["different"], got["differences"]), (0, []))
                requests = got["requests"]
                for name in ("hello", "init", "sanity"):
                    self.assertEqual(requests[name]["compared"], np, name)
                self.assertEqual(requests["load"]["compared"], 2 * np)  # it is measured first
                self.assertEqual((requests["ping"]["requests"], requests["ping"]["compared"]), (np, np))
                self.assertEqual(requests["step"]["requests"], requests["step"]["compared"])
                self.assertGreaterEqual(requests["step"]["requests"], 4)
                self.assertEqual(requests["shutdown"]["skipped"], 1)

    def test_a_measurement_is_left_out(self):
        path = os.path.join(self.folder.name, "check")
        done = launch(1, "check", "--bandwidth", "-b", "1K", "-e", "1K", "-n", "1", "--trace-rpc", path)
        self.assertEqual(done.returncode, 0, done.stderr)
        text = self.replay(1, path).stdout
        self.assertRegex(text, r"(?m)^bandwidth +4  is not replayed$")
        self.assertRegex(text, r"(?m)^ping +\d+ +\d+ +\d+ +0 ")

    def test_text_and_progress(self):
        done = self.replay(1, self.traces[1], "--progress", "always")
        self.assertRegex(done.stdout, r"(?m)^request +number +replies +compared +different +recorded ms +now ms$")
        self.assertRegex(done.stdout, r"(?m)^step +\d+ +\d+ +\d+ +0 +\d+\.\d\d +\d+\.\d\d$")
        self.assertRegex(done.stderr, r"replaying request \d+, +\d+ %")

    def test_another_result(self):
        path = self.changed(1, rb"\xa6digest(\xcf.{8})", flip_last)
        done = self.replay(1, path, code=7)
        words = r"request #\d+ step: rank 0: stepped\.digest: recorded \d+, now \d+"
        self.assertRegex(done.stdout, rf"(?m)^{words}$")
        self.assertRegex(done.stderr, rf"(?m)^lockstep: wrong_result: 1 reply is not as recorded; the first: {words}$")
        path = self.changed(2, rb"\xa6digest(\xcf.{8})", flip_last)
        got = self.json(2, path, code=7)
        self.assertEqual((got["ok"], got["whole"], got["different"]), (False, True, 1))
        found = got["differences"][0]
        self.assertEqual((found["request"], found["rank"], found["reply"], found["field"]),
                         ("step", 0, "stepped", "digest"))
        self.assertEqual(got["requests"]["step"]["different"], 1)
        self.replay(2, path, "--rank", "1")  # whose replies are the same

    def test_another_build(self):
        path = self.changed(1, rb"\xa8hello_ok.{0,40}?\xa5build\xb0(.{16})", flip_last)
        done = self.replay(1, path, code=7)
        self.assertRegex(done.stderr, r"(?m)the first: request #1 hello: rank 0: hello_ok\.build: recorded \S{16}, now \w{16}$")
        self.replay(1, path, "--ignore", "hello_ok.build")

    def test_another_reply(self):
        path = self.changed(1, rb"\xadsanity_result\xa1s.\xacobserved_sum(.)", flip_last)
        done = self.replay(1, path, code=7)
        self.assertIn("sanity: rank 0: sanity_result.observed_sum: recorded 0, now 1", done.stderr)

    def test_another_model(self):
        copy = os.path.join(self.folder.name, "copy")
        shutil.copytree(TINY, copy)
        self.replay(1, self.traces[1], "--model", copy)
        with open(os.path.join(copy, "model.safetensors"), "r+b") as f:
            f.seek(-1, os.SEEK_END)
            last = f.read(1)
            f.seek(-1, os.SEEK_END)
            f.write(flip_last(last))
        got = self.json(1, self.traces[1], "--model", copy, code=7)
        self.assertEqual(got["differences"][0]["field"], "content")
        self.assertEqual(got["requests"]["load"]["different"], 2)
        shutil.rmtree(copy)
        got = self.json(1, self.traces[1], "--model", copy, code=7)
        found = got["differences"][0]
        self.assertEqual((found["request"], found["field"], found["recorded"]), ("load", "type", "loaded"))
        self.assertIn("No such file", found["now"])
        self.assertEqual(got["requests"]["step"]["different"], got["requests"]["step"]["requests"])

    def test_a_load_that_failed(self):
        """Fails again, and that is as it was."""
        copy = shutil.copytree(TINY, os.path.join(self.folder.name, "broken"))
        weights = os.path.join(copy, "model.safetensors")
        os.truncate(weights, os.path.getsize(weights) - 10)
        path = os.path.join(self.folder.name, "failed")
        done = launch(1, "generate", "--model", copy, "--ids", "1", "--trace-rpc", path)
        self.assertEqual(done.returncode, 2, done.stderr)
        got = self.json(1, path)
        self.assertEqual(got["requests"]["load"]["compared"], 1)
        got = self.json(1, path, "--model", TINY, code=7)
        self.assertRegex(got["differences"][0]["recorded"], "^error st_truncated: load: ")
        self.assertEqual(got["differences"][0]["now"], "loaded")


class TestBad(Case):
    def refuse(self, words, *args, np=1):
        done = launch(np, "replay", *args)
        self.assertEqual((done.returncode, done.stdout), (2, ""), done.stderr)
        said = [l for l in done.stderr.splitlines() if l.startswith("lockstep")]
        self.assertEqual(len(said), 1, done.stderr)
        self.assertIn(words, said[0])

    def test_usage(self):
        self.refuse("which file?")
        self.refuse("--ignore bytes: no reply has such a field", self.traces[1], "--ignore", "bytes")
        self.refuse("--rank 1: the trace has ranks 0 to 0", self.traces[1], "--rank", "1")
        self.refuse("/nonexistent: No such file", "/nonexistent")
        self.refuse("not a regular file", self.folder.name)
        self.refuse("not a trace of --trace-rpc", os.path.join(TINY, "config.json"))
        self.refuse("byte 0: cut off", self.empty())

    def empty(self):
        path = os.path.join(self.folder.name, "empty")
        with open(path, "wb"):
            return path

    def test_another_world(self):
        self.refuse("recorded with 2 ranks, this run has 1: mpirun -np 2 lockstep replay", self.traces[2])
        self.refuse("recorded with 1 rank, this run has 2: mpirun -np 1 lockstep replay", self.traces[1], np=2)

    def test_a_run_that_was_killed(self):
        """Its trace ends in the midst of an entry."""
        with open(self.traces[1], "rb") as f:
            data = f.read()
        path = os.path.join(self.folder.name, "cut")
        with open(path, "wb") as f:
            f.write(data[:-40])
        done = self.replay(1, path)
        self.assertIn("its last entry is cut off", done.stderr)

    def test_garbage_after_a_good_beginning(self):
        with open(self.traces[1], "rb") as f:
            data = f.read()
        for tail, words in ((b"\x95\x00\x00\x00\x00\xc6\xff\xff\xff\xff", "a frame of more than 64 MiB"),
                            (b"\x95\x00\x00\x00\x00\xc4\x01\xc0", "frame: not a map"),
                            (b"\x95\x00\x00\x07\x00\xc4\x01\xc0", "no rank of this trace")):
            path = os.path.join(self.folder.name, "garbage")
            with open(path, "wb") as f:
                f.write(data + tail)
            done = launch(1, "replay", path)
            self.assertEqual(done.returncode, 2, done.stderr)
            self.assertIn(f"byte {len(data)}: {words}", done.stderr)

    def test_a_step_that_no_model_takes(self):
        """All ranks refuse it alike, and the replay goes on."""
        path = self.changed(2, rb"\xa4step.{0,60}?\xa6tokens\xc4.(....)", lambda b: b"\xff\xff\xff\x7f")
        got = self.json(2, path, code=7)
        found = got["differences"][0]
        self.assertEqual((found["request"], found["recorded"]), ("step", "stepped"))
        self.assertRegex(found["now"], "^error protocol: step: ")
        self.assertTrue(got["whole"])


if __name__ == "__main__":
    LOCKSTEP, MPIRUN = os.path.abspath(sys.argv[1]), sys.argv[2]
    unittest.main(argv=sys.argv[:1], verbosity=2)
