"""
Draw every study under a results folder and print a verdict for each arm.

    python plotter.py [LOSSES_DIR] [--out DIR] [--x iteration|tokens|seconds|flops]
                      [--metric loss|val_loss] [--html]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from commands._arguments import Parser
from mingpt.utils import BadInput, did_you_mean

X = ("iteration", "tokens", "seconds", "flops")
METRICS = ("loss", "val_loss")


def parser() -> Parser:
    p = Parser(prog="plotter.py", description=__doc__.strip().splitlines()[0], allow_abbrev=False)
    p.add_argument("losses", nargs="?", default="losses", metavar="LOSSES_DIR",
                   help="where runs wrote (./losses); or experiment_results.npz, to draw a "
                        "comparison again")
    p.add_argument("--out", metavar="DIR",
                   help="where figures go (visualizations, beside LOSSES_DIR)")
    p.add_argument("--x", default=X[0], metavar="|".join(X),
                   help="what the curves are drawn over (iteration)")
    p.add_argument("--metric", default=METRICS[0], metavar="|".join(METRICS),
                   help="what is drawn (loss)")
    p.add_argument("--format", default="png", metavar="png,svg,pdf",
                   help="one or several, with commas (png)")
    p.add_argument("--html", action="store_true",
                   help="write report.html as well: all of it in one page")
    p.add_argument("--tables", nargs="+", default=[], metavar="PAGE", type=Path,
                   help="draw nothing; write the tables "
                   "that these pages have markers for, <!-- table: STUDY --> to <!-- /table: STUDY "
                   "-->")
    p.add_argument("--keep", metavar="DIR", type=Path,
                   help="draw nothing; copy runs that are over to DIR/STUDY, "
                   "without this machine's name and paths, to be published")
    p.add_argument("--study", metavar="FILE", help="the declaration of a study that is not shipped")
    return p


def main(argv: list[str] | None = None) -> int:
    """Exit code: 0 drawn, 2 nothing to plot or bad input."""
    options = parser()
    try:
        args, unknown = options.parse_known_args(argv)
        if unknown:
            raise BadInput(f"no option {unknown[0]!r}{did_you_mean(unknown[0], options.known())}")
        return plot(args)
    except BadInput as error:
        print(f"plotter.py: {str(error).removeprefix('plotter.py: ')}", file=sys.stderr)
        return 2


def plot(args: argparse.Namespace) -> int:
    """Read, report, draw. Raises BadInput."""
    from experiments.figures import FORMATS
    formats = tuple(dict.fromkeys(part.strip() for part in args.format.split(",")))
    for option, chosen, known in (("--x", (args.x,), X), ("--metric", (args.metric,), METRICS),
                                  ("--format", formats, FORMATS)):
        for word in chosen:
            if word not in known:
                raise BadInput(f"{option}: no {word!r}{did_you_mean(word, known)}")

    if args.losses.endswith(".npz"):
        from experiments.report.draw import redraw
        return redraw(Path(args.losses), args.out, formats)
    from experiments.records.runs import find_runs
    from experiments.verdicts.results import collect
    losses = Path(args.losses)
    runs = find_runs(losses)
    for run in runs:
        for problem in run.problems:
            print(f"{run.study + '/' if run.study else ''}{problem}", file=sys.stderr)
    if all(run.table.empty for run in runs):
        raise BadInput(f"nothing to plot in {losses}: "
                       + (f"none of its {len(runs)} files holds a row" if runs else
                       "no .csv there or one folder down; runs write ARM.s<SEED>.csv"))
    for option, column in (("--x", args.x), ("--metric", args.metric)):
        if not any(run.table[column].notna().any() for run in runs):
            has = [c for c in X + METRICS if any(run.table[c].notna().any() for run in runs)]
            raise BadInput(f"{option}: nothing to plot in {losses}: no run has {column}; they have "
                           f"{', '.join(has)}")
    if args.keep or args.tables:
        return publish(args, runs)
    out = Path(args.out) if args.out else beside(losses)
    from experiments.report.draw import draw_study
    for results in collect(runs, args.study):
        draw_study(results, out, formats, args.x, args.metric, losses if args.html else None)
    return 0


def publish(args: argparse.Namespace, runs) -> int:
    """Copy records, or write tables into pages."""
    from experiments.report.publish import fill, keep
    from experiments.verdicts.results import collect
    if args.keep:
        print(f"{keep(runs, args.keep)} runs copied to {args.keep}")
    studies = collect(runs, args.study) if args.tables else []
    for page in args.tables:
        if not page.is_file():
            raise BadInput(f"--tables: no page {page}")
        print(f"{page}: " + (", ".join(fill(page, studies)) or "no markers <!-- table: STUDY -->"))
    return 0


def beside(losses: Path) -> Path:
    """X/losses → X/visualizations, and X/losses/STUDY too."""
    folder = losses.resolve()
    root = folder.parent if folder.parent.name == "losses" else folder
    try:
        return (root.parent / "visualizations").relative_to(Path.cwd())
    except ValueError:
        return root.parent / "visualizations"


if __name__ == "__main__":
    sys.exit(main())
