"""
The command line of a benchmark that simulates what is known and tables how often it is judged
right.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Callable
from pathlib import Path

from experiments.verdicts.summary import between_markers
from mingpt.utils import write_atomic


def main(argv: list[str] | None, name: str, about: str, what: str, whole: int, quick: int,
         tables: Callable[[int, Callable[[str], None]], str]) -> int:
    """Print the tables of `tables`(how many of `what`, a function that says which line is next);
    with --docs, also put them into that page."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}",
                                     description=about.strip().splitlines()[0])
    parser.add_argument("--quick", action="store_true",
                        help=f"{quick:,} {what} per line, not {whole:,}")
    parser.add_argument("--docs", type=Path, metavar="PAGE",
                        help="a page that has the markers of these tables")
    args = parser.parse_args(argv)
    # statsmodels' multipletests runs the garbage collector on every call; it skips frozen objects
    gc.freeze()
    begun = time.perf_counter()
    text = tables(quick if args.quick else whole,
                  lambda line: print(line, file=sys.stderr, flush=True))
    print(text + f"\n{time.perf_counter() - begun:.0f} s")
    if args.docs:
        write_atomic(args.docs, between_markers(args.docs.read_text(encoding="utf-8"),
                                                "simulations", text, str(args.docs)))
    return 0
