"""
Pictures of a trained model's attention: one map per layer, one map per head, and the statistics of
every layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from experiments.figures.masks import SECOND, SEEN, small_pictures, spelled
from experiments.figures.style import MUTED, WIDTH, page

MANY = 72               # with more heads than this, one map per head is too small to read
TALLEST = 13.0          # most inches for all rows of a grid of heads
ACROSS = 8              # most layers beside each other
LEAST = 1e-4            # lowest weight on the colour scale
AXES = "the weight of each key (to the right) for each query (downwards)"
COLORS = matplotlib.colormaps["viridis"].with_extremes(bad="white")


def shows_heads(result: dict[str, Any]) -> bool:
    """Return whether one map per head is large enough to read."""
    return len(result["layers"]) * result["n_head"] <= MANY


def layer_maps(result: dict[str, Any], maps: np.ndarray) -> Figure:
    """Draw one map per layer, the mean over its heads. maps: (layers, nh, n, n)."""
    figure, cells = small_pictures(
        len(maps), f"{result['run']}: attention of each layer, mean over its heads",
        _caption(result), subtitle=AXES)
    for number, (axes, layer) in enumerate(zip(cells, maps, strict=False)):
        _map(axes, layer.mean(0), result["T"])
        axes.set_title(f"L{number}  {spelled(result['layers'][number]['pattern'], 18)}")
    _scale(figure)
    return figure


def head_maps(result: dict[str, Any], maps: np.ndarray) -> Figure:
    """Draw one map per head: one row per layer and one column per head, or the other way round for
    a model with few heads and up to ACROSS layers. maps: (layers, nh, n, n)."""
    layers, heads = maps.shape[:2]
    turned = heads < layers <= ACROSS
    names = ([f"L{number}" for number in range(layers)],
             [f"head {number}" for number in range(heads)])
    (rows, columns), gap, left, right = names[::-1] if turned else names, 0.1, 0.75, 0.25
    side = min((WIDTH - left - right - gap * (len(columns) - 1)) / len(columns), 1.9,
               TALLEST / len(rows))
    figure, cells = page(1.82 + (side + gap) * len(rows) - gap,
                         f"{result['run']}: attention of every head", _caption(result),
                         subtitle=AXES, columns=(1,) * len(columns), rows=len(rows), gap=gap,
                         row_gap=gap, left=left,
                         right=WIDTH - left - len(columns) * (side + gap) + gap)
    for number, axes in enumerate(cells):
        row, column = divmod(number, len(columns))
        _map(axes, maps[column, row] if turned else maps[row, column], result["T"])
        axes.tick_params(labelleft=False, labelbottom=False, length=0)
        if row == 0:
            axes.set_title(columns[column])
        if column == 0:
            axes.set_ylabel(rows[row])
    _scale(figure)
    return figure


def _map(axes: Axes, weights: np.ndarray, T: int) -> None:
    shown = np.ma.masked_where(weights <= 0, weights)
    axes.imshow(shown, cmap=COLORS, norm=LogNorm(LEAST, 1), extent=(0, T, T, 0),
                interpolation="nearest")
    axes.grid(False)
    axes.set_xticks([0, T // 2, T])
    axes.set_yticks([0, T // 2, T])


def _scale(figure: Figure) -> None:
    """Draw the colour scale at the top right, beside the subtitle."""
    height = figure.get_figheight()
    axes = figure.add_axes((1 - 2.1 / WIDTH, 1 - 0.34 / height, 1.7 / WIDTH, 0.1 / height))
    axes.imshow(np.geomspace(LEAST, 1, 256)[None], cmap=COLORS, norm=LogNorm(LEAST, 1),
                aspect="auto", extent=(np.log10(LEAST), 0, 0, 1))
    axes.grid(False)
    axes.set_yticks([])
    axes.set_xticks([-4, -2, 0], ["0.0001", "0.01", "1"], fontsize=8)
    axes.tick_params(length=2, pad=1)


def _caption(result: dict[str, Any]) -> str:
    return (f"mean over {result['rows']} rows of validation text of {result['T']} tokens; white: "
            f"no weight")


def statistics(result: dict[str, Any]) -> Figure:
    """Draw, by layer: entropy, distance, the share of the weight on two special keys, and the
    length of what attention adds."""
    caption = (f"dot: a head; line: the layer's mean; dashed: uniform attention over the keys that "
               f"the pattern allows. {result['queries']:,} queries in {result['rows']} rows of "
               f"validation text")
    figure, cells = page(6.4, f"{result['run']}: attention by layer", caption, columns=(1, 1),
                         rows=2, gap=0.8, row_gap=0.75)
    found = result["layers"]
    _by_head(cells[0], found, "entropy", SEEN, "a head's entropy")
    cells[0].set(title="entropy", ylabel="nats")
    _by_head(cells[1], found, "distance", SEEN, "a head's distance")
    cells[1].set(title="mean distance of the attended key", ylabel="tokens")
    _by_head(cells[2], found, "self", SEEN, "on the query's own key", uniform=False, scale=100)
    _by_head(cells[2], found, "first", SECOND, "on the first key", uniform=False, scale=100,
             shift=0.16)
    cells[2].set(title="share of the weight on two keys", ylabel="%")
    cells[2].legend(loc="best", frameon=False, fontsize=8.5)
    cells[3].plot([layer["output_over_residual"] for layer in found], color=SEEN, marker="o", ms=5)
    cells[3].set(title="|attention's output| over |the residual|", ylabel="ratio")
    for axes in cells:
        axes.set_ylim(0, None)
        axes.set_xlim(-0.5, len(found) - 0.5)
        axes.set_xticks(range(len(found)), [f"L{number}" for number in range(len(found))])
        axes.tick_params(axis="x", labelsize=9 if len(found) <= 12 else 7)
    return figure


def _by_head(axes: Axes, found: Sequence[dict[str, Any]], name: str, color: str, label: str, *,
             uniform: bool = True, scale: float = 1.0, shift: float = 0.0) -> None:
    place = np.arange(len(found)) + shift
    for x, layer in zip(place, found, strict=True):
        heads = scale * np.array(layer[name]["by_head"])
        axes.plot(np.full(len(heads), x), heads, color=color, ls="", marker="o", ms=4, alpha=0.5,
                  mew=0)
    axes.plot(place, [scale * layer[name]["mean"] for layer in found], color=color, lw=1.8,
              label=label)
    if uniform:
        axes.plot(place, [scale * layer[name]["uniform"] for layer in found], color=MUTED, ls="--",
                  lw=1.3)
