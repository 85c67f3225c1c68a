#!/usr/bin/env python3
"""Close a test run: what was skipped and why, what was left behind, and one line of counts.

    test_report.py [--left DIR]... [--failed WHAT]... LOG.json...

LOG.json are meson's test logs (one JSON object a line). WHAT is one more failure. DIRs are directories of the run that must be
empty by now; and no process may be left that carries this run's LOCKSTEP_TEST_RUN in its environment,
but this one and its ancestors. The last line is "N passed, N failed, N skipped". The exit is 1 if a
test failed, none passed, or something was left behind.
"""
import argparse
import json
import os
import sys
import time

PASSED, SKIPPED = {"OK", "EXPECTEDFAIL"}, {"SKIP"}


def read_log(path):
    try:
        with open(path, encoding="utf-8") as f:
            return [json.loads(line) for line in f]
    except FileNotFoundError:
        return []  # a suite of this build that holds no test yet


def reason(test):
    """The last thing that a skipped test printed."""
    text = (test.get("stdout") or "") + (test.get("stderr") or "")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"


def ancestors():
    pids, pid = set(), os.getpid()
    while pid > 0:
        pids.add(pid)
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as f:
            pid = int(f.read().rpartition(")")[2].split()[1])
    return pids


def processes_of(run):
    """[(pid, command)] of the processes that carry LOCKSTEP_TEST_RUN=run."""
    mark, found, ours = f"LOCKSTEP_TEST_RUN={run}".encode(), [], ancestors()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/environ", "rb") as f:
                carries = mark in f.read().split(b"\0")
            with open(f"/proc/{pid}/cmdline", "rb") as f:
                command = f.read().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:  # another user's, or gone by now
            continue
        if carries and command and int(pid) not in ours:
            found.append((int(pid), command))
    return found


def left_behind(directories):
    """Lines that say what outlived the run."""
    found = [os.path.join(d, name) for d in directories for name in sorted(os.listdir(d))]
    run = os.environ.get("LOCKSTEP_TEST_RUN")
    if run:
        deadline = time.monotonic() + 3  # an mpirun that was killed takes its ranks along, but not at once
        while processes_of(run) and time.monotonic() < deadline:
            time.sleep(0.1)
        found += [f"process {pid}: {command}" for pid, command in processes_of(run)]
    return found


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--left", action="append", default=[])
    parser.add_argument("--failed", action="append", default=[])
    parser.add_argument("logs", nargs="*")
    args = parser.parse_args()
    tests = [(path, t) for path in args.logs for t in read_log(path)]
    passed = sum(t["result"] in PASSED for _, t in tests)
    skipped = [(p, t) for p, t in tests if t["result"] in SKIPPED]
    failed = args.failed + [
        f"{build_of(p)}: {t['name']} ({t['result']})"
        for p, t in tests
        if t["result"] not in PASSED | SKIPPED
    ]
    left = left_behind(args.left)

    print()
    for path, t in skipped:
        print(f"skipped: {build_of(path)}: {t['name']}: {reason(t)}")
    for line in failed:
        print(f"failed: {line}")
    for line in left:
        print(f"left behind: {line}")
    print(f"{passed} passed, {len(failed) + len(left)} failed, {len(skipped)} skipped")
    return 1 if failed or left or not passed else 0


def build_of(path):
    return os.path.basename(os.path.dirname(os.path.dirname(path)))


if __name__ == "__main__":
    sys.exit(main())
