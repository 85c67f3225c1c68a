#!/usr/bin/env python3
"""How runs end: ranks that stop or are slow, Ctrl-C while reading, closed streams, the status file.

    test_endings.py LOCKSTEP MPIEXEC SLOW_READ
"""
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

ENV = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0:verify_asan_link_order=0"}
DEMO = os.path.join(os.environ["LOCKSTEP_MODELS"], "kjv-qwen3-3m")
QWEN = os.path.join(os.environ["LOCKSTEP_TEST_DATA"], "tiny-qwen3")


def run(*args, stdin=subprocess.DEVNULL, prefix=(), **options):
    return subprocess.run([*prefix, LOCKSTEP, *args], stdin=stdin, capture_output=True, text=True,
                          timeout=60, env=ENV, **options)


def blame(stderr):
    """lockstep's own lines, without warnings and what is no error."""
    return [l for l in stderr.splitlines()
            if l.startswith("lockstep") and not l.startswith(("lockstep: warning", "lockstep: loaded"))]


def rank_of(pid):
    """The rank of a process that mpiexec started; None if it is none of them."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as f:
            for entry in f.read().split(b"\0"):
                if entry.startswith(b"OMPI_COMM_WORLD_RANK="):
                    return int(entry.partition(b"=")[2])
    except OSError:
        pass
    return None


def ranks_of(launcher):
    with open(f"/proc/{launcher}/task/{launcher}/children", encoding="ascii") as f:
        return {rank_of(pid): int(pid) for pid in f.read().split()}


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat", encoding="ascii") as f:
        fields = f.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def stop_inside_a_collective(victim, other):
    """Between two steps the other rank naps, and cannot know that it waits for a rank that is stopped."""
    for _ in range(50):
        os.kill(victim, signal.SIGSTOP)
        time.sleep(0.1)
        before = cpu_seconds(other)
        time.sleep(0.3)
        if cpu_seconds(other) - before > 0.02: # a nap takes a hundredth of a core
            return
        os.kill(victim, signal.SIGCONT)
        time.sleep(0.013)
    raise AssertionError("it is never inside a collective")


class TestStoppedRank(unittest.TestCase):
    TIMEOUT = 1.5

    def setUp(self):
        self.dir = self.enterContext(tempfile.TemporaryDirectory())

    def long_context_model(self):
        """The demo model with room for a generation that outlasts the test."""
        model = os.path.join(self.dir, "model")
        shutil.copytree(DEMO, model)
        path = os.path.join(model, "config.json")
        with open(path, encoding="utf-8") as f:
            config = json.load(f)
        config["max_position_embeddings"] = 100000
        with open(path, "w", encoding="utf-8") as f:
            json.dump(config, f)
        return model

    def stop(self, world, victim):
        """Stops a rank in the midst of a generation: (exit code, seconds, blame, status)."""
        status = os.path.join(self.dir, "status.json")
        p = subprocess.Popen(
            [MPIEXEC, "-n", str(world), LOCKSTEP, "generate", "--model", self.long_context_model(),
             "--prompt", "In the beginning", "--max-tokens", "0", "--ignore-eos", "--ctx", "40000",
             "--isa", "generic", "--threads", "1", "--timeout", str(self.TIMEOUT), "--status-file", status],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENV)
        p.stdout.read(10)  # it is generating
        ranks = ranks_of(p.pid)
        stop_inside_a_collective(ranks[victim], ranks[1 - min(victim, 1)])
        start = time.monotonic()
        try:
            _, err = p.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            for pid in ranks_of(p.pid).values():
                os.kill(pid, signal.SIGKILL)
            p.communicate(timeout=10)
            self.fail(f"rank {victim} stopped, and the others wait for ever")
        seconds = time.monotonic() - start
        said = None
        if os.path.exists(status):
            with open(status, encoding="utf-8") as f:
                said = json.load(f)
        return p.returncode, seconds, blame(err), said

    def test_a_stopped_worker(self):
        code, seconds, lines, status = self.stop(3, 2)
        self.assertEqual(code, 4)
        self.assertLess(seconds, self.TIMEOUT + 5)  # not a timeout for each of step, unload, shutdown
        self.assertEqual(len(lines), 1, lines)
        self.assertRegex(lines[0], r"^lockstep: rank 2 \(\S+, host\): deadline: hang: is stopped \(SIGSTOP\), last entered "
                         r"(layer \d+ (attention|mlp) all-reduce|embedding all-reduce|head gather) #\d+ \d+\.\d s ago; "
                         r"(the other 2 ranks are|1 of the other 2 ranks is) at #\d+$")  # one may wait in the same as rank 2
        behind, others = map(int, re.findall(r"#(\d+)", lines[0]))
        self.assertLessEqual(others - behind, 1)
        self.assertLessEqual(self.TIMEOUT - 0.2, float(re.search(r"([\d.]+) s ago", lines[0])[1]))
        self.assertEqual((status["exit_code"], status["kind"], status["rank"]), (4, "deadline", 2))

    def test_a_stopped_leader(self):
        code, seconds, lines, _ = self.stop(2, 0)
        self.assertEqual(code, 4)
        self.assertLess(seconds, self.TIMEOUT + 5)
        self.assertEqual(len(lines), 1, lines)  # rank 0 wakes up when all is over, and has nothing to add
        self.assertRegex(lines[0], r"^lockstep: rank 0 \(\S+, host\): deadline: (no word from rank 0: )?hang: is stopped "
                         r"\(SIGSTOP\), last entered .* #\d+ \d+\.\d s ago; the other rank is at #\d+$")


class TestOneLine(unittest.TestCase):
    def test_what_all_ranks_or_rank_0_alone_cannot_have(self):
        for words in (["generate", "--prompt", "a", "--dump-dir", "/proc/none"],
                      ["serve", "--port", "0", "--model-root", "/etc/passwd"],
                      ["serve", "--port", "0", "--api-key-file", "/nonexistent"]):
            done = subprocess.run([MPIEXEC, "-n", "3", LOCKSTEP, *words], env=ENV, capture_output=True, text=True,
                                  timeout=60, check=False)
            self.assertEqual(done.returncode, 2, done.stderr)
            self.assertEqual(len(blame(done.stderr)), 1, done.stderr)
            self.assertIn(words[-2], blame(done.stderr)[0])


class TestSlowRank(unittest.TestCase):
    def test_a_rank_may_load_for_longer_than_the_timeout(self):
        command = [LOCKSTEP, "generate", "--prompt", "In the beginning", "--max-tokens", "2",
                   "--timeout", "1", "--threads", "1"]
        start = time.monotonic()
        done = subprocess.run([MPIEXEC, "-n", "1", *command, ":", "-n", "1", "-x", f"LD_PRELOAD={SLOW_READ}",
                               *command], capture_output=True, text=True, timeout=60, env=ENV)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertGreater(time.monotonic() - start, 2)  # else this has tested nothing


    def test_progress_goes_up_and_to_the_end(self):
        """Also where the ranks are not equally fast."""
        command = [LOCKSTEP, "generate", "--prompt", "In the", "--max-tokens", "1", "--threads", "1",
                   "--progress", "always"]
        slow = ["-x", f"LD_PRELOAD={SLOW_READ}"]
        for first, second in (([], slow), (slow, []), (slow, slow)):
            done = subprocess.run([MPIEXEC, "-n", "1", *first, *command, ":", "-n", "1", *second, *command],
                                  capture_output=True, text=True, timeout=60, env=ENV)
            seen = [int(n) for n in re.findall(r"loading +(\d+) %", done.stderr)]
            self.assertGreater(len(seen), 5, done.stderr)
            self.assertEqual(seen, sorted(seen))
            self.assertEqual(seen[-1], 100)


class TestStreams(unittest.TestCase):
    def test_ctrl_c_while_loading(self):
        """Nobody waits for what is not wanted any more: not rank 0, and not the other one."""
        slow = ["-x", f"LD_PRELOAD={SLOW_READ}", "-x", "SLOW_READ_MS=8"]
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "status.json")
            command = [LOCKSTEP, "generate", "--prompt", "In the", "--threads", "1", "--status-file", path]
            p = subprocess.Popen([MPIEXEC, "-n", "1", *slow, *command, ":", "-n", "1", *slow, *command],
                                 env=ENV, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            time.sleep(1.2)
            start = time.monotonic()
            p.send_signal(signal.SIGINT)
            out, err = p.communicate(timeout=30)
            self.assertLess(time.monotonic() - start, 4, err)
            self.assertEqual(out, "")
            self.assertNotEqual(p.returncode, 0)
            with open(path, encoding="utf-8") as f:
                status = json.load(f)
            self.assertEqual((status["exit_code"], status["kind"]), (130, "interrupted"))
            self.assertRegex(status["message"], "interrupted while loading|the launcher is ending the job")

    def test_an_end_while_only_others_load(self):
        """Rank 0 has its share, and calls off the other, who would read for 15 seconds more."""
        slow = ["-x", f"LD_PRELOAD={SLOW_READ}", "-x", "SLOW_READ_MS=8"]
        command = [LOCKSTEP, "generate", "--prompt", "In the", "--threads", "1"]
        p = subprocess.Popen([MPIEXEC, "-n", "1", *command, ":", "-n", "1", *slow, *command],
                             env=ENV, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        time.sleep(2)
        start = time.monotonic()
        os.kill(ranks_of(p.pid)[0], signal.SIGTERM)
        _, err = p.communicate(timeout=30)
        self.assertLess(time.monotonic() - start, 8, err)
        self.assertIn("interrupted while loading", err)
        self.assertEqual(p.returncode, 130)

    def test_ctrl_c_while_reading_the_prompt(self):
        p = subprocess.Popen([LOCKSTEP, "generate", "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, env=ENV)
        time.sleep(1)
        start = time.monotonic()
        p.send_signal(signal.SIGINT)
        p.wait(timeout=20)  # with its standard input still open
        self.assertLess(time.monotonic() - start, 2)
        self.assertEqual(p.returncode, 130)
        p.communicate()

    def test_closed_streams(self):
        """Whatever is opened first must not become standard output or input."""
        for redirection, name in ((">&-", "standard output"), ("<&-", "standard input")):
            done = subprocess.run(["sh", "-c", f'"$0" generate - --max-tokens 2 {redirection}', LOCKSTEP],
                                  input="In the beginning", capture_output=True, text=True, timeout=60, env=ENV)
            self.assertEqual(done.returncode, 2)
            self.assertIn(f"{name}: Bad file descriptor", done.stderr)

    def test_errors_name_their_source_once(self):
        for args, words in (
                (["generate", "-"], "lockstep: bad_input: standard input: the prompt is empty"),
                (["generate", "-f", "/nonexistent"], "lockstep: io: /nonexistent: No such"),
                (["score", "-f", "/nonexistent"], "lockstep: io: /nonexistent: No such"),
                (["generate", "--ids", "1,9999999"], "lockstep: bad_input: --ids: "),
                (["score", "--ids", "1,9999999"], "lockstep: bad_input: --ids: "),
                (["generate", "--model", QWEN, "--chat", "--prompt", "x", "--system", b"\xff"],
                 "lockstep: bad_input: --system: not UTF-8")):
            done = run(*args)
            self.assertEqual(done.returncode, 2)
            self.assertTrue(done.stderr.startswith(words), done.stderr)

    def test_ids_without_a_tokenizer(self):
        with tempfile.TemporaryDirectory() as model:
            for name in ("config.json", "model.safetensors", "generation_config.json"):
                os.symlink(os.path.join(DEMO, name), os.path.join(model, name))
            ids = ["generate", "--ids", "5,6", "--max-tokens", "4"]
            want = json.loads(run(*ids, "--json").stdout)["ids"]
            done = run(*ids, "--model", model)
            self.assertEqual(done.stdout, " ".join(map(str, want)) + "\n")
            self.assertNotIn("warning", done.stderr)
            done = run(*ids, "--model", model, "--stop", "x")
            self.assertEqual(done.returncode, 2)
            self.assertIn("lockstep: bad_input: --stop: ", done.stderr)
            with open(os.path.join(model, "tokenizer.json"), "w", encoding="utf-8") as f:
                f.write("{")
            done = run(*ids, "--model", model)
            self.assertEqual(done.stdout, " ".join(map(str, want)) + "\n")
            self.assertRegex(done.stderr, "lockstep: warning: .*tokenizer.json: .*line 1")


class TestStatusFile(unittest.TestCase):
    def test_of_a_command_line_that_cannot_be_parsed(self):
        with tempfile.TemporaryDirectory() as folder:
            for i, words in enumerate((["--foo", "--status-file", "{}"], ["--status-file={}", "--top-p"])):
                path = os.path.join(folder, str(i))
                self.assertEqual(run("generate", *(w.format(path) for w in words)).returncode, 2)
                with open(path, encoding="utf-8") as f:
                    self.assertEqual(json.load(f)["kind"], "usage")

    def test_an_option_is_no_file(self):
        with tempfile.TemporaryDirectory() as folder:
            for word, code in (("--json", 2), ("-h", 0)):
                self.assertEqual(run("generate", "--status-file", word, cwd=folder).returncode, code)
            self.assertEqual(os.listdir(folder), [])

    def test_a_fifo_that_nobody_reads(self):
        """What cannot be written holds up the end, but not for ever, and changes no exit code: where
        the command tells its end, a second signal comes meanwhile, or the vigil tells it."""
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "fifo")
            os.mkfifo(path)
            slow = ["-x", f"LD_PRELOAD={SLOW_READ}", "-x", "SLOW_READ_MS=8"]
            command = [LOCKSTEP, "generate", "--prompt", "In the", "--max-tokens", "1", "--threads", "1",
                       "--timeout", "2", "--status-file", path]
            bad_model = [*command, "--model", "/nonexistent"]
            good, bad, signalled, lost = runs = [
                subprocess.Popen(words, env=ENV, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                 stderr=subprocess.PIPE, text=True)
                for words in (command, bad_model, bad_model, [MPIEXEC, "-n", "2", *slow, *command])]
            time.sleep(3)
            for _ in range(2):
                signalled.send_signal(signal.SIGTERM)
                time.sleep(0.7)
            stopped = ranks_of(lost.pid)[1]
            os.kill(stopped, signal.SIGSTOP)
            try:
                ends = [p.communicate(timeout=30) for p in runs]
            finally:
                if lost.poll() is None:
                    os.kill(stopped, signal.SIGKILL)
                for p in runs:
                    p.kill()
            lines = [blame(err) for _, err in ends]
            self.assertEqual([len(l) for l in lines], [1, 1, 1, 1], lines)
            self.assertEqual([p.returncode for p in runs], [4, 2, 130, 4], lines)
            self.assertIn("stuck in the status file", lines[0][0])
            self.assertIn("/nonexistent", lines[1][0])
            self.assertIn("rank 1", lines[3][0])

    def test_of_a_command_that_does_not_heed_a_signal(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "status.json")
            unread, full = os.pipe()
            os.set_blocking(full, False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    os.write(full, bytes(4096))
            os.set_blocking(full, True)
            p = subprocess.Popen([LOCKSTEP, "generate", "--prompt", "In the", "--status-file", path], env=ENV,
                                 stdin=subprocess.DEVNULL, stdout=full, stderr=subprocess.PIPE, text=True)
            time.sleep(2)
            p.terminate()
            _, err = p.communicate(timeout=20)
            os.close(unread)
            os.close(full)
            self.assertEqual(p.returncode, 130, err)
            self.assertEqual(len(blame(err)), 1, err)
            self.assertIn("did not come to an end in time", blame(err)[0])
            with open(path, encoding="utf-8") as f:
                status = json.load(f)
            self.assertEqual((status["kind"], status["rank"]), ("interrupted", 0))

    def test_replaces_nothing_but_files(self):
        with tempfile.TemporaryDirectory() as folder:
            link, target = os.path.join(folder, "link"), os.path.join(folder, "target")
            os.symlink(target, link)
            run("generate", "--status-file", link)
            self.assertTrue(os.path.islink(link))
            with open(target, encoding="utf-8") as f:
                self.assertEqual(json.load(f)["exit_code"], 2)


if __name__ == "__main__":
    SLOW_READ = sys.argv.pop()
    MPIEXEC = sys.argv.pop()
    LOCKSTEP = os.path.abspath(sys.argv.pop())
    unittest.main(verbosity=2)
