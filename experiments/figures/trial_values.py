"""
The values of a comparison: as bars, as boxes, run by run, in per cent of the baseline, and quality
against speed and memory.
"""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from experiments.figures.labels import shortened
from experiments.figures.panel import Skip
from experiments.figures.pictures import LOWER, Pictures, legend
from experiments.figures.style import BASELINE, MUTED, page, short

TITLES = {"final_loss": "final training loss (nats)", "val_loss": "validation loss (nats)",
          "tokens_per_second": "tokens per second", "seconds": "seconds of training",
          "peak_memory_mb": "peak memory (MB)"}


def metrics_comparison(p: Pictures) -> Figure:
    """Draw one bar per arm for every measure."""
    measures = p.measured("val_loss" if p.quality == "val_loss" else "final_loss",
                          "tokens_per_second", "seconds", "peak_memory_mb")
    figure, cells = _panels(p, measures, "Every measure", "bar: mean over runs; whisker: sd")
    for axes, measure in zip(cells, measures, strict=False):
        for place, (arm, values) in enumerate(p.arrays(measure).items()):
            axes.barh(place, values.mean(), color=p.styles[arm].color, height=0.68, alpha=0.85,
                      xerr=values.std(ddof=1) if len(values) > 1 else None,
                      error_kw={"elinewidth": 1.2, "capsize": 3})
        _zoom(axes, p.arrays(measure))
    return figure


def distributions(p: Pictures) -> Figure:
    """Draw box plots with a dot for every run."""
    measures = p.measured("final_loss", "val_loss", "tokens_per_second", "peak_memory_mb")
    figure, cells = _panels(p, measures, "Distributions over runs",
                            "box: quartiles and median; whiskers: range; dot: a run")
    for axes, measure in zip(cells, measures, strict=False):
        for place, (arm, values) in enumerate(p.arrays(measure).items()):
            color = p.styles[arm].color
            looks = {f"{part}props": {"color": color, "lw": 1.3}
                     for part in ("box", "whisker", "cap", "median")}
            axes.boxplot(values, positions=[place], orientation="horizontal", widths=0.55,
                         whis=(0, 100), manage_ticks=False, showfliers=False, **looks)
            axes.plot(values, np.full(len(values), place), color=color, ls="", marker="o", ms=4,
                      alpha=0.6)
    return figure


