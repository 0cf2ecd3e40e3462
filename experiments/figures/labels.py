"""
Names at the ends of lines, so that a reader needs no legend.
"""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from experiments.figures.style import WIDTH, ArmStyle

SIZE = 9.5           # of a name, in points, where there is room
LINE = 1.35          # line height of a label, in units of its font size
GLYPH = 0.6          # mean width of a glyph, in units of the font size
LONGEST = 34         # most characters of a name that are shown


def shortened(name: str, longest: int = LONGEST) -> str:
    """Return the name, with its middle cut out where it is too long: long names tend to differ at
    the ends."""
    head = (longest - 1) // 2
    return name if len(name) <= longest else f"{name[:head]}…{name[head + 1 - longest:]}"


def font_size(count: int, height: float) -> float:
    """Return the largest font size, from 5.5 to 9.5 pt, at which `count` labels fit above each
    other in `height` inches."""
    return min(SIZE, max(5.5, 72 * height / (LINE * max(count, 1))))


def margin(names: list[str], size: float) -> float:
    """Return the inches that labels of these names need to the right of the axes, with a value
    behind the longest."""
    longest = max((len(shortened(n)) for n in names), default=0)
    return min(0.42 * WIDTH, (longest + 3) * GLYPH * size / 72 + 0.53)


def spread(wanted: np.ndarray, gap: float, low: float, high: float) -> np.ndarray:
    """Return positions near the wanted ones, in the same order, at least `gap` apart and inside
    [low, high] when they fit."""
    order = np.argsort(wanted, kind="stable")
    # Substituting p_i − i·gap turns "at least gap apart" into "non-decreasing". Neighbours that
    # violate it are pooled.
    blocks: list[list[float]] = []   # [sum, count]
    for i, k in enumerate(order):
        blocks.append([wanted[k] - i * gap, 1])
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] > blocks[-1][0] / blocks[-1][1]:
            total, count = blocks.pop()
            blocks[-1][0] += total
            blocks[-1][1] += count
    level = (np.concatenate([np.full(int(n), total / n) for total, n in blocks]) if blocks
             else np.array([]))
    top = max(low, high - gap * (len(wanted) - 1))
    placed = np.empty(len(wanted))
    placed[order] = np.clip(level, low, top) + gap * np.arange(len(wanted))
    return placed


def label_ends(axes: Axes, ends: dict[str, tuple[float, float]], styles: dict[str, ArmStyle],
               size: float) -> None:
    """Write each arm's name and marker to the right of the axes beside the end (x, y) of its line.
    Names that would overlap are moved apart; an end outside the frame gets an arrow and its
    value."""
    if not ends:
        return
    box = axes.get_position()
    height, inch = box.height * axes.figure.get_figheight(), 1 / (box.width * WIDTH)
    # the ends' heights in axes fractions, as are all places below
    on_axes = (axes.transData + axes.transAxes.inverted()).transform
    heights = np.array([on_axes((axes.get_xlim()[0], y))[1] for _, y in ends.values()])
    inside = np.clip(heights, 0, 1)
    edge = axes.get_xlim()[1]
    # ends above the frame stand above each other in the order of their values, as do those below it
    wanted = inside + 1e-6 * np.argsort(np.argsort(heights))
    for (name, end), y, off, place in zip(
            ends.items(), inside, heights - inside,
            spread(wanted, LINE * size / 72 / height, 0.0, 1.0), strict=True):
        style = styles[name]
        # a dotted line leads from the end of a line that ends early to the edge of the axes
        axes.plot([end[0], edge], [end[1]] * 2, color=style.color, lw=0.8, ls=(0, (1, 2)))
        axes.plot(1 + inch * np.array([0, 0.07, 0.2, 0.27]), [y, y, place, place],
                  transform=axes.transAxes, clip_on=False, color=style.color, lw=0.9)
        axes.plot(1 + 0.27 * inch, place, transform=axes.transAxes, clip_on=False,
                  color=style.color, ls="", marker=style.marker, ms=4.5)
        far = f" {'↑' if off > 0 else '↓'} {end[1]:.3g}".replace("-", "−") if off else ""
        axes.text(1 + 0.38 * inch, place, shortened(name) + far, transform=axes.transAxes,
                  va="center", size=size, weight="bold" if style.width > 2 else "normal")

