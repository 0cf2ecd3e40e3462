"""
Turn runs into lines: the mean of an arm over its seeds, its band, and its difference from the
baseline.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from experiments.records.runs import RecordedRun

SMOOTH = 30   # a training curve is averaged over windows of about 1/SMOOTH of its points


@dataclass(frozen=True)
class Series:
    """A line with its band. Arrays are (points,); low and high are the lowest and the highest value
    over the n runs."""
    x: np.ndarray
    y: np.ndarray
    low: np.ndarray
    high: np.ndarray
    n: int

    @property
    def ends(self) -> list[float]:
        """The lowest, the mean and the highest value at the end of the line."""
        return [float(values[-1]) for values in (self.low, self.y, self.high)]


def points(run: RecordedRun, x: str, y: str) -> tuple[np.ndarray, np.ndarray]:
    """Return one run's curve (x, y), each (points,), where both columns were measured. The training
    loss is smoothed."""
    xs, values = run.measured(x, y).T
    if y == "loss" and (size := window(len(values))) > 1:
        values = pd.Series(values).rolling(size, center=True, min_periods=1).mean().to_numpy()
    return xs, values


def window(points: int) -> int:
    """Return the number of rows over which a training loss is averaged: odd, and 1 for a short
    curve."""
    return 2 * (points // SMOOTH // 2) + 1


def mean(curves: Sequence[tuple[np.ndarray, np.ndarray]]) -> Series | None:
    """Return the mean and the range of several curves over the part of x that all of them cover;
    None where there is no such part."""
    curves = [(x, y) for x, y in curves if len(x)]
    if not curves:
        return None
    start, end = max(x[0] for x, _ in curves), min(x[-1] for x, _ in curves)
    grid = max((x for x, _ in curves), key=len)
    grid = grid[(grid >= start) & (grid <= end)]
    if not len(grid):
        return None
    ys = np.stack([np.interp(grid, x, y) for x, y in curves])   # (runs, points)
    return Series(grid, ys.mean(0), ys.min(0), ys.max(0), len(curves))


def difference(arm: Sequence[RecordedRun], baseline: Sequence[RecordedRun], x: str,
               y: str) -> tuple[Series | None, bool]:
    """Return arm − baseline, each seed minus the same seed, and whether runs were paired by seed.
    Runs whose files name no seed are not paired."""
    other = {run.seed: run for run in baseline}
    paired = [run.seed is not None for run in arm if run.seed in other]
    curves = []
    for run in arm:
        if run.seed not in other:
            continue
        (xa, ya), (xb, yb) = points(run, x, y), points(other[run.seed], x, y)
        if len(xa) and len(xb):
            inside = (xa >= xb[0]) & (xa <= xb[-1])
            curves.append((xa[inside], ya[inside] - np.interp(xa[inside], xb, yb)))
    return mean(curves), bool(paired) and all(paired)


def from_mean(arm: Sequence[RecordedRun], baseline: Sequence[RecordedRun], x: str,
              y: str) -> Series | None:
    """Return each run of an arm minus the mean of the baseline's runs, which no seed pairs; None
    where they have no part of x in common."""
    base = mean([points(run, x, y) for run in baseline])
    curves = []
    for run in arm if base is not None else ():
        at, values = points(run, x, y)
        inside = (at >= base.x[0]) & (at <= base.x[-1])
        curves.append((at[inside], values[inside] - np.interp(at[inside], base.x, base.y)))
    return mean(curves)


def settled_range(series: Sequence[Series], share: float = 0.15,
                  pad: float = 0.06) -> tuple[float, float] | None:
    """Return y-limits that leave out the first drop: they cover everything after the first `share`
    of the x range. None where there is nothing to cover."""
    parts = []
    for s in series:
        late = s.x >= s.x[0] + share * (s.x[-1] - s.x[0])
        parts += [s.low[late], s.high[late]]
    values = np.concatenate(parts) if parts else np.array([])
    if not len(values):
        return None
    low, high = float(values.min()), float(values.max())
    room = pad * (high - low) or 0.01 * abs(high) or 0.01
    return low - room, high + room
