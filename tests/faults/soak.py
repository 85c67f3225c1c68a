#!/usr/bin/env python3
"""`lockstep serve` with two ranks for half an hour: requests of every kind, clients that go away, read
slowly or not at all, models that are unloaded and loaded, loads that fail.

    soak.py LOCKSTEP MPIRUN [SECONDS]

What is answered must be what the same request got when it was alone; nothing may be refused but
because the queue is full or no model is loaded; and whenever all have left and the model is unloaded,
memory and open files of every rank must be what they were.
"""
import asyncio
import json
import os
import random
import shutil
import sys
import tempfile
import time

sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), "../serve"))
import test_server
from test_load import (BATCH, FLOOD, Client, Crowd, Form, chatty_model, check_all_free, check_all_places,
                       is_sanitized, memory, solo_runs, read_some)
from test_server import Server, ranks_of

SECONDS = 1800
LOOKS, LOOK_EACH_S = 12, 30 # at most so many, and as often, at what is left when nobody asks; the first ends the warm-up
GROWTH = 4 << 20            # bytes; what the allocator keeps differs by less
NOT_READING_S = 20          # enough for more than a server keeps for one who does not read
KINDS = {"read": 74, "slow": 8, "cancel": 15, "not reading": 3}


class Away:
    """When there was no model, or none that takes requests."""

    def __init__(self):
        self.since, self.until = None, -1.0

    def begin(self):
        self.since = time.monotonic()

    def end(self):
        self.since, self.until = None, time.monotonic()

    def touches(self, start):
        """Whether it was so at any time since then."""
        return self.since is not None or self.until >= start


class Mix(Crowd):
    """The crowd of test_load.py, which here may find no model, and is sometimes told to wait outside."""

    def __init__(self, server, form, solo, flood):
        super().__init__(server, form, solo, random.Random(2))
        self.flood, self.away, self.open, self.busy = flood, Away(), asyncio.Event(), 0
        self.over = False
        self.count = dict.fromkeys(("completed", "slow", "cancelled", "not reading", "cut off by an unload",
                                    "told to come again", "refused: no model", "unloads", "failed loads"), 0)
        self.open.set()

    # ---- clients ----

    async def refused(self, reply, start):
        """Whether it was, for a good reason."""
        if reply.status == 429:
            self.count["told to come again"] += 1
            await asyncio.sleep(int(reply.header("Retry-After")) * self.rng.uniform(0.5, 1.5))
        elif reply.status == 503:
            assert self.away.touches(start), f"no model was unloaded: {bytes(reply.raw)}"
            self.count["refused: no model"] += 1
            await asyncio.sleep(self.rng.uniform(0.1, 0.5))
        return reply.status in (429, 503)

    def is_cut_off(self, reply, want, start):
        """A stream that a model's unload has ended before its time: it says so, and is right up to there."""
        *events, last, _ = reply.content().split(b"\n\n")
        if not last.startswith(b'data: {"error"') or not self.away.touches(start):
            return False
        finish = json.loads(events.pop().removeprefix(b"data: "))["choices"][0]["finish_reason"]
        if finish != "abort" or b"was unloaded before" not in last:
            return False
        if len(events) > 1:  # one that was still waiting begins for the sake of its end
            assert want.startswith(b"\n\n".join([*events, b""])), f"expected\n{want}\ngot\n{reply.content()}"
        self.count["cut off by an unload"] += 1
        return True

    async def complete(self, i, slow):
        path, body, want = self.solo[i]
        start = time.monotonic()
        async with Client(self.server.port, path, body, narrow=slow) as c:
            if slow:
                while await c.read(600):
                    await asyncio.sleep(self.rng.uniform(0, 0.04))
            reply = await c.read_all()
        if await self.refused(reply, start) or body["stream"] and self.is_cut_off(reply, want, start):
            return
        assert reply.status == 200, bytes(reply.raw)
        assert reply.content() == want, f"{path} {body}: expected\n{want}\ngot\n{reply.content()}"
        self.count["slow" if slow else "completed"] += 1

    async def cancel(self, i):
        path, body, want = self.solo[i]
        start = time.monotonic()
        async with Client(self.server.port, path, body) as c:
            await read_some(c, self.rng, len(want))
        if await self.refused(c.reply, start):
            return
        assert c.reply.status in (0, 200), bytes(c.reply.raw)
        assert not body["stream"] or self.away.touches(start) or want.startswith(c.reply.whole_events()), c.reply.raw
        self.count["cancelled"] += 1

    async def not_reading(self):
        """Then reads what there is, be it all, or so much that the server has given up on it."""
        start = time.monotonic()
        async with Client(self.server.port, *FLOOD, narrow=True) as c:
            while time.monotonic() < start + NOT_READING_S and self.open.is_set():
                await asyncio.sleep(0.2)
            reply = await c.read_all()
        if await self.refused(reply, start) or self.is_cut_off(reply, self.flood, start):
            return
        *events, last, _ = reply.content().split(b"\n\n")
        assert last == b"data: [DONE]" or json.loads(last[6:])["error"]["type"] == "slow_reader", last
        assert self.flood.startswith(b"\n\n".join([*events, b""])), "not what another one got"
        self.count["not reading"] += 1

    async def client(self):
        while not self.over:
            await self.open.wait()
            self.busy += 1
            kind, i = self.rng.choices(list(KINDS), list(KINDS.values()))[0], self.rng.randrange(len(self.solo))
            if kind == "cancel":
                await self.cancel(i)
            elif kind == "not reading":
                await self.not_reading()
            else:
                await self.complete(i, kind == "slow" and len(self.solo[i][2]) < 60000)
            self.busy -= 1

    # ---- the administrator ----

    async def post(self, what, body):
        return await asyncio.to_thread(self.server.ask, "POST", "/v1/admin/" + what, body)

    async def unload(self, timeout):
        self.away.begin()
        status, reply = await self.post("unload", {"timeout": timeout})
        assert status == 200, reply
        self.count["unloads"] += 1

    async def load(self, model):
        status, reply = await self.post("load", {"model": model})
        if model == "damaged":
            assert (status, reply["error"]["type"]) == (400, "st_truncated"), reply
            self.count["failed loads"] += 1
        else:
            assert status == 200, reply
            self.away.end()

    async def reload(self):
        """Now and then nobody is waited for, or a model is damaged."""
        await self.unload(self.rng.choice((0.2, 2, 60)))
        await asyncio.sleep(self.rng.uniform(0, 2))
        if self.rng.random() < 0.3:
            await self.load("damaged")
        await self.load("good")


