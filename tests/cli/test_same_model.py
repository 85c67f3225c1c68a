#!/usr/bin/env python3
"""Ranks that see other files: found when the model is loaded, by its name, on every way to load one.

Rank 0 starts in one directory and rank 1 in another, each with a model of its own called "m".

    test_same_model.py LOCKSTEP MPIRUN
"""
import http.client
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import unittest

TINY = os.path.join(os.environ["LOCKSTEP_TEST_DATA"], "tiny-qwen3")
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
NORM = "model.layers.1.input_layernorm.weight"
QUIET = ("--isa", "generic", "--threads", "1")
LOCKSTEP = MPIRUN = None


def read_weights(path):
    with open(path, "rb") as f:
        size = struct.unpack("<Q", f.read(8))[0]
        return json.loads(f.read(size)), f.read()


def write_weights(path, header, data):
    text = json.dumps(header).encode()
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + data)


def flip(path, tensor, at):
    """Changes the lowest bit of a byte of a tensor; `at` counts from its end where it is below 0."""
    header, data = read_weights(path)
    begin, end = header[tensor]["data_offsets"]
    with open(path, "r+b") as f:
        f.seek(os.path.getsize(path) - len(data) + (begin if at >= 0 else end) + at)
        byte = f.read(1)[0]
        f.seek(-1, os.SEEK_CUR)
        f.write(bytes([byte ^ 1]))


def part_of(header, data, names):
    out, at = {}, 0
    pieces = []
    for name in names:
        begin, end = header[name]["data_offsets"]
        out[name] = {**header[name], "data_offsets": [at, at + end - begin]}
        pieces.append(data[begin:end])
        at += end - begin
    return out, b"".join(pieces)


def shard(folder):
    """Two files and an index, in the place of the one file."""
    header, data = read_weights(os.path.join(folder, WEIGHTS))
    header.pop("__metadata__", None)
    names, where = sorted(header), {}
    for i, part in enumerate((names[:20], names[20:]), 1):
        file = f"model-0000{i}-of-00002.safetensors"
        write_weights(os.path.join(folder, file), *part_of(header, data, part))
        where.update(dict.fromkeys(part, file))
    os.unlink(os.path.join(folder, WEIGHTS))
    with open(os.path.join(folder, INDEX), "w", encoding="utf-8") as f:
        json.dump({"weight_map": where}, f)


class Case(unittest.TestCase):
    def setUp(self):
        self.root = self.enterContext(tempfile.TemporaryDirectory())
        for side in ("here", "there"):
            shutil.copytree(TINY, self.path(side))

    def path(self, side, *names):
        return os.path.join(self.root, side, "m", *names)

    def command(self, *words, ranks=(1, 1)):
        out = [MPIRUN]
        for i, (n, side) in enumerate(zip(ranks, ("here", "there"))):
            out += [":"] * (i > 0) + ["-np", str(n), "--wdir", os.path.join(self.root, side), LOCKSTEP, *words]
        return out

    def generate(self, *more, ranks=(1, 1)):
        return subprocess.run(self.command("generate", "--model", "m", "--ids", "1,2,3", "--max-tokens", "2", *QUIET,
                                           *more, ranks=ranks), stdin=subprocess.DEVNULL, capture_output=True,
                              text=True, timeout=60, check=False)

    def refuse(self, what, rank=1, ranks=(1, 1)):
        """One line that has the rank, the part, and what each rank has of it."""
        done = self.generate(ranks=ranks)
        said = [l for l in done.stderr.splitlines() if l.startswith("lockstep")]
        self.assertEqual((done.returncode, len(said)), (3, 1), done.stderr)
        self.assertRegex(said[0], rf"^lockstep: rank {rank} \([\w.-]+, host\): rank_mismatch: load: m: {re.escape(what)} "
                                  r"is not the same on all ranks: ranks? 0.* \([\w.-]+\): [0-9a-f]{16}; "
                                  r"ranks? .* \([\w.-]+\): [0-9a-f]{16}$")

    def edit_config(self, side, **fields):
        with open(self.path(side, "config.json"), encoding="utf-8") as f:
            config = json.load(f)
        with open(self.path(side, "config.json"), "w", encoding="utf-8") as f:
            json.dump({**config, **fields}, f)


