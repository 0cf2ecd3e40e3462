"""
Scales on which small effects and close curves are seen although one arm dwarfs them, and the band
of the margin.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from matplotlib.axes import Axes
from matplotlib.scale import SymmetricalLogScale, SymmetricalLogTransform
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter

from experiments.figures.series import Series, settled_range
from experiments.figures.style import BASELINE

DWARF = 12       # an arm this many times as far off as the others usually are hides them
NARROW = 100     # an effect this many times the margin makes the margin too narrow to see
NEAR = 5         # the linear part is at most about this many margins
BAND = "#7a7a7a"  # the edges of the margin
WIDE = 1.5       # arms that dwarf the others matter where they widen the scale by this factor
BEND = 0.1       # how fast a bent scale turns logarithmic, as a share of its linear part


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
    ticks = NearZero(linear).ticks(-10 * max(reach, linear), 10 * max(reach, linear))
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_minor_locator(FixedLocator(sorted(
        [linear * step / 10 for step in range(-9, 10)]
        + [tick * step for tick in ticks if tick for step in range(2, 10)])))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("-", "−")))
    axis.set_minor_formatter(NullFormatter())
    return NearZero(linear).said


@dataclass(frozen=True)
class Bent:
    """A scale of losses that is linear from `low` to `high` and logarithmic beyond."""
    low: float
    high: float

    @property
    def said(self) -> str:
        """What the label of the axis must say."""
        return f"linear from {self.low:.3g} to {self.high:.3g}, logarithmic beyond"

    def place(self, values: Sequence[float] | np.ndarray) -> np.ndarray:
        """Return the places of values on the scale. Inside the linear part they are the values."""
        values, unit = np.asarray(values, float), BEND * (self.high - self.low)
        above, below = np.maximum(values - self.high, 0), np.maximum(self.low - values, 0)
        return (np.clip(values, self.low, self.high)
                + unit * (np.log1p(above / unit) - np.log1p(below / unit)))

    def value(self, places: Sequence[float] | np.ndarray) -> np.ndarray:
        """Return the values at places of the scale."""
        places, unit = np.asarray(places, float), BEND * (self.high - self.low)
        above, below = np.maximum(places - self.high, 0), np.maximum(self.low - places, 0)
        return (np.clip(places, self.low, self.high)
                + unit * (np.expm1(above / unit) - np.expm1(below / unit)))

    def ticks(self, low: float, high: float) -> list[float]:
        """Return round values for an axis from low to high: some in the linear part, and up to two
        beyond each of its ends."""
        inside = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(self.low, self.high)
        return [*self._beyond(self.low, low), *(t for t in inside if self.low <= t <= self.high),
                *self._beyond(self.high, high)]

    def _beyond(self, edge: float, end: float) -> list[float]:
        places = self.place([edge, end])
        if not self.low <= end <= self.high and abs(places[1] - places[0]) > 0.1 * (
                self.high - self.low):
            values = self.value(np.linspace(*places, 3)[1:])
            steps = 10.0 ** np.floor(np.log10(np.abs(values - edge)))
            return [float(np.trunc(value / step) * step) for value, step in
                    zip(values, steps, strict=True)]
        return []


def bent(whole: tuple[float, float], near: tuple[float, float]) -> Bent | None:
    """Return the scale that shows the range `near` although the axis covers `whole`; None where a
    linear axis shows both."""
    return Bent(*near) if whole[1] - whole[0] > WIDE * (near[1] - near[0]) else None


def loss_frame(lines: Mapping[str, Series],
               share: float) -> tuple[tuple[float, float], Bent | None]:
    """Return the limits of an axis of losses without the first `share` of the runs, and its scale
    where arms dwarf the others so much that a linear axis flattens these; else None."""
    whole = settled_range(list(lines.values()), share)
    far = dwarfing({arm: line.ends for arm, line in lines.items()})
    near = settled_range([line for arm, line in lines.items() if arm not in far], share)
    return whole, bent(whole, near)


def bend(axes: Axes, scale: Bent | None, low: float, high: float) -> str:
    """Set the y axis from low to high on a scale; return what its label must say, which is nothing
    for a linear axis (None)."""
    if scale is not None:
        axes.set_yscale("function", functions=(scale.place, scale.value))
        axes.yaxis.set_major_locator(FixedLocator(scale.ticks(low, high)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.6g}"))
    axes.set_ylim(low, high)
    return scale.said if scale is not None else ""


@dataclass(frozen=True)
class NearZero:
    """A scale of differences that is linear within ±`linear` and logarithmic beyond, for a page
    that draws its own axes."""
    linear: float

    @property
    def said(self) -> str:
        """What the label of the axis must say."""
        return f"linear within ±{self.linear:g}, logarithmic beyond"

    def place(self, values: Sequence[float] | np.ndarray) -> np.ndarray:
        """Return the places of values on the scale."""
        return SymmetricalLogTransform(10, self.linear, 1.0).transform(np.asarray(values, float))

    def ticks(self, low: float, high: float) -> list[float]:
        """Return 0 and the powers of ten times ±`linear` that are between low and high."""
        decades = range(math.ceil(math.log10(max(-low, high, 10 * self.linear) / self.linear)) + 1)
        ticks = sorted([0.0, *(side * self.linear * 10.0 ** k for k in decades
                               for side in (-1, 1))])
        return [tick for tick in ticks if low <= tick <= high]


def share(half: float, low: float, high: float, linear: float | None) -> float:
    """Return the share of a scale from low to high that the band ±half takes."""
    if linear is None:
        return 2 * half / (high - low)
    places = NearZero(linear).place([-half, half, low, high])
    return float((places[1] - places[0]) / (places[3] - places[2]))


def draw_margin(axes: Axes, margin: float, *, upright: bool) -> None:
    """Draw the margin inside which arms count as equivalent, as a band around zero whose edges are
    seen where the band itself is thin. `upright`: the differences run along x."""
    span, line = (axes.axvspan, axes.axvline) if upright else (axes.axhspan, axes.axhline)
    span(-margin, margin, color=BASELINE, alpha=0.1, lw=0, zorder=1)
    for edge in (-margin, margin):
        line(edge, color=BAND, lw=0.8, ls=(0, (4, 2)), zorder=1.1)
    line(0, color=BASELINE, lw=1.2, zorder=2)
