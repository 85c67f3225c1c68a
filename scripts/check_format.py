#!/usr/bin/env python3
"""Check the C sources against .clang-format. Exits 77 (skip) without clang-format 14, the version
whose output is the project's: others disagree with it in details.

    check_format.py         says which files differ
    check_format.py --fix   formats them
"""
import os
import re
import subprocess
import sys

VERSION = "14"
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def find_clang_format():
    """(program, None), or (None, why not)."""
    seen = []
    for program in (f"clang-format-{VERSION}", "clang-format"):
        try:
            out = subprocess.run([program, "--version"], capture_output=True, text=True).stdout
        except FileNotFoundError:
            continue
        match = re.search(r"version (\d+)", out)
        if match and match[1] == VERSION:
            return program, None
        seen.append(out.strip())
    return None, f"needs clang-format {VERSION}; " + ("here: " + seen[0] if seen else "there is none")


def sources():
    for top in ("src", "include", "tests", "examples"):
        for folder, _, names in os.walk(os.path.join(ROOT, top)):
            yield from (os.path.join(folder, n) for n in sorted(names) if n.endswith((".c", ".h")))


def main():
    program, why = find_clang_format()
    if not program:
        print(why)
        return 77
    fix = sys.argv[1:] == ["--fix"]
    mode = ["-i"] if fix else ["--dry-run", "-Werror"]
    return subprocess.run([program, "--style=file", *mode, *sources()], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