# ---- what is left ----

def open_files(server):
    return {rank: len(os.listdir(f"/proc/{pid}/fd")) for rank, pid in sorted(ranks_of(server.process.pid).items())}


async def least_files(server):
    """Connections are closed a moment after their clients have gone."""
    found = []
    for _ in range(20):
        found.append(open_files(server))
        await asyncio.sleep(0.1)
    return {rank: min(files[rank] for files in found) for rank in found[0]}


async def look(mix):
    """(resident bytes, open files) of every rank while nobody asks. Of a model that is loaded more is
    resident the more of its KV cache was ever written to."""
    mix.open.clear()
    while mix.busy:
        await asyncio.sleep(0.05)
    await asyncio.to_thread(check_all_free, mix.server)
    await mix.unload(60)
    found = memory(mix.server), await least_files(mix.server)
    await mix.load("good")
    mix.open.set()
    return found


def row(words):
    print("  ".join(str(w).rjust(n) for w, n in zip(words, (7, 9, 7, 8, *[12] * 4))), flush=True)


def print_look(seconds, mix, found):
    size, files = found
    row([f"{seconds:.0f}", mix.count["completed"] + mix.count["slow"], mix.count["cancelled"], mix.count["unloads"],
         *(f"{n / 1e6:.2f} MB" for n in size.values()), *files.values()])


def progress(start, seconds, mix):
    if sys.stderr.isatty():
        passed = time.monotonic() - start
        print(f"\r{passed:.0f} of {seconds:.0f} s, {sum(mix.count.values())} requests, {mix.busy} under way ",
              end="", file=sys.stderr, flush=True)


# ---- all of it ----

async def watch(mix, seconds):
    """Plays the administrator, and looks at what is left."""
    start, looks, n = time.monotonic(), [], max(3, min(LOOKS, int(seconds / LOOK_EACH_S)))
    row(["seconds", "answered", "gone", "unloads", "memory 0", "memory 1", "files 0", "files 1"])
    reload_at = start + 5
    while len(looks) < n:
        progress(start, seconds, mix)
        now = time.monotonic()
        if now >= reload_at:
            await mix.reload()
            reload_at = time.monotonic() + mix.rng.uniform(2, 20)
        elif now >= start + seconds * (len(looks) + 1) / n:
            looks.append(await look(mix))
            if sys.stderr.isatty():
                print("\r\033[K", end="", file=sys.stderr)
            print_look(time.monotonic() - start, mix, looks[-1])
        else:
            await asyncio.sleep(0.2)
    mix.over = True
    return looks


def check_flat(server, looks):
    (before, files_before), (after, files_after) = looks[0], looks[-1]
    assert sorted(after) == [0, 1], after
    assert files_after == files_before, f"open files: {files_before}, then {files_after}"
    if not is_sanitized(server):  # they keep what is freed
        for rank, size in after.items():
            assert size - before[rank] < GROWTH, f"rank {rank} has grown by {size - before[rank]} bytes"


async def soak(server, seconds):
    form = Form(short=seconds < SECONDS)
    solo, flood = await solo_runs(server, form)
    mix = Mix(server, form, solo, flood)
    async with asyncio.TaskGroup() as group:
        for _ in range(form.clients):
            group.create_task(mix.client())
        looks = await watch(mix, seconds)
    for name, n in mix.count.items():
        print(f"{name:20} {n:8}")
    sys.stdout.flush()
    check_flat(server, looks)
    await check_all_places(server)
    check_all_free(server)


def make_models(folder):
    """Paths of a root and of the model in it that is loaded first."""
    chatty, root = os.path.join(folder, "chatty"), os.path.join(folder, "root")
    os.mkdir(chatty)
    chatty_model(chatty)
    for name in ("good", "damaged"):
        shutil.copytree(chatty, os.path.join(root, name))
    weights = os.path.join(root, "damaged", "model.safetensors")
    os.truncate(weights, os.path.getsize(weights) - 100)
    return root, os.path.join(root, "good")


def main(seconds):
    with tempfile.TemporaryDirectory(prefix="lockstep-soak.") as folder:
        root, model = make_models(folder)
        server = Server("--model-root", root, "--model", model, "--threads", "1", "--max-batch", str(BATCH),
                        "--prefill-chunk", "64", "--max-waiting", str(BATCH))
        asyncio.run(soak(server, seconds))
        code, said = server.stop()
    assert code == 0, said[-4000:]


if __name__ == "__main__":
    test_server.LOCKSTEP, test_server.MPIRUN = os.path.abspath(sys.argv[1]), sys.argv[2]
    main(float(sys.argv[3]) if len(sys.argv) > 3 else SECONDS)
