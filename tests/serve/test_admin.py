#!/usr/bin/env python3
"""`lockstep serve` as its administrator sees it: models come and go, and every way to end it.

    test_admin.py LOCKSTEP MPIRUN
"""
import concurrent.futures
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
import unittest

import test_server
from test_server import SLOW, Server, completion, ranks_of

TINY = os.path.join(os.environ["LOCKSTEP_TEST_DATA"], "tiny-qwen3")
# A reason that names them is cut, one of them in the middle of a character.
BAD = ["bad" + "é" * 60, "bad+" + "é" * 60]
CYCLES = 3 if os.environ.get("LOCKSTEP_TEST_SHORT") else 10
SANITIZED = "LOCKSTEP_TEST_SHORT" in os.environ or "TSAN_OPTIONS" in os.environ  # then memory is theirs
LONG = {"tokens": 900, "ignore_eos": True, "stream": True}


class Stream(threading.Thread):
    """A stream that is read in the background, to its end."""

    def __init__(self, server, **more):
        super().__init__(daemon=True)
        self.server, self.body, self.text, self.status = server, completion(**{**LONG, **more}), "", None
        self.begun = threading.Event()
        self.start()

    def run(self):
        c = self.server.connect()
        c.request("POST", "/v1/completions", json.dumps(self.body))
        r = c.getresponse()
        self.status = r.status
        try:
            while data := r.read1():
                self.text += data.decode()
                self.begun.set()
        except OSError as e:
            self.text += f"({e})"
        self.ended = time.monotonic()
        self.begun.set()
        c.close()

    def events(self):
        """What came, as objects, but [DONE], which is only told of."""
        self.join(60)
        assert not self.is_alive(), "the stream does not end"
        events = [e for e in self.text.split("\n\n") if e and not e.startswith(":")]
        assert all(e.startswith("data: ") for e in events), self.text
        done = bool(events) and events[-1] == "data: [DONE]"
        return [json.loads(e[6:]) for e in events[:-1 if done else None]], done


def begin(server, n=1, **more):
    streams = [Stream(server, **more) for _ in range(n)]
    for s in streams:
        assert s.begun.wait(60), "no first token"
    return streams


