"""
The values of a comparison: as means, as boxes, run by run, and in per cent of the baseline.
"""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, ScalarFormatter

from experiments.figures.labels import shortened
from experiments.figures.panel import Skip
from experiments.figures.pictures import (
    LOWER,
    RANGE,
    Pictures,
    far_text,
    frame,
    legend,
    tell_start,
)
from experiments.figures.style import BASELINE, INK, MUTED, page, short

MANY = 24        # most arms that have room beside each other above a seed
TITLES = {"final_loss": "final training loss (nats)", "val_loss": "validation loss (nats)",
          "tokens_per_second": "tokens per second", "seconds": "seconds of training",
          "peak_memory_mb": "peak memory (MB)"}
TALL = 16        # with more arms, all measures stand side by side


def metrics_comparison(p: Pictures) -> Figure:
    """Draw the mean and the range of every measure, one row per arm."""
    measures = p.measured("val_loss" if p.quality == "val_loss" else "final_loss",
                          "tokens_per_second", "seconds", "peak_memory_mb")
    figure, cells = _rows(p, measures, "Mean of every measure",
                          f"dot: mean; {RANGE}; vertical line: the baseline's mean")
    for axes, measure in zip(cells, measures, strict=False):
        for place, (arm, values) in enumerate(p.arrays(measure).items()):
            _whisker(axes, p, arm, place, values)
            if arm == p.trials.baseline:
                axes.axvline(values.mean(), color=MUTED, lw=0.8, zorder=1)
        _outside(axes, frame(axes, "x", p.arrays(measure)), list(p.arrays(measure)))
        tell_start(axes, "x")
    return figure


def distributions(p: Pictures) -> Figure:
    """Draw box plots with a dot for every run."""
    measures = p.measured("final_loss", "val_loss", "tokens_per_second", "peak_memory_mb")
    figure, cells = _rows(p, measures, "Distributions over runs",
                          f"box: quartiles and median; {RANGE}; dot: a run")
    for axes, measure in zip(cells, measures, strict=False):
        for place, (arm, values) in enumerate(p.arrays(measure).items()):
            color = p.styles[arm].color
            looks = {f"{part}props": {"color": color, "lw": 1.3}
                     for part in ("box", "whisker", "cap", "median")}
            axes.boxplot(values, positions=[place], orientation="horizontal", widths=0.55,
                         whis=(0, 100), manage_ticks=False, showfliers=False, **looks)
            axes.plot(values, np.full(len(values), place), color=color, ls="", marker="o", ms=4,
                      mec="white", mew=0.5)
        _outside(axes, frame(axes, "x", p.arrays(measure)), list(p.arrays(measure)))
        tell_start(axes, "x")
    return figure


