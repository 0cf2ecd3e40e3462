"""
Lets the n-th write of a program fail, for every n, and starts the program again.

    python -m tests.faults.writes [--every 1]
"""

from __future__ import annotations

import argparse
import errno
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.faults.kills import RUN, left_over, new_folder, outcome
from tests.faults.sandbox import attempt, preload, scratch

SHORT = [*RUN, "--max-iters", "4", "--run.checkpoint_every=2"]
FAILING = (1, 3)     # failures in a row


def failing(n: int, number: int, noted: Path | None = None) -> Callable[[], None]:
    """A function that makes writes fail in this process: those from the n-th on, counted from 0, as
    many as FAILING has for that error. A write is a new temporary file, a sync or a rename, or a
    file of weights. The count is kept in the file `noted`."""
    times = FAILING[number == errno.ENOSPC]

    def install() -> None:
        from experiments import system
        from experiments.weights import checkpoint
        count = iter(range(10**9))

        def checked(write: Callable) -> Callable:
            def call(*arguments, **options):
                at = next(count)
                if noted:
                    noted.write_text(str(at + 1))
                if n <= at < n + times:
                    raise OSError(number, os.strerror(number), f"write {at}")
                return write(*arguments, **options)
            return call
        for module, name in ((tempfile, "mkstemp"), (os, "fsync"), (os, "replace"),
                             (checkpoint, "save_file")):
            setattr(module, name, checked(getattr(module, name)))
        system.PAUSE = 0.01
    return install


def try_all(every: int, root: Path) -> dict[str, int]:
    """Let every `every`-th write fail, once by a broken disk and once by a full one. AssertionError
    where something is lost. Returns what was counted."""
    preload()
    whole = new_folder(root)
    noted = whole / "cache" / "writes"
    assert not attempt(SHORT, whole, (0,), prepare=failing(10**9, errno.EIO, noted)).faults
    writes, expected = int(noted.read_text()), outcome(whole / "out")
    counts = {"writes": writes, "failures": 0, "went on": 0, "started again": 0}
    for number in (errno.EIO, errno.ENOSPC):
        for n in range(0, writes, every):
            folder = new_folder(root)
            first = attempt(SHORT, folder, (0, 1, 2), prepare=failing(n, number))
            assert not first.faults, (n, first)
            counts["failures"] += 1
            if first.code:
                second = attempt(SHORT, folder, (0,))
                assert not second.faults, (n, second)
            counts["started again" if first.code else "went on"] += 1
            assert outcome(folder / "out") == expected, (n, os.strerror(number))
            assert not left_over(folder), left_over(folder)
            shutil.rmtree(folder)
    return counts


def main() -> int:
    """Try every write and print the counts."""
    p = argparse.ArgumentParser(prog="python -m tests.faults.writes", description=__doc__)
    p.add_argument("--every", type=int, default=1)
    every = p.parse_args().every
    with scratch("ablate-writes-") as root:
        print(", ".join(f"{what}: {n}" for what, n in try_all(every, root).items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