def per_run(p: Pictures) -> Figure:
    """Draw every run at its seed, and the arm's mean."""
    measures = p.measured("final_loss", "val_loss", "tokens_per_second", "peak_memory_mb")
    rows = -(-len(measures) // 2)
    figure, cells = page(1.6 + 2.7 * rows, f"Run by run: {p.trials.title}",
                         p.caption("mark: a run; dashed: the arm's mean"),
                         columns=(1, 1)[:len(measures)], rows=rows, gap=0.75, row_gap=1.0,
                         right=2.0)
    for axes, measure in zip(cells, measures, strict=False):
        for arm, runs in p.trials.values(measure).items():
            style = p.styles[arm]
            seeds = [-1 if seed is None else seed for seed in runs]
            axes.plot(seeds, list(runs.values()), color=style.color, marker=style.marker, ms=5,
                      lw=0.6, alpha=0.9, label=shortened(arm, 22))
            axes.axhline(float(np.mean(list(runs.values()))), color=style.color, lw=1.1,
                         ls=(0, (5, 2)), zorder=1)
        axes.set_title(TITLES[measure])
        _thousands(axes.yaxis, measure)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_xlabel("seed")
    for axes in cells[len(measures):]:
        axes.set_visible(False)
    legend(cells[min(1, len(measures) - 1)])
    return figure


def summary(p: Pictures) -> Figure:
    """Draw every arm's change against the baseline, in per cent; to the right is better. Raises
    Skip where there is no arm beside the baseline."""
    measures = p.measured(p.quality, "tokens_per_second", "peak_memory_mb")
    arms = [arm for arm in p.trials.arms if arm != p.trials.baseline]
    if not arms or p.trials.baseline not in p.trials.arms:
        raise Skip("there is nothing to compare: one arm")
    figure, cells = _panels(p, measures, "Improvement over the baseline",
                            "mean over runs, paired by seed; whisker: sd; to the right: better",
                            arms=arms)
    for axes, measure in zip(cells, measures, strict=False):
        ratios = p.ratios(measure)
        for place, arm in enumerate(arms):
            if arm in ratios:
                change = 100 * ((1 - ratios[arm]) if measure in LOWER else (ratios[arm] - 1))
                axes.barh(place, change.mean(), color=p.styles[arm].color, height=0.68, alpha=0.85,
                          xerr=change.std(ddof=1) if len(change) > 1 else None,
                          error_kw={"elinewidth": 1.2, "capsize": 3})
        axes.axvline(0, color=BASELINE, lw=1)
        axes.set_xlabel("%")
    return figure


def _panels(p: Pictures, measures: list[str], title: str, caption: str,
            arms: list[str] | None = None):
    """Return axes side by side with the arms as rows. The arms' names stand at the left of the
    first axes of each row."""
    shown = arms or list(p.arrays(measures[0]))
    rows = -(-len(measures) // 2) if len(measures) > 3 else 1
    columns = min(len(measures), 2) if rows > 1 else len(measures)
    height = 1.55 + rows * (0.85 + 0.27 * len(shown))
    figure, cells = page(height, f"{title}: {p.trials.title}", p.caption(caption),
                         columns=(1,) * columns, rows=rows, left=1.75, gap=0.35, row_gap=1.0)
    for number, axes in enumerate(cells):
        axes.set_visible(number < len(measures))
        if number < len(measures):
            axes.set_title(TITLES[measures[number]])
            _thousands(axes.xaxis, measures[number])
        axes.set_yticks(range(len(shown)), [shortened(arm, 20) for arm in shown]
                        if number % columns == 0 else
                        [""] * len(shown), color="#222222")
        axes.set_ylim(len(shown) - 0.45, -0.55)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", visible=False)
        axes.xaxis.get_major_locator().set_params(nbins=4 if columns > 2 else 5)
    return figure, cells


def _thousands(axis: Axis, measure: str) -> None:
    if measure == "tokens_per_second":
        axis.set_major_formatter(FuncFormatter(lambda value, _: short(value, ("", "k", "M"))))


def _zoom(axes: Axes, arrays: dict[str, np.ndarray]) -> None:
    """Start the bars above zero where starting at zero would hide every difference, and label the
    axis so."""
    means = [values.mean() for values in arrays.values()]
    low, high = min(v.min() for v in arrays.values()), max(v.max() for v in arrays.values())
    if high - low < 0.15 * abs(np.mean(means)):
        axes.set_xlim(low - 0.6 * (high - low or abs(high) * 0.01),
                      high + 0.25 * (high - low or abs(high) * 0.01))
        axes.set_xlabel("the axis does not start at zero", color=MUTED, size=8)


def speedup_quality(p: Pictures) -> Figure:
    """Draw speed against quality, relative to the baseline."""
    return _scatter(p, "tokens_per_second", p.quality, "Speed against quality")


def memory_quality(p: Pictures) -> Figure:
    """Draw memory against quality, relative to the baseline."""
    return _scatter(p, "peak_memory_mb", p.quality, "Memory against quality")


def memory_speed(p: Pictures) -> Figure:
    """Draw memory against speed, relative to the baseline."""
    return _scatter(p, "peak_memory_mb", "tokens_per_second", "Memory against speed")


AXES = {"tokens_per_second": "speed-up (times the baseline's tokens per second)",
        "peak_memory_mb": "peak memory (times the baseline's)",
        "val_loss": "validation loss (times the baseline's)",
        "final_loss": "final training loss (times the baseline's)"}


def _scatter(p: Pictures, x: str, y: str, title: str) -> Figure:
    across, up = p.ratios(x), p.ratios(y)
    shared = [arm for arm in p.trials.arms if arm in across and arm in up]
    if len(shared) < 2:
        raise Skip("there is nothing to compare: one arm")
    better = {x: "left" if x in LOWER else "right", y: "down" if y in LOWER else "up"}
    caption = (f"dot: mean over runs, paired by seed; bars: sd; better is {better[x]} and "
               f"{better[y]}")
    figure, (axes,) = page(5.2, f"{title}: {p.trials.title}", p.caption(caption), left=0.95,
                           right=2.3, headed=False)
    axes.axvline(1, color=BASELINE, lw=0.8)
    axes.axhline(1, color=BASELINE, lw=0.8)
    for arm in shared:
        style = p.styles[arm]
        spread = [v.std(ddof=1) if len(v) > 1 and arm != p.trials.baseline else 0
                  for v in (across[arm], up[arm])]
        axes.errorbar(across[arm].mean(), up[arm].mean(), xerr=spread[0], yerr=spread[1],
                      color=style.color, marker=style.marker, ms=8, elinewidth=1.1, capsize=2.5,
                      ls="", label=shortened(arm, 24))
    axes.set_xlabel(AXES[x])
    axes.set_ylabel(AXES[y])
    axes.margins(0.12)
    for axis in (axes.xaxis, axes.yaxis):
        axis.get_major_formatter().set_useOffset(False)
    legend(axes)
    return figure
