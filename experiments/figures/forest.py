"""
The figure of the effects with their intervals, one row per arm, beside the margin and the noise
floor.
"""

from __future__ import annotations

from statistics import median

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.figures.labels import shortened
from experiments.figures.panel import Panel, Skip
from experiments.figures.style import BASELINE, MUTED, page
from experiments.verdicts.results import Results
from experiments.verdicts.stats import tost_interval
from experiments.verdicts.verdict import Verdict, p_text, signed

FLOOR = "#0072B2"


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


def effects(panel: Panel) -> Figure:
    """Draw the study's verdicts, one row per arm. Raises Skip where no arm has a difference."""
    results = panel.results
    shown = [v for v in results.verdicts.values() if v.difference is not None
             and v.unit == results.unit]
    if not shown:
        raise Skip("no arm shares a seed with the baseline")
    tested = sum(v.p is not None for v in results.verdicts.values())
    level = f"{100 * (1 - results.alpha):g} % CI, Holm-adjusted over {tested} arms"
    caption = f"point: mean over seeds of arm − {panel.baseline}, paired; thin: {level}; "
    caption += (f"thick: {100 * (1 - 2 * results.alpha):g} % CI, not adjusted; inside the grey "
                f"margin ")
    caption += f"(±{results.margin:g}) it means equivalent" + _floor_text(results)
    height = 1.95 + 0.36 * len(shown)
    figure, (axes,) = page(height, results.title, caption, left=2.45, right=3.45)
    scale = reach(results)
    axes.set_xlim(*scale)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.axvspan(-results.margin, results.margin, color=BASELINE, alpha=0.08, lw=0)
    axes.axvline(0, color=BASELINE, lw=1.2)
    for row, verdict in enumerate(shown):
        _row(axes, panel, row, verdict, scale)
    axes.set_yticks(range(len(shown)), [shortened(v.arm, 28) for v in shown], fontsize=9.5,
                    color="#222222")
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    unit = shown[0].unit
    axes.set_xlabel(f"{results.metric.replace('_', ' ')} minus {panel.baseline}'s ({unit})")
    directions(axes, "better", "worse")
    return figure


def directions(axes: Axes, left: str, right: str) -> None:
    """Write above the axes what the two sides of zero mean."""
    for text, side in ((f"← {left}   ", "right"), (f"   {right} →", "left")):
        axes.text(0, 1.02, text, transform=axes.get_xaxis_transform(), ha=side, va="bottom",
                  color=MUTED, size=9.5)


def _row(axes: Axes, panel: Panel, row: int, v: Verdict, scale: tuple[float, float]) -> None:
    color, ends, floor = panel.styles[v.arm].color, interval(v), panel.results.noise_floor
    least = floor.of_mean(v.n) if floor else None
    if least:
        axes.barh(row, 2 * least, left=-least, height=0.62, color=FLOOR, alpha=0.13, lw=0,
                  zorder=1.5)
    if ends:
        cut = np.clip(ends, *scale)
        axes.plot(cut, [row, row], color=color, lw=2.4, solid_capstyle="butt", zorder=3)
        for end, place, mark in zip(ends, cut, "<>", strict=True):
            axes.plot([place], [row], color=color, marker=mark if place != end else "|",
                      ms=6 if place != end else 9, mew=1.8, clip_on=False, zorder=3)
    if near := tost_interval(v):
        axes.plot(np.clip(near, *scale), [row, row], color=color, lw=6, alpha=0.55,
                  solid_capstyle="butt", zorder=3)
    axes.plot([v.difference], [row], color=color, marker="o", ms=7.5, mec="white", mew=1, zorder=4)
    decided = v.word != "undecided"
    axes.text(1.02, row, v.word, transform=axes.get_yaxis_transform(), va="center", size=9.5,
              weight="bold" if decided else "normal")
    p = f", {p_text('Holm p', v.p_holm)}" if v.p_holm is not None else ""
    axes.text(1.37, row, f"{signed(v.difference)}, n = {v.n}{p}",
              transform=axes.get_yaxis_transform(), va="center", size=8.5, color=MUTED)


def _floor_text(results: Results) -> str:
    floor = results.noise_floor
    if floor is None or floor.spread is None:
        return ""
    how = "A/A runs" if floor.source == "A/A" else "the baseline's spread over seeds"
    return f"; blue: the noise floor from {how} (one standard error of a mean over as many seeds)"
