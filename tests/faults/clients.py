"""HTTP clients of a server that is going to fail: what each has read, and when."""
import json
import socket
import threading

PROMPT = "And it came to pass"


def request(method, path, body=None):
    text = json.dumps(body) if body is not None else ""
    return (f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            f"Content-Length: {len(text)}\r\n\r\n{text}").encode()


def dechunked(data):
    """The body of what came, be it cut off anywhere."""
    body = b""
    while data:
        size, _, data = data.partition(b"\r\n")
        try:
            n = int(size, 16)
        except ValueError:
            break
        body, data = body + data[:n], data[n + 2:]
    return body


class Client(threading.Thread):
    """One request, read in the background until the server closes the connection."""

    def __init__(self, port, method, path, body=None, seconds=60):
        super().__init__(daemon=True)
        self.port, self.request, self.seconds = port, request(method, path, body), seconds
        self.raw, self.trouble, self.socket = b"", None, None
        self.start()

    def run(self):
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=self.seconds) as self.socket:
                self.socket.sendall(self.request)
                while data := self.socket.recv(65536):
                    self.raw += data
        except OSError as e:
            self.trouble = e

    def hang_up(self):
        try:
            self.socket.shutdown(socket.SHUT_RDWR)
        except (OSError, AttributeError):
            pass  # it is over, or has not begun

    @property
    def status(self):
        return int(self.raw.split(b" ", 2)[1]) if self.raw.count(b" ") >= 2 else None

    @property
    def body(self):
        head, _, rest = self.raw.partition(b"\r\n\r\n")
        return (dechunked(rest) if b"chunked" in head.lower() else rest).decode(errors="replace")

    def events(self):
        """What came of a stream: objects, and "[DONE]"."""
        found = []
        for event in self.body.split("\n\n"):
            if event.startswith("data: "):
                try:
                    found.append(json.loads(event[6:]) if event[6:] != "[DONE]" else "[DONE]")
                except ValueError:
                    pass  # cut off
        return found

    def error(self):
        """The error that a reply or a stream ended with, or {}."""
        last = (self.events() or [None])[-1]
        if last is None:
            try:
                last = json.loads(self.body)
            except ValueError:
                pass
        return last.get("error", {}) if isinstance(last, dict) else {}


def stream(port, n_prompt=0, tokens=900):
    prompt = [5 + i % 50 for i in range(n_prompt)] if n_prompt else PROMPT
    return Client(port, "POST", "/v1/completions", {"prompt": prompt, "max_tokens": tokens, "temperature": 0,
                                                    "ignore_eos": True, "stream": True})


def whole(port, tokens=4, seconds=60):
    return Client(port, "POST", "/v1/completions", {"prompt": PROMPT, "max_tokens": tokens, "temperature": 0},
                  seconds)


def ask(port, method, path, body=None, seconds=5):
    """A request that has ended."""
    client = Client(port, method, path, body, seconds)
    client.join()
    return client


class Prober(threading.Thread):
    """Asks for /health all the time, and as soon as the server has failed for a completion."""

    def __init__(self, port):
        super().__init__(daemon=True)
        self.port, self.over = port, threading.Event()
        self.failed = self.refused = None  # the replies
        self.start()

    def run(self):
        while not self.over.is_set():
            health = ask(self.port, "GET", "/health", seconds=2)
            if self.failed is None and '"failed"' in health.body:
                self.failed = health
                self.refused = whole(self.port, seconds=2)
                self.refused.join()
            self.over.wait(0.03)

    def stop(self):
        self.over.set()
        self.join(10)
