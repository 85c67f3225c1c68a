#!/usr/bin/env python3
"""`lockstep serve` among hostile clients and in hostile surroundings: what is not HTTP, or lies; who
is slow, half-closed, or one of a thousand; no files left to open, no room left on disk. The server
answers with a reason, stays small, and streams beside all that are what they are alone, to the byte.

    hostile.py LOCKSTEP MPIRUN [short]
"""
import contextlib
import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest

import test_server
from test_server import SLOW, Server, completion, ranks_of

SHORT = "short" in sys.argv[3:]
SANITIZED = "LOCKSTEP_TEST_SHORT" in os.environ or "TSAN_OPTIONS" in os.environ
REPEATS = 1 if SHORT else 20
IDLE_S = 75
PATH = "/v1/completions"


# ---- bytes ----

def head(*headers, method="POST", path=PATH, version="HTTP/1.1"):
    return "\r\n".join((f"{method} {path} {version}", "Host: x", *headers, "", "")).encode()


def post(body, *headers, path=PATH):
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    return head(f"Content-Length: {len(body)}", "Connection: close", *headers, path=path) + body


def chunked(*chunks):
    return head("Transfer-Encoding: chunked", "Connection: close") + b"".join(chunks)


SMALL = json.dumps(completion(tokens=1)).encode()
HIDDEN = head("Connection: close", method="GET", path="/v1/models/hidden")     # of a request in another

# What is not HTTP, or not clear: (what, bytes, status; None: 4xx or nothing, why in our own words or None where
# libmicrohttpd answers by itself)
MESSAGES = (
    ("nothing", b"", None, None),
    ("half a line", b"POST /v1/comp", None, None),
    ("empty lines", b"\r\n" * 100, None, None),
    ("noise", bytes(range(256)) * 40, 400, None),
    ("a TLS hello", bytes.fromhex("16030100c8010000c40303") + bytes(200), None, None),
    ("HTTP/0.9", b"GET /\r\n\r\n", 400, None),
    ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, None),
    ("HTTP/9.9", head(method="GET", path="/health", version="HTTP/9.9"), 505, None),
    ("no host", b"GET /health HTTP/1.1\r\n\r\n", 400, None),
    ("a header of 100 KiB", head("X: " + "x" * 102400), 431, None),
    ("10,000 headers", head(*(f"X{i}: x" for i in range(10000))), 431, None),
    ("a path of 100 KiB", head(path="/" + "x" * 102400), 414, None),
    ("2,000 arguments", head(method="GET", path="/?" + "&".join(f"a{i}=b" for i in range(2000))), None, None),
    ("a header without a colon", head("nonsense"), 400, None),
    ("a body cut short", head("Content-Length: 100") + SMALL[:10], None, None),
    ("a body longer than it says", head("Content-Length: 5") + SMALL, 400, "not JSON"),
    ("a length of -1", head("Content-Length: -1"), 400, None),
    ("a length of +5", head("Content-Length: +5") + SMALL[:5], 400, None),
    ("a length of 0x10", head("Content-Length: 0x10"), 400, None),
    ("a length of 2^70", head(f"Content-Length: {2**70}"), 413, None),
    ("a length of 2^60", head(f"Content-Length: {2**60}", "Expect: 100-continue"), 413, "8 MiB"),
    ("two lengths", head("Content-Length: 0", f"Content-Length: {len(HIDDEN)}") + HIDDEN, 400, "not clear"),
    ("the same length twice", head(*[f"Content-Length: {len(SMALL)}"] * 2) + SMALL, 400, "not clear"),
    ("a length and chunks", head(f"Content-Length: {len(HIDDEN) + 5}", "Transfer-Encoding: chunked") +
     b"0\r\n\r\n" + HIDDEN, 400, "not clear"),
    ("a coding that is not chunked", head("Transfer-Encoding: gzip, chunked") + b"0\r\n\r\n" + HIDDEN, 400,
     "not clear"),
    ("two codings", head("Transfer-Encoding: chunked", "Transfer-Encoding: identity") + HIDDEN, 400, "not clear"),
    ("chunks in HTTP/1.0", head("Transfer-Encoding: chunked", version="HTTP/1.0") + b"0\r\n\r\n" + HIDDEN, 400,
     "not clear"),
    ("chunks", chunked(b"5\r\n", SMALL[:5], b"\r\n%x;name=value\r\n" % (len(SMALL) - 5), SMALL[5:],
                       b"\r\n0\r\nX: x\r\n\r\n"), 200, None),
    ("a chunk of zz bytes", chunked(b"zz\r\nxx\r\n"), 400, None),
    ("a chunk of -1 bytes", chunked(b"-1\r\nxx\r\n"), 400, None),
    ("a chunk of 2^80 bytes", chunked(b"1" + b"0" * 20 + b"\r\nxx\r\n"), 413, None),
    ("a chunk longer than it says", chunked(b"2\r\nxxxx\r\n0\r\n\r\n"), 400, None),
    ("chunks without an end", chunked(b"2\r\n{}\r\n"), None, None),
    ("a compressed body", post(b"\x1f\x8b\x08\0\0", "Content-Encoding: gzip"), 415, "Content-Encoding"),
    ("a body that is as it is", post(SMALL, "Content-Encoding: identity"), 200, None),
)

