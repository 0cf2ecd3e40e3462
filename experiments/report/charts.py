"""
Curves as plain geometry: what the page draws as inline SVG and reads out at a point. This module
writes no markup.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from experiments.figures.panel import Panel, Skip
from experiments.figures.scales import Bent, NearZero, linear_part, loss_frame
from experiments.figures.series import Series, points, settled_range
from experiments.figures.style import LABELS, tick_labels
from experiments.verdicts.timing import timing

WIDTH, HEIGHT = 1000, 420        # size of the viewBox, which the page stretches
POINTS = 30_000                  # points over all lines of the page, so the file stays below 3 MB
METRICS = {"val_loss": "validation loss", "loss": "training loss",
           "difference": "minus the baseline's"}
OVER = {"iteration": "iterations", "seconds": "time", "flops": "FLOPs", "tokens": "tokens"}


@dataclass(frozen=True)
class Line:
    """One arm's curve. `number` is the arm's place in the study; it selects the colour and the
    switch. The paths are values of SVG's attribute `d`."""
    number: int
    arm: str
    path: str                    # path of the mean over seeds
    band: str                    # path from lowest to highest run; empty for a single run
    strays: tuple[str, ...]      # paths of the runs that are not complete
    x: list[float]
    y: list[float]
    dash: str = "none"           # stroke-dasharray
    down: tuple[float, ...] = () # places of y in per cent from the top, where the scale is bent


@dataclass(frozen=True)
class Chart:
    """One view: a metric over a cost, such as validation loss over tokens."""
    key: str
    metric: str
    over: str
    title: str
    x_label: str
    y_label: str
    x_ticks: list[tuple[float, str]]     # (per cent from the left, text)
    y_ticks: list[tuple[float, str]]     # (per cent from the top, text)
    lines: list[Line]
    frame: tuple[float, float, float, float]   # lowest and highest x, lowest and highest y
    zero: float | None  # the zero line of a difference, in per cent from the top
    margin: tuple[float, float] | None   # top and height of the ±margin band, in per cent


def unit_of_losses(panel: Panel) -> str:
    """Return the unit of the curves. Only logs of other programs have another than nats."""
    foreign = panel.results.foreign and panel.results.unit != "nats"
    return panel.results.unit if foreign else "nats per token"


