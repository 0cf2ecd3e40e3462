"""
Draw what a study found: its figures, its tables, its page, and the comparison of its trials. These
functions print what they write.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from experiments.figures import Panel, draw
from experiments.figures.comparison import draw_ten
from experiments.report.elsewhere import grouping
from experiments.report.page import write
from experiments.verdicts.caveats import caveats
from experiments.verdicts.foreign import Foreign
from experiments.verdicts.latex import to_latex
from experiments.verdicts.results import Results
from experiments.verdicts.summary import notes, to_csv, to_markdown, verdict_lines
from experiments.verdicts.target import rules, targets
from experiments.verdicts.trials import TEXT, Trials, comparison_text, gather, load, save
from mingpt.utils import BadInput, write_atomic


def draw_study(results: Results, out: Path, formats: tuple[str, ...], x: str, metric: str,
               losses: Path | None = None, comparison: bool = False) -> None:
    """Print one study's verdicts, draw its figures, and print what was written. With `losses`, the
    folder of its runs, write report.html as well. Draw the comparison where it is asked for, here
    or by the study. Raises BadInput where the folder cannot be written."""
    folder = out / results.name if results.name else out
    make_folder(folder)
    print(f"\n{results.title}")
    for line in report(results):
        print(f"  {line}")
    draw_panel(Panel(results, x, metric), folder, formats, losses)
    if comparison or (results.declared and "comparison" in results.declared.pictures):
        compare(gather(results), folder / "comparison", formats)


def make_folder(folder: Path) -> None:
    """Make the folder of the figures. Raises BadInput where that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"--out: cannot write to {folder}: {error.strerror}") from None


def draw_panel(panel: Panel, folder: Path, formats: tuple[str, ...], losses: Path | None) -> None:
    """Draw the figures and write the tables, and with `losses` the page. Print what was
    written."""
    make_folder(folder)
    if losses is not None:
        print(f"  wrote {write(panel, folder, losses)}")
    say_drawn(draw(panel, folder, formats), folder, write_tables(panel.results, folder))


def write_tables(results: Results, folder: Path) -> list[Path]:
    """Write verdicts.json and summary.csv (for programs), summary.md (for people) and summary.tex
    (for papers); return their paths."""
    found = results.summary() | {"caveats": caveats(results).to_dict()}
    texts = {"verdicts.json": json.dumps(found, indent=1, ensure_ascii=False) + "\n",
             "summary.csv": to_csv(results), "summary.md": to_markdown(results),
             "summary.tex": to_latex(results)}
    for name, text in texts.items():
        write_atomic(folder / name, text)
    return [folder / name for name in texts]


def compare(trials: Trials, folder: Path, formats: tuple[str, ...]) -> None:
    """Write the ten pictures of a comparison, and the files from which they can be drawn again."""
    if not trials.all:
        print("  skipped comparison/: no run has finished")
        return
    folder.mkdir(parents=True, exist_ok=True)
    text = folder / TEXT
    write_atomic(text, comparison_text(trials))
    say_drawn(draw_ten(trials, folder, formats), folder, [*save(trials, folder), text])


def say_drawn(outcomes, folder: Path, others: list[Path]) -> None:
    """Print what was written, and what was skipped and why."""
    written, skipped = [], []
    for name, outcome in outcomes:
        if isinstance(outcome, str):
            skipped.append(f"  skipped {name}: {outcome}")
        else:
            written += outcome
    print("\n".join([f"  wrote {folder}/: " + ", ".join(path.name for path in [*written, *others]),
                     *skipped]))


def redraw(path: Path, out: str | None, formats: tuple[str, ...]) -> int:
    """Draw a comparison again from its experiment_results.npz; return the exit status 0."""
    trials, folder = load(path), Path(out) if out else path.parent
    print(f"\n{trials.title}")
    try:
        compare(trials, folder, formats)
    except OSError as error:
        raise BadInput(f"--out: cannot write to {folder}: {error.strerror}") from None
    return 0


def report(results: Results) -> list[str]:
    """Return the baseline's line, one line per verdict, and the notes on them."""
    width = max(len(arm) for arm in results.arms)
    lines = verdict_lines(results, width)
    if results.baseline in results.arms:
        lines.insert(0, results.baseline_line(width))
    else:
        lines.insert(0, f"no verdicts: no run of the baseline {results.baseline!r} among "
                        f"{', '.join(results.arms)}")
    return lines + notes(results)


def report_elsewhere(results: Foreign) -> list[str]:
    """Return the lines on runs from elsewhere: how they were grouped, the verdicts, and what became
    of the target."""
    lines = [*_aligned(*grouping(results)), "", results.title,
             *(f"  {line}" for line in report(results))]
    if len(results.arms) == 1:
        lines.append("  one arm only, so there is nothing to compare; --arm NAME=GLOB groups the "
                     "runs otherwise")
    if results.choices.target is not None:
        width = max(map(len, results.arms))
        found = targets(results, results.choices.target)
        lines += ["", f"Target {results.choices.target:g}",
                  *(f"  {each.line(width)}" for each in found),
                  *(f"  {line}" for line in rules(results))]
    return lines


def _aligned(head: list[str], rows: list[list[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        cells = (f"{cell:{width}}" for cell, width in zip(row, widths, strict=True))
        yield "  ".join(cells).rstrip()
