#!/usr/bin/env python3
"""The program and the library are built to make an attacker's work hard: what readelf sees of it.

    test_hardening.py PROGRAM LIBRARY [fortify]

"fortify": the build checks libc calls, which takes optimisation and no sanitizer.
"""
import re
import shutil
import subprocess
import sys
import unittest


def readelf(*words):
    return subprocess.run(["readelf", "-W", *words], capture_output=True, text=True, check=True).stdout


class TestHardening(unittest.TestCase):
    def each(self):
        for path in (PROGRAM, LIBRARY):
            with self.subTest(path):
                yield path

    def test_loads_anywhere(self):
        self.assertRegex(readelf("-h", PROGRAM), r"Type:\s+DYN")
        self.assertRegex(readelf("-d", PROGRAM), r"\(FLAGS_1\).*PIE")

    def test_no_table_of_pointers_stays_writable(self):
        for path in self.each():
            self.assertIn("GNU_RELRO", readelf("-l", path))
            self.assertRegex(readelf("-d", path), r"\(FLAGS_1\).*NOW")

    def test_no_memory_is_both_writable_and_executable(self):
        for path in self.each():
            headers = readelf("-l", path)
            self.assertRegex(headers, r"GNU_STACK.* RW ")
            for flags in re.findall(r"LOAD(?:\s+0x\w+){5} ([RWE ]{3})", headers):
                self.assertFalse("W" in flags and "E" in flags, flags)

    def test_stack_canaries(self):
        for path in self.each():
            self.assertIn("__stack_chk_fail", readelf("--dyn-syms", path))

    def test_checked_calls(self):
        if not FORTIFY:
            self.skipTest("not in this build")
        for path in self.each():
            self.assertRegex(readelf("--dyn-syms", path), r"__\w+_chk")

    def test_no_search_path_of_libraries_that_others_may_write(self):
        for path in self.each():
            for where in re.findall(r"\(R(?:UN)?PATH\).*\[(.*)\]", readelf("-d", path)):
                for folder in where.split(":"):
                    self.assertRegex(folder, r"^(/usr/|/lib|\$ORIGIN)")


if __name__ == "__main__":
    if not shutil.which("readelf"):
        print("there is no readelf")
        sys.exit(77)
    PROGRAM, LIBRARY = sys.argv[1:3]
    FORTIFY = "fortify" in sys.argv[3:]
    unittest.main(argv=sys.argv[:1])
