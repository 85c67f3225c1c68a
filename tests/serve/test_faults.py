#!/usr/bin/env python3
"""`lockstep serve` when clients misbehave and ranks fail; and chats, from the first byte to the last.

    test_faults.py LOCKSTEP MPIRUN
"""
import contextlib
import http.client
import json
import os
import re
import signal
import socket
import struct
import sys
import tempfile
import time
import unittest

import test_server
from test_server import SLOW, OneServer, Server, completion, ranks_of

CHATTY = os.path.join(os.environ["LOCKSTEP_TEST_DATA"], "tiny-qwen3")


def raw_request(port, body, path="/v1/completions"):
    """A socket on which a request is sent, and nothing is read."""
    text = json.dumps(body)
    s = socket.create_connection(("127.0.0.1", port), timeout=30)
    s.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(text)}\r\n\r\n{text}".encode())
    return s


class Clients(OneServer):
    words = ("--max-batch", "1", "--served-model-name", 'a"b', *SLOW)

    def assert_freed(self, cancelled):
        self.server.wait_for("request_cancelled_total", cancelled)
        self.server.wait_for("num_requests_running", 0)
        self.assertEqual(self.server.metric("num_requests_waiting"), 0)
        self.assertEqual(self.server.metric("kv_cache_usage_perc"), 0)

    def test_hang_up_behind_unread_bytes(self):
        """What a client sends after its request does not hide that it goes away."""
        before = self.server.metric("request_cancelled_total")
        s = raw_request(self.server.port, completion(tokens=1000, ignore_eos=True))
        self.server.wait_for("num_requests_running", 1)
        s.sendall(b"\r\n\r\n")
        s.close()
        self.assert_freed(before + 1)

    def test_resets(self):
        """One that runs and one that waits, reset with their answers unread."""
        before = self.server.metric("request_cancelled_total")
        sockets = []
        for waiting in (0, 1):
            s = raw_request(self.server.port, completion(tokens=1000, ignore_eos=True, stream=True))
            self.assertTrue(s.recv(16).startswith(b"HTTP/1.1 200"))
            self.server.wait_for("num_requests_waiting", waiting)
            sockets.append(s)
        for s in reversed(sockets):
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            s.close()
        self.assert_freed(before + 2)

    def test_the_log_is_a_line_a_request(self):
        self.server.ask("GET", "/x%0A2026-01-01T00:00:00Z%20GET%20/forged%20200")
        deadline = time.monotonic() + 5  # the line follows the answer
        while "forged" not in self.server.said():
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.02)
        self.assertRegex(self.server.said(), r"(?m)^\S+ 127\.0\.0\.1 GET /x\?2026-01-01T\S+\?GET\?/forged\?200 404 ")

    def test_metrics_are_quoted(self):
        text = self.server.ask("GET", "/metrics")[1]
        for line in text.splitlines():
            self.assertRegex(line, r'^(# (HELP|TYPE) lockstep_\w+ .+'
                                   r'|lockstep_\w+(\{(,?\w+="([^"\\]|\\["\\n])*")+\})? [-+.e\d]+)$')
        self.assertIn('lockstep_num_requests_running{model_name="a\\"b"} 0\n', text)


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat", encoding="utf-8") as f:
        return sum(map(int, f.read().rpartition(")")[2].split()[11:13])) / os.sysconf("SC_CLK_TCK")


