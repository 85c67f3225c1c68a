#!/usr/bin/env python3
"""Writes the header with the build id: a hash of what two ranks must have in common.

usage: build-id.py OUTPUT SOURCE_ROOT EXTRA...

EXTRA words (version, compiler) are hashed with the path and content of every file below src/ and
include/. The output is only touched when it changes, so that nothing is compiled again for it.
"""
import hashlib
import pathlib
import sys


def main():
    output, root = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    h = hashlib.sha256("\0".join(sys.argv[3:]).encode())
    for top in ("include", "src"):
        for path in sorted((root / top).rglob("*")):
            if path.is_file() and path.suffix in (".c", ".h", ".cu", ".cuh"):
                h.update(b"\0" + path.relative_to(root).as_posix().encode() + b"\0")
                h.update(path.read_bytes())
    text = '#define LOCKSTEP_BUILD_ID "%s"\n' % h.hexdigest()[:16]
    if not output.exists() or output.read_text() != text:
        output.write_text(text)


main()
