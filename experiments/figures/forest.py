"""
The figure of the effects with their intervals, one row per arm, beside the margin and the noise
floor.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from experiments.figures.labels import shortened
from experiments.figures.panel import Panel, Skip
from experiments.figures.scales import (
    BAND,
    draw_margin,
    linear_part,
    scale_differences,
    share,
)
from experiments.figures.style import DPI, INK, MUTED, WIDTH, name_of, page, study_text
from experiments.verdicts.results import Results
from experiments.verdicts.stats import tost_interval
from experiments.verdicts.verdict import Verdict, p_text, signed

NOISE = "#a0a0a0"      # the hatching of the noise floor, which no arm has
SORTED = 9             # with more arms, rows come in order of their effects
PAGE, PAGES = 50, 4    # rows per figure; of more rows than fit, the middle ones are left out
RIGHT = 3.4            # inches for the verdicts
NARROW = 6             # pixels: a noise floor narrower than this would not be seen


def interval(verdict: Verdict) -> tuple[float, float] | None:
    """Return the interval to draw: the one at Holm's level, which excludes zero exactly where the
    word is better or worse."""
    return verdict.ci_holm or verdict.ci


def reach(results: Results) -> tuple[float, float]:
    """Return (low, high) of one scale for all arms, from below 0 to above it.

    The scale covers every effect, the usual interval, the margin and the noise floor. A very wide
    interval or noise floor is cut off. A side with nothing on it is short.
    """
    shown = [v for v in results.verdicts.values() if v.difference is not None
             and v.unit == results.unit]
    drawn = [interval(v) or (v.difference, v.difference) for v in shown]
    floors = [results.noise_floor.of_mean(v.n) or 0.0 for v in shown] if results.noise_floor else []
    effect = max([1.25 * abs(v.difference) for v in shown], default=0.0)
    usual = 1.6 * median(max(map(abs, ends)) for ends in drawn) if drawn else 0.0
    least = 1.5 * max(results.margin, min(max(floors, default=0.0), 2 * effect))
    most = max(effect, usual, least)
    below, above = (max(least, 0.15 * most, *(min(most, side * end) for ends in drawn
                                              for end in ends))
                    for side in (-1, 1))
    return -1.08 * below, 1.08 * above


def pages(results: Results) -> int:
    """Return how many figures the rows of the verdicts need."""
    return min(PAGES, -(-len(_measured(results)) // PAGE))


def _measured(results: Results) -> list[Verdict]:
    """Return the verdicts that have a row: in the study's order, or in the order of their
    effects."""
    shown = [v for v in results.verdicts.values() if v.difference is not None
             and v.unit == results.unit]
    return shown if len(shown) <= SORTED else sorted(shown, key=lambda v: v.difference)


def effects(panel: Panel, part: int = 0) -> Figure:
    """Draw the study's verdicts, one row per arm. Many arms need several figures on the same scale,
    of which `part` chooses one. Raises Skip where no arm has a difference."""
    results = panel.results
    every = _measured(results)
    if not every:
        raise Skip("no arm shares a seed with the baseline")
    low, high, linear = _limits(results, every)
    half = PAGE * PAGES // 2
    kept = every if len(every) <= 2 * half else every[:half] + every[-half:]
    each = -(-len(kept) // pages(results))         # pages of about the same length
    shown = kept[part * each:(part + 1) * each]
    left = max(0.9, 0.35 + 0.078 * max(len(shortened(v.arm, 28)) for v in shown))
    floors = [results.noise_floor.of_mean(v.n) or 0.0 if results.noise_floor else 0.0
              for v in shown]
    pixels = (WIDTH - left - RIGHT) * DPI * share(max(floors), low, high, linear)
    seen = pixels > NARROW
    what = name_of(results.metric)
    figure, (axes,) = page(1.95 + (0.36 if len(shown) <= SORTED else 0.29) * len(shown),
                           f"Effect of each arm on the {what}",
                           _caption(results, seen) + _part(every, shown), left=left,
                           right=RIGHT, above=0.12, second_line=linear is not None)
    said = scale_differences(axes, "x", linear, max(-low, high))
    if not said:
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    axes.set(xlim=(low, high), ylim=(len(shown) - 0.4, -0.6))
    draw_margin(axes, results.margin, upright=True)
    for row, verdict in enumerate(shown):
        if seen:
            axes.barh(row, 2 * floors[row], left=-floors[row], height=0.78, fc="none", ec=NOISE,
                      hatch="/////", lw=0.6, zorder=1.5)
        _row(axes, panel.styles[verdict.arm].color, row, verdict)
    name_rows(axes, [shortened(v.arm, 28) for v in shown])
    axes.set_xlabel(f"{what} minus that of {shortened(panel.baseline, 28)} ({results.unit})"
                    + f"\n{said}" * bool(said))
    directions(axes, "better", "worse")
    _key(figure, results, sum(v.p is not None for v in results.verdicts.values()), seen)
    return figure


def _caption(results: Results, floor_seen: bool) -> str:
    text = (f"{study_text(results.name)}differences are arm − {results.baseline}, "
            f"{results.pairing}; where the wide pale bar lies inside the margin, the arm is "
            "equivalent")
    if not floor_seen:
        return text
    how = ("runs that differ in the seed alone" if results.noise_floor.source == "A/A"
           else f"the baseline's spread over {results.replicates}")
    return (f"{text}; noise floor: one standard error of a mean over as many {results.replicates} "
            f"where there is no effect, from {how}")


def _part(every: list[Verdict], shown: list[Verdict]) -> str:
    """Return the part of the caption that says which of many arms these are."""
    if len(shown) == len(every):
        return ""
    first = every.index(shown[0]) + 1
    return (f"; ranks {first} to {first + len(shown) - 1} of {len(every)} arms by their effect"
            + (f"; the middle {len(every) - PAGE * PAGES} are in no figure"
               if len(every) > PAGE * PAGES else ""))


def _limits(results: Results, shown: list[Verdict]) -> tuple[float, float, float | None]:
    """Return (low, high) of the scale of differences, and where it turns logarithmic, or None."""
    linear = linear_part([v.difference for v in shown], results.margin)
    if linear is None:
        return (*reach(results), None)
    return (*far_limits(shown, results.margin), linear)


def far_limits(shown: Sequence[Verdict], margin: float) -> tuple[float, float]:
    """Return (low, high) of a scale that is logarithmic far from zero."""
    ends = [end for v in shown for end in (*(interval(v) or ()), v.difference)]
    most = 3 * max(abs(v.difference) for v in shown)
    low, high = (side * 1.4 * max(2 * margin, *(min(most, side * end) for end in ends))
                 for side in (-1, 1))
    return low, high


def name_rows(axes: Axes, names: list[str]) -> None:
    """Write the rows' names at the left, without ticks and grid lines."""
    axes.set_yticks(range(len(names)), names, fontsize=9.5, color=INK)
    axes.tick_params(axis="y", length=0, pad=8)     # beyond the arrowhead of a bar that is cut off
    axes.grid(axis="y", visible=False)


