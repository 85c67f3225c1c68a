#!/usr/bin/env python3
"""--device and its options, and what the ranks agree on: with no plug-in, with one that is not ours,
and with a fake one whose GPUs say what the environment tells them (fake_plugin.c).

    test_device.py LOCKSTEP MPIRUN FAKE_PLUGIN ANOTHER_LIBRARY
"""
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import unittest

HOST = socket.gethostname()
LINE = "lockstep: every rank computes on the host, CUDA is not used: "


def launch(*args, np=None, fake=None, **env):
    """fake: settings of the fake plug-in; None: LOCKSTEP_PLUGIN_DIR is the caller's business."""
    settings = {"FAKE_CUDA_" + key: str(value) for key, value in (fake or {}).items()}
    if fake is not None:
        settings["LOCKSTEP_PLUGIN_DIR"] = os.path.dirname(FAKE)
        settings["LD_LIBRARY_PATH"] = DRIVER
    command = [MPIRUN, "-n", str(np)] if np else []
    return subprocess.run([*command, LOCKSTEP, *args], stdin=subprocess.DEVNULL, text=True, timeout=60,
                          capture_output=True, check=False,
                          env={"ASAN_OPTIONS": "detect_leaks=0", **os.environ, **settings, **env})


def ours(done):
    return [line for line in done.stderr.splitlines() if line.startswith("lockstep")]


def fake_lines(done):
    return sorted(line for line in done.stderr.splitlines() if line.startswith("fake"))


class Base(unittest.TestCase):
    def check(self, *args, **options):
        """A check that succeeds: (its JSON, lockstep's lines of stderr)."""
        done = launch("check", "--json", *args, **options)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        return json.loads(done.stdout), ours(done)

    def refuse(self, code, line, *args, **options):
        """An end with this code and exactly this line; a list: a line with all these words. On a busy machine
        a rank may not be done in time, which is worth a warning."""
        done = launch(*args, **options)
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        said = [l for l in ours(done) if not l.startswith("lockstep: warning: rank 0: shutdown: ")]
        self.assertEqual(len(said), 1, done.stderr)
        if isinstance(line, str):
            self.assertEqual(said[0], "lockstep: " + line)
        for words in line if isinstance(line, list) else []:
            self.assertIn(words, said[0])
        return done


class Options(Base):
    def test_bad_ones(self):
        for words, args in (
                ("--device gpu: must be one of auto|host|cuda", ["--device", "gpu"]),
                ("--dtype f16: must be one of auto|bf16|f32", ["--dtype", "f16"]),
                ("--dtype bf16: the host computes in f32", ["--device", "host", "--dtype", "bf16"]),
                ("--quant q5: must be one of q8_0|q4_0", ["--quant", "q5"]),
                ("--quant q8_0 does not go with --device cuda",
                 ["--device", "cuda", "--quant", "q8_0"]),
                ("--cuda-devices: 'x' is not a number", ["--cuda-devices", "x"]),
                ("--cuda-devices: the list is empty", ["--cuda-devices="]),
                ("there is no -1", ["--cuda-devices=0,-1"]),
                ("does not go with --device host", ["--device", "host", "--cuda-devices", "0"]),
                ("--no-cuda-graphs takes no value", ["--no-cuda-graphs=1"])):
            with self.subTest(args=args):
                self.refuse(2, [words], "check", *args)

    def test_a_list_has_one_entry_per_rank_of_the_host(self):
        for np, devices, words in ((4, "0,1,2", "expected 4 entries, got 3"),
                                   (1, "0,1", "expected 1 entries, got 2")):
            done = self.refuse(2, ["usage", "--cuda-devices: " + words, HOST], "check",
                               "--cuda-devices", devices, np=np, fake={})
            self.assertEqual(done.stdout, "")

    def test_f32_is_the_hosts_own(self):
        found, lines = self.check("--device", "host", "--dtype", "f32", "--no-cuda-graphs")
        self.assertEqual((found["device"], found["dtype"], lines), ("host", "f32", []))
        self.assertIsNone(found["ranks"][0]["why_not_cuda"])


