#!/usr/bin/env python3
"""`lockstep serve` with two ranks under load: many clients at once, of which some go away in the
middle, some read slowly and a few not at all. What each one gets must be, to the byte, what the same
request got when it was alone, and when all are gone, nothing of them may be left.

    test_load.py LOCKSTEP MPIRUN [short]

The whole form, 1,000 requests of 64 clients, is in the suite "full"; the short one in "serve".
"""
import asyncio
import json
import os
import random
import re
import socket
import sys
import tempfile
import time

import test_server
from test_server import Server, ranks_of

MODEL = os.path.join(os.environ["LOCKSTEP_MODELS"], "kjv-qwen3-3m")
TEMPLATE = ("{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
            "'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{'<|im_start|>assistant\n'}}{% endif %}")
CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"
WORDS = ("And it came to pass in the days of the king that he went up unto the house of the LORD and spake "
         "saying Hear O Israel these are the words of thy servant for there was no water in the land").split()
BATCH, CONTEXT = 8, 1024
WAITING = 50        # fewer than clients: some are told to come again
PATIENCE = 300      # seconds for one read, on a busy machine with sanitizers


class Form:
    """How much of everything."""

    def __init__(self, short):
        little = short and ("LOCKSTEP_TEST_SHORT" in os.environ or "TSAN_OPTIONS" in os.environ)
        self.clients = 16 if short else 64
        self.distinct = 16 if short else 40
        self.requests = 40 if little else 100 if short else 1000
        self.warm = self.requests // 4 if short else 150    # before the memory is looked at
        self.waiting = WAITING if not short else 6
        self.stuck = 1 if short else 2      # who never read


# ---- what is asked for ----

def text(rng, n):
    return " ".join(rng.choice(WORDS) for _ in range(n))


def make_body(rng, i):
    """(path, body): of every kind some, and the same ones for the same seed."""
    body = {"max_tokens": rng.choice((1, 4, 16, 40, 80, 120)), "seed": i, "stream": i % 4 != 3}
    n = rng.choice((1, 3, 12, 60, 250))
    if i % 2:
        path, body["messages"] = CHAT, [{"role": "system", "content": text(rng, 5)},
                                        {"role": "user", "content": text(rng, n)}]
    else:
        path, body["prompt"] = COMPLETION, text(rng, n)
    if i % 3 == 0:
        body["temperature"] = 0
    else:
        body.update(temperature=rng.choice((0.7, 1, 1.5)), top_p=rng.choice((1, 0.9)),
                    top_k=rng.choice((0, 40)), repetition_penalty=rng.choice((1, 1.1)))
    if i % 5 == 1:
        body["stop"] = rng.sample((" the LORD", "\n", "unto", "ther", " and he"), 2)
    if i % 5 == 2:
        body.update({"logprobs": True, "top_logprobs": 3} if path == CHAT else {"logprobs": 3})
    if i % 7 == 3:
        body["ignore_eos"] = True
    if body["stream"] and i % 3:
        body["stream_options"] = {"include_usage": True}
    return path, body


# More than a server keeps for one who does not read.
FLOOD = CHAT, {"messages": [{"role": "user", "content": "And"}], "max_tokens": 850, "ignore_eos": True,
               "temperature": 0, "logprobs": True, "top_logprobs": 20, "stream": True}


# ---- one request, byte by byte ----

