"""
Scales on which small effects are seen although one arm dwarfs them, and the band of the margin.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import median

import numpy as np
from matplotlib.axes import Axes
from matplotlib.scale import SymmetricalLogScale, SymmetricalLogTransform
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

from experiments.figures.style import BASELINE

DWARF = 12       # an arm this many times as far off as the others usually are hides them
NARROW = 100     # an effect this many times the margin makes the margin too narrow to see
NEAR = 5         # the linear part is at most about this many margins
BAND = "#7a7a7a"  # the edges of the margin


def dwarfing(values: Mapping[str, Sequence[float]]) -> set[str]:
    """Return the arms that are so far from the middle of all arms that neither the differences
    between the others nor the spread of their runs is seen on a scale that shows them. They are at
    most a third of the arms. `values` maps arm → the values of its runs."""
    means = {arm: float(np.mean(runs)) for arm, runs in values.items()}
    half = {arm: float(np.ptp(runs)) / 2 for arm, runs in values.items()}
    while len(means) > 2:
        middle = median(means.values())
        far = max(means, key=lambda arm: abs(means[arm] - middle))
        others = [arm for arm in means if arm != far]
        usual = max(median(abs(means[arm] - middle) for arm in others),
                    median(half[arm] for arm in others))
        if abs(means[far] - middle) <= DWARF * usual:
            break
        del means[far]
    found = set(values) - set(means)
    return found if len(found) <= len(values) / 3 else set()


def linear_part(sizes: Iterable[float], margin: float) -> float | None:
    """Return where a scale of differences turns from linear to logarithmic: at a round number near
    the usual effect, and so near the margin that the margin is seen. None where a linear scale
    shows every effect and the margin."""
    sizes = sorted(abs(size) for size in sizes)
    if not sizes:
        return None
    usual = max(margin, median(sizes[:-1]) if len(sizes) > 1 else 0.0)
    dwarf = len(sizes) > 1 and sizes[-1] > DWARF * usual
    hidden = dwarf or sizes[-1] > NARROW * margin
    return rounded_up(min(usual, NEAR * margin)) if hidden else None


def rounded_up(value: float) -> float:
    """Return the next of 1, 2, 5, 10, … times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= value * (1 - 1e-9))


def scale_differences(axes: Axes, along: str, linear: float | None, reach: float) -> str:
    """Scale the axis `along` ("x" or "y") of differences that reach up to ±`reach`; return what its
    label must say, which is nothing for a linear axis."""
    if linear is None:
        return ""
    axes.set(**{f"{along}scale": SymmetricalLogScale(None, linthresh=linear, linscale=1.0)})
    axis = getattr(axes, f"{along}axis")
    decades = range(math.ceil(math.log10(max(reach, 10 * linear) / linear)) + 1)
    ticks = [side * linear * 10.0 ** k for k in decades for side in (-1, 1)]
    axis.set_major_locator(FixedLocator(sorted([0.0, *ticks])))
    axis.set_minor_locator(FixedLocator(sorted(
        [linear * step / 10 for step in range(-9, 10)]
        + [tick * step for tick in ticks for step in range(2, 10)])))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("-", "−")))
    axis.set_minor_formatter(NullFormatter())
    return f"linear within ±{linear:g}, logarithmic beyond"


def share(half: float, low: float, high: float, linear: float | None) -> float:
    """Return the share of a scale from low to high that the band ±half takes."""
    if linear is None:
        return 2 * half / (high - low)
    places = SymmetricalLogTransform(10, linear, 1.0).transform(np.array([-half, half, low, high]))
    return float((places[1] - places[0]) / (places[3] - places[2]))


def draw_margin(axes: Axes, margin: float, *, upright: bool) -> None:
    """Draw the margin inside which arms count as equivalent, as a band around zero whose edges are
    seen where the band itself is thin. `upright`: the differences run along x."""
    span, line = (axes.axvspan, axes.axvline) if upright else (axes.axhspan, axes.axhline)
    span(-margin, margin, color=BASELINE, alpha=0.1, lw=0, zorder=1)
    for edge in (-margin, margin):
        line(edge, color=BAND, lw=0.8, ls=(0, (4, 2)), zorder=1.1)
    line(0, color=BASELINE, lw=1.2, zorder=2)