def directions(axes: Axes, left: str, right: str) -> None:
    """Write above the axes what the two sides of zero mean."""
    for text, side, aside in ((f"← {left}", "right", -8), (f"{right} →", "left", 8)):
        axes.annotate(text, (0, 1.0), (aside, 2), xycoords=axes.get_xaxis_transform(),
                      textcoords="offset points", ha=side, va="bottom", color=MUTED, size=9.5)


def _row(axes: Axes, color: str, row: int, v: Verdict) -> None:
    """Draw one arm's bars and its mean, and write its verdict beside them."""
    ends, scale = interval(v), axes.get_xlim()
    if near := tost_interval(v):
        low, high = np.clip(near, *scale)
        axes.barh(row, high - low, left=low, height=0.42, color=color, alpha=0.5, lw=0, zorder=3)
    if ends:
        cut = np.clip(ends, *scale)
        axes.plot(cut, [row, row], color=color, lw=1.8, solid_capstyle="butt", zorder=3.5)
        for end, place, mark in zip(ends, cut, "<>", strict=True):
            axes.plot([place], [row], color=color, marker=mark if place != end else "|",
                      ms=6 if place != end else 8, mew=1.8, clip_on=False, zorder=3.5)
    axes.plot([v.difference], [row], color=INK, marker="o", ms=4.5, mec="white", mew=0.8, zorder=4)
    decided = v.word != "undecided"
    beside = axes.get_yaxis_transform()
    inch = 1 / (axes.get_position().width * WIDTH)
    axes.text(1 + 0.18 * inch, row, v.word, transform=beside, va="center", size=9.5,
              weight="bold" if decided else "normal")
    p = f", {p_text('Holm p', v.p_holm)}" if v.p_holm is not None else ""
    axes.text(1 + 1.2 * inch, row, f"{signed(v.difference)}, n = {v.n}{p}", transform=beside,
              va="center", size=8.5, color=MUTED)


def _key(figure: Figure, results: Results, tested: int, floor: bool) -> None:
    """Draw the key below the title."""
    marks = [
        (Line2D([], [], color=INK, ls="", marker="o", ms=4.5), f"mean over {results.replicates}"),
        (Line2D([], [], color=MUTED, lw=1.8, marker="|", ms=8, mew=1.8),
         f"{100 * (1 - results.alpha):g} % CI"
         + f", Holm-adjusted over {tested} arms" * (tested > 1)),
        (Patch(fc=MUTED, alpha=0.5), f"{100 * (1 - 2 * results.alpha):g} % CI, for equivalence"),
        (Patch(fc="#e5e5e5", ec=BAND, ls=(0, (4, 2)), lw=0.8), f"margin ±{results.margin:g}")]
    if floor:
        marks.append((Patch(fc="none", ec=NOISE, hatch="/////", lw=0.6), "noise floor"))
    figure.legend(*zip(*marks, strict=True), loc="upper left", ncols=len(marks), frameon=False,
                  bbox_to_anchor=(0.05 / WIDTH, 1 - 0.34 / figure.get_figheight()), fontsize=8.5,
                  columnspacing=1.4, handlelength=1.8, handletextpad=0.5)
