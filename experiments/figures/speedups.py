"""
Measured speed-up over sparsity, with the line that no amount of skipping passes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.figures.masks import SECOND, SEEN
from experiments.figures.style import MUTED, page

AGAINST = (("flash", "over torch's causal flash kernel"), ("dense", "over a dense mask"))


def tradeoff(rows: list[dict[str, Any]], how: dict[str, Any]) -> Figure:
    """The speed-up of banded attention, and of what `auto` takes, over each reference."""
    B, heads, T, size = how["shape"]
    caption = (f"forward and backward of attention alone, B = {B}, {heads} heads of {size}, on {how['device']}, "
               f"{how['threads']} threads; dot: median of {how['rounds']} interleaved rounds; bar: quartiles; labels: "
               "w/d; ideal: the pairs (query, key) of full attention over those seen, causal for flash, all T × T "
               "for the dense mask, which computes them")
    figure, panels = page(4.9, f"What sparsity saves, measured: S = {T}", caption, columns=(1, 1), gap=0.6)
    for axes, (other, title) in zip(panels, AGAINST, strict=True):
        _panel(axes, rows, other, 1.0 if other == "flash" else 2 * T / (T + 1))
        axes.set_title(title)
        axes.set_xlabel("sparsity (% of the causal triangle)")
    panels[0].set_ylabel("times as fast")
    return figure


def _panel(axes: Axes, rows: list[dict[str, Any]], other: str, pairs: float) -> None:
    """`pairs`: those that the reference computes, over the causal triangle's."""
    top = max(row["sparsity"] for row in rows) + 0.06
    x = np.linspace(0, min(top, 0.99), 100)
    axes.plot(100 * x, pairs / (1 - x), color=MUTED, ls="--", lw=1.3, label="ideal FLOPs ratio")
    axes.axhline(1, color="#000000", lw=1.0, label="as fast")
    _points(axes, rows, f"auto_over_{other}", SECOND, "s", "what auto takes", 4.5)
    _points(axes, rows, f"banded_over_{other}", SEEN, "o", "banded", 6)
    for row in rows:
        if ratio := row["measured"][f"banded_over_{other}"]:
            axes.annotate("{}/{}".format(*row["pair"]), (100 * row["sparsity"], ratio["low"]), (0, -5), size=8,
                          textcoords="offset points", ha="center", va="top", color=MUTED)
    axes.set_xlim(0, 100 * top)
    axes.set_ylim(0, None)
    axes.legend(loc="lower right", frameon=False, fontsize=8.5)


def _points(axes: Axes, rows: list[dict[str, Any]], key: str, color: str, marker: str, label: str, size: float) -> None:
    found = [row for row in rows if row["measured"][key]]
    low, middle, high = (np.array([row["measured"][key][part] for row in found]) for part in ("low", "median", "high"))
    axes.errorbar([100 * row["sparsity"] for row in found], middle, yerr=[middle - low, high - middle], color=color,
                  marker=marker, ms=size, ls="", capsize=3, lw=1.4, label=label, zorder=3)