def is_running(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as f:
            return f.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


class Models(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        root = os.path.join(cls.folder.name, "root")
        os.makedirs(os.path.join(root, "some"))
        shutil.copytree(TINY, os.path.join(root, "some", "tiny"))
        shutil.copytree(TINY, os.path.join(cls.folder.name, "outside"))
        os.symlink("../outside", os.path.join(root, "link"))
        os.symlink("loop", os.path.join(root, "loop"))
        for name in BAD:
            weights = os.path.join(shutil.copytree(TINY, os.path.join(root, name)), "model.safetensors")
            os.truncate(weights, os.path.getsize(weights) - 100)
        cls.server = Server("--model-root", root, "--ctx", "1024", *SLOW)

    @classmethod
    def tearDownClass(cls):
        code, said = cls.server.stop()
        cls.folder.cleanup()
        assert code == 0, said

    def post(self, what, body=None):
        return self.server.ask("POST", "/v1/admin/" + what, body)

    def setUp(self):
        """Every test finds the first model loaded."""
        if self.server.ask("GET", "/health")[1]["status"] == "unloaded":
            self.assertEqual(self.post("load")[0], 200)

    def test_cycles(self):
        """Load and unload leave nothing behind, and change no answer."""
        first = self.server.ask("POST", "/v1/completions", completion())[1]["choices"]
        resident = []
        for _ in range(CYCLES):
            status, got = self.post("unload")
            self.assertEqual((status, got["status"], len(got["ranks"])), (200, "unloaded", 2))
            for r in got["ranks"]:
                self.assertGreater(r["bytes_freed"], 2e6)
                if not SANITIZED:
                    self.assertLess(abs(r["resident"] - r["resident_before_load"]),
                                    0.05 * r["resident_before_load"], got)
            resident.append([r["resident"] for r in got["ranks"]])
            status, health = self.server.ask("GET", "/health")
            self.assertEqual((status, health["status"]), (503, "unloaded"))
            self.assertEqual(self.server.ask("GET", "/v1/models")[1]["data"], [])
            status, got = self.server.ask("POST", "/v1/completions", completion())
            self.assertEqual((status, got["error"]["code"]), (503, "unloaded"))
            status, got = self.post("load", {"model": "some/tiny"})
            self.assertEqual((status, got["model"], got["ctx"]), (200, "some/tiny", 512), got)
            self.assertEqual(self.server.metric("generation_tokens_total"), 0)  # counted by model
            self.assertEqual(self.server.ask("GET", "/v1/models")[1]["data"][0]["id"], "some/tiny")
            status, got = self.server.ask("POST", "/v1/completions", completion(ignore_eos=True))
            self.assertEqual((status, got["usage"]["completion_tokens"]), (200, 24))
            self.assertEqual(self.post("unload")[0], 200)
            self.assertEqual(self.post("load")[0], 200)
            again = self.server.ask("POST", "/v1/completions", completion())[1]["choices"]
            self.assertEqual(again, first)
        if not SANITIZED:
            for rank in (0, 1):
                self.assertLess(resident[-1][rank], 1.05 * resident[0][rank], resident)
        self.server.wait_for("generation_tokens_total", 24)

    def test_refusals(self):
        loads = [({"model": ""}, 400, "must be a string"), ({"model": "some/tiny\0x"}, 400, "an object"), ({"model": 7}, 400, "must be a string"),
                 ({"modle": "x"}, 400, "no field 'modle' here, but 'model', 'kv_dtype' and 'quant'"),
                 ({"quant": "q5_0"}, 400, "quant must be 'none', 'q8_0' or 'q4_0'"), ({"quant": None}, 400, "must be 'none'"),
                 ({"kv_dtype": "f16"}, 400, "must be 'auto', 'f32' or 'bf16'"), ({"kv_dtype": 1}, 400, "must be 'auto'"),
                 ([], 400, "an object"), ("{", 400, "an object"),
                 ({"model": "some/tiny"}, 409, "unload it first")]
        for body, status, words in loads:
            got = self.post("load", body)
            self.assertEqual(got[0], status, (body, got))
            self.assertIn(words, got[1]["error"]["message"])
        for timeout in (-1, "x", 1e9):
            got = self.post("unload", {"timeout": timeout})
            self.assertEqual((got[0], got[1]["error"]["param"]), (400, "timeout"))
        self.assertEqual(self.server.ask("GET", "/v1/admin/load")[0], 405)
        self.assertEqual(self.post("unload")[0], 200)
        self.assertEqual(self.post("unload")[0], 409)
        for name in ("none", "../outside", "link", "loop", "some/../../outside", "%2e%2e/outside", "some/tiny/..%2f..",
                     "./.", "..", ".", "/etc", "/proc/self/root/etc", TINY, "a" * 5000, "a/" * 2040):
            got = self.post("load", {"model": name})
            self.assertEqual((got[0], got[1]["error"]["code"]), (404, "model_not_found"), (name, got))
        # A load that fails leaves the server unloaded, with the reason, and the next one works.
        for name in BAD:
            status, got = self.post("load", {"model": name})
            self.assertEqual((status, got["error"]["type"]), (400, "st_truncated"), got)
            status, health = self.server.ask("GET", "/health")
            self.assertEqual((status, health["status"]), (503, "unloaded"))
            self.assertIn("last load failed: rank 0: load: ", health["reason"])
            errors = self.server.ask("GET", "/ranks")[1]["errors"]
            self.assertEqual(errors[-1]["message"][:120], got["error"]["message"][:120])
        self.assertEqual(self.post("load")[0], 200)
        self.assertEqual(self.server.ask("GET", "/health")[0], 200)

    def test_unload_lets_streams_finish(self):
        [stream] = begin(self.server, tokens=60)
        self.assertEqual(self.post("unload")[0], 200)
        events, done = stream.events()
        self.assertTrue(done)
        self.assertEqual(events[-1]["choices"][0]["finish_reason"], "length")

    def test_unload_has_a_deadline(self):
        streams = begin(self.server, 3)
        whole = Stream(self.server, stream=False)
        self.server.wait_for("num_requests_running", 4)
        status, got = self.post("unload", {"timeout": 0.1})
        self.assertEqual(status, 200, got)
        for s in streams:
            events, done = s.events()
            self.assertFalse(done)
            self.assertEqual(events[-2]["choices"][0]["finish_reason"], "abort")
            self.assertIn("was unloaded before", events[-1]["error"]["message"])
        whole.join(30)
        self.assertEqual(whole.status, 503)
        self.server.wait_for("num_requests_running", 0)


class KvMemory(unittest.TestCase):
    def test_requests_wait_for_room(self):
        """Room for one whole context: eight places in the batch, but one at a time in them."""
        server = Server("--ctx", "256", "--kv-memory", "1M", *SLOW)
        self.assertIn("KV cache of 320 positions", server.said())
        want = server.ask("POST", "/v1/completions", completion(tokens=200))[1]["choices"][0]["text"]
        streams = begin(server, 1, tokens=200) + [Stream(server, tokens=200) for _ in range(2)]
        server.wait_for("num_requests_waiting", 2)
        self.assertEqual(server.metric("num_requests_running"), 1)
        for s in streams:
            events, done = s.events()
            self.assertTrue(done)
            self.assertEqual("".join(e["choices"][0]["text"] for e in events), want)
        code, said = server.stop()
        self.assertEqual(code, 0, said)

    def test_half_as_large_in_bf16(self):
        """Twice the positions in the same memory: as the option says, and as a load does."""
        server = Server("--ctx", "256", "--kv-memory", "1M", "--kv-dtype", "bf16", *SLOW)
        self.assertIn("KV cache of 640 positions in bf16", server.said())
        in_bf16 = server.ask("POST", "/v1/completions", completion(tokens=8))[1]["choices"]
        for body, kv, positions in (({"kv_dtype": "f32"}, "f32", 320), (None, "bf16", 640),
                                    ({"kv_dtype": "auto"}, "f32", 320), ({"kv_dtype": "bf16"}, "bf16", 640)):
            status, got = server.ask("POST", "/v1/admin/unload")
            self.assertEqual(status, 200, got)
            status, got = server.ask("POST", "/v1/admin/load", body)
            self.assertEqual((status, got["kv_dtype"], got["kv_positions"]), (200, kv, positions), got)
            deadline = time.monotonic() + 5  # it may follow the reply by a moment
            while server.ask("GET", "/ranks")[1]["kv_blocks_total"] != positions // 64:
                self.assertLess(time.monotonic(), deadline)
        self.assertEqual(server.ask("POST", "/v1/completions", completion(tokens=8))[1]["choices"], in_bf16)
        code, said = server.stop()
        self.assertEqual(code, 0, said)

    def test_other_weights(self):
        """A load may quantize, and the next be as the option says."""
        server = Server("--quant", "q8_0", *SLOW)
        def answer():
            return server.ask("POST", "/v1/completions", completion(tokens=1, logprobs=1))[1]["choices"]
        seen = {"q8_0": answer()}
        for body, quant in (({"quant": "none"}, "none"), ({"quant": "q4_0"}, "q4_0"), (None, "q8_0")):
            self.assertEqual(server.ask("POST", "/v1/admin/unload")[0], 200)
            status, got = server.ask("POST", "/v1/admin/load", body)
            self.assertEqual((status, got["quant"]), (200, quant), got)
            now = answer()
            self.assertEqual(now == seen.get(quant), quant == "q8_0")  # other numbers, or the same once more
            seen[quant] = now
        self.assertNotEqual(seen["none"], seen["q4_0"])
        code, said = server.stop()
        self.assertEqual(code, 0, said)

    def test_too_little(self):
        server = Server("--kv-memory", "100K", wait=False)
        self.assertEqual(server.process.wait(30), 2)
        code, said = server.stop()
        self.assertIn("--kv-memory: 100.0 KiB a rank does not hold one context of 1024", said)


class Ends(unittest.TestCase):
    def test_usr1_to_mpirun_drains(self):
        server = Server(*SLOW)
        [stream] = begin(server, tokens=80)
        server.process.send_signal(signal.SIGUSR1)
        events, done = stream.events()
        self.assertTrue(done)
        self.assertEqual(len(events), 81)
        self.assertEqual(server.process.wait(30), 0, server.said())
        server.stop()

    def test_term_to_mpirun_ends_every_stream(self):
        server = Server(*SLOW, "--max-batch", "2")
        streams = begin(server, 2) + [Stream(server)]
        server.wait_for("num_requests_waiting", 1)
        pids = ranks_of(server.process.pid)
        start = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        for s in streams:
            events, done = s.events()
            self.assertFalse(done)
            self.assertIn("the launcher is ending the job", events[-1]["error"]["message"])
            self.assertLess(s.ended - start, 3)
        self.assertEqual(server.process.wait(30), 1, server.said())
        for pid in pids.values():
            while is_running(pid):
                self.assertLess(time.monotonic() - start, 20)
                time.sleep(0.02)
        server.stop()

    def test_shutdown_over_http(self):
        server = Server(*SLOW)
        [stream] = begin(server, tokens=80)
        self.assertEqual(server.ask("POST", "/v1/admin/shutdown"), (202, {"status": "draining"}))
        status, got = server.ask("POST", "/v1/completions", completion())
        self.assertEqual((status, got["error"]["code"]), (503, "draining"))
        self.assertEqual(server.ask("POST", "/v1/admin/load")[0], 503)
        self.assertTrue(stream.events()[1])
        self.assertEqual(server.process.wait(30), 0, server.said())
        server.stop()

    def test_drain_has_a_deadline(self):
        server = Server(*SLOW, "--drain-timeout", "0.5")
        [stream] = begin(server)
        os.kill(server.leader(), signal.SIGTERM)
        events, done = stream.events()
        self.assertFalse(done)
        self.assertEqual(events[-2]["choices"][0]["finish_reason"], "abort")
        self.assertIn("shut down before", events[-1]["error"]["message"])
        self.assertEqual(server.process.wait(30), 0, server.said())
        server.stop()

    def test_term_while_a_request_is_read(self):
        """A body that is long to read: its client hears, too, and the server's end is as clean."""
        server = Server(np=1)
        body = json.dumps({"prompt": [1] * (200000 if SANITIZED else 2600000)}).encode()
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as s:
            s.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body))
            s.sendall(body)
            time.sleep(0.1)
            os.kill(server.leader(), signal.SIGTERM)
            answer = s.recv(65536)
        self.assertRegex(answer, b"^HTTP/1.1 (503|400) ")  # 400: it was read before
        self.assertEqual(server.process.wait(30), 0, server.said())
        server.stop()

    def test_an_end_does_not_wait_for_an_unload(self):
        """One that lets requests finish for longer than the end would."""
        server = Server(*SLOW, "--drain-timeout", "0.5")
        streams = begin(server, 4)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            unload = pool.submit(server.ask, "POST", "/v1/admin/unload", {"timeout": 600})
            while server.ask("GET", "/health")[1]["status"] != "draining":
                time.sleep(0.02)
            self.assertEqual(server.ask("POST", "/v1/admin/shutdown")[0], 202)
            for s in streams:
                events, done = s.events()
                self.assertFalse(done)
                self.assertEqual(events[-2]["choices"][0]["finish_reason"], "abort")
            self.assertEqual(unload.result()[0], 200)
        self.assertEqual(server.process.wait(30), 0, server.said())
        server.stop()

    def test_term_before_it_is_ready(self):
        """Whatever it is doing at its start, it ends well."""
        for delay in (0, 0.02, 0.05):
            server = Server(wait=False)
            time.sleep(delay)
            os.kill(server.leader(), signal.SIGTERM)
            self.assertEqual(server.process.wait(30), 0, server.said())
            server.stop()


if __name__ == "__main__":
    test_server.LOCKSTEP, test_server.MPIRUN = os.path.abspath(sys.argv[1]), sys.argv[2]
    unittest.main(argv=sys.argv[:1], verbosity=2)
