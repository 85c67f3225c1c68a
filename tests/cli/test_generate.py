#!/usr/bin/env python3
"""generate and score as a user types them: the golden ids at every world size, sampling that does not
depend on N, stop strings, streams, JSON, files, bad input, Ctrl-C.

    test_generate.py LOCKSTEP MPIEXEC
"""
import json
import math
import os
import signal
import struct
import subprocess
import sys
import tempfile
import time
import unittest

DATA = os.environ["LOCKSTEP_TEST_DATA"]
SHORT = bool(os.environ.get("LOCKSTEP_TEST_SHORT"))  # for sanitizers: every path, fewer worlds
QWEN, LLAMA = os.path.join(DATA, "tiny-qwen3"), os.path.join(DATA, "tiny-llama")


def launch(ranks, *args, **options):
    prefix = [MPIEXEC, "-n", str(ranks)] if ranks > 1 else []
    return subprocess.run(prefix + [LOCKSTEP, *args], capture_output=True, timeout=60, **options)


def ours(done):
    return [l for l in done.stderr.decode(errors="replace").splitlines() if l.startswith("lockstep")]


def cases(name):
    with open(os.path.join(DATA, "expected", name + ".json"), encoding="utf-8") as f:
        return json.load(f)


def joined(ids):
    return ",".join(map(str, ids))


class Base(unittest.TestCase):
    def json(self, ranks, *args, **options):
        done = launch(ranks, *args, "--json", **options)
        self.assertEqual(done.returncode, 0, done.stderr.decode(errors="replace"))
        return json.loads(done.stdout)

    def refuse(self, ranks, code, words, *args, **options):
        done = launch(ranks, *args, **options)
        text = done.stderr.decode(errors="replace")
        self.assertEqual(done.returncode, code, text)
        self.assertEqual(len(ours(done)), 1, text)
        for word in words if isinstance(words, (list, tuple)) else [words]:
            self.assertIn(word, ours(done)[0])
        self.assertEqual(done.stdout, b"")


class TestGolden(Base):
    def test_greedy_ids_at_every_world_size(self):
        for model, name, worlds in ((QWEN, "tiny-qwen3", (1, 3) if SHORT else (1, 2, 3, 4, 5, 8)),
                                    (LLAMA, "tiny-llama", (2,) if SHORT else (1, 2, 3, 4))):
            case = cases(name)["cases"][1]
            for ranks in worlds:
                with self.subTest(model=name, ranks=ranks):
                    got = self.json(ranks, "generate", "--model", model, "--prompt", case["text"],
                                    "--max-tokens", "32", "--ignore-eos")
                    self.assertEqual(got["prompt_ids"], case["prompt_ids"])
                    self.assertEqual(got["ids"], case["greedy_ids"])
                    self.assertEqual(got["finish_reason"], "length")

    def test_stops_at_an_eos_that_only_the_generation_config_lists(self):
        for model, name in ((QWEN, "tiny-qwen3"), (LLAMA, "tiny-llama")):
            case = cases(name)["eos_case"]
            got = self.json(2, "generate", "--model", model, "--ids", joined(case["prompt_ids"]))
            self.assertEqual(got["ids"], case["greedy_ids_including_eos"])
            self.assertEqual(got["finish_reason"], "stop")

    def test_logits_file_and_hash(self):
        case = cases("tiny-llama")["cases"][1]
        with tempfile.TemporaryDirectory() as folder:
            path, seen = os.path.join(folder, "logits"), set()
            for ranks in (1, 3):
                done = launch(ranks, "score", "--model", LLAMA, "--text", case["text"], "--logits", path,
                              "--hash")
                self.assertEqual(done.returncode, 0, done.stderr)
                with open(path, "rb") as f:
                    raw = f.read()
                logits = struct.unpack(f"<{len(raw) // 4}f", raw)
                self.assertEqual(len(logits), 1000)
                self.assertLess(max(abs(a - b) for a, b in zip(logits, case["logits"])), 1e-3)
                seen.add((raw, done.stdout))
            self.assertEqual(len(seen), 1, "bits differ between 1 and 3 ranks")

    def test_scores(self):
        case = cases("tiny-qwen3")["cases"][1]
        got = self.json(2, "score", "--model", QWEN, "--text", case["text"])
        self.assertEqual(got["ids"], case["prompt_ids"])
        for a, b in zip(got["logprobs"], case["prompt_token_logprobs"], strict=True):
            self.assertAlmostEqual(a, b, delta=1e-3)
        self.assertAlmostEqual(got["mean_nll"], -sum(got["logprobs"]) / len(got["logprobs"]), places=6)
        self.assertAlmostEqual(got["perplexity"], math.exp(got["mean_nll"]), delta=1e-6 * got["perplexity"])
        first = launch(1, "tokenize", "--model", QWEN, "--decode", str(got["ids"][0]), "--no-special").stdout
        self.assertEqual(got["bytes"], len(case["text"].encode()) - len(first[:-1]))
        self.assertAlmostEqual(got["bits_per_byte"],
                               -sum(got["logprobs"]) / got["bytes"] / math.log(2), places=6)

    def test_scores_with_and_without_all_logits(self):
        """Where log-probabilities come from makes no difference, for any number of ranks."""
        ids, seen, hashes = joined(range(3, 303)), set(), set()
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "logits")
            for ranks in (2,) if SHORT else (1, 3):
                for words in ([], ["--hash"], ["--logits", path], ["--logits", path, "--hash"]):
                    got = self.json(ranks, "score", "--model", LLAMA, "--ids", ids, *words)
                    hashes.add(got.pop("logits_hash"))
                    seen.add(json.dumps(got))
                    if path in words:
                        with open(path, "rb") as f:
                            last = f.read()
                        self.assertEqual(len(last), 4000)
                        seen.add(last)
        self.assertEqual(len(seen), 2)
        self.assertEqual(len(hashes), 2)
        self.assertIn(None, hashes)

    def test_what_a_score_cannot_know_is_not_a_number(self):
        """Nothing is predicted of a text's first token; without a tokenizer ids have no bytes."""
        alone = self.json(1, "score", "--ids", "5")
        self.assertEqual((alone["tokens"], alone["logprobs"]), (0, []))
        self.assertEqual((alone["mean_nll"], alone["perplexity"], alone["bits_per_byte"]), (None,) * 3)
        self.assertNotIn(b"perplexity", launch(1, "score", "--ids", "5").stdout)
        with tempfile.TemporaryDirectory() as model:
            for name in ("config.json", "model.safetensors"):
                os.symlink(os.path.join(QWEN, name), os.path.join(model, name))
            bare = self.json(1, "score", "--model", model, "--ids", "5,6")
        self.assertIsNone(bare["bits_per_byte"])
        self.assertGreater(bare["perplexity"], 1)


