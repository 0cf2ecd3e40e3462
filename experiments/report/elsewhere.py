"""
What is said of runs from elsewhere alone: how they were grouped into arms, and which arms reach a
target.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from experiments.report.tables import PageTable, Section, text
from experiments.verdicts.foreign import Foreign
from experiments.verdicts.target import rules, targets

NAMED = 6       # a longer list of seeds is cut
FILES = 2       # the same for files


def sections(results: Foreign) -> Iterator[Section]:
    """Yield the sections of the page."""
    head, rows = grouping(results)
    yield Section("grouping", "How the runs were grouped",
                  ["Names of folders, files and runs decide, up to a seed. Runs without a seed are "
                   "numbered in order."],
                  [PageTable("The arms and the logs that they were read from", head, rows,
                             numeric=(1,), code=(5,))])
    if results.choices.target is not None:
        head, rows = reached(results)
        yield Section("target", f"The target of {results.choices.target:g}",
                      ["An arm reaches the target where a one-sided t-test finds its mean below "
                       "it, with p adjusted by Holm over the arms. Steps are counted where all "
                       "runs of an arm come down to the target, on chords between evaluations.",
                       *(f"{line[0].upper()}{line[1:]}." for line in rules(results))],
                      [PageTable("Each arm against the target", head, rows, numeric=(2, 3, 4))])


def grouping(results: Foreign) -> tuple[list[str], list[list[str]]]:
    """Return (titles, rows) of the table of arms."""
    head = ["Arm", "Runs", "Seeds", "Compared", "At step", "From", "Format"]
    rows = []
    for each in results.grouping():
        how = {None: "baseline", True: "paired", False: "unpaired"}[each["paired"]]
        step = text(each["step"], "{:,}") if each["step"] is not None and each["step"] >= 0 else "–"
        ended = each["last_step"]
        if ended is not None and ended != each["step"]:
            step += f" (ends at {ended:,})"
        rows.append([each["arm"], str(each["runs"]), _cut(each["seeds"]) or "not named", how, step,
                     _files(each["from"]), ", ".join(each["format"])])
    return head, rows


def reached(results: Foreign) -> tuple[list[str], list[list[str]]]:
    """Return (titles, rows) of the table of arms against the target."""
    head = ["Arm", "Target", "n", "Mean", "Holm p", "Steps to it", "Benchmark's rule"]
    rows = []
    for each in targets(results, results.choices.target):
        steps = (f"{each.steps:,.0f}" + (f" [{each.steps_ci[0]:,.0f}, {each.steps_ci[1]:,.0f}]"
                                         if each.steps_ci else "")
                 if each.steps is not None else f"{each.reached} of {each.curves} runs"
                 if each.curves else "–")
        ends = f" [{each.ci[0]:.4f}, {each.ci[1]:.4f}]" if each.ci else ""
        rule = {None: "–", True: "met", False: "not met"}[each.rule]
        rows.append([each.arm, each.word, str(each.n), text(each.mean, "{:.4f}") + ends,
                     text(each.p_holm, "{:.2g}"), steps, rule])
    return head, rows


def _files(labels: list[str]) -> str:
    """Return the files of an arm, each once, with the number of runs in a file of several."""
    count = Counter(label.partition("#")[0] for label in labels)
    return _cut([name + (f" ({n} runs)" if n > 1 else "") for name, n in count.items()], FILES)


def _cut(items, most: int = NAMED) -> str:
    items = [str(each) for each in items or ()]
    return ", ".join(items[:most]) + (f" and {len(items) - most} more"
                                      if len(items) > most else "")
