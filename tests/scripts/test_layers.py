#!/usr/bin/env python3
"""scripts/check_layers.py lets every allowed include through and names each that is not."""
import os
import subprocess
import sys
import tempfile
import unittest

SCRIPT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../scripts/check_layers.py")


class TestLayers(unittest.TestCase):
    def check(self, files):
        """(exit code, output) for {path: text} as a source tree."""
        with tempfile.TemporaryDirectory() as src:
            for path, text in files.items():
                path = os.path.join(src, path)
                os.makedirs(os.path.dirname(path), exist_ok=True)
                with open(path, "w", encoding="utf-8") as f:
                    f.write(text)
            done = subprocess.run([sys.executable, SCRIPT, src], capture_output=True, text=True,
                                  check=False)
            self.assertEqual(done.stderr, "")
            return done.returncode, done.stdout

    def test_downward_and_sideways(self):
        code, out = self.check({
            "nn/mlp.c": '#include "nn/mlp.h"\n#include <stdio.h>\n#include "base/error.h"\n',
            "device/host/kernels.c": '  #  include "device/device.h"\n',
            "cli/main.c": '#include "config.h"\n#include "serve/http.h"\n',
            "leader/engine.c": '#include "lockstep/lockstep.h"\n',
        })
        self.assertEqual((code, out), (0, "6 includes, none upward\n"))

    def test_each_fault_is_named(self):
        for path, header in (
            ("base/error.c", "format/json.h"),
            ("rpc/message.h", "leader/pool.h"),
            ("nn/mlp.c", "mlp.h"),
            ("nn/mlp.c", "../base/error.h"),
            ("nn/mlp.c", "lockstep/lockstep.h"),
            ("extra/thing.c", "base/error.h"),
        ):
            with self.subTest(path=path, header=header):
                code, out = self.check({path: f'\n#include "{header}"\n', "nn/mlp.h": ""})
                self.assertEqual(code, 1)
                self.assertIn(path, out)

    def test_an_empty_tree_is_no_success(self):
        self.assertEqual(self.check({"base/error.h": "\n"})[0], 1)


if __name__ == "__main__":
    unittest.main()