class NoPlugin(Base):
    def setUp(self):
        self.folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.folder)
        self.path = os.path.join(self.folder, "lockstep-cuda.so")

    def test_none_is_there(self):
        why = ("no CUDA plug-in: %s: cannot open shared object file: No such file or directory"
               % self.path)
        env = {"LOCKSTEP_PLUGIN_DIR": self.folder, "LD_LIBRARY_PATH": DRIVER}
        self.refuse(3, f"device_failed: --device cuda: rank 0 ({HOST}): {why}",
                    "check", "--device", "cuda", **env)
        self.refuse(3, f"device_failed: --device cuda: all 3 ranks: {why}",
                    "generate", "--prompt", "x", "--device", "cuda", np=3, **env)
        done = self.refuse(3, [], "check", "--device", "cuda", np=2, **env)
        self.assertIn("cuda    not on any of 2 ranks: " + why, done.stdout)
        # auto: a driver is there, so this machine is meant to have GPUs
        done = launch("check", np=2, **env)
        self.assertEqual(done.returncode, 0)
        self.assertIn("cuda    not on any of 2 ranks: " + why, done.stdout)
        found, lines = self.check(np=2, **env)
        self.assertEqual([r["why_not_cuda"] for r in found["ranks"]], [why, why])
        self.assertEqual((found["device"], lines), ("host", [LINE + "all 2 ranks: " + why]))
        done = launch("generate", "--prompt", "x", "--max-tokens", "1", **env)
        self.assertEqual((done.returncode, ours(done)[0]), (0, f"{LINE}rank 0 ({HOST}): {why}"))

    def test_no_driver(self):
        """auto looks no further; who insists is told of the plug-in, and by it."""
        with open(os.path.join(self.folder, "libcuda.so.1"), "w", encoding="utf-8") as f:
            f.write("none " * 1000)
        done = launch("check", np=2, fake={"LOG": 1}, LD_LIBRARY_PATH=self.folder)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertIn("cuda    not on any of 2 ranks: no NVIDIA driver: ", done.stdout)
        self.assertIn("libcuda.so.1: invalid ELF header", done.stdout)
        done = launch("generate", "--prompt", "x", "--max-tokens", "1", "--log-level", "warn", np=2,
                      fake={}, LD_LIBRARY_PATH=self.folder)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.refuse(3, ["--device cuda: all 2 ranks: no NVIDIA driver: ", "; cudaGetDeviceCount: no"],
                    "check", "--device", "cuda", np=2, fake={"COUNT": 0}, LD_LIBRARY_PATH=self.folder)
        done = launch("check", "--device", "cuda", fake={"LOG": 1}, LD_LIBRARY_PATH=self.folder)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("fake: opened", fake_lines(done))

    def test_it_is_no_library(self):
        with open(self.path, "w", encoding="utf-8") as f:
            f.write("words " * 1000)
        self.refuse(3, ["does not load", self.path, "invalid ELF header"], "check", "--device",
                    "cuda", LOCKSTEP_PLUGIN_DIR=self.folder)

    def test_a_library_of_its_own_is_missing(self):
        """As on a machine without the toolkit."""
        with open(FAKE, "rb") as f:
            content = f.read()
        self.assertIn(b"\0libmpi.so", content)
        with open(self.path, "wb") as f:
            f.write(content.replace(b"\0libmpi.so", b"\0libmpX.so"))
        self.refuse(3, ["--device cuda", "does not load: libmpX.so",
                        "cannot open shared object file"],
                    "check", "--device", "cuda", LOCKSTEP_PLUGIN_DIR=self.folder)

    def test_it_has_no_table(self):
        shutil.copy(OTHER, self.path)
        self.refuse(3, ["does not load", "undefined symbol: lockstep_cuda_plugin"], "check",
                    "--device", "cuda", LOCKSTEP_PLUGIN_DIR=self.folder)

    def test_another_abi_or_build(self):
        for fake, words in (({"ABI": 7}, "plug-in ABI 7, this program has 3"),
                            ({"BUILD": "feedfacefeedface"}, "plug-in of build feedfacefeedface, ")):
            self.refuse(3, ["--device cuda", FAKE, words], "check", "--device", "cuda", fake=fake)
            found, lines = self.check(np=2, fake=fake)  # auto: it works, but says so
            self.assertEqual(found["device"], "host")
            self.assertEqual(len(lines), 1)
            self.assertTrue(lines[0].startswith(LINE + "all 2 ranks: "), lines)
            self.assertIn(words, lines[0])

    def test_one_rank_of_another_build(self):
        self.refuse(3, [f"--device cuda: rank 1 ({HOST}): ", "build other"], "check", "--device",
                    "cuda", np=2, fake={"BUILD_1": "other"})


