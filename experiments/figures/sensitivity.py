"""
The figure of the metric over the learning rate, with each arm's own best rate.
"""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator

from experiments.figures.labels import font_size, label_ends, margin
from experiments.figures.panel import Panel, Skip
from experiments.figures.style import MUTED, name_of, page, study_text
from experiments.verdicts.sensitivity import ArmSensitivity


def learning_rates(panel: Panel) -> Figure:
    """Draw one line per arm over its grid: mean and spread over seeds, a star at the best rate, and
    a cross where a seed diverged. Raises Skip where no arm has two rates with a result."""
    found = panel.results.sensitivity
    arms = ([each for each in found.arms if any(p.mean is not None for p in each.points)]
            if found else [])
    if not any(len(each.points) > 1 for each in arms):
        raise Skip("the study declares no learning-rate grid" if not found
                   else "no arm has two rates with a result")
    caption = (f"{study_text(panel.results.name)}mean over seeds, bar: sd; star: an arm's best, "
               f"chosen on seeds "
               f"{_seeds(found.selection_seeds)} alone and judged on seeds "
               f"{_seeds(found.judging_seeds)}"
               + "; cross: a seed diverged at that rate" * any(
                   point.diverged for each in arms for point in each.points) + ". ")
    caption += " ".join(_judged(each) for each in arms if each.verdict)
    height = max(4.9, 2.2 + 0.2 * len(arms))
    size = font_size(len(arms), height - 1.9)
    figure, (axes,) = page(height, f"{name_of(found.metric).capitalize()} over the learning rate",
                           caption, left=0.85,
                           right=margin([each.arm for each in arms], size), headed=False)
    for number, each in enumerate(arms):
        _line(axes, panel, each, cross=0.985 - 0.035 * (number % 8))
    _scale(axes, arms)
    axes.set_ylabel(f"{name_of(found.metric)} ({found.unit})")
    label_ends(axes, {each.arm: _end(each) for each in arms}, panel.styles, size)
    return figure


def _seeds(seeds: tuple[int, ...]) -> str:
    return ", ".join(map(str, seeds)) or "none"


def _judged(each: ArmSensitivity) -> str:
    rate = f" at {each.best.rate:g}" if each.best else ""
    return (f"{each.arm}{rate}: "
            f"{each.verdict.word}{' (at the edge of its grid)' if each.at_edge else ''}.")


def _line(axes: Axes, panel: Panel, each: ArmSensitivity, cross: float) -> None:
    """Draw one arm. `cross` is the height of its crosses in axes fractions; it differs between arms
    so that their crosses do not overlap."""
    style = panel.styles[each.arm]
    points = [p for p in each.points if p.mean is not None]
    x, y = [p.rate for p in points], [p.mean for p in points]
    axes.errorbar(x, y, yerr=[p.sd or 0.0 for p in points], color=style.color, ls=style.dash,
                  lw=style.width, marker=style.marker or "o", ms=5, capsize=2.5, elinewidth=1,
                  zorder=3)
    if each.best is not None and each.best.mean is not None:
        axes.plot([each.best.rate], [each.best.mean], color=style.color, marker="*", ms=15,
                  mec="white", mew=0.8, zorder=4)
    for point in each.points:
        if point.diverged:
            axes.plot([point.rate], [cross], transform=axes.get_xaxis_transform(),
                      color=style.color, marker="x", ms=8, mew=2, clip_on=False, zorder=5)


def _scale(axes: Axes, arms: list[ArmSensitivity]) -> None:
    """Put the rates on a logarithmic axis. Cut the y axis a little above the usual results where
    one rate is far worse, so that it does not flatten the others."""
    rates = sorted({p.rate for each in arms for p in each.points})
    means = np.array([p.mean for each in arms for p in each.points if p.mean is not None])
    low, high = means.min(), means.max()
    usual = np.quantile(means, 0.75)
    if high - low > 6 * max(usual - low, 1e-9):
        axes.set_ylim(low - 0.15 * (usual - low), usual + 2.5 * (usual - low))
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(FuncFormatter(lambda value, _: ""))
    axes.set_xlim(rates[0] / 1.25, rates[-1] * 1.25)
    axes.set_xlabel("learning rate")
    axes.tick_params(axis="x", colors=MUTED)


def _end(each: ArmSensitivity) -> tuple[float, float]:
    last = [p for p in each.points if p.mean is not None][-1]
    return last.rate, last.mean