DEEP = 100000

# Bodies of a completion: (what, body, status, words of the error)
BODIES = (
    ("empty", b"", 400, "not JSON"),
    ("null", b"null", 400, "not JSON"),
    ("a list", b"[]", 400, "object"),
    ("9 MiB", b"x" * (9 << 20), 413, "8 MiB"),
    ("8 MiB of blanks", b" " * (8 << 20), 400, "not JSON"),
    ("not UTF-8", b'{"prompt": "\xff\xfe"}', 400, "not JSON"),
    ("half a surrogate", b'{"prompt": "\\ud800"}', 400, "not JSON"),
    ("deep lists", b'{"prompt": ' + b"[" * DEEP + b"]" * DEEP + b"}", 400, "depth"),
    ("deep objects", b'{"a":' * DEEP + b"1" + b"}" * DEEP, 400, "depth"),
    ("a deep field that nobody reads", b'{"metadata": ' + b"[" * 1000 + b"]" * 1000 + b'}', 400, "prompt"),
    ("1e999", b'{"prompt": "x", "temperature": 1e999}', 400, "a number that is out of range"),
    ("1 and 400 zeros", b'{"prompt": "x", "seed": 1' + b"0" * 400 + b"}", 400, "big"),
    ("1e-999", b'{"prompt": "x", "max_tokens": 1, "temperature": 1e-999}', 200, None),
    ("NaN", b'{"prompt": "x", "temperature": NaN}', 400, "not JSON"),
    ("2^63", b'{"prompt": "x", "seed": 9223372036854775808}', 400, "big"),
    ("-0", b'{"prompt": "x", "max_tokens": 1, "temperature": -0}', 200, None),
    ("-0.0", b'{"prompt": "x", "max_tokens": 1, "temperature": -0.0}', 200, None),
    ("-1 tokens", completion(tokens=-1), 400, "max_tokens"),
    ("2^62 tokens", completion(tokens=2**62), 400, "max_tokens"),
    ("2^31-1 tokens", completion(tokens=2**31 - 1, stop=["e"]), 200, None),
    ("2^31 candidates", completion(tokens=1, top_k=2**31), 400, "top_k"),
    ("10^6 stop strings", completion(stop=["x"] * 10**6), 400, "stop"),
    ("a stop string of 1 MB", completion(stop="x" * 10**6), 400, "stop"),
    ("10^5 biases", completion(logit_bias={str(i): 1 for i in range(10**5)}), 400, "logit_bias"),
    ("a prompt of 8 MB", completion("word " * 1600000), 400, "context"),
    ("10^6 ids", completion([1] * 10**6), 400, "context"),
    ("ids that are none", completion([2**31 - 1]), 400, "token id"),
    ("10^6 prompts", completion(["x"] * 10**6), 400, "1000000 prompts"),
    ("a field twice", b'{"prompt": "x", "max_tokens": 99999999999, "max_tokens": 1}', 200, None),
    ("10^5 fields", {**{f"field{i}": i for i in range(10**5)}, **completion(tokens=1)}, 200, None),
    ("U+0000", completion("a\0b", tokens=1), 200, None),
    ("a header in the model's name", completion(model="x\r\nSet-Cookie: a=b"), 404, "x??Set-Cookie"),
)

