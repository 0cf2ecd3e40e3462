"""
Pictures of the keys that a query sees: for pairs of window and dilation, and for a schedule layer
by layer.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from experiments.figures import save
from experiments.figures.labels import shortened
from experiments.figures.style import MUTED, RC, WIDTH, page
from mingpt.patterns.kinds import Pattern, parse_pattern

SEEN, HIDDEN, SECOND = "#0072B2", "#e4e4e4", "#D55E00"     # blue, grey, orange
SHARE = LinearSegmentedColormap.from_list("share", [HIDDEN, SEEN])
KEY = "blue: keys that are seen; grey: earlier keys that are not; white: later ones"
ACROSS = 4       # small pictures per row
CELLS = 256      # most cells per side of a small picture; a cell of several pairs shows the share


def draw(figure: Callable[[], Figure], stem: Path) -> Path:
    """Draw in the project's style, write STEM.png, and return its path."""
    with rc_context(RC):
        return save(figure(), stem, ("png",))[0]


def shares(pattern: Pattern, T: int, cells: int = CELLS) -> np.ndarray:
    """Return (n, n), n at most `cells`: the share of each cell's causal pairs that is seen, NaN
    where a cell has none."""
    cell = -(-T // cells)
    n = -(-T // cell)
    out = np.full((n, n), np.nan)
    for row in range(n):
        start, stop = row * cell, min((row + 1) * cell, T)
        causal = np.arange(stop) <= np.arange(start, stop)[:, None]
        edges = np.arange(0, stop, cell)
        pairs = np.add.reduceat(causal.sum(0), edges)
        out[row, :len(edges)] = np.add.reduceat(pattern.rows(start, stop).sum(0), edges) / pairs
    return out


def draw_mask(axes: Axes, pattern: Pattern, T: int, cells: int = CELLS) -> None:
    """Draw a pattern, with queries downwards and keys to the right."""
    axes.imshow(shares(pattern, T, cells), cmap=SHARE, vmin=0, vmax=1, extent=(0, T, T, 0))
    axes.grid(False)
    axes.set_xticks([0, T // 2, T])
    axes.set_yticks([0, T // 2, T])


def comparison(rows: list[dict[str, Any]]) -> Figure:
    """Draw the patterns of several pairs side by side."""
    T = rows[0]["T"]
    figure, cells = small_pictures(
        len(rows), f"Windows with dilated links at S = {T}, and the share of the causal "
                   "triangle that they leave out",
        KEY + "; w: keys of the window, including the query's own; d: every d-th key beyond the "
              "window")
    for axes, row in zip(cells, rows, strict=False):
        draw_mask(axes, parse_pattern(row["layers"][0]["pattern"]), T)
        w, d = row["pair"]
        axes.set_title(f"w {w}, d {d}: {row['sparsity']:.1%}")
    return figure


def layers(row: dict[str, Any]) -> Figure:
    """Draw the mask of every layer of a schedule."""
    title = (f"{row['title']}: what each layer sees at S = {row['T']}; sparsity "
             f"{row['sparsity']:.1%}")
    figure, cells = small_pictures(len(row["layers"]), title, KEY)
    for number, (axes, layer) in enumerate(zip(cells, row["layers"], strict=False)):
        draw_mask(axes, parse_pattern(layer["pattern"]), row["T"])
        share = f": {layer['sparsity']:.1%}" if layer["sparsity"] else ""
        axes.set_title(f"L{number}  {spelled(layer['pattern'], 12)}{share}")
    return figure


def spelled(pattern: str, longest: int) -> str:
    """Return a pattern's name for the title of a picture, at most `longest` characters."""
    return "full" if pattern == "f" else shortened(pattern, longest)


def small_pictures(count: int, title: str, caption: str,
                   subtitle: str = "") -> tuple[Figure, list[Axes]]:
    """Return a page of square pictures, ACROSS per row, with ticks at the edges only. Cells without
    a picture are hidden."""
    down, across = -(-count // ACROSS), min(count, ACROSS)
    left, right, gap, row_gap = 0.75, 0.25, 0.28, 0.36
    side = (WIDTH - left - right - gap * (ACROSS - 1)) / ACROSS
    height = (1.82 if subtitle else 1.6) + side * down + row_gap * (down - 1)
    figure, cells = page(height, title, caption, subtitle=subtitle, columns=(1,) * across,
                         rows=down, left=left,
                         right=WIDTH - left - across * side - (across - 1) * gap,
                         gap=gap, row_gap=row_gap)
    for number, axes in enumerate(cells):
        axes.set_visible(number < count)
        axes.tick_params(labelleft=number % across == 0, labelbottom=number + across >= count)
    cells[0].set_ylabel("query")
    cells[min(count, across * (down - 1) + 1) - 1].set_xlabel("key")
    return figure, cells


def one_pair(row: dict[str, Any], how: dict[str, Any] | None) -> Figure:
    """Draw one pair's pattern, large, beside the number of keys that each query sees."""
    T, pattern = row["T"], parse_pattern(row["layers"][0]["pattern"])
    w, d = row["pair"]
    figure, (left, right) = page(
        5.6, f"Window {w}, every {d}th key beyond it, S = {T}: {row['sparsity']:.1%} of the "
             "causal triangle left out",
        KEY, subtitle=measured_line(row, how), columns=(1.25, 1), gap=0.75)
    draw_mask(left, pattern, T, cells=512)
    left.set_title("which keys a query sees")
    left.set_xlabel("key")
    left.set_ylabel("query")
    query = np.arange(T)
    right.plot(query, query + 1, color=MUTED, lw=1.4)
    right.plot(query, pattern.keys_per_query(T), color=SEEN, lw=2.2)
    right.annotate("full", (0.62 * T, 0.62 * T), (-8, 2), textcoords="offset points", ha="right",
                   color=MUTED)
    mean = row["keys_per_query"]["mean"]
    right.set_title(f"keys per query: mean {mean:.1f}, most {row['keys_per_query']['max']}")
    right.set_xlabel("query")
    right.set_xlim(0, T)
    right.set_ylim(0, T)
    return figure


def measured_line(row: dict[str, Any], how: dict[str, Any] | None) -> str:
    """Return one line with the measured speed-ups, or one that says they were not measured."""
    if how is None:
        return "Speed-up not measured."
    parts = []
    for key, other in (("banded_over_flash", "causal flash's"),
                       ("banded_over_dense", "a dense mask's")):
        if ratio := row["measured"][key]:
            parts.append(f"{ratio['median']:.2f}× {other} ({ratio['low']:.2f} to "
                         f"{ratio['high']:.2f})")
    return (f"Measured speed of banded attention, forward and backward: {', '.join(parts)}; the "
            f"pairs seen would allow {row['ideal_speedup']:.2f}× flash's. Median and quartiles of "
            f"{how['rounds']} rounds, {how['device']}.")


def reach(row: dict[str, Any]) -> Figure:
    """Draw how far back each layer looks, and how far back all layers up to it look together."""
    found, T = row["layers"], row["T"]
    title = f"{row['title']}: how far back each layer looks at S = {T}"
    figure, (axes,) = page(4.4, title,
                           "bar: the farthest key that a query sees in the layer; line: how far "
                           "back the last query depends on the text, through all layers up to this "
                           "one")
    place = np.arange(len(found))
    bars = axes.bar(place, [layer["reach"] for layer in found], color=SEEN, width=0.7,
                    label="this layer", zorder=2)
    axes.bar_label(bars, fontsize=8.5, color=MUTED, padding=5)
    axes.plot(place, [layer["receptive_field"]["farthest"] for layer in found], color=SECOND,
              marker="o", ms=5, label="all layers so far", zorder=3)
    axes.set_xticks(place, [f"L{number}\n{spelled(layer['pattern'], max(3, 100 // len(found)))}"
                            for number, layer in enumerate(found)])
    axes.tick_params(axis="x", labelsize=9 if len(found) <= 12 else 7)
    axes.grid(axis="x", visible=False)
    axes.set_ylabel("tokens back")
    axes.set_ylim(0, 1.15 * max(1, *(layer["receptive_field"]["farthest"] for layer in found)))
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, frameon=False,
                borderaxespad=0.2)
    return figure