def per_run(p: Pictures) -> Figure:
    """Draw every run above its seed, and the arm's mean beside them."""
    measures = p.measured("final_loss", "val_loss", "tokens_per_second", "peak_memory_mb")
    arms = [arm for arm in p.trials.arms if any(arm in p.trials.values(m) for m in measures)]
    if len(arms) > MANY:
        raise Skip(f"{len(arms)} arms have no room beside each other")
    rows = -(-len(measures) // 2)
    figure, cells = page(1.4 + 2.9 * rows, "Every run, by its seed",
                         p.caption("mark: a run; at the right: the mean of an arm's runs"
                                   + far_text(*map(p.arrays, measures)) + p.doubt_text(measures)),
                         columns=(1, 1)[:len(measures)], rows=rows, gap=0.85, row_gap=1.0,
                         left=0.95, right=2.0)
    for axes, measure in zip(cells, measures, strict=False):
        _seeds(axes, p, measure, arms)
        axes.set_title(TITLES[measure])
        _thousands(axes.yaxis, measure)
        axes.set_xlabel("seed")
        axes.set_ylabel(p.timing_note(measure))
        tell_start(axes, "y")
        axes.yaxis.label.set(size=8, color=MUTED)
    for axes in cells[len(measures):]:
        axes.set_visible(False)
    legend(cells[min(1, len(measures) - 1)])
    return figure


def _seeds(axes: Axes, p: Pictures, measure: str, arms: list[str]) -> None:
    """Draw the marks of one measure. The arms stand side by side above a seed; no line joins seeds,
    which have no order."""
    values = p.trials.values(measure)
    seeds = sorted({-1 if seed is None else seed for runs in values.values() for seed in runs})
    for number, arm in enumerate(arms):
        runs, style = values.get(arm, {}), p.styles[arm]
        aside = 0.7 * ((number + 0.5) / len(arms) - 0.5)
        looks = {"color": style.color, "marker": style.marker or "o", "ls": "", "mec": "white",
                 "mew": 0.5}
        axes.plot([seeds.index(-1 if seed is None else seed) + aside for seed in runs],
                  list(runs.values()), ms=5.5, label=shortened(arm, 22), **looks)
        if runs:
            axes.plot([len(seeds) + aside], [np.mean(list(runs.values()))], ms=7, **looks)
    axes.axvline(len(seeds) - 0.5, color=MUTED, lw=0.8)
    frame(axes, "y", p.arrays(measure))
    axes.set_xlim(-0.5, len(seeds) + 0.5)
    axes.set_xticks(range(len(seeds) + 1), [*("–" if seed < 0 else seed for seed in seeds), "mean"])
    axes.grid(axis="x", visible=False)


def summary(p: Pictures) -> Figure:
    """Draw every arm's change against the baseline, in per cent; to the right is better. Raises
    Skip where there is no arm beside the baseline."""
    measures = p.measured(p.quality, "tokens_per_second", "peak_memory_mb")
    arms = [arm for arm in p.trials.arms if arm != p.trials.baseline]
    if not arms or p.trials.baseline not in p.trials.arms:
        raise Skip("there is nothing to compare: one arm")
    figure, cells = _rows(p, measures, "Improvement over the baseline, in per cent",
                          f"dot: mean, paired by seed; {RANGE}; to the right of zero: better",
                          arms=arms)
    for axes, measure in zip(cells, measures, strict=False):
        change = {arm: 100 * (1 - v if measure in LOWER else v - 1)
                  for arm, v in p.ratios(measure).items() if arm in arms}
        for arm, values in change.items():
            _whisker(axes, p, arm, arms.index(arm), values)
        axes.axvline(0, color=BASELINE, lw=1)
        _outside(axes, frame(axes, "x", change, around=0.0), arms)
        axes.set_title(TITLES[measure].partition(" (")[0])
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.set_xlabel("\n".join(filter(None, ("%", p.timing_note(measure)))))
    return figure


def _outside(axes: Axes, far: dict[str, float], rows: list[str]) -> None:
    """Write the means of arms outside the frame in their rows, with an arrow."""
    low, high = axes.get_xlim()
    for arm, value in far.items():
        right = value > (low + high) / 2
        text = f"{value:.3g} →" if right else f"← {value:.3g}"
        axes.text(0.97 if right else 0.03, rows.index(arm), text.replace("-", "−"), va="center",
                  transform=axes.get_yaxis_transform(), ha="right" if right else "left", size=8.5,
                  color=MUTED)


def _whisker(axes: Axes, p: Pictures, arm: str, place: int, values: np.ndarray) -> None:
    style = p.styles[arm]
    axes.plot([values.min(), values.max()], [place, place], color=style.color, lw=1.8, marker="|",
              ms=7, mew=1.5, zorder=2.5)
    axes.plot([values.mean()], [place], color=style.color, marker=style.marker or "o", ms=5.5,
              mec="white", mew=0.5, zorder=3)


def _rows(p: Pictures, measures: list[str], title: str, caption: str,
          arms: list[str] | None = None) -> tuple[Figure, list[Axes]]:
    """Return axes side by side with the arms as rows. The arms' names stand at the left of the
    first axes of each row."""
    shown = arms or list(p.arrays(measures[0]))
    rows = -(-len(measures) // 2) if len(measures) > 3 and len(shown) <= TALL else 1
    columns = min(len(measures), 2) if rows > 1 else len(measures)
    height = 1.67 + rows * (0.85 + (0.27 if len(shown) <= TALL else 0.22) * len(shown))
    figure, cells = page(height, title, p.caption(caption + p.doubt_text(measures)),
                         columns=(1,) * columns, rows=rows,
                         left=1.75, gap=0.35, row_gap=1.05, second_line=True)
    for number, axes in enumerate(cells):
        axes.set_visible(number < len(measures))
        if number < len(measures):
            axes.set_title(TITLES[measures[number]].replace(" (", "\n(" if columns > 3 else " ("))
            axes.set_xlabel(p.timing_note(measures[number]))
            _thousands(axes.xaxis, measures[number])
        axes.set_yticks(range(len(shown)), [shortened(arm, 20) for arm in shown]
                        if number % columns == 0 else [""] * len(shown), color=INK)
        axes.set_ylim(len(shown) - 0.45, -0.55)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", visible=False)
        axes.xaxis.get_major_locator().set_params(nbins=3 if columns > 2 else 5)
        axes.xaxis.label.set(size=8, color=MUTED)
    return figure, cells


def _thousands(axis: Axis, measure: str) -> None:
    if measure == "tokens_per_second":
        axis.set_major_formatter(FuncFormatter(lambda value, _: short(value, ("", "k", "M"))))