class Search(Base):
    def test_beside_the_program(self):
        with tempfile.TemporaryDirectory() as folder:
            program = shutil.copy(LOCKSTEP, folder)
            shutil.copy(FAKE, folder)
            env = {k: v for k, v in os.environ.items() if k != "LOCKSTEP_PLUGIN_DIR"}
            env["LD_LIBRARY_PATH"] = DRIVER
            done = subprocess.run([program, "check", "--json"], capture_output=True, text=True,
                                  check=False, env={"ASAN_OPTIONS": "detect_leaks=0", **env})
            self.assertEqual(json.loads(done.stdout)["device"], "cuda", done.stderr)
            # a folder that is named is the only one
            env["LOCKSTEP_PLUGIN_DIR"] = "/nonexistent"
            done = subprocess.run([program, "check", "--json"], capture_output=True, text=True,
                                  check=False, env={"ASAN_OPTIONS": "detect_leaks=0", **env})
            self.assertEqual(json.loads(done.stdout)["device"], "host", done.stderr)

    def test_opened_only_when_wished_for(self):
        linked = subprocess.run(["ldd", LOCKSTEP], capture_output=True, text=True, check=True).stdout
        for name in ("libcuda", "libcudart", "libnccl", "libcublas"):
            self.assertNotIn(name, linked)
        for args in (["--version"], ["--help"], ["check", "--device", "host"], ["plan"]):
            done = launch(*args, fake={"LOG": 1})
            self.assertEqual((done.returncode, fake_lines(done)), (0, []), args)
        self.assertIn("fake: opened", fake_lines(launch("check", fake={"LOG": 1})))
        self.assertIn(FAKE, launch("--version", fake={}).stdout)
        self.assertIn("no plug-in", launch("--version", LOCKSTEP_PLUGIN_DIR="/nonexistent").stdout)


