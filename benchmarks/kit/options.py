"""
The command-line options and the progress line that the benchmarks share.
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
    """Make a parser with the shared options.

    `rounds` and `quick` are the default numbers of rounds without and with --quick.
    """
    made = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=doc.strip(),
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--rounds", type=int, default=None,
                      help=f"rounds; each side takes one sample per round (default {rounds})")
    made.add_argument("--quick", action="store_true", help=f"measure only {quick} rounds")
    made.add_argument("--threads", type=int, default=2, help="torch's threads on a CPU (default 2)")
    made.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto",
                      help="auto uses the GPU if there is one")
    made.add_argument("--mingpt", metavar="PATH", default=os.environ.get("MINGPT"),
                      help="a checkout of karpathy/minGPT (default: the environment's MINGPT)")
    made.add_argument("--nanogpt", metavar="PATH", default=os.environ.get("NANOGPT"),
                      help="a checkout of karpathy/nanoGPT (default: the environment's NANOGPT)")
    made.add_argument("--out", metavar="DIR", type=Path, default=RESULTS,
                      help="folder of the JSON file and the figure")
    made.set_defaults(standard=(rounds, quick))
    return made


def parse(parser: argparse.ArgumentParser, argv: list[str] | None) -> argparse.Namespace:
    """Parse the arguments and fill in `rounds`, `device` and `copies`. BadInput for rounds < 1."""
    args = parser.parse_args(argv)
    if args.rounds is None:
        args.rounds = args.standard[args.quick]
    if args.rounds < 1:
        raise BadInput(f"--rounds {args.rounds}: must be at least 1")
    if args.device == "auto":
        from mingpt.trainer import find_device
        args.device = "cuda" if find_device() == "cuda" else "cpu"
    args.copies = {"--mingpt": args.mingpt, "--nanogpt": args.nanogpt}
    return args


def known(name: str, names: list[str]) -> None:
    """Raise BadInput unless `name` is one of `names`."""
    if name not in names:
        raise BadInput(f"--only {name!r}: nothing that can be measured has this name"
                       f"{did_you_mean(name, names)}")


def say(text: str) -> None:
    """Show progress: on a terminal, one line that is overwritten; elsewhere, one line per call."""
    if sys.stderr.isatty():
        print(f"\r\033[K  {text}", end="", file=sys.stderr, flush=True)
    else:
        print(f"  {text}", file=sys.stderr, flush=True)


def quiet() -> None:
    """Clear the progress line of a terminal, so that a table can follow."""
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr, flush=True)


def run(main: Callable[[], int]) -> int:
    """Run `main` and return its exit code. BadInput is printed as one line, and 2 is returned."""
    try:
        return main()
    except BadInput as error:
        quiet()
        print(f"error: {error}", file=sys.stderr)
        return 2
