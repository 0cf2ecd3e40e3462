"""
The figure of measured speed-up over sparsity, with the line of the ideal speed-up.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.figures.masks import SECOND, SEEN
from experiments.figures.style import BASELINE, MUTED, page

AGAINST = (("flash", "over torch's causal flash kernel"), ("dense", "over a dense mask"))


def tradeoff(rows: list[dict[str, Any]], how: dict[str, Any]) -> Figure:
    """Draw the speed-up of banded attention, and of what `auto` takes, over each reference."""
    B, heads, T, size = how["shape"]
    caption = (f"forward and backward of attention alone, B = {B}, {heads} heads of {size}, on "
               f"{how['device']}, torch threads: {how['threads']}; mark: median of "
               f"{how['rounds']} interleaved rounds; bar: quartiles; labels: w/d; ideal: the pairs "
               "(query, key) that the reference computes, divided by those seen. Flash computes "
               "the causal triangle, the dense mask all S × S")
    figure, panels = page(5.2, f"What sparsity saves, measured: S = {T}", caption, columns=(1, 1),
                          gap=0.6)
    for axes, (other, title) in zip(panels, AGAINST, strict=True):
        _panel(axes, rows, other, 1.0 if other == "flash" else 2 * T / (T + 1))
        axes.set_title(title)
        axes.set_xlabel("sparsity (% of the causal triangle)")
    panels[0].set_ylabel("times as fast")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="upper right", ncols=3,
                  frameon=False, fontsize=9, borderaxespad=0.7)
    return figure


def _panel(axes: Axes, rows: list[dict[str, Any]], other: str, pairs: float) -> None:
    """Draw one reference. `pairs` is the number of pairs that the reference computes, divided by
    the causal triangle's."""
    most = max(row["sparsity"] for row in rows)
    end = most + 0.15 * (1 - most)
    x = np.linspace(0, end, 100)
    axes.plot(100 * x, pairs / (1 - x), color=MUTED, ls="--", lw=1.3, label="ideal FLOPs ratio")
    axes.axhline(1, color=BASELINE, lw=1.0)
    _points(axes, rows, f"banded_over_{other}", color=SEEN, marker="o", ms=5.5, label="banded",
            zorder=3)
    _points(axes, rows, f"auto_over_{other}", color=SECOND, marker="s", ms=9, mfc="none",
            label="what auto takes", zorder=2)
    top = max(pairs / (1 - end), axes.get_ylim()[1])
    axes.set_xlim(0, 100 * end)
    axes.set_ylim(0, 1.32 * top)
    _names(axes, rows, other)


def _names(axes: Axes, rows: list[dict[str, Any]], other: str) -> None:
    """Write each w/d at the top, with a line down to its point. Neighbours stand at four different
    heights."""
    for number, row in enumerate(sorted(rows, key=lambda row: row["sparsity"])):
        x, height = 100 * row["sparsity"], 0.97 - 0.05 * (number % 4)
        found = row["measured"][f"banded_over_{other}"] or row["measured"][f"auto_over_{other}"]
        if found:
            foot = found["high"] / axes.get_ylim()[1]
            axes.plot([x, x], [foot, height - 0.025], transform=axes.get_xaxis_transform(),
                      color=MUTED, lw=0.6, ls=(0, (1, 2)), zorder=1)
        axes.text(x, height, "{}/{}".format(*row["pair"]), transform=axes.get_xaxis_transform(),
                  size=8, ha="center", va="center", color=MUTED,
                  bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6})


def _points(axes: Axes, rows: list[dict[str, Any]], key: str, **style: Any) -> None:
    found = [row for row in rows if row["measured"][key]]
    low, middle, high = (np.array([row["measured"][key][part] for row in found])
                         for part in ("low", "median", "high"))
    axes.errorbar([100 * row["sparsity"] for row in found], middle,
                  yerr=[middle - low, high - middle], ls="", capsize=3, lw=1.4, **style)
