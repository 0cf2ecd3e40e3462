"""
The figure of the loss minus the baseline's loss, in which small effects become visible.
"""

from __future__ import annotations

from matplotlib.figure import Figure

from experiments.figures.labels import font_size, label_ends, margin
from experiments.figures.lines import MANY, draw_line
from experiments.figures.panel import Panel
from experiments.figures.series import settled_range
from experiments.figures.style import BASELINE, LABELS, label_x, page


def loss_minus_baseline(panel: Panel) -> Figure:
    """Draw each arm minus the baseline of the same seed, averaged over seeds. Below zero is better.
    Raises Skip where no arm can be compared."""
    lines, paired = panel.differences(panel.x, panel.metric)
    height = min(12.0, max(4.9, 2.0 + 0.155 * len(lines)))
    size = font_size(len(lines) + 1, height - 1.9)
    caption = panel.caption(lines, panel.metric, band=len(lines) <= MANY, strays=False)
    caption += (f"; grey: the margin ±{panel.results.margin:g}"
                if panel.results.metric == "val_loss" else "")
    caption += ("" if paired
                else "; files name no seed, so runs are not paired and the difference has the "
                     "noise of both")
    right = margin([*lines, panel.baseline], size)
    figure, (axes,) = page(height, panel.results.title, caption, left=0.85, right=right)
    limits = settled_range(list(lines.values()), 0.2)
    _reference(axes, panel)
    for arm, line in lines.items():
        draw_line(axes, line, panel.styles[arm], band=len(lines) <= MANY, dots=len(lines) > MANY)
    end = max(line.x[-1] for line in lines.values())
    start = min(line.x[0] for line in lines.values())
    axes.set_xlim(start, end if end > start else start + 1)   # one log point so far
    axes.set_ylim(min(limits[0], -1.5 * panel.results.margin),
                  max(limits[1], 1.5 * panel.results.margin))
    label_x(axes, panel.x, end, ticks=7)
    what = LABELS[panel.metric].partition(" (")[0]
    axes.set_ylabel(f"{what} minus {panel.baseline}'s (nats)")
    axes.set_title("below zero: better than the baseline")
    ends = ({arm: (line.x[-1], line.y[-1]) for arm, line in lines.items()}
            | {panel.baseline: (end, 0.0)})
    label_ends(axes, ends, panel.styles, size, dots=len(lines) > MANY)
    return figure


def _reference(axes, panel: Panel) -> None:
    """Draw the zero line, and the margin inside which arms count as equivalent."""
    axes.axhline(0, color=BASELINE, lw=1.6, zorder=2)
    if panel.results.metric == "val_loss":   # a margin in another unit has no place on this axis
        axes.axhspan(-panel.results.margin, panel.results.margin, color=BASELINE, alpha=0.06, lw=0,
                     zorder=1)
