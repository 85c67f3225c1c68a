#!/usr/bin/env python3
"""Run lockstep under a real Slurm: one node and two, srun and sbatch, exit codes, a rank that dies.

    test_slurm.py LOCKSTEP

Exits 77, with the reason, where no cluster can be brought up.
"""
import glob
import http.client
import json
import os
import signal
import subprocess
import sys
import time
import unittest

from cluster import Cluster, Unavailable, require

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SBATCH = os.path.join(ROOT, "scripts", "slurm", "lockstep.sbatch")
# One core a rank: the virtual nodes do not know that they share this machine's cores, and lockstep
# would start as many threads on each as the whole machine can run.
SRUN = ["srun", "--mpi=pmix", "--kill-on-bad-exit=1", "--cpus-per-task=1"]
SERVE_SBATCH = os.path.join(ROOT, "scripts", "slurm", "lockstep-serve.sbatch")
# Stands in for a server of two ranks: says where it listens, and takes its time to end.
SERVER = """#!/usr/bin/env python3
import os, signal, sys, time
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
rank, words = os.environ["SLURM_PROCID"], sys.argv
if rank == "0":
    with open(words[words.index("--port-file") + 1], "w") as f:
        f.write("127.0.0.1:1")
end = time.monotonic() + 30
while not asked and time.monotonic() < end:
    time.sleep(0.02)
time.sleep(1)
print("rank", rank, "drained" if asked else "waited in vain", *words[1:2], *words[-2:])
sys.exit(3 if rank == "0" else 0)
"""
PROMPT = ["--prompt", "In the beginning", "--max-tokens", "24"]
LOCKSTEP = None


def ranks_of(lockstep, node):
    """Pids of lockstep processes that a virtual node runs (its host name tells whose they are)."""
    pids = []
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        try:
            with open(path, "rb") as f:
                words = f.read().split(b"\0")
            with open(os.path.dirname(path) + "/environ", "rb") as f:
                environment = f.read().split(b"\0")
        except OSError:
            continue
        if words[0] == lockstep.encode() and f"SLURMD_NODENAME={node}".encode() in environment:
            pids.append(int(os.path.basename(os.path.dirname(path))))
    return pids


def ask(port, method, path, body=None):
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    c.request(method, path, body and json.dumps(body), {"Connection": "close"})
    return c.getresponse()