class Reply:
    def __init__(self):
        self.raw = bytearray()
        self.first = None           # when the first event with text came, after the request
        self.ended = False

    def split(self):
        head, _, rest = bytes(self.raw).partition(b"\r\n\r\n")
        return head, rest

    @property
    def status(self):
        return int(self.raw.split(b" ", 2)[1]) if self.raw.count(b" ") > 1 else 0

    def header(self, name):
        found = re.search(rb"(?im)^" + name.encode() + rb": *([^\r]*)", self.split()[0])
        return found[1].decode() if found else None

    def body(self):
        """As far as it came; chunks of the transfer put together."""
        rest = self.split()[1]
        if self.header("Transfer-Encoding") != "chunked":
            return rest
        out = bytearray()
        while b"\r\n" in rest:
            size, _, rest = rest.partition(b"\r\n")
            n = int(size, 16)
            out += rest[:n]
            rest = rest[n + 2:]
        return bytes(out)

    def content(self):
        """What must be the same each time: all but ids, times and comments."""
        body = re.sub(rb"(?m)^: .*\n\n", b"", self.body())
        body = re.sub(rb'"id": ?"(chat)?cmpl-[^"]*"', b'"id":""', body)
        return re.sub(rb'"created": ?\d+', b'"created":0', body)

    def whole_events(self):
        content = self.content()
        return content[:content.rfind(b"\n\n") + 2] if b"\n\n" in content else b""


def connection(narrow):
    s = socket.socket()
    if narrow:  # little is under way in the kernel's buffers
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1400)
    s.setblocking(False)
    return s


