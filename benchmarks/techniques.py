"""
Measure what each technique of docs/techniques.md costs at laptop size.

    python -m benchmarks.techniques [--write] [--rounds N] [--only WORD…]

Each row compares the parameters, the FLOPs and the time of a step with the baseline's. --write puts
the table into the page.

All models live in one process, because their steps are short and make no large tensor. Steps of the
arm and of the baseline alternate, and a row gives the median of their ratios.
"""

from __future__ import annotations

import argparse
import re
import shlex
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.kit.options import run, say
from mingpt.utils import BadInput, write_atomic

PAGE = Path(__file__).resolve().parents[1] / "docs" / "techniques.md"
BEGIN, END = "<!-- costs -->\n", "<!-- /costs -->"


def main(argv: list[str] | None = None) -> int:
    """Measure the commands and print the table; with --write, put it into the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.techniques",
                                     description=__doc__.strip(),
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true",
                        help="put the table into docs/techniques.md")
    parser.add_argument("--rounds", type=int, default=15,
                        help="timed steps per command (default 15)")
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD",
                        help="measure only commands that contain one of these words")
    args = parser.parse_args(argv)
    arms = {text: words for text, words in commands(PAGE.read_text(encoding="utf-8")).items()
            if not args.only or any(word in text for word in args.only)}
    if not arms:
        raise BadInput(f"--only {' '.join(args.only)}: no command of {PAGE} contains this")
    table = rows(arms, args.rounds)
    print("\n".join(table))
    if args.write:
        write_atomic(PAGE, written(PAGE.read_text(encoding="utf-8"), table))
    return 0


def written(page: str, table: list[str]) -> str:
    """Return the page with the new lines put into its table, in the order of its commands.

    Lines of commands that were not measured again stay. The head and the line of the baseline stay
    too, unless all commands were measured.
    """
    before, _, rest = page.partition(BEGIN)
    had, _, after = rest.partition(END)
    lines = {switch(line): line for line in [*had.splitlines(), *table] if switch(line)}
    wanted = [lines[text] for text in commands(page) if text in lines]
    some = len(table) - 3 < len(wanted)
    head = [line for line in had.splitlines() if line and not switch(line)] if some else []
    return before + BEGIN + "\n" + "\n".join([*(head or table[:3]), *wanted]) + "\n\n" + END + after


def switch(line: str) -> str | None:
    """The command that a line of the table begins with; None if it has none."""
    match = re.match(r"\| `(.*?)` \|", line)
    return match and match[1]


def commands(page: str) -> dict[str, list[str]]:
    """The page's training commands without --arm NAME: {what follows `lab.py`: its words}."""
    found = {}
    for line in re.findall(r"^    python lab\.py (-.*)$", page, re.MULTILINE):
        text = re.sub(r" ?--arm \w+", "", line).strip()
        found[text] = shlex.split(text)
    return found


def rows(arms: dict[str, list[str]], rounds: int) -> list[str]:
    """Measure the arms and return the table's lines: the baseline, then each arm against it."""
    baseline = built([])
    params, flops = baseline[1:]
    lines = ["| switch | parameters | FLOPs per token | time of a step |", "|---|---|---|---|"]
    for number, (text, words) in enumerate(arms.items(), 1):
        say(f"{number} of {len(arms)}: {text}")
        arm = built(words)
        ratios = [arm[0]() / baseline[0]() for _ in range(rounds)]
        low, middle, high = (ratios[0],) * 3 if rounds < 2 else statistics.quantiles(ratios, n=4)
        more = (f"{count / of - 1:+.1%}".replace("-", "−")
                for count, of in ((arm[1], params), (arm[2], flops)))
        lines.append(f"| `{text}` | {' | '.join(more)} | {middle:.2f}× ({low:.2f} to {high:.2f}) |")
    lines.insert(2, f"| baseline | {params:,} | {flops:,.0f} | 1× |")
    return lines


def built(words: list[str]) -> tuple[Callable[[], float], int, float]:
    """Build the arm that these arguments of lab.py describe, and take two steps to warm it up.

    Returns (function that takes a step and returns its seconds, parameters, FLOPs per token).
    """
    import lab
    from commands import train
    from commands._arguments import spec_from
    from experiments.train.predict import RandomTokens, stepper
    from experiments.train.seeded import build_model, describe_model
    parser = argparse.ArgumentParser()
    train.add_arguments(parser)
    rest, overrides = lab.split_overrides(words)
    args = parser.parse_args(rest)
    args.overrides = overrides
    settings = spec_from(args).settings
    tokens = RandomTokens(settings)
    model = build_model(settings, tokens, seed=0)
    about = describe_model(model)
    step = stepper(model, tokens, settings)
    for _ in range(2):
        step()
    return step, about["parameters"], about["flops_per_token"]


if __name__ == "__main__":
    sys.exit(run(main))
