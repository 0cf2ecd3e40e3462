"""
The figure with one small picture per arm, all on the same axes, with the baseline behind each.
"""

from __future__ import annotations

import math

from matplotlib.figure import Figure

from experiments.figures.arm import baseline_line, draw_arm
from experiments.figures.labels import shortened
from experiments.figures.lines import titled
from experiments.figures.panel import Panel
from experiments.figures.scales import Bent, bend, loss_frame
from experiments.figures.style import MUTED, label_x, name_of, page
from experiments.verdicts.verdict import signed


def individual_grid(panel: Panel) -> Figure:
    """Draw one small picture per arm: 3 × 3 for up to nine arms, else rows of four. Cells without
    an arm stay empty, and no row is empty."""
    lines = panel.lines(panel.x, panel.metric)
    columns = 3 if len(lines) <= 9 else 4
    rows = math.ceil(len(lines) / columns)
    columns = min(columns, len(lines)) if rows == 1 else columns
    note = panel.timing_note(panel.x)
    tall = 1.75 if rows <= 4 else 1.45
    caption = panel.caption(lines, panel.metric, band=False) + _key(panel, lines)
    (low, high), scale = loss_frame(lines, 0.25)
    figure, cells = page(1.75 + tall * rows, f"{titled(panel.metric, panel.x)}, arm by arm",
                         caption, columns=(1,) * columns, rows=rows, gap=0.2, row_gap=0.42,
                         second_line=bool(note), left=0.95 if scale else 0.75, sharex=True,
                         sharey=True)
    for axes, arm in zip(cells, lines, strict=False):
        draw_arm(axes, panel, arm, {arm: lines[arm]} | baseline_line(panel, arm), width=1.6)
        axes.set_title(shortened(arm, 72 // columns), size=9.5)
        _note(axes, panel, arm)
    end = max(line.x[-1] for line in lines.values())
    for k, axes in enumerate(cells):
        axes.set_visible(k < len(lines))
        label_x(axes, panel.x, end, text=k + columns >= len(lines), ticks=4, note=note)
        axes.tick_params(labelbottom=k + columns >= len(lines))
    room = 0.14 * (scale.high - scale.low if scale else high - low)      # for the verdicts
    said = bend(cells[0], scale and Bent(scale.low - room, scale.high), low - room, high)
    figure.text(0.012, 0.5, panel.label(panel.metric) + f"\n{said}" * bool(said), rotation=90,
                va="center", ha="left", multialignment="center", size=10)
    return figure


def _note(axes, panel: Panel, arm: str) -> None:
    """Write the verdict's word and the difference in the lower left corner, below all curves."""
    verdict = panel.results.verdicts.get(arm)
    text = ""
    if verdict is not None:
        number = f" {signed(verdict.difference)}" if verdict.difference is not None else ""
        text = verdict.word + number
    axes.text(0.03, 0.05, text, transform=axes.transAxes, ha="left", va="bottom", size=8.5,
              color=MUTED)


def _key(panel: Panel, lines: dict) -> str:
    """Return the part of the caption about the thin and the black lines and the verdicts, where
    there are any."""
    seeds = "; thin: each seed" if any(line.n > 1 for line in lines.values()) else ""
    black = (f"; black: {panel.baseline}" if panel.baseline in lines and len(lines) > 1 else "")
    # the curves may be of another metric than the verdicts
    words = (f"; word and number: the verdict on the {name_of(panel.results.metric)}"
             if panel.results.verdicts else "")
    return seeds + black + words
