"""
Effects with their intervals, one arm a row, beside the margin and the noise floor.
"""

from __future__ import annotations

import math
from statistics import median

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy.stats import t

from experiments.figures.labels import shortened
from experiments.figures.panel import Panel, Skip
from experiments.figures.style import BASELINE, MUTED, page
from experiments.results import Results
from experiments.verdict import Verdict, p_text, signed

FLOOR = "#0072B2"


def interval(verdict: Verdict) -> tuple[float, float] | None:
    """What is drawn: the interval at Holm's level, which excludes zero exactly where the word is better or worse."""
    return verdict.ci_holm or verdict.ci


def tost_interval(verdict: Verdict) -> tuple[float, float] | None:
    """The interval at 1 − 2 alpha: inside the margin exactly where two one-sided tests find the arm equivalent."""
    if verdict.sd is None or verdict.difference is None or verdict.n < 2:
        return None
    half = float(t.ppf(1 - verdict.alpha, verdict.n - 1)) * verdict.sd / math.sqrt(verdict.n)
    return verdict.difference - half, verdict.difference + half


def reach(results: Results) -> float:
    """Half the width of a scale for all arms: every effect and the usual interval; a very wide one is cut."""
    shown = [v for v in results.verdicts.values() if v.difference is not None]
    ends = [max(abs(end) for end in ends) for v in shown if (ends := interval(v))]
    floor = results.noise_floor.of_mean(1) if results.noise_floor else None
    most = max([1.25 * abs(v.difference) for v in shown], default=0.0)
    return 1.08 * max(most, 1.6 * median(ends) if ends else 0.0, 1.5 * results.margin, min(floor or 0.0, 3 * most))


def effects(panel: Panel) -> Figure:
    """The study's answer as a picture."""
    results = panel.results
    shown = [v for v in results.verdicts.values() if v.difference is not None]
    if not shown:
        raise Skip("no arm shares a seed with the baseline")
    level = f"{100 * (1 - results.alpha):g} % intervals, Holm-adjusted over {len(results.verdicts)} arms"
    caption = f"point: mean over seeds of arm − {panel.baseline}, paired; thin: {level}; "
    caption += f"thick: {100 * (1 - 2 * results.alpha):g} %, not adjusted, which inside the grey margin "
    caption += f"(±{results.margin:g}) means equivalent" + _floor_text(results)
    height = 1.95 + 0.36 * len(shown)
    figure, (axes,) = page(height, results.title, caption, left=2.45, right=3.45)
    width = reach(results)
    axes.set_xlim(-width, width)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.axvspan(-results.margin, results.margin, color=BASELINE, alpha=0.08, lw=0)
    axes.axvline(0, color=BASELINE, lw=1.2)
    for row, verdict in enumerate(shown):
        _row(axes, panel, row, verdict, width)
    axes.set_yticks(range(len(shown)), [shortened(v.arm, 28) for v in shown], fontsize=9.5, color="#222222")
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    unit = shown[0].unit
    axes.set_xlabel(f"{results.metric.replace('_', ' ')} minus {panel.baseline}'s ({unit})")
    axes.set_title("← better" + " " * 12 + "worse →", loc="center", color=MUTED, weight="normal")
    return figure


def _row(axes: Axes, panel: Panel, row: int, v: Verdict, width: float) -> None:
    color, ends, floor = panel.styles[v.arm].color, interval(v), panel.results.noise_floor
    least = floor.of_mean(v.n) if floor else None
    if least:
        axes.barh(row, 2 * least, left=-least, height=0.62, color=FLOOR, alpha=0.13, lw=0, zorder=1.5)
    if ends:
        low, high = (max(-width, min(width, end)) for end in ends)
        axes.plot([low, high], [row, row], color=color, lw=2.4, solid_capstyle="butt", zorder=3)
        for end, mark in ((ends[0], "<"), (ends[1], ">")):
            edge = abs(end) > width
            axes.plot([max(-width, min(width, end))], [row], color=color, marker=mark if edge else "|",
                      ms=6 if edge else 9, mew=1.8, clip_on=False, zorder=3)
    if near := tost_interval(v):
        axes.plot([max(-width, near[0]), min(width, near[1])], [row, row], color=color, lw=6, alpha=0.55,
                  solid_capstyle="butt", zorder=3)
    axes.plot([v.difference], [row], color=color, marker="o", ms=7.5, mec="white", mew=1, zorder=4)
    decided = v.word != "undecided"
    axes.text(1.02, row, v.word, transform=axes.get_yaxis_transform(), va="center", size=9.5,
              weight="bold" if decided else "normal")
    p = f", {p_text('Holm p', v.p_holm)}" if v.p_holm is not None else ""
    axes.text(1.37, row, f"{signed(v.difference)}, n = {v.n}{p}", transform=axes.get_yaxis_transform(),
              va="center", size=8.5, color=MUTED)


def _floor_text(results: Results) -> str:
    floor = results.noise_floor
    if floor is None or floor.spread is None:
        return ""
    how = "A/A runs" if floor.source == "A/A" else "the baseline's spread over seeds"
    return f"; blue: the noise floor from {how} (one standard error of a mean over as many seeds)"
