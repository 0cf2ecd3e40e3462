"""
Draw every study under a results folder and print a verdict for each arm.

    python plotter.py [LOSSES_DIR] [--out DIR] [--x iteration|tokens|seconds|flops] [--metric loss|val_loss] [--html]
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from mingpt.utils import BadInput, did_you_mean, write_atomic

X = ("iteration", "tokens", "seconds", "flops")
METRICS = ("loss", "val_loss")


class Parser(argparse.ArgumentParser):
    """argparse, with an error of one line."""

    def error(self, message: str) -> None:
        raise BadInput(message)

    def names(self) -> list[str]:
        return [name for action in self._actions for name in action.option_strings if name.startswith("--")]


def parser() -> Parser:
    p = Parser(prog="plotter.py", description=__doc__.strip().splitlines()[0], allow_abbrev=False)
    p.add_argument("losses", nargs="?", default="losses", metavar="LOSSES_DIR",
                   help="where runs wrote (./losses); or experiment_results.npz, to draw a comparison again")
    p.add_argument("--out", metavar="DIR", help="where figures go (visualizations, beside LOSSES_DIR)")
    p.add_argument("--x", default=X[0], metavar="|".join(X), help="what the curves are drawn over (iteration)")
    p.add_argument("--metric", default=METRICS[0], metavar="|".join(METRICS), help="what is drawn (loss)")
    p.add_argument("--format", default="png", metavar="png,svg,pdf", help="one or several, with commas (png)")
    p.add_argument("--html", action="store_true", help="write report.html as well: all of it in one page")
    p.add_argument("--tables", nargs="+", default=[], metavar="PAGE", type=Path, help="draw nothing; write the tables "
                   "that these pages have markers for, <!-- table: STUDY --> to <!-- /table: STUDY -->")
    p.add_argument("--keep", metavar="DIR", type=Path, help="draw nothing; copy runs that are over to DIR/STUDY, "
                   "without this machine's name and paths, to be published")
    p.add_argument("--study", metavar="FILE", help="the declaration of a study that is not shipped")
    return p


def main(argv: list[str] | None = None) -> int:
    """Exit code: 0 drawn, 2 nothing to plot or bad input."""
    options = parser()
    try:
        args, unknown = options.parse_known_args(argv)
        if unknown:
            raise BadInput(f"no option {unknown[0]!r}{did_you_mean(unknown[0], options.names())}")
        return plot(args)
    except BadInput as error:
        print(f"plotter.py: {error}", file=sys.stderr)
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
        return redraw(Path(args.losses), args.out, formats)
    from experiments.records.runs import find_runs
    from experiments.verdicts.results import collect
    losses = Path(args.losses)
    runs = find_runs(losses)
    for run in runs:
        for problem in run.problems:
            print(f"{run.study + '/' if run.study else ''}{problem}", file=sys.stderr)
    if all(run.table.empty for run in runs):
        raise BadInput(f"nothing to plot in {losses}: " + (f"none of its {len(runs)} files holds a row" if runs else
                       "no .csv there or one folder down; runs write ARM.s<SEED>.csv"))
    for option, column in (("--x", args.x), ("--metric", args.metric)):
        if not any(run.table[column].notna().any() for run in runs):
            has = [c for c in X + METRICS if any(run.table[c].notna().any() for run in runs)]
            raise BadInput(f"{option}: nothing to plot in {losses}: no run has {column}; they have {', '.join(has)}")
    if args.keep or args.tables:
        return publish(args, runs)
    out = Path(args.out) if args.out else beside(losses)
    for results in collect(runs, args.study):
        draw_study(results, out, args, formats)
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


def draw_study(results, out: Path, args: argparse.Namespace, formats: tuple[str, ...]) -> None:
    """Print one study's verdicts, draw its figures, and say what was written."""
    from experiments.figures import Panel, draw
    folder = out / results.name if results.name else out
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"--out: cannot write to {folder}: {error.strerror}") from None
    print(f"\n{results.title}")
    for line in report(results):
        print(f"  {line}")
    panel = Panel(results, args.x, args.metric)
    if args.html:
        from experiments.report.page import write
        print(f"  wrote {write(panel, folder, Path(args.losses))}")
    say_drawn(draw(panel, folder, formats), folder, write_tables(results, folder))
    from experiments.verdicts.trials import gather
    compare(gather(results), folder / "comparison", formats)


def write_tables(results, folder: Path) -> list[Path]:
    """verdicts.json, and the summary as a table for programs and one for people."""
    from experiments.verdicts.summary import to_csv, to_markdown
    texts = {"verdicts.json": json.dumps(results.summary(), indent=1, ensure_ascii=False) + "\n",
             "summary.csv": to_csv(results), "summary.md": to_markdown(results)}
    for name, text in texts.items():
        write_atomic(folder / name, text)
    return [folder / name for name in texts]


def compare(trials, folder: Path, formats: tuple[str, ...]) -> None:
    """The ten pictures of a comparison, and the files from which they can be drawn again."""
    from experiments.figures.comparison import draw_ten
    from experiments.verdicts import compared
    from experiments.verdicts.trials import save
    if not trials.all:
        print("  skipped comparison/: no run has finished")
        return
    folder.mkdir(parents=True, exist_ok=True)
    text = folder / compared.NAME
    write_atomic(text, compared.text(trials))
    say_drawn(draw_ten(trials, folder, formats), folder, [*save(trials, folder), text])


def say_drawn(outcomes, folder: Path, others: list[Path]) -> None:
    """What was written, and what was left out and why."""
    written, skipped = [], []
    for name, outcome in outcomes:
        if isinstance(outcome, str):
            skipped.append(f"  skipped {name}: {outcome}")
        else:
            written += outcome
    print("\n".join([f"  wrote {folder}/: " + ", ".join(path.name for path in [*written, *others]), *skipped]))


def redraw(path: Path, out: str | None, formats: tuple[str, ...]) -> int:
    """Draw a comparison again from its own file."""
    from experiments.verdicts.trials import load
    trials, folder = load(path), Path(out) if out else path.parent
    print(f"\n{trials.title}")
    try:
        compare(trials, folder, formats)
    except OSError as error:
        raise BadInput(f"--out: cannot write to {folder}: {error.strerror}") from None
    return 0


def report(results) -> list[str]:
    """The baseline's line, one verdict an arm, and what they rest on."""
    from experiments.verdicts.summary import notes
    width = max(len(arm) for arm in results.arms)
    lines = [verdict.line(width) for verdict in results.verdicts.values()]
    if results.baseline in results.arms:
        lines.insert(0, results.baseline_line(width))
    else:
        lines.insert(0, f"no verdicts: no run of the baseline {results.baseline!r} among {', '.join(results.arms)}")
    return lines + notes(results)


if __name__ == "__main__":
    sys.exit(main())
