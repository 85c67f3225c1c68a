#!/usr/bin/env python3
"""`lockstep serve` with two ranks, over HTTP as its clients see it.

    test_server.py LOCKSTEP MPIRUN
"""
import atexit
import concurrent.futures
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest

PROMPT = "And it came to pass"
MODEL = os.path.join(os.path.dirname(__file__), "../../models/kjv-qwen3-3m")  # the demo model
# So that what shall happen while a request runs can. The text is the same.
MANY = 10 if os.environ.get("LOCKSTEP_TEST_SHORT") else 24  # requests at once
SLOW = ("--isa", "generic", "--threads", "1")


def ranks_of(pid):
    """{rank: pid} of the ranks that the mpirun `pid` started."""
    found = {}
    for child in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{child}/stat", encoding="utf-8", errors="replace") as f:
                parent = int(f.read().rpartition(")")[2].split()[1])
            with open(f"/proc/{child}/environ", "rb") as f:
                rank = re.search(rb"OMPI_COMM_WORLD_RANK=(\d+)", f.read())
        except (OSError, ValueError):
            continue
        if parent == pid and rank:
            found[int(rank[1])] = int(child)
    return found


class Server:
    """A server that is ready, or (wait=False) only listens. np=0: without mpirun; limits: of ulimit."""

    def __init__(self, *words, np=2, wait=True, limits="", log=None):
        self.folder = tempfile.TemporaryDirectory()
        port_file = os.path.join(self.folder.name, "port")
        self.log = open(log or os.path.join(self.folder.name, "log"), "w+", encoding="utf-8")
        launcher = [MPIRUN, "-np", str(np)] if np else []
        limited = ["sh", "-c", f'ulimit {limits}; exec "$@"', "sh"] if limits else []
        self.process = subprocess.Popen(
            [*launcher, *limited, LOCKSTEP, "serve", "--port", "0", "--port-file", port_file, *words],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=self.log)
        atexit.register(self.abandon)
        deadline = time.monotonic() + 30
        while not os.path.exists(port_file) or os.path.getsize(port_file) == 0:
            assert time.monotonic() < deadline and self.process.poll() is None, self.said()
            time.sleep(0.02)
        with open(port_file, encoding="utf-8") as f:
            self.port = int(f.read().rpartition(":")[2])
        while wait and self.ask("GET", "/health")[0] != 200:
            assert time.monotonic() < deadline and self.process.poll() is None, self.said()
            time.sleep(0.02)

    def abandon(self):
        """So that a test that fails leaves nothing running."""
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(timeout=20)

    def said(self):
        self.log.flush()
        with open(self.log.name, encoding="utf-8", errors="replace", newline="\n") as f:
            return f.read()

    def connect(self):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=180)

    def ask(self, method, path, body=None, headers=None):
        """(status, object or text)"""
        c = self.connect()
        c.request(method, path, body if isinstance(body, (str, bytes)) or body is None else
                  json.dumps(body), headers or {})
        r = c.getresponse()
        data = r.read()
        c.close()
        is_json = r.getheader("Content-Type", "").startswith("application/json")
        return r.status, json.loads(data) if is_json else data.decode()

    def stream(self, path, body):
        """The chunks of a stream, [DONE] held to and left out."""
        status, text = self.ask("POST", path, {**body, "stream": True})
        assert status == 200, text
        events = [e for e in text.split("\n\n") if e and not e.startswith(":")]
        assert all(e.startswith("data: ") for e in events), text
        assert events[-1] == "data: [DONE]", text
        return [json.loads(e[6:]) for e in events[:-1]]

    def metric(self, name):
        text = self.ask("GET", "/metrics")[1]
        return sum(float(v) for v in re.findall(rf"^lockstep_{name}(?:{{[^}}]*}})? (\S+)$", text, re.M))

    def wait_for(self, name, value, seconds=10):
        deadline = time.monotonic() + seconds
        while self.metric(name) != value:
            assert time.monotonic() < deadline, f"{name} is {self.metric(name)}, not {value}"
            time.sleep(0.02)

    def leader(self):
        return ranks_of(self.process.pid).get(0, self.process.pid)

    def stop(self):
        """Drains it: (exit code, what it said)."""
        if self.process.poll() is None:
            os.kill(self.leader(), signal.SIGTERM)
        try:
            code = self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        said = self.said()
        self.log.close()
        self.folder.cleanup()
        return code, said