class TestGeneration(Base):
    def test_a_seed_gives_the_same_text_at_every_world_size(self):
        for extra in (["--top-k", "40"], ["--top-p", "0.9"], ["--min-p", "0.05"],
                      ["--repetition-penalty", "1.2", "--presence-penalty", "0.5"]):
            texts = {json.dumps(self.json(n, "generate", "--prompt", "And he said", "--seed", "11",
                                          "--temperature", "0.9", "--max-tokens", "24", *extra)["ids"])
                     for n in ((2,) if SHORT else (1, 2, 3))}
            self.assertEqual(len(texts), 1, extra)
        other = self.json(1, "generate", "--prompt", "And he said", "--seed", "12", "--temperature",
                          "0.9", "--max-tokens", "24")
        self.assertNotIn(json.dumps(other["ids"]), texts)

    def test_a_forgotten_temperature_is_mentioned(self):
        for words, warns in ((["--top-p", "0.9"], True), (["--top-k", "5", "--temperature", "0"], True),
                             (["--min-p", "0.1", "--temperature", "1"], False), ([], False)):
            done = launch(1, "generate", "--prompt", "x", "--max-tokens", "1", *words)
            self.assertEqual(done.returncode, 0)
            self.assertEqual(b"does nothing at temperature 0" in done.stderr, warns, words)

    def test_the_stream_is_the_text(self):
        args = ["generate", "--prompt", "In the beginning", "--max-tokens", "20"]
        text = self.json(1, *args)["text"]
        self.assertEqual(launch(1, *args).stdout.decode(), text + "\n")
        under_mpirun = launch(2, *args).stdout.decode().replace("\r\n", "\n")
        self.assertEqual(under_mpirun, text + "\n")

    def test_stdout_has_the_text_alone(self):
        args = ["generate", "--prompt", "In the beginning", "--max-tokens", "5"]
        for ranks in (1, 2):
            seen = set()
            for words, wanted in (([], rb"^lockstep: loaded \S+: [\d.]+ MB on %d rank%s in [\d.]+ s\n$"
                                   % (ranks, b"s" if ranks > 1 else b"")),
                                  (["--log-level", "warn"], rb"^$"),
                                  (["--progress", "always"], rb"^[^\n]*\r\x1b\[K$"),
                                  (["--stats"], rb"prefill .* 4 tokens .*\ndecode .* 4 tokens .*\nfinish   length")):
                done = launch(ranks, *args, *words)
                self.assertRegex(done.stderr, wanted)
                seen.add(done.stdout.replace(b"\r\n", b"\n"))
            self.assertEqual(seen, {b" of the first month,\n"})

    def test_stop_strings_cross_token_borders(self):
        got = self.json(1, "generate", "--prompt", "In the beginning", "--max-tokens", "30", "--stop",
                        "zzz", "--stop", "rst mon")
        self.assertEqual(got["text"], " of the fi")
        self.assertEqual(got["finish_reason"], "stop")

    def test_prompt_sources_agree(self):
        want = self.json(1, "generate", "--prompt", "In the beginning", "--max-tokens", "5")
        with tempfile.NamedTemporaryFile() as f:
            f.write(b"In the beginning")
            f.flush()
            for args, stdin in ((["--prompt-file", f.name], None), (["-"], b"In the beginning"),
                                (["--ids", joined(want["prompt_ids"])], None)):
                got = self.json(2, "generate", *args, "--max-tokens", "5", input=stdin)
                self.assertEqual(got["ids"], want["ids"])
                self.assertEqual(got["text"], want["text"])

    def test_fills_the_context_and_stops(self):
        got = self.json(2, "generate", "--prompt", "In the beginning", "--ctx", "70", "--max-tokens", "0",
                        "--ignore-eos")
        self.assertEqual(len(got["prompt_ids"]) + len(got["ids"]), 71)
        self.assertEqual(got["finish_reason"], "length")

    def test_chat(self):
        got = self.json(2, "generate", "--model", QWEN, "--chat", "--system", "Be brief.", "--prompt",
                        "Hi", "--no-thinking", "--max-tokens", "3")
        text = launch(1, "tokenize", "--model", QWEN, "--decode", joined(got["prompt_ids"]),
                      "--json").stdout
        self.assertEqual(json.loads(text)["text"],
                         "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
                         "<|im_start|>assistant\n<think>\n\n</think>\n\n")


