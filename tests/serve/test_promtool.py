#!/usr/bin/env python3
"""`promtool check metrics` of a server's /metrics, idle and at work. Exits 77 where there is none.

    test_promtool.py LOCKSTEP MPIRUN FOLDER     FOLDER: may hold promtool (scripts/fetch-promtool)
"""
import concurrent.futures
import os
import re
import shutil
import subprocess
import sys
import unittest

import test_server
from test_ranks import Asking


class Promtool(Asking):
    def check(self, text):
        done = subprocess.run([PROMTOOL, "check", "metrics"], input=text, capture_output=True, text=True,
                              timeout=60)
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "", ""), text)

    def test_promtool(self):
        self.check(self.server.ask("GET", "/metrics")[1])
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            work = pool.submit(self.work)
            while not work.done():
                self.check(self.server.ask("GET", "/metrics")[1])
            work.result()
        self.fresh()
        text = self.server.ask("GET", "/metrics")[1]
        self.check(text)
        self.assertIn('lockstep_rank_wait_seconds_total{rank="1",host="', text)
        # what it would not pass
        bad = re.sub(r"^# HELP lockstep_steps_total.*\n", "", text, flags=re.M)
        with self.assertRaises(AssertionError):
            self.check(bad)


if __name__ == "__main__":
    test_server.LOCKSTEP, test_server.MPIRUN = os.path.abspath(sys.argv[1]), sys.argv[2]
    PROMTOOL = shutil.which("promtool", path=os.environ["PATH"] + os.pathsep + sys.argv[3])
    if not PROMTOOL:
        print("no promtool here: scripts/fetch-promtool brings it")
        sys.exit(77)
    unittest.main(argv=sys.argv[:1], verbosity=2)