class Ranks(unittest.TestCase):
    def test_idle(self):
        """Ranks with nothing to do cost next to nothing, and still hear SIGTERM at once."""
        server = Server(*SLOW)
        server.ask("POST", "/v1/completions", completion(tokens=4))
        time.sleep(1)
        ranks = ranks_of(server.process.pid).values()
        before = [cpu_seconds(p) for p in ranks]
        time.sleep(2)
        used = [cpu_seconds(p) - b for p, b in zip(ranks, before)]
        start = time.monotonic()
        self.assertEqual(server.stop()[0], 0)
        self.assertLess(time.monotonic() - start, 10)
        self.assertLess(max(used), 0.3, "seconds of 2")

    def test_a_stopped_rank(self):
        """A step that fails: the stream ends with an error that names the rank, and the run with its
        exit code."""
        server = Server("--timeout", "2", *SLOW)
        s = raw_request(server.port, completion(tokens=1000, ignore_eos=True, stream=True))
        server.wait_for("num_requests_running", 1)
        worker = ranks_of(server.process.pid)[1]
        os.kill(worker, signal.SIGSTOP)
        text = b""
        while piece := s.recv(65536):
            text += piece
        s.close()
        self.assertNotIn(b"[DONE]", text)
        error = json.loads(re.findall(rb"data: (.*)", text)[-1])["error"]
        self.assertIn("rank ", error["message"])
        self.assertIn(error["type"], ("deadline", "rank_lost"))
        code = server.process.wait(timeout=30)
        said = server.said()
        self.assertIn(code, (4, 5), said)
        self.assertRegex(said, r"lockstep: .*rank 1")
        deadline = time.monotonic() + 10
        while os.path.exists(f"/proc/{worker}"):
            self.assertLess(time.monotonic(), deadline, "the worker is left")
            time.sleep(0.05)
        server.stop()


    def test_a_rank_that_stops_while_nobody_asks(self):
        server = Server("--timeout", "2")
        start = time.monotonic()
        os.kill(ranks_of(server.process.pid)[1], signal.SIGSTOP)
        code = server.process.wait(timeout=30)
        self.assertLess(time.monotonic() - start, 2 + 5 + 5, "the deadline, the end, and a busy machine")
        said = server.said()
        self.assertEqual(code, 4, said)
        self.assertRegex(said, r"lockstep: rank 1 .*deadline")
        server.stop()


    def test_a_start_that_fails(self):
        """Whoever asks is told why, until there is nobody to ask."""
        folder = self.enterContext(tempfile.TemporaryDirectory())
        for name in os.listdir(test_server.MODEL):
            os.symlink(os.path.join(test_server.MODEL, name), os.path.join(folder, name))
        weights = os.path.join(folder, "model.safetensors")
        os.unlink(weights)
        with open(os.path.join(test_server.MODEL, "model.safetensors"), "rb") as f, open(weights, "wb") as short:
            short.write(f.read(os.path.getsize(f.name) - 100))
        server = Server("--model", folder, wait=False)
        last = None
        with contextlib.suppress(OSError, http.client.HTTPException):
            while True:
                status, last = server.ask("GET", "/health")
                self.assertEqual(status, 503, last)
        self.assertEqual(last["status"], "failed")
        self.assertIn("model.safetensors", last["reason"])
        self.assertEqual(server.process.wait(timeout=30), 2, server.said())
        self.assertNotIn("Sanitizer", server.said())
        server.stop()


class Chats(unittest.TestCase):
    def test_whole_and_streamed(self):
        server = Server("--model", CHATTY)
        path = "/v1/chat/completions"
        body = {"messages": [{"role": "user", "content": "Hi"}], "max_completion_tokens": 24, "seed": 1,
                "logprobs": True, "top_logprobs": 2}
        for more in ({}, {"temperature": 0}, {"chat_template_kwargs": {"enable_thinking": False}},
                     {"tools": [{"type": "function", "function": {"name": "f"}}]}):
            with self.subTest(**more):
                status, whole = server.ask("POST", path, {**body, **more})
                self.assertEqual((status, whole["object"]), (200, "chat.completion"))
                choice = whole["choices"][0]
                *chunks, last = server.stream(path, {**body, **more, "stream_options": {"include_usage": True}})
                deltas = [c["choices"][0] for c in chunks]
                self.assertEqual(deltas[0]["delta"], {"role": "assistant", "content": ""})
                self.assertEqual("".join(d["delta"].get("content", "") for d in deltas),
                                 choice["message"]["content"])
                self.assertEqual(sum((d["logprobs"]["content"] for d in deltas if d["logprobs"]), []),
                                 choice["logprobs"]["content"])
                self.assertEqual(deltas[-1]["finish_reason"], choice["finish_reason"])
                self.assertEqual((last["choices"], last["usage"]), ([], whole["usage"]))
                self.assertEqual(len(choice["logprobs"]["content"]), whole["usage"]["completion_tokens"])
        self.assertEqual(server.stop()[0], 0)


if __name__ == "__main__":
    test_server.LOCKSTEP, test_server.MPIRUN = os.path.abspath(sys.argv[1]), sys.argv[2]
    unittest.main(argv=sys.argv[:1], verbosity=2)
