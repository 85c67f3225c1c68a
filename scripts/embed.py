#!/usr/bin/env python3
"""A file as C: its bytes, and for a page the Content-Security-Policy that lets in its own inline style and
script, by their hashes, and nothing else. src/serve/embedded.h declares them.

    embed.py page.html OUT.c       page_html[], page_html_size and page_html_policy[]
    embed.py openapi.json OUT.c    openapi_json[] and openapi_json_size
"""
import base64
import hashlib
import os
import re
import sys


def hashes(page, tag):
    found = re.findall(rb"<%b>(.*?)</%b>" % (tag, tag), page, re.S)
    return " ".join("'sha256-%s'" % base64.b64encode(hashlib.sha256(x).digest()).decode() for x in found)


def policy(page):
    return ("default-src 'none'; script-src %s; style-src %s; connect-src 'self'; img-src data:; "
            "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
            % (hashes(page, b"script"), hashes(page, b"style")))


def main():
    with open(sys.argv[1], "rb") as f:
        data = f.read()
    name = os.path.basename(sys.argv[1]).replace(".", "_")
    with open(sys.argv[2], "w", encoding="ascii") as f:
        f.write(f'#include "serve/embedded.h"\n\nconst unsigned char {name}[] = {{\n')
        for at in range(0, len(data), 20):
            f.write("".join(f"{b}," for b in data[at : at + 20]) + "\n")
        f.write(f"}};\nconst size_t {name}_size = sizeof {name};\n")
        if name.endswith("_html"):
            f.write(f'const char {name}_policy[] = "{policy(data)}";\n')


if __name__ == "__main__":
    main()