class Agreement(Base):
    def test_every_rank_can(self):
        for np in (None, 2, 4):
            for device in ("auto", "cuda"):
                found, lines = self.check("--device", device, np=np, fake={})
                n = np or 1
                self.assertEqual((found["device"], found["dtype"], lines), ("cuda", "bf16", []))
                self.assertEqual([r["device"] for r in found["ranks"]],
                                 [f"cuda:{i}" for i in range(n)])
                self.assertEqual([r["sum"] for r in found["ranks"]], [n] * n)
                first = found["ranks"][0]
                self.assertEqual(first["gpu"], {"name": "Fake GPU", "pci": "0000:10:00.0",
                                                "cc": "9.0", "memory": 80 << 30})
                self.assertEqual((first["gpus"], first["nccl"], first["why_not_cuda"]),
                                 (4, "2.28.9", None))

    def test_quantized_weights_are_the_hosts_own(self):
        self.refuse(2, ["unsupported", "--quant q4_0: quantized weights are for the host alone"],
                    "generate", "--quant", "q4_0", "--prompt", "x", np=2, fake={})

    def test_table(self):
        done = launch("check", np=2, fake={})
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        rows = [line.split() for line in done.stdout.splitlines() if "Fake GPU" in line]
        self.assertEqual(rows[1], ["1", "cuda:1", "Fake", "GPU", "9.0", "85.9", "GB",
                                   "0000:11:00.0", "2.28.9"])
        self.assertEqual(len(rows), 2)
        self.assertIn("arithmetic 'bf16'", done.stdout)

    def test_options_reach_the_device(self):
        done = launch("check", "--device", "cuda", "--timeout", "9", np=2, fake={"LOG": 1})
        self.assertEqual(fake_lines(done), [
            "fake: communicator of 2 ranks, id 1 to 128, polled"] * 2 + [
            "fake: device 0 bf16 graphs 1 sharers 1 timeout 9",
            "fake: device 1 bf16 graphs 1 sharers 1 timeout 9"] + ["fake: opened"] * 2)
        done = launch("check", "--dtype", "f32", "--no-cuda-graphs", fake={"LOG": 1})
        self.assertEqual(fake_lines(done), [
            "fake: communicator of 1 ranks, id 1 to 128, polled",  # one rank has NCCL, too
            "fake: device 0 f32 graphs 0 sharers 1 timeout 60", "fake: opened"])

    def test_generate_and_score(self):
        for args in (["generate", "--prompt", "In the", "--max-tokens", "6"],
                     ["score", "--text", "In the beginning"]):
            on_host = launch(*args, "--device", "host", np=2)
            on_fake = launch(*args, "--device", "cuda", "--dtype", "f32", np=2, fake={"LOG": 1})
            self.assertEqual((on_fake.returncode, on_fake.stdout), (0, on_host.stdout),
                             on_fake.stderr)
            self.assertEqual(len(fake_lines(on_fake)), 6)

    def test_a_kv_cache_of_another_type_than_the_arithmetic(self):
        for kv, dtype in (("f32", "bf16"), ("bf16", "f32")):
            self.refuse(2, f"unsupported: --kv-dtype {kv}: on a GPU the KV cache has the type of the arithmetic, "
                           f"{dtype} (--dtype)",
                        "generate", "--prompt", "x", "--device", "cuda", "--dtype", dtype, "--kv-dtype", kv, np=2,
                        fake={})
        done = launch("score", "--text", "In", "--device", "cuda", "--dtype", "f32", "--kv-dtype", "f32", np=2,
                      fake={})
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_a_model_that_a_gpu_cannot_hold(self):
        done = self.refuse(2, [f"rank 1 ({HOST}, cuda:1): no_memory: load: ", "97.7 KiB are free"],
                           "generate", "--prompt", "x", "--device", "cuda", np=2,
                           fake={"FREE_1": 100_000})
        self.assertRegex(done.stderr, r"\n +1  .* 97\.7 KiB  does not fit\n")

    def test_which_gpu(self):
        for args, fake, expect in (
                (["--cuda-devices", "3,1"], {}, ["cuda:3", "cuda:1"]),
                ([], {"COUNT": 1, "PCI_1": "0000:99:00.0"}, ["cuda:0", "cuda:0"])):
            found, _ = self.check("--device", "cuda", *args, np=2, fake=fake)
            self.assertEqual([r["device"] for r in found["ranks"]], expect)
        self.refuse(3, f"device_failed: --device cuda: rank 1 ({HOST}): --cuda-devices names GPU 4, "
                       "but this rank sees 4, counted from 0",
                    "check", "--device", "cuda", "--cuda-devices", "0,4", np=2, fake={})

    def test_a_rank_that_cannot(self):
        words = "cudaGetDeviceCount: CUDA driver version is insufficient for CUDA runtime version"
        fake = {"COUNT_ERROR_1": words, "COUNT_ERROR_2": words}
        who = f"ranks 1, 2 ({HOST}): {words}"
        self.refuse(3, f"device_failed: --device cuda: {who}", "check", "--device", "cuda", np=4,
                    fake=fake)
        found, lines = self.check(np=4, fake=fake)
        self.assertEqual(lines, [LINE + who])
        self.assertEqual((found["device"], found["dtype"], found["device_note"]),
                         ("host", "f32", who))
        self.assertEqual([r["device"] for r in found["ranks"]], ["host"] * 4)
        self.assertEqual([r["gpus"] for r in found["ranks"]], [4, -1, -1, 4])
        done = launch("check", np=4, fake=fake)
        self.assertIn("cuda    not on rank 1, 2: " + words, done.stdout)
        found, lines = self.check(np=2, fake={"COUNT_ERROR": words})
        self.assertEqual((found["device"], lines), ("host", [f"{LINE}all 2 ranks: {words}"]))
        self.refuse(3, f"device_failed: --device cuda: all 2 ranks: {words}", "check", "--device",
                    "cuda", np=2, fake={"COUNT_ERROR": words})

    def test_different_reasons(self):
        fake = {"COUNT_0": 0, "DESCRIBE_ERROR_2": "Tesla V100 has compute capability 7.0, not 8.0"}
        self.refuse(3, f"device_failed: --device cuda: rank 0 ({HOST}): cudaGetDeviceCount: no "
                       f"CUDA-capable device; rank 2 ({HOST}): Tesla V100 has compute capability 7.0, "
                       "not 8.0", "check", "--device", "cuda", np=3, fake=fake)

    def test_two_ranks_on_one_gpu(self):
        words = [f"ranks 0 and 2 on {HOST} have the same GPU", "Fake GPU at PCI 0000:10:00.0"]
        fake = {"COUNT": 2}
        self.refuse(3, ["--device cuda: ", *words], "check", "--device", "cuda", np=3, fake=fake)
        found, lines = self.check(np=3, fake=fake)
        self.assertEqual((found["device"], len(lines)), ("host", 1))
        for word in words:
            self.assertIn(word, lines[0])
        # NCCL can from 2.30 on, where it is told to
        fake = {"COUNT": 2, "NCCL": 23003, "LOG": 1}
        self.refuse(3, words, "check", "--device", "cuda", np=3, fake=fake)
        self.refuse(3, words, "check", "--device", "cuda", np=3, fake={"COUNT": 2},
                    NCCL_MULTI_RANK_GPU_ENABLE="1")
        done = launch("check", "--device", "cuda", np=3, fake=fake, NCCL_MULTI_RANK_GPU_ENABLE="1")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(sum("sharers 2" in line for line in fake_lines(done)), 3)

    def test_nccl_versions_differ(self):
        fake = {"NCCL": 22809, "NCCL_1": 22703}
        words = (f"the ranks' NCCL differs: rank 0 ({HOST}), rank 2 ({HOST}): 2.28.9; "
                 f"rank 1 ({HOST}): 2.27.3")
        self.refuse(3, "device_failed: --device cuda: " + words, "check", "--device", "cuda", np=3,
                    fake=fake)
        found, lines = self.check(np=3, fake=fake)
        self.assertEqual((found["device"], lines), ("host", [LINE + words]))

    def test_bf16_needs_a_gpu(self):
        self.refuse(2, "unsupported: --dtype bf16: every rank computes on the host, which has only "
                       "f32", "check", "--dtype", "bf16")


