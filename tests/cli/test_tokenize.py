#!/usr/bin/env python3
"""lockstep tokenize: its inputs, outputs and usage errors. What the ids are, tests/text checks.

    test_tokenize.py LOCKSTEP
"""
import json
import os
import subprocess
import sys
import tempfile
import time
import unittest

DATA = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "data")
QWEN3 = os.path.join(DATA, "tiny-qwen3")
LLAMA = os.path.join(DATA, "tiny-llama")
LOCKSTEP = "lockstep"


def run(*args, stdin=b""):
    return subprocess.run([LOCKSTEP, "tokenize", *args], input=stdin, capture_output=True,
                          timeout=30)


class Tokenize(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.TemporaryDirectory()
        self.addCleanup(self.dir.cleanup)

    def write(self, name, content):
        path = os.path.join(self.dir.name, name)
        with open(path, "w", encoding="utf-8") as f:
            f.write(content if isinstance(content, str) else json.dumps(content))
        return path

    def ids(self, *args, stdin=b""):
        r = run(*args, stdin=stdin)
        self.assertEqual((r.returncode, r.stderr), (0, b""))
        self.assertTrue(r.stdout.endswith(b"\n"))
        return [int(x) for x in r.stdout.split()]

    def refused(self, *args, names, stdin=b""):
        r = run(*args, stdin=stdin)
        self.assertEqual((r.returncode, r.stdout), (2, b""))
        self.assertEqual(r.stderr.count(b"\n"), 1, r.stderr)
        self.assertIn(names, r.stderr.decode())

    def test_text_file_and_stdin(self):
        with open(os.path.join(DATA, "tokenizer", "tokenizer_tiny-llama.jsonl"),
                  encoding="utf-8") as f:
            cases = [json.loads(line) for line in f][::40]
        for case in cases:
            text = case["text"]
            want = case["ids_with_special"]
            self.assertEqual(self.ids("-m", LLAMA, "--file", "-", stdin=text.encode()), want)
            if "\0" not in text:
                self.assertEqual(self.ids("-m", LLAMA, "--text", text), want)
                self.assertEqual(self.ids("-m", LLAMA, "--no-special", "--text", text),
                                 case["ids"])
        path = self.write("text", cases[-1]["text"])
        self.assertEqual(self.ids("-m", LLAMA, "--file", path), cases[-1]["ids_with_special"])

    def test_json(self):
        r = run("-m", LLAMA, "--text", "Hello", "--json")
        self.assertEqual(json.loads(r.stdout), {"ids": self.ids("-m", LLAMA, "--text", "Hello")})

    def test_chat(self):
        path = self.write("chat.json", [{"role": "system", "content": "S"},
                                        {"role": "user", "content": "Hi"}])
        tools = self.write("tools.json", [{"name": "f"}])
        r = json.loads(run("-m", QWEN3, "--chat", path, "--json").stdout)
        self.assertEqual(r["text"], "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nHi<|im_end|>"
                                    "\n<|im_start|>assistant\n")
        self.assertEqual(self.ids("-m", QWEN3, "--chat", path), r["ids"])
        self.assertEqual(self.ids("-m", QWEN3, "--text", r["text"]), r["ids"])
        with open(path, "rb") as f:
            self.assertEqual(self.ids("-m", QWEN3, "--chat", "-", stdin=f.read()), r["ids"])
        quiet = json.loads(run("-m", QWEN3, "--chat", path, "--no-thinking", "--json").stdout)
        self.assertEqual(quiet["text"], r["text"] + "<think>\n\n</think>\n\n")
        bare = json.loads(run("-m", QWEN3, "--chat", path, "--no-generation-prompt",
                              "--json").stdout)
        self.assertEqual(bare["text"], r["text"][:-len("<|im_start|>assistant\n")])
        tooled = json.loads(run("-m", QWEN3, "--chat", path, "--tools", tools, "--json").stdout)
        self.assertIn('<tools>\n{"name": "f"}\n</tools>', tooled["text"])
        # the template writes the BOS; the tokenizer must not write a second one
        llama = json.loads(run("-m", LLAMA, "--chat", path, "--json").stdout)
        self.assertEqual(llama["ids"].count(995), 1)
        self.assertEqual(llama["ids"][0], 995)

    def test_decode(self):
        text = "naïve 你好 👋 x"
        ids = self.ids("-m", LLAMA, "--text", text)
        joined = ",".join(map(str, ids))
        self.assertEqual(run("-m", LLAMA, "--decode", joined).stdout.decode(),
                         "<|begin_of_text|>" + text + "\n")
        self.assertEqual(run("-m", LLAMA, "--no-special", "--decode", joined).stdout.decode(),
                         text + "\n")
        r = json.loads(run("-m", LLAMA, "--no-special", "--json", "--decode", joined).stdout)
        self.assertEqual(r, {"ids": ids, "text": text})
        self.assertEqual(run("-m", LLAMA, "--decode", "").stdout, b"\n")
        # half a character: its bytes as they are, or U+FFFD where the output must be JSON
        half = self.ids("-m", LLAMA, "--no-special", "--text", "𐀀")[:1]
        raw = run("-m", LLAMA, "--decode", str(half[0])).stdout
        self.assertRaises(UnicodeDecodeError, raw.decode)
        r = json.loads(run("-m", LLAMA, "--json", "--decode", str(half[0])).stdout)
        self.assertEqual(r["text"], "\ufffd")

    @unittest.skipIf(os.environ.get("LOCKSTEP_TEST_SHORT"), "sanitizers are slow")
    def test_a_megabyte_takes_no_second(self):
        with open(os.path.join(DATA, "../../ARCHITECTURE.md"), encoding="utf-8") as f:
            text = f.read()
        path = self.write("text", (text * (1_000_000 // len(text) + 1))[:1_000_000])
        seconds = []
        for _ in range(3):
            start = time.monotonic()
            self.assertGreater(len(self.ids("--file", path)), 200_000)
            seconds.append(time.monotonic() - start)
        self.assertLess(min(seconds), 1)

    def test_demo_model_is_the_default(self):
        self.assertEqual(len(self.ids("--text", "And it came to pass")), 5)

    def test_refusals(self):
        self.refused(names="--text, --file, --chat and --decode")
        self.refused("--text", "x", "--file", "y", names="more than one input")
        self.refused("--text", "x", "--tools", "y", names="--tools goes with --chat")
        self.refused("--text", "x", "--no-thinking", names="--no-thinking goes with --chat")
        self.refused("--text", "x", "--model", self.dir.name, names="tokenizer.json")
        self.refused("-m", QWEN3, "--decode", "1,x", names="--decode")
        for form in ((), ("--json",)):
            self.refused("-m", QWEN3, "--decode", "1016", *form, names="--decode: token id 1016")
            self.refused("-m", QWEN3, "--decode=-1", *form, names="--decode: token id -1")
        self.refused("-m", QWEN3, "--file", "/nonexistent", names="/nonexistent")
        self.refused("-m", QWEN3, "--file", self.dir.name, names="not a regular file")
        self.refused("-m", QWEN3, "--file", "-", stdin=b"ab\xff", names="offset 2")
        self.refused("-m", QWEN3, "--chat", "-", stdin=b"[{", names="line 1")
        self.refused("-m", QWEN3, "--chat", "-", stdin=b'[{"role": "user"}]',
                     names="messages[0].content")
        self.refused("-m", LLAMA, "--chat", "-", "--tools", self.write("t", [{}]),
                     stdin=b'[{"role": "user", "content": "x"}]', names="tools")
        self.refused("--chat", "-", stdin=b'[{"role": "user", "content": "x"}]',
                     names="kjv-qwen3-3m: this checkpoint has no chat template")
        strange = self.write("tokenizer_config.json", {"chat_template": "{{ messages }}"})
        os.symlink(os.path.join(QWEN3, "tokenizer.json"), self.dir.name + "/tokenizer.json")
        self.refused("--model", self.dir.name, "--chat", "-",
                     stdin=b'[{"role": "user", "content": "x"}]',
                     names=os.path.dirname(strange) + ": chat_template: not one of those known")


if __name__ == "__main__":
    LOCKSTEP = sys.argv.pop(1)
    unittest.main()
