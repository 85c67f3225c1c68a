#!/usr/bin/env python3
"""`lockstep serve` with --device cuda: many at once give what the host gives one by one, a client that goes
away leaves nothing behind, and the model comes and goes. The simulated device finds nothing.

    test_serve.py LOCKSTEP MPIRUN MODEL
"""
import concurrent.futures
import os
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "serve"))
import test_server  # noqa: E402
from test_server import Server, completion  # noqa: E402
from worlds import WORLDS  # noqa: E402

NP = max(n for n in WORLDS if n <= 2)
# Prompts of other lengths, and two that need all logits.
BODIES = [completion("In the beginning" + " God" * i, 5 + i, ignore_eos=True,
                     **({"logprobs": 2} if i % 3 == 2 else {})) for i in range(6)]


def texts(server, at_once):
    def ask(body):
        status, got = server.ask("POST", "/v1/completions", body)
        assert status == 200, got
        return got["choices"][0]["text"]
    with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
        return list(pool.map(ask, BODIES))


class Serve(unittest.TestCase):
    def test_as_the_host(self):
        host = Server("--device", "host", "--model", MODEL, np=1)
        want = texts(host, 1)
        host.stop()
        with tempfile.TemporaryDirectory() as folder:
            report = os.path.join(folder, "report")
            os.environ["GPUSIM_REPORT"] = report
            server = Server("--device", "cuda", "--dtype", "f32", "--model", MODEL, "--prefill-chunk", "7", np=NP)
            self.assertEqual(server.ask("GET", "/ranks")[1]["device"], "cuda")
            self.assertEqual(texts(server, 1), want)
            self.assertEqual(texts(server, len(BODIES)), want)
            gone = server.connect()
            gone.request("POST", "/v1/completions", '{"prompt": "a", "max_tokens": 400, "ignore_eos": true}')
            server.wait_for("num_requests_running", 1)
            gone.close()
            server.wait_for("num_requests_running", 0)
            self.assertEqual(server.metric("kv_cache_usage_perc"), 0)
            status, got = server.ask("POST", "/v1/admin/unload")
            self.assertEqual((status, got["status"]), (200, "unloaded"), got)
            self.assertEqual(server.ask("POST", "/v1/admin/load")[0], 200)
            self.assertEqual(texts(server, len(BODIES)), want)
            code, said = server.stop()
            self.assertFalse(os.path.exists(report), said)
        self.assertEqual(code, 0, said)
        self.assertNotIn("gpusim:", said)


if __name__ == "__main__":
    test_server.LOCKSTEP, test_server.MPIRUN = os.path.abspath(sys.argv[1]), sys.argv[2]
    MODEL = sys.argv[3]
    unittest.main(argv=sys.argv[:1], verbosity=2)