# Paths and methods: (method, path, status, the header Allow)
PATHS = (
    ("GET", "/v1/models/..%2f..%2fetc%2fpasswd", 404, None),
    ("GET", "/v1/models/../../etc/passwd", 404, None),
    ("GET", "/v1/models/%2e%2e/%2e%2e/etc/passwd", 404, None),
    ("GET", "/v1/models/kjv-qwen3-3m%00", 404, None),
    ("GET", "/health%00", 404, None),
    ("GET", "//health", 404, None),
    ("GET", "/x%0d%0aSet-Cookie:%20a=b", 404, None),
    ("GET", "/%zz%", 404, None),
    ("GET", "/" + "x" * 30000, 404, None),
    ("GET", "/?" + "&".join(f"a{i}=b" for i in range(200)), 200, None),
    ("GET", "*", 404, None),
    ("GET", "http://elsewhere/health", 404, None),
    ("DELETE", "/v1/models/kjv-qwen3-3m", 405, "GET, HEAD"),
    ("POST", "/v1/models/kjv-qwen3-3m", 405, "GET, HEAD"),
    ("PUT", PATH, 405, "POST"),
    ("OPTIONS", PATH, 405, "POST"),
    ("TRACE", PATH, 405, "POST"),
    ("CONNECT", "elsewhere:443", 404, None),
    ("post", PATH, 405, "POST"),
    ("G" * 5000, "/health", 405, "GET, HEAD"),
)


class Peer:
    """A socket to the server, and what came from it."""

    def __init__(self, port, data=b""):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.got = b""
        self.send(data)

    def send(self, data):
        with contextlib.suppress(OSError):       # who is refused may be cut off in the middle
            self.socket.sendall(data)

    def half_close(self):
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)

    def read(self):
        """All, to the end; where the server does not end it, to the end of one answer and what follows at once."""
        with contextlib.suppress(OSError):
            while more := self.socket.recv(65536):
                self.got += more
                before, _, body = self.got.partition(b"\r\n\r\n")
                length = re.search(rb"(?i)\r\ncontent-length: (\d+)", before)
                whole = length and len(body) >= int(length[1])
                self.socket.settimeout(0.2 if whole and b"\r\nConnection: close" not in before else 60)
        self.socket.close()
        return self.got

    def is_ended(self):
        """By the server; what it has sent before is in got."""
        self.socket.setblocking(False)
        try:
            while data := self.socket.recv(1 << 16):
                self.got += data
            return True
        except BlockingIOError:
            return False
        except OSError:
            return True

    def close(self):
        self.socket.close()


def statuses(answer):
    return [int(s) for s in re.findall(rb"HTTP/1.[01] (\d{3}) ", answer)]


def reason(answer):
    """Of an error object, which has OpenAI's form."""
    error = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["type"], error
    return error["message"]


class Witness(threading.Thread):
    """Asks for the same stream again and again: it must stay what it was."""

    BODY = completion(tokens=60, ignore_eos=True, seed=7, temperature=1, logprobs=2)

    def __init__(self, server):
        super().__init__(daemon=True)
        self.server, self.n, self.fault, self.over = server, 0, None, threading.Event()
        self.want = self.ask()
        self.start()

    def ask(self):
        return [c["choices"] for c in self.server.stream(PATH, self.BODY)]

    def run(self):
        try:
            while not self.over.is_set():
                got = self.ask()
                assert got == self.want, f"expected {self.want}\ngot {got}"
                self.n += 1
        except Exception as e:      # told by end(); pylint: disable=broad-except
            self.fault = e

    def end(self):
        self.over.set()
        self.join(120)
        assert not self.is_alive(), "a stream hangs"
        assert self.fault is None, self.fault
        assert self.n > 0, "no stream came to its end"


def memory(pid):
    with open(f"/proc/{pid}/statm", encoding="ascii") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as f:
        fields = f.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def has_ended(server, seconds=30):
    code, said = server.process.wait(timeout=seconds), server.said()
    server.log.close()
    server.folder.cleanup()
    return code, said


# ---- clients ----

