"""
Draw every study under a results folder and print a verdict for each arm.

    python plotter.py [LOSSES_DIR | PATH] [--out DIR] [--x iteration|tokens|seconds|flops]
                      [--metric loss|val_loss] [--html] [--comparison]

PATH of logs of other programs works as well: `lab.py judge` says which, and has more options.
"""

from __future__ import annotations

import argparse
import gc
import sys
from pathlib import Path

from commands._arguments import Parser
from commands._door import guarded
from mingpt.utils import BadInput, did_you_mean

X = ("iteration", "tokens", "seconds", "flops")
METRICS = ("loss", "val_loss")


def parser() -> Parser:
    """The options of plotter.py."""
    p = Parser(prog="plotter.py", description=__doc__.strip().splitlines()[0], allow_abbrev=False)
    p.add_argument("losses", nargs="?", default="losses", metavar="LOSSES_DIR",
                   help="the folder that runs wrote to (default ./losses), or an "
                        "experiment_results.npz, whose comparison is drawn again")
    p.add_argument("--out", metavar="DIR",
                   help="where figures go (default: visualizations/ beside LOSSES_DIR)")
    p.add_argument("--x", default=X[0], metavar="|".join(X),
                   help="the horizontal axis of the curves (default iteration)")
    p.add_argument("--metric", default=METRICS[0], metavar="|".join(METRICS),
                   help="the vertical axis of the curves (default loss)")
    p.add_argument("--format", default="png", metavar="png,svg,pdf",
                   help="file formats of the figures, separated by commas (default png)")
    p.add_argument("--html", action="store_true",
                   help="also write report.html, one page with everything")
    p.add_argument("--comparison", action="store_true",
                   help="also draw comparison/: ten pictures of the runs' losses, speed and memory")
    p.add_argument("--tables", nargs="+", default=[], metavar="PAGE", type=Path,
                   help="draw nothing; write the verdict tables into these pages, "
                   "between the markers <!-- table: STUDY --> and <!-- /table: STUDY -->")
    p.add_argument("--keep", metavar="DIR", type=Path,
                   help="draw nothing; copy the runs that have ended to DIR/STUDY for "
                   "publication, without this machine's name and paths")
    p.add_argument("--ladder", metavar="NAME",
                   help="draw only this ladder, over all its rungs")
    p.add_argument("--study", metavar="FILE",
                   help="a study's TOML file (default: the shipped study of that name, or what the "
                        "runs' records declare)")
    return p


def main(argv: list[str] | None = None) -> int:
    """Run plotter.py and return its exit code: 0 done, 2 nothing to plot or bad input."""
    return guarded(_main, sys.argv[1:] if argv is None else argv)


def _main(argv: list[str]) -> int:
    options = parser()
    args, unknown = options.parse_known_args(argv)
    if unknown:
        raise BadInput(f"no option {unknown[0]!r}{did_you_mean(unknown[0], options.known())}")
    return plot(args)


def plot(args: argparse.Namespace) -> int:
    """Read the runs, print the verdicts and draw the figures; return 0. Raises BadInput."""
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
    from experiments.records.foreign.read import holds_logs
    from experiments.records.runs import find_runs
    from experiments.verdicts.results import collect
    losses = Path(args.losses)
    if losses.is_file() and losses.suffix != ".csv" and holds_logs(losses):
        return plot_elsewhere(args, formats)
    runs = find_runs(losses)
    if all(run.table.empty and not run.record for run in runs) and holds_logs(losses):
        return plot_elsewhere(args, formats)
    gc.freeze()     # the runs are kept to the end, so the garbage collector need not walk them
    for run in runs:
        for problem in run.problems:
            print(f"{run.study + '/' if run.study else ''}{problem}", file=sys.stderr)
    if all(run.table.empty for run in runs):
        raise BadInput(f"nothing to plot in {losses}: "
                       + (f"none of its {len(runs)} files holds a row" if runs else
                       "it holds no ARM.s<SEED>.csv, and neither do the folders in it"))
    for option, column in (("--x", args.x), ("--metric", args.metric)):
        if not any(run.table[column].notna().any() for run in runs):
            has = [c for c in X + METRICS if any(run.table[c].notna().any() for run in runs)]
            raise BadInput(f"{option}: nothing to plot in {losses}: no run has {column}; "
                           f"the runs have {', '.join(has)}")
    if args.keep or args.tables:
        return publish(args, runs)
    out = Path(args.out) if args.out else beside(losses)
    from experiments.report.draw import draw_study
    studies = collect(runs, args.study)
    for results in studies if not args.ladder else ():
        draw_study(results, out, formats, args.x, args.metric, losses if args.html else None,
                   args.comparison)
    return plot_ladders(args, studies, out, formats)


def plot_ladders(args: argparse.Namespace, studies, out: Path, formats: tuple[str, ...]) -> int:
    """Draw the ladders of which at least two rungs have runs; return 0. Raises BadInput where
    --ladder names none."""
    from experiments.verdicts.climbed import ladders
    found = [each for each in ladders(studies)
             if args.ladder in (None, each.name) and len(each.rungs) > 1]
    if args.ladder and not found:
        raise BadInput(f"--ladder {args.ladder}: no two rungs of a ladder of that name have ended "
                       f"runs in {args.losses}")
    if found:
        from experiments.report.ladder import draw_report
        for each in found:
            draw_report(each, out / each.name, formats, args.html)
    return 0


def plot_elsewhere(args: argparse.Namespace, formats: tuple[str, ...]) -> int:
    """Judge logs of other programs, draw their figures and return 0. Raises BadInput."""
    from experiments.figures import Panel
    from experiments.report.draw import draw_panel, report_elsewhere
    from experiments.verdicts.foreign import judge
    for option in ("keep", "tables", "study", "comparison"):
        if getattr(args, option):
            raise BadInput(f"--{option} needs records, which logs of other programs do not have")
    results = judge([args.losses])
    print("\n".join(report_elsewhere(results)))
    has = [c for c in METRICS if any(run.table[c].notna().any() for run in results.runs)]
    metric = args.metric if args.metric in has else has[-1]
    source = Path(args.losses)
    out = Path(args.out) if args.out else Path("visualizations") / source.resolve().name
    draw_panel(Panel(results, args.x, metric), out, formats, source if args.html else None)
    return 0


def publish(args: argparse.Namespace, runs) -> int:
    """For --keep, copy the records; for --tables, write tables into pages. Returns 0."""
    from experiments.report.publish import fill, keep
    from experiments.verdicts.results import collect
    if args.keep:
        print(f"{keep(runs, args.keep)} runs copied to {args.keep}")
    studies = collect(runs, args.study) if args.tables else []
    for page in args.tables:
        if not page.is_file():
            raise BadInput(f"--tables: no page {page}")
        print(f"{page}: " + (", ".join(fill(page, studies))
                             or "it has no markers <!-- table: STUDY -->"))
    return 0


def beside(losses: Path) -> Path:
    """The default output folder: X/visualizations, both for X/losses and for X/losses/STUDY."""
    from experiments.records.record import near
    folder = losses.resolve()
    root = folder.parent if folder.parent.name == "losses" else folder
    return near(root.parent / "visualizations")


if __name__ == "__main__":
    sys.exit(main())