class Failures(Base):
    """After the agreement: one rank fails, all end, and the line names it."""

    def test_device(self):
        self.refuse(3, f"rank 1 ({HOST}, cuda:1): device_failed: init: out of memory", "check", np=3,
                    fake={"CREATE_ERROR_1": "out of memory"})

    def test_unique_id(self):
        self.refuse(3, f"rank 0 ({HOST}, cuda:0): nccl_init_failed: init: no interface", "check",
                    np=2, fake={"ID_ERROR": "no interface"})

    def test_communicator(self):
        words = "ncclCommInitRankConfig: unhandled system error"
        for rank in (0, 1, 2):
            start = time.monotonic()
            self.refuse(3, f"rank {rank} ({HOST}, cuda:{rank}): nccl_init_failed: init: {words}",
                        "generate", "--prompt", "x", "--timeout", "20", np=3,
                        fake={f"COMM_ERROR_{rank}": words, "COMM_HANG": 1})
            self.assertLess(time.monotonic() - start, 10)  # nobody sat out the deadline

    def test_communicator_of_one(self):
        self.refuse(3, f"rank 0 ({HOST}, cuda:0): nccl_init_failed: init: broken", "check",
                    fake={"COMM_ERROR": "broken"})

    def test_hang(self):
        start = time.monotonic()
        self.refuse(4, ["cuda:", "deadline: init: ncclCommInitRankConfig: still in progress"],
                    "check", "--timeout", "1", np=2, fake={"COMM_HANG": 1})
        self.assertLess(time.monotonic() - start, 1 + 5)

    def test_stuck_in_the_end(self):
        """The communicator breaks and cannot be ended: the reason is said all the same."""
        with tempfile.TemporaryDirectory() as folder:
            for np, rank in ((None, 0), (3, 0), (3, 2)):
                path = os.path.join(folder, "status.json")
                start = time.monotonic()
                self.refuse(3, f"rank {rank} ({HOST}, cuda:{rank}): comm_failed: sanity: remote error",
                            "check", "--timeout", "30", "--status-file", path, np=np,
                            fake={f"SUM_ERROR_{rank}": "remote error", "ABORT_HANG": 1})
                self.assertLess(time.monotonic() - start, 10)
                with open(path, encoding="utf-8") as f:
                    status = json.load(f)
                self.assertEqual((status["exit_code"], status["rank"], status["device"]),
                                 (3, rank, f"cuda:{rank}"))
                os.unlink(path)


if __name__ == "__main__":
    LOCKSTEP, MPIRUN, FAKE, OTHER = sys.argv[1:5]
    DRIVER = os.path.join(os.path.dirname(FAKE), "driver")
    unittest.main(argv=sys.argv[:1], verbosity=2)
