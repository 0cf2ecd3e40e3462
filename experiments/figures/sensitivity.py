"""
The figure of the metric over the learning rate, with each arm's own best rate.
"""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator
from matplotlib.transforms import ScaledTranslation

from experiments.figures.labels import font_size, label_ends, margin
from experiments.figures.panel import NotDeclared, Panel, Skip
from experiments.figures.scales import Bent, bend, bent, dwarfing
from experiments.figures.style import MUTED, WIDTH, name_of, page, study_text
from experiments.verdicts.sensitivity import ArmSensitivity


def learning_rates(panel: Panel) -> Figure:
    """Draw one line per arm over its grid: mean and spread over seeds, a star at the best rate, and
    a cross where a seed diverged. Raises Skip where no arm has two rates with a result, and
    NotDeclared where the study has no grid."""
    found = panel.results.sensitivity
    if not found:
        raise NotDeclared("the study declares no learning-rate grid")
    arms = [each for each in found.arms if any(p.mean is not None for p in each.points)]
    if not any(len(each.points) > 1 for each in arms):
        raise Skip("no arm has two rates with a result")
    diverged = any(point.diverged for each in arms for point in each.points)
    caption = (f"{study_text(panel.results.name)}point: mean over seeds; bar: one standard "
               f"deviation over seeds; star: the arm's best rate, chosen on "
               f"seeds {_seeds(found.selection_seeds)} alone and judged on seeds "
               f"{_seeds(found.judging_seeds)}, so it need not be the lowest point"
               + "; cross above the frame: a seed diverged at that rate" * diverged
               + ". Verdicts at these rates: ")
    caption += " ".join(_judged(each) for each in arms if each.verdict)
    height = max(4.9, 2.2 + 0.2 * len(arms))
    size = font_size(len(arms), height - 1.9)
    scale = bent(*_ranges(arms))
    figure, (axes,) = page(height, f"{name_of(found.metric).capitalize()} over the learning rate",
                           caption, left=1.0 if scale else 0.85, above=0.25,
                           right=margin([each.arm for each in arms], size), headed=diverged)
    crosses = [each.arm for each in arms if any(point.diverged for point in each.points)]
    for each in arms:
        aside = crosses.index(each.arm) - (len(crosses) - 1) / 2 if each.arm in crosses else 0.0
        _line(axes, panel, each, aside)
    said = _scale(axes, arms, scale)
    axes.set_ylabel(f"{name_of(found.metric)} ({found.unit})" + f"\n{said}" * bool(said))
    _key(figure, diverged)
    label_ends(axes, {each.arm: _end(each) for each in arms}, panel.styles, size)
    return figure


def _seeds(seeds: tuple[int, ...]) -> str:
    return ", ".join(map(str, seeds)) or "none"


def _judged(each: ArmSensitivity) -> str:
    rate = f" at {each.best.rate:g}" if each.best else ""
    return (f"{each.arm}{rate}: "
            f"{each.verdict.word}{' (at the edge of its grid)' if each.at_edge else ''}.")


def _line(axes: Axes, panel: Panel, each: ArmSensitivity, aside: float) -> None:
    """Draw one arm. Its crosses stand above the frame, `aside` crosses to the right of their rate,
    so that those of several arms do not overlap."""
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
            above = ScaledTranslation(aside / 8, 0.1, axes.figure.dpi_scale_trans)   # inches
            axes.plot([point.rate], [1.0], transform=axes.get_xaxis_transform() + above,
                      color=style.color, marker="x", ms=7, mew=2, clip_on=False, zorder=5)


def _key(figure: Figure, diverged: bool) -> None:
    """Draw the key of the marks below the title."""
    marks = [(Line2D([], [], color=MUTED, marker="o", ms=5), "mean over seeds"),
             (Line2D([], [], color=MUTED, ls="", marker="*", ms=12), "an arm's best rate")]
    if diverged:
        marks.append((Line2D([], [], color=MUTED, ls="", marker="x", ms=7, mew=2),
                      "a seed diverged"))
    figure.legend(*zip(*marks, strict=True), loc="upper left", ncols=len(marks), frameon=False,
                  bbox_to_anchor=(0.05 / WIDTH, 1 - 0.34 / figure.get_figheight()), fontsize=8.5)


def _ranges(arms: list[ArmSensitivity]) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return the range of all means, and the range of the usual ones: without arms that dwarf the
    others and without rates that are far worse."""
    means = {each.arm: [p.mean for p in each.points if p.mean is not None] for each in arms}
    far = dwarfing({arm: [min(values)] for arm, values in means.items()})
    usual = np.array([value for arm, values in means.items() if arm not in far for value in values])
    every = np.concatenate(list(means.values()))
    low, middle = usual.min(), np.quantile(usual, 0.75)
    worse = usual.max() - low > 6 * max(middle - low, 1e-9)
    high = middle + 1.5 * (middle - low) if worse else usual.max()
    room = 0.08 * (high - low) or 0.01
    return (every.min() - room, every.max() + room), (low - room, high + room)


def _scale(axes: Axes, arms: list[ArmSensitivity], scale: Bent | None) -> str:
    """Put the rates on a logarithmic axis, and scale the metric; return what its label must say."""
    rates = sorted({p.rate for each in arms for p in each.points})
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(FuncFormatter(lambda value, _: ""))
    axes.set_xlim(rates[0] / 1.25, rates[-1] * 1.25)
    axes.set_xlabel("learning rate")
    axes.tick_params(axis="x", colors=MUTED)
    return bend(axes, scale, *_ranges(arms)[0]) if scale else ""


def _end(each: ArmSensitivity) -> tuple[float, float]:
    last = [p for p in each.points if p.mean is not None][-1]
    return last.rate, last.mean
