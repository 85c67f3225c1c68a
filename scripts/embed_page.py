#!/usr/bin/env python3
"""The web page as C: its bytes, and the Content-Security-Policy that lets in its own inline style and
script, by their hashes, and nothing else.

    embed_page.py PAGE.html OUT.c
"""
import base64
import hashlib
import re
import sys


def hashes(page, tag):
    found = re.findall(rb"<%b>(.*?)</%b>" % (tag, tag), page, re.S)
    return " ".join("'sha256-%s'" % base64.b64encode(hashlib.sha256(x).digest()).decode() for x in found)


def main():
    with open(sys.argv[1], "rb") as f:
        page = f.read()
    policy = ("default-src 'none'; script-src %s; style-src %s; connect-src 'self'; img-src data:; "
              "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
              % (hashes(page, b"script"), hashes(page, b"style")))
    with open(sys.argv[2], "w", encoding="ascii") as f:
        f.write('#include "serve/page.h"\n\nconst unsigned char page_html[] = {\n')
        for at in range(0, len(page), 20):
            f.write("".join(f"{b}," for b in page[at : at + 20]) + "\n")
        f.write(f'}};\nconst size_t page_size = sizeof page_html;\nconst char page_policy[] = "{policy}";\n')


if __name__ == "__main__":
    main()