class Client:
    def __init__(self, port, path, body, narrow=False):
        self.port, self.narrow, self.reply = port, narrow, Reply()
        data = json.dumps(body).encode()
        self.request = (f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
                        f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n").encode() + data

    async def __aenter__(self):
        self.loop, self.socket = asyncio.get_running_loop(), connection(self.narrow)
        await self.loop.sock_connect(self.socket, ("127.0.0.1", self.port))
        await self.loop.sock_sendall(self.socket, self.request)
        self.sent = time.monotonic()
        return self

    async def __aexit__(self, *exception):
        self.socket.close()

    async def read(self, size=65536):
        """False at the end."""
        data = await asyncio.wait_for(self.loop.sock_recv(self.socket, size), PATIENCE)
        self.reply.raw += data
        if self.reply.first is None and (b'"content":"' in data or b'"text":"' in data):
            self.reply.first = time.monotonic() - self.sent
        self.reply.ended = not data
        return bool(data)

    async def read_all(self):
        while await self.read():
            pass
        return self.reply


async def ask(port, path, body):
    async with Client(port, path, body) as c:
        return await c.read_all()


# ---- the crowd ----

async def read_some(client, rng, most):
    """A part of the answer, or nothing if it does not come soon: of somebody who then goes away."""
    wanted = rng.uniform(0, 1) * most
    try:
        async with asyncio.timeout(rng.choice((0.02, 0.3, 3))):
            while len(client.reply.raw) < wanted and await client.read(2000):
                pass
    except TimeoutError:
        pass


class Crowd:
    def __init__(self, server, form, solo, rng):
        self.server, self.form, self.solo, self.rng = server, form, solo, rng
        self.count = dict.fromkeys(("requests", "completed", "cancelled", "slow", "never read", "told to come again"),
                                   0)
        self.first_tokens = []
        self.stuck = 0              # how many have asked so far and do not read

    async def complete(self, i, slow):
        """One who reads to the end, at once or a little at a time, and comes again when told to."""
        path, body, want = self.solo[i]
        while True:
            async with Client(self.server.port, path, body, narrow=slow) as c:
                if slow:
                    while await c.read(600):
                        await asyncio.sleep(self.rng.uniform(0, 0.04))
                reply = await c.read_all()
            if reply.status != 429:
                break
            self.count["told to come again"] += 1
            await asyncio.sleep(int(reply.header("Retry-After")) * self.rng.uniform(0.5, 1.5))
        assert reply.status == 200, reply.raw
        assert reply.content() == want, f"{path} {body}: expected\n{want}\ngot\n{reply.content()}"
        self.count["slow" if slow else "completed"] += 1
        if body["stream"] and not slow:
            self.first_tokens.append(reply.first)

    async def cancel(self, i):
        """One who goes away: while waiting, or when part of the answer is there."""
        path, body, want = self.solo[i]
        async with Client(self.server.port, path, body) as c:
            await read_some(c, self.rng, len(want))
        if c.reply.status == 429:
            self.count["told to come again"] += 1
            return
        assert c.reply.status in (0, 200), c.reply.raw
        if body["stream"]:
            assert want.startswith(c.reply.whole_events()), f"{path} {body}: {c.reply.raw}"
        self.count["cancelled"] += 1

    async def never_read(self, want, failed):
        """One who asks for much and reads nothing, until the server has given up on it."""
        async with Client(self.server.port, *FLOOD, narrow=True) as c:
            self.stuck += 1
            end = time.monotonic() + PATIENCE
            while await asyncio.to_thread(self.server.metric, "request_failure_total") < failed:
                assert time.monotonic() < end, "a stream that nobody reads does not end"
                await asyncio.sleep(0.3)
            reply = await c.read_all()
        *events, last, _ = reply.content().split(b"\n\n")
        assert json.loads(last.removeprefix(b"data: "))["error"]["type"] == "slow_reader", last
        got = b"\n\n".join([*events, b""])
        assert want.startswith(got) and 1 << 20 < len(got) < 3 << 20, f"{len(got)} bytes before the end"
        self.count["never read"] += 1

    async def one(self):
        # Rank 0's own order of things is random enough: what is drawn here is the same every time.
        kind, i = self.rng.choices(("read", "slow", "cancel"), (80, 8, 12))[0], self.rng.randrange(len(self.solo))
        if kind == "cancel":
            await self.cancel(i)
        else:
            await self.complete(i, kind == "slow" and len(self.solo[i][2]) < 60000)

    async def client(self, todo):
        while todo:
            todo.pop()
            self.count["requests"] += 1
            await self.one()

    async def run(self, n, n_stuck, flood):
        todo = [None] * n
        failed = self.server.metric("request_failure_total") + n_stuck
        asked = self.stuck + n_stuck
        async with asyncio.TaskGroup() as group:
            for _ in range(n_stuck):
                self.count["requests"] += 1
                group.create_task(self.never_read(flood, failed))
            while self.stuck < asked:
                await asyncio.sleep(0.01)
            for _ in range(self.form.clients):
                group.create_task(self.client(todo))


# ---- what is left ----

def memory(server):
    """{rank: resident bytes}"""
    found = {}
    for rank, pid in sorted(ranks_of(server.process.pid).items()):
        with open(f"/proc/{pid}/statm", encoding="ascii") as f:
            found[rank] = int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return found


def is_sanitized(server):
    with open(f"/proc/{server.leader()}/maps", encoding="utf-8") as f:
        return re.search(r"lib[at]san", f.read()) is not None


def check_all_free(server):
    for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"):
        server.wait_for(name, 0, 30)
    ranks = server.ask("GET", "/ranks")[1]
    assert (ranks["running"], ranks["waiting"], ranks["kv_blocks_used"]) == (0, 0, 0), ranks


async def check_all_places(server):
    """As many as the batch holds run at once, each as long as the context: none waits for blocks."""
    body = {"prompt": "And", "max_tokens": CONTEXT - 8, "ignore_eos": True, "stream": True}
    clients = [Client(server.port, COMPLETION, body) for _ in range(BATCH)]
    for c in clients:
        await c.__aenter__()
    await asyncio.to_thread(server.wait_for, "num_requests_running", BATCH, 60)
    for c in clients:
        await c.__aexit__()


def accounted(server):
    """Requests that have come to an end, whichever."""
    return sum(server.metric(f"request_{end}_total") for end in ("success", "failure", "cancelled", "refused"))


# ---- all of it ----

async def solo_runs(server, form):
    """[(path, body, what it gets when it is alone)], and the same of FLOOD."""
    rng, solo = random.Random(1), []
    for i in range(form.distinct):
        path, body = make_body(rng, i)
        reply = await ask(server.port, path, body)
        assert reply.status == 200, reply.raw
        if body["stream"]:
            assert reply.body().endswith(b"data: [DONE]\n\n"), reply.raw
        solo.append((path, body, reply.content()))
    return solo, (await ask(server.port, *FLOOD)).content()


async def check_not_slowed(server, solo, flood, crowd):
    """Beside one that never reads, others get theirs: compared with the same beside none."""
    async def timed():
        start = time.monotonic()
        for path, body, want in solo[:5]:
            assert (await ask(server.port, path, body)).content() == want
        return time.monotonic() - start
    alone = await timed()
    failed = server.metric("request_failure_total") + 1
    async with asyncio.TaskGroup() as group:
        crowd.count["requests"] += 1
        group.create_task(crowd.never_read(flood, failed))
        beside = await timed()
    assert beside < 3 + 10 * alone, f"{beside:.1f} s beside one that never reads, {alone:.1f} s alone"


def quantile(values, q):
    values = sorted(values)
    return values[min(len(values) - 1, int(q * len(values)))] if values else float("nan")


async def load(server, form):
    solo, flood = await solo_runs(server, form)
    crowd = Crowd(server, form, solo, random.Random(2))
    await check_not_slowed(server, solo, flood, crowd)  # the first who never reads
    await crowd.run(form.warm, form.stuck - 1, flood)
    check_all_free(server)
    before, base = memory(server), accounted(server)
    counted, tokens = dict(crowd.count), server.metric("generation_tokens_total")
    crowd.first_tokens.clear()
    start = time.monotonic()
    await crowd.run(form.requests, form.stuck, flood)
    seconds = time.monotonic() - start
    check_all_free(server)
    tokens = server.metric("generation_tokens_total") - tokens
    after = memory(server)
    count = {name: n - counted[name] for name, n in crowd.count.items()}
    for name, n in count.items():
        print(f"{name:20} {n:8}")
    print(f"{'clients at once':20} {form.clients:8}")
    print(f"{'seconds':20} {seconds:8.1f}")
    print(f"{'tokens':20} {tokens:8.0f}   {tokens / seconds:.0f} a second")
    print(f"{'first token':20} {quantile(crowd.first_tokens, 0.5):8.3f} s at the median, "
          f"{quantile(crowd.first_tokens, 0.99):.3f} s at 99 %")
    for rank, size in after.items():
        print(f"{f'rank {rank}, memory':20} {before[rank] / 1e6:8.2f} MB before, {size / 1e6:.2f} MB after")
    sys.stdout.flush()
    ends = count["completed"] + count["slow"] + count["cancelled"] + count["never read"]
    asked = ends + count["told to come again"]
    assert accounted(server) - base == asked, f"{accounted(server) - base} of {asked} requests are accounted for"
    assert sorted(after) == [0, 1], after
    if not is_sanitized(server):        # they keep what is freed
        for rank, size in after.items():
            assert size - before[rank] < 4 << 20, f"rank {rank} has grown"
    await check_all_places(server)
    check_all_free(server)


def chatty_model(folder):
    """The demo model, with a chat template."""
    for name in os.listdir(MODEL):
        if name != "tokenizer_config.json":
            os.symlink(os.path.join(MODEL, name), os.path.join(folder, name))
    with open(os.path.join(MODEL, "tokenizer_config.json"), encoding="utf-8") as f:
        config = json.load(f)
    with open(os.path.join(folder, "tokenizer_config.json"), "w", encoding="utf-8") as f:
        json.dump({**config, "chat_template": TEMPLATE}, f)


def main():
    form = Form("short" in sys.argv[3:])
    with tempfile.TemporaryDirectory() as folder:
        chatty_model(folder)
        server = Server("--model", folder, "--threads", "1", "--max-batch", str(BATCH), "--prefill-chunk", "64",
                        "--max-waiting", str(form.waiting))
        asyncio.run(load(server, form))
        code, said = server.stop()
    assert code == 0, said[-4000:]


if __name__ == "__main__":
    test_server.LOCKSTEP, test_server.MPIRUN = os.path.abspath(sys.argv[1]), sys.argv[2]
    main()