class TestBadInput(Base):
    def test_usage(self):
        for words, args in (
                ("--prompt TEXT", []),
                ("only one", ["--prompt", "x", "--ids", "1"]),
                ("did you mean --max-tokens", ["--prompt", "x", "--max-token", "3"]),
                ("--max-tokens", ["--prompt", "x", "--max-tokens", "many"]),
                ("--temperature", ["--prompt", "x", "--temperature", "-1"]),
                ("--top-p", ["--prompt", "x", "--top-p", "2"]),
                ("--ids", ["--ids", "1,x"]),
                ("empty", ["--ids", ""]),
                ("--chat", ["--ids", "1", "--chat"]),
                ("--system", ["--prompt", "x", "--system", "y"]),
                ("stop string", ["--prompt", "x", "--stop", ""]),
                ("unexpected", ["--prompt", "x", "more"]),
                ("empty", ["--prompt", ""]),
                ("UTF-8", ["--prompt", b"\xff\xfe"]),
                ("vocabulary", ["--ids", "1,2,99999"]),
                ("--ctx", ["--prompt", "x", "--ctx", "100000"]),
                (["context", "--ctx"], ["--prompt", "In the beginning God created", "--ctx", "4"]),
                ("no-such-dir", ["--prompt", "x", "--model", "/no-such-dir"]),
                ("no-such-file", ["--prompt-file", "/no-such-file"]),
                ("kjv-qwen3-3m: this checkpoint has no chat template", ["--chat", "--prompt", "x"])):
            both = not SHORT and words in ("--prompt TEXT", "--top-p", "empty", "--ctx", "no-such-dir")
            for ranks in (1, 2) if both else (1,):
                with self.subTest(args=args, ranks=ranks):
                    self.refuse(ranks, 2, words, "generate", *args)

    def test_logits_that_cannot_be_written(self):
        for path, why in (("/no-such-dir/logits", "No such file"), ("/dev/full", "No space left")):
            done = launch(1, "score", "--text", "a", "--hash", "--logits", path)
            lines = [l for l in ours(done) if "loaded" not in l]
            self.assertEqual((done.returncode, len(lines), done.stdout), (2, 1, b""), done.stderr)
            self.assertIn(f"lockstep: io: --logits: {path}: {why}", lines[0])
            self.assertEqual(b"loaded" in done.stderr, path == "/dev/full")  # a typo costs no load

    def test_more_ranks_than_heads_says_the_largest(self):
        self.refuse(5, 2, ["5 ranks", "4"], "generate", "--model", LLAMA, "--prompt", "x")

    def test_device_cuda_says_why_not(self):
        self.refuse(1, 3, "cuda", "generate", "--prompt", "x", "--device", "cuda")


class TestInterrupt(Base):
    def test_ctrl_c_ends_at_once_and_cleanly(self):
        for ranks in (1, 2):
            prefix = [MPIEXEC, "-n", str(ranks)] if ranks > 1 else []
            p = subprocess.Popen(prefix + [LOCKSTEP, "generate", "--prompt", "In the", "--ignore-eos",
                                           "--max-tokens", "0", "--temperature", "1", "--ctx", "1024",
                                           "--isa", "generic"],
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            p.stdout.read(10)  # it is generating
            start = time.monotonic()
            p.send_signal(signal.SIGINT)
            _, err = p.communicate(timeout=20)
            self.assertLess(time.monotonic() - start, 6)
            self.assertNotEqual(p.returncode, 0)
            if ranks == 1:
                self.assertEqual(p.returncode, 130, err)
                self.assertIn(b"interrupted", err)


if __name__ == "__main__":
    MPIEXEC = sys.argv.pop()
    LOCKSTEP = os.path.abspath(sys.argv.pop())
    unittest.main(verbosity=2)