class TestSlurm(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.cluster = Cluster(nodes=2)
        cls.enterClassContext(cls.cluster)
        cls.expected = subprocess.run([LOCKSTEP, "generate", *PROMPT], text=True, check=True,
                                      stdin=subprocess.DEVNULL, capture_output=True).stdout

    def run_ok(self, command, **options):
        done = self.cluster.run(command, **options)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        return done.stdout

    def submit(self, options, words):
        """(exit code, stdout, stderr) of the sbatch script, run to its end."""
        folder = self.cluster.path(f"job-{time.monotonic_ns()}")
        os.mkdir(folder)
        env = dict(self.cluster.env, LOCKSTEP=LOCKSTEP)
        job = self.run_ok(["sbatch", "--parsable", *options, SBATCH, *words], cwd=folder, env=env).strip()
        code = self.cluster.wait_for_job(job, 60)
        text = {}
        for end in ("out", "err"):
            with open(os.path.join(folder, f"lockstep-{job}.{end}"), encoding="utf-8") as f:
                text[end] = f.read()
        return code, text["out"], text["err"]

    def test_check_on_one_node(self):
        out = self.run_ok([*SRUN, "-N1", "-n2", LOCKSTEP, "check"])
        self.assertEqual(out.count("lab1"), 2, out)

    def test_check_on_two_nodes(self):
        out = self.run_ok([*SRUN, "-N2", "-n4", "--ntasks-per-node=2", LOCKSTEP, "check"])
        self.assertEqual((out.count("lab1"), out.count("lab2")), (2, 2), out)

    def test_generate_gives_the_same_text_everywhere(self):
        for layout in (["-N1", "-n2"], ["-N2", "-n2"]):
            with self.subTest(layout=layout):
                out = self.run_ok([*SRUN, *layout, LOCKSTEP, "generate", *PROMPT])
                self.assertEqual(out, self.expected)

    def test_sbatch_script(self):
        for options in ([], ["--nodes=2", "--ntasks-per-node=1"]):
            with self.subTest(options=options):
                code, out, err = self.submit(options, ["generate", *PROMPT])
                self.assertEqual((code, out), (0, self.expected), err)

    def test_sbatch_script_without_words_runs_the_demo(self):
        code, out, err = self.submit([], [])
        self.assertEqual(code, 0, err)
        self.assertTrue(out.startswith(self.expected.rstrip("\n")), out)

    def test_sbatch_script_of_the_server_drains(self):
        folder = self.cluster.path("serve")
        os.mkdir(folder)
        server = os.path.join(folder, "server")
        with open(server, "w", encoding="utf-8") as f:
            f.write(SERVER)
        os.chmod(server, 0o755)
        job = self.run_ok(["sbatch", "--parsable", SERVE_SBATCH, "--model", "a model"], cwd=folder,
                          env=dict(self.cluster.env, LOCKSTEP=server)).strip()
        port_file = os.path.join(folder, f"lockstep-serve-{job}.port")
        deadline = time.monotonic() + 20
        while not os.path.exists(port_file) and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.5)  # rank 1 may be slower to catch signals
        self.run_ok(["scancel", "--batch", "--signal=TERM", job])
        code = self.cluster.wait_for_job(job, 30)
        with open(os.path.join(folder, f"lockstep-serve-{job}.out"), encoding="utf-8") as f:
            out = sorted(f.read().splitlines())
        self.assertEqual(out, [f"rank {r} drained serve --model a model" for r in (0, 1)])
        self.assertEqual(code, 3)  # what the server says is what the job says
        self.assertFalse(os.path.exists(port_file))

    def serve(self, options, *words):
        """(job, folder, port) of a real server that is ready."""
        folder = self.cluster.path(f"serve-{time.monotonic_ns()}")
        os.mkdir(folder)
        job = self.run_ok(["sbatch", "--parsable", *options, SERVE_SBATCH, *words], cwd=folder,
                          env=dict(self.cluster.env, LOCKSTEP=LOCKSTEP)).strip()
        path = os.path.join(folder, f"lockstep-serve-{job}.port")
        deadline = time.monotonic() + 60
        while not os.path.exists(path) or not os.path.getsize(path):
            self.assertLess(time.monotonic(), deadline, "it does not listen")
            time.sleep(0.05)
        with open(path, encoding="utf-8") as f:
            port = int(f.read().rpartition(":")[2])
        with open(path.replace(".port", ".node"), encoding="utf-8") as f:
            self.assertEqual(f.read().strip(), self.cluster.names[0])
        while b'"ready"' not in ask(port, "GET", "/health").read():
            self.assertLess(time.monotonic(), deadline, "it does not become ready")
            time.sleep(0.05)
        return job, folder, port

    def test_the_real_server_drains(self):
        """On every way to end a job: the stream under way is finished, and then it exits with 0."""
        n = 300
        body = {"prompt": "And", "max_tokens": n, "ignore_eos": True, "stream": True, "temperature": 0}
        for options, cancel in (([], ["scancel", "--batch", "--signal=TERM"]), (["--nodes=2", "--ntasks-per-node=1"],
                                ["scancel"]), (["--time=1", "--signal=B:TERM@50"], None)):
            with self.subTest(options=options, cancel=cancel):
                job, folder, port = self.serve(options, "--isa", "generic", "--drain-timeout", "25")
                stream = ask(port, "POST", "/v1/completions", body)
                text = stream.read(100)
                if cancel:
                    self.run_ok([*cancel, job])
                text += stream.read()
                self.assertEqual(text.count(b'"finish_reason":null'), n, text[-500:])
                self.assertTrue(text.endswith(b"data: [DONE]\n\n"), text[-500:])
                self.assertEqual(self.cluster.wait_for_job(job, 90), 0)
                with open(os.path.join(folder, f"lockstep-serve-{job}.err"), encoding="utf-8") as f:
                    self.assertIn("lockstep: draining", f.read())
                self.assertEqual([n for n in os.listdir(folder) if n.endswith((".port", ".node"))], [])

    def test_exit_code_of_a_usage_error(self):
        words = ["generate", "--model", "/nonexistent", *PROMPT]
        done = self.cluster.run([*SRUN, "-N2", "-n2", LOCKSTEP, *words])
        self.assertEqual(done.returncode, 2, done.stderr)
        blame = [line for line in done.stderr.splitlines() if line.startswith("lockstep: ")]
        self.assertEqual(len(blame), 1, done.stderr)
        code, out, err = self.submit([], words)
        self.assertEqual((code, out), (2, ""), err)

    def test_a_killed_rank_ends_the_job_on_both_nodes(self):
        endless = ["generate", "--prompt", "And", "--ignore-eos", "--max-tokens", "900"]
        step = subprocess.Popen([*SRUN, "-N2", "-n2", LOCKSTEP, *endless], env=self.cluster.env,
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.DEVNULL)
        self.addCleanup(step.stdout.close)
        self.assertTrue(step.stdout.read(8))  # text is flowing: both nodes are in it
        victims = ranks_of(LOCKSTEP, "lab2")
        self.assertEqual(len(victims), 1)
        os.kill(victims[0], signal.SIGKILL)
        start = time.monotonic()
        self.assertNotEqual(step.wait(timeout=30), 0)
        self.assertLess(time.monotonic() - start, 15)
        self.assertEqual(ranks_of(LOCKSTEP, "lab1") + ranks_of(LOCKSTEP, "lab2"), [])


if __name__ == "__main__":
    LOCKSTEP = os.path.abspath(sys.argv.pop(1))
    try:
        require()
    except Unavailable as e:
        print(e)
        sys.exit(77)
    unittest.main(verbosity=2)
