#!/usr/bin/env python3
"""Lets one allocation after the other find no memory, on each of three ranks: while a model loads, and
while a request runs.

    sweep.py LOCKSTEP MPIRUN INJECT [quick | full]

A load then fails with an error that names the rank, the server has no model, and the next load works.
A request fails alone, or the server ends with one line that names the rank; it never hangs.
"""
import os
import re
import shutil
import sys
import tempfile
import time

from clients import ask
from job import WORLD, Job, Mpirun

TINY = os.path.join(os.environ["LOCKSTEP_TEST_DATA"], "tiny-qwen3")
END_S = 6  # until a server that gives up has ended, with its second for last words
NEVER = 1 << 40
REQUESTS = [{"prompt": [1, 2, 3] * 20, "max_tokens": 4, "temperature": 0, "ignore_eos": True},
            {"prompt": [1, 2, 3], "max_tokens": 2, "temperature": 1, "logprobs": 2, "ignore_eos": True}]


def spread(n, end):
    """n numbers from 1 to end, or all of them."""
    return range(1, end + 1) if n >= end else sorted({1 + i * (end - 1) // max(n - 1, 1) for i in range(n)})


class Sweep:
    def __init__(self, lockstep, mpirun, inject):
        self.lockstep, self.launcher, self.inject = lockstep, Mpirun(mpirun), inject
        self.root = tempfile.mkdtemp(prefix="lockstep-sweep.")
        shutil.copytree(TINY, os.path.join(self.root, "tiny"))
        self.job, self.failures, self.counts = None, 0, {}
        self.started = self.hits = 0

    def close(self):
        if self.job:
            self.job.close()
        shutil.rmtree(self.root)

    def serve(self):
        """A server with the model, be it a new one."""
        if self.job and self.job.process.poll() is None:
            return
        if self.job:
            self.job.close()
        words = ["--model-root", self.root, "--model", os.path.join(self.root, "tiny"), "--max-batch", "2"]
        self.job = Job(self.launcher, self.lockstep, self.inject, words)
        self.started += 1
        self.job.wait_until("a port", lambda: self.job.read("port").endswith("\n"))
        self.job.port = int(self.job.read("port").rpartition(":")[2])
        self.wait_state("ready")

    def wait_state(self, state):
        self.job.wait_until(state, lambda: self.state() == state)

    def state(self):
        found = re.search(r'"status":"(\w+)"', ask(self.job.port, "GET", "/health").body)
        return found and found[1]

    def admin(self, what):
        return ask(self.job.port, "POST", f"/v1/admin/{what}", {"model": "tiny"} if what == "load" else None, 30)

    # ---- the allocation that fails ----

    def said(self, rank):
        return self.job.read(f"{rank}.out")

    def arm(self, rank, n):
        seen = self.said(rank).count("armed\n")
        self.job.order(rank, f"fail {n}")
        self.job.wait_until("an armed rank", lambda: self.said(rank).count("armed\n") > seen)
        self.before = self.said(rank).count("failed ")

    def disarm(self, rank):
        """Where the allocation was that failed, or None."""
        if self.job.process.poll() is None:
            seen = self.said(rank).count("armed\n")
            self.job.order(rank, "fail 0")
            deadline = time.monotonic() + 10
            while self.said(rank).count("armed\n") == seen and time.monotonic() < deadline and \
                    self.job.process.poll() is None:
                time.sleep(0.002)
        places = re.findall("failed (.*)", self.said(rank))
        self.hits += len(places) > self.before
        return places[-1] if len(places) > self.before else None

    def count(self, rank, work):
        """How many allocations there are in it."""
        self.arm(rank, NEVER)
        work()
        seen = self.said(rank).count("asked ")
        self.job.order(rank, "count")
        self.job.wait_until("a count", lambda: self.said(rank).count("asked ") > seen)
        self.disarm(rank)
        return int(re.findall(r"asked (\d+)", self.said(rank))[-1])

    def complain(self, what, rank, n, place, text):
        self.failures += 1
        print(f"FAIL {what}, rank {rank}, allocation {n} ({place}): {text}", flush=True)
        for line in self.job.read("log").splitlines()[-6:]:
            print("    | " + line, flush=True)

    # ---- loads ----

    def load(self):
        reply = self.admin("load")
        assert reply.status == 200, reply.body

    def sweep_load(self, rank, how_many):
        self.serve()
        self.admin("unload")
        total = self.count(rank, self.load)
        self.admin("unload")
        for n in spread(how_many, total):
            self.arm(rank, n)
            reply = self.admin("load")
            place = self.disarm(rank)
            text = self.judge_load(rank, reply, place)
            if text:
                self.complain("load", rank, n, place, text)
            self.serve()
            if self.state() == "ready":
                self.admin("unload")
        self.load()
        return total

    def judge_load(self, rank, reply, place):
        if self.job.process.poll() is not None or reply.status is None:
            return f"the server has ended, {reply.body or reply.trouble}"
        if reply.status == 200:
            return None  # it got on without, or never came so far
        error, state = reply.error(), self.state()
        if not place:
            return f"nothing failed, and the reply is {reply.status} {reply.body}"
        if (error.get("type"), error.get("rank")) != ("no_memory", rank):
            return f"the reply is {reply.status} {reply.body}"
        if state != "unloaded":
            return f"the server is {state}"
        return None

    # ---- requests ----

    def request(self):
        return [ask(self.job.port, "POST", "/v1/completions", body, 30) for body in REQUESTS]

    def sweep_request(self, rank, how_many):
        self.serve()
        self.request()  # what only the first one takes is in the loads' cells, or there is none
        total = self.count(rank, self.request)
        for n in spread(how_many, total):
            self.serve()
            self.arm(rank, n)
            replies = self.request()
            place = self.disarm(rank)
            text = self.judge_request(rank, replies, place)
            if text:
                self.complain("request", rank, n, place, text)
        return total

    def judge_request(self, rank, replies, place):
        bad = [r for r in replies if r.status != 200]
        if not bad and self.job.process.poll() is None:
            return None
        if not place:
            return f"nothing failed, and the replies are {[(r.status, r.body) for r in replies]}"
        error = bad[0].error() if bad else {}
        if error.get("type") != "no_memory":
            return f"the reply is {bad[0].status} {bad[0].body or bad[0].trouble}" if bad else "it has ended"
        if len(bad) == 1 and self.state() == "ready":
            return None
        if not self.job.wait_end(time.monotonic() + END_S):
            return f"still there: {self.job.running()}"
        if [(b[0], b[2]) for b in self.job.blame()] != [(rank, "no_memory")]:
            return f"blame: {self.job.blame()}"
        return None


def main(lockstep, mpirun, inject, what="quick"):
    sweep = Sweep(lockstep, mpirun, inject)
    start = time.monotonic()
    try:
        for rank in range(WORLD):
            n_load = {"quick": 30, "full": 600}[what]
            n_request = {"quick": 10, "full": 100}[what]
            loads = sweep.sweep_load(rank, n_load)
            requests = sweep.sweep_request(rank, n_request)
            if not loads or (rank == 0 and not requests) or not sweep.hits:
                sweep.complain("all", rank, 0, None, "nothing was counted, or nothing failed: this tests nothing")
            print(f"rank {rank}: {min(n_load, loads)} of the {loads} allocations of a load, "
                  f"{min(n_request, requests)} of the {requests} of two requests", flush=True)
    finally:
        sweep.close()
    print(f"{sweep.failures} failed, {sweep.started} servers, {time.monotonic() - start:.0f} s")
    return 1 if sweep.failures else 0


if __name__ == "__main__":
    sys.exit(main(os.path.abspath(sys.argv[1]), sys.argv[2], os.path.abspath(sys.argv[3]), *sys.argv[4:]))
