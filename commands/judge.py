"""
Give verdicts on runs that other programs logged.

PATH is a log or a folder of logs of nanoGPT, modded-nanogpt, llm.c, nanochat, Hugging Face's
Trainer, litgpt, Lightning, lingua, W&B, TensorBoard, autoresearch, or any CSV or JSONL. The runs
are grouped into arms by folder and file name, and the output says how before it judges.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from mingpt.utils import BadInput, did_you_mean

TAKES_SETTINGS = False
WORDS = ("better", "worse", "equivalent", "undecided", "not comparable")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `judge`."""
    parser.add_argument("paths", nargs="+", metavar="PATH", help="logs, and folders of logs")
    parser.add_argument("--baseline", metavar="ARM",
                        help="the arm that the others are compared with (default: the one that is "
                        "called baseline, base, control, default, vanilla or reference)")
    parser.add_argument("--margin", type=float, metavar="M",
                        help="a difference below this does not matter (default 0.01)")
    parser.add_argument("--alpha", type=float, metavar="A",
                        help="the error allowed over all arms (default 0.05)")
    parser.add_argument("--at", type=int, metavar="STEP",
                        help="compare at this step (default: the last that the arms share)")
    parser.add_argument("--target", type=float, metavar="LOSS",
                        help="also say which arms reach this loss, and after how many steps")
    parser.add_argument("--arm", action="append", default=[], metavar="NAME=GLOB",
                        help="the runs whose path fits GLOB are the arm NAME; may be repeated, and "
                        "the first that fits counts")
    parser.add_argument("--columns", metavar="step=…,val_loss=…",
                        help="the names of columns in CSV and JSONL files; also loss, "
                        "learning_rate, tokens and seconds")
    parser.add_argument("--same-validation", action="store_true",
                        help="the validation sets are the same, although losses at step 0 are not")
    parser.add_argument("--out", type=Path, metavar="DIR",
                        help="also write figures, tables and report.html into DIR")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument("--fail-if", metavar="WORD[,WORD]",
                        help="exit with code 1 if an arm gets this verdict, such as worse")


def main(args: argparse.Namespace) -> int:
    """Judge the runs. Return 0, or 1 where --fail-if names a verdict that an arm got."""
    from experiments.report.draw import report_elsewhere
    from experiments.verdicts.foreign import judge
    failing = [word.strip() for word in (args.fail_if or "").split(",") if word.strip()]
    for word in failing:
        if word not in WORDS:
            raise BadInput(f"--fail-if: no verdict {word!r}{did_you_mean(word, WORDS)}")
    results = judge(args.paths, choices(args))
    if args.json:
        print(json.dumps(as_json(results), indent=1, ensure_ascii=False, allow_nan=False))
    else:
        print("\n".join(report_elsewhere(results)))
    if args.out:
        draw(results, args.out, quiet=args.json)
    return int(any(verdict.word in failing for verdict in results.verdicts.values()))


def choices(args: argparse.Namespace):
    """Return what the arguments choose. Raises BadInput."""
    from experiments.records.foreign.tables import named
    from experiments.verdicts.foreign import Choices
    arms = {}
    for text in args.arm:
        name, equals, glob = text.partition("=")
        if not (name and glob):
            raise BadInput(f"--arm {text}: write --arm NAME=GLOB")
        if name in arms:
            raise BadInput(f"--arm {name}: given twice")
        arms[name] = glob
    given = {key: value for key in ("margin", "alpha") if (value := getattr(args, key)) is not None}
    return Choices(args.baseline, at=args.at, target=args.target,
                   same_validation=args.same_validation, arms=arms,
                   columns=named(args.columns) if args.columns else None, **given)


def as_json(results) -> dict:
    """Return everything that is printed, as a dict for JSON."""
    from experiments.verdicts.caveats import caveats
    from experiments.verdicts.target import rules, targets
    found = results.summary() | {"caveats": caveats(results).to_dict(),
                                 "arms": results.grouping(), "unknown": list(results.unknown)}
    if results.choices.target is not None:
        found |= {"targets": [each.to_dict() for each in targets(results, results.choices.target)],
                  "benchmark": list(rules(results))}
    return found


def draw(results, out: Path, quiet: bool) -> None:
    """Write figures, tables and the page. Their names go to stderr where stdout holds JSON."""
    from contextlib import redirect_stdout

    from experiments.figures import Panel
    from experiments.report.draw import draw_panel
    # the validation loss is what every run here has
    with redirect_stdout(sys.stderr if quiet else sys.stdout):
        draw_panel(Panel(results, metric="val_loss"), out, ("png",), Path(results.source))
