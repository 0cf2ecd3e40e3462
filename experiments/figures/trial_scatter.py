"""
The pictures of a comparison in which every arm is a point: quality against speed and memory.
"""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.figures.labels import shortened
from experiments.figures.panel import Skip
from experiments.figures.pictures import LOWER, RANGE, Pictures, far_text, frame, legend, tell_start
from experiments.figures.style import BASELINE, PALE, page

MANY = 24        # with more arms, only the best, the worst and the baseline have a name
EACH = 5         # ... this many of either


def speedup_quality(p: Pictures) -> Figure:
    """Draw speed against quality, relative to the baseline."""
    return _scatter(p, "tokens_per_second", p.quality, "Quality against speed")


def memory_quality(p: Pictures) -> Figure:
    """Draw memory against quality, relative to the baseline."""
    return _scatter(p, "peak_memory_mb", p.quality, "Quality against memory")


def memory_speed(p: Pictures) -> Figure:
    """Draw memory against speed, relative to the baseline."""
    return _scatter(p, "peak_memory_mb", "tokens_per_second", "Speed against memory")


AXES = {"tokens_per_second": "speed-up (times the baseline's tokens per second)",
        "peak_memory_mb": "peak memory (times the baseline's)",
        "val_loss": "validation loss (times the baseline's)",
        "final_loss": "final training loss (times the baseline's)"}


def _scatter(p: Pictures, x: str, y: str, title: str) -> Figure:
    across, up = p.ratios(x), p.ratios(y)
    shared = [arm for arm in p.trials.arms if arm in across and arm in up]
    across, up = ({arm: ratios[arm] for arm in shared} for ratios in (across, up))
    if len(shared) < 2:
        raise Skip("there is nothing to compare: one arm")
    named = _named(shared, p.trials.baseline, up)
    better = {x: "left" if x in LOWER else "right", y: "down" if y in LOWER else "up"}
    caption = (f"mark: mean over runs, paired by seed; {RANGE}; better is {better[x]} and "
               f"{better[y]}{far_text(across, up)}")
    if len(named) < len(shared):
        caption += (f"; pale: all but the {EACH} lowest and the {EACH} highest of {len(shared)} "
                    f"arms")
    figure, (axes,) = page(5.2, title, p.caption(caption + p.doubt_text([x, y])), left=1.1,
                           right=2.3, headed=False, second_line=True)
    axes.axvline(1, color=BASELINE, lw=0.8)
    axes.axhline(1, color=BASELINE, lw=0.8)
    for arm in shared:
        _point(axes, p, arm, across[arm], up[arm], pale=arm not in named)
    for name, measure in (("x", x), ("y", y)):
        note = f", {p.timing_note(measure)})".replace(", )", ")")
        axes.set(**{f"{name}label": AXES[measure].removesuffix(")") + note})
    axes.margins(0.12)
    frame(axes, "x", across)
    frame(axes, "y", up)
    for axis in (axes.xaxis, axes.yaxis):
        axis.get_major_formatter().set_useOffset(False)
    tell_start(axes, "x", "y")
    legend(axes)
    return figure


def _named(arms: list[str], baseline: str, up: dict[str, np.ndarray]) -> list[str]:
    """Return the arms that have a name: all, or the baseline and the ends where they are many."""
    if len(arms) <= MANY:
        return arms
    order = sorted((arm for arm in arms if arm != baseline), key=lambda arm: up[arm].mean())
    return [arm for arm in arms if arm == baseline or arm in order[:EACH] + order[-EACH:]]


def _point(axes: Axes, p: Pictures, arm: str, across: np.ndarray, up: np.ndarray, *,
           pale: bool) -> None:
    """Draw one arm's mean, and its range along both axes. The baseline is 1 by definition."""
    style, at = p.styles[arm], (across.mean(), up.mean())
    color = PALE if pale else style.color
    if arm != p.trials.baseline:
        axes.plot([across.min(), across.max()], [at[1]] * 2, color=color, lw=1.1, zorder=2)
        axes.plot([at[0]] * 2, [up.min(), up.max()], color=color, lw=1.1, zorder=2)
    axes.plot(*at, color=color, marker=style.marker or "o", ms=8, ls="", mec="white", mew=0.8,
              zorder=2.2 if pale else 3, label=None if pale else shortened(arm, 24))