class TestGenerate(Case):
    def test_copies_do(self):
        """Of which what only rank 0 reads may differ, and what nobody does."""
        self.edit_config("there", transformers_version="0")
        for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
            os.unlink(self.path("there", name))
        done = self.generate()
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_config(self):
        self.edit_config("there", rms_norm_eps=1e-5)
        self.refuse("config.json")

    def test_header(self):
        """The same tensors in another order."""
        header, data = read_weights(self.path("there", WEIGHTS))
        header.pop("__metadata__", None)
        write_weights(self.path("there", WEIGHTS), *part_of(header, data, sorted(header, reverse=True)))
        self.refuse(f"the header of {WEIGHTS}")

    def test_content(self):
        flip(self.path("there", WEIGHTS), NORM, 0)
        self.refuse(f"the content of {WEIGHTS}")

    def test_shards(self):
        """Which of the files it is; and of three ranks the odd one is named, even where it is rank 0."""
        shard(self.path("here"))
        shutil.rmtree(self.path("there"))
        shutil.copytree(self.path("here"), self.path("there"))
        flip(self.path("here", "model-00002-of-00002.safetensors"), "model.norm.weight", -1)
        self.refuse("the content of model-00002-of-00002.safetensors", rank=0, ranks=(1, 2))
        os.rename(self.path("there", "model-00002-of-00002.safetensors"), self.path("there", "b.safetensors"))
        with open(self.path("there", INDEX), encoding="utf-8") as f:
            index = f.read()
        with open(self.path("there", INDEX), "w", encoding="utf-8") as f:
            f.write(index.replace("model-00002-of-00002.safetensors", "b.safetensors"))
        self.refuse("the header of model-00001-of-00002.safetensors", rank=0, ranks=(1, 2))

    def test_a_file_more(self):
        """One that sorts last: each of the files that rank 0 has is the same everywhere."""
        shard(self.path("here"))
        shutil.rmtree(self.path("there"))
        shutil.copytree(self.path("here"), self.path("there"))
        write_weights(self.path("there", "z.safetensors"),
                      {"more.weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, bytes(4))
        with open(self.path("there", INDEX), encoding="utf-8") as f:
            index = json.load(f)
        index["weight_map"]["more.weight"] = "z.safetensors"
        with open(self.path("there", INDEX), "w", encoding="utf-8") as f:
            json.dump(index, f)
        self.refuse("the list of the weights' files")


class TestServe(Case):
    def ask(self, method, path, body=None):
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        c.request(method, path, json.dumps(body) if body else None)
        r = c.getresponse()
        found = r.status, json.loads(r.read())
        c.close()
        return found

    def start(self):
        port_file = os.path.join(self.root, "port")
        self.log = self.enterContext(open(os.path.join(self.root, "log"), "w+", encoding="utf-8"))
        self.server = subprocess.Popen(
            self.command("serve", "--model", "m", "--port", "0", "--port-file", port_file, *QUIET),
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=self.log)
        self.addCleanup(self.end)
        deadline = time.monotonic() + 60
        while not os.path.exists(port_file) or os.path.getsize(port_file) == 0:
            assert time.monotonic() < deadline and self.server.poll() is None
            time.sleep(0.02)
        with open(port_file, encoding="utf-8") as f:
            self.port = int(f.read().rpartition(":")[2])
        while self.ask("GET", "/health")[0] != 200:
            assert time.monotonic() < deadline and self.server.poll() is None
            time.sleep(0.02)

    def end(self):
        if self.server.poll() is None:
            self.server.send_signal(signal.SIGTERM)
        self.server.wait(timeout=30)

    def test_a_load_that_is_refused_leaves_the_server_up(self):
        self.start()
        self.assertEqual(self.ask("POST", "/v1/admin/unload")[0], 200)
        flip(self.path("there", WEIGHTS), NORM, 0)
        status, got = self.ask("POST", "/v1/admin/load")
        self.assertEqual((status, got["error"]["type"], got["error"]["rank"]), (503, "rank_mismatch", 1), got)
        self.assertIn(f"the content of {WEIGHTS} is not the same on all ranks: rank 0 ", got["error"]["message"])
        status, health = self.ask("GET", "/health")
        self.assertEqual((status, health["status"]), (503, "unloaded"))
        flip(self.path("there", WEIGHTS), NORM, 0)
        self.assertEqual(self.ask("POST", "/v1/admin/load")[0], 200)
        status, got = self.ask("POST", "/v1/completions", {"model": "m", "prompt": "In", "max_tokens": 2})
        self.assertEqual(status, 200, got)


if __name__ == "__main__":
    LOCKSTEP, MPIRUN = os.path.abspath(sys.argv[1]), sys.argv[2]
    unittest.main(argv=sys.argv[:1], verbosity=2)
