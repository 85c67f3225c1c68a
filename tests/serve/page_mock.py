#!/usr/bin/env python3
"""A server that has the page and none of the rest: it answers as lockstep's does, from a script.

    page_mock.py [PORT]      to look at the page by hand

What it streams depends on the last message: see STORIES.
"""
import base64
import hashlib
import http.server
import json
import os
import re
import sys
import threading
import time

PAGE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "src", "serve", "page.html")
STORIES = {
    "plain": "Grüße from “two” ranks: 你好, 🙂.\n\nThat was all.",
    "html": "<img src=x onerror=\"document.title='broken'\"><script>document.title='broken'</script>",
    "long": "It came to pass in those days, that there went out a decree. " * 40,
}


def policy(page):
    """The Content-Security-Policy that the page's first comment asks for."""
    hashes = {}
    for tag in ("script", "style"):
        body = re.search(rf"<{tag}>(.*)</{tag}>", page, re.DOTALL)[1]
        digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        hashes[tag] = f"{tag}-src 'sha256-{digest}'"
    return (f"default-src 'none'; {hashes['script']}; {hashes['style']}; connect-src 'self'; img-src data:; "
            "base-uri 'none'; form-action 'none'; frame-ancestors 'none'")


class Mock(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, port=0):
        super().__init__(("127.0.0.1", port), Handler)
        with open(PAGE, encoding="utf-8") as f:
            self.page = f.read()
        self.requests = []          # (path, body, headers) of every POST
        self.polls = 0
        self.hung_up = threading.Event()
        self.has_template = True
        self.key = None
        self.gone = False
        self.ranks = 2
        self.slow_rank = None
        self.change_view = lambda view: view
        self.pause = 0.004
        self.start = time.time()
        threading.Thread(target=self.serve_forever, args=[0.02], daemon=True).start()

    def __exit__(self, *exception):
        self.go()
        super().__exit__(*exception)

    def go(self):
        """As a process that ends: no answer to anybody any more."""
        self.gone = True
        self.shutdown()
        self.socket.close()

    def handle_error(self, request, client_address):
        pass                        # a browser that goes away is no news

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/"

    def view(self):
        """As GET /ranks of a server that works; docs/metrics.md has the fields."""
        seconds = time.time() - self.start
        ranks = []
        for i in range(self.ranks):
            compute = 0.8 if i == self.slow_rank or self.slow_rank is None else 0.3
            ranks.append({
                "rank": i, "host": f"node{i // 4 + 1}", "pid": 4000 + i, "device": "host", "cores": 2,
                "threads": 1, "memory_free": int(24.1e9) - i * 10**9,
                "collectives": int(1200 * seconds), "bytes_sent": int(5.1e6 * seconds),
                "resident_bytes": int(1.3e9) + i * 10**8, "ping_seconds": (1.2 + i / 2) / 1e6,
                "compute_seconds": compute * seconds, "wait_seconds": (0.88 - compute) * seconds,
                "transfer_seconds": 0.07 * seconds, "compute_share": compute, "wait_share": 0.88 - compute,
                "transfer_share": 0.07, "collectives_per_second": 1200.3, "bytes_per_second": 5.1e6,
            })
        return self.change_view({
            "world": self.ranks, "device": "host", "dtype": "f32", "ranks": ranks, "tokens_per_second": 37.6,
            "age_seconds": 0.4, "model": "Qwen3-0.6B", "state": "ready", "running": 3, "waiting": 1,
            "kv_blocks_used": 27, "kv_blocks_total": 64, "prompt_tokens": 180, "generated_tokens": 4210,
            "errors": [{"time": 1700000000, "message": "rank 1 (node1, host): deadline: no answer in 60 s"}],
        })


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def parse_request(self):
        if self.server.gone:
            self.close_connection = True
            return False
        return super().parse_request()

    def log_message(self, format, *args):
        pass

    def reply(self, status, body, kind="application/json", **more):
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        for name, value in more.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def refuse(self, status, message, param=None, code=None, **more):
        self.reply(status, {"error": {"message": message, "type": "invalid_request_error", "param": param,
                                      "code": code}}, **more)

    def has_key(self):
        if self.server.key and self.headers["Authorization"] != f"Bearer {self.server.key}":
            self.refuse(401, "Incorrect API key provided")
            return False
        return True

    def do_GET(self):
        if self.path == "/":
            self.reply(200, self.server.page, "text/html; charset=utf-8",
                       Content_Security_Policy=policy(self.server.page))
        elif self.path == "/ranks":
            self.server.polls += 1
            if self.has_key():
                self.reply(200, self.server.view())
        else:
            self.refuse(404, "There is no such page")

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append((self.path, body, dict(self.headers)))
        if not self.has_key():
            return
        chat = self.path == "/v1/chat/completions"
        prompt = body["messages"][-1]["content"] if chat else body["prompt"]
        if chat and not self.server.has_template:
            self.refuse(400, "The model has no chat template; use /v1/completions", "messages")
        elif prompt == "busy":
            self.refuse(429, "128 requests wait", Retry_After="3")
        elif prompt == "last orders":
            self.refuse(503, "the server is shutting down", code="draining", Retry_After="1")
        elif prompt == "wrong":
            self.refuse(400, "must be between 0 and 2", "temperature")
        else:
            self.stream(chat, prompt)

    def stream(self, chat, prompt):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        try:
            for event in self.events(chat, prompt):
                self.send(event)
        except OSError:
            self.server.hung_up.set()

    def events(self, chat, prompt):
        def piece(text="", finish=None, **delta):
            words = {"delta": {"content": text, **delta}} if chat else {"text": text}
            return {"id": "x", "model": "m", "choices": [{"index": 0, "finish_reason": finish, **words}]}

        yield ": keep-alive\n\n"
        if chat:
            yield piece(role="assistant")
        if prompt == "think":
            for word in "Let me see. Two and two is four.".split(" "):
                yield piece(reasoning_content=word + " ")
        n = 0
        for word in re.findall(r"\S+\s*", STORIES.get(prompt, STORIES["plain"])):
            n += 1
            yield piece(word)
            if n == 3 and prompt == "break":
                yield {"error": {"message": "rank 1 was lost", "type": "server_error"}}
                return
            if n == 3 and prompt == "cut":
                return
        while prompt == "endless":
            n += 1
            yield piece("and ")
        yield piece(finish="length" if prompt == "long" else "stop")
        yield {"id": "x", "choices": [], "usage": {"prompt_tokens": 12, "completion_tokens": n}}
        yield "data: [DONE]\n\n"

    def send(self, event):
        """In pieces of seven bytes, so that lines, events and characters are cut everywhere."""
        text = event if isinstance(event, str) else f"data: {json.dumps(event, ensure_ascii=False)}\r\n\r\n"
        data = text.encode()
        for i in range(0, len(data), 7):
            self.wfile.write(data[i:i + 7])
            self.wfile.flush()
        time.sleep(self.server.pause)


if __name__ == "__main__":
    with Mock(int(sys.argv[1]) if len(sys.argv) > 1 else 8000) as mock:
        print(mock.url)
        threading.Event().wait()