def charts(panel: Panel) -> list[Chart]:
    """Return every view for which the runs have data, validation loss first."""
    wanted = [(metric, over) for metric in METRICS for over in OVER]
    drawn = [(metric, over, lines) for metric, over in wanted
             if (lines := _lines(panel, metric, over))]
    drawn = [each for each in drawn if each[1] != "tokens" or not _same_as_iterations(panel)]
    room = max(12, min(150, POINTS // max(1, sum(len(lines) for *_, lines in drawn))))
    return [_chart(panel, metric, over, lines, room) for metric, over, lines in drawn]


def _lines(panel: Panel, metric: str, over: str) -> dict[str, Series]:
    if over in ("seconds", "flops") and not any(run.table[over].gt(0).any()
                                                for run in panel.results.runs):
        return {}
    try:
        if metric == "difference":
            has_val = any(run.table["val_loss"].notna().any() for run in panel.results.runs)
            return panel.differences(over, "val_loss" if has_val else "loss")[0]
        return panel.lines(over, metric)
    except Skip:
        return {}


def _same_as_iterations(panel: Panel) -> bool:
    """Return whether every arm sees the same number of tokens per iteration. The view over tokens
    is then the same picture as the view over iterations."""
    rates = {round(float(last[1] / last[0]), 6) for run in panel.results.runs
             if len(rows := run.measured("iteration", "tokens")) and (last := rows[-1])[0]}
    return len(rates) <= 1


def _chart(panel: Panel, metric: str, over: str, lines: dict[str, Series], room: int) -> Chart:
    left, right = (min(line.x[0] for line in lines.values()),
                   max(line.x[-1] for line in lines.values()))
    right = right if right > left else left + 1
    low, high, scale = _scale(panel, metric, lines)
    margin = (panel.results.margin if metric == "difference" and panel.results.metric == "val_loss"
              else None)
    frame = _Frame(left, right, low, high, scale)
    xs, unit = tick_labels(over, left, right, 5)
    ys = (tick_labels("", low, high, 6)[0] if scale is None else
          [(v, f"{v:g}") for v in scale.ticks(low, high) if low <= v <= high])
    numbers = {arm: number for number, arm in enumerate(panel.arms)}
    y = LABELS.get(metric, "").partition(" (")[0] or f"loss minus {panel.baseline}'s"
    return Chart(
        key=f"{metric}-{over}", metric=metric, over=over,
        title=f"{METRICS[metric]} over {OVER[over]}",
        x_label=LABELS[over] + (f" ({unit})" if unit else "") + _busy(panel, over),
        y_label=f"{y} ({unit_of_losses(panel)}" + (f"; {scale.said})" if scale else ")"),
        x_ticks=[(frame.across(value), text) for value, text in xs],
        y_ticks=[(frame.down(value), text.replace("-", "−")) for value, text in ys],
        lines=[_line(panel, numbers[arm], arm, line, (metric, over), frame, room)
               for arm, line in lines.items()],
        frame=(float(left), float(right), float(low), float(high)),
        zero=frame.down(0.0) if metric == "difference" else None,
        margin=(frame.down(margin), frame.down(-margin) - frame.down(margin)) if margin else None)


def _scale(panel: Panel, metric: str, lines: dict[str, Series],
           ) -> tuple[float, float, Bent | NearZero | None]:
    """Return the range of the y axis, and its scale where an arm dwarfs the others; else None."""
    if metric != "difference":
        (low, high), scale = loss_frame(lines, 0.1)
        return low, high, scale
    margin = panel.results.margin if panel.results.metric == "val_loss" else 0.0
    low, high = settled_range(list(lines.values()), 0.2)
    linear = linear_part([line.y[-1] for line in lines.values()], panel.results.margin)
    return (min(low, -1.5 * margin), max(high, 1.5 * margin, 0.0),
            NearZero(linear) if linear else None)


def _busy(panel: Panel, over: str) -> str:
    """Return what the label of a time axis adds where times were measured on a busy machine."""
    busy = over == "seconds" and timing(panel.results).arms
    return ", busy machine" if busy else ""


@dataclass(frozen=True)
class _Frame:
    """The range of the data that the view shows, mapped to the page."""
    left: float
    right: float
    low: float
    high: float
    scale: Bent | NearZero | None = None

    def across(self, value: float) -> float:
        """Return the place of an x value, in per cent from the left."""
        return round(float(100 * (value - self.left) / (self.right - self.left)), 2)

    def down(self, value: float) -> float:
        """Return the place of a y value, in per cent from the top."""
        return round(float(100 * self._share(np.array([value]))[0]), 2)

    def _share(self, y: np.ndarray) -> np.ndarray:
        """Return the places of y values as shares of the height, from the top."""
        ends = np.array([self.low, self.high])
        (low, high), y = ((self.scale.place(ends), self.scale.place(y)) if self.scale
                          else (ends, y))
        return (high - y) / (high - low)

    def path(self, x: np.ndarray, y: np.ndarray, start: str = "M") -> str:
        """Return the path of a line. Values far outside are clipped at three heights beyond the
        frame, where they are hidden anyway."""
        across = WIDTH * (x - self.left) / (self.right - self.left)
        down = np.clip(HEIGHT * self._share(y), -3 * HEIGHT, 4 * HEIGHT)
        return start + " ".join(f"{a:.0f},{b:.1f}" for a, b in zip(across, down, strict=True))


def _line(panel: Panel, number: int, arm: str, line: Series, axes: tuple[str, str], frame: _Frame,
          room: int) -> Line:
    metric, over = axes
    keep = thinned(len(line.x), room)
    x, y, low, high = (values[keep] for values in (line.x, line.y, line.low, line.high))
    band = frame.path(x, high) + frame.path(x[::-1], low[::-1], "L") + "Z" if line.n > 1 else ""
    strays = []
    for run in panel.strays(arm) if metric != "difference" else ():
        xs, ys = points(run, over, metric)
        keep = thinned(len(xs), room)
        strays += [frame.path(xs[keep], ys[keep])] if len(xs) > 1 else []
    return Line(number, arm, frame.path(x, y), band, tuple(strays), _short(x), _short(y),
                down=tuple(map(frame.down, y)) if frame.scale else ())


def thinned(count: int, room: int) -> np.ndarray:
    """Return the indices of at most `room` of `count` points, evenly spaced and including the first
    and the last."""
    return (np.unique(np.linspace(0, count - 1, min(count, room)).round().astype(int)) if count
            else np.array([], int))


def _short(values: Sequence[float]) -> list[float]:
    return [float(f"{value:.5g}") for value in values]