class Clients(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server("--threads", "1", "--max-waiting", "40")
        cls.slow = cls.slow_heads(cls.server)
        cls.witness = Witness(cls.server)

    @classmethod
    def tearDownClass(cls):
        cls.witness.end()
        cls.server.wait_for("num_requests_running", 0)
        cls.server.wait_for("num_requests_waiting", 0)
        assert cls.server.metric("kv_cache_usage_perc") == 0
        assert cls.server.ask("GET", "/health") == (200, {"status": "ready"})
        code, said = cls.server.stop()
        assert code == 0, said[-4000:]
        assert "WARNING: ThreadSanitizer" not in said and "runtime error" not in said, said
        logged = [line for line in said.splitlines() if line.startswith("20")]
        bad = [line for line in logged if not re.fullmatch(
            r"\S+Z 127\.0\.0\.1 \S+ \S+ [2-5]\d\d \d+\.\d{3} s", line)]
        assert not bad, bad[:5]
        print(f"{cls.witness.n} streams beside all that, each as if it were alone; {len(logged)} requests logged")

    @staticmethod
    def slow_heads(server):
        return [Peer(server.port, f"POST {PATH} HTTP/1.1\r\nHost: x\r\nX-{i}: ".encode()) for i in range(20)]

    def trickle(self, peers):
        for p in peers:
            p.send(b"x")

    def talk(self, data):
        return Peer(self.server.port, data).read()

    def check(self, name, data, status, words):
        with self.subTest(name):
            if status is None:      # it may wait for more, and does not get it
                peer = Peer(self.server.port, data)
                peer.half_close()
                peer.socket.settimeout(0.1)
                answer = peer.read()
                self.assertTrue(all(400 <= s < 500 for s in statuses(answer)), answer[:2000])
                return
            answer = self.talk(data)
            self.assertEqual(statuses(answer)[:1], [status], answer[:2000])
            self.assertNotIn(b"hidden", answer)
            if words:
                self.assertIn(words, reason(answer))

    def messages(self):
        for name, data, status, words in MESSAGES:
            self.check(name, data, status, words)
        self.trickle(self.slow)

    def bodies(self):
        for name, body, status, words in BODIES:
            self.check(name, post(body), status, words)
            self.trickle(self.slow)
        for path in ("/v1/chat/completions", "/tokenize", "/detokenize"):
            for body in (b"", b"\xff", b"[]", b"[" * DEEP, b'{"prompt": 1, "tokens": 1, "messages": 1}'):
                self.check(f"{path} {body[:50]}", post(body, path=path), 400, " ")

    def paths(self):
        for method, path, status, allow in PATHS:
            with self.subTest(path[:50], method=method[:50]):
                answer = self.talk(head("Connection: close", method=method, path=path))
                self.assertEqual(statuses(answer), [status], answer[:2000])
                found = re.search(rb"(?m)^Allow: ([^\r]*)\r$", answer)
                self.assertEqual(found and found[1].decode(), allow)
                self.assertNotIn(b"\nSet-Cookie", answer.partition(b"\r\n\r\n")[0])

    def test_everything_again_and_again(self):
        """What the server says each time, and that nothing of it is left in memory."""
        pid, sizes = self.server.leader(), []
        for i in range(REPEATS + 1):
            self.messages()
            self.bodies()
            self.paths()
            sizes.append(memory(pid))
            if i == 0:
                start = time.monotonic()
        print(f"memory of rank 0 after each round: {[f'{s / 1e6:.1f}' for s in sizes]} MB; "
              f"{(time.monotonic() - start) / REPEATS:.1f} s a round")
        if not SANITIZED:
            most = 24 << 20 if SHORT else 8 << 20       # of some 60 MB in each round
            self.assertLess(max(sizes[len(sizes) // 2:]) - sizes[len(sizes) // 4], most)

    def test_slow_heads(self):
        """Who sends a byte now and then disturbs nobody, and is not waited for for ever."""
        self.assertEqual(self.server.ask("GET", "/health")[0], 200)
        if SHORT:
            return
        peers, opened = self.slow_heads(self.server), time.monotonic()
        while not any(p.is_ended() for p in peers):
            self.trickle(peers)
            time.sleep(0.5)
        self.assertGreater(time.monotonic() - opened, IDLE_S - 5)
        while not all(p.is_ended() for p in peers):
            self.assertLess(time.monotonic() - opened, IDLE_S + 15)
            self.trickle(peers)
            time.sleep(0.5)

    def test_pipelining(self):
        n = 20
        data = (head(f"Content-Length: {len(SMALL)}") + SMALL + head(method="GET", path="/health")) * n
        peer = Peer(self.server.port, data + head("Connection: close", method="GET", path="/last"))
        answer = b"".join(iter(lambda: peer.socket.recv(65536), b""))
        peer.close()
        self.assertEqual(statuses(answer), [200] * (2 * n) + [404])

    def test_half_closed(self):
        """Who sends no more may still read a stream."""
        body = completion(tokens=40, ignore_eos=True)
        want = [c["choices"] for c in self.server.stream(PATH, body)]
        peer = Peer(self.server.port, post({**body, "stream": True}))
        peer.half_close()
        answer = peer.read().decode()
        events = [e[6:] for e in re.findall(r"data: [^\r\n]*", answer)]
        self.assertIn("[DONE]", events[-1:], answer)
        self.assertEqual([json.loads(e)["choices"] for e in events[:-1]], want)

    def test_half_closed_for_a_whole_reply(self):
        """... but for a whole reply it is taken for gone, and its place is free."""
        gone = self.server.metric("request_cancelled_total")
        peer = Peer(self.server.port, post(completion(tokens=900, ignore_eos=True)))
        peer.half_close()
        answer = peer.read()
        self.assertEqual(statuses(answer), [499])
        self.assertIn("taken to be gone", reason(answer))
        self.server.wait_for("request_cancelled_total", gone + 1)

    def test_gone_from_the_queue(self):
        """A stream that is read by nobody is not waited with, though nothing was sent to it yet."""
        gone = self.server.metric("request_cancelled_total")
        peers = [Peer(self.server.port, post(completion(tokens=900, ignore_eos=True, stream=True))) for _ in range(20)]
        deadline = time.monotonic() + 20
        while self.server.metric("num_requests_waiting") < 10:
            self.assertLess(time.monotonic(), deadline)
        for p in peers:
            p.close()
        self.server.wait_for("num_requests_waiting", 0, 10)
        self.server.wait_for("request_cancelled_total", gone + 20, 10)


# ---- many connections, few files ----

class Crowds(unittest.TestCase):
    def crowd(self, limits=""):
        """More connections than there may be: the oldest that are idle go, and the others do not see it."""
        server = Server(*SLOW, "--max-batch", "2", "--max-waiting", "2000", np=0, limits=limits)
        fewer = re.search(r"(\d+) connections at most, as only (\d+) files", server.said())
        self.assertEqual(fewer and f"-n {fewer[2]}", limits or None)
        most = int(fewer[1]) if fewer else 1000
        witness, pid, files = Witness(server), server.leader(), len(os.listdir(f"/proc/{server.leader()}/fd"))
        peers = [Peer(server.port) for _ in range(most + 50)]
        for _ in range(3):
            self.assertEqual(server.ask("GET", "/health")[0], 200)
            self.assertEqual(server.ask("POST", PATH, completion(tokens=1))[0], 200)
        ended = [p.is_ended() for p in peers]
        self.assertGreaterEqual(sum(ended), 50)
        self.assertLess(sum(ended), 50 + 20 + witness.n)        # no more than came since
        self.assertTrue(all(ended[:40]))                        # the oldest
        witness.end()
        before = cpu_seconds(pid)
        time.sleep(2)
        self.assertLess(cpu_seconds(pid) - before, 0.5)
        for p in peers:
            p.close()
        self.full_of_requests(server, most)
        self.assertEqual(server.ask("GET", "/health")[0], 200)
        deadline = time.monotonic() + 20
        while len(os.listdir(f"/proc/{pid}/fd")) > files + 1:
            self.assertLess(time.monotonic(), deadline, os.listdir(f"/proc/{pid}/fd"))
            time.sleep(0.1)
        return server.stop()

    def full_of_requests(self, server, most):
        """All wait for the model: a health check is answered all the same, and others are told."""
        body = post(completion(tokens=900, ignore_eos=True, stream=True))
        peers = []
        while len(peers) < most + 5:
            peers.append(Peer(server.port, body))
            peers[-1].got = peers[-1].socket.recv(200)
            if statuses(peers[-1].got) != [200]:
                break
        peers.pop().close()
        alive = [p for p in peers if not p.is_ended()]  # the first may have had all their tokens
        self.assertEqual(len(alive), most)
        answer = Peer(server.port, post(SMALL)).read()
        self.assertEqual(statuses(answer), [503])
        self.assertIn("too many connections", reason(answer))
        self.assertEqual(statuses(Peer(server.port, head("Connection: close", method="GET", path="/health")).read()),
                         [200])
        self.assertFalse([p for p in alive if p.is_ended() and b"[DONE]" not in p.got])  # to nobody's harm
        for p in peers:
            p.close()
        deadline = time.monotonic() + 30
        while server.ask("GET", "/metrics")[0] != 200:
            self.assertLess(time.monotonic(), deadline)
        server.wait_for("num_requests_waiting", 0, 30)

    def test_few_files(self):
        code, said = self.crowd("-n 64")
        self.assertEqual(code, 0, said)
        self.assertEqual(said.count("connections at most"), 1)

    @unittest.skipIf(SHORT, "with a thousand: in the suite full")
    def test_a_thousand(self):
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        if limit < 4000:
            self.skipTest(f"only {limit} files may be open")
        resource.setrlimit(resource.RLIMIT_NOFILE, (4000, limit))
        code, said = self.crowd()
        self.assertEqual(code, 0, said[-4000:])


# ---- full disks ----

class FullDisks(unittest.TestCase):
    def works(self, server):
        for _ in range(3):
            self.assertEqual(server.ask("POST", PATH, completion(tokens=2))[0], 200)
        self.assertEqual(server.ask("GET", "/nothing")[0], 404)

    def ends(self, server):
        os.kill(server.leader(), signal.SIGTERM)
        return server.process.wait(timeout=60)

    def test_log(self):
        for form in "text", "json":
            server = Server("--log-format", form, "--threads", "1", np=0, log="/dev/full")
            self.works(server)
            before = cpu_seconds(server.leader())
            time.sleep(1)
            self.assertLess(cpu_seconds(server.leader()) - before, 0.3)
            self.assertEqual(self.ends(server), 0)

    def test_trace_and_status(self):
        server = Server("--trace-rpc", "/dev/full", "--status-file", "/dev/full", "--threads", "1")
        self.works(server)
        code, said = server.stop()
        self.assertEqual(code, 0, said)
        self.assertEqual(said.count("--trace-rpc: cannot write: No space left"), 1, said)
        self.assertEqual(said.count("--status-file: /dev/full: No space left"), 1, said)

    def test_port_file(self):
        done = subprocess.run([test_server.LOCKSTEP, "serve", "--port", "0", "--port-file", "/dev/full"],
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertEqual(done.stderr.count("--port-file /dev/full: No space left"), 1, done.stderr)

    def test_dumps(self):
        """No file may grow any more when a rank dies."""
        with tempfile.TemporaryDirectory() as folder:
            server = Server("--dump-dir", folder, *SLOW)
            ranks = ranks_of(server.process.pid)
            resource.prlimit(ranks[0], resource.RLIMIT_FSIZE, (0, 0))
            os.kill(ranks[1], signal.SIGKILL)
            code, said = has_ended(server)
            self.assertNotEqual(code, 0)
            self.assertEqual(said.count("--dump-dir: cannot write"), 1, said)
            self.assertIn("File too large", said)
            self.assertIn("rank 1", said)
            self.assertEqual(os.listdir(folder), [])

    @unittest.skipIf(SHORT, "in the suite full")
    def test_a_full_file_system(self):
        with tempfile.TemporaryDirectory() as folder:
            if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", folder], capture_output=True,
                              check=False).returncode != 0:
                self.skipTest("may not mount a file system")
            try:
                self.on_a_full_file_system(folder)
            finally:
                subprocess.run(["umount", "--lazy", folder], check=True)

    def on_a_full_file_system(self, folder):
        at = lambda name: os.path.join(folder, name)
        server = Server("--trace-rpc", at("trace"), "--status-file", at("status"), "--dump-dir", at("dumps"),
                        "--threads", "1", np=0, log=at("log"))
        with open(at("filler"), "wb", buffering=0) as f, contextlib.suppress(OSError):
            while f.write(bytes(4096)):
                pass
        self.works(server)
        self.assertEqual(self.ends(server), 0)
        server.log.close()


if __name__ == "__main__":
    test_server.LOCKSTEP, test_server.MPIRUN = os.path.abspath(sys.argv[1]), sys.argv[2]
    unittest.main(argv=sys.argv[:1], verbosity=2)
