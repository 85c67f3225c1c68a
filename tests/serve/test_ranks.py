#!/usr/bin/env python3
"""What `lockstep serve` says of its ranks and its requests, in /ranks and to Prometheus.

    test_ranks.py LOCKSTEP MPIRUN
"""
import concurrent.futures
import os
import re
import signal
import sys
import time
import unittest

import page_mock
import test_server
from test_server import OneServer, completion, ranks_of

WORLD = 2


class Asking(OneServer):
    def ranks(self):
        return self.server.ask("GET", "/ranks")[1]

    def fresh(self):
        """/ranks with numbers of the time after this call."""
        start = time.monotonic()
        while True:
            view = self.ranks()
            if view.get("age_seconds", 1e9) < time.monotonic() - start:
                return view
            self.assertLess(time.monotonic() - start, 30, view)
            time.sleep(0.1)

    def values(self, name):
        """{labels: value}"""
        text = self.server.ask("GET", "/metrics")[1]
        return {labels: float(value) for labels, value in
                re.findall(rf"^lockstep_{name}(?:{{([^}}]*)}})? (\S+)$", text, re.M)}

    def work(self, n=4, tokens=30):
        with concurrent.futures.ThreadPoolExecutor(n) as pool:
            done = list(pool.map(lambda i: self.server.ask("POST", "/v1/completions", completion(
                tokens=tokens, ignore_eos=True, seed=i, temperature=1)), range(n)))
        self.assertEqual([status for status, _ in done], [200] * n)


class Ranks(Asking):
    def test_numbers(self):
        before = self.fresh()
        self.work()
        after = self.fresh()
        self.assertEqual([r["rank"] for r in after["ranks"]], list(range(WORLD)))
        self.assertEqual(after["generated_tokens"] - before["generated_tokens"], 120)
        self.assertEqual((after["state"], after["errors"]), ("ready", []))
        for old, new in zip(before["ranks"], after["ranks"]):
            with self.subTest(rank=new["rank"]):
                for name in ("compute_seconds", "wait_seconds", "transfer_seconds", "collectives", "bytes_sent"):
                    self.assertGreaterEqual(new[name], old[name], name)
                for name in ("compute_seconds", "collectives", "bytes_sent"):
                    self.assertGreater(new[name], old[name], name)
                self.assertLess(0, new["ping_seconds"])
                self.assertLess(new["ping_seconds"], 5)
                self.assertLess(1 << 20, new["resident_bytes"])
                shares = [new[f"{name}_share"] for name in ("compute", "wait", "transfer")]
                self.assertTrue(all(0 <= share <= 1.01 for share in shares), shares)
                self.assertLessEqual(sum(shares), 1.01)
        with open(f"/proc/{self.server.leader()}/statm", encoding="ascii") as f:
            resident = int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        self.assertLess(abs(after["ranks"][0]["resident_bytes"] / resident - 1), 0.2)
        # Prometheus is told the same
        self.assertEqual(sorted(self.values("rank_collectives_total").values()),
                         sorted(float(r["collectives"]) for r in self.ranks()["ranks"]))

    def test_the_page_is_tested_against_this(self):
        """The server before which the page is tested says what this one does, under the same names."""
        self.work(1, 4)
        self.fresh()
        real = self.fresh()
        with page_mock.Mock() as mock:
            view = mock.view()
        self.assertEqual(set(view), set(real))
        self.assertEqual(set(view["ranks"][0]), set(real["ranks"][0]))
        for name in view:
            self.assertIs(type(view[name]), type(real[name]), name)

    def test_a_rank_that_is_late(self):
        """Rank 1 stands still for a while: rank 0 has waited as long."""
        late_s, rank1 = 1.0, ranks_of(self.server.process.pid)[1]
        before = self.fresh()["ranks"][0]
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            work = pool.submit(self.work, 1, 100)
            self.server.wait_for("num_requests_running", 1)
            os.kill(rank1, signal.SIGSTOP)
            time.sleep(late_s)
            os.kill(rank1, signal.SIGCONT)
            work.result()
        after = self.fresh()["ranks"][0]
        self.assertGreater(after["wait_seconds"] - before["wait_seconds"], 0.8 * late_s)

    def test_times_of_a_request(self):
        def sums():
            return {name: (sum(self.values(name + "_sum").values()), sum(self.values(name + "_count").values()))
                    for name in ("e2e_request_latency_seconds", "request_queue_time_seconds",
                                 "request_prefill_time_seconds", "request_decode_time_seconds",
                                 "time_to_first_token_seconds", "inter_token_latency_seconds")}
        before = sums()
        self.work(3, 20)
        grown = {name: [b - a for a, b in zip(before[name], pair)] for name, pair in sums().items()}
        whole, *parts = (grown[name][0] for name in
                         ("e2e_request_latency_seconds", "request_queue_time_seconds",
                          "request_prefill_time_seconds", "request_decode_time_seconds"))
        self.assertAlmostEqual(whole, sum(parts), delta=0.1 * whole)
        self.assertAlmostEqual(grown["time_to_first_token_seconds"][0], sum(parts[:2]), places=6)
        self.assertAlmostEqual(grown["inter_token_latency_seconds"][0], parts[2], places=6)
        self.assertEqual(grown["inter_token_latency_seconds"][1], 3 * 19)
        self.assertEqual(grown["request_queue_time_seconds"][1], 3)

    def test_nobody_is_asked_for_nothing(self):
        """An idle server asks its ranks once for who looks, and not again."""
        self.fresh()
        time.sleep(1.2)
        before = sum(self.values("rank_collections_total").values())    # asks
        time.sleep(2.5)
        self.assertEqual(sum(self.values("rank_collections_total").values()), before + 1)

    def test_tokens_per_second(self):
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            work = pool.submit(self.work, 2, 120)
            seen = 0
            while not work.done():
                seen = max(seen, self.ranks().get("tokens_per_second", 0))
                time.sleep(0.1)
            work.result()
        self.fresh()
        self.assertGreater(max(seen, self.ranks()["tokens_per_second"]), 1)


if __name__ == "__main__":
    test_server.LOCKSTEP, test_server.MPIRUN = os.path.abspath(sys.argv[1]), sys.argv[2]
    unittest.main(argv=sys.argv[:1], verbosity=2)