def completion(prompt=PROMPT, tokens=24, **more):
    return {"prompt": prompt, "max_tokens": tokens, "temperature": 0, **more}


def text_of(chunks):
    return "".join(c["choices"][0]["text"] for c in chunks if c["choices"])


class OneServer(unittest.TestCase):
    """Cases of one server, which drains well when they are over."""

    words = SLOW

    @classmethod
    def setUpClass(cls):
        cls.server = Server(*cls.words)

    @classmethod
    def tearDownClass(cls):
        code, said = cls.server.stop()
        assert code == 0, said


class Requests(OneServer):
    def test_text_is_generates(self):
        done = subprocess.run(
            [LOCKSTEP, "generate", "--prompt", PROMPT, "--temperature", "0", "--max-tokens", "24", "--json",
             "--threads", "1"],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=True)
        want = json.loads(done.stdout)
        status, got = self.server.ask("POST", "/v1/completions", completion())
        self.assertEqual(status, 200)
        self.assertEqual(got["object"], "text_completion")
        self.assertEqual(got["choices"][0]["text"], want["text"])
        self.assertEqual(got["choices"][0]["finish_reason"], "length")
        self.assertEqual(got["usage"], {"prompt_tokens": len(want["prompt_ids"]),
                                        "completion_tokens": 24,
                                        "total_tokens": len(want["prompt_ids"]) + 24})
        chunks = self.server.stream("/v1/completions", completion())
        self.assertEqual(text_of(chunks), want["text"])
        self.assertGreater(len(chunks), 10)
        self.assertEqual(chunks[-1]["choices"][0]["finish_reason"], "length")
        self.assertEqual(len({c["id"] for c in chunks}), 1)
        # the prompt as ids, and a text that a stop string ends
        got = self.server.ask("POST", "/v1/completions", completion(want["prompt_ids"]))[1]
        self.assertEqual(got["choices"][0]["text"], want["text"])
        word = want["text"].split()[3]
        got = self.server.ask("POST", "/v1/completions", completion(stop=[word]))[1]
        self.assertEqual(got["choices"][0]["text"], want["text"].partition(word)[0])
        self.assertEqual(got["choices"][0]["finish_reason"], "stop")

    def test_stop_across_tokens(self):
        """A stop string that begins inside one token and ends inside another."""
        text = self.server.ask("POST", "/v1/completions", completion())[1]["choices"][0]["text"]
        c = self.server.ask("POST", "/v1/completions", completion(logprobs=0))[1]["choices"][0]
        offsets = c["logprobs"]["text_offset"]
        border = next(o for o in offsets[4:] if o >= 2)
        stop = text[border - 2 : border + 2]
        others = [f"never{i}" for i in range(15)]
        got = self.server.ask("POST", "/v1/completions", completion(stop=[*others, stop]))[1]["choices"][0]
        self.assertEqual((got["text"], got["finish_reason"]), (text.partition(stop)[0], "stop"))
        streamed = text_of(self.server.stream("/v1/completions", completion(stop=[*others, stop])))
        self.assertEqual(streamed, got["text"])

    def test_logit_bias(self):
        """What is forbidden does not come, what is demanded does, and log-probabilities are the model's."""
        def ask(**more):
            c = self.server.ask("POST", "/v1/completions", completion(tokens=6, logprobs=1, **more))[1]
            return c["choices"][0]["logprobs"]
        free = ask()
        first = self.server.ask("POST", "/tokenize", {"prompt": free["tokens"][0]})[1]["tokens"]
        self.assertEqual(len(first), 1)
        forbidden = ask(logit_bias={str(first[0]): -100})
        self.assertNotIn(free["tokens"][0], forbidden["tokens"])
        best = max(forbidden["top_logprobs"][0], key=forbidden["top_logprobs"][0].get)
        self.assertEqual(best, free["tokens"][0])  # and stays the most probable
        self.assertEqual(forbidden["top_logprobs"][0][best], free["token_logprobs"][0])
        self.assertEqual(set(ask(logit_bias={str(first[0]): 100})["tokens"]), {free["tokens"][0]})
        self.assertEqual(ask(logit_bias={}), free)

    def test_side_by_side(self):
        """Many at once, more than the batch holds: each as if it were alone."""
        bodies = [completion(PROMPT + " that" * i, 8 + i, seed=i, temperature=i % 3 * 0.5,
                             logprobs=2 if i % 2 else None,
                             logit_bias={"300": 4} if i % 5 == 3 else None) for i in range(MANY)]
        alone = [self.server.ask("POST", "/v1/completions", b)[1]["choices"] for b in bodies]
        with concurrent.futures.ThreadPoolExecutor(MANY) as pool:
            amid = list(pool.map(lambda b: self.server.ask("POST", "/v1/completions", b)[1]["choices"],
                                 bodies))
        self.assertEqual(amid, alone)
        self.assertEqual(self.server.metric("num_requests_running"), 0)
        self.assertEqual(self.server.metric("kv_cache_usage_perc"), 0)

    def test_hang_up(self):
        """A client that goes away frees its place."""
        gone = self.server.metric("request_cancelled_total")
        for stream in (True, False):
            body = json.dumps(completion(tokens=900, ignore_eos=True, stream=stream))
            s = socket.create_connection(("127.0.0.1", self.server.port))
            s.sendall((f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
                       + body).encode())
            self.server.wait_for("num_requests_running", 1)
            s.close()
            self.server.wait_for("num_requests_running", 0)
        self.server.wait_for("request_cancelled_total", gone + 2)
        self.assertEqual(self.server.metric("kv_cache_usage_perc"), 0)

    def test_a_place_is_free_by_the_second_step(self):
        """Steps from the look before the hang-up to the first without it. Others may keep this test from
        looking: the best of some attempts counts."""
        steps = []
        while len(steps) < 8 and min(steps, default=9) > 2:
            c = self.server.connect()
            c.request("POST", "/v1/completions", json.dumps(completion(tokens=900, ignore_eos=True, stream=True)))
            reply = c.getresponse()
            reply.readline()
            before = self.server.metric("steps_total")
            c.sock.shutdown(socket.SHUT_RDWR)
            c.close()
            reply.close()
            self.server.wait_for("num_requests_running", 0)
            steps.append(self.server.metric("steps_total") - before)
        self.assertLessEqual(min(steps), 2, steps)

    def test_curl(self):
        url = f"http://127.0.0.1:{self.server.port}"
        body = completion(tokens=8, temperature=0)

        def curl(*words):
            return subprocess.run(["curl", "-sS", "--max-time", "60", *words], capture_output=True, text=True, check=False)
        whole = curl(url + "/v1/completions", "--json", json.dumps(body))
        self.assertEqual(whole.returncode, 0, whole.stderr)
        text = json.loads(whole.stdout)["choices"][0]["text"]
        events = curl("-N", url + "/v1/completions", "--json", json.dumps({**body, "stream": True})).stdout.split("\n\n")
        self.assertEqual(events[-2:], ["data: [DONE]", ""])
        self.assertEqual("".join(json.loads(e[6:])["choices"][0]["text"] for e in events[:-2]), text)
        self.assertEqual(curl("--fail", url + "/v1/completions", "-d", "{").returncode, 22)
        self.assertIn("200 OK", curl("-I", url + "/health").stdout)
        upload = curl("-T", "-", url + "/v1/models", "-w", "%{http_code}")
        self.assertTrue(upload.stdout.endswith("405"), upload.stdout)

    def test_bad_requests(self):
        for path, body, status, param, words in (
                ("/v1/completions", "{", 400, None, "JSON"),
                ("/v1/completions", {"max_tokens": 3}, 400, "prompt", "prompt"),
                ("/v1/completions", completion(temperature="hot"), 400, "temperature", "number"),
                ("/v1/completions", completion(n=2), 400, "n", ""),
                ("/v1/completions", completion(logit_bias={"1000000": 1}), 400, "logit_bias", "1000000"),
                ("/v1/completions", completion(logit_bias={"1": 101}), 400, "logit_bias", "token 1"),
                ("/v1/completions", completion("x " * 3000), 400, "prompt", "context"),
                ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}, 400, "messages",
                 "template"),
                ("/v1/embeddings", {"input": "x"}, 400, None, "embeddings"),
                ("/v1/nothing", {}, 404, None, "/v1/nothing")):
            with self.subTest(path=path, body=str(body)[:40]):
                got, answer = self.server.ask("POST", path, body)
                self.assertEqual(got, status, answer)
                self.assertEqual(sorted(answer["error"]), ["code", "message", "param", "type"])
                self.assertEqual(answer["error"]["param"], param)
                self.assertIn(words, answer["error"]["message"])
        answer = self.server.ask("POST", "/v1/completions", completion("x " * 3000))[1]
        self.assertEqual(answer["error"]["code"], "context_length_exceeded")
        self.assertEqual(self.server.ask("GET", "/v1/completions")[0], 405)
        self.assertEqual(self.server.ask("POST", "/v1/models/kjv-qwen3-3m", {})[0], 405)
        self.assertEqual(self.server.ask("POST", "/v1/completions", b"x" * (9 << 20))[0], 413)

    def talk(self, last, *pieces):
        """What comes back for these bytes, until it ends with `last` and nothing more comes."""
        got = b""
        with socket.create_connection(("127.0.0.1", self.server.port), timeout=30) as s:
            try:
                for piece in pieces:
                    s.sendall(piece)
                while more := s.recv(65536):
                    got += more
                    s.settimeout(1 if got.endswith(last) else 30)
            except OSError:
                pass
        return got.decode()

    def test_bodies(self):
        """In chunks, after 100 Continue, one request behind another; and those that are too long."""
        body = json.dumps(completion(tokens=2)).encode()
        def head(*more):
            lines = ("POST /v1/completions HTTP/1.1", "Host: x", *more, "", "")
            return "\r\n".join(lines).encode()
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(c), c) for c in (body[:7], body[7:])) + b"0\r\n\r\n"
        length = f"Content-Length: {len(body)}"
        ready = '{"status":"ready"}'
        got = self.talk(ready.encode(), head("Transfer-Encoding: chunked") + chunks + head(length) + body +
                        b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        self.assertEqual(re.findall(r"HTTP/1.1 (\d+)", got), ["200"] * 3)
        self.assertTrue(got.endswith(ready), got)
        got = self.talk(b"}}", head(length, "Expect: 100-continue"), body)
        self.assertEqual(re.findall(r"HTTP/1.1 (\d+)", got), ["100", "200"])
        got = self.talk(b"}}", head(f"Content-Length: {9 << 20}", "Expect: 100-continue"))
        self.assertEqual(re.findall(r"HTTP/1.1 (\d+)", got), ["413"])
        # who never stops sending is not read for ever
        mib = b"100000\r\n" + b"x" * (1 << 20) + b"\r\n"
        with socket.create_connection(("127.0.0.1", self.server.port), timeout=30) as s:
            s.sendall(head("Transfer-Encoding: chunked"))
            with self.assertRaises(OSError):
                for _ in range(200):
                    s.sendall(mib)

    def test_head(self):
        c = self.server.connect()
        c.request("HEAD", "/v1/models")
        r = c.getresponse()
        self.assertEqual((r.status, r.read()), (200, b""))
        self.assertGreater(int(r.getheader("Content-Length")), 50)
        c.request("HEAD", "/v1/completions")
        self.assertEqual(c.getresponse().status, 405)
        c.close()

    def test_idle(self):
        """A server with nothing to do uses next to nothing. (The promise is 2 % over a long time.)"""
        def cpu_seconds():
            with open(f"/proc/{self.server.leader()}/stat", encoding="utf-8") as f:
                fields = f.read().rpartition(")")[2].split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        before = cpu_seconds()
        time.sleep(2)
        self.assertLess(cpu_seconds() - before, 0.2)

    def test_views(self):
        status, page = self.server.ask("GET", "/")
        self.assertEqual((status, page[:15]), (200, "<!DOCTYPE html>"))
        self.assertNotIn("http://", re.sub(r"http://www.w3.org/\S*", "", page))  # nothing from elsewhere
        self.assertEqual(self.server.ask("GET", "/health"), (200, {"status": "ready"}))
        c = self.server.connect()
        c.request("HEAD", "/health")
        r = c.getresponse()
        self.assertEqual((r.status, r.getheader("Content-Length"), r.read()), (200, "18", b""))
        c.close()
        status, document = self.server.ask("GET", "/openapi.json")
        self.assertEqual((status, document["openapi"]), (200, "3.1.0"))
        for path, item in document["paths"].items():
            if "{" not in path and not path.startswith("/v1/admin/"):
                for method in item:
                    self.assertNotIn(self.server.ask(method.upper(), path, {} if method == "post" else None)[0],
                                     (404, 405), path)
        models = self.server.ask("GET", "/v1/models")[1]
        self.assertEqual([m["id"] for m in models["data"]], ["kjv-qwen3-3m"])
        self.assertEqual(self.server.ask("GET", "/v1/models/kjv-qwen3-3m")[1]["object"], "model")
        self.assertEqual(self.server.ask("GET", "/v1/models/other")[0], 404)
        ranks = self.server.ask("GET", "/ranks")[1]
        self.assertEqual([r["rank"] for r in ranks["ranks"]], [0, 1])
        self.assertEqual((ranks["state"], ranks["world"], ranks["device"]), ("ready", 2, "host"))
        schemas = document["components"]["schemas"]
        self.assertEqual(set(ranks) - set(schemas["Ranks"]["properties"]), set())
        for rank in ranks["ranks"]:
            self.assertEqual(set(rank) - set(schemas["Rank"]["properties"]), set())
        ids = self.server.ask("POST", "/tokenize", {"prompt": PROMPT})[1]
        self.assertEqual(len(ids["tokens"]), ids["count"])
        self.assertEqual(self.server.ask("POST", "/detokenize", {"tokens": ids["tokens"]})[1],
                         {"prompt": PROMPT})


class Endings(unittest.TestCase):
    def test_drain(self):
        """Running requests finish, new ones are refused, and the exit code is 0."""
        server = Server("--drain-timeout", "150", *SLOW)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            long = pool.submit(server.ask, "POST", "/v1/completions",
                               completion(tokens=400, ignore_eos=True))
            server.wait_for("num_requests_running", 1)
            os.kill(server.leader(), signal.SIGTERM)
            deadline = time.monotonic() + 5
            while server.ask("GET", "/health")[1]["status"] != "draining":
                self.assertLess(time.monotonic(), deadline)
            status, answer = server.ask("POST", "/v1/completions", completion())
            self.assertEqual((status, answer["error"]["code"]), (503, "draining"))
            status, answer = long.result()
        self.assertEqual((status, answer["usage"]["completion_tokens"]), (200, 400))
        self.assertEqual(server.process.wait(timeout=30), 0, server.said())
        server.stop()

    def test_drain_has_an_end(self):
        """What is not done by then ends with an error."""
        server = Server("--drain-timeout", "0.3", *SLOW)
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            body = completion(tokens=1000, ignore_eos=True)
            whole = pool.submit(server.ask, "POST", "/v1/completions", body)
            stream = pool.submit(server.ask, "POST", "/v1/completions", {**body, "stream": True})
            server.wait_for("num_requests_running", 2)
            os.kill(server.leader(), signal.SIGTERM)
            status, answer = whole.result()
            self.assertEqual(status, 503)
            self.assertIn("shut down", answer["error"]["message"])
            status, text = stream.result()
        last = text.strip().split("\n\n")[-1]
        self.assertNotIn("[DONE]", text)
        self.assertIn("shut down", json.loads(last[6:])["error"]["message"])
        self.assertEqual(server.process.wait(timeout=30), 0, server.said())
        server.stop()

    def test_a_full_queue(self):
        server = Server("--max-batch", "1", "--max-waiting", "1", *SLOW)
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            body = completion(tokens=300, ignore_eos=True)
            asked = [pool.submit(server.ask, "POST", "/v1/completions", body) for _ in range(2)]
            server.wait_for("num_requests_waiting", 1)
            status, answer = server.ask("POST", "/v1/completions", completion())
            self.assertEqual((status, answer["error"]["code"]), (429, "queue_full"))
            c = server.connect()
            c.request("POST", "/v1/completions", json.dumps(completion()))
            self.assertEqual(c.getresponse().getheader("Retry-After"), "1")
            c.close()
            self.assertEqual([a.result()[0] for a in asked], [200, 200])
        self.assertEqual(server.stop()[0], 0)

    def test_a_killed_rank(self):
        """A worker dies: the launcher ends the job, and nothing is left."""
        server = Server(*SLOW)
        os.kill(ranks_of(server.process.pid)[1], signal.SIGKILL)
        self.assertNotEqual(server.process.wait(timeout=20), 0)
        server.stop()


class Origins(unittest.TestCase):
    """What pages of other origins may do."""

    PAGE = "https://page.example"

    def answer(self, server, method, path, headers, body=None):
        """(status, headers, body)"""
        c = server.connect()
        c.request(method, path, body and json.dumps(body), headers)
        r = c.getresponse()
        data = r.read().decode()
        c.close()
        return r.status, r.headers, data

    def post(self, server, origin, **more):
        headers = {"Origin": origin} if origin else {}
        return self.answer(server, "POST", "/v1/completions", headers, completion(tokens=1, **more))

    def preflight(self, server, origin):
        return self.answer(server, "OPTIONS", "/v1/chat/completions",
                           {"Origin": origin, "Access-Control-Request-Method": "POST",
                            "Access-Control-Request-Headers": "authorization,x-stainless-lang"})

    def test_none_but_our_own(self):
        server = Server(np=1)
        self.assertEqual(self.post(server, None)[0], 200)
        self.assertEqual(self.post(server, f"http://127.0.0.1:{server.port}")[0], 200)
        for other in (self.PAGE, "null", f"http://127.0.0.1:{server.port + 1}"):
            status, headers, text = self.post(server, other)
            self.assertEqual((status, json.loads(text)["error"]["code"]), (403, "origin_not_allowed"))
            self.assertNotIn("Access-Control-Allow-Origin", headers)
        # a name that somebody made point here
        name = f"evil.example:{server.port}"
        status = self.answer(server, "POST", "/v1/completions", {"Host": name, "Origin": f"http://{name}"},
                             completion())[0]
        self.assertEqual(status, 403)
        for path in ("/v1/admin/shutdown", "/v1/admin/unload"):
            self.assertEqual(self.answer(server, "POST", path, {"Origin": self.PAGE})[0], 403)
        self.assertEqual(self.answer(server, "GET", "/v1/models", {"Origin": self.PAGE})[0], 200)
        status, headers, _ = self.preflight(server, self.PAGE)
        self.assertEqual(status, 405)
        self.assertFalse([h for h in headers if h.startswith("Access-Control")])
        self.assertEqual(server.stop()[0], 0)

    def test_one_that_is_let_in(self):
        with tempfile.NamedTemporaryFile("w") as f:
            f.write("secret\n")
            f.flush()
            server = Server("--cors-origin", self.PAGE, "--api-key-file", f.name, np=1)
        status, headers, _ = self.preflight(server, self.PAGE)  # which brings no key
        self.assertEqual(status, 204)
        self.assertEqual(headers["Access-Control-Allow-Origin"], self.PAGE)
        self.assertEqual(headers["Access-Control-Allow-Headers"], "authorization,x-stainless-lang")
        self.assertIn("POST", headers["Access-Control-Allow-Methods"])
        self.assertEqual(headers["Vary"], "Origin")
        status, headers, _ = self.preflight(server, "https://other.example")
        self.assertEqual((status, headers["Access-Control-Allow-Origin"]), (403, None))
        key = {"Authorization": "Bearer secret"}
        for origin, allowed in ((self.PAGE, self.PAGE), ("https://other.example", None)):
            for stream in (False, True):
                status, headers, _ = self.answer(server, "POST", "/v1/completions",
                                                 {**key, "Origin": origin},
                                                 completion(tokens=1, stream=stream))
                self.assertEqual((status, headers["Access-Control-Allow-Origin"], headers["Vary"]),
                                 (200, allowed, "Origin"))  # the key opens; CORS says who may read
        status, headers, _ = self.post(server, self.PAGE)
        self.assertEqual((status, headers["Access-Control-Allow-Origin"]), (401, self.PAGE))
        self.assertEqual(server.stop()[0], 0)

    def test_all(self):
        server = Server("--cors-origin", "*", np=1)
        self.assertEqual(self.preflight(server, self.PAGE)[0], 204)
        for origin in (self.PAGE, None):
            status, headers, _ = self.post(server, origin)
            self.assertEqual((status, headers["Access-Control-Allow-Origin"]), (200, "*"))
            self.assertNotIn("Vary", headers)
        self.assertEqual(server.stop()[0], 0)


class Defaults(unittest.TestCase):
    """Sampling where a request says nothing of it: the model's generation_config.json says it."""

    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        for name in os.listdir(MODEL):
            if name != "generation_config.json":
                os.symlink(os.path.join(MODEL, name), os.path.join(self.folder.name, name))

    def write(self, text):
        with open(os.path.join(self.folder.name, "generation_config.json"), "w", encoding="utf-8") as f:
            f.write(text)

    def test_they_are_the_models(self):
        self.write('{"do_sample": true, "temperature": 2.0, "top_k": 1}')
        server = Server("--model", self.folder.name, np=1)
        def text(**more):
            return server.ask("POST", "/v1/completions",
                              {"prompt": PROMPT, "max_tokens": 20, **more})[1]["choices"][0]["text"]
        greedy = text(temperature=0)
        self.assertEqual([text(seed=i) for i in range(5)], [greedy] * 5)
        self.assertNotEqual({text(seed=i, top_k=-1) for i in range(5)}, {greedy})  # the request's word counts
        self.assertEqual(server.stop()[0], 0)

    def test_a_bad_file(self):
        self.write('{"do_sample": true, "top_p": 1.5}')
        done = subprocess.run([LOCKSTEP, "serve", "--port", "0", "--model", self.folder.name],
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, check=False)
        self.assertNotEqual(done.returncode, 0)
        self.assertRegex(done.stderr, r"generation_config\.json: top_p: .*1\.5")


class Start(unittest.TestCase):
    def refuse(self, code, words, *args):
        done = subprocess.run([LOCKSTEP, "serve", "--port", "0", *args], stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=30, check=False)
        self.assertEqual(done.returncode, code, done.stderr)
        self.assertIn(words, done.stderr)

    def test_options(self):
        for host in ("0.0.0.0", "::", "127.example.org"):
            self.refuse(2, f"--host {host} is open to others", "--host", host)
        self.refuse(2, "--cors-origin example.org: expected an origin", "--cors-origin", "example.org")
        self.refuse(2, "--api-key-file: /nonexistent", "--api-key-file", "/nonexistent")
        self.refuse(2, "--model-root /nonexistent: No such", "--model-root", "/nonexistent")
        self.refuse(2, f"--model-root {__file__}: not a directory", "--model-root", __file__)
        self.refuse(2, "--kv-memory 0: must be at least 1", "--kv-memory", "0")
        self.refuse(2, "--served-model-name: must have", "--served-model-name", "")
        self.refuse(2, "config.json", "--model", "/nonexistent")
        self.refuse(2, "cannot listen on 192.0.2.1", "--host", "192.0.2.1", "--no-auth")
        # a name that looks like loopback is whatever its resolver says
        self.refuse(2, "--host 127.0.0.1.example is open to others", "--host", "127.0.0.1.example")

    def test_bad_keys(self):
        for key, words in ("", "the first line is empty"), ("\nsecret\n", "the first line is empty"), \
                          ("a secret\n", "ASCII"), ("s\0crt\n", "ASCII"), ("clé\n", "ASCII"):
            with tempfile.NamedTemporaryFile("w") as f:
                f.write(key)
                f.flush()
                self.refuse(2, words, "--api-key-file", f.name)

    def test_an_address_with_colons(self):
        try:
            with socket.socket(socket.AF_INET6) as s:
                s.bind(("::1", 0))
        except OSError as e:
            self.skipTest(f"no IPv6: {e}")
        server = Server("--host", "::1", np=1, wait=False)
        with open(os.path.join(server.folder.name, "port"), encoding="utf-8") as f:
            self.assertEqual(f.read(), f"[::1]:{server.port}\n")
        code, said = server.stop()
        self.assertEqual(code, 0)
        self.assertIn(f"http://[::1]:{server.port}\n", said)

    def test_the_access_log(self):
        """One line for each request, without those that come every second."""
        asked = (("GET", "/ranks", 200), ("GET", "/metrics", 200), ("GET", "/no\nthing", 404),
                 ("POST", "/v1/completions", 200), ("GET", "/health", 200))
        logged = [("GET", "/no?thing", 404), ("POST", "/v1/completions", 200)]
        for form in "text", "json":
            server = Server("--log-format", form, np=1)
            for method, path, status in asked:
                body = completion(tokens=2) if method == "POST" else None
                self.assertEqual(server.ask(method, path.replace("\n", "%0A"), body)[0], status)
            lines = server.stop()[1].splitlines()
            if form == "json":
                found = [json.loads(line) for line in lines if line.startswith("{")]
                self.assertEqual([(e["method"], e["path"], e["status"]) for e in found], logged)
                self.assertEqual(sorted(found[0]), ["client", "method", "path", "seconds", "status", "time"])
                self.assertEqual({e["client"] for e in found}, {"127.0.0.1"})
            else:
                found = re.findall(r"(?m)^\S+Z 127\.0\.0\.1 (\S+) (\S+) (\d+) \S+ s$", "\n".join(lines))
                self.assertEqual([(method, path, int(status)) for method, path, status in found], logged)

    def test_access_log(self):
        """One line a request, whatever its method and path are, and nothing that moves a terminal."""
        for form in ("text", "json"):
            server = Server("--log-format", form, np=1)
            before = len(server.said().splitlines())
            for line in (b"GET /%ff%1b[31m%0alines", b"G\x1b[2JT /%c2%9b31m", b"GET /caf%c3%a9"):
                with socket.create_connection(("127.0.0.1", server.port), timeout=30) as s:
                    s.sendall(line + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                    while s.recv(4096):
                        pass
            code, said = server.stop()
            self.assertEqual(code, 0)
            self.assertNotRegex(said, "[\x00-\x09\x0b-\x1f\x7f-\x9f]")
            lines = [line for line in said.splitlines()[before:] if "lockstep: " not in line]
            self.assertEqual(len(lines), 3, said)
            self.assertIn("/caf\u00e9" if form == "text" else "/caf", lines[2])
            if form == "json":
                self.assertEqual([json.loads(line)["path"] for line in lines],
                                 ["/??[31m?lines", "/?31m", "/caf\u00e9"])

    def test_key(self):
        with tempfile.NamedTemporaryFile("w") as f:
            f.write("secret\n")
            f.flush()
            server = Server("--api-key-file", f.name, np=1)
        for headers, status in (({}, 401), ({"Authorization": "Bearer secre"}, 401),
                                ({"Authorization": "Bearer secretsecret"}, 401),
                                ({"Authorization": "Bearer secret"}, 200),
                                ({"authorization": "bearer secret"}, 200)):
            self.assertEqual(server.ask("GET", "/v1/models", headers=headers)[0], status)
        for path in ("/health", "/", "/openapi.json"):
            self.assertEqual(server.ask("GET", path)[0], 200)
        # the key comes first, and a body without it goes nowhere
        self.assertEqual(server.ask("POST", "/v1/completions", b"x" * (9 << 20))[0], 401)
        self.assertEqual(server.stop()[0], 0)


if __name__ == "__main__":
    LOCKSTEP, MPIRUN = os.path.abspath(sys.argv[1]), sys.argv[2]
    unittest.main(argv=sys.argv[:1], verbosity=2)
