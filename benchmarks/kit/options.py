"""
What all benchmarks are asked in the same words.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from mingpt.utils import BadInput, did_you_mean

RESULTS = Path(__file__).parents[1] / "results"


def parser(name: str, doc: str, rounds: int, quick: int) -> argparse.ArgumentParser:
    """Rounds, threads, device, copies of minGPT and nanoGPT, and where to write."""
    made = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=doc.strip(),
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--rounds", type=int, default=None,
                      help=f"samples of each, taking turns (default {rounds})")
    made.add_argument("--quick", action="store_true", help=f"a first look: {quick} rounds")
    made.add_argument("--threads", type=int, default=2, help="torch's threads on a CPU (default 2)")
    made.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto",
                      help="auto: the GPU if there is one")
    made.add_argument("--mingpt", metavar="PATH", default=os.environ.get("MINGPT"),
                      help="a checkout of karpathy/minGPT (default: the environment's MINGPT)")
    made.add_argument("--nanogpt", metavar="PATH", default=os.environ.get("NANOGPT"),
                      help="a checkout of karpathy/nanoGPT (default: the environment's NANOGPT)")
    made.add_argument("--out", metavar="DIR", type=Path, default=RESULTS,
                      help="for JSON and figure")
    made.set_defaults(standard=(rounds, quick))
    return made


def parse(parser: argparse.ArgumentParser, argv: list[str] | None) -> argparse.Namespace:
    """The arguments, with `rounds`, `device` and `copies` settled."""
    args = parser.parse_args(argv)
    if args.rounds is None:
        args.rounds = args.standard[args.quick]
    if args.rounds < 1:
        raise BadInput(f"--rounds {args.rounds}: at least 1")
    if args.device == "auto":
        from mingpt.trainer import find_device
        args.device = "cuda" if find_device() == "cuda" else "cpu"
    args.copies = {"--mingpt": args.mingpt, "--nanogpt": args.nanogpt}
    return args


def known(name: str, names: list[str]) -> None:
    """BadInput unless it is one of them."""
    if name not in names:
        raise BadInput(f"--only {name!r}: nothing to measure is called "
                       f"that{did_you_mean(name, names)}")


def say(text: str) -> None:
    """Progress: one line that is overwritten on a terminal, lines elsewhere."""
    if sys.stderr.isatty():
        print(f"\r\033[K  {text}", end="", file=sys.stderr, flush=True)
    else:
        print(f"  {text}", file=sys.stderr, flush=True)


def quiet() -> None:
    """The progress line makes room for a table."""
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr, flush=True)


def run(main: Callable[[], int]) -> int:
    """The exit code; bad input is one line and 2."""
    try:
        return main()
    except BadInput as error:
        quiet()
        print(f"error: {error}", file=sys.stderr)
        return 2
