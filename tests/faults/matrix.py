#!/usr/bin/env python3
"""Breaks `lockstep serve` at every rank in every phase, and holds what then happens to the promise.

    matrix.py LOCKSTEP MPIRUN INJECT [quick | crossed | sample | full | PHASE,EVENT,RANK,LAUNCHER ...]

A cell's words may be "*"; full is crossed and sample. Prints a table and, for cells that fail, what was promised and not kept.
"""
import itertools
import os
import signal
import sys
import time
from collections import Counter

from cell import CANCEL, DEATHS, FILES, HANGS, LINKS, MISERIES, NOBODY, PHASES, SIGNALS, Cell, Run
from job import WORLD, Mpirun
from launchers import FAR, Hosts, Srun

CROSSED = ["kill", "stop", "exit0"]
EVENTS = DEATHS + HANGS + MISERIES + FILES + list(SIGNALS) + [CANCEL] + LINKS
RANKS = list(range(WORLD)) + [NOBODY]


def is_possible(cell):
    return ((cell.event in SIGNALS or cell.event == CANCEL) == (cell.rank == NOBODY) and
            (cell.event not in FILES or cell.phase == "load") and
            (cell.event != CANCEL or cell.launcher == "srun") and
            (cell.event not in LINKS or (cell.launcher, cell.rank) == ("hosts", FAR)))


def pairs_of(cell):
    return set(itertools.combinations(enumerate(cell), 2))


def sample(cells, covered):
    """Of these a few that hold every pair of two cells' values that any of them does; always the same."""
    wanted = set().union(*map(pairs_of, cells)) - set().union(*map(pairs_of, covered))
    chosen, uses = [], Counter()
    while wanted:  # among equals the rank that had the least to suffer
        best = max(cells, key=lambda c: (len(pairs_of(c) & wanted), -uses[c.rank]))
        chosen.append(best)
        uses[best.rank] += 1
        wanted -= pairs_of(best)
    return sorted(chosen, key=cells.index)


def every(events, launchers):
    cells = (Cell(*c) for c in itertools.product(PHASES, events, RANKS, launchers))
    return [c for c in cells if is_possible(c)]


def quick():
    """Each of the crossed events in each phase, on one rank after the other."""
    return [Cell(phase, event, (i + j) % WORLD, "mpirun")
            for i, phase in enumerate(PHASES) for j, event in enumerate(CROSSED)]


def select(word, launchers):
    crossed = every(CROSSED, ["mpirun"])
    if word == "quick":
        return quick()
    if word == "crossed":
        return crossed
    if word == "sample":
        return sample(every(EVENTS, launchers), crossed)
    if word == "full":
        return crossed + select("sample", launchers)
    return [c for c in every(EVENTS, launchers)
            if all(w in ("*", str(v)) for w, v in zip(word.split(","), c, strict=True))]


def row(run):
    cell = run.cell
    blame = [f"rank {b[0]} {b[2]}" for b in run.blame]
    return [cell.phase, cell.event, str(cell.rank), cell.launcher,
            f"{run.seconds:.1f}" if run.seconds is not None else "-", str(run.code),
            (blame[0] if len(blame) == 1 else f"{len(blame)} lines"), "FAIL" if run.complaints else "ok"]


WIDTHS = [8, 15, 4, 8, 7, 4, 20, 7]
HEAD = ["phase", "event", "rank", "launcher", "seconds", "exit", "blame", "verdict"]


def print_row(words):
    print("  ".join(w.ljust(n) for w, n in zip(words, WIDTHS)).rstrip(), flush=True)


def print_failure(run):
    for text in run.complaints:
        print("    ! " + text.replace("\n", "\n      "))
    lines = [l for l in run.log.splitlines() if l.startswith("lockstep")]
    for line in lines or run.log.splitlines()[-20:]:
        print("    | " + line, flush=True)


def main(lockstep, mpirun, inject, *what):
    launchers, skipped = {}, 0
    for launcher in (Mpirun(mpirun), Srun(), Hosts(mpirun)):
        reason = launcher.missing()
        if reason:
            print(f"skipped: {launcher.name}: {reason}")
            skipped += 1
        else:
            launchers[launcher.name] = launcher
    cells = [cell for word in what or ("quick",) for cell in select(word, list(launchers))]
    start, failed = time.monotonic(), 0
    print_row(HEAD)
    for cell in cells:
        with launchers[cell.launcher] as launcher:
            run = Run(cell, launcher, lockstep, inject).play()
        print_row(row(run))
        if run.complaints:
            failed += 1
            print_failure(run)
    print(f"{len(cells)} cells, {failed} failed, {time.monotonic() - start:.0f} s")
    return 1 if failed or not (cells or skipped) else 0 if cells else 77


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # by way of what ends the run and its hosts
    sys.exit(main(os.path.abspath(sys.argv[1]), sys.argv[2], os.path.abspath(sys.argv[3]), *sys.argv[4:]))
